//! The scaler's memory between its runs.

use std::fmt::Debug;

use async_trait::async_trait;

use super::Result;

/// A text with the version that a compare-and-swap names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The text.
    pub value: String,
    /// Its version, 1 for the first.
    pub version: u64,
}

/// One text, replaced by compare-and-swap, so that two scalers do not act on the same reading.
#[async_trait]
pub trait ScalerMemory: Send + Sync + Debug {
    /// Returns the memory, `None` before the first run.
    async fn read(&self) -> Result<Option<Versioned>>;

    /// Replaces the memory if its version is still `expected` (`None`: if there is none). False if it is not.
    async fn swap(&self, expected: Option<u64>, value: &str) -> Result<bool>;
}
