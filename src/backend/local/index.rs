//! The index for searches: a line for every stored image and every row, in natural order, packed into blocks of some
//! hundred.
//!
//! A search reads the blocks from one end to the other, columns first, and no row: a million images are read through in
//! some ten milliseconds, whatever is looked for and however short the text. A write changes one block, and with it the
//! counters, in the transaction of what it is about.

use memchr::{memchr, memchr_iter, memrchr};
use rusqlite::{Connection, OptionalExtension};

use super::{
    blocks::{COLUMNS, Code, Entry, FAILED, View, text},
    folders,
    row::{corrupt, stored_name},
};
use crate::{
    backend::Result,
    contract::{Classification, ImageName, Outcome, order::sort_key},
};

/// A block is split when it has more bytes than this: what SQLite keeps in a leaf and two pages.
const MAX_BYTES: usize = 8600;

/// The entry of a row.
pub(super) fn entry_of_row(db: &Connection, id: i64, outcome: &Outcome) -> Result<Entry> {
    let (confidence, code) = match outcome {
        Outcome::Failed { .. } => (FAILED, Code::FAILED),
        Outcome::Labelled { label, confidence, uncertain, .. } => {
            (*confidence, Code::labelled(label_id(db, label)?, *uncertain))
        }
    };
    Ok(Entry { number: id, confidence, code })
}

/// The id of a label, which it gets when it is first seen.
fn label_id(db: &Connection, label: &str) -> Result<u32> {
    let known: Option<u32> =
        db.prepare_cached("SELECT id FROM labels WHERE label = ?1")?.query_row([label], |row| row.get(0)).optional()?;
    match known {
        Some(id) => Ok(id),
        None => {
            let mut insert = db.prepare_cached("INSERT INTO labels (label, images) VALUES (?1, 0) RETURNING id")?;
            Ok(insert.query_row([label], |row| row.get(0))?)
        }
    }
}

/// A block to change.
#[derive(Debug, Default)]
struct Block {
    entries: Vec<Entry>,
    names: Vec<u8>,
}

/// A place in a block: the number of a line, and where its name begins.
#[derive(Debug, Clone, Copy)]
struct Place {
    line: usize,
    at: usize,
}

