//! Reset: one transaction; the files go after it.

use async_trait::async_trait;
use rusqlite::Connection;

use super::Store;
use crate::backend::{Reset, ResetReport, Result};

#[async_trait]
impl Reset for Store {
    async fn reset(&self) -> Result<ResetReport> {
        let (report, gone) = self.db.write(empty).await?;
        let files = self.files.clone();
        // What a crash leaves here is swept at the next start.
        self.blocking(move || {
            gone.iter().for_each(|file| files.remove(file));
            Ok(report)
        })
        .await
    }
}

/// Deletes every record. Answers their numbers and the images' files.
fn empty(db: &Connection) -> Result<(ResetReport, Vec<String>)> {
    let mut files = db.prepare("SELECT file FROM images")?;
    let files = files.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let report = ResetReport {
        images: db.execute("DELETE FROM images", [])? as u64,
        outputs: db.execute("DELETE FROM outputs", [])? as u64,
        messages: db.execute("DELETE FROM messages", [])? as u64,
        results: db.execute("DELETE FROM results", [])? as u64,
    };
    Ok((report, files))
}
