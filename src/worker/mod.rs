//! The app tier: takes messages, fetches and classifies images, stores the results, deletes the messages.
//!
//! `run` puts the parts together; `pipeline` receives and follows each message to its `fate`, in its `turn`; `intake`
//! fetches and decodes; `lease` keeps held messages hidden, `protection` the machine alive; `batch` owns the network's
//! thread; `publish` writes a result three ways; `acknowledge` deletes what is done; `capacity` measures how
//! fast the worker is; `heartbeat` and `metrics` tell others how it goes.

mod acknowledge;
mod batch;
mod capacity;
mod fate;
mod heartbeat;
mod intake;
mod lease;
mod metrics;
mod pipeline;
mod protection;
mod publish;
mod run;
mod settings;
mod turn;

pub use metrics::Metrics;
pub use run::{Summary, Worker};
pub use settings::Settings;

#[cfg(test)]
mod tests;
