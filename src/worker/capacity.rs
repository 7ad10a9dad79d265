//! How fast the worker is with all the work that it can do at once, which is what scaling goes by.

use std::time::{Duration, Instant};

/// Counts results, and time, while more messages are held than leave room for a receive of every receiver: two batches,
/// or fewer where inputs are large.
///
/// Only then do the network, the decoders and the calls of stores all have something to do, and only then do receivers
/// wait for room, so that a message more makes no image finish sooner. Images over time is then the worker's rate, with
/// all that an image takes in it. With less to do the same quotient tells how long one image takes, most of it waiting
/// for stores, and a worker that could do hundreds a second looks as if it did few.
///
/// The time begins before the first result of it, so a short spell tells a little less than the worker can do.
#[derive(Debug)]
pub(super) struct Capacity {
    /// With more messages than these it has all the work that it can do.
    enough: usize,
    held: usize,
    /// Since when it has, if it does.
    since: Option<Instant>,
    /// How long it had, before that.
    time: Duration,
    images: u64,
}

impl Capacity {
    /// Of a worker that has enough to do with more than `enough` messages and holds none yet.
    #[must_use]
    pub(super) fn new(enough: usize) -> Self {
        Self { enough, held: 0, since: None, time: Duration::ZERO, images: 0 }
    }

    /// Counts a message that is held from `now` on.
    pub(super) fn begun(&mut self, now: Instant) {
        self.held += 1;
        if self.held > self.enough {
            self.since.get_or_insert(now);
        }
    }

    /// Counts a message that is held no more.
    pub(super) fn ended(&mut self, now: Instant) {
        self.held = self.held.saturating_sub(1);
        if self.held <= self.enough
            && let Some(since) = self.since.take()
        {
            self.time += now.saturating_duration_since(since);
        }
    }

    /// Counts a stored result.
    pub(super) fn stored(&mut self) {
        self.images += u64::from(self.since.is_some());
    }

    /// Images stored while it had all the work that it can do, and how long it had until `now`.
    #[must_use]
    pub(super) fn measured(&self, now: Instant) -> (u64, Duration) {
        let running = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (self.images, self.time + running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images a second as scaling reads them.
    fn rate((images, time): (u64, Duration)) -> f64 {
        images as f64 / time.as_secs_f64()
    }

    #[test]
    fn a_worker_with_a_backlog_is_as_fast_as_its_results_come() {
        let (start, mut capacity) = (Instant::now(), Capacity::new(32));
        for _ in 0..52 {
            capacity.begun(start);
        }
        // An image takes half a second from its receive to its end, and one ends every 12.5 ms, of which the network
        // has 0.6: what is counted in whole milliseconds is nothing.
        for n in 1..=8000 {
            let now = start + Duration::from_micros(12_500) * n;
            capacity.stored();
            capacity.ended(now);
            capacity.begun(now);
        }
        let measured = capacity.measured(start + Duration::from_secs(100));
        assert_eq!(measured, (8000, Duration::from_secs(100)));
        assert!((rate(measured) - 80.0).abs() < 1e-9);
    }

    #[test]
    fn spells_shorter_than_a_millisecond_add_up() {
        let (mut now, mut capacity) = (Instant::now(), Capacity::new(2));
        capacity.begun(now);
        capacity.begun(now);
        for _ in 0..10_000 {
            capacity.begun(now);
            now += Duration::from_micros(700);
            capacity.stored();
            capacity.ended(now);
            now += Duration::from_secs(1);
        }
        assert_eq!(capacity.measured(now), (10_000, Duration::from_secs(7)));
    }

    #[test]
    fn one_image_at_a_time_tells_nothing() {
        let (mut now, mut capacity) = (Instant::now(), Capacity::new(32));
        for _ in 0..100 {
            capacity.begun(now);
            now += Duration::from_millis(30);
            capacity.stored();
            capacity.ended(now);
        }
        assert_eq!(capacity.measured(now), (0, Duration::ZERO));
    }
}
