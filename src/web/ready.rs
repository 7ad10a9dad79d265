//! Whether this server can take uploads and answer, and if not, why.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{App, auth::Level, error::Result, guard::Client, shared::FRESH};
use crate::contract::ImageName;

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
    let in_detail = app.auth.level(&headers, client.address)? >= Level::User;
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
    let (disk, images, queue, results, spool) = tokio::join!(
        within(app.backend.images.check_room()),
        within(images),
        within(app.backend.queue.depth()),
        within(app.backend.results.get(&probe)),
        within(spool)
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

async fn within<T, E: Display>(call: impl Future<Output = Result<T, E>>) -> Result<(), String> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}
