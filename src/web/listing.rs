//! The page of results: a table, what it can be narrowed down to, and search.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;

use super::{
    App, ask,
    asked::Asked,
    error::Result,
    facets::Facets,
    frame::{Frame, render},
    params::PageParams,
    table::Table,
};
use crate::backend::{Counts, Matches, Search};

#[derive(Template)]
#[template(path = "results.html")]
struct ResultsPage<'a> {
    frame: Frame<'a>,
    asked: Asked,
    words: String,
    /// Whether the store finds text anywhere, and has all orders.
    is_full: bool,
    facets: Facets,
    table: Table,
    csv: String,
    done: Done,
}

/// What was just done, told by the address that the doing led to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Done {
    /// So many images were removed.
    pub(crate) deleted: u64,
    /// So many are classified again.
    pub(crate) again: u64,
}

/// `GET /results`
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    params: PageParams,
    done: Result<Query<Done>, QueryRejection>,
) -> Result<Response> {
    let results = &app.backend.results;
    let query = params.query()?;
    let (page, counts) = tokio::try_join!(ask(results.page(&query)), ask(results.counts(&query.filter)))?;
    let (asked, search) = (Asked::new(&query), results.search());
    let matches = page.matches.or_else(|| (!asked.is_filtered()).then(|| all(&counts)));
    Ok(render(&ResultsPage {
        frame: app.frame("results"),
        words: asked.words(search, matches),
        is_full: search == Search::Substring,
        facets: Facets::new(&asked, &counts, search),
        table: Table::new(&page, &query).selectable(),
        csv: format!("/api/results.csv{}", asked.suffix()),
        done: done.map(|Query(done)| done).unwrap_or_default(),
        asked,
    }))
}

/// All rows there are.
fn all(counts: &Counts) -> Matches {
    Matches { count: counts.states.labelled + counts.states.failed, exact: true }
}
