//! Points in time, as messages, rows and heartbeats have them: milliseconds since 1970.

use std::{
    fmt,
    num::ParseIntError,
    ops::{Add, Sub},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A point in time in milliseconds since 1970. On the wire and in stores it is that number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before everything.
    pub const MIN: Self = Self(i64::MIN);

    /// After everything.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the point so many milliseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Returns the milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole minutes since 1970.
    #[must_use]
    pub const fn minute(self) -> i64 {
        self.0.div_euclid(60_000)
    }

    /// Returns the share of the running minute that has passed, from 0 to below 1.
    #[must_use]
    pub fn share_of_minute(self) -> f64 {
        self.0.rem_euclid(60_000) as f64 / 60_000.0
    }

    /// Returns the time that has passed since `earlier`; zero if that is later, of a clock that was set back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.checked_since(earlier).unwrap_or_default()
    }

    /// Returns the time that has passed since `earlier`, `None` if that is later.
    #[must_use]
    pub fn checked_since(self, earlier: Self) -> Option<Duration> {
        (earlier <= self).then(|| self.abs_diff(earlier))
    }

    /// Returns the time between the two, whichever is later.
    #[must_use]
    pub fn abs_diff(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// Returns the beginning of the next second, for stores that know whole seconds only.
    #[must_use]
    pub const fn next_second(self) -> Self {
        Self((self.0 / 1000).saturating_add(1).saturating_mul(1000))
    }

    /// Returns the date and time in UTC, `None` for a year that has more than four digits.
    #[must_use]
    pub fn date(self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).ok()
    }
}

/// The whole milliseconds of a duration, as far as the number goes.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(millis(later)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(millis(earlier)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_its_number_on_the_wire() {
        let at = Timestamp::from_millis(1_800_000_000_123);
        assert_eq!(serde_json::to_string(&at).unwrap(), "1800000000123");
        assert_eq!(serde_json::from_str::<Timestamp>("1800000000123").unwrap(), at);
        assert_eq!((at.to_string().as_str(), "1800000000123".parse()), ("1800000000123", Ok(at)));
        assert_eq!((at.minute(), at.next_second().as_millis()), (30_000_000, 1_800_000_001_000));
    }

    proptest! {
        #[test]
        fn arithmetic_saturates_and_agrees(a: i64, b: i64, ms: u64) {
            let (first, second) = (Timestamp(a.min(b)), Timestamp(a.max(b)));
            prop_assert_eq!(first.since(second), Duration::ZERO);
            prop_assert_eq!(first.checked_since(second).is_some(), a == b);
            prop_assert_eq!(first + second.since(first), if a.checked_sub(b).is_some() && b.checked_sub(a).is_some() {
                second
            } else {
                // The time between is longer than a number of milliseconds holds.
                Timestamp(first.0.saturating_add(i64::MAX))
            });
            let by = Duration::from_millis(ms);
            prop_assert!(first + by >= first && first - by <= first);
            prop_assert!((0.0..1.0).contains(&first.share_of_minute()));
        }
    }
}
