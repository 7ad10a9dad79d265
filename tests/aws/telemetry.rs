//! What a worker and a web tier tell of themselves when a service fails.

use std::time::Duration;

use serde_json::Value;

use super::{
    ministack,
    proxy::{Proxy, Verdict},
    system::System,
};
use crate::support::{client, eventually, picture};

/// The value of a metric in a scrape.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Log lines of a failing image carry image, message id and attempt, and the metrics count its tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_image_is_told_in_logs_and_metrics() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    proxy.judge(|call| if call.operation == "S3.PutObject" { Verdict::Fail } else { Verdict::Pass });
    system.put("a.png", &picture(1)).await;
    let worker = system.work(&["--threads", "1", "--log-format", "json", "--set", "worker.metrics_listen=127.0.0.1:0"]);
    let lines = || -> Vec<Value> {
        worker.log().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let line = eventually("a failed try in the log", async || {
        lines().into_iter().find(|line| line["message"] == "trying again later")
    })
    .await;
    let spans = line["spans"].as_array().unwrap();
    let field = |name: &str| spans.iter().find_map(|span| span.get(name)).cloned().unwrap_or_default();
    assert_eq!((field("image"), field("attempt")), (Value::from("a.png"), Value::from(1)), "{line}");
    assert!(field("id").as_str().is_some_and(|id| !id.is_empty()), "{line}");
    assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("500")), "{line}");

    let url = lines().iter().find_map(|line| Some(line["message"].as_str()?.strip_prefix("metrics on ")?.to_owned()));
    let url = url.unwrap_or_else(|| panic!("no address in {}", worker.log()));
    let scrape = async || client().get(&url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
    let outcome = |text: &str, name: &str| metric(text, &format!("imgcls_worker_images_total{{outcome=\"{name}\"}}"));
    let text = scrape().await;
    assert!(outcome(&text, "retried") >= 1.0 && outcome(&text, "done") == 0.0, "{text}");
    proxy.judge(|_| Verdict::Pass);
    let text = eventually("the result in the metrics", async || {
        let text = scrape().await;
        (outcome(&text, "done") == 1.0 && metric(&text, "imgcls_worker_in_flight") == 0.0).then_some(text)
    })
    .await;
    for stage in ["receive", "fetch", "decode", "infer", "publish"] {
        let count = metric(&text, &format!("imgcls_worker_stage_duration_seconds_count{{stage=\"{stage}\"}}"));
        assert!(count >= 1.0, "{stage} in {text}");
    }
}

/// `/readyz` names the service that fails; `/healthcheck` depends on none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_the_service_that_cannot_be_reached() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    let (_serve, url) = system.serve();
    let readiness = async || {
        let answer = client().get(format!("{url}/readyz")).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    for (service, check) in [("S3.", "images"), ("SQS.", "queue"), ("DynamoDB.", "results")] {
        assert_eq!(readiness().await.0, 200);
        proxy.judge(move |call| if call.operation.starts_with(service) { Verdict::Fail } else { Verdict::Pass });
        let (status, answer) = readiness().await;
        assert_eq!((status, &answer["ready"]), (503, &Value::Bool(false)), "{answer}");
        for (name, told) in answer["checks"].as_object().unwrap() {
            assert_eq!(told == "ok", name != check, "{answer}");
        }
        let health = client().get(format!("{url}/healthcheck")).timeout(Duration::from_secs(60));
        assert_eq!(health.send().await.unwrap().text().await.unwrap(), "Healthy");
        proxy.judge(|_| Verdict::Pass);
    }
}
