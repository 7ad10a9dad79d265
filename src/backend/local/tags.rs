//! Tags: a JSON object in the image's record.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{Store, images::missing, row::corrupt};
use crate::{
    backend::{Result, Tags},
    contract::{ImageName, tags::Tag},
};

#[async_trait]
impl Tags for Store {
    async fn set(&self, image: &ImageName, tags: &[Tag]) -> Result<()> {
        let (name, changes) = (image.clone(), tags.to_vec());
        self.db
            .write(move |db| {
                let mut tags = read(db, &name)?;
                for (key, value) in changes {
                    match value {
                        Some(value) => tags.insert(key.to_owned(), value),
                        None => tags.remove(key),
                    };
                }
                let json = serde_json::to_string(&tags).map_err(|e| corrupt("tags").because(e))?;
                db.prepare_cached("UPDATE images SET tags = ?2 WHERE name = ?1")?.execute((name.as_str(), json))?;
                Ok(())
            })
            .await
    }

    async fn get(&self, image: &ImageName) -> Result<BTreeMap<String, String>> {
        let name = image.clone();
        self.db.read(move |db| read(db, &name)).await
    }
}

fn read(db: &Connection, name: &ImageName) -> Result<BTreeMap<String, String>> {
    let mut find = db.prepare_cached("SELECT tags FROM images WHERE name = ?1")?;
    let json = find.query_row([name.as_str()], |row| row.get::<_, String>(0)).optional()?;
    let json = json.ok_or_else(|| missing(name))?;
    serde_json::from_str(&json).map_err(|e| corrupt("tags").because(e))
}
