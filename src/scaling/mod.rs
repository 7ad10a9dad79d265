//! Scaling of the app tier: the decision, what carries it out, and its simulation.

pub mod controller;
pub mod decide;
pub mod simulate;

pub use controller::{Outcome, TickError, tick};
pub use decide::{Decision, History, Observation, Reading, decide};
