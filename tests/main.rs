//! The integration tests: they drive the real binary. One test binary, since each would link the embedded weights again.

mod aws;
mod classify;
mod cli;
mod scale;
mod service;
mod support;
mod web_browser;
