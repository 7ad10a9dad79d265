//! The queue: a fluid that fills with arrivals and drains at the fleet's capacity, first come, first served.

use std::collections::VecDeque;

use super::report::Waits;

/// Fewer messages than this are none: the fluid's rounding.
const NONE: f64 = 1e-6;

/// Seconds of a minute.
const MINUTE: usize = 60;

/// Messages that arrived at the same time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cohort {
    arrived_s: f64,
    count: f64,
}

/// Messages in order of their arrival, and what became of those that are done.
#[derive(Debug, Default)]
pub(super) struct Queue {
    cohorts: VecDeque<Cohort>,
    waiting: f64,
    /// Messages of lost workers, until they are visible again.
    hidden: f64,
    /// Messages that arrive in the course of this second.
    arriving: f64,
    waits: Waits,
    last_done_s: f64,
    done_this_second: f64,
    /// Messages done in the last second.
    flow: f64,
    /// Messages done in each second of the last minute.
    minute: VecDeque<f64>,
    working_since_s: Option<f64>,
}

impl Queue {
    /// Messages that are not done, hidden ones excepted.
    pub(super) fn waiting(&self) -> f64 {
        if self.waiting < NONE { 0.0 } else { self.waiting }
    }

    /// Messages of lost workers that are not visible yet.
    pub(super) fn hidden(&self) -> f64 {
        self.hidden
    }

    /// Whether all is done.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0.0 && self.hidden < NONE
    }

    /// Messages done a second, lately.
    pub(super) fn flow(&self) -> f64 {
        self.flow
    }

    /// Messages done a second, over the last minute.
    pub(super) fn flow_of_the_minute(&self) -> f64 {
        self.minute.iter().sum::<f64>() / MINUTE as f64
    }

    /// When the last message was done, in seconds.
    pub(super) fn last_done_s(&self) -> f64 {
        self.last_done_s
    }

    /// When the first message was begun, in seconds.
    pub(super) fn working_since_s(&self) -> Option<f64> {
        self.working_since_s
    }

    /// How long the messages that are done have waited.
    pub(super) fn waits(&mut self) -> &mut Waits {
        &mut self.waits
    }

    /// Nothing flows any more.
    pub(super) fn rest(&mut self) {
        self.flow = 0.0;
    }

    /// The arrivals of the second from `now_s` on: some at once, the others evenly in its course.
    pub(super) fn fill(&mut self, now_s: f64, at_once: f64, over_the_second: f64) {
        self.flow = self.done_this_second;
        self.minute.push_back(self.flow);
        if self.minute.len() > MINUTE {
            self.minute.pop_front();
        }
        self.done_this_second = 0.0;
        if at_once > 0.0 {
            self.cohorts.push_back(Cohort { arrived_s: now_s, count: at_once });
            self.waiting += at_once;
        }
        self.arriving = over_the_second;
    }

    /// Does up to `capacity` messages a second from `from_s` to `to_s`.
    pub(super) fn drain(&mut self, from_s: f64, to_s: f64, capacity: f64) {
        let span = to_s - from_s;
        if span <= 0.0 {
            return;
        }
        let mut left = capacity * span;
        let mut done = 0.0;
        while left > 0.0
            && let Some(front) = self.cohorts.front_mut()
        {
            let count = front.count.min(left);
            let middle_s = from_s + (done + count / 2.0) / capacity;
            self.waits.add(middle_s - front.arrived_s, count);
            front.count -= count;
            left -= count;
            done += count;
            if front.count < NONE {
                self.cohorts.pop_front();
            }
        }
        let arrived = self.arriving * span;
        if arrived > 0.0 {
            let count = arrived.min(left);
            if count > 0.0 {
                let middle_s = from_s + (done + count / 2.0) / capacity;
                let arrived_s = from_s + span * count / arrived / 2.0;
                self.waits.add((middle_s - arrived_s).max(0.0), count);
                done += count;
            }
            if arrived - count > NONE {
                let arrived_s = from_s + span * (1.0 + count / arrived) / 2.0;
                self.cohorts.push_back(Cohort { arrived_s, count: arrived - count });
            }
        }
        self.waiting = (self.waiting + arrived - done).max(0.0);
        if self.cohorts.is_empty() {
            self.waiting = 0.0;
        }
        if done > 0.0 {
            let busy_s = if self.waiting > 0.0 || arrived > 0.0 { span } else { done / capacity };
            self.last_done_s = from_s + busy_s;
            self.working_since_s.get_or_insert(from_s);
            self.done_this_second += done;
        }
    }

    /// Hides the first `count` messages, for the worker that held them is lost, and answers them.
    pub(super) fn hide(&mut self, mut count: f64) -> Vec<Cohort> {
        let mut lost = Vec::new();
        while count > NONE
            && let Some(front) = self.cohorts.front_mut()
        {
            let part = front.count.min(count);
            front.count -= part;
            count -= part;
            lost.push(Cohort { arrived_s: front.arrived_s, count: part });
            self.waiting = (self.waiting - part).max(0.0);
            self.hidden += part;
            if front.count < NONE {
                self.cohorts.pop_front();
            }
        }
        lost
    }

    /// Shows messages again that were hidden, before all others.
    pub(super) fn show(&mut self, cohorts: Vec<Cohort>) {
        for cohort in cohorts.into_iter().rev() {
            self.hidden -= cohort.count;
            self.waiting += cohort.count;
            self.cohorts.push_front(cohort);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_is_first_served_and_waits_are_exact() {
        let mut queue = Queue::default();
        queue.fill(0.0, 10.0, 0.0);
        queue.drain(0.0, 1.0, 5.0);
        queue.fill(1.0, 10.0, 0.0);
        queue.drain(1.0, 2.0, 15.0);
        assert!(queue.is_empty());
        assert_eq!((queue.last_done_s(), queue.waits().count()), (2.0, 20.0));
        // The first five waited half a second in the middle, the next five from then to 1 1/6 s, the last ten to 2/3 s
        // after theirs.
        let waits = queue.waits().quantiles();
        assert!((waits.p50 - 2.0 / 3.0).abs() < 1e-9 && (waits.p99 - 7.0 / 6.0).abs() < 1e-9, "{waits:?}");
    }

    #[test]
    fn hidden_messages_come_back_first_and_have_waited_all_along() {
        let mut queue = Queue::default();
        queue.fill(0.0, 4.0, 0.0);
        let lost = queue.hide(3.0);
        assert_eq!((queue.waiting(), queue.hidden()), (1.0, 3.0));
        queue.drain(0.0, 1.0, 1.0);
        assert!(!queue.is_empty());
        queue.show(lost);
        queue.drain(30.0, 31.0, 3.0);
        assert!(queue.is_empty());
        assert!((queue.waits().quantiles().p99 - 30.5).abs() < 1e-9);
    }
}
