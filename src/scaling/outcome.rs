//! What comes of one call of the controller.

use std::time::Duration;

use serde::Serialize;

use super::Observation;
use crate::backend;

/// How long one call of a store may take, the store's own retries included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there was no decision, or none that could be carried out.
#[derive(Debug, thiserror::Error)]
pub enum TickError {
    /// The queue, the fleet, the heartbeats or the scaler's memory cannot be read.
    #[error("cannot read the {what}: {source}")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        source: backend::Error,
    },
    /// The memory cannot be written, or the fleet refuses the desired capacity.
    #[error("cannot {what}: {source}")]
    Act {
        /// What.
        what: String,
        /// Why.
        source: backend::Error,
    },
}

/// What became of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The desired capacity was changed.
    Scaled,
    /// It is right as it is.
    Nothing,
    /// The fleet's manager is busy with an earlier change; the next reading decides again.
    InProgress,
    /// Another run decided on the same reading and was quicker.
    Overtaken,
    /// The decision was only asked for.
    DryRun,
}

/// A decision and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// What became of it.
    pub action: Action,
    /// The desired capacity before.
    pub from: u32,
    /// The desired capacity decided on.
    pub target: u32,
    /// Why, a sentence.
    pub reason: String,
    /// What it was decided on.
    #[serde(flatten)]
    pub seen: Observation,
}
