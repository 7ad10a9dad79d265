//! The integration tests: they drive the real binary. One test binary, since each would link the embedded weights
//! again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::cognitive_complexity, reason = "every assertion counts as a branch")]
#![allow(clippy::too_many_lines, reason = "some are long tables, some tell one story from its beginning to its end")]

mod api;
mod aws;
mod browser;
mod classify;
mod cli;
mod dist;
mod door;
mod durability;
mod fuzz;
mod logs;
mod memory;
mod model;
mod monitoring;
mod open_files;
mod scale;
mod service;
mod soak;
mod support;
