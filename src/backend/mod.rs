//! The stores behind narrow traits: images, queue, results, workers, fleet and reset, on this machine or on AWS.
//!
//! Every implementation passes the suite in `suite/`; what it checks is the contract in the traits' documentation.

use std::sync::Arc;

pub mod aws;
pub mod error;
mod fleet;
mod images;
mod latency;
pub mod local;
mod open;
mod query;
mod queue;
mod remove;
mod requeue;
mod reset;
mod results;
mod retry;
mod scaler;
pub mod status;
#[cfg(test)]
pub(crate) mod suite;
mod workers;

pub use error::{Error, ErrorKind, Result};
pub use fleet::{Departure, Fleet, FleetState, Host, Instance, SetDesired, host_name};
pub use images::{Images, Outputs, Put, StoredImage, Tags, Upload, UploadBytes};
pub use latency::Latency;
pub use open::{instance, open, open_existing};
pub use query::{
    Counts, Cursor, Filter, FolderCount, LabelCount, Matches, Order, Page, PageQuery, Search, State, StateCounts,
};
pub use queue::{DeadLetter, DeadLetters, Depth, Message, Queue, QueuePolicy, Receipt};
pub use remove::remove;
pub use requeue::{Which, requeue, requeue_images};
pub use reset::{Reset, ResetReport, Tally};
pub use results::{Removed, Results, Totals, Written};
pub use retry::{Attempts, Retry, within};
pub use scaler::{ScalerMemory, Versioned};
pub use workers::{Heartbeat, Registry, model_of};

/// The parts of one backend. All of them act on the same system; clone freely.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `local` or `aws`.
    pub name: &'static str,
    /// The stored images.
    pub images: Arc<dyn Images>,
    /// Their tags.
    pub tags: Arc<dyn Tags>,
    /// Output objects.
    pub outputs: Arc<dyn Outputs>,
    /// Messages about images to classify.
    pub queue: Arc<dyn Queue>,
    /// Messages that nobody could deal with.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Rows.
    pub results: Arc<dyn Results>,
    /// Heartbeats.
    pub workers: Arc<dyn Registry>,
    /// The scaler's memory.
    pub scaler: Arc<dyn ScalerMemory>,
    /// The app tier as its manager sees it.
    pub fleet: Arc<dyn Fleet>,
    /// Empties all of them.
    pub reset: Arc<dyn Reset>,
}
