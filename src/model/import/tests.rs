use std::io::Write as _;

use super::*;
use crate::model::{Architecture, Bundle, catalogue, sample};

use sample::Named;

/// Weights of a ResNet-18 with two classes, all different and small.
fn network() -> Vec<Named> {
    let tensors = Architecture::ResNet18.network(2).tensors();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let seed = name.bytes().map(usize::from).sum::<usize>();
        let values = (0..count).map(|at| ((at * 31 + seed) % 1009) as f32 / 1009.0 * 0.1).collect();
        (name, shape, values)
    };
    tensors.into_iter().map(tensor).collect()
}

fn card() -> Card {
    Card {
        name: "two".to_owned(),
        source: "a test".to_owned(),
        licence: "MIT".to_owned(),
        ..catalogue::usual_card(Architecture::ResNet18)
    }
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn weights(bytes: &[u8]) -> Result<Weights, ImportError> {
    read_weights(file(bytes).path())
}

fn refused(bytes: &[u8]) -> String {
    let error = weights(bytes).unwrap_err();
    format!("{:#}", anyhow::Error::new(error))
}

#[test]
fn both_formats_of_pytorch_become_a_bundle() {
    let network = network();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("archive", sample::archive(&network)), ("pickles", sample::pickles(&network))] {
        let out = dir.path().join(name);
        let written = write_bundle(card(), "cat\ndog\n", &weights(&bytes).unwrap(), &[], &out).unwrap();
        let bundle = Bundle::load(&out).unwrap();
        assert_eq!((&bundle.card, &bundle.labels[..]), (&written, &["cat".to_owned(), "dog".to_owned()][..]));
        assert_eq!(bundle.tensors.len(), network.len());
        for (name, shape, values) in &network {
            let tensor = &bundle.tensors[name];
            assert_eq!(tensor.dims(), shape, "{name}");
            assert_eq!(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values, "{name}");
        }
        // The bundle's own file can be imported in turn.
        let again = read_weights(&out.join(layout::WEIGHTS)).unwrap();
        assert_eq!(again, weights(&bytes).unwrap());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path() != out).count(),
            usize::from(name == "pickles")
        );
    }
}

