//! Loads: when messages arrive.

use std::{f64::consts::TAU, str::FromStr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal, Poisson};
use serde::{Deserialize, Serialize};

/// How long the noise of a load remembers: it is a lognormal AR(1) process with this correlation time, in seconds.
const NOISE_MEMORY_S: f64 = 60.0;

/// Images a second; as text `80/s`, `600/m` or `1000000/h`, or a number of images a second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "RateText", into = "f64")]
pub struct Rate(pub f64);

#[derive(Deserialize)]
#[serde(untagged)]
enum RateText {
    Number(f64),
    Text(String),
}

impl TryFrom<RateText> for Rate {
    type Error = String;

    fn try_from(text: RateText) -> Result<Self, String> {
        match text {
            RateText::Number(rate) => Self::checked(rate).ok_or_else(|| format!("{rate} is not a rate")),
            RateText::Text(text) => text.parse(),
        }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

impl Rate {
    fn checked(rate: f64) -> Option<Self> {
        (rate.is_finite() && (0.0..=1e9).contains(&rate)).then_some(Self(rate))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("{text:?} is not a rate such as 80/s, 600/m or 1000000/h")),
        };
        let number = number.trim().parse::<f64>().ok();
        number
            .and_then(|number| Self::checked(number / seconds))
            .ok_or_else(|| format!("{text:?} is not a rate such as 80/s, 600/m or 1000000/h"))
    }
}

/// From when on messages arrive at which rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// From this time on.
    #[serde(with = "crate::config::duration")]
    pub at: Duration,
    /// At this rate.
    pub rate: Rate,
}

/// One source of messages; a scenario adds several up. Times count from the start of the simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Load {
    /// So many messages at once.
    Burst {
        /// How many.
        count: u64,
        /// When.
        #[serde(default, with = "crate::config::duration")]
        at: Duration,
    },
    /// The same rate from beginning to end.
    Steady {
        /// The rate.
        rate: Rate,
        /// For how long.
        #[serde(with = "crate::config::duration")]
        lasts: Duration,
    },
    /// A rate that changes evenly.
    Ramp {
        /// The first rate.
        from: Rate,
        /// The last rate.
        to: Rate,
        /// For how long.
        #[serde(with = "crate::config::duration")]
        lasts: Duration,
    },
    /// A rate that climbs evenly, drops, and climbs again.
    Sawtooth {
        /// The lowest rate.
        low: Rate,
        /// The highest rate.
        high: Rate,
        /// Length of a tooth.
        #[serde(with = "crate::config::duration")]
        period: Duration,
        /// For how long.
        #[serde(with = "crate::config::duration")]
        lasts: Duration,
    },
    /// A day of a public service: quiet at night, busy at `peak`, even on a logarithmic scale, with bursts at random
    /// times.
    Day {
        /// The lowest rate.
        low: Rate,
        /// The highest rate, bursts included.
        high: Rate,
        /// The time of the highest rate.
        #[serde(with = "crate::config::duration")]
        peak: Duration,
        /// How many bursts a day has.
        #[serde(default)]
        bursts: u32,
        /// How many times the rate of the hour a burst has.
        #[serde(default = "one")]
        burst_factor: f64,
        /// How long a burst lasts.
        #[serde(default, with = "crate::config::duration")]
        burst_lasts: Duration,
    },
    /// Rates from measured times on; the last one must be 0.
    Trace {
        /// Times and rates, in ascending order of time.
        points: Vec<Point>,
    },
}

fn one() -> f64 {
    1.0
}

const DAY: Duration = Duration::from_secs(86_400);

