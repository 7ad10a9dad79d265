//! Messages about images to classify, and those that nobody could deal with.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::contract::Timestamp;

/// Identifies one receive of one message: stale once the message was received again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub String);

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Identifies the message over all receives.
    pub id: String,
    /// Identifies this receive.
    pub receipt: Receipt,
    /// The event.
    pub body: String,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When it was sent, by the queue's clock.
    pub sent_at: Timestamp,
}

/// How many messages there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Queued: to be received, delayed ones included. An image may wait for its result without one, and have a result
    /// with one.
    pub visible: u64,
    /// Received, and neither deleted nor visible again.
    pub in_flight: u64,
    /// In the dead-letter queue.
    pub dead: u64,
}

/// What a queue promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePolicy {
    /// How long a received message is hidden.
    pub visibility_timeout: Duration,
    /// After how many receives a message is a dead letter; `None` without a dead-letter queue.
    pub max_receives: Option<u32>,
    /// How long a receive that finds nothing should wait: as long as the queue allows where calls cost money, shorter
    /// where a stop should be quick. At most 20 s.
    pub long_poll: Duration,
    /// Whether [`Queue::peek`] counts as a receive of what it shows.
    pub peek_counts: bool,
}

/// At-least-once delivery with a visibility time-out, as SQS has it.
///
/// A received message is hidden for the visibility time-out. If it is not deleted in time it is visible again, with a
/// receive count one higher. A message that was received [`max_receives`](QueuePolicy::max_receives) times and is
/// visible again goes to the dead-letter queue.
#[async_trait]
pub trait Queue: Send + Sync + Debug {
    /// Returns what the queue promises.
    fn policy(&self) -> QueuePolicy;

    /// Sends messages, any number.
    async fn send(&self, bodies: &[String]) -> Result<()>;

    /// Returns up to `max` messages (1 to 10). Waits up to `wait` (at most 20 s) for the first one; empty if none came.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>>;

    /// Hides the messages for `visibility` from now on; zero hands them back at once. Returns the receipts that are
    /// stale.
    async fn extend(&self, receipts: &[Receipt], visibility: Duration) -> Result<Vec<Receipt>>;

    /// Deletes the messages, any number. Returns the receipts for which it failed; a message that is gone already is no
    /// failure.
    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>>;

    /// Returns how many messages there are, on AWS approximately.
    async fn depth(&self) -> Result<Depth>;

    /// Returns up to `limit` waiting messages. However often it is called, no message becomes a dead letter by it.
    async fn peek(&self, limit: usize) -> Result<Vec<Message>>;
}

/// A message that was received too often.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// The message's id.
    pub id: String,
    /// Its body.
    pub body: String,
    /// How often it was received.
    pub receive_count: u32,
    /// When it was sent.
    #[serde(rename = "sent_at_ms")]
    pub sent_at: Timestamp,
}

impl From<Message> for DeadLetter {
    fn from(Message { id, body, receive_count, sent_at, .. }: Message) -> Self {
        Self { id, body, receive_count, sent_at }
    }
}

/// The dead-letter queue.
#[async_trait]
pub trait DeadLetters: Send + Sync + Debug {
    /// Returns up to `limit` dead letters.
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Moves all dead letters back, with a receive count of zero. Returns how many.
    async fn redrive(&self) -> Result<u64>;

    /// Deletes all dead letters. Returns how many.
    async fn drop_all(&self) -> Result<u64>;
}
