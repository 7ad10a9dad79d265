//! The reset marker: what it hides.

use super::row::{ASKED_AT, Item, number};
use crate::{backend::Heartbeat, contract::Timestamp};

/// The last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marker {
    /// What was asked for at or before it is no more.
    pub(super) at: Timestamp,
    /// What the heartbeats had counted by then.
    pub(super) done: u64,
    pub(super) failed: u64,
}

impl Marker {
    /// Reads the marker from its item, which is empty where nothing was ever reset.
    pub(super) fn read(item: &Item) -> Self {
        Self {
            at: number(item, "At").unwrap_or(Timestamp::MIN),
            done: number(item, "Done").unwrap_or(0),
            failed: number(item, "Failed").unwrap_or(0),
        }
    }
}

/// Whether an item was asked for after the last reset.
pub(super) fn is_visible(item: &Item, marker: Marker) -> bool {
    number::<Timestamp>(item, ASKED_AT).is_some_and(|asked| asked > marker.at)
}

/// What all workers counted as done and as failed.
pub(super) fn sum(heartbeats: &[Heartbeat]) -> (u64, u64) {
    heartbeats.iter().fold((0, 0), |(done, failed), beat| (done + beat.done, failed + beat.failed))
}
