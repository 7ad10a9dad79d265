//! Pages of rows: all of them by the indexes of the table, filtered ones by the index for searches.

use rusqlite::{Connection, types::Value};

use super::{
    counts::counter,
    found::{Found, Hit},
    search,
};
use crate::{
    backend::{Cursor, Matches, Order, Page, PageQuery, Result},
    contract::order::sort_key,
};

/// Reads a page.
pub(super) fn page(db: &Connection, query: &PageQuery) -> Result<Page> {
    let (place, forward) = query.place()?;
    let Some(all) = All::in_order(query.order, forward).filter(|_| query.filter.is_empty()) else {
        return search::page(db, query)?.page(query);
    };
    let from = match place {
        Some(Cursor::Name(name)) => Value::Text(sort_key(name.as_str())),
        Some(Cursor::Newest(id)) => Value::Integer(*id),
        // No key is empty, and no id as great.
        _ if query.order == Order::Name => Value::Text(String::new()),
        _ => Value::Integer(i64::MAX),
    };
    let mut select = db.prepare_cached(all.select)?;
    let mut rows = select.query((&from, query.limit as i64 + 1))?;
    let mut found = Found::default();
    while let Some(row) = rows.next()? {
        if found.hits.len() == query.limit {
            found.more = true;
            break;
        }
        found.hits.push(Hit::of_row(row)?);
    }
    found.behind = place.is_some() && db.prepare_cached(all.behind)?.exists([&from])?;
    found.matches = Some(Matches { count: counter(db, "results")?, exact: true });
    found.page(query)
}

/// The statements that read all rows in one order and direction, and that tell whether there are any at the place or
/// behind it.
struct All {
    select: &'static str,
    behind: &'static str,
}

impl All {
    fn in_order(order: Order, forward: bool) -> Option<Self> {
        let (select, behind) = match (order, forward) {
            (Order::Name, true) => (
                "SELECT id, body, sequencer FROM results WHERE sort_key > ?1 ORDER BY sort_key LIMIT ?2",
                "SELECT 1 FROM results WHERE sort_key <= ?1 LIMIT 1",
            ),
            (Order::Name, false) => (
                "SELECT id, body, sequencer FROM results WHERE sort_key < ?1 ORDER BY sort_key DESC LIMIT ?2",
                "SELECT 1 FROM results WHERE sort_key >= ?1 LIMIT 1",
            ),
            (Order::Newest, true) => (
                "SELECT id, body, sequencer FROM results WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
                "SELECT 1 FROM results WHERE id >= ?1 LIMIT 1",
            ),
            (Order::Newest, false) => (
                "SELECT id, body, sequencer FROM results WHERE id > ?1 ORDER BY id LIMIT ?2",
                "SELECT 1 FROM results WHERE id <= ?1 LIMIT 1",
            ),
            (Order::Confidence, _) => return None,
        };
        Some(Self { select, behind })
    }
}
