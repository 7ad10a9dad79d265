//! Emptying the system.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;

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

/// Counts what a reset has removed so far, for somebody who watches it.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) images: AtomicU64,
    pub(super) outputs: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) results: AtomicU64,
}

impl Tally {
    /// Returns what was removed so far.
    #[must_use]
    pub fn report(&self) -> ResetReport {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ResetReport {
            images: read(&self.images),
            outputs: read(&self.outputs),
            messages: read(&self.messages),
            results: read(&self.results),
        }
    }
}

/// Empties the system.
#[async_trait]
pub trait Reset: Send + Sync + Debug {
    /// Removes every image, output, message and row that was there when it was called, and counts them in `removed`;
    /// results of work in flight are discarded when they come. Uploads that arrive meanwhile stay.
    async fn reset(&self, removed: &Tally) -> Result<()>;

    /// Waits for writers that have not heard of the last reset, and removes what they left behind, which nobody sees.
    /// It may be broken off and called again.
    async fn settle(&self, removed: &Tally) -> Result<()>;
}
