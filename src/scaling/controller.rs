//! Carries the scaling decision out: looks, decides, remembers by compare-and-swap, sets the desired capacity.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Decision, History, Observation, Reading, decide};
use crate::{
    backend::{self, Backend, Heartbeat, SetDesired, Versioned, status::images_in_the_last_minute, within},
    clock::Clock,
    config::Rules,
    contract::{Change, Timestamp},
};

/// How many decisions are remembered for the status page.
const REMEMBERED: usize = 20;

/// How long one call of a store may take, the store's own retries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Images that a worker must have finished with all the work that it can do before its rate counts: the first ones warm
/// it up.
const MEASURED_FROM: u64 = 5;

/// For how long it must have had that work, in milliseconds: longer than an image takes from its receive to its result,
/// since none is finished before.
const MEASURED_FOR_MS: u64 = 2000;

/// A worker that has run for so long is sound: one that ends again and again is not, though each of it is heard of.
const SOUND: Duration = Duration::from_secs(60);

/// After so long without a sound worker a machine is lost. A restart of a worker, or of the store of heartbeats, is
/// over long before.
const LOST: Duration = Duration::from_secs(5 * 60);

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

/// The scaler's item in the results store, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the policy remembers.
    pub history: History,
    /// The last changes of the desired capacity, newest first.
    pub decisions: VecDeque<Change>,
    /// The protected machines without a sound worker, and since when that is so.
    #[serde(rename = "silent_since_ms")]
    pub silent: BTreeMap<String, Timestamp>,
}

/// What is seen, what is remembered, and what is decided on both; nothing has been changed yet.
struct Plan {
    seen: Observation,
    decision: Decision,
    /// The machines that may go: of workers that are too many, and those that are lost.
    surplus: Vec<String>,
    /// What to remember as [`Memory::silent`].
    silent: BTreeMap<String, Timestamp>,
    memory: Memory,
    version: Option<u64>,
}

/// Decides once and carries it out.
///
/// # Errors
/// [`TickError`]; after one the next call starts afresh, and no change is remembered that was not made.
pub async fn tick(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    let now = clock.now();
    let mut plan = plan(backend, rules, now).await?;
    let surplus = std::mem::take(&mut plan.surplus);
    let outcome = carry_out(backend, plan, now).await?;
    if matches!(outcome.action, Action::Scaled | Action::Nothing) && !surplus.is_empty() {
        // They are asked again at the next reading, so a failure costs a little money and nothing else.
        if let Err(error) = within(CALL_TIMEOUT, backend.fleet.release(&surplus)).await {
            tracing::warn!(%error, machines = surplus.len(), "cannot let surplus machines go");
        }
    }
    tell(&outcome);
    Ok(outcome)
}

/// Decides once and changes nothing.
///
/// # Errors
/// [`TickError::Read`].
pub async fn dry_run(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    let Plan { seen, decision, .. } = plan(backend, rules, clock.now()).await?;
    Ok(outcome(seen, decision, Action::DryRun))
}

async fn plan(backend: &Backend, rules: &Rules, now: Timestamp) -> Result<Plan, TickError> {
    let depth = read("queue's depth", backend.queue.depth());
    let fleet = read("fleet", backend.fleet.observe());
    let heartbeats = read("workers' heartbeats", backend.workers.heartbeats());
    let memory = read("scaler's memory", backend.scaler.read());
    let (depth, fleet, heartbeats, memory) = tokio::try_join!(depth, fleet, heartbeats, memory)?;
    let alive: Vec<_> = heartbeats.iter().filter(|beat| beat.is_alive(now)).collect();
    let busy = alive.iter().filter(|beat| beat.in_flight > 0 && !beat.draining).count();
    let seen = Observation {
        visible: depth.visible,
        in_flight: depth.in_flight,
        busy: u32::try_from(busy).unwrap_or(u32::MAX),
        rate: rate(&alive),
        flow: images_in_the_last_minute(&heartbeats, now) / 60.0,
        fleet,
    };
    let version = memory.as_ref().map(|memory| memory.version);
    let memory = memory.map(recall).unwrap_or_default();
    let decision = decide(&seen, rules, &memory.history, now);
    let silent = silent(&backend.fleet.protected(), &alive, &memory.silent, now);
    // Those without any worker count among the protected, and go when they are lost.
    let without_worker = |machine: &&String| !alive.iter().any(|beat| beat.worker.instance() == Some(*machine));
    let without_worker = silent.keys().filter(without_worker).count();
    let mut surplus = least_busy(&alive, (decision.release as usize).saturating_sub(without_worker));
    surplus.extend(lost(&silent, now));
    surplus.sort_unstable();
    surplus.dedup();
    Ok(Plan { seen, decision, surplus, silent, memory, version })
}

