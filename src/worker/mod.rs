//! The app tier: takes messages, fetches and classifies images, stores the results, deletes the messages.
//!
//! `pipeline` receives and follows each message to its end; `lease` keeps held messages hidden; `batch` owns the network's
//! thread; `publish` writes a result three ways; `acknowledge` deletes what is done; `heartbeat` tells others how it goes.

pub mod acknowledge;
pub mod batch;
pub mod heartbeat;
pub mod lease;
pub mod pipeline;
pub mod publish;

pub use pipeline::{Settings, Summary, run};
