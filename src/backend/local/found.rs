//! What was found for a page.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    blocks::{Entry, FAILED},
    row::classification,
};
use crate::{
    backend::{Cursor, Matches, Order, Page, PageQuery, Result},
    contract::{Classification, ImageName, Outcome},
};

/// What a page shows.
#[derive(Debug)]
pub(super) enum Hit {
    Row { id: i64, row: Box<Classification> },
    Waiting { sequencer: i64, image: ImageName },
}

impl Hit {
    /// From columns `id`, `body` and `sequencer`.
    pub(super) fn of_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self::Row { id: row.get(0)?, row: Box::new(classification((row.get(1)?, row.get(2)?))?) })
    }

    /// The row of an entry of the index; `None` if there is none.
    pub(super) fn of_entry(db: &Connection, entry: Entry) -> Result<Option<Self>> {
        let mut find = db.prepare_cached("SELECT id, body, sequencer FROM results WHERE id = ?1")?;
        find.query_row([entry.number], |row| Ok(Self::of_row(row))).optional()?.transpose()
    }

    /// Its place in an order.
    pub(super) fn cursor(&self, order: Order) -> Cursor {
        let (name, number, confidence) = match self {
            Self::Row { id, row } => {
                let confidence = match &row.outcome {
                    Outcome::Labelled { confidence, .. } => *confidence,
                    Outcome::Failed { .. } => FAILED,
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
    pub(super) fn page(self, query: &PageQuery) -> Result<Page> {
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
