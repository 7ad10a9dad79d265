//! How often something is tried again, and after what pauses: one policy for stores, queues and downloads.

use std::time::Duration;

/// How often something is tried, and the pauses between: twice as long each time, up to the longest, of which a random
/// part is taken so that those who failed together do not come back together.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Tries altogether.
    pub attempts: u32,
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Retry {
    /// For calls that take milliseconds.
    pub const CALL: Self = Self::times(4);

    /// Tries a call so often.
    #[must_use]
    pub const fn times(attempts: u32) -> Self {
        Self { attempts, first: Duration::from_millis(200), longest: Duration::from_secs(6) }
    }

    /// Returns the longest pause after so many failures.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        self.first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(self.longest)
    }

    /// Returns a pause after so many failures: between half of the longest and all of it.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        self.ceiling(failures).mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds() {
        let policy = Retry { attempts: 50, first: Duration::from_secs(2), longest: Duration::from_secs(300) };
        assert_eq!([1, 2, 3, 8, 9, 40].map(|n| policy.ceiling(n).as_secs()), [2, 4, 8, 256, 300, 300]);
        for failures in 1..50 {
            let (pause, ceiling) = (policy.pause(failures), policy.ceiling(failures));
            assert!(pause >= ceiling / 2 && pause <= ceiling, "{failures}: {pause:?}");
        }
    }
}
