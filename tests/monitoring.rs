//! What watches the service, alert rules and dashboard, names metrics that there are.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::support::{Server, client, form, picture};

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let starts = text.match_indices("imgcls_").map(|(at, _)| &text[at..]);
    starts.map(|rest| rest.chars().take_while(|c| is_part(*c)).collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_dashboard_name_metrics_that_there_are() {
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
    let mut exposed = BTreeSet::new();
    for url in [format!("{}/metrics", server.url), url.expect("the worker logs where its metrics are")] {
        exposed.extend(names(&client.get(url).send().await.unwrap().text().await.unwrap()));
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
