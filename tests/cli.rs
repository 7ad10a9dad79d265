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
    ] {
        let (code, stdout, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("imgcls: ") && stderr.contains(want), "{args:?}: {stderr}");
    }
}

#[test]
fn the_printed_configuration_is_a_configuration() {
    let (code, printed, _) = run(&["config", "--set", "web.token=s3cret", "--set", "fleet.max=3"]);
    assert_eq!(code, Some(0));
    assert!(!printed.contains("s3cret") && printed.contains("max = 3"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &printed).unwrap();
    assert_eq!(run(&["config", "--config", file.path().to_str().unwrap()]), (Some(0), printed, String::new()));
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
    assert!(code == Some(0) && manual.contains(".TH imgcls"));
}
