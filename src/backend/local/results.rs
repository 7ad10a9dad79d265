//! Results, heartbeats and the scaler's memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    Store,
    images::{corrupt, stored_name},
};
use crate::{
    backend::{Error, ErrorKind, Heartbeat, Page, PageQuery, Result, Results, Totals, Versioned, Written},
    contract::{Classification, ImageName, Sequencer, order::sort_key},
};

/// Most rows that one filtered page looks at.
const MAX_SCANNED: usize = 10_000;

/// Most rows of one page.
const MAX_PAGE: usize = 1000;

/// So many heartbeats are kept one by one; those of the workers that were gone first are summed up.
const MAX_HEARTBEATS: i64 = 64;

/// The row that holds the sum of the heartbeats of workers long gone.
const FORMER_WORKERS: &str = "former workers";

#[async_trait]
impl Results for Store {
    async fn put(&self, result: &Classification) -> Result<Written> {
        let result = result.clone();
        self.db.write(move |db| put(db, &result)).await
    }

    async fn get(&self, images: &[ImageName]) -> Result<Vec<Classification>> {
        let keys: Vec<String> = images.iter().map(|image| sort_key(image.as_str())).collect();
        self.db
            .read(move |db| {
                let mut find = db.prepare_cached("SELECT body, sequencer FROM results WHERE sort_key = ?1")?;
                let rows = keys.iter().filter_map(|key| find.query_row([key], row_text).optional().transpose());
                rows.map(|row| classification(row?)).collect()
            })
            .await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page> {
        if query.after.is_some() && query.before.is_some() {
            return Err(Error::new(ErrorKind::Refused, "a page is after or before a name, not both"));
        }
        let query = PageQuery { limit: query.limit.clamp(1, MAX_PAGE), ..query.clone() };
        self.db.read(move |db| page(db, &query)).await
    }

    async fn delete(&self, image: &ImageName) -> Result<Option<Classification>> {
        let key = sort_key(image.as_str());
        self.db
            .write(move |db| {
                let mut delete =
                    db.prepare_cached("DELETE FROM results WHERE sort_key = ?1 RETURNING body, sequencer")?;
                delete.query_row([key], row_text).optional()?.map(classification).transpose()
            })
            .await
    }

    async fn totals(&self) -> Result<Totals> {
        self.db
            .read(|db| {
                let counter = |name: &str| -> Result<u64> {
                    let mut find = db.prepare_cached("SELECT value FROM counters WHERE name = ?1")?;
                    Ok(find.query_row([name], |row| row.get(0))?)
                };
                Ok(Totals { total: counter("results")?, failed: counter("failed")?, exact: true })
            })
            .await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()> {
        let beat = Heartbeat { seen_at_ms: self.clock.now_ms(), ..heartbeat.clone() };
        self.db
            .write(move |db| {
                write_beat(db, &beat)?;
                fold_old_beats(db)
            })
            .await
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        self.db.read(|db| read_beats(db, i64::MAX)).await
    }

    async fn scaler(&self) -> Result<Option<Versioned>> {
        self.db
            .read(|db| {
                let mut find = db.prepare_cached("SELECT value, version FROM scaler")?;
                Ok(find.query_row([], |row| Ok(Versioned { value: row.get(0)?, version: row.get(1)? })).optional()?)
            })
            .await
    }

    async fn swap_scaler(&self, expected: Option<u64>, value: &str) -> Result<bool> {
        let value = value.to_owned();
        self.db
            .write(move |db| {
                let changed = match expected {
                    None => db
                        .prepare_cached("INSERT OR IGNORE INTO scaler (id, version, value) VALUES (1, 1, ?1)")?
                        .execute([value])?,
                    Some(version) => db
                        .prepare_cached("UPDATE scaler SET version = version + 1, value = ?2 WHERE version = ?1")?
                        .execute((version, value))?,
                };
                Ok(changed == 1)
            })
            .await
    }
}

fn put(db: &Connection, result: &Classification) -> Result<Written> {
    let name = result.image.as_str();
    let image = db
        .prepare_cached("SELECT sequencer, created_at FROM images WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((image_sequencer, created_at)) = image else { return Ok(Written::Gone) };
    // An event from before this image is about one of the same name that was removed.
    let is_of_former = match &result.sequencer {
        Some(sequencer) => *sequencer < Sequencer::from_counter(image_sequencer),
        None => result.asked_at_ms < created_at,
    };
    if is_of_former {
        return Ok(Written::Gone);
    }
    let key = sort_key(name);
    let stored = db
        .prepare_cached("SELECT sequencer, label FROM results WHERE sort_key = ?1")?
        .query_row([&key], |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?)))
        .optional()?;
    let (stored_sequencer, previous) = stored.unwrap_or_default();
    if let (Some(new), Some(stored)) = (&result.sequencer, &stored_sequencer)
        && new.as_str() < stored.as_str()
    {
        return Ok(Written::Stale);
    }
    let sequencer = result.sequencer.as_ref().map(|s| s.as_str().to_owned()).or(stored_sequencer);
    let body = serde_json::to_string(result).map_err(|e| corrupt("results").because(e))?;
    db.prepare_cached(
        "INSERT INTO results (sort_key, image, label, sequencer, body) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (sort_key) DO UPDATE SET label = excluded.label, sequencer = excluded.sequencer, body = excluded.body",
    )?
    .execute((key, name, result.outcome.label(), sequencer, body))?;
    Ok(Written::Stored { previous })
}

fn page(db: &Connection, query: &PageQuery) -> Result<Page> {
    let forward = query.before.is_none();
    let cursor = query.after.as_ref().or(query.before.as_ref());
    let mut select = db.prepare_cached(match (forward, cursor.is_some()) {
        (_, false) => "SELECT image, label, body, sequencer FROM results WHERE sort_key > ?1 ORDER BY sort_key",
        (true, true) => "SELECT image, label, body, sequencer FROM results WHERE sort_key > ?1 ORDER BY sort_key",
        (false, true) => "SELECT image, label, body, sequencer FROM results WHERE sort_key < ?1 ORDER BY sort_key DESC",
    })?;
    // No key is empty.
    let mut rows = select.query([cursor.map_or_else(String::new, |name| sort_key(name.as_str()))])?;
    let filter = query.filter.as_ref().map(|text| text.to_ascii_lowercase());
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
        Ok(Page { results: found, next: further, previous: back })
    } else {
        found.reverse();
        Ok(Page { results: found, next: back, previous: further })
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

/// Columns `body` and `sequencer`.
fn row_text(row: &Row<'_>) -> rusqlite::Result<(String, Option<String>)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn classification((body, sequencer): (String, Option<String>)) -> Result<Classification> {
    let stored: Classification = serde_json::from_str(&body).map_err(|e| corrupt("results").because(e))?;
    Ok(Classification { sequencer: sequencer.map(|s| Sequencer::new(&s)), ..stored })
}

fn write_beat(db: &Connection, beat: &Heartbeat) -> Result<()> {
    let body = serde_json::to_string(beat).map_err(|e| corrupt("heartbeats").because(e))?;
    db.prepare_cached("INSERT OR REPLACE INTO heartbeats (worker, seen_at, body) VALUES (?1, ?2, ?3)")?.execute((
        &beat.worker,
        beat.seen_at_ms,
        body,
    ))?;
    Ok(())
}

/// The heartbeats, those not heard of for longest first.
pub(super) fn read_beats(db: &Connection, limit: i64) -> Result<Vec<Heartbeat>> {
    let mut all = db.prepare_cached("SELECT body FROM heartbeats ORDER BY seen_at LIMIT ?1")?;
    let bodies = all.query_map([limit], |row| row.get::<_, String>(0))?;
    bodies.map(|body| serde_json::from_str(&body?).map_err(|e| corrupt("heartbeats").because(e))).collect()
}

/// Sums up the oldest heartbeats if there are too many. What their minutes count is over.
fn fold_old_beats(db: &Connection) -> Result<()> {
    let count: i64 = db.prepare_cached("SELECT count(*) FROM heartbeats")?.query_row([], |row| row.get(0))?;
    if count <= MAX_HEARTBEATS {
        return Ok(());
    }
    // The sum counts as one, and is among the oldest, for it keeps the time of the oldest.
    let mut sum = Heartbeat { worker: FORMER_WORKERS.to_owned(), seen_at_ms: i64::MAX, ..Heartbeat::default() };
    for beat in read_beats(db, count - MAX_HEARTBEATS + 1)? {
        sum.seen_at_ms = sum.seen_at_ms.min(beat.seen_at_ms);
        sum.started_at_ms = beat.started_at_ms;
        sum.done += beat.done;
        sum.failed += beat.failed;
        sum.busy_ms += beat.busy_ms;
        merge(&mut sum.labels, beat.labels);
        db.prepare_cached("DELETE FROM heartbeats WHERE worker = ?1")?.execute([beat.worker])?;
    }
    write_beat(db, &sum)
}

fn merge(into: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>) {
    for (label, count) in from {
        *into.entry(label).or_default() += count;
    }
}
