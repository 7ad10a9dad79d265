//! Heartbeats: what this worker did, counted here and written to the results store every ten seconds.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{capacity::Capacity, lease::Leases};
use crate::{
    backend::{Heartbeat, Registry, within},
    clock::Clock,
    contract::{Outcome, Timestamp, WorkerId},
};

/// Time between heartbeats.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// Minutes that a heartbeat counts.
const MINUTES: i64 = 10;

/// How long a write may take; the next one makes up for a lost one.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

/// Counts the worker's deeds.
#[derive(Debug)]
pub(crate) struct Counters {
    clock: Arc<dyn Clock>,
    state: Mutex<Heartbeat>,
    capacity: Mutex<Capacity>,
}

/// A message that is held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held(Arc<Counters>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.capacity.lock().ended(Instant::now());
    }
}

impl Counters {
    /// Nothing done yet by `worker`, which runs `model` and has enough to do with more than `enough` messages.
    #[must_use]
    pub(crate) fn new(worker: WorkerId, model: String, enough: usize, clock: Arc<dyn Clock>) -> Self {
        let state = Heartbeat { worker, model, started_at: clock.now(), ..Heartbeat::default() };
        Self { clock, state: Mutex::new(state), capacity: Mutex::new(Capacity::new(enough)) }
    }

    /// Counts a message as held for as long as the answer lives.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.capacity.lock().begun(Instant::now());
        Held(Arc::clone(self))
    }

    /// Counts a stored result of what was asked for at `asked_at`.
    pub(crate) fn stored(&self, outcome: &Outcome, asked_at: Timestamp) {
        let now = self.clock.now();
        let minute = now.minute();
        self.capacity.lock().stored();
        let mut state = self.state.lock();
        match outcome {
            Outcome::Labelled { label, .. } => {
                state.done += 1;
                *state.labels.entry(label.clone()).or_default() += 1;
            }
            Outcome::Failed { .. } => state.failed += 1,
        }
        state.latency.add(now.since(asked_at));
        *state.minutes.entry(minute).or_default() += 1;
        prune(&mut state.minutes, minute);
    }

    /// The heartbeat as things stand.
    #[must_use]
    pub(crate) fn heartbeat(&self, in_flight: usize, draining: bool) -> Heartbeat {
        let now = self.clock.now();
        let (busy_images, busy) = self.capacity.lock().measured(Instant::now());
        let mut state = self.state.lock();
        prune(&mut state.minutes, now.minute());
        Heartbeat {
            seen_at: now,
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            draining,
            busy_images,
            busy_ms: u64::try_from(busy.as_millis()).unwrap_or(u64::MAX),
            ..state.clone()
        }
    }

    /// Images done and failed.
    #[must_use]
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.done, state.failed)
    }
}

fn prune(minutes: &mut BTreeMap<i64, u64>, now: i64) {
    minutes.retain(|minute, _| now - minute < MINUTES);
}

/// Writes a heartbeat now and every ten seconds until `stop`, and whenever work begins or ends, at most once a second.
pub(crate) async fn beat(
    registry: Arc<dyn Registry>,
    counters: Arc<Counters>,
    leases: Arc<Leases>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut last, mut was_busy) = (None::<tokio::time::Instant>, false);
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let busy = !leases.is_empty();
        let due = last.is_none_or(|at| at.elapsed() >= INTERVAL);
        if ended || due || busy != was_busy {
            let heartbeat = counters.heartbeat(leases.len(), draining.is_cancelled() || ended);
            if let Err(error) = within(WRITE_TIMEOUT, registry.beat(&heartbeat)).await {
                warn!(%error, "cannot write the heartbeat");
            }
            last = Some(tokio::time::Instant::now());
            was_busy = busy;
        }
        if ended {
            return;
        }
    }
}
