//! What a worker is configured with.

use crate::{contract::WorkerId, model::Limits};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in heartbeats and rows.
    pub worker: WorkerId,
    /// Threads of the network, and as many that decode.
    pub threads: usize,
    /// Most images in one batch.
    pub batch: usize,
    /// Concurrent receivers.
    pub receivers: usize,
    /// Bytes of decoded pixels in memory at a time.
    pub pixel_budget: u64,
    /// Limits for one image.
    pub limits: Limits,
    /// Probability below which a label is uncertain.
    pub min_confidence: f32,
    /// End when the queue is empty.
    pub until_empty: bool,
}
