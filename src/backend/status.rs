//! The system's status: queue, fleet, results, workers and throughput, as `imgcls status` and `/api/status` show it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Backend, Depth, Error, FleetState, Heartbeat, Latency, Result, Totals};
use crate::contract::{Timestamp, WorkerId};

/// The status, in the shape of `GET /api/status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// `local` or `aws`.
    pub backend: &'static str,
    /// The model's name.
    pub model: String,
    /// How many messages there are.
    pub queue: Depth,
    /// The app tier.
    pub fleet: FleetStatus,
    /// How many rows there are.
    pub results: Totals,
    /// Images in the last whole minute and the running one, per minute.
    pub images_per_minute: f64,
    /// Workers heard of lately.
    pub workers: Vec<WorkerStatus>,
    /// Classifications by label, over all workers; an image that is classified again counts again.
    pub labels: BTreeMap<String, u64>,
    /// How long the message that comes next has waited, in seconds. `None` if none waits, and where the queue does not
    /// tell: SQS has it in CloudWatch alone, as `ApproximateAgeOfOldestMessage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_message_seconds: Option<f64>,
    /// Images recorded as failed, over all workers; one that fails again counts again.
    #[serde(skip)]
    pub failed: u64,
    /// How long images took from their upload to their label, over all workers.
    #[serde(skip)]
    pub latency: Latency,
}

/// The status with what is fixed and what the scaler remembers: the answer to `GET /api/status`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Report<'a> {
    /// The status.
    #[serde(flatten)]
    pub status: &'a Status,
    /// The labels that the model knows.
    pub classes: &'a [String],
    /// See [`scaling`].
    pub scaling: &'a Value,
    /// Since when this is so, in seconds. More than a few where the stores do not answer.
    pub age_seconds: u64,
}

/// What is told of a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its id.
    pub worker: WorkerId,
    /// When it started.
    #[serde(rename = "started_at_ms")]
    pub started_at: Timestamp,
    /// When it was last heard of.
    #[serde(rename = "seen_at_ms")]
    pub seen_at: Timestamp,
    /// Messages that it holds.
    pub in_flight: u32,
    /// It takes no more messages.
    pub draining: bool,
    /// Images that it classified.
    pub done: u64,
    /// Images that it recorded as failed.
    pub failed: u64,
    /// Images by minute since 1970, the last ten minutes.
    pub minutes: BTreeMap<i64, u64>,
    /// Images by label.
    pub labels: BTreeMap<String, u64>,
}

impl From<Heartbeat> for WorkerStatus {
    fn from(beat: Heartbeat) -> Self {
        let Heartbeat {
            worker,
            model: _,
            started_at,
            seen_at,
            in_flight,
            draining,
            done,
            failed,
            busy_images: _,
            busy_ms: _,
            minutes,
            labels,
            latency: _,
        } = beat;
        Self { worker, started_at, seen_at, in_flight, draining, done, failed, minutes, labels }
    }
}

/// The app tier in few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetStatus {
    /// Desired capacity.
    pub desired: u32,
    /// Workers that run.
    pub running: u32,
    /// Workers that hold messages.
    pub busy: u32,
    /// Why workers cannot start, if they cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Smallest and largest capacity, workers that start and stop.
    #[serde(flatten)]
    pub state: FleetRest,
}

/// What else the manager knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetRest {
    /// Smallest allowed capacity.
    pub min: u32,
    /// Largest allowed capacity.
    pub max: u32,
    /// Workers that start.
    pub pending: u32,
    /// Workers that stop.
    pub terminating: u32,
}

/// Reads the status of `backend`, which runs `model`, at `now`.
///
/// # Errors
/// The first store's that cannot be read.
pub async fn read(backend: &Backend, model: &str, now: Timestamp) -> Result<Status> {
    // Read once: for a store that does not count its rows they are the totals, too.
    let results = async {
        let beats = backend.workers.heartbeats().await?;
        Ok::<_, Error>((backend.results.totals(&beats).await?, beats))
    };
    let (queue, fleet, (results, beats), oldest) =
        tokio::try_join!(backend.queue.depth(), backend.fleet.observe(), results, oldest(backend))?;
    let mut status = summarise(backend.name, model, queue, fleet, results, beats, now);
    status.fleet.fault = backend.fleet.fault();
    status.oldest_message_seconds = oldest.map(|sent_at| now.since(sent_at).as_secs_f64());
    Ok(status)
}

/// Reads what of the scaler's memory is told: its last changes of the fleet, and what they rest on. Null before its
/// first look.
///
/// # Errors
/// The store's.
pub async fn scaling(backend: &Backend) -> Result<Value> {
    Ok(backend.scaler.read().await?.map_or(Value::Null, |memory| told(memory.value)))
}

