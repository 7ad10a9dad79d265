//! Pages in natural order: a merge of the shards, each already in order, or what the index has of one label.

use std::collections::VecDeque;

use aws_sdk_dynamodb::{error::SdkError, operation::query::builders::QueryFluentBuilder, types::AttributeValue};
use futures_util::{StreamExt, future::try_join_all, stream};

use super::{
    marker::{Marker, is_visible},
    results::{DynamoResults, QUERY},
    row::{self, CLASSIFICATION, DELETED_AT, Item, SHARD, SHARDS, SORT_KEY, TOMBSTONE, n, number, s, text},
};
use crate::{
    backend::{Cursor, Error, ErrorKind, Filter, Matches, Order, Page, PageQuery, Result},
    clock::{Clock, SystemClock},
    contract::{
        Classification, ImageName, Timestamp,
        order::{MAX_KEY_BYTES, fold, prefixes, sort_key},
    },
};

/// The index of the table that has the rows of each label in natural order: its partition key is the label, its sort
/// key the table's.
pub(super) const BY_LABEL: &str = "ByLabel";

/// Most rows of one lane in one query.
const MAX_CHUNK: usize = 1000;

/// What follows whatever begins a key, and has room in a condition's value.
const GREATEST: char = char::MAX;

/// Where the rows of a page are: in which lanes, and in which ranges of their keys, one after the other.
#[derive(Debug)]
struct Source {
    /// The label whose lane of the index it is; the shards without one.
    label: Option<String>,
    /// What keys begin with.
    prefixes: Vec<String>,
    /// What names begin with; natural order does not tell `Cats/` from `cats/`.
    folder: Option<String>,
}

impl Source {
    fn new(filter: &Filter) -> Result<Self> {
        if filter.state.is_some() {
            return Err(unsupported("the table has no index of states; leave state out"));
        }
        let folder = filter.folder.as_ref().map(|folder| format!("{folder}/"));
        let prefixes = match &filter.text {
            Some(text) => prefixes(&format!("{}{text}", folder.as_deref().unwrap_or_default())),
            None => vec![folder.as_deref().map(fold).unwrap_or_default()],
        };
        // Nothing begins with what is longer than a key.
        let fits = |prefix: &String| prefix.len() + GREATEST.len_utf8() <= MAX_KEY_BYTES;
        Ok(Self { label: filter.label.clone(), prefixes: prefixes.into_iter().filter(fits).collect(), folder })
    }
}

/// One lane of a range, read ahead as far as needed.
#[derive(Debug)]
struct Lane {
    /// The value of its partition key.
    key: AttributeValue,
    rows: VecDeque<Item>,
    /// Rows to read next.
    chunk: usize,
    /// Where reading goes on; `None` at the lane's end.
    from: Option<Start>,
}

/// Where reading goes on.
#[derive(Debug, Clone)]
enum Start {
    /// At the lane's first row in this direction.
    Edge,
    /// Beyond this sort key.
    Beyond(String),
}

impl Start {
    /// Where a range begins for who comes from `key`; `None` where all of it is behind.
    fn of_range(prefix: &str, key: Option<&str>, backwards: bool) -> Option<Self> {
        match key {
            None => Some(Self::Edge),
            Some(key) if key.starts_with(prefix) => Some(Self::Beyond(key.to_owned())),
            Some(key) => ((key < prefix) != backwards).then_some(Self::Edge),
        }
    }
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("on AWS {message}"))
}

impl DynamoResults {
    pub(super) async fn read_page(&self, query: &PageQuery) -> Result<Page> {
        let (place, forward) = query.place()?;
        let from = match place {
            Some(Cursor::Name(name)) => Some(name),
            _ => None,
        };
        if query.order != Order::Name {
            return Err(unsupported(
                "results come in the order of names alone, which is the one that the table has; leave order out",
            ));
        }
        let source = Source::new(&query.filter)?;
        let marker = self.marker().await?;
        let limit = query.limit.clamp(1, PageQuery::MAX_LIMIT);
        // Shards hold an eighth each; the slack makes a second query rare.
        let chunk = if source.label.is_some() { limit + 1 } else { limit / usize::from(SHARDS) * 5 / 4 + 8 };
        let mut merge = Merge::new(self, &source, from, !forward, chunk, marker);
        let mut results: Vec<Classification> = Vec::new();
        let mut more = false;
        while let Some(row) = merge.next().await? {
            if results.len() == limit {
                more = true;
                break;
            }
            results.push(row);
        }
        let onward = results.last().filter(|_| more).map(|row| row.image.clone());
        let back = match from {
            None => None,
            Some(from) => {
                let edge = results.first().map_or_else(|| from.clone(), |row| row.image.clone());
                let is_any = Merge::new(self, &source, Some(&edge), forward, 1, marker).next().await?.is_some();
                is_any.then_some(edge)
            }
        };
        let whole = onward.is_none() && back.is_none();
        let matches = whole.then_some(Matches { count: results.len() as u64, exact: true });
        let (mut next, mut previous) = (onward.map(Cursor::Name), back.map(Cursor::Name));
        if !forward {
            results.reverse();
            (next, previous) = (previous, next);
        }
        Ok(Page { results, waiting: Vec::new(), next, previous, matches })
    }

