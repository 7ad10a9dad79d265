//! The state of the whole system: for people, for scripts, and whether this server is ready.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{App, ask, error::Result, pages};
use crate::{
    backend::{Depth, FleetState, Heartbeat, Totals},
    contract::ImageName,
};

/// An answer is given again for so long, so that many open pages ask the stores no more than one.
const FRESH: Duration = Duration::from_millis(500);

/// Workers that were last heard of longer ago are not listed; their sums still count.
const LISTED: Duration = Duration::from_secs(600);

/// Each check of readiness has this long.
const CHECK: Duration = Duration::from_secs(2);

/// The state of the system.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) backend: &'static str,
    pub(crate) model: String,
    /// The labels that the model knows.
    pub(crate) classes: Vec<String>,
    pub(crate) note: String,
    pub(crate) queue: Depth,
    pub(crate) fleet: Fleet,
    pub(crate) results: Totals,
    pub(crate) images_per_minute: f64,
    pub(crate) workers: Vec<Worker>,
    /// Images by label, as workers counted them.
    pub(crate) labels: BTreeMap<String, u64>,
    /// Images that workers classified, and recorded as failed.
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// The scaler's memory with its last decision.
    pub(crate) scaling: Value,
}

/// The app tier.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fleet {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) desired: u32,
    pub(crate) running: u32,
    pub(crate) pending: u32,
    /// Workers that hold messages.
    pub(crate) busy: usize,
}

/// One worker.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Worker {
    pub(crate) worker: String,
    pub(crate) alive: bool,
    pub(crate) draining: bool,
    pub(crate) in_flight: u32,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) images_per_minute: f64,
    pub(crate) started_at_ms: i64,
    pub(crate) seen_at_ms: i64,
}

/// The last answer.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Option<(Instant, Arc<Status>)>>);

