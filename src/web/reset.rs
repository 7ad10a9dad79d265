//! Emptying everything, after a confirmation.

use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Redirect, Response},
};
use tokio::time::timeout;

use super::{
    App,
    accept::Accept,
    ask,
    auth::Admin,
    error::{Error, Result},
    frame::{Frame, render},
    guard::Client,
    params::NoParameters,
    see_through,
};
use crate::backend::{ResetReport, Tally, Totals};

/// A reset of a large store takes its time; it goes on even if nobody waits for it any more.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

#[derive(Template)]
#[template(path = "reset.html")]
struct ConfirmPage<'a> {
    frame: Frame<'a>,
    totals: Totals,
}

#[derive(Template)]
#[template(path = "reset-done.html")]
struct DonePage<'a> {
    frame: Frame<'a>,
    report: ResetReport,
}

/// `GET /reset`: asks first. Nothing changes.
pub(crate) async fn confirm(State(app): State<Arc<App>>, _: Admin) -> Result<Response> {
    let heartbeats = ask(app.backend.workers.heartbeats()).await?;
    let totals = ask(app.backend.results.totals(&heartbeats)).await?;
    Ok(render(&ConfirmPage { frame: app.frame("status"), totals }))
}

/// `POST /reset`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    _: Admin,
    _: NoParameters,
    Extension(client): Extension<Client>,
    accept: Accept,
) -> Result<Response> {
    let report = see_through(&app, reset(Arc::clone(&app), client)).await?;
    if !accept.html {
        return Ok(Json(report).into_response());
    }
    // Another address, so that to load the page again resets nothing.
    let ResetReport { images, outputs, messages, results } = report;
    let done = format!("/reset/done?images={images}&outputs={outputs}&messages={messages}&results={results}");
    Ok(Redirect::to(&done).into_response())
}

/// Empties everything, and begins the second sweep.
async fn reset(app: Arc<App>, client: Client) -> Result<ResetReport> {
    let removed = Tally::default();
    timeout(TIMEOUT, app.backend.reset.reset(&removed))
        .await
        .map_err(|_| Error::unavailable("the reset takes too long; reset again"))??;
    // What is left is hidden already, so nobody waits for it: neither this request nor a server that stops.
    app.tasks.spawn(settle(Arc::clone(&app)));
    let report = removed.report();
    let ResetReport { images, outputs, messages, results } = report;
    tracing::info!(images, outputs, messages, results, client = %client.address, "everything is reset");
    app.status.forget();
    app.thumbnails.forget(None);
    Ok(report)
}

/// Removes what came while the reset went on and is of before it, unless the server stops.
async fn settle(app: Arc<App>) {
    let removed = Tally::default();
    let settled = tokio::select! {
        settled = timeout(TIMEOUT, app.backend.reset.settle(&removed)) => settled,
        () = app.stopping.cancelled() => return,
    };
    match settled {
        Ok(Ok(())) => {
            let ResetReport { images, outputs, messages, results } = removed.report();
            tracing::info!(images, outputs, messages, results, "the second sweep of the reset is done");
        }
        Ok(Err(error)) => tracing::warn!(%error, "the second sweep of the reset failed; what it left is hidden"),
        Err(_) => tracing::warn!("the second sweep of the reset takes too long; what it left is hidden"),
    }
}

/// `GET /reset/done`: what a reset removed.
pub(crate) async fn done(
    State(app): State<Arc<App>>,
    _: Admin,
    report: Result<Query<ResetReport>, QueryRejection>,
) -> Result<Response> {
    let not_ours = |_| Error::bad_request("this address is of no reset; begin one at /reset");
    let Query(report) = report.map_err(not_ours)?;
    Ok(render(&DonePage { frame: app.frame("status"), report }))
}
