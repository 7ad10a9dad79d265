//! What a process tells of itself: `logs` while it runs, `metrics` when it is asked.

mod logs;
pub mod metrics;
mod process;

pub use logs::{LOG_VARIABLE, start, tell_end};