/// The memory without what only the policy itself understands.
fn told(memory: String) -> Value {
    let Ok(mut told) = serde_json::from_str(&memory) else { return Value::String(memory) };
    if let Value::Object(memory) = &mut told {
        memory.remove("silent_since_ms");
        if let Some(Value::Object(history)) = memory.get_mut("history") {
            for workings in ["low", "launches", "in_at_ms", "out_at_ms", "minute"] {
                history.remove(workings);
            }
        }
    }
    told
}

/// When the message that comes next was sent, where to look costs nothing.
async fn oldest(backend: &Backend) -> Result<Option<Timestamp>> {
    if backend.queue.policy().peek_counts {
        return Ok(None);
    }
    Ok(backend.queue.peek(1).await?.first().map(|message| message.sent_at))
}

fn summarise(
    backend: &'static str,
    model: &str,
    queue: Depth,
    fleet: FleetState,
    results: Totals,
    beats: Vec<Heartbeat>,
    now: Timestamp,
) -> Status {
    let (mut labels, mut latency) = (BTreeMap::new(), Latency::default());
    beats.iter().for_each(|beat| latency.absorb(&beat.latency));
    for (label, count) in beats.iter().flat_map(|beat| &beat.labels) {
        *labels.entry(label.clone()).or_default() += count;
    }
    let failed = beats.iter().map(|beat| beat.failed).sum();
    let images_per_minute = images_in_the_last_minute(&beats, now);
    let is_there = |beat: &Heartbeat| beat.is_alive(now) && !beat.has_ended();
    let mut workers: Vec<WorkerStatus> = beats.into_iter().filter(is_there).map(Into::into).collect();
    workers.sort_by(|a, b| a.worker.cmp(&b.worker));
    let busy = workers.iter().filter(|worker| worker.in_flight > 0).count();
    let FleetState { min, max, desired, in_service, pending, terminating, .. } = fleet;
    Status {
        backend,
        model: model.to_owned(),
        queue,
        fleet: FleetStatus {
            desired,
            running: in_service,
            busy: u32::try_from(busy).unwrap_or(u32::MAX),
            fault: None,
            state: FleetRest { min, max, pending, terminating },
        },
        results,
        images_per_minute,
        workers,
        labels,
        oldest_message_seconds: None,
        failed,
        latency,
    }
}

/// Images in the last minute: what there is of this one, and of the one before the share that is not a minute old.
pub(crate) fn images_in_the_last_minute(beats: &[Heartbeat], now: Timestamp) -> f64 {
    let minute = now.minute();
    let images = |minute| beats.iter().filter_map(|beat| beat.minutes.get(&minute)).sum::<u64>() as f64;
    images(minute) + images(minute - 1) * (1.0 - now.share_of_minute())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_scaler_tells_its_decisions_and_not_its_workings() {
        let memory = r#"{"history": {"last": {"visible": 3}, "low": [1], "launches": [], "in_at_ms": 5, "rate": 2.0},
            "decisions": [{"target": 2}], "silent_since_ms": {"i-1": 5}}"#;
        let want = r#"{"history": {"last": {"visible": 3}, "rate": 2.0}, "decisions": [{"target": 2}]}"#;
        assert_eq!(told(memory.to_owned()), serde_json::from_str::<Value>(want).unwrap());
        assert_eq!(told("{".to_owned()), Value::from("{"), "of another version");
    }

    #[test]
    fn workers_are_summed_up_and_the_dead_left_out() {
        let beat = |worker: &str, seen_at, in_flight| Heartbeat {
            worker: worker.into(),
            seen_at,
            in_flight,
            done: 30,
            failed: 2,
            minutes: BTreeMap::from([(0, 5), (1, 40), (2, 10)]),
            labels: BTreeMap::from([("cat".into(), 30)]),
            ..Heartbeat::default()
        };
        let now = Timestamp::from_millis(2 * 60_000 + 30_000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let goodbye = Heartbeat { draining: true, ..beat("ended", ago(1), 0) };
        let beats = vec![beat("b", ago(1), 0), beat("a", ago(2), 3), beat("gone", ago(60), 9), goodbye];
        let fleet = FleetState { min: 1, max: 4, desired: 2, in_service: 2, ..FleetState::default() };
        let status = summarise("local", "m", Depth::default(), fleet, Totals::default(), beats, now);
        assert_eq!(status.workers.iter().map(|w| w.worker.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((status.fleet.busy, status.fleet.running), (1, 2));
        assert_eq!((status.labels["cat"], status.failed), (120, 8));
        assert!((status.images_per_minute - 120.0).abs() < 1e-9, "{}", status.images_per_minute);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["fleet"]["desired"], 2);
        assert_eq!(json["queue"]["in_flight"], 0);
        assert!(json["workers"][0].get("busy_ms").is_none());
    }
}
