//! Searches: what matches a filter, read from the index's blocks.

use std::{cmp::Ordering, ops::ControlFlow};

use rusqlite::Connection;

use super::{
    blocks::{Code, Entry, Range},
    found::{Found, Hit},
    matcher::Matcher,
    row::stored_name,
};
use crate::{
    backend::{Cursor, Matches, Order, PageQuery, Result},
    contract::order::sort_key,
};

/// Counting may stop beyond so many matches.
const COUNTED: u64 = 1000;

/// Reads what a page shows.
pub(super) fn page(db: &Connection, query: &PageQuery) -> Result<Found> {
    let mut matcher = Matcher::new(db, &query.filter)?;
    match query.order {
        Order::Name => by_name(db, query, &mut matcher),
        Order::Newest | Order::Confidence => by_number(db, query, &mut matcher),
    }
}

/// What a page shows of an entry.
fn hit(db: &Connection, entry: Entry, name: &str) -> Result<Option<Hit>> {
    if entry.code == Code::WAITING {
        return Ok(Some(Hit::Waiting { sequencer: entry.number, image: stored_name(name.to_owned())? }));
    }
    Hit::of_entry(db, entry)
}

/// Where a page of names begins.
struct Start {
    /// The sort key of the place; `None` at an end of the order.
    key: Option<String>,
    /// The first key of the block that the place is in; empty where it is before all of them.
    edge: String,
    forward: bool,
}

impl Start {
    fn new(db: &Connection, query: &PageQuery) -> Result<Self> {
        let (place, forward) = query.place()?;
        let key = match place {
            Some(Cursor::Name(name)) => Some(sort_key(name.as_str())),
            _ => None,
        };
        let edge = db
            .prepare_cached("SELECT coalesce(max(first), '') FROM blocks WHERE first <= ?1")?
            .query_row([key.as_deref().unwrap_or_default()], |row| row.get(0))?;
        Ok(Self { key, edge, forward })
    }

    /// The blocks behind the one with the place, and the others.
    fn ranges(&self) -> (Range, Range) {
        let edge = if self.forward { self.edge.clone() } else { Range::after(&self.edge) };
        let before = Range { from: String::new(), to: Some(edge.clone()) };
        let after = Range { from: edge, to: None };
        if self.forward { (before, after) } else { (after, before) }
    }

    /// The key that lines of the block with this first key are compared with; all lines of other blocks are beyond it.
    fn key_in(&self, first: &str) -> Option<&str> {
        self.key.as_deref().filter(|_| first == self.edge)
    }

    /// Whether what has this name comes after `key` on the way.
    fn is_beyond(&self, key: &str, name: &str) -> bool {
        sort_key(name).as_str().cmp(key) == if self.forward { Ordering::Greater } else { Ordering::Less }
    }
}

