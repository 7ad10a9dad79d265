//! The worker on the real local backend, with the embedded model.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Settings, Summary, Worker, fate::Fate, lease::Leases, publish::publish};
use crate::{
    backend::{Backend, Host, Upload, UploadBytes, Which, local, remove, requeue},
    clock::{Clock, ManualClock, SystemClock},
    config::Raw,
    contract::{self, Classification, Digest, ImageName, Outcome, Sequencer, Timestamp, result::output_key},
    model::{Bundle, Classifier, Engine, Limits, Parallel, Score, undecided},
    telemetry,
};

/// Bytes that decoding may take.
const BUDGET: u64 = 4 << 20;

struct Fixture {
    backend: Backend,
    metrics: Arc<Metrics>,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(visibility_timeout: Duration, max_receives: u32) -> Self {
        Self::with_clock(visibility_timeout, max_receives, Arc::new(SystemClock))
    }

    fn with_clock(visibility_timeout: Duration, max_receives: u32, clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Raw { data_dir: dir.path().to_owned(), ..Raw::default() }.local().unwrap();
        config.queue.visibility_timeout = visibility_timeout;
        config.queue.max_receives = max_receives;
        let (backend, _) = local::open(&config, clock).unwrap();
        Self { backend, metrics: Metrics::new(), dir }
    }

    async fn put(&self, name: &str, bytes: &[u8]) -> ImageName {
        let upload = Upload {
            name: name.parse().unwrap(),
            bytes: UploadBytes::Memory(bytes.to_vec().into()),
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            media_type: "image/png",
        };
        self.backend.images.put(&upload).await.unwrap().image
    }

    /// Works until the queue is empty.
    async fn work(&self) -> Summary {
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), Parallel::one(1)).unwrap();
        let settings = Settings {
            worker: "test".into(),
            threads: 1,
            batch: 4,
            receivers: 2,
            pixel_budget: BUDGET,
            limits: Limits::default(),
            min_confidence: 0.0,
            until_empty: true,
        };
        let stop = CancellationToken::new();
        let worker = Worker {
            backend: self.backend.clone(),
            instance: Arc::new(Host::default()),
            classifier: Arc::new(classifier),
            clock: Arc::new(SystemClock),
            metrics: Arc::clone(&self.metrics),
            settings,
        };
        let running = worker.run(stop);
        tokio::time::timeout(Duration::from_secs(120), running).await.unwrap().unwrap()
    }
}