impl Block {
    fn read(stored: &[u8]) -> Result<Self> {
        let view = View::new(stored)?;
        Ok(Self { entries: (0..view.len()).map(|line| view.entry(line)).collect(), names: view.names.to_vec() })
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend(u16::try_from(self.entries.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.entries.iter().for_each(|entry| out.extend(entry.number.to_le_bytes()));
        self.entries.iter().for_each(|entry| out.extend(entry.confidence.to_le_bytes()));
        self.entries.iter().for_each(|entry| out.extend(entry.code.0.to_le_bytes()));
        out.extend(&self.names);
        out
    }

    fn bytes(&self) -> usize {
        2 + self.entries.len() * COLUMNS + self.names.len()
    }

    fn has_room(&self, name: &str) -> bool {
        self.bytes() + COLUMNS + name.len() < MAX_BYTES
    }

    /// The place of the line with this key, or where it would be.
    fn find(&self, key: &str) -> Result<Result<Place, Place>> {
        let (mut low, mut high) = (0, self.names.len());
        let place = |at| Place { line: memchr_iter(b'\n', &self.names[..at]).count(), at };
        while low < high {
            let middle = low.midpoint(high);
            let start = memrchr(b'\n', &self.names[low..middle]).map_or(low, |feed| low + feed + 1);
            let end = start + memchr(b'\n', &self.names[start..high]).ok_or_else(|| corrupt("blocks"))?;
            let name = text(&self.names[start..end])?;
            match sort_key(name).as_str().cmp(key) {
                std::cmp::Ordering::Less => low = end + 1,
                std::cmp::Ordering::Greater => high = start,
                std::cmp::Ordering::Equal => return Ok(Ok(place(start))),
            }
        }
        Ok(Err(place(low)))
    }

    fn insert(&mut self, place: Place, name: &str, entry: Entry) {
        self.entries.insert(place.line, entry);
        self.names.splice(place.at..place.at, name.bytes().chain([b'\n']));
    }

    fn remove(&mut self, place: Place, name: &str) {
        self.entries.remove(place.line);
        self.names.drain(place.at..=place.at + name.len());
    }

    /// Where the second half begins.
    fn middle(&self) -> Place {
        let middle = self.names.len() / 2;
        let at = memchr(b'\n', &self.names[middle..]).map_or(self.names.len(), |feed| middle + feed + 1);
        Place { line: memchr_iter(b'\n', &self.names[..at]).count(), at }
    }

    /// Takes away what comes at a place and after it.
    fn split_off(&mut self, place: Place) -> Self {
        Self { entries: self.entries.split_off(place.line), names: self.names.split_off(place.at) }
    }

    /// The key of the first line.
    fn first(&self) -> Result<String> {
        let end = memchr(b'\n', &self.names).ok_or_else(|| corrupt("blocks"))?;
        Ok(sort_key(text(&self.names[..end])?))
    }
}

/// Writes the line of an image, or takes it away, and keeps the counters right.
pub(super) fn set(db: &Connection, image: &ImageName, entry: Option<Entry>) -> Result<()> {
    let (name, key) = (image.as_str(), sort_key(image.as_str()));
    let (id, mut block) = containing(db, &key)?.unwrap_or_default();
    let found = block.find(&key)?;
    let before = found.ok().map(|place| block.entries[place.line]);
    match (found, entry) {
        (Ok(place), Some(entry)) => block.entries[place.line] = entry,
        (Ok(place), None) => block.remove(place, name),
        (Err(place), Some(entry)) if block.has_room(name) => block.insert(place, name, entry),
        (Err(place), Some(entry)) => {
            insert_into_full(db, id, block, place, name, entry)?;
            return count(db, None, Some(entry));
        }
        (Err(_), None) => return Ok(()),
    }
    store(db, id, &block)?;
    count(db, before, entry)
}

const AT_OR_BEFORE: &str = "SELECT id, entries FROM blocks WHERE first <= ?1 ORDER BY first DESC LIMIT 1";
const AFTER: &str = "SELECT id, entries FROM blocks WHERE first > ?1 ORDER BY first LIMIT 1";

/// The block that a key belongs to: the last that begins at or before it, else the first.
fn containing(db: &Connection, key: &str) -> Result<Option<(Option<i64>, Block)>> {
    for sql in [AT_OR_BEFORE, AFTER] {
        if let Some(stored) = one(db, sql, key)? {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

fn one(db: &Connection, sql: &'static str, key: &str) -> Result<Option<(Option<i64>, Block)>> {
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query([key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let stored = row.get_ref(1)?.as_blob().map_err(|e| corrupt("blocks").because(e))?;
    Ok(Some((row.get(0)?, Block::read(stored)?)))
}

/// Inserts a line into a block that is full. Lines that come in order fill block after block; others halve the block.
fn insert_into_full(
    db: &Connection,
    id: Option<i64>,
    mut block: Block,
    place: Place,
    name: &str,
    entry: Entry,
) -> Result<()> {
    if place.line < block.entries.len() {
        // Near its end more may come that belong there: it stays full.
        let is_late = place.line * 8 >= block.entries.len() * 7;
        let mut other = block.split_off(if is_late { place } else { block.middle() });
        if place.at <= block.names.len() {
            block.insert(place, name, entry);
        } else {
            let (line, at) = (place.line - block.entries.len(), place.at - block.names.len());
            other.insert(Place { line, at }, name, entry);
        }
        store(db, id, &block)?;
        return store(db, None, &other);
    }
    let start = Place { line: 0, at: 0 };
    if let Some((next, mut beside)) = one(db, AFTER, &sort_key(name))?
        && beside.has_room(name)
    {
        beside.insert(start, name, entry);
        return store(db, next, &beside);
    }
    let mut own = Block::default();
    own.insert(start, name, entry);
    store(db, None, &own)
}

/// Stores a block, a new one where there is no id. One without lines goes.
fn store(db: &Connection, id: Option<i64>, block: &Block) -> Result<()> {
    match id {
        Some(id) if block.entries.is_empty() => {
            db.prepare_cached("DELETE FROM blocks WHERE id = ?1")?.execute([id])?;
        }
        Some(id) => {
            db.prepare_cached("UPDATE blocks SET first = ?2, entries = ?3 WHERE id = ?1")?.execute((
                id,
                block.first()?,
                block.write(),
            ))?;
        }
        None => {
            db.prepare_cached("INSERT INTO blocks (first, entries) VALUES (?1, ?2)")?
                .execute((block.first()?, block.write()))?;
        }
    }
    Ok(())
}

/// Moves an image from one count to another.
fn count(db: &Connection, before: Option<Entry>, after: Option<Entry>) -> Result<()> {
    if before.map(|entry| entry.code) == after.map(|entry| entry.code) {
        return Ok(());
    }
    let count = |entry: Option<Entry>, change: i64| -> Result<()> {
        let Some(Entry { code, .. }) = entry else { return Ok(()) };
        let counter = |name: &str| -> Result<()> {
            db.prepare_cached("UPDATE counters SET value = value + ?2 WHERE name = ?1")?.execute((name, change))?;
            Ok(())
        };
        if code == Code::WAITING {
            counter("waiting")?;
        }
        if code.is_uncertain() {
            counter("uncertain")?;
        }
        if let Some(label) = code.label() {
            db.prepare_cached("UPDATE labels SET images = images + ?2 WHERE id = ?1")?.execute((label, change))?;
        }
        Ok(())
    };
    count(before, -1)?;
    count(after, 1)
}

/// Fills the index of a database that has none yet.
pub(super) fn build(db: &Connection) -> Result<()> {
    let mut block = Block::default();
    let mut select = db.prepare("SELECT id, image, body FROM results ORDER BY sort_key")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name, body): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Ok(stored) = serde_json::from_str::<Classification>(&body) else {
            tracing::warn!(name, "a row is not understood; it is not found by searches");
            continue;
        };
        if !block.has_room(&name) {
            store(db, None, &block)?;
            block = Block::default();
        }
        let entry = entry_of_row(db, id, &stored.outcome)?;
        block.insert(Place { line: block.entries.len(), at: block.names.len() }, &name, entry);
        count(db, None, Some(entry))?;
    }
    if !block.entries.is_empty() {
        store(db, None, &block)?;
    }
    let mut select = db.prepare("SELECT name, sequencer FROM images")?;
    let mut images = select.query([])?;
    let mut has_row = db.prepare("SELECT 1 FROM results WHERE sort_key = ?1")?;
    while let Some(image) = images.next()? {
        let (image, sequencer) = (stored_name(image.get(0)?)?, image.get(1)?);
        folders::count(db, &image, 1)?;
        if !has_row.exists([sort_key(image.as_str())])? {
            set(db, &image, Some(Entry::waiting(sequencer)))?;
        }
    }
    Ok(())
}
