//! What a simulation found: as a table for people, and as JSON.

use std::time::Duration;

use serde::Serialize;

use super::Scenario;
use crate::config::Policy;

/// How long messages waited from their arrival until they were done, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Wait {
    /// Half of them no longer than this.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// Waits with how many messages had them.
#[derive(Debug, Default)]
pub(super) struct Waits(Vec<(f64, f64)>);

impl Waits {
    pub(super) fn add(&mut self, wait_s: f64, count: f64) {
        self.0.push((wait_s.max(0.0), count));
    }

    pub(super) fn count(&self) -> f64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn quantiles(&mut self) -> Wait {
        self.0.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let all = self.count();
        let quantile = |share: f64| {
            let mut below = 0.0;
            let found = self.0.iter().find(|(_, count)| {
                below += count;
                below >= share * all
            });
            found.or(self.0.last()).map_or(0.0, |(wait, _)| *wait)
        };
        Wait { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) }
    }
}

/// Queue and fleet as the policy saw them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds from the start.
    pub t_s: f64,
    /// Under which policy.
    pub policy: Policy,
    /// Messages that wait.
    pub visible: u64,
    /// Messages that workers hold.
    pub in_flight: u64,
    /// Desired capacity.
    pub desired: u32,
    /// Workers that run.
    pub in_service: u32,
}

/// What one policy made of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The policy.
    #[serde(rename = "name")]
    pub policy: Policy,
    /// When the last message was done, in seconds.
    pub drained_after_s: f64,
    /// Messages that were done.
    pub messages: u64,
    /// Minutes on the bill, from launch to end, of all workers.
    pub instance_minutes: f64,
    /// Their price.
    pub cost: f64,
    /// How long messages waited.
    pub wait_s: Wait,
    /// Changes of the desired capacity.
    pub actions: u32,
    /// Most workers in service at a time.
    pub peak: u32,
    /// What the policy saw.
    #[serde(skip)]
    pub timeline: Vec<Sample>,
}

/// What all policies made of a scenario, in the shape of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// One entry per policy.
    pub policies: Vec<Run>,
    /// What the policies saw, one policy after the other.
    pub timeline: Vec<Sample>,
}

impl From<Vec<Run>> for Report {
    fn from(policies: Vec<Run>) -> Self {
        let timeline = policies.iter().flat_map(|run| run.timeline.iter().copied()).collect();
        Self { policies, timeline }
    }
}

/// The runs of one scenario as a table.
#[must_use]
pub fn table(scenario: &Scenario, runs: &[Run]) -> String {
    let head =
        ["policy", "drained after", "p50 wait", "p95 wait", "p99 wait", "instance-minutes", "cost", "actions", "peak"];
    let mut rows = vec![head.map(str::to_owned)];
    for run in runs {
        rows.push([
            run.policy.to_string(),
            span(run.drained_after_s),
            span(run.wait_s.p50),
            span(run.wait_s.p95),
            span(run.wait_s.p99),
            format!("{:.1}", run.instance_minutes),
            format!("{:.4}", run.cost),
            run.actions.to_string(),
            run.peak.to_string(),
        ]);
    }
    let widths: [usize; 9] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut out = format!("{}: {} messages", scenario.name, grouped(runs.first().map_or(0, |run| run.messages)));
    if !scenario.about.is_empty() {
        out = format!("{out}. {}", scenario.about.trim());
    }
    out.push_str("\n\n");
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Text to the left, figures to the right.
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Seconds as `3m 17s`, or `0.4s` below ten seconds.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    humantime::format_duration(Duration::from_secs(seconds.round() as u64)).to_string()
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_messages_not_entries() {
        let mut waits = Waits::default();
        waits.add(100.0, 3.0);
        waits.add(1.0, 96.0);
        waits.add(50.0, 1.0);
        assert_eq!(waits.quantiles(), Wait { p50: 1.0, p95: 1.0, p99: 100.0 });
        assert_eq!(Waits::default().quantiles(), Wait::default());
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!((span(0.44), span(197.4), span(7200.0)), ("0.4s".to_owned(), "3m 17s".to_owned(), "2h".to_owned()));
        assert_eq!((grouped(7), grouped(1_234_567)), ("7".to_owned(), "1,234,567".to_owned()));
    }
}
