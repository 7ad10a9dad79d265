//! Tests of what a bundle must hold.

use safetensors::{serialize, tensor::TensorView};

use super::*;

const LABELS_TEXT: &str = "cat\ndog\n";

/// The tensors of a network of `classes`, all zero, after `edit`.
fn weights(classes: usize, edit: impl FnOnce(&mut Vec<(String, Vec<usize>, Dtype)>)) -> Vec<u8> {
    let mut tensors =
        Architecture::ResNet18.network(classes).tensors().into_iter().map(|(n, s)| (n, s, Dtype::F16)).collect();
    edit(&mut tensors);
    let zeros = vec![0; 8 * 512 * 512 * 9];
    let views = tensors.iter().map(|(name, shape, dtype)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.as_str(), TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).unwrap())
    });
    serialize(views, None).unwrap()
}

fn card(weights: &[u8]) -> String {
    format!(
        "name = \"m\"\ninput = 64\nresize = 64\nmean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]\n\
         sha256 = \"{}\"\nsource = \"s\"\nlicence = \"MIT\"\n",
        hex::encode(sha2::Sha256::digest(weights))
    )
}

fn error(labels: &str, weights: &[u8]) -> String {
    parse(&card(weights), labels, weights).unwrap_err().to_string()
}

#[test]
fn a_right_bundle_passes() {
    let bytes = weights(2, |tensors| tensors.push(("bn1.num_batches_tracked".into(), vec![], Dtype::I64)));
    let card = card(&bytes);
    check_digest(&card, &bytes).unwrap();
    let parts = parse(&card, "\u{feff}cat\r\n dog \r\n", &bytes).unwrap();
    assert_eq!(parts.labels, ["cat", "dog"]);
    assert_eq!((parts.card.input, parts.card.top1), (64, None));
    assert_eq!(parts.card.architecture, Architecture::ResNet18);
}

#[test]
fn other_weights_than_the_card_means_are_refused() {
    let bytes = weights(2, |_| {});
    let card = card(&bytes);
    let mut other = bytes;
    *other.last_mut().unwrap() = 1;
    let message = check_digest(&card, &other).unwrap_err().to_string();
    assert!(message.starts_with("weights.safetensors has SHA-256 "), "{message}");
}

#[test]
fn numbers_that_make_nonsense_are_refused_by_their_tensor() {
    for (dtype, bad) in [
        (Dtype::F32, &f32::NAN.to_le_bytes()[..]),
        (Dtype::F32, &f32::NEG_INFINITY.to_le_bytes()),
        (Dtype::F16, &0x7c00u16.to_le_bytes()),
        (Dtype::BF16, &0xff80u16.to_le_bytes()),
    ] {
        let mut bytes = weights(2, |tensors| tensors.iter_mut().for_each(|tensor| tensor.2 = dtype));
        let parsed = |bytes: &[u8]| parse(&card(b""), LABELS_TEXT, bytes).unwrap().check_numbers();
        parsed(&bytes).unwrap();
        let at = bytes.len() - bad.len();
        bytes[at..].copy_from_slice(bad);
        let message = parsed(&bytes).unwrap_err().to_string();
        assert!(message.contains(" has an infinity or what is not a number"), "{dtype:?}: {message}");
    }

    // -0.5 as f16.
    assert_eq!([0xb800, 0x3c00, 0x0400, 0x0001].map(widened), [-0.5, 1.0, 2f32.powi(-14), 2f32.powi(-24)]);
    let mut bytes = weights(2, |tensors| tensors.retain(|tensor| tensor.0.ends_with("bn1.running_var")));
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&0xb800u16.to_le_bytes());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let parts = Parts { card: parse_card(&card(b"")).unwrap(), labels: vec!["cat".to_owned()], tensors };
    let message = parts.check_numbers().unwrap_err().to_string();
    assert!(message.contains("bn1.running_var has a variance below 0"), "{message}");
}

#[test]
fn messages_name_the_tensor() {
    let missing = weights(2, |tensors| tensors.retain(|t| t.0 != "layer3.0.downsample.1.running_var"));
    assert_eq!(
        error(LABELS_TEXT, &missing),
        "weights.safetensors has no tensor layer3.0.downsample.1.running_var, which torchvision's ResNet-18 has"
    );
    let added = weights(2, |tensors| tensors.push(("layer1.2.conv1.weight".into(), vec![1], Dtype::F32)));
    assert_eq!(
        error(LABELS_TEXT, &added),
        "weights.safetensors has a tensor layer1.2.conv1.weight, which torchvision's ResNet-18 does not have"
    );
    let small = weights(2, |tensors| tensors[0].1 = vec![64, 3, 3, 3]);
    assert_eq!(
        error(LABELS_TEXT, &small),
        "weights.safetensors: tensor conv1.weight has shape [64, 3, 3, 3], but torchvision's ResNet-18 has \
         [64, 3, 7, 7]"
    );
    let double = weights(2, |tensors| tensors[0].2 = Dtype::F64);
    assert_eq!(
        error(LABELS_TEXT, &double),
        "weights.safetensors: tensor conv1.weight has type F64; f32, f16 and bf16 are read"
    );
    let deeper = format!("architecture = \"resnet34\"\n{}", card(&weights(2, |_| {})));
    assert_eq!(
        parse(&deeper, LABELS_TEXT, &weights(2, |_| {})).unwrap_err().to_string(),
        "weights.safetensors has no tensor layer1.2.conv1.weight, which torchvision's ResNet-34 has"
    );
    assert!(error(LABELS_TEXT, b"not safetensors").starts_with("weights.safetensors is not a safetensors file: "));
}

#[test]
fn labels_fit_the_last_layer() {
    let bytes = weights(2, |_| {});
    assert_eq!(
        error("cat\n", &bytes),
        "labels.txt has 1 labels, but the last layer, fc.weight in weights.safetensors, has 2 rows"
    );
    assert_eq!(error("cat\n\ndog\n", &bytes), "labels.txt line 2: is empty; every line is a label");
    assert_eq!(error("cat\nd\u{7}g\n", &bytes), "labels.txt line 2: has control characters");
    assert_eq!(error("cat\ngod\u{202e}\n", &bytes), "labels.txt line 2: has characters that turn the order of others");
}

#[test]
fn cards_are_checked() {
    let good = card(b"");
    for (from, to, message) in [
        ("input = 64", "input = 8", "model.toml: input is 8; it must be 32 to 1024 pixels"),
        ("resize = 64", "resize = 63", "model.toml: resize is 63; it must be at least input and at most 4096 pixels"),
        ("[0.2, 0.2, 0.2]", "[0.2, 0.0, 0.2]", "model.toml: std must be three numbers of 0.000001 or more"),
        ("[0.2, 0.2, 0.2]", "[0.2, 1e-30, 0.2]", "model.toml: std must be three numbers of 0.000001 or more"),
        ("\"m\"", "\" \"", "model.toml: name is empty"),
        (
            "\"m\"",
            "\"m\u{202e}\"",
            "model.toml: name has characters that control the terminal or turn the order of others",
        ),
    ] {
        assert_eq!(parse_card(&good.replace(from, to)).unwrap_err().to_string(), message);
    }
    let message = parse_card(&format!("architecture = \"resnet19\"\n{good}")).unwrap_err().to_string();
    assert!(message.contains("unknown variant `resnet19`, expected"), "{message}");
    let message = parse_card(&good.replace("licence", "license")).unwrap_err().to_string();
    assert!(message.contains("unknown field `license`"), "{message}");
}
