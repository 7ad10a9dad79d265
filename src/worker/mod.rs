//! The app tier: takes messages, fetches and classifies images, stores the results, deletes the messages.
//!
//! `pipeline` receives and follows each message to its end, in its `turn`; `lease` keeps held messages hidden, `protection` the
//! machine alive; `batch` owns the network's thread; `publish` writes a result three ways; `acknowledge` deletes what is done;
//! `heartbeat` and `metrics` tell others how it goes.

pub mod acknowledge;
pub mod batch;
pub mod heartbeat;
pub mod lease;
pub mod metrics;
pub mod pipeline;
pub mod protection;
pub mod publish;
pub mod turn;

pub use metrics::Metrics;
pub use pipeline::{Settings, Summary, run};

#[cfg(test)]
mod tests;
