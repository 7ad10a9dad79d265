//! Rows, heartbeats and the scaler's memory.

use std::collections::BTreeSet;

use super::{Environment, later, name, result};
use crate::{
    backend::{Heartbeat, PageQuery, Removed, Totals, Written, remove},
    contract::{Classification, Outcome, Timestamp, order::sort_key},
};

/// The names on the page.
async fn names(env: &Environment, query: &PageQuery) -> Vec<String> {
    env.other.results.page(query).await.unwrap().results.into_iter().map(|r| r.image.into()).collect()
}

pub(crate) async fn replaces_by_sequencer(env: &Environment) {
    let first = env.result_for("a.png", "cat").await;
    let own = first.sequencer.clone().unwrap();
    let labelled = |label: &str, step: Option<u8>| Classification {
        sequencer: step.map(|step| later(&own, step)),
        ..result("a.png", label)
    };
    let stored = |previous: Option<&str>| (previous.map(str::to_owned), Written::Stored);
    let stale = (None, Written::Stale);
    assert_eq!(env.write(&first).await, stored(None));
    assert_eq!(env.write(&first).await, stored(None), "equal writes");
    assert_eq!(env.write(&labelled("dog", Some(5))).await, stored(Some("cat")), "newer writes");
    assert_eq!(env.write(&labelled("cow", Some(4))).await, stale, "older does not");
    assert_eq!(env.write(&labelled("hen", None)).await, stored(Some("dog")), "absent writes");
    assert_eq!(env.write(&labelled("cow", Some(4))).await, stale, "and leaves the stored one");
    let row = env.other.results.get(&[name("a.png"), name("none.png")]).await.unwrap();
    assert_eq!(row.len(), 1);
    let wanted = labelled("hen", Some(5));
    assert_eq!(Classification { asked_at: wanted.asked_at, ..row[0].clone() }, wanted);
    assert_eq!(env.write(&labelled("dog", Some(5))).await, stored(Some("hen")));
    assert_eq!(names(env, &PageQuery { limit: 10, ..PageQuery::default() }).await, ["a.png"], "one row per image");
}

pub(crate) async fn pages_both_ways_from_any_name(env: &Environment) {
    let mut all =
        ["10_x.png", "2_x.png", "1_x.png", "a.png", "B.png", "c.png", "02_x.png", "é.png", "10.png", "🦀.png"];
    env.rows(&all, "cat").await;
    all.sort_by_key(|name| sort_key(name));
    assert!(all.iter().position(|n| *n == "2_x.png") < all.iter().position(|n| *n == "10_x.png"));
    for limit in [1, 3, 10, 1000] {
        let (mut forward, mut pages, mut query) = (Vec::new(), 0, PageQuery { limit, ..PageQuery::default() });
        let last = loop {
            let page = env.other.results.page(&query).await.unwrap();
            assert_eq!(page.previous.is_some(), pages > 0, "{page:?}");
            forward.extend(page.results.iter().map(|r| r.image.as_str().to_owned()));
            pages += 1;
            match page.next.clone() {
                Some(next) => query.after = Some(next),
                None => break page,
            }
        };
        assert_eq!(forward, all);
        assert_eq!(pages, all.len().div_ceil(limit));
        // And back from the last page.
        let mut backward: Vec<String> = last.results.iter().map(|r| r.image.as_str().to_owned()).collect();
        let mut cursor = last.previous;
        while let Some(before) = cursor {
            let query = PageQuery { before: Some(before), limit, ..PageQuery::default() };
            let page = env.other.results.page(&query).await.unwrap();
            assert!(page.next.is_some());
            backward.splice(0..0, page.results.iter().map(|r| r.image.as_str().to_owned()));
            cursor = page.previous;
        }
        assert_eq!(backward, all);
    }
    // A name that does not exist is a place in the order all the same.
    for cursor in ["3", "10_x.png", "0", "zzz", "b.png", "🦀🦀"] {
        let key = sort_key(cursor);
        let (before, after): (Vec<&str>, Vec<&str>) =
            all.iter().filter(|n| **n != cursor).partition(|n| sort_key(n) < key);
        let query = PageQuery { limit: 100, ..PageQuery::default() };
        assert_eq!(names(env, &PageQuery { after: Some(name(cursor).into()), ..query.clone() }).await, after);
        assert_eq!(names(env, &PageQuery { before: Some(name(cursor).into()), ..query }).await, before);
    }
    let (after, before) = (Some(name("a").into()), Some(name("b").into()));
    let both = PageQuery { after, before, limit: 1, ..PageQuery::default() };
    assert!(env.backend.results.page(&both).await.is_err());
}

pub(crate) async fn knows_failures(env: &Environment) {
    env.rows(&["good.png"], "cat").await;
    let asked = env.result_for("bad.png", "cat").await;
    let failed = Classification { outcome: Outcome::Failed { error: "not an image".into() }, ..asked.clone() };
    assert_eq!(env.write(&failed).await, (None, Written::Stored));
    let row = env.other.results.get(&[name("bad.png")]).await.unwrap().remove(0);
    assert_eq!(row.outcome, failed.outcome);
    let totals = async || env.other.results.totals(&[]).await.unwrap();
    if totals().await.exact {
        assert_eq!(totals().await, Totals { total: 2, failed: 1, exact: true });
    }
    assert_eq!(env.write(&asked).await, (None, Written::Stored), "a failure has no label");
    assert_eq!(env.write(&failed).await, (Some("cat".into()), Written::Stored));
    env.write(&asked).await;
    if totals().await.exact {
        assert_eq!(totals().await, Totals { total: 2, failed: 0, exact: true });
    }
}

