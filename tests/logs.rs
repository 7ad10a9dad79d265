//! What the service writes to standard error.

use crate::support::{Server, client, form, imgcls, picture, signal_if_there};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_json_throughout_and_says_who_did_what() {
    let args = ["--max-workers", "1", "--log-format", "json", "--token", "user", "--set", "web.admin_token=admin"];
    let mut server = Server::start(&args);
    let client = client();
    let url = server.url.clone();
    let file = form([("a.png".to_owned(), picture(1))]);
    let answer = client.post(format!("{url}/classify")).bearer_auth("user").multipart(file).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let refused = client.get(format!("{url}/api/status")).header("host", "photos.example").send().await.unwrap();
    let reason = refused.text().await.unwrap();
    assert!(reason.contains("--public-host photos.example"), "{reason}");
    client.get(format!("{url}/api/status")).bearer_auth("wrong").send().await.unwrap();
    client.post(format!("{url}/reset")).bearer_auth("user").send().await.unwrap();
    client.delete(format!("{url}/images/a.png")).bearer_auth("admin").send().await.unwrap();
    client.post(format!("{url}/reset")).bearer_auth("admin").send().await.unwrap();
    // A terminal that closes lets it finish what it holds, as SIGTERM does.
    signal_if_there(server.pid(), "HUP");
    assert!(server.wait().success(), "{}", server.log());

    let log = server.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let line = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no line says {message:?}: {log}"))
    };
    let start = line("serving");
    assert_eq!((&start["version"], &start["backend"]), (&env!("CARGO_PKG_VERSION").into(), &"local".into()));
    assert!(
        start["model"].as_str().unwrap().contains('@') && start["data_dir"] == server.dir.to_str().unwrap(),
        "{start}"
    );
    for (message, status) in [
        ("refused", Some(403)),
        ("a wrong token was presented", None),
        ("image removed", None),
        ("everything is reset", None),
    ] {
        let line = line(message);
        let client = line.get("client").or(line.get("address"));
        assert_eq!(client, Some(&"127.0.0.1".into()), "{line}");
        assert!(status.is_none_or(|status| line["status"] == status), "{line}");
    }
    line("working");
    assert_eq!(line("stopping; a second signal ends at once")["signal"], "SIGHUP");
    line("stopped");
}

#[test]
fn an_end_is_told_as_the_log_is() {
    for args in [
        &["serve", "--log-format", "json", "--model", "/nonexistent"][..],
        &["config", "--log-format", "json", "--config", "/nonexistent.toml"],
        &["status", "--log-format=json", "--set", "fleet.mux=1"],
    ] {
        let output = imgcls().args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{args:?}: {error}: {stderr}"));
        assert_eq!((output.status.code(), &line["level"]), (Some(2), &"ERROR".into()), "{stderr}");
    }
    let output = imgcls().args(["config", "--set", "fleet.mux=1"]).env("IMGCLS_LOG_FORMAT", "json").output().unwrap();
    assert!(output.stderr.starts_with(b"{"), "{}", String::from_utf8_lossy(&output.stderr));
}
