//! What inference computes: descriptions of networks, the kernels that run them, and what photos become their
//! input by: a decoder and a resize.
//!
//! It is a crate of its own for two reasons. All `unsafe` code of the program is here. And it takes as long to compile
//! as the rest of the program together, while it seldom changes: so program, tests and benchmarks share what is
//! compiled once.

#![cfg_attr(test, allow(clippy::cognitive_complexity, reason = "every assertion of a test counts as a branch"))]

pub mod architecture;
pub mod jpeg;
pub mod kernel;
pub mod resize;
