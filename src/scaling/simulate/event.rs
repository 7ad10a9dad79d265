//! What happens in a simulation, in order of time.

use std::cmp::Ordering;

use super::queue::Cohort;

/// What happens at a time.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// The queue gets the arrivals of the next second, and the fleet's manager looks at its workers.
    Second,
    /// The policy decides.
    Tick,
    /// A worker begins to work.
    Ready(u64),
    /// A worker is lost.
    Failed(u64),
    /// A worker is off the bill.
    Gone(u64),
    /// Messages of a lost worker are visible again.
    Visible(Vec<Cohort>),
}

/// An event with its time; earlier ones first, and of those at the same time the one that was planned first.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) at_s: f64,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_s.total_cmp(&self.at_s).then(other.order.cmp(&self.order))
    }
}
