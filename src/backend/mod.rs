//! The stores behind one set of traits: images, queue, results, fleet and reset, on this machine or on AWS.
//!
//! Every implementation passes the suite in `suite.rs`; what it checks is the contract in the traits' documentation.

use std::{collections::BTreeMap, fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::contract::{Classification, Digest, ImageName, ObjectEvent, Sequencer};

pub mod aws;
pub mod error;
pub mod local;
mod open;
mod requeue;
pub mod status;
#[cfg(test)]
pub(crate) mod suite;

pub use error::{Error, ErrorKind, Result};
pub use open::{instance, open, open_existing};
pub use requeue::{Which, requeue};

/// The parts of one backend. All of them act on the same system; clone freely.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `local` or `aws`.
    pub name: &'static str,
    /// Images, tags and output objects.
    pub images: Arc<dyn Images>,
    /// Messages about images to classify.
    pub queue: Arc<dyn Queue>,
    /// Rows, heartbeats and the scaler's item.
    pub results: Arc<dyn Results>,
    /// The app tier's workers.
    pub fleet: Arc<dyn Fleet>,
    /// Empties all of them.
    pub reset: Arc<dyn Reset>,
}

/// An upload that is spooled to disk and hashed.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The name that it would like to have.
    pub name: ImageName,
    /// The spooled file. [`Images::put`] may move it away; if it is still there afterwards, its maker removes it.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Media type from its first bytes, such as `image/png`.
    pub media_type: &'static str,
}

/// What [`Images::put`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The name under which the bytes are stored now; another than wished for if that was taken by other bytes.
    pub image: ImageName,
    /// False if the very same bytes were there before: no message was sent, an existing result stands.
    pub created: bool,
}

/// A stored image.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its age matters to nobody, its order does: the sequencer it was stored with, where the store knows one.
    pub sequencer: Option<Sequencer>,
}

/// Images with their tags, and the output objects (the output bucket).
#[async_trait]
pub trait Images: Send + Sync + Debug {
    /// Where `image` is, for the row's `location`: `s3://bucket/key`, or the path of the web tier that serves it.
    fn location(&self, image: &ImageName) -> String;

    /// The image that an event is about, or `None` if it names another bucket, is outside the prefix or is no image name: such a
    /// message is refused, nothing is read.
    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName>;

    /// The event that asks for `image` to be classified (again). It has no sequencer, so its result always writes.
    fn event_for(&self, image: &ImageName) -> ObjectEvent;

    /// Stores `upload` durably under the first of its name's candidates that is free or holds the same bytes, and sees to it
    /// that a message about a created image reaches the queue. Racing calls never overwrite each other's bytes.
    async fn put(&self, upload: &Upload) -> Result<Put>;

    /// Whether [`put`](Self::put) has room for another image.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] if it has none.
    async fn check_room(&self) -> Result<()> {
        Ok(())
    }

    /// The image's bytes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::TooLarge`] if it has more than `max_bytes`, before they are read.
    async fn get(&self, image: &ImageName, max_bytes: u64) -> Result<StoredImage>;

    /// Whether the image is stored.
    async fn exists(&self, image: &ImageName) -> Result<bool>;

    /// Up to `limit` names after `after`, in an order of the store's choice that does not change.
    async fn list(&self, after: Option<&ImageName>, limit: usize) -> Result<Vec<ImageName>>;

