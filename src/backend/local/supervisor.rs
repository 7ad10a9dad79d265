//! Keeps as many worker processes alive as the fleet desires. It runs inside `imgcls serve`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Store, WorkerCommand, fleet::Observed, worker_process::WorkerProcess};
use crate::backend::{Heartbeat, Registry, Result, Retry};

/// How long workers are waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// One that was asked to stop, or ends by itself. It takes 25 s at most to hand its work back.
    stop: Duration,
    /// One that has started, until its first heartbeat: it loads its model, perhaps on a busy machine.
    start: Duration,
    /// One that works, from heartbeat to heartbeat.
    heartbeat: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stop: Duration::from_secs(30), start: Duration::from_secs(120), heartbeat: Heartbeat::ALIVE }
    }
}

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);

/// How long it waits after failures; it never gives up.
const TICK_RETRY: Retry = Retry { attempts: u32::MAX, first: TICK, longest: Duration::from_secs(10) };

/// How often it writes what it sees, changed or not.
const REPORT: Duration = Duration::from_secs(1);

/// Pauses before workers that died are replaced: after the first death, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A worker that ran so long was healthy: its death begins a new series.
const HEALTHY: Duration = Duration::from_secs(60);

/// So many starts that fail in a row are no accident: the fleet is at fault.
const FAILED_STARTS: u32 = 3;

/// The supervisor of the local fleet.
#[derive(Debug)]
pub struct Supervisor {
    store: Arc<Store>,
    command: WorkerCommand,
    patience: Patience,
    workers: Vec<WorkerProcess>,
    deaths: Deaths,
    looked: Option<Instant>,
    reported: Option<(Observed, Instant)>,
}

impl Supervisor {
    /// A supervisor that starts workers with `command`.
    #[must_use]
    pub fn new(store: Arc<Store>, command: WorkerCommand) -> Self {
        Self {
            store,
            command,
            patience: Patience::default(),
            workers: Vec::new(),
            deaths: Deaths::default(),
            looked: None,
            reported: None,
        }
    }

    /// Supervises until `shutdown`, then lets all workers finish; returns when none is left.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failures = 0;
        while !(shutdown.is_cancelled() && self.workers.is_empty()) {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled(), if !self.workers.iter().all(WorkerProcess::is_stopping) => {}
            }
            let Err(error) = self.tick(shutdown.is_cancelled()).await else {
                failures = 0;
                continue;
            };
            failures += 1;
            // Where nothing can be written, heartbeats cannot be either: their absence tells nothing of the workers.
            self.looked = None;
            tracing::warn!(%error, failures, "the fleet cannot be looked after; trying again");
            if shutdown.is_cancelled() {
                // Workers end even if the database is out of order.
                self.stop_all();
                tokio::time::sleep(TICK).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK_RETRY.pause(failures)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn tick(&mut self, is_shutting_down: bool) -> Result<()> {
        self.reap();
        if is_shutting_down {
            self.stop_all();
            return self.report().await;
        }
        let desired = self.store.desired().await? as usize;
        let working = self.workers.iter().filter(|worker| !worker.is_stopping()).count();
        if working < desired {
            let beats = self.store.heartbeats().await?;
            self.start(desired - working, &beats);
        }
        let is_due = self.reported.is_none_or(|(_, at)| at.elapsed() >= REPORT);
        if working > desired || working != self.workers.len() || is_due {
            let beats = self.store.heartbeats().await?;
            self.look(&beats);
            self.stop_surplus(desired);
            self.report().await?;
        }
        Ok(())
    }

    fn stop_all(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.stop(self.patience.stop));
    }

