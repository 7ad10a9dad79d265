//! Scenarios: a load, the workers that meet it, and the limits around them, as a TOML file.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::load::Load;
use crate::config::{Rules, RulesError};

/// Why a scenario is refused.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read scenario {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no scenario.
    #[error("scenario {path} is not valid: {source}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Rules that make no sense.
    #[error("in the scenario, {0}")]
    Rules(#[from] RulesError),
    /// A value that makes no sense.
    #[error("in the scenario, {0}")]
    Invalid(String),
    /// A fleet that is too small for its load.
    #[error(
        "the fleet cannot catch up: {left} messages are left {after} after the load has ended; allow more workers \
         (fleet.max)"
    )]
    NeverDrains {
        /// Messages that are left.
        left: u64,
        /// For how long the fleet has tried.
        after: humantime::FormattedDuration,
    },
}

/// One worker of the fleet, an instance on AWS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Images a second.
    pub rate: f64,
    /// Median time from launch to the first image.
    #[serde(with = "crate::config::duration")]
    pub boot: Duration,
    /// Standard deviation of the boot time's logarithm; 0 for the same time always.
    pub boot_spread: f64,
    /// Time from the end of its work to its end on the bill.
    #[serde(with = "crate::config::duration")]
    pub stop: Duration,
    /// Messages that it holds while more wait.
    pub holds: u32,
    /// Shortest time from the receipt of a message to its deletion: fetch, inference, and the results' three stores.
    #[serde(with = "crate::config::duration")]
    pub takes: Duration,
    /// How long it must have had nothing to do before it gives up its protection from scale-in.
    #[serde(with = "crate::config::duration")]
    pub idle: Duration,
    /// Mean time to failure; 0 for never.
    #[serde(with = "crate::config::duration")]
    pub mean_time_to_failure: Duration,
    /// Price of an hour.
    pub price_per_hour: f64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            rate: 80.0,
            boot: Duration::from_secs(60),
            boot_spread: 0.2,
            stop: Duration::from_secs(10),
            holds: 40,
            takes: Duration::from_millis(250),
            idle: Duration::from_secs(20),
            mean_time_to_failure: Duration::ZERO,
            price_per_hour: 0.085,
        }
    }
}

/// The fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// Fewest workers.
    pub min: u32,
    /// Most workers.
    pub max: u32,
    /// Workers in service at the start.
    pub start: u32,
    /// Whether workers are protected from scale-in while they have work.
    pub protection: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { min: 1, max: 20, start: 1, protection: true }
    }
}

/// What the services around the workers allow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Images a second that one instance's API calls allow; 0 for no limit.
    pub instance_rate: f64,
    /// Images a second that the queue and the stores allow all workers together; 0 for no limit.
    pub queue_rate: f64,
    /// Messages in flight that the queue allows: 120,000 for a standard queue of SQS.
    pub in_flight: u64,
    /// How long the messages of a lost worker stay hidden.
    #[serde(with = "crate::config::duration")]
    pub visibility: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { instance_rate: 0.0, queue_rate: 0.0, in_flight: 120_000, visibility: Duration::from_secs(30) }
    }
}

/// A load, the workers that meet it, and the limits around them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A short name.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// Every random choice follows from it.
    #[serde(default)]
    pub seed: u64,
    /// How long to simulate at least; 0 until all work is done.
    #[serde(default, with = "crate::config::duration")]
    pub duration: Duration,
    /// Standard deviation of the arrival rate's logarithm.
    #[serde(default)]
    pub noise: f64,
    /// Whether arrivals are Poisson distributed; else they are even.
    #[serde(default = "yes")]
    pub random: bool,
    /// The sources of messages, added up.
    pub load: Vec<Load>,
    /// The workers.
    #[serde(default)]
    pub worker: Worker,
    /// The fleet.
    #[serde(default)]
    pub fleet: Fleet,
    /// What the services allow.
    #[serde(default)]
    pub limits: Limits,
    /// The rules; those of the configuration if there are none.
    pub rules: Option<Rules>,
}

fn yes() -> bool {
    true
}

impl Scenario {
    /// A scenario of these loads with everything else as by default.
    #[must_use]
    pub fn of(name: &str, load: Vec<Load>) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            seed: 0,
            duration: Duration::ZERO,
            noise: 0.0,
            random: true,
            load,
            worker: Worker::default(),
            fleet: Fleet::default(),
            limits: Limits::default(),
            rules: None,
        }
    }

    /// Reads a scenario from a file and checks it.
    ///
    /// # Errors
    /// [`ScenarioError`], naming the file or the key.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let shown = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: shown.clone(), source })?;
        let scenario: Self =
            toml::from_str(&text).map_err(|source| ScenarioError::Syntax { path: shown, source: Box::new(source) })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`ScenarioError`], naming the key.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let invalid = |message: String| Err(ScenarioError::Invalid(message));
        let Self { worker, fleet, limits, .. } = self;
        for load in &self.load {
            load.check().or_else(|why| invalid(format!("a load is not valid: {why}")))?;
        }
        for (key, value, most) in [
            ("noise", self.noise, 3.0),
            ("worker.boot_spread", worker.boot_spread, 3.0),
            ("worker.price_per_hour", worker.price_per_hour, 1e6),
            ("limits.instance_rate", limits.instance_rate, 1e9),
            ("limits.queue_rate", limits.queue_rate, 1e9),
        ] {
            if !(0.0..=most).contains(&value) {
                return invalid(format!("{key} must be 0 to {most}"));
            }
        }
        if !(1e-6..=1e6).contains(&worker.rate) {
            return invalid("worker.rate must be a number of images a second, more than 0".to_owned());
        }
        if worker.holds == 0 {
            return invalid("worker.holds must be at least 1".to_owned());
        }
        if limits.in_flight < u64::from(worker.holds) {
            return invalid("limits.in_flight must be at least worker.holds".to_owned());
        }
        if fleet.max == 0 || fleet.max > 100_000 || fleet.min > fleet.start || fleet.start > fleet.max {
            return invalid("fleet must have min <= start <= max, and max 1 to 100000".to_owned());
        }
        for (key, value) in [
            ("duration", self.duration),
            ("worker.boot", worker.boot),
            ("worker.stop", worker.stop),
            ("worker.takes", worker.takes),
            ("worker.idle", worker.idle),
            ("limits.visibility", limits.visibility),
        ] {
            if value > Duration::from_secs(30 * 86_400) {
                return invalid(format!("{key} must be at most 30days"));
            }
        }
        self.rules.as_ref().map_or(Ok(()), Rules::check)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let text = format!("name = \"x\"\nload = [{{ kind = \"burst\", count = 1 }}]\n{text}");
        match toml::from_str::<Scenario>(&text) {
            Ok(scenario) => scenario.check().expect_err("refused").to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_refusal_names_its_key() {
        assert!(refused("fleets = 3").contains("unknown field `fleets`"));
        assert!(refused("[worker]\nspeed = 3").contains("unknown field `speed`"));
        assert!(refused("[worker]\nrate = 0").contains("worker.rate"));
        assert!(refused("[worker]\nholds = 0").contains("worker.holds"));
        assert!(refused("[fleet]\nstart = 30").contains("min <= start <= max"));
        assert!(refused("[limits]\nin_flight = 3").contains("limits.in_flight"));
        assert!(refused("[rules]\nlow = 100").contains("scaling.low is 100"));
        assert!(refused("noise = -1.0").contains("noise must be 0 to 3"));
        assert!(refused("[worker]\nboot = \"soon\"").contains("is not a duration"));
    }
}
