//! What a process tells of itself: `logs` while it runs, `metrics` when it is asked.

mod logs;
pub mod metrics;

pub use logs::{LOG_VARIABLE, start};
