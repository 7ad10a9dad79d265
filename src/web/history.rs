//! The last hour as the web tier saw it: a bounded memory of states, for the charts of the status page.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use crate::{backend::status::Status, contract::Timestamp};

/// So much is remembered.
pub(crate) const SPAN: Duration = Duration::from_secs(3600);

/// States that follow each other faster are one on the chart.
const STEP: Duration = Duration::from_secs(10);

/// If nobody asks for the state for so long, the server asks, so that the chart has no hole.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// The state at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) per_minute: f64,
    /// Messages to be received, and those in work.
    pub(crate) queued: u64,
    pub(crate) in_work: u64,
    pub(crate) desired: u32,
    pub(crate) running: u32,
    /// Images whose time from upload to label was counted, and their seconds.
    pub(crate) timed: u64,
    pub(crate) seconds: f64,
    /// Seconds from upload to label, on average since the sample before.
    pub(crate) delay: f64,
}

impl Sample {
    /// What the chart needs of a state that was seen at `at`.
    pub(crate) fn of(status: &Status, at: Timestamp) -> Self {
        Self {
            at,
            per_minute: status.images_per_minute,
            queued: status.queue.visible,
            in_work: status.queue.in_flight,
            desired: status.fleet.desired,
            running: status.fleet.running,
            timed: status.latency.count(),
            seconds: status.latency.sum_seconds(),
            delay: 0.0,
        }
    }

    /// Seconds from upload to label, on average since `last`; `None` without a label since. Fewer than before: the
    /// counts were reset.
    fn delay_since(&self, last: &Self) -> Option<f64> {
        let labels = self.timed.checked_sub(last.timed).filter(|labels| *labels > 0)?;
        Some((self.seconds - last.seconds).max(0.0) / labels as f64)
    }
}

/// The samples of the last hour, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Remembers a state, unless one was remembered a moment ago.
    pub(crate) fn note(&self, mut sample: Sample) {
        let mut samples = self.0.lock();
        // Samples of the future are from before the clock was set back.
        samples.retain(|old| old.at <= sample.at && sample.at.since(old.at) < SPAN);
        if let Some(last) = samples.back() {
            if sample.at.since(last.at) < STEP {
                return;
            }
            sample.delay = sample.delay_since(last).unwrap_or_default();
        }
        samples.push_back(sample);
    }

    /// Whether nothing was remembered for a while.
    pub(crate) fn is_silent(&self, now: Timestamp) -> bool {
        self.0.lock().back().is_none_or(|last| now.abs_diff(last.at) >= SILENCE)
    }

    /// What is remembered of the time before `now`, and that.
    pub(crate) fn until(&self, mut now: Sample) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self.0.lock().iter().filter(|sample| sample.at < now.at).copied().collect();
        if let Some(last) = samples.last() {
            // In a moment without a label nothing has become quicker.
            now.delay = now.delay_since(last).unwrap_or(last.delay);
        }
        samples.push(now);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64) -> Sample {
        let at = Timestamp::from_millis(second * 1000);
        Sample {
            at,
            per_minute: 1.0,
            queued: 2,
            in_work: 3,
            desired: 1,
            running: 1,
            timed: 0,
            seconds: 0.0,
            delay: 0.0,
        }
    }

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let history = History::default();
        for second in 0..2 * 3600 {
            history.note(sample(second));
        }
        let samples = history.until(sample(7200));
        assert_eq!(samples.len(), 361);
        assert_eq!((samples[0], samples[359], samples[360]), (sample(3600), sample(7190), sample(7200)));
    }

    #[test]
    fn the_time_to_a_label_is_that_since_the_sample_before() {
        let history = History::default();
        for (second, timed, seconds) in [(0, 10, 10.0), (60, 20, 40.0), (120, 20, 40.0)] {
            history.note(Sample { timed, seconds, ..sample(second) });
        }
        let delays = |now| history.until(now).iter().map(|sample| sample.delay).collect::<Vec<f64>>();
        assert_eq!(delays(sample(121)), [0.0, 3.0, 0.0, 0.0]);
        assert_eq!(delays(Sample { timed: 22, seconds: 50.0, ..sample(121) }), [0.0, 3.0, 0.0, 5.0]);
        assert_eq!(delays(Sample { timed: 20, seconds: 40.0, ..sample(61) }), [0.0, 3.0, 3.0], "as before");
    }

    #[test]
    fn a_clock_that_is_set_back_starts_anew() {
        let history = History::default();
        history.note(sample(1000));
        history.note(sample(500));
        assert_eq!(history.until(sample(500)), [sample(500)]);
    }

    #[test]
    fn the_last_is_the_present() {
        let history = History::default();
        history.note(sample(0));
        let now = Sample { queued: 7, ..sample(STEP.as_secs() as i64 - 1) };
        history.note(now);
        assert_eq!(history.until(now), [sample(0), now], "however lately one was remembered");
        history.note(sample(20));
        assert_eq!(history.until(sample(20)), [sample(0), sample(20)], "and only once");
    }
}
