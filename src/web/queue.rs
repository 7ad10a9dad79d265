//! Dead letters, and classifying again.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{
        Query, State,
        rejection::{FormRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    accept::Accept,
    ask,
    auth::Admin,
    error::{Error, Result},
    pages,
};
use crate::{
    backend::{self, Which},
    contract::event,
};

/// Dead letters shown.
const SHOWN: usize = 100;

/// `GET /queue/dead`
pub(crate) async fn dead(State(app): State<Arc<App>>, _: Admin, accept: Accept) -> Result<Response> {
    let letters = ask(app.backend.dead_letters.list(SHOWN)).await?;
    let total = ask(app.backend.queue.depth()).await?.dead;
    if accept.html {
        return Ok(pages::dead(&app, letters, total));
    }
    let letters: Vec<_> = letters
        .iter()
        .map(|letter| {
            let images: Vec<String> =
                event::parse(&letter.body).unwrap_or_default().into_iter().map(|e| e.key).collect();
            json!({
                "id": letter.id,
                "images": images,
                "receive_count": letter.receive_count,
                "sent_at_ms": letter.sent_at_ms,
                "body": letter.body,
            })
        })
        .collect();
    Ok(Json(json!({ "dead": total, "letters": letters })).into_response())
}

/// `POST /queue/redrive`
pub(crate) async fn redrive(State(app): State<Arc<App>>, _: Admin, accept: Accept) -> Result<Response> {
    let redriven = ask(app.backend.dead_letters.redrive()).await?;
    tracing::info!(redriven, "dead letters are tried again");
    Ok(done(&app, accept, "redriven", redriven).await)
}

/// `POST /queue/drop`
pub(crate) async fn drop_dead(State(app): State<Arc<App>>, _: Admin, accept: Accept) -> Result<Response> {
    let dropped = ask(app.backend.dead_letters.drop_all()).await?;
    tracing::info!(dropped, "dead letters are dropped");
    Ok(done(&app, accept, "dropped", dropped).await)
}

async fn done(app: &App, accept: Accept, what: &str, count: u64) -> Response {
    app.status.forget().await;
    if accept.html { Redirect::to("/queue/dead").into_response() } else { Json(json!({ what: count })).into_response() }
}

/// Which images to classify again, in the address or in a form.
#[derive(Debug, Deserialize)]
pub(crate) struct RequeueParams {
    which: Option<Which>,
}

/// `POST /requeue`
pub(crate) async fn requeue(
    State(app): State<Arc<App>>,
    _: Admin,
    accept: Accept,
    query: Result<Query<RequeueParams>, QueryRejection>,
    form: Result<Form<RequeueParams>, FormRejection>,
) -> Result<Response> {
    let named = |which| Error::bad_request(format!("{which}; which must be all, failed or missing"));
    let mut which = query.map_err(|error| named(error.body_text()))?.which;
    match form {
        Ok(Form(form)) => which = which.or(form.which),
        Err(error) if error.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE => {}
        Err(error) => return Err(named(error.body_text())),
    }
    let which = which.ok_or_else(|| named("it is not said what to classify again".to_owned()))?;
    let requeued = backend::requeue(&app.backend, which).await?;
    tracing::info!(requeued, ?which, "images are classified again");
    app.status.forget().await;
    if accept.html {
        return Ok(Redirect::to("/status").into_response());
    }
    Ok(Json(json!({ "requeued": requeued })).into_response())
}
