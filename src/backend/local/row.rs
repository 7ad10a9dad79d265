//! Rows of results as the database has them.

use super::images::corrupt;
use crate::{
    backend::Result,
    contract::{Classification, Sequencer},
};

/// The row from these columns.
pub(super) fn classification((body, sequencer): (String, Option<String>)) -> Result<Classification> {
    let stored: Classification = serde_json::from_str(&body).map_err(|e| corrupt("results").because(e))?;
    Ok(Classification { sequencer: sequencer.map(|s| Sequencer::new(&s)), ..stored })
}
