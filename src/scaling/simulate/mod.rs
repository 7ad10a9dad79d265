//! The simulation: a load on paper, met by a fleet that the very same [`decide`](super::decide()) scales.
//!
//! Messages are a fluid: between two events the queue fills and empties at constant rates, so that the effort depends
//! on the simulated time and the number of workers, not on the number of messages. Workers, their failures and the
//! decisions are events.

mod chart;
mod engine;
mod event;
mod frontier;
mod load;
mod queue;
mod report;
mod scenario;

pub use chart::chart;
pub use engine::run;
pub use frontier::{Frontier, frontier};
pub use load::{Load, Point, Rate};
pub use report::{Report, Run, Sample, Wait, table};
pub use scenario::{Fleet, Limits, Scenario, ScenarioError, Worker};
