//! An elastic image-classification service in one binary: a whole system on a laptop, a fleet on AWS.
//!
//! A module uses only those below it: `cli`, then `roles`, then `web`, `worker` and `scaling`, then `backend` and
//! `telemetry`, then `config` and `clock`, then `contract`, then `model`, then `build`, `http`, `private`, `retry` and
//! `tls`. What inference computes is a crate of its own, `imgcls-compute` in `compute`, and all `unsafe` code is there.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cognitive_complexity, reason = "every assertion of a test counts as a branch"))]

pub mod backend;
pub mod build;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
mod http;
pub mod model;
mod private;
pub mod retry;
pub mod roles;
pub mod scaling;
pub mod telemetry;
pub mod tls;
pub mod web;
pub mod worker;
