//! `POST /classify`: stores images and waits for their results, all waiters on one poll.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Serialize;
use tokio::{sync::oneshot, time::Instant};

use super::{
    App,
    accept::Accept,
    error::{Error, Result, result_address},
    features::{self, Turn},
    outcome::{Fate, FileOutcome},
    params::parameters_of_call,
    raw::{self, Kind},
    upload,
};
use crate::{
    backend::Results,
    contract::{Classification, ImageName, Outcome},
};

/// The poll comes back so soon after results came.
const SHORTEST: Duration = Duration::from_millis(20);

/// And so late when none come.
const LONGEST: Duration = Duration::from_millis(200);

/// When the store cannot be asked.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Most images that are waited for at a time.
const MAX_WAITING: usize = 50_000;

/// So many names are asked for in one call of the store.
const NAMES_PER_CALL: usize = 1000;

/// Those who wait for results. One task asks for all of them while there are any.
#[derive(Debug)]
pub(crate) struct Waiters {
    results: Arc<dyn Results>,
    state: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_image: HashMap<ImageName, Vec<oneshot::Sender<Classification>>>,
    polling: bool,
    /// Somebody came since the last poll.
    fresh: bool,
}

impl Waiters {
    pub(crate) fn new(results: Arc<dyn Results>) -> Arc<Self> {
        Arc::new(Self { results, state: Mutex::default() })
    }

