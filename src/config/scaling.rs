//! The `scaling` section: the rules of the scaling policies.

use std::{fmt::Display, time::Duration};

use serde::{Deserialize, Serialize};

/// How the desired capacity is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Steps on the queue's depth, as CloudWatch alarms with step scaling do it.
    Steps,
    /// Backlog per worker: depth / (acceptable latency x rate of one worker).
    Backlog,
}

impl Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Steps => "steps",
            Self::Backlog => "backlog",
        })
    }
}

/// One step: from this many visible messages on, add so many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Visible messages.
    pub depth: u64,
    /// Workers to add.
    pub add: u32,
}

/// The rules of both policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// How the desired capacity is found.
    pub policy: Policy,
    /// Time between decisions where we tick ourselves.
    #[serde(with = "super::duration")]
    pub interval: Duration,
    /// The steps, in ascending depth.
    pub steps: Vec<Step>,
    /// `steps` scales in at so many messages (visible and in flight) or fewer.
    pub low: u64,
    /// `backlog`: how long a message may wait.
    #[serde(with = "super::duration")]
    pub latency: Duration,
    /// `backlog`: images a second of one worker; `None`, written as 0, to measure it from the heartbeats.
    #[serde(with = "rate")]
    pub rate: Option<f64>,
    /// Scale in after so many low readings in a row.
    pub low_readings: u32,
    /// Time between two scale-outs.
    #[serde(with = "super::duration")]
    pub cooldown_out: Duration,
    /// Time between the last change and a scale-in.
    #[serde(with = "super::duration")]
    pub cooldown_in: Duration,
    /// How long a new worker counts as warming up: it is the answer to the backlog that called it.
    #[serde(with = "super::duration")]
    pub warmup: Duration,
    /// Most workers that one decision adds.
    pub max_step: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            policy: Policy::Steps,
            interval: Duration::from_secs(2),
            steps: vec![Step { depth: 100, add: 2 }, Step { depth: 500, add: 5 }, Step { depth: 1000, add: 15 }],
            low: 20,
            latency: Duration::from_secs(60),
            rate: None,
            low_readings: 3,
            cooldown_out: Duration::from_secs(30),
            cooldown_in: Duration::from_secs(60),
            warmup: Duration::from_secs(60),
            max_step: 15,
        }
    }
}

/// Why rules are refused. Every message names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A time that is too short or too long.
    #[error("scaling.{key} must be between {least} and {most}")]
    Duration {
        /// The key.
        key: &'static str,
        /// Shortest allowed.
        least: &'static str,
        /// Longest allowed.
        most: &'static str,
    },
    /// No steps.
    #[error(
        "scaling.steps is empty; name at least one, such as {{ depth = 100, add = 2 }}, or use scaling.policy = \
         \"backlog\""
    )]
    NoSteps,
    /// Steps that do not rise.
    #[error(
        "scaling.steps must rise: the step at {depth} messages has to come later and add no fewer workers than the \
         one before it"
    )]
    Order {
        /// The offending step's depth.
        depth: u64,
    },
    /// A step that adds nobody.
    #[error("scaling.steps: the step at {depth} messages adds no worker")]
    Adds {
        /// The step's depth.
        depth: u64,
    },
    /// Scaling in and out at once.
    #[error(
        "scaling.low is {low}, which the first step at {depth} messages does not exceed; scaling in and out would meet"
    )]
    Low {
        /// `low`.
        low: u64,
        /// The first step's depth.
        depth: u64,
    },
    /// A rate that is not a number of images a second.
    #[error("scaling.rate must be a number of images a second, or 0 to measure it")]
    Rate,
    /// No reading, so no scaling in.
    #[error("scaling.low_readings must be 1 to 100")]
    LowReadings,
    /// No step allowed, so no scaling out.
    #[error("scaling.max_step must be at least 1")]
    MaxStep,
}

