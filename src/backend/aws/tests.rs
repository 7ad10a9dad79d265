//! The backend on emulators: what is particular to it. What all backends have in common is in the contract suite.

use std::{collections::HashSet, time::Duration};

use aws_sdk_sqs::types::QueueAttributeName;
use time::OffsetDateTime;

use super::{
    client::Clients,
    fleet::AutoScalingFleet,
    images::S3Images,
    open_with,
    setup::{Action, Setup, Step},
};
use crate::{
    backend::{
        Backend, ErrorKind, Fleet, Heartbeat, Images, Message, PageQuery, Receipt, Removed, Tally, Upload, Written,
        suite::{Environment, contract_suite},
    },
    clock::{Clock, SystemClock},
    config::Aws,
    contract::{Classification, Digest, ImageName, Outcome, Score, Sequencer, WorkerId, event},
};

const MINUTE: Duration = Duration::from_secs(60);

#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../../tests/aws/emulator.rs"]
pub(super) mod emulator;

mod suite {
    use super::contract_suite;

    contract_suite!(super::super::environment);
}

/// A system for one case of the suite, whose messages come back after two seconds.
async fn environment() -> Environment {
    let system = System::new("in/").await;
    let url = system.clients.sqs.get_queue_url().queue_name("images").send().await.unwrap().queue_url.unwrap();
    let set = system.clients.sqs.set_queue_attributes().queue_url(url);
    set.attributes(QueueAttributeName::VisibilityTimeout, "2").send().await.unwrap();
    let open = || async { open_with(system.clients.clone(), &system.config).await.unwrap() };
    Environment {
        backend: open().await,
        other: open().await,
        advance: Box::new(|by| Box::pin(tokio::time::sleep(by))),
        patience: Duration::from_secs(3),
        refuses_stale_receipts: false,
        knows_removed_images: false,
        set_back: None,
        spool: system.dir.path().to_owned(),
        _guards: vec![Box::new(system.dir)],
    }
}

/// A system of its own on the shared emulator.
struct System {
    backend: Backend,
    config: Aws,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl System {
    async fn new(prefix: &str) -> Self {
        let account = emulator::account();
        let config = Aws {
            bucket: format!("in-{account}"),
            prefix: prefix.to_owned(),
            output_bucket: format!("out-{account}"),
            queue_url: "images".to_owned(),
            endpoint_url: Some(emulator::shared_ministack().to_owned()),
            table: "Classifications".to_owned(),
            ..Aws::default()
        };
        let clients = Clients::of_emulator(&config, &account).await;
        set_up(&clients, &config, false).await;
        let backend = open_with(clients.clone(), &config).await.unwrap();
        // The bucket greets a queue that it is told to notify; the tests count messages.
        for greeting in backend.queue.receive(10, Duration::from_secs(5)).await.unwrap() {
            assert!(greeting.body.contains("s3:TestEvent"), "{greeting:?}");
            backend.queue.delete(&[greeting.receipt]).await.unwrap();
        }
        Self { backend, config, clients, dir: tempfile::tempdir().unwrap() }
    }

    fn upload(&self, name: &str, bytes: &[u8]) -> Upload {
        let digest = Digest::of(bytes);
        let path = self.dir.path().join(format!("{}-{}", digest.to_hex(), rand::random::<u64>()));
        std::fs::write(&path, bytes).unwrap();
        let name = ImageName::from_upload(name, &digest).unwrap();
        Upload { name, path, size: bytes.len() as u64, digest, media_type: "image/png" }
    }

    async fn receive(&self, count: usize) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.extend(self.backend.queue.receive(10, Duration::from_secs(1)).await.unwrap());
            if all.len() >= count {
                break;
            }
        }
        all
    }
}

