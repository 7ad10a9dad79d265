//! Images: a record in the database, the bytes in a file. A new record and its message are one transaction.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use time::format_description::well_known::Rfc3339;

use super::{Store, blocks::Entry, files::Placed, folders, index, queue, row::stored_name};
use crate::{
    backend::{Error, ErrorKind, Images, Put, Result, StoredImage, Upload, UploadBytes},
    contract::{Digest, ImageName, ObjectEvent, Sequencer, Timestamp, escape_path, order::sort_key},
};

/// The bucket that local events name.
const BUCKET: &str = "local";

#[async_trait]
impl Images for Store {
    fn location(&self, image: &ImageName) -> String {
        format!("/images/{}", escape_path(image.as_str()))
    }

    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName> {
        (event.bucket == BUCKET).then(|| event.key.parse().ok()).flatten()
    }

    fn event_for(&self, image: &ImageName) -> ObjectEvent {
        ObjectEvent { bucket: BUCKET.to_owned(), key: image.as_str().to_owned(), sequencer: None, time: None }
    }

    async fn check_room(&self) -> Result<()> {
        let files = self.files.clone();
        self.blocking(move || files.check_room()).await
    }

    async fn put(&self, upload: &Upload) -> Result<Put> {
        let (name, digest, size, now) = (upload.name.clone(), upload.digest, upload.size, self.clock.now());
        let files = self.files.clone();
        let place: Box<dyn FnOnce() -> Result<Placed> + Send> = match upload.bytes.clone() {
            UploadBytes::Memory(bytes) => Box::new(move || files.write(&bytes)),
            UploadBytes::File(spooled) => match self.adopt(upload, spooled).await? {
                Adopted::Known(image) => return Ok(Put { image, created: false }),
                Adopted::Placed(placed) => Box::new(move || {
                    files.name_unsynced(&placed);
                    Ok(placed)
                }),
            },
        };
        let prepare = move |db: &Connection| {
            // Bytes that are known need no place on the disk.
            let placed = match choose_name(db, &name, &digest)? {
                (image, false) => Err(image),
                (_, true) => Ok(place()?),
            };
            Ok(move |db: &Connection| match placed {
                Ok(placed) => record(db, &name, &digest, size, placed, now),
                Err(image) => Ok(Put { image, created: false }),
            })
        };
        let put = self.db.write_prepared(prepare).await?;
        if put.created {
            self.arrived.notify_waiters();
        }
        Ok(put)
    }

    async fn get(&self, image: &ImageName, max_bytes: u64) -> Result<StoredImage> {
        let name = image.clone();
        let (file, size, sequencer) = self
            .db
            .read(move |db| {
                let mut find = db.prepare_cached("SELECT file, size, sequencer FROM images WHERE name = ?1")?;
                let row = find
                    .query_row([name.as_str()], |row| {
                        Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?))
                    })
                    .optional()?;
                row.ok_or_else(|| missing(&name))
            })
            .await?;
        if size > max_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("image {image} has {size} bytes, more than the limit of {max_bytes}"),
            ));
        }
        let path = self.files.path(&file);
        let bytes = self.blocking(move || Ok(std::fs::read(path)?)).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(image),
            _ => error,
        })?;
        Ok(StoredImage { bytes, sequencer: Some(Sequencer::from_counter(sequencer)) })
    }

    async fn exists(&self, image: &ImageName) -> Result<bool> {
        let name = image.clone();
        self.db
            .read(move |db| Ok(db.prepare_cached("SELECT 1 FROM images WHERE name = ?1")?.exists([name.as_str()])?))
            .await
    }

    async fn list(&self, after: Option<&ImageName>, limit: usize) -> Result<Vec<ImageName>> {
        // Every name is longer than nothing.
        let after = after.map_or_else(String::new, |name| name.as_str().to_owned());
        self.db
            .read(move |db| {
                let mut page = db.prepare_cached("SELECT name FROM images WHERE name > ?1 ORDER BY name LIMIT ?2")?;
                let names = page.query_map((after, limit as i64), |row| row.get::<_, String>(0))?;
                names.map(|name| stored_name(name?)).collect()
            })
            .await
    }

    async fn delete(&self, image: &ImageName) -> Result<bool> {
        let name = image.clone();
        let file: Option<String> = self
            .db
            .write(move |db| {
                let mut delete = db.prepare_cached("DELETE FROM images WHERE name = ?1 RETURNING file")?;
                let file = delete.query_row([name.as_str()], |row| row.get(0)).optional()?;
                if file.is_some() {
                    folders::count(db, &name, -1)?;
                    // A row that there is goes by itself.
                    if !has_row(db, &name)? {
                        index::set(db, &name, None)?;
                    }
                }
                Ok(file)
            })
            .await?;
        let Some(file) = file else { return Ok(false) };
        let files = self.files.clone();
        self.blocking(move || {
            files.remove(&file);
            Ok(true)
        })
        .await
    }
}

