//! The app tier and the machines that it runs on.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;

/// The app tier as its manager sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetState {
    /// Smallest allowed capacity.
    pub min: u32,
    /// Largest allowed capacity.
    pub max: u32,
    /// Desired capacity.
    pub desired: u32,
    /// Workers that run.
    pub in_service: u32,
    /// Workers that start.
    pub pending: u32,
    /// Workers that stop.
    pub terminating: u32,
    /// Workers in service that are protected from scale-in, because they have work.
    pub protected: u32,
}

/// What [`Fleet::set_desired`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetDesired {
    /// The fleet will get there.
    Accepted,
    /// The manager is busy with an earlier change; ask again later.
    InProgress,
}

/// The app tier: worker processes here, an Auto Scaling group on AWS.
#[async_trait]
pub trait Fleet: Send + Sync + Debug {
    /// The fleet's state.
    async fn observe(&self) -> Result<FleetState>;

    /// Why the fleet's workers cannot start, where this process starts them and they cannot.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Sets the desired capacity, clamped to min and max.
    async fn set_desired(&self, desired: u32) -> Result<SetDesired>;

    /// The machines that were protected from scale-in when the fleet was last observed, where a manager keeps workers
    /// with work.
    fn protected(&self) -> Vec<String> {
        Vec::new()
    }

    /// Lets these machines go if the fleet has more than it should, although they may have work: each finishes what it
    /// has begun and hands the rest back. Needed only where a manager keeps workers with work.
    async fn release(&self, _machines: &[String]) -> Result<()> {
        Ok(())
    }
}

/// What [`Instance::depart`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Nobody manages the machine: whoever wants it off shuts it down.
    Unmanaged,
    /// The manager takes the machine away and wants one fewer.
    Leaving,
    /// The fleet is at its minimum, and would replace the machine: it stays.
    Needed,
}

/// The machine that a worker runs on.
#[async_trait]
pub trait Instance: Send + Sync + Debug {
    /// The instance's id, or the host name. Several workers may share it.
    fn id(&self) -> &str;

    /// Takes protection from scale-in, or drops it. Without a manager this does nothing.
    ///
    /// # Errors
    /// If it could not be taken the machine may be gone at any time: drain.
    async fn protect(&self, on: bool) -> Result<()>;

    /// Waits until the machine is about to be taken away and answers why: then drain. May be dropped and called again.
    async fn leaving(&self) -> String;

    /// Tells the manager that the worker is drained, so that it need not wait any longer.
    async fn drained(&self) -> Result<()>;

    /// Has the manager take the machine away without replacing it, never below the fleet's minimum.
    async fn depart(&self) -> Result<Departure>;
}

/// A machine that nobody manages.
#[derive(Debug)]
pub struct Host(String);

impl Default for Host {
    fn default() -> Self {
        Self(host_name())
    }
}

#[async_trait]
impl Instance for Host {
    fn id(&self) -> &str {
        &self.0
    }

    async fn protect(&self, _on: bool) -> Result<()> {
        Ok(())
    }

    async fn leaving(&self) -> String {
        std::future::pending().await
    }

    async fn drained(&self) -> Result<()> {
        Ok(())
    }

    async fn depart(&self) -> Result<Departure> {
        Ok(Departure::Unmanaged)
    }
}

/// The machine's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
