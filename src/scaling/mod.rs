//! Scaling of the app tier: the decision, what carries it out, and its simulation.
//!
//! One way: [`observe`](observe::observe), [`decide`](decide::decide), [`carry_out`](carry_out::carry_out).

mod carry_out;
pub mod controller;
pub mod decide;
mod memory;
mod observe;
mod outcome;
pub mod simulate;
mod surplus;

pub use controller::tick;
pub use decide::{Decision, History, Observation, Reading, decide};
pub use memory::Memory;
pub use outcome::{Action, Outcome, TickError};
