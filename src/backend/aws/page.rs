//! Pages in natural order: a merge of the shards, each already in order.

use std::collections::VecDeque;

use futures_util::{StreamExt, future::try_join_all, stream};

use super::{
    marker::{Marker, is_visible},
    results::{DynamoResults, QUERY},
    row::{self, DELETED_AT, Item, SHARD, SHARDS, SORT_KEY, TOMBSTONE, n, number, s, text},
};
use crate::{
    backend::{Counts, Cursor, Error, ErrorKind, Filter, Page, PageQuery, Result},
    clock::{Clock, SystemClock},
    contract::{Classification, ImageName, Timestamp, order::sort_key},
};

/// Rows that one call looks at when it filters.
const MAX_LOOKED_AT: usize = 2000;

/// Rows of one shard in one query when filtering.
const FILTER_CHUNK: usize = 125;

/// Most rows of one shard in one query.
const MAX_CHUNK: usize = 1000;

/// One shard, read ahead as far as needed.
struct Shard {
    number: i32,
    rows: VecDeque<Item>,
    /// Rows to read next.
    chunk: usize,
    /// The sort key after which to read on; `None` at the shard's end.
    from: Option<Start>,
}

/// Where reading goes on.
#[derive(Debug, Clone)]
enum Start {
    /// At the shard's first row in this direction.
    Edge,
    /// Beyond this sort key.
    Beyond(String),
}

impl DynamoResults {
    pub(super) async fn read_page(&self, query: &PageQuery) -> Result<Page> {
        let (place, forward) = query.place()?;
        let from = match place {
            None => None,
            Some(Cursor::Name(name)) => Some(name),
            Some(_) => return Err(Error::new(ErrorKind::Unsupported, "on AWS rows come in the order of names alone")),
        };
        let marker = self.marker().await?;
        let limit = query.limit.clamp(1, 1000);
        let backwards = !forward;
        let filter = query.filter.text.as_deref().map(str::to_ascii_lowercase);
        // Shards hold an eighth each; the slack makes a second query rare.
        let chunk = if filter.is_some() { FILTER_CHUNK } else { limit / usize::from(SHARDS) * 5 / 4 + 8 };
        let mut merge = Merge::new(self, from, backwards, chunk, marker).await?;

        let mut results: Vec<Classification> = Vec::new();
        let mut looked_at = 0;
        let mut last = None;
        let mut more = false;
        while let Some(item) = merge.next().await? {
            if results.len() == limit || looked_at == MAX_LOOKED_AT {
                more = true;
                break;
            }
            looked_at += usize::from(filter.is_some());
            let Some(row) = row::row(&item) else { continue };
            last = Some(row.image.clone());
            if filter.as_deref().is_none_or(|f| matches(&row, f)) {
                results.push(row);
            }
        }
        let onward = last.filter(|_| more);
        let back = match from {
            None => None,
            Some(from) => {
                let edge = results.first().map_or_else(|| from.clone(), |row| row.image.clone());
                self.lies_beyond(&edge, !backwards, marker).await?.then_some(edge)
            }
        };
        if backwards {
            results.reverse();
            return Ok(Page {
                results,
                next: back.map(Into::into),
                previous: onward.map(Into::into),
                ..Page::default()
            });
        }
        Ok(Page { results, next: onward.map(Into::into), previous: back.map(Into::into), ..Page::default() })
    }

    pub(super) async fn read_counts(&self, _filter: &Filter) -> Result<Counts> {
        Ok(Counts::default())
    }

    /// Whether there are rows before (or after) `edge`.
    async fn lies_beyond(&self, edge: &ImageName, backwards: bool, marker: Marker) -> Result<bool> {
        Ok(Merge::new(self, Some(edge), backwards, 1, marker).await?.next().await?.is_some())
    }

    /// Reads the next rows of a shard. What is hidden, by a reset or because it was removed, is left out; where there
    /// is much of it, more is read next time.
    async fn fill(&self, shard: &mut Shard, backwards: bool, marker: Marker) -> Result<()> {
        let Some(from) = shard.from.take() else { return Ok(()) };
        let mut query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("#shard = :shard")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_values(":shard", n(shard.number))
            .scan_index_forward(!backwards)
            .limit(i32::try_from(shard.chunk).unwrap_or(i32::MAX));
        if let Start::Beyond(sort) = from {
            let beyond = if backwards { "<" } else { ">" };
            query = query
                .key_condition_expression(format!("#shard = :shard AND #sort {beyond} :sort"))
                .expression_attribute_names("#sort", SORT_KEY)
                .expression_attribute_values(":sort", s(sort));
        }
        let page = query.send().await.map_err(|e| QUERY.error(&self.table, &e))?;
        let (visible, hidden): (Vec<_>, Vec<_>) =
            page.items.unwrap_or_default().into_iter().partition(|item| is_visible(item, marker));
        if hidden.len() > visible.len() {
            shard.chunk = (shard.chunk * 2).min(MAX_CHUNK);
        }
        shard.rows.extend(visible);
        self.forget_removed(hidden).await;
        shard.from =
            page.last_evaluated_key.as_ref().and_then(|k| text(k, SORT_KEY)).map(|k| Start::Beyond(k.to_owned()));
        Ok(())
    }
}

impl DynamoResults {
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

/// All shards in one order.
struct Merge<'a> {
    results: &'a DynamoResults,
    shards: Vec<Shard>,
    backwards: bool,
    marker: Marker,
}

impl<'a> Merge<'a> {
    async fn new(
        results: &'a DynamoResults,
        from: Option<&ImageName>,
        backwards: bool,
        chunk: usize,
        marker: Marker,
    ) -> Result<Self> {
        let start = from.map_or(Start::Edge, |name| Start::Beyond(sort_key(name.as_str())));
        let shard = |number| Shard { number, rows: VecDeque::new(), chunk, from: Some(start.clone()) };
        let mut shards: Vec<Shard> = (0..i32::from(SHARDS)).map(shard).collect();
        try_join_all(shards.iter_mut().map(|shard| results.fill(shard, backwards, marker))).await?;
        Ok(Self { results, shards, backwards, marker })
    }

    async fn next(&mut self) -> Result<Option<Item>> {
        for shard in &mut self.shards {
            // A query may answer with nothing and still have more.
            while shard.rows.is_empty() && shard.from.is_some() {
                self.results.fill(shard, self.backwards, self.marker).await?;
            }
        }
        let heads =
            self.shards.iter().enumerate().filter_map(|(i, s)| Some((text(s.rows.front()?, SORT_KEY)?.to_owned(), i)));
        let first = if self.backwards { heads.max() } else { heads.min() };
        Ok(first.and_then(|(_, i)| self.shards[i].rows.pop_front()))
    }
}

/// Whether a row's name holds `filter` or its label is `filter`, in lower case.
fn matches(row: &Classification, filter: &str) -> bool {
    row.image.as_str().to_ascii_lowercase().contains(filter)
        || row.outcome.label().is_some_and(|label| label.eq_ignore_ascii_case(filter))
}
