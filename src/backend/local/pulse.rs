//! Whether a worker process is alive, by its heartbeats.

use std::time::Duration;

use crate::{
    backend::Heartbeat,
    contract::{Timestamp, WorkerId},
};

/// What is known of a worker by its heartbeats. Times are those that the supervisor has looked on for, so that neither
/// a step of the clock nor a pause of the supervisor is taken for the worker's silence.
#[derive(Debug)]
pub(super) struct Pulse {
    pid: u32,
    /// The heartbeats that were there before this process: of earlier ones with the same number, here or on another
    /// machine.
    former: Vec<(WorkerId, Timestamp)>,
    /// The time in the last heartbeat.
    last: Option<Timestamp>,
    is_heard: bool,
    is_draining: bool,
    in_flight: u32,
    silence: Duration,
}

impl Pulse {
    /// Of the process `pid`, before whose start `stored` were all heartbeats.
    pub(super) fn new(pid: u32, stored: &[Heartbeat]) -> Self {
        let former = stored.iter().filter(|beat| beat.worker.is_process(pid));
        Self {
            pid,
            former: former.map(|beat| (beat.worker.clone(), beat.seen_at)).collect(),
            last: None,
            is_heard: false,
            is_draining: false,
            in_flight: 0,
            silence: Duration::ZERO,
        }
    }

    /// Takes note of the worker's heartbeat among those that are `stored`, `passed` after the last look. Returns true
    /// at the first one.
    pub(super) fn look(&mut self, stored: &[Heartbeat], passed: Duration) -> bool {
        self.silence += passed;
        let is_own = |beat: &&Heartbeat| {
            let is_former = |(worker, at): &(WorkerId, Timestamp)| *worker == beat.worker && *at == beat.seen_at;
            beat.worker.is_process(self.pid) && !self.former.iter().any(is_former)
        };
        let own = stored.iter().find(is_own);
        let Some(beat) = own.filter(|beat| self.last != Some(beat.seen_at)) else { return false };
        self.last = Some(beat.seen_at);
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

    fn beat(machine: &str, seen_at_ms: i64) -> Heartbeat {
        let seen_at = Timestamp::from_millis(seen_at_ms);
        Heartbeat { worker: WorkerId::new(machine, 7), seen_at, in_flight: 2, ..Heartbeat::default() }
    }

    #[test]
    fn silence_ends_with_a_heartbeat_of_this_process() {
        // The clock has been set back since: these were earlier processes, and what they said last is that they end.
        let draining = |beat| Heartbeat { draining: true, ..beat };
        let former = [draining(beat("here", 9000)), draining(beat("elsewhere", 9500))];
        let with = |own: Heartbeat| [former[1].clone(), own];
        let mut pulse = Pulse::new(7, &former);
        assert!(!pulse.look(&[], SECOND) && !pulse.look(&former, SECOND) && !pulse.look(&former, SECOND));
        assert!(!pulse.is_heard() && pulse.silence() == 3 * SECOND);
        assert!(pulse.look(&with(beat("here", 1500)), SECOND));
        assert!(pulse.is_heard() && !pulse.is_draining() && pulse.silence().is_zero() && pulse.in_flight() == 2);
        assert!(!pulse.look(&with(beat("here", 1500)), SECOND));
        assert_eq!(pulse.silence(), SECOND);
    }

    #[test]
    fn a_clock_that_steps_back_is_no_silence() {
        let mut pulse = Pulse::new(7, &[]);
        assert!(pulse.look(&[beat("here", 10_000_500)], SECOND));
        assert!(!pulse.look(&[beat("here", 6_400_000)], SECOND));
        assert!(pulse.silence().is_zero());
    }
}
