//! Carries the scaling decision out: looks, decides, remembers by compare-and-swap, sets the desired capacity.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Decision, History, Observation, Reading, Rules, decide};
use crate::{
    backend::{self, Backend, ErrorKind, Heartbeat, SetDesired, Versioned},
    clock::Clock,
};

/// How many decisions are remembered for the status page.
const REMEMBERED: usize = 20;

/// How long one call of a store may take, the store's own retries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Images that a worker must have classified before its rate counts: the first ones warm it up.
const MEASURED_FROM: u64 = 5;

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

/// One past change, for the status page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When, RFC 3339.
    pub at: String,
    /// The desired capacity before.
    pub from: u32,
    /// The desired capacity after.
    pub target: u32,
    /// Why, a sentence.
    pub reason: String,
}

/// The scaler's item in the results store, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the policy remembers.
    pub history: History,
    /// The last changes of the desired capacity, newest first.
    pub decisions: VecDeque<Past>,
}

/// What is seen, what is remembered, and what is decided on both; nothing has been changed yet.
struct Plan {
    seen: Observation,
    decision: Decision,
    memory: Memory,
    version: Option<u64>,
}

/// Decides once and carries it out.
///
/// # Errors
/// [`TickError`]; after one the next call starts afresh, and no change is remembered that was not made.
pub async fn tick(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    let now_ms = clock.now_ms();
    let plan = plan(backend, rules, now_ms).await?;
    let outcome = carry_out(backend, plan, now_ms).await?;
    tell(&outcome);
    Ok(outcome)
}

/// Decides once and changes nothing.
///
/// # Errors
/// [`TickError::Read`].
pub async fn dry_run(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    let Plan { seen, decision, .. } = plan(backend, rules, clock.now_ms()).await?;
    Ok(outcome(seen, decision, Action::DryRun))
}

async fn plan(backend: &Backend, rules: &Rules, now_ms: i64) -> Result<Plan, TickError> {
    let depth = read("queue's depth", backend.queue.depth());
    let fleet = read("fleet", backend.fleet.observe());
    let heartbeats = read("workers' heartbeats", backend.results.heartbeats());
    let memory = read("scaler's memory", backend.results.scaler());
    let (depth, fleet, heartbeats, memory) = tokio::try_join!(depth, fleet, heartbeats, memory)?;
    let alive: Vec<_> = heartbeats.iter().filter(|beat| beat.is_alive(now_ms)).collect();
    let busy = alive.iter().filter(|beat| beat.in_flight > 0 && !beat.draining).count();
    let seen = Observation {
        visible: depth.visible,
        in_flight: depth.in_flight,
        busy: u32::try_from(busy).unwrap_or(u32::MAX),
        rate: rate(&alive),
        fleet,
    };
    let version = memory.as_ref().map(|memory| memory.version);
    let memory = memory.map(recall).unwrap_or_default();
    let decision = decide(&seen, rules, &memory.history, now_ms);
    Ok(Plan { seen, decision, memory, version })
}

