//! Dead letters, and classifying again.

use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Extension, Form, Json,
    extract::{State, rejection::FormRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Redirect, Response},
};
use clap::ValueEnum as _;
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    accept::Accept,
    ask,
    auth::Admin,
    error::{Error, Result},
    frame::{Frame, render},
    guard::Client,
    params::{NoParameters, parameters_of_call},
    see_through,
};
use crate::{
    backend::{DeadLetter, Which, requeue, within},
    contract::event,
};

/// Dead letters shown.
const SHOWN: usize = 100;

/// All dead letters are tried again or dropped within this time: on AWS the queue's own tasks for that are waited for.
const DEAD_TIMEOUT: Duration = Duration::from_secs(100);

#[derive(Template)]
#[template(path = "dead.html")]
struct DeadPage<'a> {
    frame: Frame<'a>,
    total: u64,
    /// What each is about, and how often it was received.
    letters: Vec<(String, u32)>,
}

/// The images that a dead letter is about.
fn images(letter: &DeadLetter) -> Vec<String> {
    event::parse(&letter.body).unwrap_or_default().into_iter().map(|e| e.key).collect()
}

fn page(app: &App, letters: Vec<DeadLetter>, total: u64) -> Response {
    let letters = letters.into_iter().map(|letter| {
        let images = images(&letter);
        (if images.is_empty() { letter.body } else { images.join(", ") }, letter.receive_count)
    });
    render(&DeadPage { frame: app.frame("status"), total, letters: letters.collect() })
}

/// `GET /queue/dead`
pub(crate) async fn dead(State(app): State<Arc<App>>, _: Admin, _: NoParameters, accept: Accept) -> Result<Response> {
    let letters = ask(app.backend.dead_letters.list(SHOWN)).await?;
    let total = ask(app.backend.queue.depth()).await?.dead;
    if accept.html {
        return Ok(page(&app, letters, total));
    }
    let letters: Vec<_> = letters
        .iter()
        .map(|letter| {
            json!({
                "id": letter.id,
                "images": images(letter),
                "receive_count": letter.receive_count,
                "sent_at_ms": letter.sent_at,
                "body": letter.body,
            })
        })
        .collect();
    Ok(Json(json!({ "dead": total, "letters": letters })).into_response())
}

/// `POST /queue/redrive`
pub(crate) async fn redrive(
    State(app): State<Arc<App>>,
    _: Admin,
    _: NoParameters,
    Extension(client): Extension<Client>,
    accept: Accept,
) -> Result<Response> {
    let letters = Arc::clone(&app.backend.dead_letters);
    let work = async move { Ok(within(DEAD_TIMEOUT, letters.redrive()).await?) };
    Ok(done(accept, "redriven", change(&app, client, "dead letters are tried again", work).await?))
}

/// `POST /queue/drop`
pub(crate) async fn drop_dead(
    State(app): State<Arc<App>>,
    _: Admin,
    _: NoParameters,
    Extension(client): Extension<Client>,
    accept: Accept,
) -> Result<Response> {
    let letters = Arc::clone(&app.backend.dead_letters);
    let work = async move { Ok(within(DEAD_TIMEOUT, letters.drop_all()).await?) };
    Ok(done(accept, "dropped", change(&app, client, "dead letters are dropped", work).await?))
}

/// Sees `work` on the queue through, and returns how many messages it was about.
async fn change(
    app: &Arc<App>,
    client: Client,
    what: &'static str,
    work: impl Future<Output = Result<u64>> + Send + 'static,
) -> Result<u64> {
    let known = Arc::clone(app);
    let seen_through = async move {
        let count = work.await?;
        tracing::info!(count, client = %client.address, "{what}");
        known.status.forget();
        Ok(count)
    };
    see_through(app, seen_through).await
}

fn done(accept: Accept, what: &str, count: u64) -> Response {
    if accept.html { Redirect::to("/queue/dead").into_response() } else { Json(json!({ what: count })).into_response() }
}

/// Which images to classify again.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RequeueForm {
    #[serde(default)]
    which: String,
}

/// `POST /requeue`
pub(crate) async fn classify_again(
    State(app): State<Arc<App>>,
    _: Admin,
    Extension(client): Extension<Client>,
    accept: Accept,
    uri: Uri,
    form: Result<Form<RequeueForm>, FormRejection>,
) -> Result<Response> {
    let [in_address] = parameters_of_call(&uri, ["which"])?;
    let in_form = match form {
        Ok(Form(form)) => form.which,
        Err(error) if error.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE => String::new(),
        Err(error) => {
            return Err(Error::new(error.status(), "the form cannot be read; send which=failed, for example"));
        }
    };
    if !in_address.is_empty() && !in_form.is_empty() {
        return Err(Error::bad_request("which is given twice, in the address and in the form; leave one out"));
    }
    let text = if in_address.is_empty() { in_form } else { in_address };
    let which = Which::from_str(&text, false)
        .map_err(|_| Error::bad_request(format!("which is {text:?}; it must be all, failed, missing or stale")))?;
    let said = match which {
        Which::All => "all images are classified again",
        Which::Failed => "failed images are classified again",
        Which::Missing => "images without a result are classified again",
        Which::Stale => "images of another model are classified again",
    };
    let known = Arc::clone(&app);
    let work = async move { Ok(requeue(&known.backend, which, &known.model.name).await?) };
    let requeued = change(&app, client, said, work).await?;
    if accept.html {
        // The page of results tells how many.
        let told = if requeued > 0 { format!("/results?again={requeued}") } else { "/status".to_owned() };
        return Ok(Redirect::to(&told).into_response());
    }
    Ok(Json(json!({ "requeued": requeued })).into_response())
}
