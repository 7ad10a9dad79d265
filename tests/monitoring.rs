//! What watches the service: its metrics, alert rules and dashboard, by Prometheus' own tool, and that they fit each
//! other.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write as _},
    process::{Command, Stdio},
};

use crate::support::{Server, client, form, picture};

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let starts = ["imgcls_", "process_"].into_iter().flat_map(|prefix| text.match_indices(prefix));
    let starts = starts.filter(|(at, _)| !text[..*at].ends_with(is_part)).map(|(at, _)| &text[at..]);
    starts.map(|rest| rest.chars().take_while(|c| is_part(*c)).collect()).collect()
}

/// Runs promtool and fails if it finds anything. Where there is none, which is no success in CI, nothing is checked.
fn promtool(args: &[&str], input: &str) {
    let command = Command::new("promtool")
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match command {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs promtool (apt-get install prometheus): {error}");
            eprintln!("skipped: no promtool ({error}); apt-get install prometheus");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {args:?}: {told}\n{input}");
}

#[test]
fn rules_are_sound_and_fire_when_they_should() {
    promtool(&["check", "rules", "alerts.yaml"], "");
    promtool(&["test", "rules", "alerts-test.yaml"], "");
}

/// Every expression of the dashboard is one that Prometheus understands.
#[test]
fn the_dashboard_asks_what_can_be_asked() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<_> = targets
        .enumerate()
        .map(|(n, target)| serde_json::json!({ "record": format!("dashboard:{n}"), "expr": target["expr"] }))
        .collect();
    assert!(rules.len() > 10, "{rules:?}");
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_sound_and_rules_and_dashboard_name_those_that_there_are() {
    let server = Server::start(&["--no-workers"]);
    let mut worker = server.tool(&["work", "--threads", "1", "--set", "worker.metrics_listen=127.0.0.1:0"]);
    let mut worker = worker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(worker.stderr.take().unwrap());
    let url =
        log.lines().map_while(Result::ok).find_map(|line| Some(line.split_once("metrics on ")?.1.trim().to_owned()));
    let client = client();
    let file = form([("a.png".to_owned(), picture(1))]);
    let answer = client.post(format!("{}/classify", server.url)).multipart(file).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let urls = [format!("{}/metrics", server.url), url.expect("the worker logs where its metrics are")];
    // The image is counted when the worker's next heartbeat comes.
    crate::support::eventually("the image to be counted", async || {
        let text = client.get(&urls[0]).send().await.unwrap().text().await.unwrap();
        text.contains("imgcls_upload_to_label_seconds_count 1").then_some(())
    })
    .await;
    let mut exposed = BTreeSet::new();
    for url in &urls {
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.unwrap();
        promtool(&["check", "metrics"], &text);
        for line in [
            "# TYPE imgcls_build_info gauge",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.contains(line), "{url} has no {line}: {text}");
        }
        exposed.extend(names(&text));
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    for file in ["alerts.yaml", "dashboard.json"] {
        let path = format!("{}/config/prometheus/{file}", env!("CARGO_MANIFEST_DIR"));
        let named = names(&std::fs::read_to_string(path).unwrap());
        assert!(named.len() > 4, "{named:?}");
        let unknown: Vec<_> = named.difference(&exposed).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}; there are {exposed:?}");
    }
}
