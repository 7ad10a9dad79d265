//! The queue.

use std::{collections::BTreeSet, time::Duration};

use super::{Environment, bodies};
use crate::backend::{Depth, Message, Receipt};

pub(crate) async fn hides_and_shows_again(env: &Environment) {
    let queue = &env.backend.queue;
    let first = env.sent(&["one"]).await.remove(0);
    assert_eq!((first.body.as_str(), first.receive_count), ("one", 1));
    env.receive_none().await;
    env.time_out().await;
    let second = env.receive(1).await.remove(0);
    assert_eq!((&second.id, second.receive_count, second.sent_at), (&first.id, 2, first.sent_at));
    if env.refuses_stale_receipts {
        assert_ne!(first.receipt, second.receipt);
        let stale = [first.receipt, Receipt("nonsense".into())];
        assert_eq!(queue.extend(&stale, queue.policy().visibility_timeout).await.unwrap(), stale);
        assert_eq!(queue.delete(&stale).await.unwrap(), stale);
        assert_eq!(queue.depth().await.unwrap().in_flight, 1);
    }
    assert!(env.other.queue.delete(std::slice::from_ref(&second.receipt)).await.unwrap().is_empty());
    assert!(queue.delete(&[second.receipt]).await.unwrap().is_empty(), "it is gone already, which is no failure");
    env.time_out().await;
    env.receive_none().await;
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
}

pub(crate) async fn extends_and_hands_back(env: &Environment) {
    let queue = &env.backend.queue;
    let timeout = queue.policy().visibility_timeout;
    let held: Vec<Receipt> = env.sent(&["kept", "back"]).await.into_iter().map(|m| m.receipt).collect();
    // Twice half the time-out: without the extension it would be over.
    for _ in 0..3 {
        (env.advance)(timeout / 2).await;
        assert!(queue.extend(&held, timeout).await.unwrap().is_empty());
    }
    env.receive_none().await;
    assert_eq!(queue.depth().await.unwrap(), Depth { in_flight: 2, ..Depth::default() });
    assert!(queue.extend(&held[1..], Duration::ZERO).await.unwrap().is_empty());
    let back = env.receive(1).await;
    assert_eq!((back.len(), back[0].receive_count), (1, 2));
    env.receive_none().await;
}

pub(crate) async fn buries_redrives_and_drops(env: &Environment) {
    let (queue, dead_letters) = (&env.backend.queue, &env.backend.dead_letters);
    let Some(limit) = queue.policy().max_receives else { return };
    let bury = async |count: usize| {
        for _ in 0..limit {
            let receipts: Vec<Receipt> = env.receive(count).await.into_iter().map(|m| m.receipt).collect();
            assert_eq!(queue.depth().await.unwrap().dead, 0);
            queue.extend(&receipts, Duration::ZERO).await.unwrap();
        }
        env.receive_none().await;
    };
    queue.send(&["one".to_owned(), "two".to_owned()]).await.unwrap();
    bury(2).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { dead: 2, ..Depth::default() });
    let dead = env.other.dead_letters.list(10).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.body.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(["one", "two"]));
    assert_eq!(env.other.dead_letters.list(1).await.unwrap().len(), 1);

    assert_eq!(dead_letters.redrive().await.unwrap(), 2);
    assert_eq!(dead_letters.redrive().await.unwrap(), 0);
    let back = env.receive(2).await;
    assert!(back.iter().all(|message| message.receive_count == 1), "{back:?}");
    // One is done; the other dies again, and is dropped.
    queue.delete(&[back[0].receipt.clone()]).await.unwrap();
    queue.extend(&[back[1].receipt.clone()], Duration::ZERO).await.unwrap();
    for _ in 1..limit {
        let again = env.receive(1).await;
        queue.extend(&[again[0].receipt.clone()], Duration::ZERO).await.unwrap();
    }
    env.receive_none().await;
    assert_eq!(dead_letters.drop_all().await.unwrap(), 1);
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
    assert!(dead_letters.list(10).await.unwrap().is_empty());
}

pub(crate) async fn takes_any_number(env: &Environment) {
    let queue = &env.backend.queue;
    queue.send(&[]).await.unwrap();
    let sent: Vec<String> = (0..37).map(|i| format!("message {i}")).collect();
    queue.send(&sent).await.unwrap();
    assert!(queue.receive(3, env.patience).await.unwrap().len() <= 3);
    env.time_out().await;
    let messages = env.receive(37).await;
    assert_eq!(bodies(&messages), sent.iter().map(String::as_str).collect());
    let receipts: Vec<Receipt> = messages.into_iter().map(|m| m.receipt).collect();
    assert!(queue.extend(&receipts, queue.policy().visibility_timeout).await.unwrap().is_empty());
    assert!(queue.delete(&receipts).await.unwrap().is_empty());
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
}

