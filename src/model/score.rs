//! What the model says of a picture.

use serde::{Deserialize, Serialize};

/// A label and its probability, 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The label, as in the model's `labels.txt`.
    pub label: String,
    /// Softmax probability.
    pub confidence: f32,
}
