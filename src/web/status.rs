//! The state of the whole system, for people and for scripts.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use super::{
    App, ask,
    chart::Charts,
    error::Result,
    etag,
    frame::{Frame, render},
    history::{SILENCE, Sample},
    params::NoParameters,
    shared::{FRESH, Known},
};
use crate::{
    backend::{
        self,
        status::{Report, Status as System, WorkerStatus},
    },
    contract::Timestamp,
};

/// The state of the system, and what is fixed about it.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) system: System,
    /// The labels that the model knows.
    pub(crate) classes: Vec<String>,
    /// What the scaler remembers, its last decisions among it.
    pub(crate) scaling: Value,
    /// When this was so.
    pub(crate) at: Timestamp,
}

/// The state, at most half a second old unless the stores do not answer.
///
/// # Errors
/// The stores', where no state is known that is young enough.
pub(crate) async fn current(app: &Arc<App>) -> Result<Known<Status>> {
    app.status.get(FRESH, || observe(Arc::clone(app))).await
}

/// What of the state rows hang on, as it was last seen; empty where that is not known. A page that has it from before it
/// read its rows need not be fetched again while the state is the same: live.js compares.
pub(crate) fn seen(app: &App) -> String {
    let Some(known) = app.status.last() else { return String::new() };
    let System { queue, results, labels, .. } = &known.system;
    let labelled = labels.values().sum();
    [results.total, results.failed, labelled, queue.visible, queue.in_flight, queue.dead]
        .map(|n| n.to_string())
        .join(" ")
}

async fn observe(app: Arc<App>) -> Result<Status> {
    let now = app.clock.now();
    let (system, scaling) = tokio::try_join!(
        ask(backend::status::read(&app.backend, &app.model.name, now)),
        ask(backend::status::scaling(&app.backend)),
    )?;
    app.history.note(Sample::of(&system, now));
    Ok(Status { system, classes: app.model.labels.clone(), scaling, at: now })
}

/// `GET /api/status`
pub(crate) async fn api(State(app): State<Arc<App>>, _: NoParameters, headers: HeaderMap) -> Result<Response> {
    let known = current(&app).await?;
    let Status { system, classes, scaling, .. } = &*known.value;
    etag::json(&headers, &Report { status: system, classes, scaling, age_seconds: known.age().as_secs() })
}

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage<'a> {
    frame: Frame<'a>,
    status: &'a System,
    stale: Option<u64>,
    classes: &'a [String],
    changes: Vec<Change>,
    charts: Charts,
    /// Seconds from upload to label.
    mean_delay: f64,
    workers: Vec<Worker<'a>>,
}

/// A worker, as people read of it.
#[derive(Debug)]
struct Worker<'a> {
    beat: &'a WorkerStatus,
    state: &'static str,
    /// When it was last heard of: the time, and seconds since.
    seen: String,
    ago: u64,
}

impl<'a> Worker<'a> {
    fn new(beat: &'a WorkerStatus, now: Timestamp) -> Self {
        let state = match beat {
            WorkerStatus { draining: true, .. } => "draining",
            WorkerStatus { in_flight: 0, .. } => "idle",
            _ => "busy",
        };
        let seen = beat.seen_at.date().and_then(|date| date.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
        Self { beat, state, seen: seen.unwrap_or_default(), ago: now.since(beat.seen_at).as_secs() }
    }
}

/// One past change of the desired capacity, as the scaler remembers it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    at: String,
    from: u32,
    target: u32,
    reason: String,
}

/// `GET /status`
pub(crate) async fn page(State(app): State<Arc<App>>) -> Result<Response> {
    let seen = seen(&app);
    let known = current(&app).await?;
    let Status { system, classes, scaling, at } = &*known.value;
    // A memory that another version wrote shows no changes; it must not take the page away.
    let changes = Vec::deserialize(&scaling["decisions"]).unwrap_or_default();
    let now = app.clock.now();
    Ok(render(&StatusPage {
        frame: Frame { seen, ..app.frame("status") },
        status: system,
        stale: known.stale_seconds(),
        classes,
        changes,
        mean_delay: system.latency.sum_seconds() / system.latency.count().max(1) as f64,
        charts: Charts::new(&app.history.until(Sample::of(system, *at)), now),
        workers: system.workers.iter().map(|beat| Worker::new(beat, now)).collect(),
    }))
}

/// Asks for the state when nobody else has for a while, so that the charts have no holes, until `app` stops.
pub(crate) async fn remember(app: Arc<App>) {
    let mut ticks = tokio::time::interval(SILENCE);
    loop {
        tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if app.history.is_silent(app.clock.now())
            && let Err(error) = current(&app).await
        {
            tracing::debug!(%error, "the state is not known; the charts have a hole");
        }
    }
}
