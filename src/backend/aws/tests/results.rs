//! Rows, heartbeats and the scaler's memory on DynamoDB.

use super::*;
use crate::backend::{Filter, Page, Registry, Results};

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
    let names = |page: &Page| page.results.iter().map(|r| r.image.to_string()).collect::<Vec<_>>();
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
    let page = results
        .page(&PageQuery { before: Some(name("100_x.png").into()), limit: 3, ..PageQuery::default() })
        .await
        .unwrap();
    assert_eq!(names(&page), ["97_x.png", "98_x.png", "99_x.png"]);
    assert_eq!((page.previous, page.next), (Some(name("97_x.png").into()), Some(name("99_x.png").into())));
    let found = async |filter: Filter| {
        let page = results.page(&PageQuery { filter, limit: 100, ..PageQuery::default() }).await.unwrap();
        (page.results.len(), page.next)
    };
    let (text, label) = (Some("29".to_owned()), Some("cat".to_owned()));
    assert_eq!(found(Filter { label: label.clone(), ..Filter::default() }).await, (43, None));
    assert_eq!(found(Filter { text: text.clone(), ..Filter::default() }).await, (11, None));
    assert_eq!(found(Filter { text, label, ..Filter::default() }).await, (1, None), "294");
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
    let table = DynamoResults::open(
        system.clients.dynamodb.clone(),
        &system.config.table,
        Arc::new(S3Images::new(system.clients.s3.clone(), &system.config.bucket, "")),
    );
    let table = table.await.unwrap();
    table.set_marker(now).await.unwrap();
    let page = async |query: PageQuery| Results::page(&table, &query).await.unwrap();
    let after = page(PageQuery { after: Some(name("49.png").into()), limit: 5, ..PageQuery::default() }).await;
    assert_eq!(
        after.results.iter().map(|r| r.image.as_str()).collect::<Vec<_>>(),
        ["50.png", "51.png", "52.png", "53.png", "54.png"]
    );
    assert_eq!((after.previous, after.next), (Some(name("50.png").into()), Some(name("54.png").into())));
    let before = page(PageQuery { before: Some(name("50.png").into()), limit: 5, ..PageQuery::default() }).await;
    assert_eq!(
        before.results.iter().map(|r| r.image.as_str()).collect::<Vec<_>>(),
        ["5.png", "6.png", "7.png", "8.png", "9.png"]
    );
    assert_eq!((before.previous, before.next), (Some(name("5.png").into()), Some(name("9.png").into())));
}

#[tokio::test]
async fn heartbeats_stay_few_and_lose_nothing() {
    let system = System::new("").await;
    let images = || Arc::new(S3Images::new(system.clients.s3.clone(), &system.config.bucket, ""));
    let table = DynamoResults::open(system.clients.dynamodb.clone(), &system.config.table, images());
    let table = table.await.unwrap();
    let now = SystemClock.now();
    // Beaten now, and looked at a day later: all are gone, but one.
    let day = Duration::from_secs(24 * 3600);
    for i in 0..200 {
        let mut beat = Heartbeat { worker: WorkerId::new("host", i), done: 1, failed: 2, ..Heartbeat::default() };
        beat.labels.insert("cat".into(), 1);
        Registry::beat(&table, &beat).await.unwrap();
    }
    let heartbeats = async || Registry::heartbeats(&table).await.unwrap();
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
