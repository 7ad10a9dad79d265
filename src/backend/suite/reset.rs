//! Reset.

use super::{Environment, event_in, name, result};
use crate::{
    backend::{Backend, Depth, Message, PageQuery, ResetReport, Tally, Written},
    contract::Classification,
};

pub(crate) async fn empties_everything(env: &Environment) {
    let mut held = Vec::new();
    for name in ["a.png", "b.png", "c.png"] {
        let (message, row) = in_flight(env, name, name.as_bytes(), "cat").await;
        env.write(&row).await;
        held.push(message.receipt);
    }
    env.backend.outputs.put("a.png_cat", b"{}".to_vec()).await.unwrap();
    let report = reset(&env.other).await;
    assert_eq!((report.images, report.outputs, report.results), (3, 1, 3), "{report:?}");
    assert!(env.backend.images.list(None, 10).await.unwrap().is_empty());
    assert_eq!(env.backend.outputs.get("a.png_cat").await.unwrap(), None);
    let page = env.backend.results.page(&PageQuery { limit: 10, ..PageQuery::default() }).await.unwrap();
    assert!(page.results.is_empty() && page.next.is_none() && page.previous.is_none(), "{page:?}");
    assert!(env.backend.queue.delete(&held).await.unwrap().is_empty());
    env.time_out().await;
    env.receive_none().await;
    assert_eq!(env.backend.queue.depth().await.unwrap(), Depth::default());
    if env.backend.results.totals(&[]).await.unwrap().exact {
        assert_eq!(env.backend.results.totals(&[]).await.unwrap().total, 0);
    }
    let again = reset(&env.other).await;
    assert_eq!((again.images, again.outputs, again.results), (0, 0, 0));
}

/// Resets, and returns what was removed at once.
async fn reset(backend: &Backend) -> ResetReport {
    let removed = Tally::default();
    backend.reset.reset(&removed).await.unwrap();
    removed.report()
}

/// Uploads an image, receives its message, and answers what the worker will write.
async fn in_flight(env: &Environment, name: &str, bytes: &[u8], label: &str) -> (Message, Classification) {
    env.put(name, bytes).await;
    let message = env.receive(1).await.remove(0);
    let sequencer = event_in(&message).sequencer;
    let image_sequencer = env.backend.images.get(&super::name(name), 100).await.unwrap().sequencer;
    let row = Classification { sequencer, image_sequencer, asked_at: message.sent_at, ..result(name, label) };
    (message, row)
}

pub(crate) async fn discards_work_in_flight(env: &Environment) {
    let (_, late) = in_flight(env, "a.png", b"old", "cat").await;
    (env.advance)(std::time::Duration::from_millis(50)).await;
    reset(&env.backend).await;
    assert_eq!(env.other.results.put(&late, None).await.unwrap(), Written::Gone);
    assert!(env.backend.results.get(&[name("a.png")]).await.unwrap().is_empty());
}

pub(crate) async fn keeps_the_new_image_of_an_old_name(env: &Environment) {
    let (_, late) = in_flight(env, "a.png", b"old", "cat").await;
    let requeued = Classification { sequencer: None, ..late.clone() };
    (env.advance)(std::time::Duration::from_millis(50)).await;
    reset(&env.backend).await;
    (env.advance)(std::time::Duration::from_millis(50)).await;
    let (_, new) = in_flight(env, "a.png", b"new", "dog").await;
    // Before the new row is there and after it.
    assert_eq!(env.other.results.put(&late, None).await.unwrap(), Written::Gone);
    assert_eq!(env.other.results.put(&requeued, None).await.unwrap(), Written::Gone);
    assert_eq!(env.write(&new).await, (None, Written::Stored));
    for old in [&late, &requeued] {
        assert_eq!(env.other.results.put(old, None).await.unwrap(), Written::Gone);
    }
    let row = env.backend.results.get(&[name("a.png")]).await.unwrap().remove(0);
    assert_eq!(row.outcome.label(), Some("dog"));
}

pub(crate) async fn leaves_nothing_once_it_has_settled(env: &Environment) {
    let (_, late) = in_flight(env, "a.png", b"old", "cat").await;
    reset(&env.other).await;
    // A worker that finishes after the first sweep, as far as its store lets it.
    env.backend.outputs.put("a.png_cat", b"{}".to_vec()).await.unwrap();
    assert_eq!(env.backend.results.put(&late, None).await.unwrap(), Written::Gone);
    env.backend.outputs.delete_own("a.png_cat", b"{}").await.unwrap();
    let removed = Tally::default();
    env.other.reset.settle(&removed).await.unwrap();
    // The message that was in flight may have come back only now.
    let left = ResetReport { messages: 0, ..removed.report() };
    assert_eq!(left, ResetReport::default(), "there was nothing left");
    let (_, new) = in_flight(env, "a.png", b"new", "dog").await;
    assert_eq!(env.write(&new).await, (None, Written::Stored));
    env.other.reset.settle(&removed).await.unwrap();
    assert_eq!(env.backend.results.get(&[name("a.png")]).await.unwrap().len(), 1, "settling takes nothing new away");
}
