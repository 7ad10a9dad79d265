//! What workers say of themselves.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Latency, Result};
use crate::contract::{Timestamp, WorkerId};

/// So many heartbeats are kept one by one; those of the workers that were gone first are summed up.
pub(crate) const MAX_HEARTBEATS: usize = 64;

/// What a worker says of itself every ten seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker's id.
    pub worker: WorkerId,
    /// The model that it runs, as rows have it; empty where workers did not yet say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// When it started.
    #[serde(rename = "started_at_ms")]
    pub started_at: Timestamp,
    /// When it wrote this; set by the store.
    #[serde(rename = "seen_at_ms")]
    pub seen_at: Timestamp,
    /// Messages that it holds.
    pub in_flight: u32,
    /// It takes no more messages.
    pub draining: bool,
    /// Images that it classified.
    pub done: u64,
    /// Images that it recorded as failed.
    pub failed: u64,
    /// Images whose result it stored in the time of `busy_ms`, to tell its rate when busy.
    #[serde(default)]
    pub busy_images: u64,
    /// Milliseconds in which it had all the work that it can do at once. Before `busy_images` was told, those of the
    /// network alone.
    pub busy_ms: u64,
    /// Images by minute since 1970, the last ten minutes.
    pub minutes: BTreeMap<i64, u64>,
    /// Images by label.
    pub labels: BTreeMap<String, u64>,
    /// How long images took from their message to their result.
    #[serde(default)]
    pub latency: Latency,
}

impl Heartbeat {
    /// A worker that was not heard of for so long is taken as gone.
    pub const ALIVE: Duration = Duration::from_secs(30);

    /// Whether the worker was heard of lately.
    #[must_use]
    pub fn is_alive(&self, now: Timestamp) -> bool {
        // A heartbeat of the future is from before the clock was set back: whoever lives has written another since.
        now.abs_diff(self.seen_at) < Self::ALIVE
    }

    /// Whether the worker has said goodbye: it drains, and holds nothing any more.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.draining && self.in_flight == 0
    }
}

/// The model of the service, as rows have it, by what workers say: that of the one that started last, since others may
/// be on their way out. `None` where none is left that says anything.
#[must_use]
pub fn model_of(beats: &[Heartbeat], now: Timestamp) -> Option<&str> {
    let is_there = |beat: &&Heartbeat| beat.is_alive(now) && !beat.has_ended() && !beat.model.is_empty();
    Some(beats.iter().filter(is_there).max_by_key(|beat| beat.started_at)?.model.as_str())
}

impl Heartbeat {
    /// The sum of no workers.
    pub(crate) fn of_former_workers() -> Self {
        Self { worker: WorkerId::of_former_workers(), seen_at: Timestamp::MAX, ..Self::default() }
    }

    /// Adds what another worker, which is gone, counted. Its minutes are over. The sum keeps the time of the oldest.
    pub(crate) fn absorb(&mut self, former: &Self) {
        self.seen_at = self.seen_at.min(former.seen_at);
        self.started_at = former.started_at;
        self.done += former.done;
        self.failed += former.failed;
        self.busy_images += former.busy_images;
        self.busy_ms += former.busy_ms;
        self.latency.absorb(&former.latency);
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
