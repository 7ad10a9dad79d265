//! The classes that the model knows, on a page of their own.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App,
    frame::{Frame, render},
};

#[derive(Template)]
#[template(path = "classes.html")]
struct ClassesPage<'a> {
    frame: Frame<'a>,
    classes: &'a [String],
}

/// `GET /classes`
pub(crate) async fn page(State(app): State<Arc<App>>) -> Response {
    render(&ClassesPage { frame: app.frame("classes"), classes: &app.model.labels })
}
