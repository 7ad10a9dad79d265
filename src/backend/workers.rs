//! What workers say of themselves.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;

/// The heartbeat that holds the sum of those of workers long gone.
pub(crate) const FORMER_WORKERS: &str = "former workers";

/// So many heartbeats are kept one by one; those of the workers that were gone first are summed up.
pub(crate) const MAX_HEARTBEATS: usize = 64;

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
        // A heartbeat of the future is from before the clock was set back: whoever lives has written another since.
        u128::from(now_ms.abs_diff(self.seen_at_ms)) < Self::ALIVE.as_millis()
    }
}

impl Heartbeat {
    /// The sum of no workers.
    pub(crate) fn of_former_workers() -> Self {
        Self { worker: FORMER_WORKERS.to_owned(), seen_at_ms: i64::MAX, ..Self::default() }
    }

    /// Adds what another worker, which is gone, counted. Its minutes are over. The sum keeps the time of the oldest.
    pub(crate) fn absorb(&mut self, former: &Self) {
        self.seen_at_ms = self.seen_at_ms.min(former.seen_at_ms);
        self.started_at_ms = former.started_at_ms;
        self.done += former.done;
        self.failed += former.failed;
        self.busy_ms += former.busy_ms;
        for (label, count) in &former.labels {
            *self.labels.entry(label.clone()).or_default() += count;
        }
    }
}

/// The workers' heartbeats.
#[async_trait]
pub trait Registry: Send + Sync + Debug {
    /// Writes a worker's heartbeat.
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()>;

    /// Returns all heartbeats, those of workers that are gone included. However many workers there were, they stay few:
    /// the oldest are summed up.
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>>;
}
