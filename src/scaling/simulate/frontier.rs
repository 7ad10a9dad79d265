//! The frontier of wait against cost: what `backlog` needs for a wait no longer than that of `steps`.

use std::time::Duration;

use super::{Run, Scenario, ScenarioError, run};
use crate::config::{Policy, Rules};

/// Acceptable latencies that are tried, in seconds.
const LATENCIES: [u64; 22] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 45, 50, 60, 90, 120, 180, 300, 600];

/// Both policies on one scenario.
#[derive(Debug)]
pub struct Frontier {
    /// `steps` under the rules as they are.
    pub steps: Run,
    /// `backlog` for each acceptable latency tried.
    pub backlog: Vec<(Duration, Run)>,
}

impl Frontier {
    /// The cheapest run of `backlog` whose p95 wait is no longer than that of `steps`, if one is.
    #[must_use]
    pub fn at_equal_wait(&self) -> Option<&(Duration, Run)> {
        let as_quick = self.backlog.iter().filter(|(_, run)| run.wait_s.p95 <= self.steps.wait_s.p95);
        as_quick.min_by(|a, b| a.1.instance_minutes.total_cmp(&b.1.instance_minutes))
    }

    /// Whether `steps` is no better in both wait and cost than any run of `backlog` that was tried.
    #[must_use]
    pub fn holds(&self, run: &Run) -> bool {
        let steps = &self.steps;
        let no_worse = steps.wait_s.p95 <= run.wait_s.p95 && steps.instance_minutes <= run.instance_minutes;
        let better = steps.wait_s.p95 < run.wait_s.p95 || steps.instance_minutes < run.instance_minutes;
        !(no_worse && better)
    }
}

/// Runs `steps` once, and `backlog` for a range of acceptable latencies.
///
/// # Errors
/// As [`run`].
pub fn frontier(scenario: &Scenario, rules: &Rules) -> Result<Frontier, ScenarioError> {
    let steps = run(scenario, &Rules { policy: Policy::Steps, ..rules.clone() })?;
    let backlog = LATENCIES.map(Duration::from_secs).into_iter().map(|latency| {
        let rules = Rules { policy: Policy::Backlog, latency, ..rules.clone() };
        Ok((latency, run(scenario, &rules)?))
    });
    Ok(Frontier { steps, backlog: backlog.collect::<Result<_, ScenarioError>>()? })
}