impl Rules {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`RulesError`], naming the key.
    pub fn check(&self) -> Result<(), RulesError> {
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        for (key, value, least, shortest) in [
            ("interval", self.interval, "1s", second),
            ("latency", self.latency, "1s", second),
            ("cooldown_out", self.cooldown_out, "0s", Duration::ZERO),
            ("cooldown_in", self.cooldown_in, "0s", Duration::ZERO),
            ("warmup", self.warmup, "0s", Duration::ZERO),
        ] {
            if !(shortest..=day).contains(&value) {
                return Err(RulesError::Duration { key, least, most: "1day" });
            }
        }
        let first = self.steps.first().ok_or(RulesError::NoSteps)?;
        if let Some(step) = self.steps.iter().find(|step| step.add == 0) {
            return Err(RulesError::Adds { depth: step.depth });
        }
        if let Some(pair) = self.steps.windows(2).find(|p| p[0].depth >= p[1].depth || p[0].add > p[1].add) {
            return Err(RulesError::Order { depth: pair[1].depth });
        }
        if self.low >= first.depth {
            return Err(RulesError::Low { low: self.low, depth: first.depth });
        }
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(RulesError::Rate);
        }
        if !(1..=100).contains(&self.low_readings) {
            return Err(RulesError::LowReadings);
        }
        if self.max_step == 0 {
            return Err(RulesError::MaxStep);
        }
        Ok(())
    }

    /// The highest step that `visible` messages reach.
    #[must_use]
    pub fn step(&self, visible: u64) -> Option<Step> {
        self.steps.iter().rev().find(|step| visible >= step.depth).copied()
    }
}

/// A rate as a number, 0 for none.
mod rate {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(rate: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(rate.unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Some(f64::deserialize(deserializer)?).filter(|rate| *rate != 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_originals_steps_and_make_sense() {
        let rules = Rules::default();
        assert_eq!(rules.check(), Ok(()));
        assert_eq!(
            [99, 100, 499, 500, 999, 1000].map(|depth| rules.step(depth).map_or(0, |step| step.add)),
            [0, 2, 2, 5, 5, 15]
        );
    }

    #[test]
    fn every_refusal_names_its_key() {
        let refused = |change: fn(&mut Rules)| {
            let mut rules = Rules::default();
            change(&mut rules);
            rules.check().map_err(|e| e.to_string()).expect_err("refused")
        };
        assert_eq!(refused(|r| r.interval = Duration::ZERO), "scaling.interval must be between 1s and 1day");
        assert!(refused(|r| r.warmup = Duration::from_secs(90_000)).contains("scaling.warmup"));
        assert!(refused(|r| r.steps.clear()).contains("scaling.steps is empty"));
        assert!(refused(|r| r.steps.reverse()).contains("scaling.steps must rise"));
        assert!(refused(|r| r.steps[2].add = 1).contains("the step at 1000 messages"));
        assert!(refused(|r| r.steps[0].add = 0).contains("adds no worker"));
        assert!(refused(|r| r.low = 100).contains("scaling.low is 100"));
        assert!(refused(|r| r.rate = Some(-1.0)).contains("scaling.rate"));
        assert!(refused(|r| r.rate = Some(f64::NAN)).contains("scaling.rate"));
        assert!(refused(|r| r.low_readings = 0).contains("scaling.low_readings"));
        assert!(refused(|r| r.max_step = 0).contains("scaling.max_step"));
    }

    #[test]
    fn unknown_keys_are_refused_and_missing_ones_have_defaults() {
        let rules: Rules = toml::from_str("policy = \"backlog\"\nlatency = \"2m\"").expect("parses");
        assert_eq!(rules.latency, Duration::from_secs(120));
        assert_eq!(rules.low, Rules::default().low);
        assert_eq!(rules.rate, None);
        assert_eq!(toml::from_str::<Rules>("rate = 0").expect("parses").rate, None);
        assert_eq!(toml::from_str::<Rules>("rate = 2").expect("parses").rate, Some(2.0));
        assert!(toml::from_str::<Rules>("depth = 3").is_err());
    }
}
