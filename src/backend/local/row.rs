//! What the database has, as this program has it.

use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef},
};

use crate::{
    backend::{Error, ErrorKind, Result},
    contract::{Classification, ImageName, Sequencer, Timestamp},
};

/// The row from these columns.
pub(super) fn classification((body, sequencer): (String, Option<String>)) -> Result<Classification> {
    let stored: Classification = serde_json::from_str(&body).map_err(|e| corrupt("results").because(e))?;
    Ok(Classification { sequencer: sequencer.map(|s| Sequencer::new(&s)), ..stored })
}

/// An error about something in the database that this program did not write so.
pub(super) fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("the database holds malformed {what}"))
}

/// A name that comes from the database.
pub(super) fn stored_name(name: String) -> Result<ImageName> {
    name.parse().map_err(|e| corrupt("names").because(e))
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
