//! Results as CSV, streamed page by page.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{App, ask, error::Result, params::PageParams};
use crate::{
    backend::PageQuery,
    contract::{Classification, Outcome},
};

/// Rows read at a time.
const ROWS: usize = 500;

/// `GET /api/results.csv`: all that the filter leaves, or as many as are asked for; of an image that waits, its name
/// alone. Rows that are written meanwhile may or may not be in it.
pub(crate) async fn get(State(app): State<Arc<App>>, params: PageParams) -> Result<Response> {
    let query = params.query()?;
    if query.before.is_some() {
        return Err(super::Error::bad_request(
            "a file goes on from a row and not back; give after, or leave before out",
        ));
    }
    // A page has a limit without being asked for one; a file has not.
    let most = if params.limit.is_empty() { usize::MAX } else { query.limit };
    let query = PageQuery { limit: most.min(ROWS), ..query };
    // The first page before the headers leave, so that a store that is down is an error and no empty file.
    let first = ask(app.backend.results.page(&query)).await?;
    let head = line(
        ["image", "label", "confidence", "error", "location", "model", "worker", "classified_at", "uncertain"]
            .map(String::from),
    )?;
    let pages = stream::try_unfold((Some(first), query, head, most), move |(page, query, head, most)| {
        let app = Arc::clone(&app);
        async move {
            let Some(page) = page else { return Ok::<_, super::Error>(None) };
            let mut text = head;
            for row in &page.results {
                text.extend(line(cells(row))?);
            }
            for image in &page.waiting {
                text.extend(line(std::array::from_fn(
                    |cell| if cell == 0 { image.to_string() } else { String::new() },
                ))?);
            }
            let left = most - page.results.len() - page.waiting.len();
            let query = PageQuery { after: page.next, limit: left.min(ROWS), ..query };
            let more = query.after.is_some() && left > 0;
            let next = if more { Some(ask(app.backend.results.page(&query)).await?) } else { None };
            Ok(Some((text, (next, query, Vec::new(), left))))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"results.csv\""),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

fn cells(row: &Classification) -> [String; 9] {
    let (label, confidence, error) = match &row.outcome {
        Outcome::Labelled { label, confidence, .. } => (label.as_str(), format!("{confidence:.4}"), ""),
        Outcome::Failed { error } => ("", String::new(), error.as_str()),
    };
    [
        row.image.to_string(),
        label.to_owned(),
        confidence,
        error.to_owned(),
        row.location.clone(),
        row.model.clone(),
        row.worker.to_string(),
        row.classified_at_text(),
        row.outcome.is_uncertain().to_string(),
    ]
}

/// One record, its cells defused: spreadsheets run cells that begin with one of these as formulas.
fn line(cells: [String; 9]) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let defused =
        cells.map(|cell| if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell });
    // Writing to memory fails for nothing but a bug.
    let failed = |error: String| super::Error::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error);
    writer.write_record(defused).map_err(|e| failed(e.to_string()))?;
    writer.into_inner().map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_defused_and_cells_quoted() {
        let cells = ["=1+1", "+a", "-b", "@c", "x,\"y\"", "plain", "", "0.5", "false"].map(String::from);
        assert_eq!(
            String::from_utf8(line(cells).unwrap()).unwrap(),
            "'=1+1,'+a,'-b,'@c,\"x,\"\"y\"\"\",plain,,0.5,false\r\n"
        );
    }
}
