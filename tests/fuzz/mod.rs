//! What strangers send: requests, forms, image files, configuration, events. Properties over random and damaged input:
//! nothing panics, nothing takes more than its bounds, and every refusal says why.
//!
//! What a run finds is kept and tried first from then on: seeds in `proptest-regressions/tests`, files in
//! `tests/fixtures/damaged`.

use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

mod configuration;
mod events;
mod images;
mod requests;

/// A runner of so many cases that keeps what fails in `file`.
fn runner(cases: u32, file: &'static str) -> TestRunner {
    TestRunner::new(Config {
        cases,
        max_shrink_iters: 500,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        ..Config::default()
    })
}