pub(crate) async fn deletes_rows(env: &Environment) {
    let results = &env.backend.results;
    env.rows(&["a.png", "b.png"], "cat").await;
    let a = name("a.png");
    for other in [None, Some("dog")] {
        assert_eq!(results.delete(&a, other).await.unwrap(), Removed::Labelled("cat".into()), "its output goes first");
    }
    assert_eq!(results.delete(&a, Some("cat")).await.unwrap(), Removed::Row);
    assert_eq!(results.delete(&a, None).await.unwrap(), Removed::Nothing);
    assert_eq!(names(env, &PageQuery { limit: 9, ..PageQuery::default() }).await, ["b.png"]);
    if results.totals(&[]).await.unwrap().exact {
        assert_eq!(results.totals(&[]).await.unwrap().total, 1);
    }
}

pub(crate) async fn refuses_rows_of_removed_images(env: &Environment) {
    if !env.knows_removed_images {
        return;
    }
    let asked = env.result_for("a.png", "cat").await;
    env.backend.images.delete(&name("a.png")).await.unwrap();
    assert_eq!(env.other.results.put(&asked, None).await.unwrap(), Written::Gone);
    assert_eq!(env.other.results.put(&result("never.png", "cat"), None).await.unwrap(), Written::Gone);
    assert!(env.backend.results.get(&[name("a.png"), name("never.png")]).await.unwrap().is_empty());
}

pub(crate) async fn a_removed_image_stays_away_until_it_is_uploaded_again(env: &Environment) {
    let results = &env.backend.results;
    // One that has a row, one that is being classified for the first time, one that fails.
    env.rows(&["old.png"], "cat").await;
    let (old, first) = (env.result_for("first.png", "cat").await, env.result_for("fails.png", "cat").await);
    let fails = Classification { outcome: Outcome::Failed { error: "no image".into() }, ..first };
    let requeued = result("old.png", "dog");
    for image in ["old.png", "first.png", "fails.png"] {
        assert!(remove(&env.other, &name(image)).await.unwrap());
        assert!(!remove(&env.other, &name(image)).await.unwrap());
    }
    for late in [&old, &fails, &requeued] {
        assert_eq!(results.put(late, None).await.unwrap(), Written::Gone, "{late:?}");
    }
    assert!(names(env, &PageQuery { limit: 9, ..PageQuery::default() }).await.is_empty());
    let page =
        results.page(&PageQuery { limit: 9, after: Some(name("z").into()), ..PageQuery::default() }).await.unwrap();
    assert_eq!((page.next, page.previous), (None, None));
    // The same name again is another image.
    let again = env.result_for("old.png", "hen").await;
    assert_eq!(env.write(&again).await, (None, Written::Stored));
    assert_eq!(env.write(&again).await, (None, Written::Stored));
    assert_eq!(names(env, &PageQuery { limit: 9, ..PageQuery::default() }).await, ["old.png"]);
}

pub(crate) async fn keeps_heartbeats(env: &Environment) {
    let workers = &env.backend.workers;
    assert!(workers.heartbeats().await.unwrap().is_empty());
    let mut beat = Heartbeat { worker: "host-1".into(), done: 3, ..Heartbeat::default() };
    beat.minutes.insert(29_000_000, 3);
    beat.labels.insert("tabby, tabby cat".into(), 3);
    workers.beat(&beat).await.unwrap();
    workers.beat(&Heartbeat { worker: "host-2".into(), draining: true, ..beat.clone() }).await.unwrap();
    beat.done = 4;
    workers.beat(&beat).await.unwrap();
    let beats = env.other.workers.heartbeats().await.unwrap();
    assert_eq!(beats.iter().map(|b| b.worker.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(["host-1", "host-2"]));
    let stored = beats.into_iter().find(|b| b.worker.as_str() == "host-1").unwrap();
    assert!(stored.seen_at > Timestamp::default(), "the store sets the time");
    assert_eq!(Heartbeat { seen_at: Timestamp::default(), ..stored }, beat);
}

pub(crate) async fn swaps_the_scaler_once(env: &Environment) {
    let scaler = &env.backend.scaler;
    assert_eq!(scaler.read().await.unwrap(), None);
    assert!(!scaler.swap(Some(1), "too early").await.unwrap());
    // Everybody adds one, over and over until it worked: none is lost.
    let racers = (0..8).map(|i| {
        let scaler = if i % 2 == 0 { &env.backend.scaler } else { &env.other.scaler };
        async move {
            loop {
                let now = scaler.read().await.unwrap();
                let count: u32 = now.as_ref().map_or(0, |now| now.value.parse().unwrap());
                if scaler.swap(now.map(|now| now.version), &(count + 1).to_string()).await.unwrap() {
                    return;
                }
            }
        }
    });
    futures_util::future::join_all(racers).await;
    let end = scaler.read().await.unwrap().unwrap();
    assert_eq!((end.value.as_str(), end.version), ("8", 8));
    assert!(!scaler.swap(None, "again").await.unwrap());
    assert!(!scaler.swap(Some(7), "old").await.unwrap());
}