pub(crate) async fn gives_each_message_to_one_receiver(env: &Environment) {
    let sent: Vec<String> = (0..120).map(|i| i.to_string()).collect();
    env.backend.queue.send(&sent).await.unwrap();
    let receivers = (0..8).map(|i| {
        let queue = if i % 2 == 0 { &env.backend.queue } else { &env.other.queue };
        async move {
            let mut got = Vec::new();
            loop {
                let messages = queue.receive(7, Duration::from_millis(300)).await.unwrap();
                if messages.is_empty() {
                    return got;
                }
                let receipts: Vec<Receipt> = messages.iter().map(|m| m.receipt.clone()).collect();
                assert!(queue.delete(&receipts).await.unwrap().is_empty());
                got.extend(messages.into_iter().map(|m| m.body));
            }
        }
    });
    let mut got: Vec<String> = futures_util::future::join_all(receivers).await.concat();
    got.sort_by_key(|body| body.parse::<u32>().unwrap());
    assert_eq!(got, sent);
}

pub(crate) async fn wakes_a_waiting_receiver(env: &Environment) {
    for sender in [&env.backend, &env.other] {
        let waiting = env.backend.queue.receive(10, Duration::from_secs(20));
        let sending = async {
            tokio::task::yield_now().await;
            sender.queue.send(&["wake up".to_owned()]).await.unwrap();
        };
        let (messages, ()) = tokio::join!(waiting, sending);
        assert_eq!(messages.unwrap().len(), 1);
    }
}

pub(crate) async fn peeks(env: &Environment) {
    env.backend.queue.send(&["one".to_owned(), "two".to_owned(), "three".to_owned()]).await.unwrap();
    assert_eq!(bodies(&env.other.queue.peek(10).await.unwrap()), BTreeSet::from(["one", "two", "three"]));
    assert!(env.other.queue.peek(2).await.unwrap().len() <= 2);
    // Looking takes nothing away.
    env.receive(3).await;
}

pub(crate) async fn buries_nothing_by_looking(env: &Environment) {
    let Some(limit) = env.backend.queue.policy().max_receives else { return };
    env.backend.queue.send(&["seen".to_owned()]).await.unwrap();
    for _ in 0..limit + 2 {
        let seen = eventually_seen(env).await;
        assert_eq!(bodies(&seen), BTreeSet::from(["seen"]));
    }
    assert_eq!(env.backend.queue.depth().await.unwrap().dead, 0);
    let message = env.receive(1).await.remove(0);
    assert!(message.receive_count < limit, "a worker has no second try: {message:?}");
}

/// What a look shows, once it shows something.
async fn eventually_seen(env: &Environment) -> Vec<Message> {
    let deadline = tokio::time::Instant::now() + env.patience * 5;
    loop {
        let seen = env.other.queue.peek(10).await.unwrap();
        if !seen.is_empty() {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "the message is not shown");
    }
}

pub(crate) async fn waits_no_longer_for_a_clock_that_was_set_back(env: &Environment) {
    let Some(set_back) = &env.set_back else { return };
    let (queue, hour) = (&env.backend.queue, Duration::from_secs(3600));
    queue.send(&["waiting".to_owned()]).await.unwrap();
    set_back(hour);
    assert_eq!(env.other.queue.depth().await.unwrap(), Depth { visible: 1, ..Depth::default() });
    let waiting = env.receive(1).await.remove(0);
    set_back(hour);
    // Still hidden, for as long as it was to be, and not shorter either.
    assert_eq!(env.other.queue.depth().await.unwrap(), Depth { in_flight: 1, ..Depth::default() });
    env.receive_none().await;
    env.time_out().await;
    let again = env.receive(1).await.remove(0);
    assert_eq!((&again.id, again.receive_count), (&waiting.id, 2));
    // A lease that is kept and one that is handed back.
    set_back(hour);
    queue.extend(std::slice::from_ref(&again.receipt), queue.policy().visibility_timeout).await.unwrap();
    env.receive_none().await;
    set_back(hour);
    queue.extend(std::slice::from_ref(&again.receipt), Duration::ZERO).await.unwrap();
    let last = env.receive(1).await.remove(0);
    // A dead letter stays one, and comes back.
    queue.extend(&[last.receipt], Duration::ZERO).await.unwrap();
    set_back(hour);
    env.receive_none().await;
    assert_eq!(env.other.queue.depth().await.unwrap(), Depth { dead: 1, ..Depth::default() });
    set_back(hour);
    assert_eq!(env.backend.dead_letters.redrive().await.unwrap(), 1);
    env.receive(1).await;
}
