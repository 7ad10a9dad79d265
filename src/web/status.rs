//! The state of the whole system: for people, for scripts, and whether this server is ready.

use std::{sync::Arc, time::Duration};

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
use crate::{backend, contract::ImageName};

/// An answer is given again for so long, so that many open pages ask the stores no more than one.
const FRESH: Duration = Duration::from_millis(500);

/// Each check of readiness has this long.
const CHECK: Duration = Duration::from_secs(2);

/// The state of the system, and what is fixed about it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    #[serde(flatten)]
    pub(crate) system: backend::status::Status,
    /// The labels that the model knows.
    pub(crate) classes: Vec<String>,
    /// The scaler's memory with its last decision.
    pub(crate) scaling: Value,
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
    let now_ms = app.clock.now_ms();
    let (system, scaler) = tokio::try_join!(
        ask(backend::status::read(&app.backend, &app.model.name, now_ms)),
        ask(app.backend.scaler.read()),
    )?;
    let scaling = scaler.map_or(Value::Null, |s| serde_json::from_str(&s.value).unwrap_or(Value::String(s.value)));
    Ok(Status { system, classes: app.model.labels.clone(), scaling })
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
    let workers = app.backend.fleet.fault().map_or(Ok(()), Err);
    let checks = [
        ("images", images),
        ("queue", queue),
        ("results", results),
        ("spool", spool),
        ("server", stopping),
        ("workers", workers),
    ];
    let ready = checks.iter().all(|(_, check)| check.is_ok());
    let checks: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| (name.to_owned(), check.map_or_else(Value::from, |()| Value::from("ok"))))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}
