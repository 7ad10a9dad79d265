//! Messages and dead letters on SQS.

use super::*;

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