/// The value of a metric, told by its name and labels as Prometheus writes them.
fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = telemetry::metrics::text(metrics.as_ref()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn outcomes<const N: usize>(metrics: &Metrics, outcomes: [&str; N]) -> [f64; N] {
    outcomes.map(|outcome| metric(metrics, &format!("imgcls_worker_images_total{{outcome=\"{outcome}\"}}")))
}

fn picture(seed: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(30, 20, |x, y| image::Rgb([seed, (x * 8) as u8, (y * 12) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn close_calls_are_decided_in_full_detail() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    fixture.put("clear.png", &picture(1)).await;
    let mut labels = Vec::new();
    for (n, (bytes, label)) in undecided().iter().enumerate() {
        labels.push((fixture.put(&format!("{n}.jpg"), bytes).await, label));
    }
    assert_eq!(fixture.work().await, Summary { done: labels.len() as u64 + 1, failed: 0 });
    assert_eq!(metric(&fixture.metrics, "imgcls_worker_second_looks_total"), labels.len() as f64);
    for (image, label) in labels {
        let row = &fixture.backend.results.get(&[image]).await.unwrap()[0];
        assert_eq!(row.outcome.label(), Some(&**label), "{row:?}");
    }
}

fn bmp(side: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(side, side).write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

/// The only file below `images/`.
fn stored_file(dir: &Path) -> std::path::PathBuf {
    let mut found = vec![dir.join("images")];
    while let Some(path) = found.pop() {
        if path.is_file() {
            return path;
        }
        found.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
    }
    panic!("no file is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_work_is_dropped_and_the_rest_is_done() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    for n in 0..9 {
        fixture.put(&format!("{n}.png"), &picture(n)).await;
    }
    let bad = fixture.put("bad.png", b"this is no picture").await;
    let foreign = ["hello".to_owned(), "s3://elsewhere/1.png".to_owned(), r#"{"Event":"s3:TestEvent"}"#.to_owned()];
    fixture.backend.queue.send(&foreign).await.unwrap();
    assert_eq!(fixture.work().await, Summary { done: 9, failed: 1 });
    let told = outcomes(&fixture.metrics, ["done", "failed", "discarded", "retried", "handed_back", "gave_up"]);
    assert_eq!(told, [9.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
    let count =
        |stage| metric(&fixture.metrics, &format!("imgcls_worker_stage_duration_seconds_count{{stage=\"{stage}\"}}"));
    // The picture that is none fails before it is decoded.
    assert_eq!(["fetch", "decode", "publish"].map(count), [10.0, 9.0, 10.0]);
    assert!(["receive", "infer", "delete"].map(count).iter().all(|n| *n >= 1.0));
    assert_eq!(metric(&fixture.metrics, "imgcls_worker_in_flight"), 0.0);
    let depth = fixture.backend.queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight, depth.dead), (0, 0, 0));
    let row = &fixture.backend.results.get(&[bad]).await.unwrap()[0];
    assert!(row.outcome.error().is_some_and(|e| e.contains("not")), "{row:?}");
    let good = &fixture.backend.results.get(&["3.png".parse().unwrap()]).await.unwrap()[0];
    let label = good.outcome.label().unwrap();
    assert_eq!(fixture.backend.tags.get(&good.image).await.unwrap()["Classification"], label);
    let output = fixture.backend.outputs.get(&good.output_key().unwrap()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output).unwrap()["label"], label);
    let beats = fixture.backend.workers.heartbeats().await.unwrap();
    assert_eq!((beats[0].done, beats[0].failed, beats[0].draining), (9, 1, true));
    assert_eq!(beats[0].model, good.model);
}

/// Two batches of four are what the worker of these tests works on at once; it holds up to 28.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_measures_its_rate_while_it_has_more_than_two_batches_to_do() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    for n in 0..8 {
        fixture.put(&format!("few-{n}.png"), &picture(n)).await;
    }
    fixture.work().await;
    let beat = fixture.backend.workers.heartbeats().await.unwrap().remove(0);
    assert_eq!((beat.done, beat.busy_images, beat.busy_ms), (8, 0, 0));
    for n in 0..60 {
        fixture.put(&format!("many-{n}.png"), &picture(n)).await;
    }
    fixture.work().await;
    let beat = fixture.backend.workers.heartbeats().await.unwrap().remove(0);
    // The last ones are never more than two batches.
    assert!(beat.done == 60 && (1..60).contains(&beat.busy_images), "{beat:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_given_up_and_can_be_redriven() {
    let fixture = Fixture::new(Duration::from_secs(30), 1);
    let image = fixture.put("x.png", &picture(1)).await;
    let file = stored_file(fixture.dir.path());
    std::fs::rename(&file, file.with_extension("away")).unwrap();
    std::fs::create_dir(&file).unwrap();
    fixture.work().await;
    assert_eq!(outcomes(&fixture.metrics, ["done", "failed", "retried", "gave_up"]), [0.0, 0.0, 0.0, 1.0]);
    let row = fixture.backend.results.get(std::slice::from_ref(&image)).await.unwrap().remove(0);
    assert!(row.outcome.error().is_some_and(|e| e.starts_with("gave up: ")), "{row:?}");
    assert_eq!(fixture.backend.queue.depth().await.unwrap().dead, 1);

    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(file.with_extension("away"), &file).unwrap();
    assert_eq!(fixture.backend.dead_letters.redrive().await.unwrap(), 1);
    assert_eq!(fixture.work().await, Summary { done: 1, failed: 0 });
    let row = fixture.backend.results.get(&[image]).await.unwrap().remove(0);
    assert!(row.outcome.label().is_some(), "{row:?}");
}

/// The output objects of an image.
async fn outputs(fixture: &Fixture, row: &Classification) -> Option<Vec<u8>> {
    fixture.backend.outputs.get(&row.output_key()?).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_after_the_clock_was_set_back_keeps_the_output() {
    let clock = Arc::new(ManualClock::at(1_790_000_000_000));
    let fixture = Fixture::with_clock(Duration::from_secs(30), 10, Arc::<ManualClock>::clone(&clock));
    let image = fixture.put("x.png", &picture(1)).await;
    assert_eq!(fixture.work().await, Summary { done: 1, failed: 0 });
    clock.set_back(Duration::from_secs(3600));
    assert_eq!(requeue(&fixture.backend, Which::All, "").await.unwrap(), 1);
    assert_eq!(fixture.work().await, Summary { done: 1, failed: 0 });
    let row = fixture.backend.results.get(&[image]).await.unwrap().remove(0);
    assert!(outputs(&fixture, &row).await.is_some(), "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_model_classified_can_be_classified_again() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    let image = fixture.put("x.png", &picture(1)).await;
    assert_eq!(fixture.work().await, Summary { done: 1, failed: 0 });
    let row = fixture.backend.results.get(&[image]).await.unwrap().remove(0);
    assert!(row.model.starts_with(Bundle::EMBEDDED_NAME) && row.model.contains('@'), "{row:?}");
    assert_eq!(requeue(&fixture.backend, Which::Stale, &row.model).await.unwrap(), 0);
    assert_eq!(requeue(&fixture.backend, Which::Stale, "other@01234567").await.unwrap(), 1);
}

/// A result for `image` as a worker publishes it.
fn published(image: &ImageName, label: &str, event: Option<&Sequencer>, bytes: Option<&Sequencer>) -> Classification {
    let scores = vec![Score { label: label.to_owned(), confidence: 1.0 }];
    Classification {
        image: image.clone(),
        outcome: Outcome::labelled(scores).unwrap(),
        location: String::new(),
        model: String::new(),
        worker: label.into(),
        classified_at: time::OffsetDateTime::UNIX_EPOCH,
        sequencer: event.cloned(),
        image_sequencer: bytes.cloned(),
        asked_at: Timestamp::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_an_image_that_was_replaced_takes_nothing_from_the_new_one() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    let Backend { images, outputs, tags, results, .. } = &fixture.backend;
    let image = fixture.put("x.png", &picture(1)).await;
    let old = images.get(&image, 1 << 20).await.unwrap().sequencer;
    assert!(remove(&fixture.backend, &image).await.unwrap());
    fixture.put("x.png", &picture(2)).await;
    let new = images.get(&image, 1 << 20).await.unwrap().sequencer;
    assert_ne!(old, new);
    let stored = published(&image, "cat", new.as_ref(), new.as_ref());
    // What comes late has the old event, or none, since it was asked for again; its label is that of the new image, or
    // another one.
    let late = ["cat", "dog"].map(|label| {
        [published(&image, label, old.as_ref(), old.as_ref()), published(&image, label, None, old.as_ref())]
    });
    for late in late.as_flattened() {
        assert_eq!(publish(&fixture.backend, late).await.unwrap(), Fate::Discarded, "before the new one");
        assert!(results.get(std::slice::from_ref(&image)).await.unwrap().is_empty());
        assert_eq!(outputs.get(&late.output_key().unwrap()).await.unwrap(), None);
    }
    assert_eq!(publish(&fixture.backend, &stored).await.unwrap(), Fate::Done);
    for late in late.as_flattened() {
        assert_eq!(publish(&fixture.backend, late).await.unwrap(), Fate::Discarded, "after the new one");
        let body = outputs.get("x.png_cat").await.unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["sequencer"], new.as_ref().unwrap().as_str());
        assert_eq!(outputs.get("x.png_dog").await.unwrap(), None);
        assert_eq!(tags.get(&image).await.unwrap()["Classification"], "cat");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_label_takes_the_output_of_the_one_before_along_and_a_failure_the_tags_too() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    let Backend { images, outputs, tags, .. } = &fixture.backend;
    let image = fixture.put("x.png", &picture(1)).await;
    let sequencer = images.get(&image, 1 << 20).await.unwrap().sequencer;
    let result = |label| published(&image, label, sequencer.as_ref(), sequencer.as_ref());
    let failed = Classification { outcome: Outcome::Failed { error: "no".into() }, ..result("x") };
    for (result, left) in
        [(result("cat"), Some("cat")), (result("dog"), Some("dog")), (failed, None), (result("cat"), Some("cat"))]
    {
        assert_eq!(publish(&fixture.backend, &result).await.unwrap(), Fate::from(&result.outcome));
        for label in ["cat", "dog"] {
            let output = outputs.get(&format!("x.png_{label}")).await.unwrap();
            assert_eq!(output.is_some(), left == Some(label), "{label} after {result:?}");
        }
        assert_eq!(tags.get(&image).await.unwrap().get("Classification").map(String::as_str), left);
    }
}

/// A worker that ended between output and row, and one with another model after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_output_that_another_model_left_before_its_row_goes() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    let Backend { images, outputs, tags, .. } = &fixture.backend;
    let image = fixture.put("x.png", &picture(1)).await;
    let sequencer = images.get(&image, 1 << 20).await.unwrap().sequencer;
    let result = |label| published(&image, label, sequencer.as_ref(), sequencer.as_ref());
    let left = result("fire engine");
    tags.set(&image, &contract::tags::tags(&left)).await.unwrap();
    outputs.put("x.png_fire_engine", serde_json::to_vec(&left).unwrap()).await.unwrap();
    // Somebody's tag names what is the output of another image.
    let other: ImageName = "x.png_y.png".parse().unwrap();
    outputs.put("x.png_y.png_cat", serde_json::to_vec(&published(&other, "cat", None, None)).unwrap()).await.unwrap();

    assert_eq!(publish(&fixture.backend, &result("dog")).await.unwrap(), Fate::Done);
    assert_eq!(outputs.get("x.png_fire_engine").await.unwrap(), None);
    tags.set(&image, &[("Classification", Some("y.png_cat".to_owned()))]).await.unwrap();
    assert_eq!(publish(&fixture.backend, &result("dog")).await.unwrap(), Fate::Done);
    assert!(outputs.get("x.png_dog").await.unwrap().is_some());
    assert!(outputs.get("x.png_y.png_cat").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_the_visibility_timeout_until_it_is_released() {
    let fixture = Fixture::new(Duration::from_secs(1), 10);
    fixture.put("x.png", &picture(1)).await;
    let queue = Arc::clone(&fixture.backend.queue);
    let message = queue.receive(10, Duration::from_secs(1)).await.unwrap().remove(0);
    let leases = Arc::new(Leases::new(Arc::clone(&queue)));
    leases.take([&message.receipt], Instant::now());
    let stop = CancellationToken::new();
    let (keeper, stopped) = (Arc::clone(&leases), stop.clone());
    let keeping = tokio::spawn(async move { keeper.keep(stopped).await });
    // Three time-outs long nobody else gets it.
    assert!(queue.receive(10, Duration::from_secs(3)).await.unwrap().is_empty());
    leases.release(&message.receipt, Duration::ZERO).await;
    let again = queue.receive(10, Duration::from_secs(5)).await.unwrap().remove(0);
    assert_eq!((again.id, again.receive_count), (message.id, 2));
    stop.cancel();
    keeping.await.unwrap();
}

/// A worker that ended between output and row leaves an output that nothing leads to when its image is removed then.
#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_an_image_that_is_gone_goes_when_its_message_comes_again() {
    let fixture = Fixture::new(Duration::from_secs(1), 10);
    let Backend { images, outputs, queue, .. } = &fixture.backend;
    let image = fixture.put("x.png", &picture(1)).await;
    let label = &Bundle::embedded().unwrap().labels[3];
    let left = output_key(&image, label);
    assert_eq!(queue.receive(10, Duration::from_secs(1)).await.unwrap().len(), 1);
    outputs.put(&left, b"{}".to_vec()).await.unwrap();
    outputs.put("x.png_x.png", b"{}".to_vec()).await.unwrap();
    assert!(remove(&fixture.backend, &image).await.unwrap());
    assert!(!images.exists(&image).await.unwrap());
    assert_eq!(fixture.work().await, Summary { done: 0, failed: 0 });
    assert_eq!(outputs.get(&left).await.unwrap(), None);
    // That of another image.
    assert!(outputs.get("x.png_x.png").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_take_too_much_memory_are_told_so_and_large_ones_are_done() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    // A quarter of the budget makes an image large.
    let large = fixture.put("large.bmp", &bmp(700)).await;
    let huge = fixture.put("huge.bmp", &bmp(1200)).await;
    let small = fixture.put("small.png", &picture(1)).await;
    assert_eq!(fixture.work().await, Summary { done: 2, failed: 1 });
    let rows = fixture.backend.results.get(&[large, huge, small]).await.unwrap();
    let huge = rows.iter().find(|row| row.image.as_str() == "huge.bmp").unwrap();
    let Outcome::Failed { error } = &huge.outcome else { panic!("{huge:?}") };
    assert!(error.contains("1200 x 1200") && error.contains("worker.pixel_budget"), "{error}");
}

/// All of its coefficients take 6 MB, more than the budget.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_progressive_photo_is_done_within_the_budget() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    let file: &[u8] = include_bytes!("../../tests/fixtures/large-progressive.jpg");
    fixture.put("large.jpg", file).await;
    assert_eq!(fixture.work().await, Summary { done: 1, failed: 0 });
}

/// Small files that take much to decode had all the room for files while they waited for the large file, which waited
/// for that room.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_large_in_different_ways_do_not_wait_for_each_other_for_ever() {
    let fixture = Fixture::new(Duration::from_secs(30), 10);
    for n in 0..20 {
        if n % 7 == 0 {
            let mut large = picture(n);
            large.resize(5 << 20, 0);
            fixture.put(&format!("{n}.png"), &large).await;
        } else {
            fixture.put(&format!("{n}.bmp"), &bmp(620 + u32::from(n))).await;
        }
    }
    assert_eq!(fixture.work().await, Summary { done: 20, failed: 0 });
}