/// In the order of the blocks. Blocks behind the one with the place are looked at for the count alone; all ends when
/// the page is full and the count is high.
fn by_name(db: &Connection, query: &PageQuery, matcher: &mut Matcher) -> Result<Found> {
    let start = Start::new(db, query)?;
    let (behind, onward) = start.ranges();
    let range = matcher.range(db)?;
    let (mut found, mut count) = (Found::default(), 0);
    let counted = behind.within(&range).scan(db, true, |_, view| {
        let lines = matcher.mark(view)?.filter(|line| matcher.holds(*line, view)).count();
        count += lines as u64;
        found.behind |= lines > 0;
        Ok(if count > COUNTED { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let read = onward.within(&range).scan(db, start.forward, |first, view| {
        let key = start.key_in(first);
        let lines = matcher.mark(view)?;
        for nth in lines.clone() {
            let line = if start.forward { nth } else { lines.end - 1 - nth };
            if !matcher.holds(line, view) {
                continue;
            }
            count += 1;
            let name = matcher.name(line, view)?;
            if key.is_some_and(|key| !start.is_beyond(key, name)) {
                found.behind = true;
            } else if found.hits.len() < query.limit {
                found.hits.extend(hit(db, view.entry(line), name)?);
            } else {
                found.more = true;
                if count > COUNTED {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let exact = counted && read;
    found.matches = Some(Matches { count: if exact { count } else { COUNTED }, exact });
    Ok(found)
}

/// A match and where it stands in an order by numbers, the first the least; what is found from behind is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u32, i64);

impl Place {
    fn new(order: Order, confidence: f32, number: i64) -> Self {
        match order {
            // Confidences are not negative, and so as their bits are.
            Order::Confidence => Self(confidence.to_bits(), number),
            Order::Newest | Order::Name => Self(0, !number),
        }
    }

    fn turned(self, forward: bool) -> Self {
        if forward { self } else { Self(!self.0, !self.1) }
    }
}

/// The first few matches of an order by numbers, whatever order they come in.
struct First {
    most: usize,
    /// All of them, and others behind them until the next time that these are dropped.
    kept: Vec<(Place, String, i64)>,
    /// What comes behind this one is not among the first.
    last: Option<Place>,
}

impl First {
    fn new(most: usize) -> Self {
        Self { most, kept: Vec::with_capacity(4 * most), last: None }
    }

    /// Whether it may be one of the first.
    fn wants(&self, place: Place) -> bool {
        self.last.is_none_or(|last| place < last)
    }

    fn push(&mut self, place: Place, name: String, number: i64) {
        self.kept.push((place, name, number));
        // One by one, a heap would sort each of a million that come in the wrong order.
        if self.kept.len() >= 4 * self.most {
            self.kept.select_nth_unstable(self.most - 1);
            self.kept.truncate(self.most);
            self.last = Some(self.kept[self.most - 1].0);
        }
    }

    /// Returns them in order.
    fn into_sorted(mut self) -> Vec<(Place, String, i64)> {
        self.kept.sort_unstable();
        self.kept.truncate(self.most);
        self.kept
    }
}

/// In an order that the blocks do not have: all are read, and the best matches kept.
fn by_number(db: &Connection, query: &PageQuery, matcher: &mut Matcher) -> Result<Found> {
    let (place, forward) = query.place()?;
    let place = place.map(|cursor| match *cursor {
        Cursor::Confidence(confidence, number) => Place::new(query.order, confidence, number),
        Cursor::Newest(number) => Place::new(query.order, 0.0, number),
        Cursor::Name(_) => Place(0, i64::MIN),
    });
    let place = place.map(|place| place.turned(forward));
    // One more than are shown tells that there are more.
    let (mut first, mut count) = (First::new(query.limit + 1), 0);
    let mut found = Found::default();
    // Most names grow with time: from the end on, the first that are found are mostly those that are kept.
    let ascending = !(query.order == Order::Newest && forward);
    matcher.range(db)?.scan(db, ascending, |_, view| {
        let lines = matcher.mark(view)?;
        for nth in lines.clone() {
            let line = if ascending { nth } else { lines.end - 1 - nth };
            if !matcher.holds(line, view) {
                continue;
            }
            count += 1;
            let entry = view.entry(line);
            let here = Place::new(query.order, entry.confidence, entry.number).turned(forward);
            if place.is_some_and(|place| here <= place) {
                found.behind = true;
            } else if first.wants(here) {
                // Of images that wait there is no row to tell the name.
                let name =
                    if entry.code == Code::WAITING { matcher.name(line, view)?.to_owned() } else { String::new() };
                first.push(here, name, entry.number);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let first = first.into_sorted();
    found.more = first.len() > query.limit;
    for (_, name, number) in first.into_iter().take(query.limit) {
        let code = if name.is_empty() { Code::FAILED } else { Code::WAITING };
        found.hits.extend(hit(db, Entry { number, confidence: 0.0, code }, &name)?);
    }
    found.matches = Some(Matches { count, exact: true });
    Ok(found)
}