    /// Reads the next rows of a lane. What is hidden, by a reset or because it was removed, is left out; where there
    /// is much of it, more is read next time.
    async fn fill(&self, lane: &mut Lane, label: bool, prefix: &str, backwards: bool, marker: Marker) -> Result<()> {
        let Some(from) = lane.from.take() else { return Ok(()) };
        let partition = if label { CLASSIFICATION } else { SHARD };
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .set_index_name(label.then(|| BY_LABEL.to_owned()))
            .expression_attribute_names("#partition", partition)
            .expression_attribute_values(":partition", lane.key.clone())
            .scan_index_forward(!backwards)
            // One more, for a condition on a range has its ends in it: that row is left out below.
            .limit(i32::try_from(lane.chunk + usize::from(!prefix.is_empty())).unwrap_or(i32::MAX));
        let page = match within_range(query, prefix, &from, backwards).send().await {
            Err(SdkError::ServiceError(e)) if label && is_no_index(e.err()) => {
                let message =
                    format!("table {} has no index {BY_LABEL} that is ready; `imgcls setup` adds it", self.table);
                return Err(Error::new(ErrorKind::Refused, message));
            }
            page => page.map_err(|e| QUERY.error(&self.table, &e))?,
        };
        let last = page.last_evaluated_key.as_ref().and_then(|k| text(k, SORT_KEY)).map(str::to_owned);
        let mut items = page.items.unwrap_or_default();
        if let Start::Beyond(key) = &from {
            items.retain(|item| text(item, SORT_KEY) != Some(key));
        }
        let (visible, hidden): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_visible(item, marker));
        if hidden.len() > visible.len() {
            lane.chunk = (lane.chunk * 2).min(MAX_CHUNK);
        }
        lane.rows.extend(visible);
        self.forget_removed(hidden).await;
        lane.from = last.map(Start::Beyond);
        Ok(())
    }

    /// Takes away what is left of rows that were removed long ago.
    async fn forget_removed(&self, hidden: Vec<Item>) {
        let before = SystemClock.now() - TOMBSTONE;
        let old = hidden.into_iter().filter(|item| number::<Timestamp>(item, DELETED_AT).is_some_and(|at| at < before));
        let deletes: Vec<_> = old.map(|item| self.delete_if_old(item, before)).collect();
        let mut deletes = stream::iter(deletes).buffer_unordered(16);
        while let Some(deleted) = deletes.next().await {
            if let Err(error) = deleted {
                // Whoever pages next tries again.
                tracing::debug!(%error, "cannot take away what is left of a removed row");
            }
        }
    }
}

/// The query's condition on keys: one on each key is all that DynamoDB takes.
fn within_range(query: QueryFluentBuilder, prefix: &str, from: &Start, backwards: bool) -> QueryFluentBuilder {
    let in_partition = "#partition = :partition";
    let (condition, values) = match (prefix, from) {
        ("", Start::Edge) => return query.key_condition_expression(in_partition),
        ("", Start::Beyond(key)) => (if backwards { "#sort < :a" } else { "#sort > :a" }, vec![key.clone()]),
        (prefix, Start::Edge) => ("begins_with(#sort, :a)", vec![prefix.to_owned()]),
        (prefix, Start::Beyond(key)) if backwards => ("#sort BETWEEN :a AND :b", vec![prefix.to_owned(), key.clone()]),
        (prefix, Start::Beyond(key)) => ("#sort BETWEEN :a AND :b", vec![key.clone(), format!("{prefix}{GREATEST}")]),
    };
    let query = query
        .key_condition_expression(format!("{in_partition} AND {condition}"))
        .expression_attribute_names("#sort", SORT_KEY);
    values
        .into_iter()
        .zip([":a", ":b"])
        .fold(query, |query, (value, name)| query.expression_attribute_values(name, s(value)))
}

