//! Results: one row an image, which the image's record guards.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    Store,
    blocks::Entry,
    counts,
    found::Hit,
    index,
    page::page,
    row::{classification, corrupt},
};
use crate::{
    backend::{
        Counts, Cursor, Filter, Heartbeat, Order, Page, PageQuery, Removed, Result, Results, Search, State, Totals,
        Written,
    },
    contract::{Classification, ImageName, Sequencer, order::sort_key},
};

#[async_trait]
impl Results for Store {
    async fn put(&self, result: &Classification, released: Option<&str>) -> Result<Written> {
        let (result, released) = (result.clone(), released.map(str::to_owned));
        self.db.write(move |db| put(db, &result, released.as_deref())).await
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

    fn search(&self) -> Search {
        Search::Substring
    }

    async fn page(&self, query: &PageQuery) -> Result<Page> {
        query.place()?;
        let query = PageQuery { limit: query.limit.clamp(1, PageQuery::MAX_LIMIT), ..query.clone() };
        self.db.read(move |db| page(db, &query)).await
    }

    async fn place(&self, image: &ImageName, query: &PageQuery) -> Result<Option<Cursor>> {
        let (order, is_among_waiting) = (query.order, query.filter.state == Some(State::Waiting));
        if order == Order::Name {
            return Ok(Some(Cursor::Name(image.clone())));
        }
        let image = image.clone();
        self.db
            .read(move |db| {
                let hit = if is_among_waiting {
                    sequencer(db, &image)?.map(|sequencer| Hit::Waiting { sequencer, image })
                } else {
                    let mut find = db.prepare_cached("SELECT id, body, sequencer FROM results WHERE sort_key = ?1")?;
                    let row = find.query_row([sort_key(image.as_str())], |row| Ok(Hit::of_row(row)));
                    row.optional()?.transpose()?
                };
                Ok(hit.map(|hit| hit.cursor(order)))
            })
            .await
    }

    async fn counts(&self, filter: &Filter) -> Result<Counts> {
        let filter = filter.clone();
        self.db.read(move |db| counts::read(db, &filter)).await
    }

    async fn delete(&self, image: &ImageName, released: Option<&str>) -> Result<Removed> {
        let (image, key, released) = (image.clone(), sort_key(image.as_str()), released.map(str::to_owned));
        self.db
            .write(move |db| {
                let Some(row) = guard(db, &key)? else { return Ok(Removed::Nothing) };
                if let Some(label) = row.label.filter(|label| Some(label) != released.as_ref()) {
                    return Ok(Removed::Labelled(label));
                }
                db.prepare_cached("DELETE FROM results WHERE sort_key = ?1")?.execute([key])?;
                // One that was uploaded again meanwhile waits.
                index::set(db, &image, sequencer(db, &image)?.map(Entry::waiting))?;
                Ok(Removed::Row)
            })
            .await
    }

    async fn totals(&self, _heartbeats: &[Heartbeat]) -> Result<Totals> {
        self.db
            .read(|db| {
                let (total, failed) = (counts::counter(db, "results")?, counts::counter(db, "failed")?);
                Ok(Totals { total, failed, exact: true })
            })
            .await
    }
}

/// What of a row decides whether it may be replaced.
struct Guard {
    sequencer: Option<String>,
    label: Option<String>,
}

fn guard(db: &Connection, key: &str) -> Result<Option<Guard>> {
    let mut find = db.prepare_cached("SELECT sequencer, label FROM results WHERE sort_key = ?1")?;
    Ok(find.query_row([key], |row| Ok(Guard { sequencer: row.get(0)?, label: row.get(1)? })).optional()?)
}

/// The number of an image's upload.
fn sequencer(db: &Connection, image: &ImageName) -> Result<Option<i64>> {
    let mut find = db.prepare_cached("SELECT sequencer FROM images WHERE name = ?1")?;
    Ok(find.query_row([image.as_str()], |row| row.get(0)).optional()?)
}

fn put(db: &Connection, result: &Classification, released: Option<&str>) -> Result<Written> {
    let name = result.image.as_str();
    let image = sequencer(db, &result.image)?.and_then(|number| u64::try_from(number).ok());
    let Some(image) = image.map(Sequencer::from_counter) else { return Ok(Written::Gone) };
    // An event of before this image, or bytes that are not this image's, are about one of the same name that was
    // removed.
    if result.sequencer.as_ref().is_some_and(|event| *event < image)
        || result.image_sequencer.as_ref().is_some_and(|bytes| *bytes != image)
    {
        return Ok(Written::Gone);
    }
    let key = sort_key(name);
    let stored = guard(db, &key)?;
    let stored_sequencer = stored.as_ref().and_then(|row| row.sequencer.clone());
    if let (Some(new), Some(stored)) = (&result.sequencer, &stored_sequencer)
        && new.as_str() < stored.as_str()
    {
        return Ok(Written::Stale);
    }
    let label = result.outcome.label();
    if let Some(other) = stored.and_then(|row| row.label)
        && ![label, released].contains(&Some(other.as_str()))
    {
        return Ok(Written::Labelled(other));
    }
    let row_sequencer = result.sequencer.as_ref().map(|s| s.as_str().to_owned()).or(stored_sequencer);
    let body = serde_json::to_string(result).map_err(|e| corrupt("results").because(e))?;
    // A row that is written anew gets a new id, so that the newest have the greatest.
    db.prepare_cached("DELETE FROM results WHERE sort_key = ?1")?.execute([&key])?;
    db.prepare_cached("INSERT INTO results (sort_key, image, label, sequencer, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((key, name, label, row_sequencer, body))?;
    let entry = index::entry_of_row(db, db.last_insert_rowid(), &result.outcome)?;
    index::set(db, &result.image, Some(entry))?;
    Ok(Written::Stored)
}

/// Columns `body` and `sequencer`.
fn row_text(row: &Row<'_>) -> rusqlite::Result<(String, Option<String>)> {
    Ok((row.get(0)?, row.get(1)?))
}