/// The machines of the workers that hold the fewest messages, of these the newest.
fn least_busy(alive: &[&Heartbeat], count: usize) -> Vec<String> {
    let mut working: Vec<_> = alive.iter().filter(|beat| !beat.draining).collect();
    working.sort_by_key(|beat| (beat.in_flight, std::cmp::Reverse(beat.started_at)));
    let machines = working.into_iter().take(count).filter_map(|beat| beat.worker.instance());
    machines.map(str::to_owned).collect()
}

/// The protected machines without a sound worker, and since when that is so as far as it was seen.
fn silent(
    protected: &[String],
    alive: &[&Heartbeat],
    before: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let sound = |beat: &&&Heartbeat| now.since(beat.started_at) >= SOUND;
    let is_silent =
        |machine: &&String| !alive.iter().filter(sound).any(|beat| beat.worker.instance() == Some(*machine));
    // A time in the future is from before the clock was set back.
    let since = |machine: &String| before.get(machine).map_or(now, |since| now.min(*since));
    protected.iter().filter(is_silent).map(|machine| (machine.clone(), since(machine))).collect()
}

/// Those that are silent for so long that their protection, which the worker should drop, would stay for ever.
fn lost(silent: &BTreeMap<String, Timestamp>, now: Timestamp) -> Vec<String> {
    let lost: Vec<String> =
        silent.iter().filter(|(_, since)| now.since(**since) >= LOST).map(|(machine, _)| machine.clone()).collect();
    if !lost.is_empty() {
        tracing::warn!(machines = ?lost, "no worker of these machines is sound; they lose their protection from scale-in");
    }
    lost
}

async fn carry_out(backend: &Backend, plan: Plan, now: Timestamp) -> Result<Outcome, TickError> {
    let Plan { seen, decision, silent, memory, version, .. } = plan;
    let from = seen.fleet.desired;
    let changes = decision.target != from;
    // A change that fails is not remembered as made, or its cool-down would hold up the next attempt.
    let before = History { last: None, ..memory.history.clone() };
    let mut next = Memory { history: decision.history.clone(), decisions: memory.decisions, silent };
    if changes {
        let at = now.date().and_then(|at| at.replace_nanosecond(0).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let at = at.format(&Rfc3339).unwrap_or_default();
        next.decisions.push_front(Change { at, from, target: decision.target, reason: decision.reason.clone() });
        next.decisions.truncate(REMEMBERED);
    }
    // What is known already is not written again: an idle machine's disk may sleep.
    let is_news = changes || memory.silent != next.silent || !alike(&memory.history, &next.history);
    if is_news && !remember(backend, version, &next).await? {
        return Ok(outcome(seen, decision, Action::Overtaken));
    }
    if !changes {
        return Ok(outcome(seen, decision, Action::Nothing));
    }
    let set = within(CALL_TIMEOUT, backend.fleet.set_desired(decision.target)).await;
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

/// Whether two histories differ in nothing but the times of their readings.
fn alike(a: &History, b: &History) -> bool {
    let (Some(old), Some(new)) = (a.last, b.last) else { return false };
    let at = |history: &History| {
        let minute = history.minute.map(|minute| Reading { at: Timestamp::default(), ..minute });
        History { last: Some(Reading { at: Timestamp::default(), ..new }), minute, ..history.clone() }
    };
    (old.visible, old.in_flight) == (new.visible, new.in_flight) && at(a) == at(b)
}

/// Writes the memory, if nobody else did since it was read.
async fn remember(backend: &Backend, version: Option<u64>, memory: &Memory) -> Result<bool, TickError> {
    let text = serde_json::to_string(memory).unwrap_or_else(|_| "{}".to_owned());
    within(CALL_TIMEOUT, backend.scaler.swap(version, &text))
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

/// Images a second of one worker with all the work that it can do: what those alive finished of it, over how long they
/// had it.
fn rate(alive: &[&Heartbeat]) -> Option<f64> {
    let measured = || alive.iter().filter(|beat| beat.busy_images >= MEASURED_FROM && beat.busy_ms >= MEASURED_FOR_MS);
    let images: u64 = measured().map(|beat| beat.busy_images).sum();
    let busy_ms: u64 = measured().map(|beat| beat.busy_ms).sum();
    (busy_ms > 0).then(|| images as f64 * 1000.0 / busy_ms as f64)
}

async fn read<T>(what: &'static str, call: impl Future<Output = backend::Result<T>>) -> Result<T, TickError> {
    within(CALL_TIMEOUT, call).await.map_err(|source| TickError::Read { what, source })
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
#[path = "controller_tests.rs"]
mod tests;