/// Sets up what `config` names, and answers the steps.
async fn set_up(clients: &Clients, config: &Aws, dry_run: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut tell = |step| steps.push(step);
    Setup { clients: clients.clone(), config, dry_run, tell: &mut tell }.run().await.unwrap();
    steps
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn result(image: &str, label: &str, sequencer: Option<u64>) -> Classification {
    Classification {
        image: name(image),
        outcome: Outcome::labelled(vec![Score { label: label.into(), confidence: 0.5 }]).unwrap(),
        location: format!("s3://b/{image}"),
        model: "m".into(),
        worker: "w".into(),
        classified_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
        sequencer: sequencer.map(Sequencer::from_counter),
        image_sequencer: None,
        asked_at: SystemClock.now(),
    }
}

#[tokio::test]
async fn an_upload_comes_back_as_an_event_and_as_bytes() {
    let system = System::new("in/").await;
    let images = &system.backend.images;
    let odd = ["a b+ü(1).png", "100%.png", "日本 & 'x'.jpg", "a=b;c,d@e$.gif", "🦀~!.png"];
    for text in odd {
        let put = images.put(&system.upload(text, text.as_bytes())).await.unwrap();
        assert_eq!((put.image.as_str(), put.created), (text, true));
    }
    let messages = system.receive(odd.len()).await;
    let mut seen = HashSet::new();
    for message in messages {
        for event in event::parse(&message.body).unwrap() {
            let image = images.image_of(&event).unwrap();
            assert_eq!(images.get(&image, 1000).await.unwrap().bytes, image.as_str().as_bytes());
            seen.insert(image);
        }
    }
    assert_eq!(seen, odd.map(name).into());
    assert_eq!(images.get(&name("100%.png"), 3).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(images.get(&name("none.png"), 3).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A key as form-urlencoded text, whose `/` stays: AWS and ministack.
fn form_encoded(key: &str) -> String {
    url_encoded(key).replace("%20", "+")
}

/// A key as form-urlencoded text, whose `/` is encoded too: moto.
fn all_form_encoded(key: &str) -> String {
    form_encoded(key).replace('/', "%2F")
}

/// A key as in a URL, whose spaces are `%20`: LocalStack and its like.
fn url_encoded(key: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');
    percent_encoding::utf8_percent_encode(key, KEPT).to_string()
}

#[tokio::test]
async fn every_name_comes_back_from_every_kind_of_event_of_our_bucket_alone() {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    let config = Aws { endpoint_url: Some("http://127.0.0.1:9".into()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, "100000000000").await;
    let images = S3Images::new(clients.s3, "in-bucket", "in/");
    let image_in = |bucket: &str, key: &str, wrapped: bool| {
        let object = serde_json::json!({"key": key, "size": 7, "sequencer": "0055AED6DCD90281E5"});
        let record = serde_json::json!({"eventVersion": "2.1", "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": object}});
        let mut body = serde_json::json!({ "Records": [record] }).to_string();
        if wrapped {
            body = serde_json::json!({"Type": "Notification", "TopicArn": "t", "Message": body}).to_string();
        }
        let events = event::parse(&body).unwrap();
        assert_eq!(events.len(), 1);
        images.image_of(&events[0])
    };
    proptest!(|(text in any::<String>(), mark in "[+% &()=é🦀]{0,3}", wrapped: bool)| {
        let uploaded = format!("{text}{mark}.png");
        let Ok(image) = ImageName::from_upload(&uploaded, &Digest::of(uploaded.as_bytes())) else { return Ok(()) };
        for encode in [form_encoded, all_form_encoded, url_encoded] {
            let key = encode(&format!("in/{image}"));
            prop_assert_eq!(image_in("in-bucket", &key, wrapped), Some(image.clone()));
            prop_assert_eq!(image_in("out-bucket", &key, wrapped), None);
            prop_assert_eq!(image_in("in-bucket", &encode(&format!("other/{image}")), wrapped), None);
        }
    });
}

#[tokio::test]
async fn racing_uploads_of_one_name_all_survive() {
    let system = System::new("").await;
    let images = &system.backend.images;
    let puts = (0..8u8).map(|i| {
        let upload = system.upload("cat.png", &[i / 2; 64]);
        async move { images.put(&upload).await.map(|put| (put, i / 2)) }
    });
    let puts = futures_util::future::try_join_all(puts).await.unwrap();
    assert_eq!(puts.iter().filter(|(put, _)| put.created).count(), 4);
    for (put, byte) in puts {
        assert_eq!(images.get(&put.image, 64).await.unwrap().bytes, [byte; 64]);
    }
}

#[tokio::test]
async fn an_object_of_another_tool_is_compared_by_its_bytes() {
    let system = System::new("").await;
    let put =
        system.clients.s3.put_object().bucket(&system.config.bucket).key("x.png").body(b"same"[..].to_vec().into());
    put.send().await.unwrap();
    let put = system.backend.images.put(&system.upload("x.png", b"same")).await.unwrap();
    assert_eq!((put.image.as_str(), put.created), ("x.png", false));
    let put = system.backend.images.put(&system.upload("x.png", b"else")).await.unwrap();
    assert_eq!((put.image, put.created), (name("x.png").with_hash(&Digest::of(b"else"), 8), true));
}

#[tokio::test]
async fn foreign_tags_are_kept_and_cost_a_call_only_where_there_are_some() {
    let system = System::new("").await;
    let images = &system.backend.images;
    let put = system.clients.s3.put_object().bucket(&system.config.bucket).key("t.png").tagging("owner=me&Image=old");
    put.body(b"x"[..].to_vec().into()).send().await.unwrap();
    images.get(&name("t.png"), 10).await.unwrap();
    let tags = [("Image", Some("t.png".to_owned())), ("Classification", Some("crane _bird_".to_owned()))];
    system.backend.tags.set(&name("t.png"), &tags).await.unwrap();
    let got = system.backend.tags.get(&name("t.png")).await.unwrap();
    let want = [("Classification", "crane _bird_"), ("Image", "t.png"), ("owner", "me")];
    assert_eq!(got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
    assert_eq!(system.backend.tags.set(&name("gone.png"), &tags).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn versions_go_with_the_image() {
    let system = System::new("").await;
    let enabled = aws_sdk_s3::types::VersioningConfiguration::builder()
        .status(aws_sdk_s3::types::BucketVersioningStatus::Enabled)
        .build();
    let (s3, bucket) = (&system.clients.s3, &system.config.bucket);
    s3.put_bucket_versioning().bucket(bucket).versioning_configuration(enabled).send().await.unwrap();
    for (key, body) in [("v.png", "1"), ("v.png", "2"), ("v.png.bak", "3")] {
        s3.put_object().bucket(bucket).key(key).body(body.as_bytes().to_vec().into()).send().await.unwrap();
    }
    // Opened anew: whether a bucket keeps versions is read once.
    let images = S3Images::new(s3.clone(), bucket, "");
    assert!(images.delete(&name("v.png")).await.unwrap());
    assert!(!images.delete(&name("v.png")).await.unwrap());
    let left = s3.list_object_versions().bucket(bucket).send().await.unwrap();
    let left: Vec<_> = left.versions().iter().filter_map(|v| v.key()).collect();
    assert_eq!(left, ["v.png.bak"]);
}

#[tokio::test]
async fn listings_page_and_leave_folders_out() {
    let system = System::new("in/").await;
    for i in 0..5 {
        system.backend.images.put(&system.upload(&format!("{i}.png"), &[i])).await.unwrap();
    }
    for key in ["in/0/deep.png", "in/2.png.d/x", "other.png"] {
        let put = system.clients.s3.put_object().bucket(&system.config.bucket).key(key);
        put.body(b"x"[..].to_vec().into()).send().await.unwrap();
    }
    let mut all = Vec::new();
    loop {
        let page = system.backend.images.list(all.last(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all, ["0.png", "1.png", "2.png", "3.png", "4.png"].map(name));
}

#[tokio::test]
async fn stale_receipts_and_gone_messages_are_no_errors() {
    let system = System::new("").await;
    let queue = &system.backend.queue;
    let bodies: Vec<String> = (0..25).map(|i| format!("s3://b/{i}.png")).collect();
    queue.send(&bodies).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, 25);
    let messages = system.receive(25).await;
    assert_eq!(messages.iter().map(|m| m.body.clone()).collect::<HashSet<_>>(), bodies.into_iter().collect());
    let receipts: Vec<Receipt> = messages.iter().map(|m| m.receipt.clone()).collect();
    assert_eq!(queue.delete(&receipts[..12]).await.unwrap(), []);
    assert_eq!(queue.delete(&receipts[..1]).await.unwrap(), []);
    let stale = queue.extend(&receipts, Duration::ZERO).await.unwrap();
    assert!(stale.iter().all(|r| receipts[..12].contains(r)), "{stale:?}");
    let again = system.receive(13).await;
    assert_eq!(again.len(), 13);
    assert!(again.iter().all(|m| m.receive_count == 2));
}

#[tokio::test]
async fn dead_letters_are_listed_redriven_and_dropped() {
    let system = System::new("").await;
    let queue = &system.backend.queue;
    assert_eq!(queue.policy().max_receives, Some(10));
    queue.send(&["s3://b/poison.png".to_owned(), "s3://b/other.png".to_owned()]).await.unwrap();
    for _ in 0..10 {
        let receipts: Vec<_> = system.receive(2).await.into_iter().map(|m| m.receipt).collect();
        assert_eq!(receipts.len(), 2);
        queue.extend(&receipts, Duration::ZERO).await.unwrap();
    }
    assert!(queue.receive(10, Duration::from_secs(1)).await.unwrap().is_empty());
    assert_eq!(queue.depth().await.unwrap().dead, 2);
    let dead = system.backend.dead_letters.list(10).await.unwrap();
    assert_eq!(
        dead.iter().map(|d| d.body.as_str()).collect::<HashSet<_>>(),
        ["s3://b/poison.png", "s3://b/other.png"].into()
    );
    assert_eq!(system.backend.dead_letters.redrive().await.unwrap(), 2);
    let messages = system.receive(2).await;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].receive_count, 1);
    assert_eq!(queue.depth().await.unwrap().dead, 0);
    assert_eq!(system.backend.dead_letters.drop_all().await.unwrap(), 0);
}

#[tokio::test]
async fn rows_follow_the_sequencer_and_tell_the_label_before() {
    let system = System::new("").await;
    let results = &system.backend.results;
    let put = async |row: &Classification, released| results.put(row, released).await.unwrap();
    let labelled = |label: &str| Written::Labelled(label.to_owned());
    assert_eq!(put(&result("a.png", "cat", Some(5)), None).await, Written::Stored);
    assert_eq!(put(&result("a.png", "dog", Some(4)), None).await, Written::Stale);
    assert_eq!(put(&result("a.png", "dog", None), None).await, labelled("cat"));
    assert_eq!(put(&result("a.png", "dog", None), Some("hen")).await, labelled("cat"));
    assert_eq!(put(&result("a.png", "dog", None), Some("cat")).await, Written::Stored);
    assert_eq!(put(&result("a.png", "fox", Some(4)), Some("dog")).await, Written::Stale);
    let failed = Classification { outcome: Outcome::Failed { error: "no".into() }, ..result("a.png", "", Some(6)) };
    assert_eq!(put(&failed, None).await, labelled("dog"));
    assert_eq!(put(&failed, Some("dog")).await, Written::Stored);
    let got = results.get(&[name("a.png"), name("none.png"), name("a.png")]).await.unwrap();
    assert_eq!(got, std::slice::from_ref(&failed));
    assert_eq!(results.delete(&name("a.png"), None).await.unwrap(), Removed::Row);
    assert_eq!(results.delete(&name("a.png"), None).await.unwrap(), Removed::Nothing);
}

#[tokio::test]
async fn pages_merge_the_shards_in_natural_order() {
    let system = System::new("").await;
    let results = &system.backend.results;
    let rows: Vec<_> =
        (0..300).map(|i| result(&format!("{i}_x.png"), if i % 7 == 0 { "cat" } else { "dog" }, Some(i))).collect();
    for chunk in rows.chunks(50) {
        futures_util::future::try_join_all(chunk.iter().map(|row| results.put(row, None))).await.unwrap();
    }
    let names = |page: &crate::backend::Page| page.results.iter().map(|r| r.image.to_string()).collect::<Vec<_>>();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = results.page(&PageQuery { after, limit: 40, ..PageQuery::default() }).await.unwrap();
        assert_eq!(page.previous.is_some(), !all.is_empty());
        all.extend(names(&page));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(all, (0..300).map(|i| format!("{i}_x.png")).collect::<Vec<_>>());
    let page =
        results.page(&PageQuery { before: Some(name("100_x.png")), limit: 3, ..PageQuery::default() }).await.unwrap();
    assert_eq!(names(&page), ["97_x.png", "98_x.png", "99_x.png"]);
    assert_eq!((page.previous, page.next), (Some(name("97_x.png")), Some(name("99_x.png"))));
    let cats = PageQuery { filter: Some("CAT".into()), limit: 100, ..PageQuery::default() };
    let page = results.page(&cats).await.unwrap();
    assert_eq!((page.results.len(), page.next), (43, None));
    let got = results.get(&rows.iter().map(|r| r.image.clone()).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(got.len(), 300);
}

#[tokio::test]
async fn hidden_rows_hide_no_page() {
    let system = System::new("").await;
    let results = &system.backend.results;
    let now = SystemClock.now();
    for i in 0..60 {
        // In the middle, in every shard, there is much that was asked for before a reset.
        let asked_at = if (10..50).contains(&i) { now - MINUTE } else { now + MINUTE };
        let row = Classification { asked_at, ..result(&format!("{i}.png"), "cat", None) };
        results.put(&row, None).await.unwrap();
    }
    let table = super::results::DynamoResults::open(
        system.clients.dynamodb.clone(),
        &system.config.table,
        std::sync::Arc::new(S3Images::new(system.clients.s3.clone(), &system.config.bucket, "")),
    );
    let table = table.await.unwrap();
    table.set_marker(now).await.unwrap();
    let page = async |query: PageQuery| crate::backend::Results::page(&table, &query).await.unwrap();
    let after = page(PageQuery { after: Some(name("49.png")), limit: 5, ..PageQuery::default() }).await;
    assert_eq!(
        after.results.iter().map(|r| r.image.as_str()).collect::<Vec<_>>(),
        ["50.png", "51.png", "52.png", "53.png", "54.png"]
    );
    assert_eq!((after.previous, after.next), (Some(name("50.png")), Some(name("54.png"))));
    let before = page(PageQuery { before: Some(name("50.png")), limit: 5, ..PageQuery::default() }).await;
    assert_eq!(
        before.results.iter().map(|r| r.image.as_str()).collect::<Vec<_>>(),
        ["5.png", "6.png", "7.png", "8.png", "9.png"]
    );
    assert_eq!((before.previous, before.next), (Some(name("5.png")), Some(name("9.png"))));
}

#[tokio::test]
async fn heartbeats_stay_few_and_lose_nothing() {
    let system = System::new("").await;
    let images = || std::sync::Arc::new(S3Images::new(system.clients.s3.clone(), &system.config.bucket, ""));
    let table = super::results::DynamoResults::open(system.clients.dynamodb.clone(), &system.config.table, images());
    let table = table.await.unwrap();
    let now = SystemClock.now();
    // Beaten now, and looked at a day later: all are gone, but one.
    let day = Duration::from_secs(24 * 3600);
    for i in 0..200 {
        let mut beat = Heartbeat { worker: WorkerId::new("host", i), done: 1, failed: 2, ..Heartbeat::default() };
        beat.labels.insert("cat".into(), 1);
        crate::backend::Registry::beat(&table, &beat).await.unwrap();
    }
    let heartbeats = async || crate::backend::Registry::heartbeats(&table).await.unwrap();
    table.fold_old_beats(now).await.unwrap();
    assert_eq!(heartbeats().await.len(), 200, "whoever may live is left alone");
    for _ in 0..2 {
        table.fold_old_beats(now + day).await.unwrap();
        let beats = heartbeats().await;
        assert_eq!(beats.len(), 64);
        let sum = |of: fn(&Heartbeat) -> u64| beats.iter().map(of).sum::<u64>();
        assert_eq!((sum(|b| b.done), sum(|b| b.failed), sum(|b| b.labels["cat"])), (200, 400, 200));
    }
}

#[tokio::test]
async fn the_scalers_memory_is_swapped_by_version() {
    let system = System::new("").await;
    let scaler = &system.backend.scaler;
    assert_eq!(scaler.read().await.unwrap(), None);
    assert!(scaler.swap(None, "one").await.unwrap());
    assert!(!scaler.swap(None, "two").await.unwrap());
    assert!(scaler.swap(Some(1), "two").await.unwrap());
    assert!(!scaler.swap(Some(1), "three").await.unwrap());
    let now = scaler.read().await.unwrap().unwrap();
    assert_eq!((now.value.as_str(), now.version), ("two", 2));
}

#[tokio::test]
async fn a_reset_removes_what_was_and_discards_what_was_asked_for() {
    let system = System::new("").await;
    let Backend { images, outputs, queue, results, reset, .. } = &system.backend;
    for i in 0..3u8 {
        images.put(&system.upload(&format!("{i}.png"), &[i])).await.unwrap();
        results.put(&result(&format!("{i}.png"), "cat", None), None).await.unwrap();
        outputs.put(&format!("{i}.png_cat"), b"{}".to_vec()).await.unwrap();
    }
    let old = result("late.png", "cat", None);
    let removed = Tally::default();
    reset.reset(&removed).await.unwrap();
    let report = removed.report();
    assert_eq!((report.images, report.outputs, report.messages, report.results), (3, 3, 3, 3));
    assert_eq!(results.put(&old, None).await.unwrap(), Written::Gone);
    assert_eq!(results.page(&PageQuery { limit: 10, ..PageQuery::default() }).await.unwrap().results, []);
    assert!(images.list(None, 10).await.unwrap().is_empty());
    images.put(&system.upload("new.png", b"new")).await.unwrap();
    assert_eq!(system.receive(1).await.len(), 1);
    assert_eq!(results.put(&result("new.png", "dog", None), None).await.unwrap(), Written::Stored);
    assert_eq!(queue.depth().await.unwrap().visible, 0);
}

#[tokio::test]
async fn setup_is_idempotent_and_keeps_what_others_configured() {
    let system = System::new("in/").await;
    let steps = set_up(&system.clients, &system.config, false).await;
    assert!(steps.iter().all(|step| step.action == Action::Kept), "{steps:?}");
    // A dry run does not write the probe.
    assert_eq!(set_up(&system.clients, &system.config, true).await.len() + 1, steps.len());
    // Another prefix of the same bucket gets a notification of its own.
    let config = Aws { prefix: "more/".into(), ..system.config.clone() };
    set_up(&system.clients, &config, false).await;
    let s3 = &system.clients.s3;
    let got = s3.get_bucket_notification_configuration().bucket(&config.bucket).send().await.unwrap();
    assert_eq!(got.queue_configurations().len(), 2);
}

#[tokio::test]
async fn what_is_missing_or_cannot_work_is_refused_with_the_way_out() {
    let system = System::new("").await;
    let open = async |config: Aws| open_with(system.clients.clone(), &config).await.unwrap_err();
    let error = open(Aws { table: "none".into(), ..system.config.clone() }).await;
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("imgcls setup"), "{error}");
    let error = open(Aws { queue_url: "none".into(), ..system.config.clone() }).await;
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("imgcls setup"), "{error}");
    let fifo = system.clients.sqs.create_queue().queue_name("q.fifo");
    let fifo = fifo.attributes(QueueAttributeName::FifoQueue, "true").send().await.unwrap();
    let error = open(Aws { queue_url: fifo.queue_url.unwrap(), ..system.config.clone() }).await;
    assert!(error.to_string().contains("FIFO"), "{error}");
}

#[tokio::test]
async fn the_group_is_observed_and_its_bounds_are_kept() {
    let moto = tokio::task::spawn_blocking(emulator::Emulator::moto).await.unwrap();
    let config = Aws { endpoint_url: Some(moto.url.clone()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, &emulator::account()).await;
    let group = &clients.autoscaling;
    let launch = group.create_launch_configuration().launch_configuration_name("l").image_id("ami-12c6146b");
    launch.instance_type("t2.micro").send().await.unwrap();
    let create = group.create_auto_scaling_group().auto_scaling_group_name("app").launch_configuration_name("l");
    let create = create.min_size(1).max_size(4).desired_capacity(2).availability_zones("eu-central-1a");
    create.new_instances_protected_from_scale_in(true).send().await.unwrap();
    let fleet = AutoScalingFleet::new(group.clone(), "app");
    let state = fleet.observe().await.unwrap();
    assert_eq!((state.min, state.max, state.desired, state.in_service, state.protected), (1, 4, 2, 2, 2));
    fleet.set_desired(99).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().desired, 4);
    fleet.set_desired(0).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().desired, 1);
    let none = AutoScalingFleet::new(group.clone(), "");
    assert_eq!(none.observe().await.unwrap().desired, 0);
    assert!(none.set_desired(1).await.is_err());
}