/// What became of a spooled file.
enum Adopted {
    /// Nothing: its bytes are stored under this name.
    Known(ImageName),
    Placed(Placed),
}

impl Store {
    /// Moves a spooled file into its place, where its sync holds up nobody else's.
    async fn adopt(&self, upload: &Upload, spooled: PathBuf) -> Result<Adopted> {
        let (name, digest) = (upload.name.clone(), upload.digest);
        let permit = Arc::clone(&self.syncs).acquire_owned().await;
        let (files, readers) = (self.files.clone(), self.db.readers());
        self.blocking(move || {
            let _permit = permit;
            match readers.read(|db| choose_name(db, &name, &digest))? {
                (image, false) => Ok(Adopted::Known(image)),
                (_, true) => files.adopt(&spooled).map(Adopted::Placed),
            }
        })
        .await
    }
}

/// The first of the name's candidates that is free (true) or holds the same bytes (false).
fn choose_name(db: &Connection, name: &ImageName, digest: &Digest) -> Result<(ImageName, bool)> {
    let mut find = db.prepare_cached("SELECT digest FROM images WHERE name = ?1")?;
    for candidate in name.candidates(digest) {
        match find.query_row([candidate.as_str()], |row| row.get::<_, [u8; 32]>(0)).optional()? {
            None => return Ok((candidate, true)),
            Some(stored) if stored == digest.0 => return Ok((candidate, false)),
            Some(_) => {}
        }
    }
    Err(Error::new(ErrorKind::Refused, format!("every name for {name} is taken by other bytes; rename the file")))
}

/// Writes the record of an image and the message that asks for its classification, unless its bytes have come
/// meanwhile.
fn record(
    db: &Connection,
    name: &ImageName,
    digest: &Digest,
    size: u64,
    mut placed: Placed,
    now: Timestamp,
) -> Result<Put> {
    let (image, created) = choose_name(db, name, digest)?;
    if !created {
        return Ok(Put { image, created });
    }
    let sequencer: u64 = db
        .prepare_cached("UPDATE counters SET value = value + 1 WHERE name = 'sequencer' RETURNING value")?
        .query_row([], |row| row.get(0))?;
    db.prepare_cached(
        "INSERT INTO images (name, digest, size, file, sequencer, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((image.as_str(), digest.0, size, &placed.id, sequencer, now))?;
    folders::count(db, &image, 1)?;
    // One whose removal was broken off may have left its row.
    if !has_row(db, &image)? {
        index::set(db, &image, Some(Entry::waiting(i64::try_from(sequencer).unwrap_or(i64::MAX))))?;
    }
    let event = ObjectEvent {
        bucket: BUCKET.to_owned(),
        key: image.as_str().to_owned(),
        sequencer: Some(Sequencer::from_counter(sequencer)),
        time: now.date().and_then(|at| at.format(&Rfc3339).ok()),
    };
    queue::insert(db, &event.to_body(), now)?;
    placed.keep();
    Ok(Put { image, created })
}

fn has_row(db: &Connection, image: &ImageName) -> Result<bool> {
    let mut find = db.prepare_cached("SELECT 1 FROM results WHERE sort_key = ?1")?;
    Ok(find.exists([sort_key(image.as_str())])?)
}

pub(super) fn missing(image: &ImageName) -> Error {
    Error::new(ErrorKind::NotFound, format!("image {image} is not stored"))
}