/// Whether the service says that a table has no such index, or not yet.
fn is_no_index(error: &aws_sdk_dynamodb::operation::query::QueryError) -> bool {
    let message = error.meta().message().unwrap_or_default();
    error.is_resource_not_found_exception() && message.contains("ndex") || message.contains(BY_LABEL)
}

/// All lanes in one order, range after range.
struct Merge<'a> {
    results: &'a DynamoResults,
    source: &'a Source,
    lanes: Vec<Lane>,
    /// The range at hand, and those that come after it.
    prefix: &'a str,
    ranges: Vec<&'a str>,
    from: Option<String>,
    backwards: bool,
    chunk: usize,
    marker: Marker,
}

impl<'a> Merge<'a> {
    fn new(
        results: &'a DynamoResults,
        source: &'a Source,
        from: Option<&ImageName>,
        backwards: bool,
        chunk: usize,
        marker: Marker,
    ) -> Self {
        let mut ranges: Vec<&str> = source.prefixes.iter().map(String::as_str).collect();
        // Taken from the end.
        if !backwards {
            ranges.reverse();
        }
        let from = from.map(|name| sort_key(name.as_str()));
        Self { results, source, lanes: Vec::new(), prefix: "", ranges, from, backwards, chunk, marker }
    }

    /// The next row.
    async fn next(&mut self) -> Result<Option<Classification>> {
        loop {
            let Some(item) = self.next_item().await? else {
                if self.next_range() {
                    continue;
                }
                return Ok(None);
            };
            let in_folder = |name: &str| self.source.folder.as_ref().is_none_or(|folder| name.starts_with(folder));
            if let Some(row) = row::row(&item).filter(|row| in_folder(row.image.as_str())) {
                return Ok(Some(row));
            }
        }
    }

    /// Goes on with the next range, if there is one.
    fn next_range(&mut self) -> bool {
        while let Some(prefix) = self.ranges.pop() {
            let Some(start) = Start::of_range(prefix, self.from.as_deref(), self.backwards) else { continue };
            self.prefix = prefix;
            let keys = match &self.source.label {
                Some(label) => vec![s(label)],
                None => (0..SHARDS).map(n).collect(),
            };
            let lane = |key| Lane { key, rows: VecDeque::new(), chunk: self.chunk, from: Some(start.clone()) };
            self.lanes = keys.into_iter().map(lane).collect();
            return true;
        }
        false
    }

    /// The next item of the range at hand.
    async fn next_item(&mut self) -> Result<Option<Item>> {
        let (results, label, prefix) = (self.results, self.source.label.is_some(), self.prefix);
        let (backwards, marker) = (self.backwards, self.marker);
        // A query may answer with nothing and still have more.
        while self.lanes.iter().any(|lane| lane.rows.is_empty() && lane.from.is_some()) {
            let empty = self.lanes.iter_mut().filter(|lane| lane.rows.is_empty());
            try_join_all(empty.map(|lane| results.fill(lane, label, prefix, backwards, marker))).await?;
        }
        let heads =
            self.lanes.iter().enumerate().filter_map(|(i, l)| Some((text(l.rows.front()?, SORT_KEY)?.to_owned(), i)));
        let first = if backwards { heads.max() } else { heads.min() };
        Ok(first.and_then(|(_, i)| self.lanes[i].rows.pop_front()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_begin_at_the_place_that_one_comes_from() {
        let of = |prefix, key, backwards| match Start::of_range(prefix, key, backwards) {
            None => "none".to_owned(),
            Some(Start::Edge) => "edge".to_owned(),
            Some(Start::Beyond(key)) => key,
        };
        for (prefix, key, forwards, backwards) in [
            ("b", None, "edge", "edge"),
            ("", Some("x"), "x", "x"),
            ("b", Some("a"), "edge", "none"),
            ("b", Some("bc"), "bc", "bc"),
            ("b", Some("c"), "none", "edge"),
        ] {
            assert_eq!((of(prefix, key, false), of(prefix, key, true)), (forwards.to_owned(), backwards.to_owned()));
        }
    }
}
