//! One look at the system: the queue, the fleet, its workers, and what the scaler remembers.

use super::{
    Observation,
    memory::Memory,
    outcome::{CALL_TIMEOUT, TickError},
};
use crate::{
    backend::{self, Backend, Heartbeat, Versioned, status::images_in_the_last_minute, within},
    contract::Timestamp,
};

/// Images that a worker must have finished with all the work that it can do before its rate counts: the first ones warm
/// it up.
const MEASURED_FROM: u64 = 5;

/// For how long it must have had that work, in milliseconds: longer than an image takes from its receive to its result,
/// since none is finished before.
const MEASURED_FOR_MS: u64 = 2000;

/// What one look found.
pub(super) struct Sight {
    /// What is decided on.
    pub(super) seen: Observation,
    /// The workers that were heard of lately.
    pub(super) alive: Vec<Heartbeat>,
    /// The machines that are protected from scale-in.
    pub(super) protected: Vec<String>,
    pub(super) memory: Memory,
    /// The version of the memory, where there is one.
    pub(super) version: Option<u64>,
}

/// Reads all that a decision needs, at the same time.
pub(super) async fn observe(backend: &Backend, now: Timestamp) -> Result<Sight, TickError> {
    let depth = read("queue's depth", backend.queue.depth());
    let fleet = read("fleet", backend.fleet.observe());
    let heartbeats = read("workers' heartbeats", backend.workers.heartbeats());
    let memory = read("scaler's memory", backend.scaler.read());
    let (depth, fleet, heartbeats, memory) = tokio::try_join!(depth, fleet, heartbeats, memory)?;
    let flow = images_in_the_last_minute(&heartbeats, now) / 60.0;
    let alive: Vec<_> = heartbeats.into_iter().filter(|beat| beat.is_alive(now)).collect();
    let busy = alive.iter().filter(|beat| beat.in_flight > 0 && !beat.draining).count();
    let seen = Observation {
        visible: depth.visible,
        in_flight: depth.in_flight,
        busy: u32::try_from(busy).unwrap_or(u32::MAX),
        rate: rate(&alive),
        flow,
        fleet,
    };
    let version = memory.as_ref().map(|memory| memory.version);
    let memory = memory.map(recall).unwrap_or_default();
    Ok(Sight { seen, alive, protected: backend.fleet.protected(), memory, version })
}

/// The memory in the store; none if it cannot be understood, for a policy can start from nothing.
fn recall(memory: Versioned) -> Memory {
    serde_json::from_str(&memory.value).unwrap_or_else(|error| {
        tracing::warn!(%error, "the scaler's memory is not understood; starting from none");
        Memory::default()
    })
}

/// Images a second of one worker with all the work that it can do: what those alive finished of it, over how long they
/// had it.
fn rate(alive: &[Heartbeat]) -> Option<f64> {
    let measured = || alive.iter().filter(|beat| beat.busy_images >= MEASURED_FROM && beat.busy_ms >= MEASURED_FOR_MS);
    let images: u64 = measured().map(|beat| beat.busy_images).sum();
    let busy_ms: u64 = measured().map(|beat| beat.busy_ms).sum();
    (busy_ms > 0).then(|| images as f64 * 1000.0 / busy_ms as f64)
}

async fn read<T>(what: &'static str, call: impl Future<Output = backend::Result<T>>) -> Result<T, TickError> {
    within(CALL_TIMEOUT, call).await.map_err(|source| TickError::Read { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::FleetState,
        config::{Policy, Rules},
        scaling::{History, decide},
    };

    #[test]
    fn the_rate_is_that_of_workers_with_all_the_work_that_they_can_do() {
        let beat = |done, busy_images, busy_ms| Heartbeat { done, busy_images, busy_ms, ..Heartbeat::default() };
        // A thousand images one by one, and of a backlog 800 in ten seconds.
        let both = beat(1800, 800, 10_000);
        assert_eq!(rate(std::slice::from_ref(&both)), Some(80.0));
        // One that was never full, one that has been for a moment, one that stores nothing, one of the release before.
        let (idle, fresh, stuck, old) =
            (beat(900, 0, 0), beat(20, 20, 900), beat(0, 0, 60_000), beat(16_000, 0, 10_000));
        assert_eq!(rate(&[idle.clone(), fresh.clone(), stuck.clone(), old.clone()]), None);
        assert_eq!(rate(&[idle, fresh, stuck, old, both, beat(400, 400, 10_000)]), Some(60.0));
    }

    #[test]
    fn a_backlog_is_answered_with_as_many_workers_as_it_takes() {
        // The network alone did 1,600 images a second, the worker 80.
        let beat = Heartbeat { done: 1600, busy_images: 1600, busy_ms: 20_000, ..Heartbeat::default() };
        let fleet = FleetState { max: 100, desired: 1, in_service: 1, ..FleetState::default() };
        let seen = Observation { visible: 100_000, rate: rate(&[beat]), fleet, ..Observation::default() };
        let rules = Rules { policy: Policy::Backlog, max_step: 100, ..Rules::default() };
        assert_eq!(decide(&seen, &rules, &History::default(), Timestamp::default()).target, 21);
    }
}
