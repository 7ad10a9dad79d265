//! The aws backend as real processes on emulators, with faults.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use self::{
    emulator::{Emulator, shared_ministack},
    proxy::{Proxy, Verdict},
    system::System,
};
use crate::support::{DEADLINE, client, eventually, picture, upload};

mod deployment;
#[allow(dead_code, reason = "the unit tests of the backend use the rest of it")]
pub(crate) mod emulator;
mod machines;
mod pages;
mod permissions;
mod proxy;
mod rehearsal;
mod removal;
mod scaling;
mod setup;
pub(crate) mod stack;
pub(crate) mod system;
mod telemetry;

/// Pictures, each with many names: what a picture costs does not depend on its name.
const PICTURES: u32 = 12;

fn pictures() -> Vec<Vec<u8>> {
    (0..PICTURES).map(picture).collect()
}

async fn ministack() -> &'static str {
    tokio::task::spawn_blocking(shared_ministack).await.unwrap()
}

/// The original's largest run: 2,136 images through the page's form, two workers; and what the calls cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run_labels_every_image_three_ways() {
    const IMAGES: usize = 2136;
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    let pictures = pictures();
    let labels = system.labels(&pictures);
    let name = |i: usize| format!("{i}_test (ü+%).png");
    let (_serve, url) = system.serve();
    let client = client();
    for start in (0..IMAGES).step_by(178) {
        let files = (start..(start + 178).min(IMAGES)).map(|i| (name(i), pictures[i % pictures.len()].clone()));
        let stored = upload(&client, &url, files).await;
        assert!(stored.iter().all(|entry| entry["image"] == entry["file"]), "{stored:?}");
    }
    eventually("all messages", async || (system.depth("images").await == (IMAGES as u64, 0)).then_some(())).await;

    proxy.reset_counts();
    let mut workers =
        [system.work(&["--until-empty", "--threads", "1"]), system.work(&["--until-empty", "--threads", "1"])];
    for worker in &mut workers {
        assert!(worker.ended(Duration::from_secs(900)).await.success(), "{}", worker.log());
    }
    let counts = proxy.counts();
    let calls =
        |service: &str| counts.iter().filter(|(o, _)| o.starts_with(service)).map(|(_, n)| *n).sum::<u64>() as f64;
    println!("calls for {IMAGES} images: {counts:?}");
    assert!(calls("S3.") <= 3.01 * IMAGES as f64, "{counts:?}");
    assert!(calls("SQS.") <= 0.35 * IMAGES as f64, "{counts:?}");
    assert_eq!(counts["DynamoDB.UpdateItem"], IMAGES as u64);

    assert_eq!(system.depth("images").await, (0, 0));
    assert_eq!(system.depth("images-dead").await, (0, 0));
    let rows = system.rows().await;
    assert_eq!(rows.len(), IMAGES);
    let outputs: BTreeSet<String> = system.keys(&system.output_bucket()).await.into_iter().collect();
    assert_eq!(outputs.len(), IMAGES);
    for i in 0..IMAGES {
        let label = &labels[i % labels.len()];
        assert_eq!(rows[&name(i)].as_ref(), Ok(label));
        assert!(outputs.contains(&format!("{}_{}", name(i), label.replace([' ', '/'], "_"))), "{label}");
    }
    let tagged = (0..IMAGES).map(|i| {
        let get = system.s3.get_object_tagging().bucket(system.bucket()).key(format!("in/{}", name(i)));
        async move { get.send().await.map(|got| (i, got.tag_set)) }
    });
    let tagged: Vec<_> = stream::iter(tagged).buffer_unordered(16).try_collect().await.unwrap();
    for (i, tags) in tagged {
        let tag = tags.iter().find(|t| t.key() == "Classification").unwrap();
        assert_eq!(tag.value(), imgcls::contract::tags::value(&labels[i % labels.len()]));
    }
}

