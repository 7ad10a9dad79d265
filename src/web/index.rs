//! The first page: the form for uploads, and results.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App, ask,
    error::Result,
    frame::{Frame, render},
    multipart::readable,
    params::PageParams,
    status,
    table::Table,
};
use crate::backend::status::Status;

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
pub(crate) async fn get(State(app): State<Arc<App>>, params: PageParams) -> Result<Response> {
    let page = ask(app.backend.results.page(&params.query()?)).await?;
    let known = status::current(&app).await?;
    Ok(render(&IndexPage {
        frame: app.frame("upload"),
        status: &known.value.system,
        stale: known.stale_seconds(),
        table: Table::new(&page, &params),
        limit: readable(app.config.limits.max_bytes),
    }))
}