impl Load {
    /// When the last message arrives at the latest, in seconds.
    #[must_use]
    pub fn ends_s(&self) -> f64 {
        match self {
            Self::Burst { at, .. } => at.as_secs_f64(),
            Self::Steady { lasts, .. } | Self::Ramp { lasts, .. } | Self::Sawtooth { lasts, .. } => lasts.as_secs_f64(),
            Self::Day { .. } => DAY.as_secs_f64(),
            Self::Trace { points } => points.last().map_or(0.0, |point| point.at.as_secs_f64()),
        }
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// What and why.
    pub fn check(&self) -> Result<(), String> {
        let long = Duration::from_secs(30 * 86_400);
        match self {
            Self::Burst { count, .. } if *count > 1_000_000_000_000 => {
                Err("a burst has at most 10^12 messages".to_owned())
            }
            Self::Sawtooth { period, .. } if period.as_secs() == 0 => Err("period must be at least 1s".to_owned()),
            Self::Day { low, .. } if low.0 <= 0.0 => Err("low must be more than 0".to_owned()),
            Self::Day { burst_factor, .. } if !(0.0..=1e6).contains(burst_factor) => {
                Err("burst_factor must be 0 to 1000000".to_owned())
            }
            Self::Day { bursts, .. } if *bursts > 10_000 => Err("bursts must be at most 10000".to_owned()),
            Self::Trace { points } if points.windows(2).any(|pair| pair[0].at >= pair[1].at) => {
                Err("points must be in ascending order of time".to_owned())
            }
            Self::Trace { points } if points.last().is_none_or(|point| point.rate.0 > 0.0) => {
                Err("points must end with a rate of 0".to_owned())
            }
            _ if self.ends_s() > long.as_secs_f64() => Err("a load lasts at most 30 days".to_owned()),
            _ => Ok(()),
        }
    }

    /// The rate at `t` seconds, bursts of a day excepted.
    fn rate(&self, t: f64) -> f64 {
        if t >= self.ends_s() {
            return 0.0;
        }
        let between = |from: Rate, to: Rate, share: f64| from.0 + (to.0 - from.0) * share;
        match self {
            Self::Burst { .. } => 0.0,
            Self::Steady { rate, .. } => rate.0,
            Self::Ramp { from, to, lasts } => between(*from, *to, t / lasts.as_secs_f64()),
            Self::Sawtooth { low, high, period, .. } => between(*low, *high, (t / period.as_secs_f64()).fract()),
            Self::Day { low, high, peak, .. } => {
                let share = (1.0 + ((t - peak.as_secs_f64()) / DAY.as_secs_f64() * TAU).cos()) / 2.0;
                low.0 * (high.0 / low.0).powf(share)
            }
            Self::Trace { points } => {
                points.iter().rev().find(|point| point.at.as_secs_f64() <= t).map_or(0.0, |point| point.rate.0)
            }
        }
    }
}

/// The arrivals of all loads, second by second, the same for every policy.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    loads: &'a [Load],
    /// Bursts of days: load, begin and end in seconds.
    bursts: Vec<(usize, f64, f64)>,
    noise: f64,
    level: f64,
    random: bool,
    rng: StdRng,
}

impl<'a> Arrivals<'a> {
    /// The arrivals of `loads`: `random` ones are Poisson distributed; `noise` is the standard deviation of the rate's
    /// logarithm.
    #[must_use]
    pub(super) fn new(loads: &'a [Load], noise: f64, random: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bursts = Vec::new();
        for (index, load) in loads.iter().enumerate() {
            if let Load::Day { bursts: count, burst_lasts, .. } = load {
                for _ in 0..*count {
                    let begin = rng.random::<f64>() * DAY.as_secs_f64();
                    bursts.push((index, begin, begin + burst_lasts.as_secs_f64()));
                }
            }
        }
        Self { loads, bursts, noise, level: 0.0, random, rng }
    }

    /// When the last message arrives at the latest, in seconds.
    #[must_use]
    pub(super) fn ends_s(&self) -> f64 {
        self.loads.iter().map(Load::ends_s).fold(0.0, f64::max)
    }

