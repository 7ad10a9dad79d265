//! The API as its own document describes it, by a tool that reads the document and tries what it can think of.

use std::process::{Command, Stdio};

use crate::support::{Server, client, picture, upload};

/// The tool, installed once below the target directory.
fn schemathesis() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.sh");
    // Tests run in TARGET/PROFILE/deps.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("schemathesis");
    let installed = Command::new(script).arg(target).stderr(Stdio::inherit()).output().expect("sh and flock are there");
    assert!(installed.status.success(), "schemathesis cannot be installed; is python3-venv there, and PyPI?");
    String::from_utf8(installed.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_as_its_document_says() {
    let server = Server::start(&[
        "--max-workers",
        "1",
        "--set",
        "web.classify_timeout=10s",
        "--token",
        "user",
        "--set",
        "web.admin_token=admin",
    ]);
    let program = schemathesis();
    let output = Command::new(program).args(["--no-color", "run", "--url", &server.url]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", server.log());
}
