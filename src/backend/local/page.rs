//! Pages of rows in natural order, by the index of sort keys.

use rusqlite::Connection;

use super::{images::stored_name, row::classification};
use crate::{
    backend::{Counts, Cursor, Error, ErrorKind, Filter, Page, PageQuery, Result},
    contract::{Classification, ImageName, order::sort_key},
};

/// Most rows that one filtered page looks at.
const MAX_SCANNED: usize = 10_000;

/// Reads a page.
pub(super) fn page(db: &Connection, query: &PageQuery) -> Result<Page> {
    let (place, forward) = query.place()?;
    let cursor = match place {
        None => None,
        Some(Cursor::Name(name)) => Some(name),
        Some(_) => return Err(Error::new(ErrorKind::Unsupported, "rows come in the order of names")),
    };
    let mut select = db.prepare_cached(match (forward, cursor.is_some()) {
        (_, false) => "SELECT image, label, body, sequencer FROM results WHERE sort_key > ?1 ORDER BY sort_key",
        (true, true) => "SELECT image, label, body, sequencer FROM results WHERE sort_key > ?1 ORDER BY sort_key",
        (false, true) => "SELECT image, label, body, sequencer FROM results WHERE sort_key < ?1 ORDER BY sort_key DESC",
    })?;
    // No key is empty.
    let mut rows = select.query([cursor.map_or_else(String::new, |name| sort_key(name.as_str()))])?;
    let filter = query.filter.text.as_ref().map(|text| text.to_ascii_lowercase());
    let mut found = Vec::new();
    // The cursor to go on in this direction; set if the scan stopped before its end.
    let mut further = None;
    let mut last_seen = None;
    for scanned in 0.. {
        let Some(row) = rows.next()? else { break };
        if scanned == MAX_SCANNED {
            further = last_seen;
            break;
        }
        let image: String = row.get(0)?;
        if filter.as_ref().is_none_or(|text| matches(text, &image, row.get_ref(1))) {
            if found.len() == query.limit {
                further = found.last().map(|c: &Classification| c.image.as_str().to_owned());
                break;
            }
            found.push(classification((row.get(2)?, row.get(3)?))?);
        }
        last_seen = Some(image);
    }
    let further = further.map(stored_name).transpose()?;
    // The cursor to go back: the row that is nearest to where the page began, or where it would have begun.
    let nearest = found.first().map(|c| c.image.clone()).or_else(|| cursor.cloned());
    let back = match nearest {
        Some(name) if is_any_beyond(db, &name, !forward, found.is_empty())? => Some(name),
        _ => None,
    };
    if forward {
        Ok(Page { results: found, next: further.map(Into::into), previous: back.map(Into::into), ..Page::default() })
    } else {
        found.reverse();
        Ok(Page { results: found, next: back.map(Into::into), previous: further.map(Into::into), ..Page::default() })
    }
}

/// Whether the text, in lower case, is in the name or is the label.
fn matches(text: &str, image: &str, label: rusqlite::Result<rusqlite::types::ValueRef<'_>>) -> bool {
    let label = label.ok().and_then(|value| value.as_str().ok());
    image.to_ascii_lowercase().contains(text) || label.is_some_and(|label| label.eq_ignore_ascii_case(text))
}

/// Whether there is a row after (`forward`) or before `name`, or one of that name if `inclusive`.
fn is_any_beyond(db: &Connection, name: &ImageName, forward: bool, inclusive: bool) -> Result<bool> {
    let mut find = db.prepare_cached(match (forward, inclusive) {
        (true, false) => "SELECT 1 FROM results WHERE sort_key > ?1 LIMIT 1",
        (true, true) => "SELECT 1 FROM results WHERE sort_key >= ?1 LIMIT 1",
        (false, false) => "SELECT 1 FROM results WHERE sort_key < ?1 LIMIT 1",
        (false, true) => "SELECT 1 FROM results WHERE sort_key <= ?1 LIMIT 1",
    })?;
    Ok(find.exists([sort_key(name.as_str())])?)
}

/// Counts.
pub(super) fn counts(_db: &Connection, _filter: &Filter) -> Result<Counts> {
    Ok(Counts::default())
}
