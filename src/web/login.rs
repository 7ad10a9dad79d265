//! Sessions for browsers.

use std::sync::Arc;

use axum::{
    Extension, Form,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{App, auth::Level, error::Result, guard::Client, pages};

/// Told to whoever asks for a page that only administrators see.
const NEEDS_ADMIN: &str = "This page needs the admin token.";

/// Where to go after the login.
#[derive(Debug, Deserialize)]
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
pub(crate) async fn form(State(app): State<Arc<App>>, Query(query): Query<Next>) -> Response {
    pages::login(&app, local(&query.next), query.admin, query.admin.then_some(NEEDS_ADMIN))
}

/// `POST /login`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Form(form): Form<Credentials>,
) -> Result<Response> {
    app.auth.may_try(client.address)?;
    let token = form.token.trim();
    let level = app.auth.level_of(token);
    if form.admin && level == Some(Level::User) {
        let page = pages::login(&app, local(&form.next), true, Some(NEEDS_ADMIN));
        return Ok((StatusCode::FORBIDDEN, page).into_response());
    }
    let Some(cookie) = level.and_then(|level| app.auth.cookie(level, client.https)) else {
        app.auth.failed(client.address);
        tracing::warn!(address = %client.address, "login with a wrong token");
        let page = pages::login(&app, local(&form.next), form.admin, Some("This token is wrong."));
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    };
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(local(&form.next))).into_response())
}

/// `POST /logout`
pub(crate) async fn logout(Extension(client): Extension<Client>) -> Response {
    ([(header::SET_COOKIE, super::auth::no_cookie(client.https))], Redirect::to("/login")).into_response()
}

/// `next` if it is a path of this site, else `/`.
fn local(next: &str) -> &str {
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
