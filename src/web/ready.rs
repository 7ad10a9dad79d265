//! Whether this server can take uploads and answer, and if not, why.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{App, auth::Level, error::Result, guard::Client, shared::FRESH};
use crate::{
    backend::{self, ErrorKind, within},
    contract::ImageName,
};

/// Each check has this long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What was checked, with the reason why it is not as it should be.
pub(crate) type Checks = BTreeMap<&'static str, Result<(), String>>;

/// The answer.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// `ok`, or why not; for those without a token only `failed`.
    checks: BTreeMap<&'static str, String>,
}

/// `GET /readyz`
///
/// # Errors
/// For a wrong token.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Result<Response> {
    let in_detail = app.auth.level(&headers, &client)? >= Level::User;
    // Anybody may ask; who has no token gets the answer that another got a moment ago.
    let fresh = if in_detail { Duration::ZERO } else { FRESH };
    let known = app.readiness.get(fresh, || check(Arc::clone(&app))).await?;
    let mut checks = (*known.value).clone();
    let stopping = app.stopping.is_cancelled();
    checks.insert("server", if stopping { Err("the server is stopping".to_owned()) } else { Ok(()) });
    let ready = checks.values().all(Result::is_ok);
    let text = |check: Result<(), String>| match check {
        Ok(()) => "ok".to_owned(),
        Err(reason) if in_detail => reason,
        Err(_) => "failed".to_owned(),
    };
    let readiness = Readiness { ready, checks: checks.into_iter().map(|(name, check)| (name, text(check))).collect() };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness)).into_response())
}

async fn check(app: Arc<App>) -> Result<Checks> {
    let spool = async {
        let spool = Arc::clone(&app.spool);
        let checked = tokio::task::spawn_blocking(move || spool.check()).await.map_err(std::io::Error::other);
        checked.and_then(|checked| checked).map_err(|e| backend::Error::new(ErrorKind::Refused, e.to_string()))
    };
    // Any name will do: what counts is that the store answers.
    let probe: Vec<ImageName> = "readiness".parse().into_iter().collect();
    let images = async {
        match probe.first() {
            Some(name) => app.backend.images.exists(name).await.map(drop),
            None => Ok(()),
        }
    };
    let (disk, images, queue, results, spool) = tokio::join!(
        in_time(app.backend.images.check_room()),
        in_time(images),
        in_time(app.backend.queue.depth()),
        in_time(app.backend.results.get(&probe)),
        in_time(spool)
    );
    let workers = app.backend.fleet.fault().map_or(Ok(()), Err);
    Ok([
        ("disk", disk),
        ("images", images),
        ("queue", queue),
        ("results", results),
        ("spool", spool),
        ("workers", workers),
    ]
    .into())
}

async fn in_time<T>(call: impl Future<Output = backend::Result<T>>) -> Result<(), String> {
    within(TIMEOUT, call).await.map(drop).map_err(|error| error.to_string())
}
