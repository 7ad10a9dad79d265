//! Rows of results as the database has them.

use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef},
};

use super::images::corrupt;
use crate::{
    backend::Result,
    contract::{Classification, Sequencer, Timestamp},
};

/// The row from these columns.
pub(super) fn classification((body, sequencer): (String, Option<String>)) -> Result<Classification> {
    let stored: Classification = serde_json::from_str(&body).map_err(|e| corrupt("results").because(e))?;
    Ok(Classification { sequencer: sequencer.map(|s| Sequencer::new(&s)), ..stored })
}

/// Columns hold times as milliseconds since 1970.
impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_millis().into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_millis)
    }
}
