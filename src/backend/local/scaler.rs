//! The scaler's memory: one row.

use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::Store;
use crate::backend::{Result, ScalerMemory, Versioned};

#[async_trait]
impl ScalerMemory for Store {
    async fn read(&self) -> Result<Option<Versioned>> {
        self.db
            .read(|db| {
                let mut find = db.prepare_cached("SELECT value, version FROM scaler")?;
                Ok(find.query_row([], |row| Ok(Versioned { value: row.get(0)?, version: row.get(1)? })).optional()?)
            })
            .await
    }

    async fn swap(&self, expected: Option<u64>, value: &str) -> Result<bool> {
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