    /// Forgets the workers that have ended.
    fn reap(&mut self) {
        let mut failed = None;
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
                if !worker.pulse.is_heard() {
                    failed = Some((worker.started, format!("ended with {status}; {}", last_words(worker))));
                }
                false
            }
            Err(error) => {
                tracing::error!(pid = worker.pid, %error, "cannot watch a worker");
                true
            }
        });
        if let Some((started, why)) = failed {
            self.start_failed(started, &why);
        }
    }

    fn start(&mut self, missing: usize, beats: &[Heartbeat]) {
        if self.deaths.wait_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        for _ in 0..missing {
            match WorkerProcess::start(&self.command, beats) {
                Ok(worker) => {
                    tracing::info!(pid = worker.pid, "worker started");
                    self.workers.push(worker);
                }
                Err(error) => {
                    let why = format!("cannot run {}: {error}", self.command.program.display());
                    tracing::warn!("{why}; trying again later");
                    let now = Instant::now();
                    self.deaths.add(now);
                    self.start_failed(now, &why);
                    return;
                }
            }
        }
    }

    /// Counts a start that came to nothing, and makes it known when there are too many in a row.
    fn start_failed(&mut self, started: Instant, why: &str) {
        self.deaths.add_failed_start(started);
        let starts = self.deaths.failed_starts;
        if starts >= FAILED_STARTS {
            let fault = format!("workers cannot start: {starts} in a row failed, the last one {why}");
            tracing::error!("{fault}");
            self.store.set_fault(Some(fault));
        }
    }

    /// Takes note of the workers' heartbeats; stops those that end by themselves and kills those that are silent for
    /// too long.
    fn look(&mut self, beats: &[Heartbeat]) {
        // Looks that failed, and a supervisor that was halted, are not the workers' silence.
        let passed = self.looked.map_or(Duration::ZERO, |at| at.elapsed().min(2 * REPORT));
        self.looked = Some(Instant::now());
        let patience = self.patience;
        let mut failed = None;
        for worker in &mut self.workers {
            if worker.pulse.look(beats, passed) {
                self.deaths.failed_starts = 0;
                self.store.set_fault(None);
            }
            if worker.is_stopping() {
                continue;
            }
            let silence = worker.pulse.silence();
            if worker.pulse.is_draining() {
                tracing::info!(pid = worker.pid, "worker ends by itself; it will be replaced");
                self.deaths.add(worker.started);
                worker.stop(patience.stop);
            } else if worker.pulse.is_heard() && silence >= patience.heartbeat {
                tracing::error!(
                    pid = worker.pid,
                    ?silence,
                    "worker is not heard of any more; killing and replacing it"
                );
                self.deaths.add(worker.started);
                worker.stop(Duration::ZERO);
            } else if !worker.pulse.is_heard() && silence >= patience.start {
                tracing::error!(pid = worker.pid, ?silence, "worker does not get ready; killing and replacing it");
                self.deaths.add(worker.started);
                worker.stop(Duration::ZERO);
                failed = Some((worker.started, format!("was not ready in time; {}", last_words(worker))));
            }
        }
        if let Some((started, why)) = failed {
            self.start_failed(started, &why);
        }
    }

    /// Asks the workers beyond `desired` to finish: first those that hold the fewest messages, of these the newest.
    fn stop_surplus(&mut self, desired: usize) {
        let mut working: Vec<&mut WorkerProcess> =
            self.workers.iter_mut().filter(|worker| !worker.is_stopping()).collect();
        let surplus = working.len().saturating_sub(desired);
        working.sort_by_key(|worker| (worker.pulse.in_flight(), std::cmp::Reverse(worker.started)));
        for worker in working.into_iter().take(surplus) {
            tracing::info!(pid = worker.pid, "worker is no longer needed; letting it finish");
            worker.stop(self.patience.stop);
        }
    }

    /// Writes what is seen, if it changed or was not written for a while.
    async fn report(&mut self) -> Result<()> {
        let mut observed = Observed::default();
        for worker in &self.workers {
            *match (worker.is_stopping(), worker.pulse.is_heard()) {
                (true, _) => &mut observed.terminating,
                (false, true) => &mut observed.running,
                (false, false) => &mut observed.pending,
            } += 1;
        }
        if self.reported.is_none_or(|(last, at)| last != observed || at.elapsed() >= REPORT) {
            self.store.write_observed(observed).await?;
            self.reported = Some((observed, Instant::now()));
        }
        Ok(())
    }
}

/// What a worker logged last, for a user who looks for a reason.
fn last_words(worker: &WorkerProcess) -> String {
    match worker.last_line() {
        line if line.is_empty() => "the log may say why".to_owned(),
        line => format!("it said: {line}"),
    }
}

/// The series of unexpected deaths, and until when no worker is started because of it.
#[derive(Debug, Default)]
struct Deaths {
    count: u32,
    last: Option<Instant>,
    wait_until: Option<Instant>,
    /// Those in a row that were never heard of.
    failed_starts: u32,
    last_failed_start: Option<Instant>,
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

    /// A worker that was started then was never heard of. Those that were started together count once.
    fn add_failed_start(&mut self, started: Instant) {
        if self.failed_starts == 0 || self.last_failed_start.is_none_or(|last| started >= last) {
            self.failed_starts += 1;
            self.last_failed_start = Some(Instant::now());
        }
    }
}

/// The longest pause after so many deaths in a row: doubled each time.
fn pause(deaths: u32) -> Duration {
    BACK_OFF.0.saturating_mul(1 << deaths.saturating_sub(1).min(16)).min(BACK_OFF.1)
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