    /// How many images are waited for.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_image.len()
    }

    /// Receives the image's result once there is one. Dropping the receiver ends the waiting.
    fn wait(self: &Arc<Self>, image: &ImageName) -> Result<oneshot::Receiver<Classification>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.by_image.len() >= MAX_WAITING {
            return Err(Error::unavailable("too many images are waited for; ask for the result later").of_image(image));
        }
        state.by_image.entry(image.clone()).or_default().push(sender);
        state.fresh = true;
        if !std::mem::replace(&mut state.polling, true) {
            tokio::spawn(Arc::clone(self).poll());
        }
        Ok(receiver)
    }

    async fn poll(self: Arc<Self>) {
        let mut pause = SHORTEST;
        loop {
            let Some(names) = self.names() else { return };
            let mut answered = 0;
            let mut failed = false;
            for names in names.chunks(NAMES_PER_CALL) {
                match super::ask(self.results.get(names)).await {
                    Ok(rows) => answered += self.answer(rows),
                    Err(error) => {
                        tracing::warn!(%error, "cannot ask for results that are waited for");
                        failed = true;
                        break;
                    }
                }
            }
            pause = match (failed, answered) {
                (true, _) => AFTER_ERROR,
                (false, 0) if !std::mem::take(&mut self.lock().fresh) => (pause * 3 / 2).clamp(SHORTEST, LONGEST),
                _ => SHORTEST,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The images that somebody still waits for; `None`, and the poll is over, if there are none.
    fn names(&self) -> Option<Vec<ImageName>> {
        let mut state = self.lock();
        state.by_image.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        state.polling = !state.by_image.is_empty();
        state.polling.then(|| state.by_image.keys().cloned().collect())
    }

    fn answer(&self, rows: Vec<Classification>) -> usize {
        let mut state = self.lock();
        let mut answered = 0;
        for row in rows {
            for sender in state.by_image.remove(&row.image).unwrap_or_default() {
                answered += 1;
                // Who went away in this moment needs no answer.
                drop(sender.send(row.clone()));
            }
        }
        answered
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of an answer about several files.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Result {
        file: String,
        #[serde(flatten)]
        result: Labelled,
    },
    Error(Error),
}

/// A result, with the image's features for who asked for them.
#[derive(Serialize)]
struct Labelled {
    #[serde(flatten)]
    result: Classification,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Vec<f32>>,
}

/// What is told of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// Its label alone, as text.
    Label,
    /// So many `{"label", "score"}`, as endpoints of Hugging Face do.
    Scores(usize),
    /// The whole result; with the image's features, if they are wanted.
    Result { features: bool },
}

/// What is asked for, and the request with the image as its body if it came in JSON.
async fn asked(app: &App, accept: Accept, request: Request) -> Result<(Tell, String, Request)> {
    let [features, name] = parameters_of_call(request.uri(), ["features", "name"])?;
    let features = match features.as_str() {
        "" | "false" => false,
        "true" => true,
        other => return Err(Error::bad_request(format!("features is {other:?}; it must be true or false"))),
    };
    let (request, scores) = match Kind::of(request.headers()) {
        Ok(Kind::Json) => {
            let (request, top_k) = raw::out_of_json(app, request).await?;
            (request, Some(top_k.unwrap_or(usize::MAX)))
        }
        Ok(Kind::Image) => (request, Some(usize::MAX)),
        // What brings no images is refused where it would be stored.
        Ok(Kind::Form(_)) | Err(_) => (request, None),
    };
    let tell = match scores {
        _ if features => Tell::Result { features },
        Some(most) if !accept.text => Tell::Scores(most),
        None if accept.json => Tell::Result { features },
        _ => Tell::Label,
    };
    Ok((tell, name, request))
}

/// `{"label", "score"}`.
#[derive(Debug, Serialize)]
struct Scored<'a> {
    label: &'a str,
    score: f32,
}

/// `POST /classify`: of one file its label as text, or a JSON line for each of several, as soon as it is there. With
/// `features=true` always JSON, and what the network's last layer got beside. Who sends an image as the body gets a
/// list of labels and scores.
pub(crate) async fn post(State(app): State<Arc<App>>, accept: Accept, request: Request) -> Result<Response> {
    let (tell, name, request) = asked(&app, accept, request).await?;
    let with_features = tell == Tell::Result { features: true };
    let mut outcomes = upload::store(&app, &name, request).await?;
    let deadline = Instant::now() + app.config.web.classify_timeout;
    let turn = with_features.then(|| Arc::new(Turn::until(deadline)));
    if outcomes.files.len() == 1
        && let Some(outcome) = outcomes.files.pop()
    {
        let file = outcome.file.clone();
        return one(labelled(&app, outcome, deadline, turn.as_deref()).await?, &file, tell);
    }
    let many = outcomes.many.take();
    let pending: FuturesUnordered<_> = outcomes
        .files
        .into_iter()
        .map(|outcome| {
            let (app, turn) = (Arc::clone(&app), turn.clone());
            async move {
                let file = outcome.file.clone();
                let line = match labelled(&app, outcome, deadline, turn.as_deref()).await {
                    Ok(result) => Line::Result { file, result },
                    Err(error) => Line::Error(error.about(&file)),
                };
                let mut text = serde_json::to_vec(&line).unwrap_or_default();
                text.push(b'\n');
                Ok::<_, Infallible>(Bytes::from(text))
            }
        })
        .collect();
    // Lines that are ready together leave together.
    let lines = pending.ready_chunks(256).map(move |lines| {
        let _held = &many;
        lines.into_iter().collect::<Result<Vec<_>, _>>().map(|lines| lines.concat())
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// The answer about the only file of a request.
fn one(labelled: Labelled, file: &str, tell: Tell) -> Result<Response> {
    let Outcome::Labelled { label, top, .. } = &labelled.result.outcome else {
        let reason = labelled.result.outcome.error().unwrap_or_default().to_owned();
        let error = Error::new(StatusCode::UNPROCESSABLE_ENTITY, reason);
        return Err(error.about(file).of_image(&labelled.result.image));
    };
    let whole = [(header::CONTENT_LOCATION, result_address(&labelled.result.image))];
    Ok(match tell {
        Tell::Label => (whole, label.clone()).into_response(),
        Tell::Scores(most) => {
            let scores = top.iter().take(most).map(|score| Scored { label: &score.label, score: score.confidence });
            (whole, Json(scores.collect::<Vec<_>>())).into_response()
        }
        Tell::Result { .. } => (whole, Json(labelled)).into_response(),
    })
}

/// Waits for the result of a stored file, and has its features computed if they are wanted and it is their turn.
async fn labelled(
    app: &Arc<App>,
    outcome: FileOutcome,
    deadline: Instant,
    features: Option<&Turn>,
) -> Result<Labelled> {
    let result = result_of(app, outcome, deadline).await?;
    let features = match (&result.outcome, features) {
        (Outcome::Labelled { .. }, Some(turn)) => Some(features::of(app, &result, turn).await?),
        _ => None,
    };
    Ok(Labelled { result, features })
}

/// Waits for the result of a stored file.
async fn result_of(app: &Arc<App>, outcome: FileOutcome, deadline: Instant) -> Result<Classification> {
    let FileOutcome { file, fate } = outcome;
    let image = match fate {
        Fate::Stored { image, .. } => image,
        Fate::Refused(error) => return Err(error.about(&file)),
    };
    let receiver = app.waiters.wait(&image)?;
    let later = |status, why: &str| {
        let address = result_address(&image);
        let message = format!("{why}; the image is stored as {image}, and its result will be at {address}");
        Err(Error::new(status, message).about(&file).result_later(&image))
    };
    tokio::select! {
        result = receiver => match result {
            Ok(result) => Ok(result),
            Err(_) => later(StatusCode::SERVICE_UNAVAILABLE, "waiting for the result ended abruptly"),
        },
        () = tokio::time::sleep_until(deadline) => later(StatusCode::GATEWAY_TIMEOUT, "no result in time"),
        () = app.stopping.cancelled() => later(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
    }
}
