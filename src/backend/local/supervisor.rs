//! Keeps as many worker processes alive as the fleet desires. It runs inside `imgcls serve`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Store, WorkerCommand, fleet::Observed, worker_process::WorkerProcess};
use crate::backend::{Heartbeat, Result, Results};

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);

/// How often it writes what it sees, changed or not.
const REPORT: Duration = Duration::from_secs(1);

/// A worker is given so long to finish. It takes 25 s at most to hand its work back.
const GRACE: Duration = Duration::from_secs(30);

/// Pauses before workers that died are replaced: after the first death, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A worker that ran so long was healthy: its death begins a new series.
const HEALTHY: Duration = Duration::from_secs(60);

/// The supervisor of the local fleet.
#[derive(Debug)]
pub struct Supervisor {
    store: Arc<Store>,
    command: WorkerCommand,
    grace: Duration,
    workers: Vec<WorkerProcess>,
    deaths: Deaths,
    reported: Option<(Observed, Instant)>,
}

impl Supervisor {
    /// A supervisor that starts workers with `command`.
    #[must_use]
    pub fn new(store: Arc<Store>, command: WorkerCommand) -> Self {
        Self { store, command, grace: GRACE, workers: Vec::new(), deaths: Deaths::default(), reported: None }
    }

    /// Supervises until `shutdown`, then lets all workers finish; returns when none is left.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(shutdown.is_cancelled() && self.workers.is_empty()) {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled(), if !self.workers.iter().all(WorkerProcess::is_stopping) => {}
            }
            if let Err(error) = self.tick(shutdown.is_cancelled()).await {
                tracing::warn!(%error, "the fleet cannot be looked after; trying again");
                // Workers end even if the database is out of order.
                if shutdown.is_cancelled() {
                    self.workers.iter_mut().for_each(|worker| worker.stop(self.grace));
                }
                tokio::time::sleep(TICK).await;
            }
        }
    }

    async fn tick(&mut self, is_shutting_down: bool) -> Result<()> {
        self.reap();
        if is_shutting_down {
            self.workers.iter_mut().for_each(|worker| worker.stop(self.grace));
            return self.report(&[]).await;
        }
        let desired = self.store.desired().await? as usize;
        let working = self.workers.iter().filter(|worker| !worker.is_stopping()).count();
        if working < desired {
            self.start(desired - working);
        }
        let is_due = self.reported.is_none_or(|(_, at)| at.elapsed() >= REPORT);
        if working > desired || working != self.workers.len() || is_due {
            let beats = self.store.heartbeats().await?;
            self.stop_surplus(desired, &beats);
            self.report(&beats).await?;
        }
        Ok(())
    }

    /// Forgets the workers that have ended.
    fn reap(&mut self) {
        let deaths = &mut self.deaths;
        self.workers.retain_mut(|worker| match worker.poll() {
            Ok(None) => true,
            Ok(Some(status)) if worker.is_stopping() => {
                tracing::info!(pid = worker.pid, %status, "worker stopped");
                false
            }
            Ok(Some(status)) => {
                tracing::warn!(pid = worker.pid, %status, "worker died; it will be replaced");
                deaths.add(worker.started);
                false
            }
            Err(error) => {
                tracing::error!(pid = worker.pid, %error, "cannot watch a worker");
                true
            }
        });
    }

    fn start(&mut self, missing: usize) {
        if self.deaths.wait_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        for _ in 0..missing {
            match WorkerProcess::start(&self.command, self.store.clock.now_ms()) {
                Ok(worker) => {
                    tracing::info!(pid = worker.pid, "worker started");
                    self.workers.push(worker);
                }
                Err(error) => {
                    let program = self.command.program.display();
                    tracing::error!(%program, %error, "cannot start a worker; trying again later");
                    self.deaths.add(Instant::now());
                    return;
                }
            }
        }
    }

    /// Tells the workers beyond `desired` to finish: first those that hold the fewest messages, of these the newest.
    fn stop_surplus(&mut self, desired: usize, beats: &[Heartbeat]) {
        let mut working: Vec<&mut WorkerProcess> =
            self.workers.iter_mut().filter(|worker| !worker.is_stopping()).collect();
        let surplus = working.len().saturating_sub(desired);
        working.sort_by_key(|worker| {
            (beat_of(worker, beats).map_or(0, |beat| beat.in_flight), std::cmp::Reverse(worker.started))
        });
        for worker in working.into_iter().take(surplus) {
            tracing::info!(pid = worker.pid, "worker is no longer needed; letting it finish");
            worker.stop(self.grace);
        }
    }

    /// Writes what is seen, if it changed or was not written for a while.
    async fn report(&mut self, beats: &[Heartbeat]) -> Result<()> {
        let mut observed = Observed::default();
        for worker in &self.workers {
            *match (worker.is_stopping(), beat_of(worker, beats)) {
                (true, _) => &mut observed.terminating,
                (false, Some(_)) => &mut observed.running,
                (false, None) => &mut observed.pending,
            } += 1;
        }
        if self.reported.is_none_or(|(last, at)| last != observed || at.elapsed() >= REPORT) {
            self.store.write_observed(observed).await?;
            self.reported = Some((observed, Instant::now()));
        }
        Ok(())
    }
}

/// What the worker said of itself, if it was heard of.
fn beat_of<'a>(worker: &WorkerProcess, beats: &'a [Heartbeat]) -> Option<&'a Heartbeat> {
    let suffix = format!("-{}", worker.pid);
    beats.iter().find(|beat| beat.seen_at_ms >= worker.started_at_ms && beat.worker.ends_with(&suffix))
}

/// The series of unexpected deaths, and until when no worker is started because of it.
#[derive(Debug, Default)]
struct Deaths {
    count: u32,
    last: Option<Instant>,
    wait_until: Option<Instant>,
}

impl Deaths {
    /// A worker that was started then has died.
    fn add(&mut self, started: Instant) {
        let now = Instant::now();
        if now - started >= HEALTHY {
            self.count = 0;
        }
        // Those that were started together and die together count once.
        if self.count == 0 || self.last.is_none_or(|last| started >= last) {
            self.count += 1;
            self.wait_until = Some(now + pause(self.count).mul_f64(rand::random_range(0.5..1.0)));
        }
        self.last = Some(now);
    }
}

/// The longest pause after so many deaths in a row: doubled each time.
fn pause(deaths: u32) -> Duration {
    BACK_OFF.0.saturating_mul(1 << deaths.saturating_sub(1).min(16)).min(BACK_OFF.1)
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
