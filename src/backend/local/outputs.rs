//! Output objects: one row each.

use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::Store;
use crate::backend::{Outputs, Result};

#[async_trait]
impl Outputs for Store {
    async fn put(&self, key: &str, body: Vec<u8>) -> Result<()> {
        let key = key.to_owned();
        self.db
            .write(move |db| {
                db.prepare_cached("INSERT OR REPLACE INTO outputs (key, body) VALUES (?1, ?2)")?
                    .execute((key, body))?;
                Ok(())
            })
            .await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = key.to_owned();
        self.db
            .read(move |db| {
                let mut find = db.prepare_cached("SELECT body FROM outputs WHERE key = ?1")?;
                Ok(find.query_row([key], |row| row.get(0)).optional()?)
            })
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let keys = keys.to_vec();
        self.db
            .write(move |db| {
                let mut delete = db.prepare_cached("DELETE FROM outputs WHERE key = ?1")?;
                for key in keys {
                    delete.execute([key])?;
                }
                Ok(())
            })
            .await
    }

    async fn delete_own(&self, key: &str, body: &[u8]) -> Result<()> {
        let (key, body) = (key.to_owned(), body.to_vec());
        self.db
            .write(move |db| {
                db.prepare_cached("DELETE FROM outputs WHERE key = ?1 AND body = ?2")?.execute((key, body))?;
                Ok(())
            })
            .await
    }
}
