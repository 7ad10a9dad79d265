//! How many images are stored in each folder.

use rusqlite::Connection;

use super::row::stored_name;
use crate::{
    backend::{Counts, FolderCount, Result},
    contract::{ImageName, order::sort_key},
};

/// Counts an image that is stored (1) or removed (-1) in all folders that it is in.
pub(super) fn count(db: &Connection, image: &ImageName, change: i64) -> Result<()> {
    let mut folders = image.folders().peekable();
    while let Some(folder) = folders.next() {
        let (parent, key) = (folders.peek().copied().unwrap_or_default(), sort_key(folder));
        db.prepare_cached(
            "INSERT INTO folders (parent, sort_key, folder, images) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (parent, sort_key) DO UPDATE SET images = images + excluded.images",
        )?
        .execute((parent, &key, folder, change))?;
        if change < 0 {
            db.prepare_cached("DELETE FROM folders WHERE parent = ?1 AND sort_key = ?2 AND images <= 0")?
                .execute((parent, &key))?;
        }
    }
    Ok(())
}

/// The folders in `parent`, or the outermost ones.
pub(super) fn read(db: &Connection, parent: Option<&ImageName>) -> Result<Vec<FolderCount>> {
    let mut select =
        db.prepare_cached("SELECT folder, images FROM folders WHERE parent = ?1 ORDER BY sort_key LIMIT ?2")?;
    let parent = parent.map_or("", ImageName::as_str);
    let rows = select.query_map((parent, Counts::MAX_COUNTED as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (folder, images) = row?;
        Ok(FolderCount { folder: stored_name(folder)?, images: Some(images) })
    })
    .collect()
}
