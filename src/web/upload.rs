//! Uploads: the files of a request, streamed to the spool and stored many at a time.

use std::sync::Arc;

use askama::Template;
use axum::{
    Json,
    body::HttpBody as _,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Serialize;

use super::{
    App,
    accept::Accept,
    body::{BodyError, BoundedBody},
    error::{Error, Result},
    frame::{Frame, render},
    multipart::{self, Received},
    outcome::FileOutcome,
    outgoing,
    params::parameters_of_call,
    raw::{self, Kind},
    shares::Held,
};

/// What became of a request's files, in the request's order.
#[derive(Debug, Serialize)]
pub(crate) struct Outcomes {
    /// One entry per file.
    pub(crate) files: Vec<FileOutcome>,
    /// Held where they are many, until the answer is taken.
    #[serde(skip)]
    pub(crate) many: Option<Held>,
}

impl Outcomes {
    /// 200 if any file is stored, else the status of the first error.
    fn status(&self) -> StatusCode {
        match self.files.iter().find_map(FileOutcome::error) {
            Some(error) if self.files.iter().all(|file| file.error().is_some()) => error.status(),
            _ => StatusCode::OK,
        }
    }
}

#[derive(Template)]
#[template(path = "outcomes.html")]
struct OutcomesPage<'a> {
    frame: Frame<'a>,
    stored: usize,
    renamed: usize,
    refused: usize,
    outcomes: Outcomes,
}

fn page(app: &App, outcomes: Outcomes) -> Response {
    let count = |of: fn(&FileOutcome) -> bool| outcomes.files.iter().filter(|file| of(file)).count();
    render(&OutcomesPage {
        frame: app.frame("upload"),
        stored: count(|file| file.image().is_some()),
        renamed: count(FileOutcome::is_renamed),
        refused: count(|file| file.error().is_some()),
        outcomes,
    })
}

/// `POST /`: stores every file of the request.
pub(crate) async fn post(State(app): State<Arc<App>>, accept: Accept, request: Request) -> Result<Response> {
    let [name] = parameters_of_call(request.uri(), ["name"])?;
    let mut outcomes = store(&app, &name, request).await?;
    let (status, many) = (outcomes.status(), outcomes.many.take());
    if !accept.html {
        return Ok(outgoing::with((status, Json(outcomes)).into_response(), many).await);
    }
    if outcomes.files.iter().all(|file| file.error().is_none() && !file.is_renamed()) {
        return Ok(Redirect::to("/results").into_response());
    }
    Ok(outgoing::with((status, page(&app, outcomes)).into_response(), many).await)
}

/// Stores every file of a request: those of a form, or the one that is its body and has `name` if that is not empty. A
/// file that cannot be stored does not keep the others from it, and neither does an end of the request in its midst: it
/// is an entry of its own.
///
/// # Errors
/// If the request is neither a form nor an image, is too large by its own account, or has no file.
pub(crate) async fn store(app: &Arc<App>, name: &str, request: Request) -> Result<Outcomes> {
    let (parts, body) = request.into_parts();
    let limit = app.config.web.max_request_bytes;
    let empty = body.is_end_stream();
    let mut body = BoundedBody::new(body, limit, Arc::clone(&app.part_heads));
    let kind = match kind(&parts.headers, name).and_then(|kind| announced(&parts.headers, limit, empty).map(|()| kind))
    {
        Ok(kind) => kind,
        Err(error) => {
            // Who asks before sending gets the answer at once.
            if !parts.headers.contains_key(header::EXPECT) {
                body.linger().await;
            }
            return Err(error);
        }
    };
    let Received { files, complete, many } = match kind {
        Brings::Form(boundary) => multipart::receive(app, &mut body, boundary, raw::activity(&parts)).await,
        Brings::Image => raw::receive(app, &mut body, name, raw::activity(&parts)).await,
    };
    for file in &files {
        app.metrics.uploaded(file);
    }
    if !complete {
        body.linger().await;
    }
    if files.is_empty() {
        return Err(Error::bad_request(
            "the request has no file; send multipart/form-data with at least one part that has a filename, \
             for example curl -F file=@cat.png, or an image as the body",
        ));
    }
    Ok(Outcomes { files, many })
}

/// What the request brings, of which `name` is the name if it is an image alone.
enum Brings {
    Form(String),
    Image,
}

fn kind(headers: &HeaderMap, name: &str) -> Result<Brings> {
    match Kind::of(headers)? {
        Kind::Form(_) if !name.is_empty() => Err(Error::bad_request(
            "name is for an image that is the whole body; the parts of a form have names of their own",
        )),
        Kind::Form(boundary) => Ok(Brings::Form(boundary)),
        Kind::Image => Ok(Brings::Image),
        Kind::Json => Err(raw::wrong_kind()),
    }
}

/// Refuses a request that is too large by its own account.
fn announced(headers: &HeaderMap, limit: u64, empty: bool) -> Result<()> {
    let bytes = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if bytes.is_some_and(|bytes| bytes > limit) {
        return Err(BodyError::TooLarge(limit).into());
    }
    if empty && bytes.is_none() {
        return Err(Error::new(
            StatusCode::LENGTH_REQUIRED,
            "the request has no body; send its length as Content-Length, or chunked",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_body_needs_a_length() {
        let status = |headers: &HeaderMap, empty| announced(headers, 10, empty).map_err(|error| error.status());
        let none = HeaderMap::new();
        assert_eq!(status(&none, true), Err(StatusCode::LENGTH_REQUIRED));
        assert_eq!(status(&none, false), Ok(()));
        let length = |bytes| HeaderMap::from_iter([(header::CONTENT_LENGTH, bytes)]);
        assert_eq!(status(&length(0.into()), true), Ok(()));
        assert_eq!(status(&length(11.into()), false), Err(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
