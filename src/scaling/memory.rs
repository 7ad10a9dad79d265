//! What the scaler remembers between two looks.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{History, Reading};
use crate::contract::{Change, Timestamp};

/// The scaler's item in the results store, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the policy remembers.
    pub history: History,
    /// The last changes of the desired capacity, newest first.
    pub decisions: VecDeque<Change>,
    /// The protected machines without a sound worker, and since when that is so.
    #[serde(rename = "silent_since_ms")]
    pub silent: BTreeMap<String, Timestamp>,
}

/// Whether two histories differ in nothing but the times of their readings.
pub(super) fn alike(a: &History, b: &History) -> bool {
    let (Some(old), Some(new)) = (a.last, b.last) else { return false };
    let at = |history: &History| {
        let minute = history.minute.map(|minute| Reading { at: Timestamp::default(), ..minute });
        History { last: Some(Reading { at: Timestamp::default(), ..new }), minute, ..history.clone() }
    };
    (old.visible, old.in_flight) == (new.visible, new.in_flight) && at(a) == at(b)
}