    /// How many messages arrive at once at the beginning of the second from `t` on, and how many in its course.
    pub(super) fn second(&mut self, t: f64) -> (f64, f64) {
        let mut at_once = 0.0;
        let mut rate = 0.0;
        for (index, load) in self.loads.iter().enumerate() {
            if let Load::Burst { count, at } = load
                && (t..t + 1.0).contains(&at.as_secs_f64())
            {
                at_once += *count as f64;
            }
            let mut base = load.rate(t + 0.5);
            if let Load::Day { high, burst_factor, .. } = load
                && self.bursts.iter().any(|(of, begin, end)| *of == index && (*begin..*end).contains(&t))
            {
                base = (base * burst_factor).min(high.0);
            }
            rate += base;
        }
        let sample = |rng: &mut StdRng| Normal::new(0.0, 1.0).map_or(0.0, |normal| normal.sample(rng));
        if self.noise > 0.0 {
            let keep = (-1.0 / NOISE_MEMORY_S).exp();
            self.level = self.level * keep + self.noise * (1.0 - keep * keep).sqrt() * sample(&mut self.rng);
            rate *= (self.level - self.noise * self.noise / 2.0).exp();
        }
        if self.random && rate > 0.0 {
            rate = Poisson::new(rate).map_or(rate, |poisson| poisson.sample(&mut self.rng));
        }
        (at_once, rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(loads: &[Load], noise: f64, random: bool) -> f64 {
        let mut arrivals = Arrivals::new(loads, noise, random, 7);
        (0..arrivals.ends_s() as u64 + 1).map(|t| arrivals.second(t as f64)).map(|(at_once, rate)| at_once + rate).sum()
    }

    #[test]
    fn rates_are_read_in_every_unit() {
        for (text, rate) in [("80/s", 80.0), ("600/m", 10.0), ("36000 / h", 10.0), ("2.5", 2.5)] {
            assert_eq!(text.parse::<Rate>(), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "x/s", "3/day", "-1/s", "NaN", "1e99/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn loads_bring_as_many_messages_as_they_say() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let burst = Load::Burst { count: 2136, at: minutes(1) };
        assert_eq!(total(&[burst.clone(), burst], 0.0, false), 4272.0);
        let ramp = Load::Ramp { from: Rate(0.0), to: Rate(10.0), lasts: minutes(10) };
        assert!((total(&[ramp], 0.0, false) - 3000.0).abs() < 1.0);
        let saw = Load::Sawtooth { low: Rate(2.0), high: Rate(4.0), period: minutes(2), lasts: minutes(10) };
        assert!((total(&[saw], 0.0, false) - 1800.0).abs() < 1.0);
        let point = |at, rate| Point { at: minutes(at), rate: Rate(rate) };
        let trace = Load::Trace { points: vec![point(1, 5.0), point(2, 1.0), point(3, 0.0)] };
        assert!((total(&[trace], 0.0, false) - 360.0).abs() < 1.0);
        let steady = Load::Steady { rate: Rate(50.0), lasts: minutes(60) };
        let noisy = total(&[steady], 0.3, true);
        assert!((noisy / 180_000.0 - 1.0).abs() < 0.1, "{noisy}");
    }

    #[test]
    fn a_day_goes_from_low_to_high() {
        let day = Load::Day {
            low: Rate(1.0),
            high: Rate(100.0),
            peak: Duration::from_secs(14 * 3600),
            bursts: 0,
            burst_factor: 1.0,
            burst_lasts: Duration::ZERO,
        };
        assert!((day.rate(14.0 * 3600.0) - 100.0).abs() < 0.01);
        assert!((day.rate(2.0 * 3600.0) - 1.0).abs() < 0.01);
        assert!((day.rate(8.0 * 3600.0) - 10.0).abs() < 0.01);
    }

    #[test]
    fn the_same_seed_brings_the_same_arrivals() {
        let steady = [Load::Steady { rate: Rate(5.0), lasts: Duration::from_secs(100) }];
        assert_eq!(total(&steady, 0.2, true), total(&steady, 0.2, true));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Load::Trace { points: Vec::new() }.check().is_err());
        assert!(toml::from_str::<Load>("kind = \"burst\"\ncount = 3\nfrom = 1").is_err());
        let text = "kind = \"day\"\nlow = 0\nhigh = 3\npeak = \"14h\"";
        assert!(toml::from_str::<Load>(text).expect("parses").check().is_err());
    }
}