#[test]
fn what_does_not_belong_together_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("bundle");
    let good = weights(&sample::archive(&network())).unwrap();
    let write = |labels: &str, weights: &Weights| {
        let error = write_bundle(card(), labels, weights, &[], &out).unwrap_err();
        format!("{:#}", anyhow::Error::new(error))
    };
    assert!(
        write("cat\n", &good).contains("1 labels, but the last layer, fc.weight in weights.safetensors, has 2 rows")
    );
    let mut missing = good.clone();
    missing.remove("layer4.1.bn2.bias");
    assert!(write("cat\ndog\n", &missing).contains("no tensor layer4.1.bn2.bias"));
    let mut shape = good.clone();
    shape.insert("conv1.weight".to_owned(), Array::of_f32(vec![1], &[0.0]));
    assert!(write("cat\ndog\n", &shape).contains("tensor conv1.weight has shape [1]"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    write_bundle(card(), "cat\ndog\n", &good, &[], &out).unwrap();
    assert!(write("cat\ndog\n", &good).ends_with("exists; remove it, or choose another place"));
}

#[test]
fn damaged_files_and_bombs_are_refused() {
    let network = [("a".to_owned(), vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let (archive, pickles) = (sample::archive(&network), sample::pickles(&network));
    assert_eq!(weights(&archive).unwrap(), weights(&pickles).unwrap());

    let mut flipped = archive.clone();
    let at = archive.windows(4).position(|bytes| bytes == 6f32.to_le_bytes()).unwrap();
    flipped[at] ^= 1;
    assert!(refused(&flipped).contains("zip archive"), "{}", refused(&flipped));
    assert!(refused(&archive[..archive.len() / 2]).contains("zip archive"));
    assert!(refused(&pickles[..pickles.len() - 1]).contains("cut short in storage \"0\""));
    assert!(
        refused(b"hello, world, this is no file of weights")
            .contains("neither a .pth file of PyTorch nor a safetensors file")
    );

    let bomb = b"\x80\x02cposix\nsystem\nX\x07\x00\x00\x00rm -rf /\x85R.";
    assert!(refused(bomb).contains("it calls posix.system, which no weights need"));
    // Shapes and storages that claim what is not there.
    let claim = |from: &[u8], to: &[u8]| {
        let mut bytes = pickles.clone();
        let at = pickles.windows(from.len()).position(|bytes| bytes == from).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to);
        refused(&bytes)
    };
    assert!(claim(b"(J\x02\0\0\0J\x03\0\0\0t", b"(J\x02\0\0\0J\x09\0\0\0t").contains("reaches beyond its storage"));
    assert!(claim(b"(J\x02\0\0\0J\x03\0\0\0t", b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft").contains("beyond its storage"));
    assert!(claim(b"J\x06\0\0\0NtQ", b"J\xff\xff\xff\x7fNtQ").contains("unpacks to more"));
    assert!(claim(b"J\x06\0\0\0NtQ", b"J\x05\0\0\0NtQ").contains("another length"));
}

#[test]
fn a_tensor_that_repeats_its_numbers_is_bounded() {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = STORED;
    zip.start_file("x/data.pkl", options).unwrap();
    // 1,000 tensors of 4 GB each, all the same number by a stride of 0.
    zip.write_all(b"\x80\x02}(").unwrap();
    for at in 0..1000 {
        let name = format!(
            "X\x04\0\0\0{at:04}ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
             X\x01\0\0\00X\x03\0\0\0cpuK\x01tQK\0(J\0\0\0\x40t(K\0tNNtR"
        );
        zip.write_all(name.as_bytes()).unwrap();
    }
    zip.write_all(b"u.").unwrap();
    zip.start_file("x/data/0", options).unwrap();
    zip.write_all(&[0; 4]).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    assert!(refused(&bytes).contains("or repeats its numbers"), "{}", refused(&bytes));
}

/// As PyTorch has the files of its archives.
const STORED: zip::write::SimpleFileOptions =
    zip::write::SimpleFileOptions::DEFAULT.compression_method(zip::CompressionMethod::Stored);

/// A zip archive of these files.
fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    zipped_by(STORED, files)
}

fn zipped_by(options: zip::write::SimpleFileOptions, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn what_a_file_leaves_open_is_refused_by_name() {
    let empty = b"\x80\x02}.";
    let two = zipped(&[("a/data.pkl", empty), ("b/data.pkl", empty)]);
    assert!(refused(&two).contains("two state dicts, a/data.pkl and b/data.pkl"), "{}", refused(&two));
    let big = zipped(&[("a/data.pkl", empty), ("a/byteorder", b"big")]);
    assert!(refused(&big).contains("big-endian"), "{}", refused(&big));
    let old = sample::pickles(&[("a".to_owned(), vec![1], vec![1.0])]);
    let at = old.windows(16).position(|bytes| bytes.starts_with(b"endian\x88u.")).unwrap();
    let big = [&old[..at + 6], b"\x89", &old[at + 7..]].concat();
    assert!(refused(&big).contains("big-endian"), "{}", refused(&big));
    let long = zipped(&[("a/data.pkl", &vec![b'N'; (16 << 20) + 1])]);
    assert!(refused(&long).contains("data.pkl is larger than 16 MB"), "{}", refused(&long));
}

/// The pickle of a tensor of so many numbers of a storage.
fn tensor(storage: &str, key: u8, numbers: u32) -> Vec<u8> {
    let length = [b"J", &numbers.to_le_bytes()[..]].concat();
    let start = format!(
        "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n{storage}\nX\x01\0\0\0{key}X\x03\0\0\0cpu"
    );
    [start.as_bytes(), &length, b"NtQK\0(", &length, b"t(K\x01tNNtR"].concat()
}

/// The pickle of a text.
fn pickled(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn what_a_few_bytes_could_make_any_number_of_is_refused() {
    let million = vec![0; 4 << 20];
    let pickle = [b"\x80\x02}(".to_vec(), pickled("a"), tensor("FloatStorage", 0, 1 << 20), b"u.".to_vec()].concat();
    let files = [("a/data.pkl", &pickle[..]), ("a/data/0", &million[..])];
    assert_eq!(weights(&zipped(&files)).unwrap()["a"].shape, [1 << 20]);
    let deflated = STORED.compression_method(zip::CompressionMethod::Deflated);
    let pickle_too = refused(&zipped_by(deflated, &files));
    assert!(pickle_too.contains("its entry data.pkl is compressed"), "{pickle_too}");

    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (options, (name, bytes)) in [STORED, deflated].into_iter().zip(files) {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let bytes = zip.finish().unwrap().into_inner();
    let want = "its entry data/0 is compressed, as PyTorch writes none; save it anew with torch.save";
    assert!(bytes.len() < 10_000 && refused(&bytes).contains(want), "{}", refused(&bytes));
}

#[test]
fn a_checkpoint_of_the_older_format_gives_its_weights() {
    // {"epoch": 1, "state_dict": {"a": …}, "optimizer": {"m": …, "seen": …}}; the weights are in the midst.
    let mut checkpoint = b"\x80\x02}(".to_vec();
    for part in [pickled("epoch"), b"K\x01".to_vec(), pickled("state_dict"), b"}".to_vec(), pickled("a")] {
        checkpoint.extend(part);
    }
    checkpoint.extend([&tensor("FloatStorage", 1, 2)[..], b"s"].concat());
    checkpoint.extend([pickled("optimizer"), b"}(".to_vec(), pickled("m"), tensor("FloatStorage", 0, 3)].concat());
    checkpoint.extend([pickled("seen"), tensor("BoolStorage", 2, 5), b"uu.".to_vec()].concat());
    let empty = sample::pickles(&[]);
    let head = empty.windows(4).position(|bytes| bytes == b"\x88u.\x80").unwrap() + 3;
    let keys = [b"\x80\x02](".to_vec(), pickled("0"), pickled("1"), pickled("2"), b"e.".to_vec()].concat();
    let storage = |numbers: u64, bytes: &[u8]| [&numbers.to_le_bytes()[..], bytes].concat();
    let weighed = [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    let storages = [storage(3, &[9; 12]), storage(2, &weighed), storage(5, &[1; 5])].concat();
    let file = [&empty[..head], &checkpoint, &keys, &storages].concat();
    let read = weights(&file).unwrap();
    assert_eq!(read, Weights::from([("a".to_owned(), Array::of_f32(vec![2], &[1.0, 2.0]))]));
    assert!(refused(&file[..file.len() - 1]).contains("cut short in storage \"2\""));
}

#[test]
fn what_is_no_state_dict_is_told_how_to_save_one() {
    let whole = refused(&zipped(&[("a/data.pkl", b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81.")]));
    let want = "calls torchvision.models.resnet.ResNet, which no weights need and which could run any program; save \
                model.state_dict() alone";
    assert!(whole.contains(want), "{whole}");
    let pickle = [b"\x80\x02}(".to_vec(), pickled("mask"), tensor("BoolStorage", 0, 4), b"u.".to_vec()].concat();
    let masked = refused(&zipped(&[("a/data.pkl", &pickle), ("a/data/0", &[1; 4])]));
    assert!(masked.contains("tensor \"mask\" has a torch.BoolStorage") && masked.contains("i64 are"), "{masked}");
}

#[test]
fn a_safetensors_file_is_told_as_one() {
    let view = TensorView::new(safetensors::Dtype::F8_E4M3, vec![4], &[0; 4]).unwrap();
    let bytes = safetensors::serialize([("a", view)], None).unwrap();
    for (bytes, want) in [(&bytes[..], "tensor a has type F8_E4M3"), (&bytes[..bytes.len() - 2], "")] {
        let text = refused(bytes);
        assert!(text.contains("is a safetensors file that is refused: ") && text.contains(want), "{text}");
    }
}

#[test]
fn a_wrapper_of_pytorch_is_taken_off() {
    let tensor = |name: &str| (name.to_owned(), vec![1], vec![1.0]);
    let names = |tensors: &[Named]| weights(&sample::archive(tensors)).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&[tensor("module.a"), tensor("module.b")]), ["a", "b"]);
    assert_eq!(names(&[tensor("module.a"), tensor("b")]), ["b", "module.a"]);
}

#[test]
fn errors_name_the_files_that_were_given() {
    let mut good = weights(&sample::archive(&network())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let told = |weights: &Weights, labels: &str| {
        let error = write_bundle(card(), labels, weights, &[], &dir.path().join("x")).unwrap_err();
        format!("{:#}", anyhow::Error::new(error.of_files(Path::new("w.pth"), Path::new("l.txt"))))
    };
    let text = told(&good, "cat\n");
    assert!(text.contains("l.txt has 1 labels") && text.contains("fc.weight in w.pth, has 2 rows"), "{text}");
    let wide = Array::new(Dtype::F64, vec![64], 1e300f64.to_le_bytes().repeat(64));
    good.insert("bn1.bias".to_owned(), wide);
    let text = told(&good, "cat\ndog\n");
    assert!(text.contains("w.pth: tensor bn1.bias has an infinity"), "{text}");
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name);
    for name in [".x.partial-1", ".x.partial-2", ".other.partial-1"] {
        fs::create_dir(of(name)).unwrap();
        fs::write(of(name).join(layout::WEIGHTS), "half").unwrap();
    }
    let writing = File::open(of(".x.partial-2")).unwrap();
    writing.lock().unwrap();
    let good = weights(&sample::archive(&network())).unwrap();
    write_bundle(card(), "cat\ndog\n", &good, &[], &of("x")).unwrap();
    assert!(!of(".x.partial-1").exists() && of(".x.partial-2").exists() && of(".other.partial-1").exists());
}
