//! The supervisor: keeps as many worker processes as the fleet desires, inside `imgcls serve`.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use rand::RngExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    sync::CancellationToken,
};
use tracing::{info, warn};

use super::{Store, fleet::Observed};
use crate::backend::{Fleet, Heartbeat, Result, Results};

/// Time between looks at the workers and at what is desired.
const TICK: Duration = Duration::from_millis(200);

/// The observation is written when it changes, and at least so often.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// A worker that was told to stop has 25 s by itself; then it is killed.
const GRACE: Duration = Duration::from_secs(30);

/// A worker that ran for so long was well: the next failure is a first one.
const WELL: Duration = Duration::from_secs(60);

/// Longest pause before a worker is started again.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// Longer lines of a worker's log are dropped.
const MAX_LOG_LINE: usize = 16 * 1024;

/// How a worker is started. It must end by itself when its standard input closes.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// Keeps the fleet's worker processes.
#[derive(Debug)]
pub struct Supervisor {
    store: Arc<Store>,
    command: WorkerCommand,
    workers: Vec<Worker>,
    failures: u32,
    start_after: Instant,
    written: Option<(Observed, Instant)>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    /// Closed to tell the worker to stop.
    stdin: Option<ChildStdin>,
    pid: u32,
    started: Instant,
    told_to_stop: Option<Instant>,
}

impl Supervisor {
    /// A supervisor of the fleet of `store`; it starts workers by `command`.
    #[must_use]
    pub fn new(store: Arc<Store>, command: WorkerCommand) -> Self {
        Self { store, command, workers: Vec::new(), failures: 0, start_after: Instant::now(), written: None }
    }

    /// Keeps the fleet until `stop` is cancelled, then lets the workers drain. A worker that dies is started again after a
    /// back-off. Errors of the store are logged, and what was desired last goes on.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut desired = 0;
        while !stop.is_cancelled() {
            match self.store.observe().await {
                Ok(fleet) => desired = fleet.desired as usize,
                Err(error) => warn!(%error, "cannot read the desired capacity"),
            }
            self.reap();
            let active = self.workers.iter().filter(|w| w.told_to_stop.is_none()).count();
            if active < desired && Instant::now() >= self.start_after {
                self.start(desired - active);
            } else if active > desired {
                self.stop_some(active - desired).await;
            }
            self.observe().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        for worker in &mut self.workers {
            worker.tell_to_stop();
        }
        while !self.workers.is_empty() {
            self.reap();
            self.observe().await;
            tokio::time::sleep(TICK / 4).await;
        }
        self.observe().await;
    }

    /// Takes note of workers that ended, and kills those that do not stop.
    fn reap(&mut self) {
        let mut died = None;
        self.workers.retain_mut(|worker| {
            if worker.told_to_stop.is_some_and(|at| at.elapsed() > GRACE) {
                warn!(pid = worker.pid, "a worker does not stop; killing it");
                if let Err(error) = worker.child.start_kill() {
                    warn!(pid = worker.pid, %error, "cannot kill a worker");
                }
            }
            match worker.child.try_wait() {
                Ok(None) => true,
                Ok(Some(_)) if worker.told_to_stop.is_some() => {
                    info!(pid = worker.pid, "worker stopped");
                    false
                }
                Ok(Some(status)) => {
                    warn!(pid = worker.pid, %status, "a worker died");
                    died = Some(died.unwrap_or(Duration::ZERO).max(worker.started.elapsed()));
                    false
                }
                Err(error) => {
                    warn!(pid = worker.pid, %error, "cannot tell whether a worker runs");
                    true
                }
            }
        });
        if let Some(ran) = died {
            self.failures = if ran >= WELL { 1 } else { self.failures.saturating_add(1) };
            let pause = back_off(self.failures);
            self.start_after = Instant::now() + pause;
            info!(again_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "starting another worker");
        }
    }

    fn start(&mut self, count: usize) {
        for _ in 0..count {
            match Worker::start(&self.command) {
                Ok(worker) => {
                    info!(pid = worker.pid, "worker started");
                    self.workers.push(worker);
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    let pause = back_off(self.failures);
                    self.start_after = Instant::now() + pause;
                    warn!(%error, program = %self.command.program.display(), "cannot start a worker; trying again");
                    return;
                }
            }
        }
    }

    /// Tells `count` workers to stop: those with the least work, of these the youngest.
    async fn stop_some(&mut self, count: usize) {
        let beats = self.beats().await;
        let in_flight = |pid: u32| beats.iter().find(|beat| is_of(beat, pid)).map_or(0, |beat| beat.in_flight);
        let mut active: Vec<&mut Worker> = self.workers.iter_mut().filter(|w| w.told_to_stop.is_none()).collect();
        active.sort_by_key(|worker| (in_flight(worker.pid), std::cmp::Reverse(worker.started)));
        for worker in active.into_iter().take(count) {
            info!(pid = worker.pid, "stopping a worker");
            worker.tell_to_stop();
        }
    }

    /// Writes what the workers do, where it changed or is old.
    async fn observe(&mut self) {
        let beats = if self.workers.is_empty() { Vec::new() } else { self.beats().await };
        let mut observed = Observed::default();
        for worker in &self.workers {
            if worker.told_to_stop.is_some() {
                observed.terminating += 1;
            } else if beats.iter().any(|beat| is_of(beat, worker.pid)) {
                observed.running += 1;
            } else {
                observed.pending += 1;
            }
        }
        if self.written.is_some_and(|(last, at)| last == observed && at.elapsed() < OBSERVE_EVERY) {
            return;
        }
        match self.store.write_observed(observed).await {
            Ok(()) => self.written = Some((observed, Instant::now())),
            Err(error) => warn!(%error, "cannot write the state of the fleet"),
        }
    }

    async fn beats(&self) -> Vec<Heartbeat> {
        let read: Result<Vec<Heartbeat>> = self.store.heartbeats().await;
        read.unwrap_or_else(|error| {
            warn!(%error, "cannot read the heartbeats");
            Vec::new()
        })
    }
}

impl Worker {
    fn start(command: &WorkerCommand) -> std::io::Result<Self> {
        let mut child = Command::new(&command.program)
            .args(&command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(pass_on(stderr));
        }
        let pid = child.id().unwrap_or_default();
        Ok(Self { stdin: child.stdin.take(), pid, child, started: Instant::now(), told_to_stop: None })
    }

    fn tell_to_stop(&mut self) {
        self.stdin = None;
        self.told_to_stop.get_or_insert_with(Instant::now);
    }
}

/// A worker's log goes to the server's: if it inherited the file, it would hold it open after the server is gone.
async fn pass_on(stderr: ChildStderr) {
    let mut lines = FramedRead::new(stderr, LinesCodec::new_with_max_length(MAX_LOG_LINE));
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => eprintln!("{line}"),
            Err(error) => warn!(%error, "a line of a worker's log is lost"),
        }
    }
}

/// Workers name themselves by host and process id.
fn is_of(beat: &Heartbeat, pid: u32) -> bool {
    beat.worker.rsplit_once('-').is_some_and(|(_, id)| id == pid.to_string())
}

/// 100 ms, 200 ms, 400 ms… of which between half and all is taken.
fn back_off(failures: u32) -> Duration {
    let longest = MAX_BACK_OFF.min(Duration::from_millis(50) * 2u32.saturating_pow(failures.min(16)));
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}
