//! What every page has, and errors as pages.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};

use super::{
    App, ModelFacts,
    accept::Accept,
    error::{Error, Shown},
};

/// What every page has.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// The page's name in the navigation.
    pub(crate) here: &'static str,
    pub(crate) model: &'a str,
    pub(crate) note: &'a str,
    pub(crate) classes: &'a [String],
    /// Whether there is anything to log out of.
    pub(crate) sessions: bool,
    /// See [`seen`](super::status::seen).
    pub(crate) seen: String,
}

impl App {
    /// The frame of the page that the navigation calls `here`.
    pub(crate) fn frame(&self, here: &'static str) -> Frame<'_> {
        let ModelFacts { name, labels, note } = &self.model;
        Frame { here, model: name, note, classes: labels, sessions: self.auth.has_tokens(), seen: String::new() }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame<'a>,
    status: StatusCode,
    message: &'a str,
}

/// The page as an answer.
pub(crate) fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render the page: {error}")).into_response()
        }
    }
}

/// Shows errors as pages to those who asked for a page.
pub(crate) async fn errors_as_pages(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let accept = Accept::of(request.headers());
    let response = next.run(request).await;
    let Some(Shown(error)) = response.extensions().get::<Shown>().filter(|_| accept.html).cloned() else {
        return response;
    };
    let page = ErrorPage { frame: app.frame("error"), status: error.status(), message: error.message() };
    let Ok(text) = page.render() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Response::from_parts(parts, text.into())
}
