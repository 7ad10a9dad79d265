//! What the scaler remembers and others show.

use serde::{Deserialize, Serialize};

/// One past change of the desired capacity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, RFC 3339.
    pub at: String,
    /// The desired capacity before.
    pub from: u32,
    /// The desired capacity after.
    pub target: u32,
    /// Why, a sentence.
    pub reason: String,
}