async fn carry_out(backend: &Backend, plan: Plan, now_ms: i64) -> Result<Outcome, TickError> {
    let Plan { seen, decision, memory, version } = plan;
    let from = seen.fleet.desired;
    let changes = decision.target != from;
    // A change that fails is not remembered as made, or its cool-down would hold up the next attempt.
    let before = History { last: None, ..memory.history.clone() };
    let mut next = Memory { history: decision.history.clone(), decisions: memory.decisions };
    if changes {
        let at = OffsetDateTime::from_unix_timestamp(now_ms.div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let at = at.format(&Rfc3339).unwrap_or_default();
        next.decisions.push_front(Past { at, from, target: decision.target, reason: decision.reason.clone() });
        next.decisions.truncate(REMEMBERED);
    }
    // What is known already is not written again: an idle machine's disk may sleep.
    if (changes || !alike(&memory.history, &next.history)) && !remember(backend, version, &next).await? {
        return Ok(outcome(seen, decision, Action::Overtaken));
    }
    if !changes {
        return Ok(outcome(seen, decision, Action::Nothing));
    }
    let set = within(backend.fleet.set_desired(decision.target)).await;
    if let Ok(SetDesired::Accepted) = set {
        return Ok(outcome(seen, decision, Action::Scaled));
    }
    next.history = before;
    next.decisions.pop_front();
    let forgotten = remember(backend, Some(version.unwrap_or(0) + 1), &next).await;
    match set {
        Ok(_) => forgotten.map(|_| outcome(seen, decision, Action::InProgress)),
        Err(source) => Err(TickError::Act { what: format!("set the desired capacity to {}", decision.target), source }),
    }
}

/// Whether two histories differ in nothing but the time of their last reading.
fn alike(a: &History, b: &History) -> bool {
    let (Some(old), Some(new)) = (a.last, b.last) else { return false };
    let at = |history: &History| History { last: Some(Reading { at_ms: 0, ..new }), ..history.clone() };
    (old.visible, old.in_flight) == (new.visible, new.in_flight) && at(a) == at(b)
}

/// Writes the memory, if nobody else did since it was read.
async fn remember(backend: &Backend, version: Option<u64>, memory: &Memory) -> Result<bool, TickError> {
    let text = serde_json::to_string(memory).unwrap_or_else(|_| "{}".to_owned());
    within(backend.results.swap_scaler(version, &text))
        .await
        .map_err(|source| TickError::Act { what: "write the scaler's memory".to_owned(), source })
}

/// The memory in the store; none if it cannot be understood, for a policy can start from nothing.
fn recall(memory: Versioned) -> Memory {
    serde_json::from_str(&memory.value).unwrap_or_else(|error| {
        tracing::warn!(%error, "the scaler's memory is not understood; starting from none");
        Memory::default()
    })
}

/// Images a second of one busy worker: all that those alive did over all the time that they worked.
fn rate(alive: &[&Heartbeat]) -> Option<f64> {
    let measured = || alive.iter().filter(|beat| beat.done >= MEASURED_FROM && beat.busy_ms > 0);
    let done: u64 = measured().map(|beat| beat.done).sum();
    let busy_ms: u64 = measured().map(|beat| beat.busy_ms).sum();
    (busy_ms > 0).then(|| done as f64 * 1000.0 / busy_ms as f64)
}

async fn read<T>(what: &'static str, call: impl Future<Output = backend::Result<T>>) -> Result<T, TickError> {
    within(call).await.map_err(|source| TickError::Read { what, source })
}

async fn within<T>(call: impl Future<Output = backend::Result<T>>) -> backend::Result<T> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| {
        let message = format!("no answer within {}", humantime::format_duration(CALL_TIMEOUT));
        Err(backend::Error::new(ErrorKind::Transient, message))
    })
}

fn outcome(seen: Observation, decision: Decision, action: Action) -> Outcome {
    Outcome { action, from: seen.fleet.desired, target: decision.target, reason: decision.reason, seen }
}