    /// Sets these tags and keeps others that the image has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the image is gone.
    async fn set_tags(&self, image: &ImageName, tags: &[(&'static str, String)]) -> Result<()>;

    /// The image's tags.
    async fn tags(&self, image: &ImageName) -> Result<BTreeMap<String, String>>;

    /// Removes the image. True if it was there.
    async fn delete(&self, image: &ImageName) -> Result<bool>;

    /// Writes the output object `key`, replacing what is there.
    async fn put_output(&self, key: &str, body: Vec<u8>) -> Result<()>;

    /// The output object `key`.
    async fn output(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Removes the output object `key`, if it is there.
    async fn delete_output(&self, key: &str) -> Result<()>;
}

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
    /// When it was sent, milliseconds since 1970 by the queue's clock.
    pub sent_at_ms: i64,
}

/// How many messages there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Waiting to be received, delayed ones included.
    pub visible: u64,
    /// Received, and neither deleted nor visible again.
    pub in_flight: u64,
    /// In the dead-letter queue.
    pub dead: u64,
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
    /// When it was sent, milliseconds since 1970.
    pub sent_at_ms: i64,
}

/// At-least-once delivery with a visibility time-out, as SQS has it.
///
/// A received message is hidden for the visibility time-out. If it is not deleted in time it is visible again, with a receive count
/// one higher. A message that was received [`max_receives`](Self::max_receives) times and is visible again goes to the dead-letter queue.
#[async_trait]
pub trait Queue: Send + Sync + Debug {
    /// How long a received message is hidden.
    fn visibility_timeout(&self) -> Duration;

    /// After how many receives a message is a dead letter; `None` without a dead-letter queue.
    fn max_receives(&self) -> Option<u32>;

    /// How long a receive that finds nothing should wait: as long as the queue allows where calls cost money, shorter where a stop
    /// should be quick. At most 20 s.
    fn long_poll(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// Sends messages, any number.
    async fn send(&self, bodies: &[String]) -> Result<()>;

    /// Up to `max` messages (1 to 10). Waits up to `wait` (at most 20 s) for the first one; empty if none came.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>>;

    /// Hides the messages for `visibility` from now on; zero hands them back at once. Answers the receipts that are stale.
    async fn extend(&self, receipts: &[Receipt], visibility: Duration) -> Result<Vec<Receipt>>;

    /// Deletes the messages, any number. Answers the receipts for which it failed; a message that is gone already is no failure.
    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>>;

    /// How many messages there are, on AWS approximately.
    async fn depth(&self) -> Result<Depth>;

    /// Up to `limit` waiting messages, without receiving them where the queue can do that.
    async fn peek(&self, limit: usize) -> Result<Vec<Message>>;

    /// Up to `limit` dead letters.
    async fn dead(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Moves all dead letters back, with a receive count of zero. Answers how many.
    async fn redrive(&self) -> Result<u64>;

    /// Deletes all dead letters. Answers how many.
    async fn drop_dead(&self) -> Result<u64>;
}

/// What [`Results::put`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The row is written. It replaced a row with this label, if it did.
    Stored {
        /// The label before.
        previous: Option<String>,
    },
    /// A row of a newer event is there and stays.
    Stale,
    /// The image was removed, or asked for before the last reset: there is nothing to know about it any more.
    Gone,
}

/// Which rows a page shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// Rows after this name; it need not exist.
    pub after: Option<ImageName>,
    /// Rows before this name; it need not exist. Not together with `after`.
    pub before: Option<ImageName>,
    /// At most so many rows, 1 to 1000.
    pub limit: usize,
    /// Only rows whose name holds this text or whose label is this text, without regard to ASCII case.
    pub filter: Option<String>,
}

/// A page of rows in natural order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Page {
    /// The rows. With a filter there may be fewer than asked for although more follow: the work of one call is bounded.
    pub results: Vec<Classification>,
    /// Cursor for `after`, if rows follow.
    pub next: Option<ImageName>,
    /// Cursor for `before`, if rows precede.
    pub previous: Option<ImageName>,
}

/// What a worker says of itself every ten seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker's id.
    pub worker: String,
    /// When it started, milliseconds since 1970.
    pub started_at_ms: i64,
    /// When it wrote this, milliseconds since 1970; set by the store.
    pub seen_at_ms: i64,
    /// Messages that it holds.
    pub in_flight: u32,
    /// It takes no more messages.
    pub draining: bool,
    /// Images that it classified.
    pub done: u64,
    /// Images that it recorded as failed.
    pub failed: u64,
    /// Milliseconds of inference, to tell its rate when busy.
    pub busy_ms: u64,
    /// Images by minute since 1970, the last ten minutes.
    pub minutes: BTreeMap<i64, u64>,
    /// Images by label.
    pub labels: BTreeMap<String, u64>,
}

impl Heartbeat {
    /// A worker that was not heard of for so long is taken as gone.
    pub const ALIVE: Duration = Duration::from_secs(30);

    /// Whether the worker was heard of lately.
    #[must_use]
    pub fn is_alive(&self, now_ms: i64) -> bool {
        now_ms - self.seen_at_ms < i64::try_from(Self::ALIVE.as_millis()).unwrap_or(i64::MAX)
    }
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All rows.
    pub total: u64,
    /// Rows of failed images.
    pub failed: u64,
    /// False where the store only sums up what workers counted.
    pub exact: bool,
}

/// A text with the version that a compare-and-swap names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The text.
    pub value: String,
    /// Its version, 1 for the first.
    pub version: u64,
}

/// One row per image, workers' heartbeats, and the scaler's memory.
#[async_trait]
pub trait Results: Send + Sync + Debug {
    /// Writes the row, unless the stored sequencer is newer; a result without a sequencer always writes and leaves the stored one.
    async fn put(&self, result: &Classification) -> Result<Written>;

