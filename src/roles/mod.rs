//! The roles and tools: each builds its parts from the configuration and runs them.

pub mod classify;
pub mod config;
pub mod model;
pub mod queue;
pub mod reset;
pub mod scale;
pub mod serve;
pub mod setup;
pub mod status;
pub mod train;
pub mod work;

pub use scale::ScaleError;

/// A command that cannot be carried out as it was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

mod confirm;
mod files;
mod notify;
mod pictures;
mod signals;
mod table;
