//! The first page: the form for uploads, and results.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App, ask,
    error::Result,
    frame::{Frame, render},
    multipart::readable,
    status,
    table::Table,
};
use crate::backend::{Order, Page, PageQuery, Search, status::Status};

/// Rows on the first page.
const LATEST: usize = 12;

#[derive(Template)]
#[template(path = "index.html")]
struct IndexPage<'a> {
    frame: Frame<'a>,
    status: &'a Status,
    stale: Option<u64>,
    table: Table,
    limit: String,
}

/// `GET /`
pub(crate) async fn get(State(app): State<Arc<App>>) -> Result<Response> {
    let seen = status::seen(&app);
    // A store that knows no other order than that of names shows the first of them.
    let order = if app.backend.results.search() == Search::Substring { Order::Newest } else { Order::Name };
    let query = PageQuery { order, limit: LATEST, ..PageQuery::default() };
    let page = Page { next: None, previous: None, ..ask(app.backend.results.page(&query)).await? };
    let known = status::current(&app).await?;
    Ok(render(&IndexPage {
        frame: Frame { seen, ..app.frame("upload") },
        status: &known.value.system,
        stale: known.stale_seconds(),
        table: Table::new(&page, &query),
        limit: readable(app.config.limits.max_bytes),
    }))
}
