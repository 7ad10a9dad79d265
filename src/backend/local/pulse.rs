//! Whether a worker process is alive, by its heartbeats.

use std::time::Duration;

use crate::{backend::Heartbeat, contract::Timestamp};

/// What is known of a worker by its heartbeats. Times are those that the supervisor has looked on for, so that neither a step of the
/// clock nor a pause of the supervisor is taken for the worker's silence.
#[derive(Debug)]
pub(super) struct Pulse {
    started_at: Timestamp,
    /// The time in the last heartbeat, or in that of an earlier process with the same id.
    last: Option<Timestamp>,
    is_heard: bool,
    is_draining: bool,
    in_flight: u32,
    silence: Duration,
}

impl Pulse {
    /// Of a worker that was started at `started_at`.
    pub(super) fn new(started_at: Timestamp) -> Self {
        Self { started_at, last: None, is_heard: false, is_draining: false, in_flight: 0, silence: Duration::ZERO }
    }

    /// Takes note of the worker's stored heartbeat, `passed` after the last look. Returns true at the first one since the start.
    pub(super) fn look(&mut self, stored: Option<&Heartbeat>, passed: Duration) -> bool {
        self.silence += passed;
        let Some(beat) = stored.filter(|beat| self.last != Some(beat.seen_at)) else { return false };
        let is_of_former = self.last.is_none() && beat.seen_at < self.started_at;
        self.last = Some(beat.seen_at);
        if is_of_former {
            return false;
        }
        self.silence = Duration::ZERO;
        self.in_flight = beat.in_flight;
        self.is_draining = beat.draining;
        !std::mem::replace(&mut self.is_heard, true)
    }

    /// Whether it was heard of since its start.
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Whether it said that it takes no more messages.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// How many messages it held at its last heartbeat.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The time since its last heartbeat, or since its start.
    pub(super) fn silence(&self) -> Duration {
        self.silence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn beat(seen_at_ms: i64) -> Heartbeat {
        Heartbeat { seen_at: Timestamp::from_millis(seen_at_ms), in_flight: 2, ..Heartbeat::default() }
    }

    #[test]
    fn silence_ends_with_a_heartbeat_of_this_process() {
        let mut pulse = Pulse::new(Timestamp::from_millis(1000));
        assert!(!pulse.look(None, SECOND));
        assert!(!pulse.look(Some(&beat(900)), SECOND), "that was an earlier process");
        assert!(!pulse.look(Some(&beat(900)), SECOND));
        assert!(!pulse.is_heard() && pulse.silence() == 3 * SECOND);
        assert!(pulse.look(Some(&beat(1500)), SECOND));
        assert!(pulse.is_heard() && pulse.silence().is_zero() && pulse.in_flight() == 2);
        assert!(!pulse.look(Some(&beat(1500)), SECOND));
        assert_eq!(pulse.silence(), SECOND);
    }

    #[test]
    fn a_clock_that_steps_back_is_no_silence() {
        let mut pulse = Pulse::new(Timestamp::from_millis(10_000_000));
        assert!(pulse.look(Some(&beat(10_000_500)), SECOND));
        assert!(!pulse.look(Some(&beat(6_400_000)), SECOND));
        assert!(pulse.silence().is_zero());
    }
}
