//! The API as its own document describes it, by a tool that reads the document and tries what it can think of.

use std::process::{Command, Stdio};

use crate::support::{Server, client, form, picture};

/// The tool, installed once below the target directory.
fn schemathesis() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.sh");
    // Tests run in TARGET/PROFILE/deps.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("schemathesis");
    let installed = Command::new(script).arg(target).stderr(Stdio::inherit()).output().expect("sh and flock are there");
    assert!(installed.status.success(), "schemathesis cannot be installed; is python3-venv there, and PyPI?");
    String::from_utf8(installed.stdout).unwrap().trim().to_owned()
}

/// What is right and what is wrong by the document, with all the values that it gives reason to try, and some at
/// random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_as_its_document_says() {
    let program = schemathesis();
    let set = ["--set", "web.admin_token=admin", "--set", "web.classify_timeout=5s"];
    let server = Server::start(&[&["--max-workers", "1", "--token", "user"], &set[..]].concat());
    // The image that the document's examples name.
    let file = form([("a.png".to_owned(), picture(1))]);
    let stored =
        client().post(format!("{}/classify", server.url)).bearer_auth("user").multipart(file).send().await.unwrap();
    assert!(stored.status().is_success(), "{}", stored.status());
    let document = client().get(format!("{}/api/openapi.json", server.url)).bearer_auth("user").send().await.unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), document.bytes().await.unwrap()).unwrap();
    let url = server.url.clone();
    let run = move || {
        Command::new(program)
            .args([
                "--config-file",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"),
                "--no-color",
                "run",
            ])
            .args(["--url", &url, "--header", "Authorization: Bearer admin", "--phases", "examples,coverage,fuzzing"])
            // The same cases each time, and few: a failure is one of this server, not of the day.
            .args(["--seed", "1", "--max-examples", "5", "--suppress-health-check", "all", "--request-timeout", "60"])
            .arg(file.path())
            .current_dir(std::env::temp_dir())
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &*String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", server.log());
}