/// Tells what happened, so that the log reads like a story: changes aloud, the rest only to those who ask.
fn tell(outcome: &Outcome) {
    let Outcome { action, from, target, reason, seen } = outcome;
    let fleet = &seen.fleet;
    match action {
        Action::Scaled if target > from => {
            tracing::info!(from, target, visible = seen.visible, in_flight = seen.in_flight, "scaling out: {reason}");
        }
        Action::Scaled => {
            tracing::info!(from, target, visible = seen.visible, in_flight = seen.in_flight, "scaling in: {reason}");
        }
        Action::InProgress => {
            tracing::info!(from, target, "the fleet is busy with an earlier change; deciding again next time");
        }
        Action::Overtaken => tracing::info!("another run has just decided on this reading; leaving it at that"),
        Action::Nothing | Action::DryRun => {
            tracing::debug!(desired = from, visible = seen.visible, in_flight = seen.in_flight, "{reason}");
        }
    }
    if fleet.in_service > *target && fleet.in_service > 0 && fleet.protected >= fleet.in_service {
        tracing::info!(
            desired = target,
            in_service = fleet.in_service,
            "every worker is at work and protected; each leaves as it finishes, which is as it should be"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{backend::local, clock::ManualClock, config::Config};

    /// A local backend with a clock that is moved by hand; its fleet is the workers whose heartbeats are written.
    struct World {
        backend: Backend,
        clock: Arc<ManualClock>,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
            config.fleet.max = 20;
            let clock = Arc::new(ManualClock::at(1_800_000_000_000));
            let (backend, _) = local::open(&config, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
            Self { backend, clock, _dir: dir }
        }

        async fn send(&self, messages: usize) {
            self.backend.queue.send(&vec!["{}".to_owned(); messages]).await.unwrap();
        }

        /// So many workers are heard of, the first `busy` of which hold a message.
        async fn workers(&self, running: u32, busy: u32) {
            for id in 0..running {
                let beat = Heartbeat {
                    worker: format!("w{id}"),
                    in_flight: u32::from(id < busy),
                    done: 800,
                    busy_ms: 10_000,
                    ..Heartbeat::default()
                };
                self.backend.results.beat(&beat).await.unwrap();
            }
        }

        async fn empty(&self) {
            self.backend.reset.reset().await.unwrap();
        }

        async fn tick(&self, rules: &Rules) -> Outcome {
            tick(&self.backend, rules, self.clock.as_ref()).await.unwrap()
        }

        async fn memory(&self) -> Memory {
            serde_json::from_str(&self.backend.results.scaler().await.unwrap().unwrap().value).unwrap()
        }

        async fn desired(&self) -> u32 {
            self.backend.fleet.observe().await.unwrap().desired
        }
    }

    #[tokio::test]
    async fn a_burst_is_scaled_out_for_and_back_in_and_remembered() {
        let world = World::new();
        let rules = Rules::default();
        world.workers(1, 1).await;
        world.send(1200).await;
        let out = world.tick(&rules).await;
        assert_eq!(
            (out.action, out.from, out.target, world.desired().await),
            (Action::Scaled, 1, 16, 16),
            "{}",
            out.reason
        );

        world.clock.advance(Duration::from_secs(10));
        world.workers(16, 16).await;
        let again = world.tick(&rules).await;
        assert_eq!((again.action, again.target), (Action::Nothing, 16), "{}", again.reason);

        world.empty().await;
        let mut last = again;
        for _ in 0..10 {
            world.clock.advance(Duration::from_secs(10));
            world.workers(16, 2).await;
            last = world.tick(&rules).await;
            if last.action == Action::Scaled {
                break;
            }
        }
        assert_eq!((last.action, last.target, world.desired().await), (Action::Scaled, 2, 2), "{}", last.reason);
        let memory = world.memory().await;
        let changes: Vec<_> = memory.decisions.iter().map(|past| (past.from, past.target)).collect();
        assert_eq!(changes, [(16, 2), (1, 16)]);
        assert_eq!(memory.decisions[1].at, "2027-01-15T08:00:00Z");
        assert!(memory.decisions[1].reason.starts_with("1200 messages wait"), "{}", memory.decisions[1].reason);
    }

    #[tokio::test]
    async fn an_idle_system_writes_nothing() {
        let world = World::new();
        let rules = Rules::default();
        let mut versions = Vec::new();
        for _ in 0..6 {
            world.workers(1, 0).await;
            world.tick(&rules).await;
            versions.push(world.backend.results.scaler().await.unwrap().unwrap().version);
            world.clock.advance(rules.interval);
        }
        assert_eq!(versions[3..], [versions[2]; 3], "{versions:?}");
        world.send(1).await;
        world.tick(&rules).await;
        assert!(world.backend.results.scaler().await.unwrap().unwrap().version > versions[5]);
    }

    #[tokio::test]
    async fn a_dry_run_decides_and_changes_nothing() {
        let world = World::new();
        world.workers(1, 0).await;
        world.send(150).await;
        let outcome = dry_run(&world.backend, &Rules::default(), world.clock.as_ref()).await.unwrap();
        assert_eq!((outcome.action, outcome.from, outcome.target), (Action::DryRun, 1, 3));
        assert_eq!(world.desired().await, 1);
        assert_eq!(world.backend.results.scaler().await.unwrap(), None);
    }

    #[tokio::test]
    async fn of_two_runs_on_one_reading_one_acts() {
        let world = World::new();
        world.workers(1, 1).await;
        world.send(600).await;
        let rules = Rules { cooldown_out: Duration::ZERO, warmup: Duration::ZERO, ..Rules::default() };
        let now = world.clock.now_ms();
        let first = plan(&world.backend, &rules, now).await.unwrap();
        let second = plan(&world.backend, &rules, now).await.unwrap();
        assert_eq!(carry_out(&world.backend, first, now).await.unwrap().action, Action::Scaled);
        assert_eq!(carry_out(&world.backend, second, now).await.unwrap().action, Action::Overtaken);
        assert_eq!(world.desired().await, 6);
        let third = world.tick(&rules).await;
        assert_eq!((third.action, third.target), (Action::Nothing, 6), "{}", third.reason);
    }

    #[tokio::test]
    async fn the_rate_is_measured_from_those_alive() {
        let world = World::new();
        let rules = Rules { policy: super::super::Policy::Backlog, ..Rules::default() };
        world.workers(1, 1).await;
        world.send(10).await;
        let seen = world.tick(&rules).await.seen;
        assert_eq!((seen.rate, seen.busy), (Some(80.0), 1));
        world.clock.advance(Duration::from_secs(60));
        let seen = world.tick(&rules).await.seen;
        assert_eq!((seen.rate, seen.busy), (None, 0));
        assert_eq!(world.memory().await.history.rate, Some(80.0));
    }

    #[tokio::test]
    async fn a_memory_that_is_not_understood_is_replaced() {
        let world = World::new();
        assert!(world.backend.results.swap_scaler(None, "from another time").await.unwrap());
        world.workers(1, 0).await;
        assert_eq!(world.tick(&Rules::default()).await.action, Action::Nothing);
        assert_eq!(world.memory().await.decisions.len(), 0);
    }
}
