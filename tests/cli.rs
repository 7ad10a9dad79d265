//! The command line: help, configuration, errors and exit codes.

use crate::support::imgcls;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = imgcls().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn bad_configuration_is_named_and_ends_with_2() {
    for (args, want) in [
        (vec!["config", "--set", "fleet.mux=3"], "unknown configuration key \"fleet.mux\""),
        (vec!["config", "--set", "fleet.max=many"], "fleet.max"),
        (vec!["config", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (vec!["serve", "--listen", "0.0.0.0:0"], "--token"),
        (vec!["config", "--backend", "aws"], "aws.bucket"),
        (vec!["serve", "--set", "web.token=(set)"], "IMGCLS_WEB_TOKEN"),
        (vec!["config", "--set", "fleet.max=-1"], "fleet.max from the command line is \"-1\""),
        (vec!["config", "--set", "limits.max_side=0"], "limits.max_side is 0"),
        (vec!["config", "--set", "data_dir="], "data_dir is empty"),
        (vec!["config", "--set", "web.public_hosts=http://foo"], "name hosts alone"),
        (vec!["config", "--set", "worker.threads=9999"], "at most 256"),
    ] {
        let (code, stdout, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("imgcls: ") && stderr.contains(want), "{args:?}: {stderr}");
    }
}

#[test]
fn the_printed_configuration_is_a_configuration() {
    let (code, printed, _) = run(&["config", "--set", "fleet.max=3"]);
    assert!(code == Some(0) && printed.contains("max = 3"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &printed).unwrap();
    assert_eq!(run(&["config", "--config", file.path().to_str().unwrap()]), (Some(0), printed, String::new()));
}

#[test]
fn a_printed_secret_is_no_secret() {
    let (_, printed, _) = run(&["config", "--set", "web.token=s3cret"]);
    assert!(!printed.contains("s3cret"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &printed).unwrap();
    let path = file.path().to_str().unwrap();
    let (code, _, stderr) = run(&["config", "--config", path]);
    assert!(code == Some(2) && stderr.contains("web.token is \"(set)\""), "{stderr}");
    assert_eq!(run(&["config", "--config", path, "--set", "web.token=s3cret"]).0, Some(0));
}

#[test]
fn an_error_is_told_once() {
    for args in [
        &["config", "--config", "/nonexistent.toml"][..],
        &["classify", "--model", "/nonexistent", "x.png"],
        &["serve", "--model", "/nonexistent", "--listen", "127.0.0.1:0"],
    ] {
        let (code, _, stderr) = run(args);
        assert_ne!(code, Some(0), "{args:?}");
        assert_eq!(stderr.matches("No such file").count(), 1, "{args:?}: {stderr}");
    }
}

#[test]
fn a_data_directory_is_not_made_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("mistyped");
    for tool in [&["status"][..], &["reset", "--yes"], &["queue", "peek"]] {
        let (code, stdout, stderr) = run(&[tool, &["--data-dir", missing.to_str().unwrap()]].concat());
        assert_eq!(code, Some(1), "{tool:?}");
        assert!(stdout.is_empty() && stderr.contains("there is no data in"), "{tool:?}: {stderr}");
    }
    assert!(!missing.exists());
}

#[test]
fn what_does_not_fit_a_flag_is_told_in_words() {
    for (args, want) in [
        (["classify", "--top", "0", "x"], "must be a whole number of 1 or more"),
        (["classify", "--threads", "9999", "x"], "must be 1 to 256"),
        (["serve", "--listen", "localhost:8080", "--open"], "must be an IP address and a port"),
    ] {
        let (code, _, stderr) = run(&args);
        assert!(code == Some(2) && stderr.contains(want), "{args:?}: {stderr}");
    }
    let output = imgcls().arg("config").env("IMGCLS_LOG", "imgcls=loud").output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("IMGCLS_LOG"));
}

#[test]
fn the_annotated_configuration_tells_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/imgcls.toml");
    assert_eq!(run(&["config", "--config", example]), run(&["config"]));
}

#[test]
fn completions_and_manual_are_printed() {
    let (code, script, _) = run(&["completions", "bash"]);
    assert!(code == Some(0) && script.contains("imgcls"));
    let (code, manual, _) = run(&["man"]);
    assert!(code == Some(0) && manual.contains(".TH imgcls") && manual.contains("Exit codes"));
    let (code, manual, _) = run(&["man", "serve"]);
    assert!(code == Some(0) && manual.contains(".TH imgcls-serve") && manual.contains("listen"), "{manual}");
    assert!(run(&["man", "nonsense"]).2.contains("there is no command"));
    // A reader that has gone is no error, and no panic.
    let mut child = imgcls().args(["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