impl Cache {
    /// Makes the next answer a new one: something was changed by hand.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// The state, at most half a second old. Who asks while another's question is under way gets that one's answer.
pub(crate) async fn current(app: &App) -> Result<Arc<Status>> {
    let mut last = app.status.0.lock().await;
    if let Some((at, status)) = last.as_ref()
        && at.elapsed() < FRESH
    {
        return Ok(Arc::clone(status));
    }
    let status = Arc::new(observe(app).await?);
    *last = Some((Instant::now(), Arc::clone(&status)));
    Ok(status)
}

async fn observe(app: &App) -> Result<Status> {
    let (results, queue, fleet) = (&app.backend.results, &app.backend.queue, &app.backend.fleet);
    let (queue, fleet, totals, beats, scaler) = tokio::try_join!(
        ask(queue.depth()),
        ask(fleet.observe()),
        ask(results.totals()),
        ask(results.heartbeats()),
        ask(results.scaler()),
    )?;
    let scaling = scaler.map_or(Value::Null, |s| serde_json::from_str(&s.value).unwrap_or(Value::String(s.value)));
    let mut status = sum(app.clock.now_ms(), fleet, &beats);
    status.backend = app.backend.name;
    status.model.clone_from(&app.model.name);
    status.classes.clone_from(&app.model.labels);
    status.note.clone_from(&app.model.note);
    (status.queue, status.results, status.scaling) = (queue, totals, scaling);
    Ok(status)
}

/// What the heartbeats say.
fn sum(now_ms: i64, fleet: FleetState, beats: &[Heartbeat]) -> Status {
    let mut labels = BTreeMap::new();
    for (label, count) in beats.iter().flat_map(|beat| &beat.labels) {
        *labels.entry(label.clone()).or_default() += count;
    }
    let listed = i64::try_from(LISTED.as_millis()).unwrap_or(i64::MAX);
    let mut workers: Vec<Worker> = beats
        .iter()
        .filter(|beat| now_ms - beat.seen_at_ms < listed)
        .map(|beat| Worker {
            worker: beat.worker.clone(),
            alive: beat.is_alive(now_ms),
            draining: beat.draining,
            in_flight: beat.in_flight,
            done: beat.done,
            failed: beat.failed,
            images_per_minute: rate(now_ms, &beat.minutes),
            started_at_ms: beat.started_at_ms,
            seen_at_ms: beat.seen_at_ms,
        })
        .collect();
    workers.sort_by(|a, b| (b.alive, &a.worker).cmp(&(a.alive, &b.worker)));
    Status {
        backend: "",
        model: String::new(),
        classes: Vec::new(),
        note: String::new(),
        queue: Depth::default(),
        fleet: Fleet {
            min: fleet.min,
            max: fleet.max,
            desired: fleet.desired,
            running: fleet.in_service,
            pending: fleet.pending,
            busy: beats.iter().filter(|beat| beat.is_alive(now_ms) && beat.in_flight > 0).count(),
        },
        results: Totals::default(),
        images_per_minute: round(beats.iter().map(|beat| rate(now_ms, &beat.minutes)).sum()),
        workers,
        labels,
        done: beats.iter().map(|beat| beat.done).sum(),
        failed: beats.iter().map(|beat| beat.failed).sum(),
        scaling: Value::Null,
    }
}

/// Images in the last sixty seconds: this minute's, and of the minute before the part that the sixty seconds reach into.
fn rate(now_ms: i64, minutes: &BTreeMap<i64, u64>) -> f64 {
    let minute = now_ms.div_euclid(60_000);
    let count = |minute| minutes.get(&minute).copied().unwrap_or_default() as f64;
    let left = 1.0 - now_ms.rem_euclid(60_000) as f64 / 60_000.0;
    round(count(minute) + count(minute - 1) * left)
}

fn round(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// `GET /api/status`
pub(crate) async fn api(State(app): State<Arc<App>>) -> Result<Response> {
    Ok(Json(current(&app).await?.as_ref()).into_response())
}

/// `GET /status`
pub(crate) async fn page(State(app): State<Arc<App>>) -> Result<Response> {
    Ok(pages::status(&app, &*current(&app).await?))
}

/// `GET /readyz`: whether this server can take uploads and answer, and if not, why.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    async fn check<T, E: std::fmt::Display>(call: impl Future<Output = Result<T, E>>) -> Result<(), String> {
        match tokio::time::timeout(CHECK, call).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CHECK.as_secs())),
        }
    }
    let spool = async {
        let spool = Arc::clone(&app.spool);
        tokio::task::spawn_blocking(move || spool.check()).await.map_err(std::io::Error::other)?
    };
    // Any name will do: what counts is that the store answers.
    let probe: Vec<ImageName> = "readiness".parse().into_iter().collect();
    let images = async {
        match probe.first() {
            Some(name) => app.backend.images.exists(name).await.map(drop),
            None => Ok(()),
        }
    };
    let (images, queue, results, spool) = tokio::join!(
        check(images),
        check(app.backend.queue.depth()),
        check(app.backend.results.get(&probe)),
        check(spool)
    );
    let stopping = if app.stopping.is_cancelled() { Err("the server is stopping".to_owned()) } else { Ok(()) };
    let checks = [("images", images), ("queue", queue), ("results", results), ("spool", spool), ("server", stopping)];
    let ready = checks.iter().all(|(_, check)| check.is_ok());
    let checks: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| (name.to_owned(), check.map_or_else(Value::from, |()| Value::from("ok"))))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_reach_into_the_minute_before() {
        let minutes = BTreeMap::from([(9, 60), (10, 30)]);
        assert_eq!(rate(10 * 60_000, &minutes), 90.0);
        assert_eq!(rate(10 * 60_000 + 30_000, &minutes), 60.0);
        assert_eq!(rate(11 * 60_000 + 59_999, &minutes), 0.0);
    }

    #[test]
    fn sums_over_workers() {
        let beat = |worker: &str, seen_at_ms, in_flight| Heartbeat {
            worker: worker.into(),
            seen_at_ms,
            in_flight,
            done: 5,
            labels: BTreeMap::from([("cat".into(), 5)]),
            ..Heartbeat::default()
        };
        let now = 10_000_000;
        let beats = [beat("b", now, 2), beat("a", now - 60_000, 1), beat("old", 0, 1)];
        let status = sum(now, FleetState { in_service: 1, ..FleetState::default() }, &beats);
        assert_eq!((status.done, status.labels["cat"], status.fleet.busy, status.fleet.running), (15, 15, 1, 1));
        let listed: Vec<_> = status.workers.iter().map(|w| (w.worker.as_str(), w.alive)).collect();
        assert_eq!(listed, [("b", true), ("a", false)]);
    }
}