    /// The rows of these images, those that there are, in any order.
    async fn get(&self, images: &[ImageName]) -> Result<Vec<Classification>>;

    /// A page in natural order; its cost does not depend on how many rows there are.
    async fn page(&self, query: &PageQuery) -> Result<Page>;

    /// Removes the row. Answers the row that was there.
    async fn delete(&self, image: &ImageName) -> Result<Option<Classification>>;

    /// How many rows there are.
    async fn totals(&self) -> Result<Totals>;

    /// Writes a worker's heartbeat.
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()>;

    /// All heartbeats, those of workers that are gone included.
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>>;

    /// The scaler's memory, `None` before its first run.
    async fn scaler(&self) -> Result<Option<Versioned>>;

    /// Replaces the scaler's memory if its version is still `expected` (`None`: if there is none). False if it is not.
    async fn swap_scaler(&self, expected: Option<u64>, value: &str) -> Result<bool>;
}

/// The app tier as its manager sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetState {
    /// Smallest allowed capacity.
    pub min: u32,
    /// Largest allowed capacity.
    pub max: u32,
    /// Desired capacity.
    pub desired: u32,
    /// Workers that run.
    pub in_service: u32,
    /// Workers that start.
    pub pending: u32,
    /// Workers that stop.
    pub terminating: u32,
    /// Workers in service that are protected from scale-in, because they have work.
    pub protected: u32,
}

/// What [`Fleet::set_desired`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetDesired {
    /// The fleet will get there.
    Accepted,
    /// The manager is busy with an earlier change; ask again later.
    InProgress,
}

/// The app tier: worker processes here, an Auto Scaling group on AWS.
#[async_trait]
pub trait Fleet: Send + Sync + Debug {
    /// The fleet's state.
    async fn observe(&self) -> Result<FleetState>;

    /// Why the fleet's workers cannot start, where this process starts them and they cannot.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Sets the desired capacity, clamped to min and max.
    async fn set_desired(&self, desired: u32) -> Result<SetDesired>;

    /// Lets these workers go if the fleet has more than it should, although they may have work: each finishes what it has begun and
    /// hands the rest back. Needed only where a manager keeps workers with work.
    async fn release(&self, _workers: &[String]) -> Result<()> {
        Ok(())
    }
}

/// What [`Instance::depart`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Nobody manages the machine: whoever wants it off shuts it down.
    Unmanaged,
    /// The manager takes the machine away and wants one fewer.
    Leaving,
    /// The fleet is at its minimum, and would replace the machine: it stays.
    Needed,
}

/// The machine that a worker runs on.
#[async_trait]
pub trait Instance: Send + Sync + Debug {
    /// The instance's id, or the host name. Several workers may share it.
    fn id(&self) -> &str;

    /// Takes protection from scale-in, or drops it. Without a manager this does nothing.
    ///
    /// # Errors
    /// If it could not be taken the machine may be gone at any time: drain.
    async fn protect(&self, on: bool) -> Result<()>;

    /// Waits until the machine is about to be taken away and answers why: then drain. May be dropped and called again.
    async fn leaving(&self) -> String;

    /// Tells the manager that the worker is drained, so that it need not wait any longer.
    async fn drained(&self) -> Result<()>;

    /// Has the manager take the machine away without replacing it, never below the fleet's minimum.
    async fn depart(&self) -> Result<Departure>;
}

/// A machine that nobody manages.
#[derive(Debug)]
pub struct Host(String);

impl Default for Host {
    fn default() -> Self {
        Self(host_name())
    }
}

#[async_trait]
impl Instance for Host {
    fn id(&self) -> &str {
        &self.0
    }

    async fn protect(&self, _on: bool) -> Result<()> {
        Ok(())
    }

    async fn leaving(&self) -> String {
        std::future::pending().await
    }

    async fn drained(&self) -> Result<()> {
        Ok(())
    }

    async fn depart(&self) -> Result<Departure> {
        Ok(Departure::Unmanaged)
    }
}

/// The machine's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What a reset removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetReport {
    /// Images.
    pub images: u64,
    /// Output objects.
    pub outputs: u64,
    /// Messages, dead letters included.
    pub messages: u64,
    /// Rows.
    pub results: u64,
}

/// Empties the system.
#[async_trait]
pub trait Reset: Send + Sync + Debug {
    /// Removes every image, output, message and row that was there when it was called; results of work in flight are discarded
    /// when they come. Uploads that arrive meanwhile stay.
    async fn reset(&self) -> Result<ResetReport>;
}
