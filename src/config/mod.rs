//! The configuration, in two steps: layers of keys as they are written, then typed values, of which each role gets its
//! part.
//!
//! The layers are defaults, a file, `IMGCLS_*` variables and flags ([`layers`]); merged they are a [`Raw`]. Every layer
//! spells a key the same way: `fleet.max` in the file is `IMGCLS_FLEET_MAX` in the environment and `--set fleet.max=4`
//! on the command line; frequent keys have flags of their own. A role then asks for its part, such as [`Raw::serve`],
//! which checks what the role needs and nothing else.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod address;
mod confidence;
pub mod duration;
pub mod flags;
mod layers;
mod limits;
mod network;
pub mod raw;
mod role;
mod scaling;
mod secret;
mod size;
mod stores;
mod web;
mod worker;

pub use confidence::MinConfidence;
pub use layers::{Layers, Origin, UnknownVariable, environment};
pub use network::Network;
pub use raw::{Queue, Raw, StoresKind};
pub use role::{Classify, Scale, Serve, Work, Workers};
pub use scaling::{Policy, Rules, RulesError, Step};
pub use secret::{Address, Secret};
pub use size::{ByteSize, ByteSizeError};
pub use stores::{Aws, Fleet, Local, Stores};
pub use web::Web;
pub use worker::{MAX_THREADS, Worker};

/// Why the configuration is refused; every message names the key or the place it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {path} is not valid TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown configuration key {key:?} from {origin}; `imgcls config` prints all keys")]
    UnknownKey {
        /// The key, dotted.
        key: String,
        /// File or flag.
        origin: String,
    },
    /// A value that does not fit its key.
    #[error("bad configuration value: {0}")]
    Value(String),
    /// A value that fits its type and makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    /// A value that makes no sense, and what to do about it.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
