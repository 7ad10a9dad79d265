//! How many images are stored in each folder.

use std::collections::BTreeMap;

use memchr::memchr;
use rusqlite::Connection;

use super::{blocks::text, row::stored_name};
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

/// Counts images by the folder in one that they are in, name by name. Most names follow one in the same folder.
#[derive(Debug)]
pub(super) struct Counting {
    /// Where in a name the folder's own name begins.
    start: usize,
    /// The folder at hand.
    last: Option<(String, u64)>,
    /// The first few by their sort keys. One that is dropped has as many before it as are shown, and stays dropped.
    first: BTreeMap<String, (String, u64)>,
}

impl Counting {
    /// In `parent`, which all names to come are in, or of the outermost folders.
    pub(super) fn new(parent: Option<&ImageName>) -> Self {
        let start = parent.map_or(0, |parent| parent.as_str().len() + 1);
        Self { start, last: None, first: BTreeMap::new() }
    }

    /// Counts the image with this name.
    pub(super) fn add(&mut self, name: &[u8]) -> Result<()> {
        let rest = name.get(self.start..).unwrap_or_default();
        let is_in =
            |last: &str| rest.strip_prefix(&last.as_bytes()[self.start..]).is_some_and(|r| r.first() == Some(&b'/'));
        if let Some((_, images)) = self.last.as_mut().filter(|(last, _)| is_in(last)) {
            *images += 1;
        } else if let Some(end) = memchr(b'/', rest) {
            self.settle();
            self.last = Some((text(&name[..self.start + end])?.to_owned(), 1));
        }
        Ok(())
    }

    fn settle(&mut self) {
        let Some((folder, images)) = self.last.take() else { return };
        self.first.entry(sort_key(&folder)).or_insert((folder, 0)).1 += images;
        if self.first.len() > Counts::MAX_COUNTED {
            self.first.pop_last();
        }
    }

    /// The folders in natural order.
    pub(super) fn finish(mut self) -> Result<Vec<FolderCount>> {
        self.settle();
        let folders = self.first.into_values();
        folders.map(|(folder, images)| Ok(FolderCount { folder: stored_name(folder)?, images: Some(images) })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_name_by_name() {
        let mut counting = Counting::new(Some(&"a".parse().unwrap()));
        for name in ["a/b/1", "a/B/1", "a/b/2", "a/b/c/3", "a/4", "a/b 2/5"] {
            counting.add(name.as_bytes()).unwrap();
        }
        let found: Vec<_> = counting.finish().unwrap().into_iter().map(|f| (f.folder.to_string(), f.images)).collect();
        assert_eq!(found, [("a/B", 1), ("a/b", 3), ("a/b 2", 1)].map(|(folder, n)| (folder.to_owned(), Some(n))));
    }

    #[test]
    fn the_first_folders_are_kept_and_counted_to_the_end() {
        let mut counting = Counting::new(None);
        for n in (0..300).rev().chain(0..300) {
            counting.add(format!("{n}/x.png").as_bytes()).unwrap();
        }
        let found = counting.finish().unwrap();
        assert_eq!(found.len(), Counts::MAX_COUNTED);
        assert!(found.iter().zip(0..).all(|(f, n)| f.folder.as_str() == n.to_string() && f.images == Some(2)));
    }
}
