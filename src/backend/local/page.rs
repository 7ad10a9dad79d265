//! Pages of rows: all of them by the indexes of the table, filtered ones by the index for searches.

use rusqlite::{Connection, OptionalExtension, Row, types::Value};

use super::{
    index::{Entry, FAILED},
    row::classification,
    search,
};
use crate::{
    backend::{Cursor, Matches, Order, Page, PageQuery, Result},
    contract::{Classification, ImageName, order::sort_key},
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
    found.page(query)
}

/// The statements that read all rows in one order and direction, and that tell whether there are any at the place or behind it.
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

/// What a page shows.
#[derive(Debug)]
pub(super) enum Hit {
    Row { id: i64, row: Box<Classification> },
    Waiting { sequencer: i64, image: ImageName },
}

impl Hit {
    /// From columns `id`, `body` and `sequencer`.
    fn of_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self::Row { id: row.get(0)?, row: Box::new(classification((row.get(1)?, row.get(2)?))?) })
    }

    /// The row of an entry of the index; `None` if there is none.
    pub(super) fn of_entry(db: &Connection, entry: Entry) -> Result<Option<Self>> {
        let mut find = db.prepare_cached("SELECT id, body, sequencer FROM results WHERE id = ?1")?;
        find.query_row([entry.number], |row| Ok(Self::of_row(row))).optional()?.transpose()
    }

    /// Its place in an order.
    fn cursor(&self, order: Order) -> Cursor {
        let (name, number, confidence) = match self {
            Self::Row { id, row } => {
                let confidence = match &row.outcome {
                    crate::contract::Outcome::Labelled { confidence, .. } => *confidence,
                    crate::contract::Outcome::Failed { .. } => FAILED,
                };
                (&row.image, *id, confidence)
            }
            Self::Waiting { sequencer, image } => (image, *sequencer, 0.0),
        };
        match order {
            Order::Name => Cursor::Name(name.clone()),
            Order::Newest => Cursor::Newest(number),
            Order::Confidence => Cursor::Confidence(confidence, number),
        }
    }
}

/// What was found, in the direction in which it was looked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) hits: Vec<Hit>,
    /// Whether more follow.
    pub(super) more: bool,
    /// Whether there are others at the place where the page begins, or behind it.
    pub(super) behind: bool,
    pub(super) matches: Option<Matches>,
}

impl Found {
    fn page(self, query: &PageQuery) -> Result<Page> {
        let (place, forward) = query.place()?;
        let at = |hit: Option<&Hit>| hit.map(|hit| hit.cursor(query.order));
        let further = at(self.hits.last()).filter(|_| self.more);
        let back = at(self.hits.first()).or_else(|| place.cloned()).filter(|_| self.behind);
        let mut page = Page { matches: self.matches, ..Page::default() };
        for hit in self.hits {
            match hit {
                Hit::Row { row, .. } => page.results.push(*row),
                Hit::Waiting { image, .. } => page.waiting.push(image),
            }
        }
        (page.next, page.previous) = if forward { (further, back) } else { (back, further) };
        if !forward {
            page.results.reverse();
            page.waiting.reverse();
        }
        Ok(page)
    }
}