/// 5 % errors, throttling, cut bodies, resets, latency, and workers that are killed: each image has one correct result
/// all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_and_kills_lose_and_double_nothing() {
    const IMAGES: usize = 1000;
    let upstream = ministack().await;
    let faults = tokio::task::spawn_blocking(move || Emulator::microburst(upstream)).await.unwrap();
    let system = System::new(upstream, &faults.url).await;
    // A killed worker's messages come back soon. The first in the queue are received by each worker that starts, and on
    // a busy machine many are killed before they have done anything; that shall not be what makes a dead letter.
    let soon = (QueueAttributeName::VisibilityTimeout, "5".to_owned());
    system.set_queue(&[soon, system.redrive_after(1000).await]).await;
    let pictures = pictures();
    let labels = system.labels(&pictures);
    for i in 0..IMAGES {
        system.put(&format!("{i}.png"), &pictures[i % pictures.len()]).await;
    }
    eventually("all messages", async || (system.depth("images").await == (IMAGES as u64, 0)).then_some(())).await;
    let rules = serde_json::json!([
        {"service": "*", "probability": 0.03, "error": {"code": "InternalError", "status": 500}},
        {"service": "s3", "probability": 0.02, "error": {"code": "SlowDown", "status": 503}},
        {"service": "sqs", "probability": 0.05, "error": {"code": "ThrottlingException", "status": 400}},
        {"service": "dynamodb", "probability": 0.02, "error": {"code": "ProvisionedThroughputExceededException"}},
        {"service": "s3", "operation": "GetObject", "probability": 0.03, "response": {"abort_frac": 0.5}},
        {"service": "*", "probability": 0.01, "reset": true},
        {"service": "*", "probability": 0.05, "latency": 500}
    ]);
    let client = client();
    let set = client.post(format!("{}/_microburst/rules", faults.url)).json(&rules).send().await.unwrap();
    assert!(set.status().is_success(), "{}", set.text().await.unwrap());

    let start = || system.work(&["--threads", "1"]);
    let mut workers = [start(), start()];
    let mut next_kill = Instant::now() + Duration::from_secs(6);
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut kills = 0;
    loop {
        let (visible, in_flight) = system.depth("images").await;
        if visible + in_flight == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{visible} + {in_flight} messages left; log: {}", workers[0].log());
        if Instant::now() > next_kill {
            let victim = usize::from(rand::random::<bool>());
            workers[victim].kill();
            workers[victim] = start();
            kills += 1;
            next_kill = Instant::now() + Duration::from_secs(3 + rand::random_range(0..4));
        }
        // One that ended by itself gave up where it should have gone on.
        for worker in &mut workers {
            assert!(worker.is_running(), "a worker ended: {}", worker.log());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rules = client.get(format!("{}/_microburst/rules", faults.url)).send().await.unwrap();
    let rules: Vec<serde_json::Value> = rules.json().await.unwrap();
    let fired: Vec<u64> = rules.iter().map(|rule| rule["fired_count"].as_u64().unwrap()).collect();
    println!("{kills} workers killed; faults by rule: {fired:?}");
    assert!(kills > 0 && fired.len() == 7 && fired.iter().all(|n| *n > 0), "{rules:?}");
    let rows = system.rows().await;
    let outputs = system.keys(&system.output_bucket()).await;
    let missing: Vec<_> = (0..IMAGES).map(|i| format!("{i}.png")).filter(|name| !rows.contains_key(name)).collect();
    let dead = system.depth("images-dead").await;
    assert!(missing.is_empty(), "no row of {missing:?}; {} outputs, dead letters {dead:?}", outputs.len());
    assert_eq!(rows.len(), IMAGES);
    for i in 0..IMAGES {
        assert_eq!(rows[&format!("{i}.png")].as_ref(), Ok(&labels[i % labels.len()]));
    }
    assert_eq!(outputs.len(), IMAGES);
    assert_eq!(dead, (0, 0));
}

/// A worker that starts while SQS throttles waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_start_is_tried_again() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    let asked = AtomicU32::new(0);
    proxy.judge(move |call| match call.operation.as_str() {
        "SQS.GetQueueAttributes" if asked.fetch_add(1, Ordering::SeqCst) < 3 => Verdict::Throttle,
        _ => Verdict::Pass,
    });
    let mut worker = system.work(&["--until-empty", "--threads", "1"]);
    assert!(worker.ended(DEADLINE).await.success(), "{}", worker.log());
}

/// Each of the three writes fails for good: the row says so where there can be one, the message is a dead letter, and a
/// redrive heals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_for_good_is_given_up_and_healed_by_a_redrive() {
    for write in ["S3.PutObjectTagging", "S3.PutObject", "DynamoDB.UpdateItem"] {
        let proxy = Proxy::start(ministack().await).await;
        let system = System::new(ministack().await, &proxy.url).await;
        let short = (QueueAttributeName::VisibilityTimeout, "2".to_owned());
        system.set_queue(&[short, system.redrive_after(2).await]).await;
        system.put("a.png", &picture(1)).await;
        proxy.judge(move |call| if call.operation == write { Verdict::Fail } else { Verdict::Pass });
        let worker = system.work(&["--threads", "1"]);
        eventually("a dead letter", async || (system.depth("images-dead").await.0 == 1).then_some(())).await;
        let rows = system.rows().await;
        if write == "DynamoDB.UpdateItem" {
            assert!(rows.is_empty(), "{rows:?}");
        } else {
            let error = rows["a.png"].as_ref().unwrap_err();
            assert!(error.contains("gave up"), "{error}");
        }
        proxy.judge(|_| Verdict::Pass);
        let redriven = system.tool(&["queue", "redrive"]).output().unwrap();
        assert!(redriven.status.success(), "{}", String::from_utf8_lossy(&redriven.stderr));
        eventually("the result", async || system.rows().await.get("a.png").is_some_and(Result::is_ok).then_some(()))
            .await;
        assert_eq!(system.depth("images-dead").await, (0, 0), "{}", worker.log());
    }
}

