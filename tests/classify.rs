//! `imgcls classify` as its users run it.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::support::{imgcls, labelled, picture};

fn classify(args: &[&str], dir: &Path) -> Output {
    imgcls().arg("classify").args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn images(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["image"].as_str().unwrap()).collect()
}

#[test]
fn the_ten_pictures_of_the_report_get_their_labels() {
    let pictures = std::fs::read_dir(labelled()).unwrap().map(|entry| entry.unwrap().path());
    let pictures: Vec<_> = pictures.filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    assert_eq!(pictures.len(), 10);
    let output = imgcls().args(["classify", "--json"]).args(&pictures).output().unwrap();
    assert!(output.status.success());
    for line in lines(&output) {
        let name = Path::new(line["image"].as_str().unwrap()).file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(name.split_once('_').unwrap().1, line["label"].as_str().unwrap());
    }
}

#[test]
fn directories_are_read_in_natural_order_and_failures_do_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    std::fs::create_dir_all(dir.path().join("in/deep")).unwrap();
    std::fs::create_dir(dir.path().join("none")).unwrap();
    for (n, name) in ["in/10.png", "in/2.png", "in/deep/1.PNG"].iter().enumerate() {
        put(name, &picture(u32::try_from(n).unwrap()));
    }
    put("in/notes.txt", b"not for us");
    put("in/.hidden.png", b"nor this");
    put("in/text.png", b"hello");
    put("in/empty.jpg", b"");
    put("in/phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0");
    let cut = picture(9);
    put("in/cut.png", &cut[..cut.len() / 2]);

    let output = classify(&["--json", "--top", "3", "in", "none", "missing.png"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    let expected = [
        "in/2.png",
        "in/10.png",
        "in/cut.png",
        "in/deep/1.PNG",
        "in/empty.jpg",
        "in/phone.heic",
        "in/text.png",
        "none",
        "missing.png",
    ];
    assert_eq!(images(&lines), expected);
    for line in &lines {
        let path = line["image"].as_str().unwrap();
        let good = ["in/2.png", "in/10.png", "in/deep/1.PNG"].contains(&path);
        assert_eq!(line["label"].is_string(), good, "{line}");
        assert_eq!(line["error"].is_string(), !good, "{line}");
        assert_eq!(line["model"], "resnet18-cifar10@e8fc3770");
        if good {
            assert_eq!(line["top"].as_array().unwrap().len(), 3);
            assert_eq!(line["top"][0]["label"], line["label"]);
        }
    }
    let error = |at: usize| lines[at]["error"].as_str().unwrap();
    assert_eq!(error(2), "the PNG is cut short; its end is missing");
    assert_eq!(error(4), "the file is empty");
    assert_eq!(error(5), "HEIC is not supported; PNG, JPEG, WebP, GIF and BMP are");
    assert!(error(6).starts_with("the file is not an image (it looks like text)"));
    assert_eq!(error(7), "no images in the directory");
}

#[test]
fn many_files_come_out_in_order_with_their_own_labels_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..150 {
        let bytes = if n % 40 == 7 { b"not a picture".to_vec() } else { picture(n) };
        std::fs::write(dir.path().join(format!("{n}.png")), bytes).unwrap();
    }
    let expected: Vec<String> = (0..150).map(|n| format!("./{n}.png")).collect();
    let confidences = |threads: &str| -> Vec<Option<f64>> {
        let output = classify(&["--json", "--top", "1", "--threads", threads, "."], dir.path());
        assert_eq!(output.status.code(), Some(1));
        let lines = lines(&output);
        assert_eq!(images(&lines), expected);
        lines.iter().map(|line| line["confidence"].as_f64()).collect()
    };
    let alone = confidences("1");
    assert_eq!(alone.iter().filter(|confidence| confidence.is_none()).count(), 4);
    for threads in ["2", "5"] {
        for (n, (a, b)) in alone.iter().zip(confidences(threads)).enumerate() {
            assert!(
                a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-4) || a.is_none() && b.is_none(),
                "{n}: {a:?} {b:?}"
            );
        }
    }
}

#[test]
fn the_table_is_aligned_and_limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), picture(1)).unwrap();
    std::fs::write(dir.path().join("longer name.png"), picture(2)).unwrap();
    let output = classify(&["a.png", "longer name.png"], dir.path());
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let percents: Vec<usize> = table.lines().map(|line| line.find('%').unwrap()).collect();
    assert_eq!(percents.len(), 2);
    assert_eq!(percents[0], percents[1], "{table}");

    let output = classify(&["--max-side", "39", "a.png"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table, "a.png  error: the image is 40 x 36 pixels; the limit for a side is 39\n");
}

#[test]
fn standard_input_and_a_reader_that_leaves() {
    let mut child =
        imgcls().args(["classify", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&picture(3)).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(out.starts_with(r#"{"image":"-","label":""#), "{out}");

    let mut child =
        imgcls().args(["classify", "--json", "-", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&picture(3)).unwrap();
    let output = lines(&child.wait_with_output().unwrap());
    assert!(output[0]["label"].is_string());
    assert_eq!(output[1]["error"], "standard input can be read only once");

    let dir = tempfile::tempdir().unwrap();
    for n in 0..50 {
        std::fs::write(dir.path().join(format!("{n}.png")), picture(n)).unwrap();
    }
    let mut child = imgcls().arg("classify").arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success(), "a closed pipe is no failure");
}

#[test]
fn a_bundle_from_a_directory_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), picture(1)).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    for name in ["model.toml", "labels.txt", "weights.safetensors"] {
        std::fs::copy(assets.join(name), dir.path().join(name)).unwrap();
    }
    let output = classify(&["--model", ".", "--json", "a.png"], dir.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(dir.path().join("labels.txt"), "cat\ndog\n").unwrap();
    let output = classify(&["--model", ".", "a.png"], dir.path());
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("labels.txt has 2 labels, but the last layer, fc.weight in weights.safetensors, has 10 rows"),
        "{message}"
    );
}

#[test]
fn features_come_with_json_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), picture(1)).unwrap();
    std::fs::write(dir.path().join("b.png"), b"no picture").unwrap();
    let found = lines(&classify(&["--json", "--features", "a.png", "b.png"], dir.path()));
    let features = found[0]["features"].as_array().unwrap();
    assert_eq!(features.len(), 512);
    assert!(features.iter().all(|v| v.as_f64().is_some_and(|v| v >= 0.0)), "they come out of a ReLU");
    assert!(found[1].get("features").is_none());
    assert!(lines(&classify(&["--json", "a.png"], dir.path()))[0].get("features").is_none());
    assert_eq!(classify(&["--features", "a.png"], dir.path()).status.code(), Some(2));
}
