//! Reset: one transaction; the files go after it.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use rusqlite::Connection;

use super::Store;
use crate::backend::{Reset, Result, Tally};

#[async_trait]
impl Reset for Store {
    async fn reset(&self, removed: &Tally) -> Result<()> {
        let gone = self.db.write(empty).await?;
        let count = |count: &AtomicU64, n: usize| count.fetch_add(n as u64, Ordering::Relaxed);
        count(&removed.images, gone.files.len());
        count(&removed.outputs, gone.outputs);
        count(&removed.messages, gone.messages);
        count(&removed.results, gone.results);
        let files = self.files.clone();
        // What a crash leaves here is swept at the next start.
        self.blocking(move || {
            gone.files.iter().for_each(|file| files.remove(file));
            files.remove_thumbnails();
            Ok(())
        })
        .await
    }

    async fn settle(&self, _removed: &Tally) -> Result<()> {
        // A transaction leaves nothing half done, and writers look for the image in theirs.
        Ok(())
    }
}

/// What was deleted: the images' files, and the numbers of the rest.
struct Gone {
    files: Vec<String>,
    outputs: usize,
    messages: usize,
    results: usize,
}

/// Deletes every record.
fn empty(db: &Connection) -> Result<Gone> {
    let mut files = db.prepare("DELETE FROM images RETURNING file")?;
    db.execute_batch(
        "DELETE FROM blocks; DELETE FROM labels; DELETE FROM folders;
         UPDATE counters SET value = 0 WHERE name IN ('uncertain', 'waiting');",
    )?;
    Ok(Gone {
        files: files.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?,
        outputs: db.execute("DELETE FROM outputs", [])?,
        messages: db.execute("DELETE FROM messages", [])?,
        results: db.execute("DELETE FROM results", [])?,
    })
}
