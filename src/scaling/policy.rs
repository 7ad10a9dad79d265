//! The scaling policy: from an observation and a memory to a desired capacity and a reason. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the desired capacity is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Steps on the queue's depth, as CloudWatch alarms with step scaling do it.
    Steps,
    /// Backlog per instance: depth / (acceptable latency x rate of one instance).
    Backlog,
}

/// One step: from this many visible messages on, add so many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Visible messages.
    pub depth: u64,
    /// Workers to add.
    pub add: u32,
}

/// The rules of both policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// How the desired capacity is found.
    pub policy: Policy,
    /// Time between decisions where we tick ourselves.
    #[serde(with = "crate::config::duration")]
    pub interval: Duration,
    /// The steps, in ascending depth.
    pub steps: Vec<Step>,
    /// Scale in at so many messages (visible and in flight) or fewer.
    pub low: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            policy: Policy::Steps,
            interval: Duration::from_secs(10),
            steps: vec![Step { depth: 100, add: 2 }, Step { depth: 500, add: 5 }, Step { depth: 1000, add: 15 }],
            low: 20,
        }
    }
}
