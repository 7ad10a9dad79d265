//! Sessions for browsers.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form,
    extract::{
        Query, State,
        rejection::{FormRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    App,
    auth::Level,
    error::{Error, Result},
    frame::{Frame, render},
    guard::Client,
};

/// Shown to whoever asks for a page that only administrators see.
const NEEDS_ADMIN: &str = "This page needs the admin token.";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    frame: Frame<'a>,
    next: &'a str,
    admin: bool,
    problem: Option<&'a str>,
}

fn page(app: &App, next: &str, admin: bool, problem: Option<&str>) -> Response {
    render(&LoginPage { frame: Frame { sessions: false, ..app.frame("login") }, next, admin, problem })
}

/// Where to go after the login.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Next {
    #[serde(default)]
    next: String,
    /// The page there needs the admin token.
    #[serde(default)]
    admin: bool,
}

/// The form.
#[derive(Deserialize)]
pub(crate) struct Credentials {
    token: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    admin: bool,
}

/// `GET /login`
pub(crate) async fn form(State(app): State<Arc<App>>, query: Result<Query<Next>, QueryRejection>) -> Response {
    // What others add to the address, and what is no address at all, leads to the first page.
    let query = query.map_or_else(|_| Next::default(), |Query(query)| query);
    page(&app, local(&query.next), query.admin, query.admin.then_some(NEEDS_ADMIN))
}

/// `POST /login`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    form: Result<Form<Credentials>, FormRejection>,
) -> Result<Response> {
    let Form(form) = form.map_err(|error| Error::new(error.status(), "the form cannot be read; send token=TOKEN"))?;
    let refuse =
        |status, problem| Ok((status, page(&app, local(&form.next), form.admin, Some(problem))).into_response());
    let level = match app.auth.present(form.token.trim(), client.address) {
        Ok(level) => level,
        Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
            return refuse(StatusCode::UNAUTHORIZED, "This token is wrong.");
        }
        Err(error) => return Err(error),
    };
    if form.admin && level == Level::User {
        return refuse(StatusCode::FORBIDDEN, NEEDS_ADMIN);
    }
    let cookie = app.auth.cookie(level, &client);
    Ok((cookie.map(|cookie| [(header::SET_COOKIE, cookie)]), Redirect::to(local(&form.next))).into_response())
}

/// `POST /logout`
pub(crate) async fn logout(Extension(client): Extension<Client>) -> Response {
    ([(header::SET_COOKIE, super::auth::no_cookie(&client))], Redirect::to("/login")).into_response()
}

/// `next` if it is a path of this site, else `/`.
pub(crate) fn local(next: &str) -> &str {
    let path = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n', '\t']);
    if path { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_nowhere_else() {
        assert_eq!(local("/results?q=a"), "/results?q=a");
        for next in ["", "results", "//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example"] {
            assert_eq!(local(next), "/", "{next:?}");
        }
    }
}