/// SIGTERM with ten received, one classified and held at its row, the others held at their download.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_hands_back_at_once_and_finishes_what_it_began() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    for i in 0..10 {
        system.put(&format!("{i}.png"), &picture(i)).await;
    }
    proxy.judge(|call| match call.operation.as_str() {
        "S3.GetObject" if !call.path.contains("/in/0.png") => Verdict::Hold,
        "DynamoDB.UpdateItem" if String::from_utf8_lossy(&call.body).contains("0.png") => Verdict::Hold,
        _ => Verdict::Pass,
    });
    let mut worker = system.work(&["--threads", "1"]);
    eventually("the row's write, and ten in flight", async || {
        let writing = proxy.counts().get("DynamoDB.UpdateItem").is_some_and(|n| *n > 0);
        (writing && system.depth("images").await == (0, 10)).then_some(())
    })
    .await;
    worker.terminate();
    let stopped = Instant::now();
    eventually("nine visible again", async || (system.depth("images").await.0 == 9).then_some(())).await;
    println!("nine messages are visible again after {:?}", stopped.elapsed());
    // Far below the visibility time-out of 30 s, after which they would be visible by themselves.
    assert!(stopped.elapsed() < Duration::from_secs(10));
    proxy.judge(|call| if call.operation == "S3.GetObject" { Verdict::Hold } else { Verdict::Pass });
    assert!(worker.ended(Duration::from_secs(30)).await.success(), "{}", worker.log());
    assert_eq!(system.depth("images").await, (9, 0));
    let rows = system.rows().await;
    assert!(rows.len() == 1 && rows["0.png"].is_ok(), "{rows:?}");
}

/// A reset while images are in work and more are uploaded: nothing older comes back, nothing newer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_draws_a_line_through_a_running_system() {
    let system = System::new(ministack().await, ministack().await).await;
    system.set_queue(&[(QueueAttributeName::VisibilityTimeout, "5".to_owned())]).await;
    let pictures = pictures();
    let (_serve, url) = system.serve();
    let client = client();
    upload(&client, &url, (0..500usize).map(|i| (format!("old {i}.png"), pictures[i % pictures.len()].clone()))).await;
    let worker = system.work(&["--threads", "1"]);
    eventually("work", async || (system.rows().await.len() > 20).then_some(())).await;
    let reset = tokio::process::Command::from(system.tool(&["reset", "--yes"])).output();
    let (reset, more) = tokio::join!(reset, async {
        let mut more = Vec::new();
        for i in 0..50usize {
            let at = Instant::now();
            system.put(&format!("new {i}.png"), &pictures[i % pictures.len()]).await;
            more.push((format!("new {i}.png"), at));
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
        more
    });
    let reset = reset.unwrap();
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    let after: Vec<String> = (0..30usize).map(|i| format!("after {i}.png")).collect();
    upload(&client, &url, after.iter().enumerate().map(|(i, n)| (n.clone(), pictures[i % pictures.len()].clone())))
        .await;
    eventually("an empty queue", async || (system.depth("images").await == (0, 0)).then_some(())).await;
    let stored: BTreeSet<String> =
        system.keys(&system.bucket()).await.into_iter().map(|k| k["in/".len()..].to_owned()).collect();
    let page = crate::support::results(&client, &url).await;
    let shown: BTreeSet<String> = page.iter().map(|r| r["image"].as_str().unwrap().to_owned()).collect();
    assert!(shown.iter().all(|name| !name.starts_with("old")), "{shown:?}; {}", worker.log());
    assert_eq!(shown, stored, "what is stored has a result, and nothing else has");
    assert!(after.iter().all(|name| shown.contains(name)));
    // Once one of the uploads that went on meanwhile has survived, all later ones have.
    let survived: Vec<bool> = more.iter().map(|(name, _)| shown.contains(name)).collect();
    assert!(survived.windows(2).all(|pair| !pair[0] || pair[1]), "{survived:?}");
    assert_eq!(survived.last(), Some(&true));
}
