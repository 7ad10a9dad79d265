//! How long images took from their upload to their label, counted so that many workers' counts add up.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// The bounds of the classes in milliseconds, from an idle fleet to a backlog of a day.
const BOUNDS_MS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 600_000, 3_600_000, 86_400_000];

/// How long images took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// All images, those above the last bound included.
    count: u64,
    /// All their milliseconds.
    sum_ms: u64,
    /// Images by the first bound that they kept to. Written with the bounds, which may be others in another version.
    within_ms: BTreeMap<u64, u64>,
}

impl Latency {
    /// Counts an image.
    pub(crate) fn add(&mut self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
        if let Some(bound) = BOUNDS_MS.into_iter().find(|bound| ms <= *bound) {
            *self.within_ms.entry(bound).or_default() += 1;
        }
    }

    /// Counts what another counted.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
        for (bound, count) in &other.within_ms {
            *self.within_ms.entry(*bound).or_default() += count;
        }
    }

    /// How many images were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All their seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ms as f64 / 1000.0
    }

    /// Images by class: its bound in seconds, the last one without an end, and how many are in it and in none before.
    #[must_use]
    pub fn classes(&self) -> Vec<(f64, u64)> {
        let mut classes: BTreeMap<u64, u64> = BOUNDS_MS.into_iter().map(|bound| (bound, 0)).collect();
        classes.extend(&self.within_ms);
        let beyond = self.count.saturating_sub(classes.values().sum());
        let bounded = classes.into_iter().map(|(ms, count)| (ms as f64 / 1000.0, count));
        bounded.chain([(f64::INFINITY, beyond)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_survive_other_bounds() {
        let mut latency = Latency::default();
        for ms in [1, 100, 101, 90_000_000] {
            latency.add(Duration::from_millis(ms));
        }
        // What another version wrote.
        let other: Latency =
            serde_json::from_str(r#"{"count":2,"sum_ms":3000,"within_ms":{"700":1},"more":1}"#).unwrap();
        latency.absorb(&other);
        assert_eq!((latency.count(), latency.sum_seconds()), (6, 90_003.202));
        let classes = latency.classes();
        assert_eq!((classes[0], classes[1]), ((0.1, 2), (0.25, 1)));
        assert!(classes.contains(&(0.7, 1)) && classes.ends_with(&[(f64::INFINITY, 2)]), "{classes:?}");
        let written = serde_json::to_string(&latency).unwrap();
        assert_eq!(serde_json::from_str::<Latency>(&written).unwrap(), latency);
        assert_eq!(serde_json::from_str::<Latency>("{}").unwrap(), Latency::default());
    }
}
