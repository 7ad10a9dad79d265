//! Scaling of the app tier: the rules, the decision, what carries it out, and its simulation.

pub mod controller;
pub mod decide;
pub mod policy;
pub mod simulate;

pub use controller::{Outcome, TickError, tick};
pub use decide::{Decision, History, Observation, Reading, decide};
pub use policy::{Policy, Rules, RulesError, Step};
