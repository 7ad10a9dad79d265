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
    chart::whole,
    error::Result,
    facets::Facets,
    frame::{Frame, render},
    params::PageParams,
    status,
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
    let seen = status::seen(&app);
    let results = &app.backend.results;
    let query = params.query()?;
    let (page, counts) = tokio::try_join!(ask(results.page(&query)), ask(results.counts(&query.filter)))?;
    let (asked, search) = (Asked::new(&query), results.search());
    let matches = page.matches.or_else(|| (!asked.is_filtered()).then(|| all(&counts)));
    Ok(render(&ResultsPage {
        frame: Frame { seen, ..app.frame("results") },
        words: asked.words(search, matches) + &waiting(&asked, &counts),
        is_full: search == Search::Substring,
        facets: Facets::new(&asked, &counts, search),
        table: Table::new(&page, &query).selectable(),
        csv: asked.csv(),
        done: done.map(|Query(done)| done).unwrap_or_default(),
        asked,
    }))
}

/// All rows there are.
fn all(counts: &Counts) -> Matches {
    Matches { count: counts.states.labelled + counts.states.failed, exact: true }
}

/// What is not shown because it has no result yet: the counts of folders have it.
fn waiting(asked: &Asked, counts: &Counts) -> String {
    match counts.states.waiting {
        Some(waiting @ 1..) if asked.state().is_empty() => format!(", and {} waiting", whole(waiting as f64)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{PageQuery, State as Of, StateCounts};

    #[test]
    fn what_waits_is_told_beside_what_is_shown() {
        let asked = Asked::new(&PageQuery::default());
        let counts =
            |waiting| Counts { states: StateCounts { waiting, ..StateCounts::default() }, ..Counts::default() };
        assert_eq!(waiting(&asked, &counts(Some(1200))), ", and 1,200 waiting");
        for (asked, count) in
            [(asked.clone(), Some(0)), (asked.clone(), None), (asked.in_state(Some(Of::Failed)), Some(3))]
        {
            assert_eq!(waiting(&asked, &counts(count)), "");
        }
    }
}
