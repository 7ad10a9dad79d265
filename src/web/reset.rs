//! Emptying everything, after a confirmation.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    App,
    accept::Accept,
    ask,
    auth::Admin,
    error::{Error, Result},
    pages,
};
use crate::backend::Tally;

/// A reset of a large store takes its time; it goes on even if nobody waits for it any more.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// `GET /reset`: asks first. Nothing changes.
pub(crate) async fn confirm(State(app): State<Arc<App>>, _: Admin) -> Result<Response> {
    let heartbeats = ask(app.backend.workers.heartbeats()).await?;
    let totals = ask(app.backend.results.totals(&heartbeats)).await?;
    Ok(pages::reset(&app, Some(totals), None))
}

/// `POST /reset`
pub(crate) async fn post(State(app): State<Arc<App>>, _: Admin, accept: Accept) -> Result<Response> {
    let task = app.tasks.spawn({
        let reset = Arc::clone(&app.backend.reset);
        async move {
            let removed = Tally::default();
            let reset = tokio::time::timeout(TIMEOUT, reset.reset(&removed)).await;
            reset.map(|reset| reset.map(|()| removed.report()))
        }
    });
    let report = task
        .await
        .map_err(|_| Error::unavailable("the reset ended abruptly; reset again"))?
        .map_err(|_| Error::unavailable("the reset takes too long; reset again"))??;
    // What is left is hidden already, so nobody waits for it.
    let reset = Arc::clone(&app.backend.reset);
    app.tasks.spawn(async move {
        let removed = Tally::default();
        match tokio::time::timeout(TIMEOUT, reset.settle(&removed)).await {
            Ok(Ok(())) => tracing::info!(removed = ?removed.report(), "the second sweep of the reset is done"),
            Ok(Err(error)) => tracing::warn!(%error, "the second sweep of the reset failed; what it left is hidden"),
            Err(_) => tracing::warn!("the second sweep of the reset takes too long; what it left is hidden"),
        }
    });
    tracing::info!(?report, "everything is reset");
    app.status.forget().await;
    if accept.html { Ok(pages::reset(&app, None, Some(report))) } else { Ok(Json(report).into_response()) }
}
