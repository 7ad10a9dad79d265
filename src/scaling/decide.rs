//! The scaling decision: from an observation and a memory to a desired capacity and a reason. Pure.
//!
//! - `steps` is step scaling as CloudWatch alarms do it: each step adds workers to those that are *warm*, so that a
//!   backlog which is being answered is not answered again, while a deeper one adds the difference. It scales in when
//!   the queue stays low, and never below the workers that are busy.
//! - `backlog` is AWS's backlog per instance: desired = ceil(messages / (acceptable latency x images a second of one
//!   worker)) (Amazon EC2 Auto Scaling, "Scaling policy based on Amazon SQS"). Workers that are starting count as
//!   workers. Where nothing waits it goes by utilisation: the images that come a second over those that the fleet
//!   could do, kept at latency / (latency + warm-up). The less a message may wait, the more room there has to be for
//!   what comes while further workers boot.
//!
//! Both scale in after several low readings in a row, to the most that any of those readings called for. `backlog`
//! knows what the work needs, so it lets surplus workers go although each of them has a little to do: they finish it,
//! and hand back the rest. With `steps` a worker that has work keeps its protection and stays.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    backend::FleetState,
    config::{Policy, Rules},
    contract::Timestamp,
};

/// `backlog` follows the utilisation only if that adds or saves a tenth of the fleet, so that it does not follow every
/// wave (the tolerance of Kubernetes' horizontal pod autoscaler).
const TOLERANCE: f64 = 0.1;

const MINUTE: Duration = Duration::from_secs(60);

/// What the policy looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Observation {
    /// Messages that wait.
    pub visible: u64,
    /// Messages that workers hold.
    pub in_flight: u64,
    /// Workers that hold messages.
    pub busy: u32,
    /// Measured images a second of one worker with all the work that it can do, if any was measured.
    pub rate: Option<f64>,
    /// Images that the fleet finished a second, over the last minute.
    pub flow: f64,
    /// The fleet.
    pub fleet: FleetState,
}

/// What the queue looked like when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When.
    #[serde(rename = "at_ms")]
    pub at: Timestamp,
    /// Messages that waited.
    pub visible: u64,
    /// Messages that workers held.
    pub in_flight: u64,
}

/// Workers that were asked for lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// When.
    #[serde(rename = "at_ms")]
    pub at: Timestamp,
    /// How many.
    pub workers: u32,
}

/// What the policy remembers from one decision to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The last reading.
    pub last: Option<Reading>,
    /// How many workers each of the last low readings in a row called for, oldest first.
    pub low: VecDeque<u32>,
    /// Launches within the warm-up time.
    pub launches: Vec<Launch>,
    /// The last scale-out.
    #[serde(rename = "out_at_ms")]
    pub out_at: Option<Timestamp>,
    /// The last scale-in.
    #[serde(rename = "in_at_ms")]
    pub in_at: Option<Timestamp>,
    /// The last rate that was measured, for a fleet that has been scaled to zero.
    pub rate: Option<f64>,
    /// The reading with which the present minute began.
    pub minute: Option<Reading>,
    /// Images that came a second, in the last whole minute.
    pub arrivals: Option<f64>,
}

/// How many workers there should be, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The desired capacity; the observed one if nothing is to be done.
    pub target: u32,
    /// A sentence for the log.
    pub reason: String,
    /// How many workers are to go although they are protected: they finish what they have begun and hand the rest back.
    pub release: u32,
    /// What to remember if the decision is carried out.
    pub history: History,
}

/// What a policy wants, before cool-downs and bounds.
struct Want {
    /// Scale out to so many workers, and why.
    out: Option<(u32, String)>,
    /// The reading is low and calls for so many workers only.
    low: Option<u32>,
    /// How things are, for a decision to do nothing.
    state: String,
}

/// Decides how many workers there should be.
///
/// The target is within the fleet's bounds, grows with the number of messages, and adds at most [`Rules::max_step`]
/// workers. Deciding again on the same reading, which is any within half of [`Rules::interval`], changes nothing.
#[must_use]
pub fn decide(seen: &Observation, rules: &Rules, history: &History, now: Timestamp) -> Decision {
    let fleet = &seen.fleet;
    let mut history = recall(history, rules, seen, now);
    if fleet.desired < fleet.min || fleet.desired > fleet.max {
        let target = fleet.desired.max(fleet.min).min(fleet.max);
        let reason =
            format!("the fleet is to have {} to {} workers: from {} to {target}", fleet.min, fleet.max, fleet.desired);
        return Decision { target, reason, release: 0, history };
    }
    if let Some(left) = history.last.and_then(|last| remaining(Some(last.at), rules.interval / 2, now)) {
        let reason = format!("this reading has just been answered; the next one counts in {}", in_words(left));
        return Decision { target: fleet.desired, reason, release: 0, history };
    }
    let reading = Reading { at: now, visible: seen.visible, in_flight: seen.in_flight };
    history.last = Some(reading);
    history.measure(reading, seen.flow);
    let want = match rules.policy {
        Policy::Steps => steps(seen, rules, &history),
        Policy::Backlog => backlog(seen, rules, &history),
    };
    history.note(want.low, rules);
    let turn = Turn { seen, rules, now };
    let mut decision = turn.out(&want, &history).unwrap_or_else(|| turn.down(&want, &history));
    if rules.policy == Policy::Backlog {
        decision.release = fleet.protected.min(fleet.in_service).saturating_sub(decision.target);
    }
    decision
}

/// One decision in the making: what it looks at.
struct Turn<'a> {
    seen: &'a Observation,
    rules: &'a Rules,
    now: Timestamp,
}

impl Turn<'_> {
    /// Scales out, or says why not yet; `None` if nothing calls for more workers.
    fn out(&self, want: &Want, history: &History) -> Option<Decision> {
        let Self { seen, rules, now } = *self;
        let fleet = &seen.fleet;
        let from_zero = fleet.desired == 0 && seen.visible > 0;
        let called_for = want.out.as_ref().map_or(0, |(wanted, _)| *wanted);
        let wanted = called_for.max(u32::from(from_zero)).min(fleet.max);
        let why = want.out.as_ref().map_or(&want.state, |(_, why)| why);
        if wanted <= fleet.desired {
            let is_full = want.out.is_some() && fleet.desired == fleet.max;
            return is_full
                .then(|| self.hold(history, format!("{why}, and {} are the most allowed", workers(fleet.max))));
        }
        let cooling = remaining(history.out_at, rules.cooldown_out, now).filter(|_| !from_zero);
        if let Some(left) = cooling {
            let reason = format!("{why}, but the last scale-out is too recent: wait {} more", in_words(left));
            return Some(self.hold(history, reason));
        }
        let target = wanted.min(fleet.desired.saturating_add(rules.max_step));
        let bound = if target < wanted {
            ", no more than that at a time"
        } else if target == fleet.max {
            ", the most allowed"
        } else {
            ""
        };
        let mut history = history.clone();
        history.out_at = Some(now);
        history.launches.push(Launch { at: now, workers: target - fleet.desired });
        let reason = format!("{why}: from {} to {}{bound}", fleet.desired, workers(target));
        Some(Decision { target, reason, release: 0, history })
    }

    /// Scales in, or says why not.
    fn down(&self, want: &Want, history: &History) -> Decision {
        let Self { seen, rules, now } = *self;
        let (fleet, state) = (&seen.fleet, &want.state);
        let wanted = history.low.iter().max().map(|most| self.floor().max(*most));
        let Some(target) = wanted.filter(|wanted| *wanted < fleet.desired) else {
            return self.hold(history, format!("{state}; nothing to do"));
        };
        let readings = history.low.len();
        if readings < rules.low_readings as usize {
            return self
                .hold(history, format!("{state}: low reading {readings} of {} before scaling in", rules.low_readings));
        }
        if fleet.pending > 0 {
            return self
                .hold(history, format!("{state}, but {} still starting; no scale-in meanwhile", are(fleet.pending)));
        }
        let changed = history.in_at.max(history.out_at);
        if let Some(left) = remaining(changed, rules.cooldown_in, now) {
            return self
                .hold(history, format!("{state}, but the last change is too recent: wait {} more", in_words(left)));
        }
        let stays = rules.policy == Policy::Steps && target > fleet.min && seen.busy > 0;
        let kept = if stays { ", busy workers stay" } else { "" };
        let down = format!("from {} down to {}{kept}", fleet.desired, workers(target));
        let mut history = history.clone();
        history.in_at = Some(now);
        history.low.clear();
        history.launches.clear();
        Decision { target, reason: format!("{state} for {readings} readings in a row: {down}"), release: 0, history }
    }

    /// What no scale-in goes below: the minimum, one while there is work, and with `steps` the busy workers.
    fn floor(&self) -> u32 {
        let Observation { fleet, visible, in_flight, busy, .. } = self.seen;
        let work = u32::from(*visible > 0 || *in_flight > 0);
        let busy = if self.rules.policy == Policy::Steps { *busy } else { 0 };
        fleet.min.max(busy.max(work).min(fleet.desired))
    }

    fn hold(&self, history: &History, reason: String) -> Decision {
        Decision { target: self.seen.fleet.desired, reason, release: 0, history: history.clone() }
    }
}

impl History {
    /// Measures arrivals from minute to minute: what was finished in it, and by how much the queue grew. Of a fleet
    /// that works off a backlog the first alone would tell how fast it is, and not what it has to expect.
    fn measure(&mut self, now: Reading, flow: f64) {
        // Nothing is known of the time since a reading of the future, from a clock that was set back.
        let passed = self.minute.and_then(|began| Some((began, now.at.checked_since(began.at)?)));
        if passed.is_some_and(|(_, time)| time < MINUTE) {
            return;
        }
        let total = |reading: Reading| reading.visible.saturating_add(reading.in_flight) as f64;
        // What happened since a reading of long ago says nothing of the last minute, unless nothing happened.
        let counts = |(began, time): &(Reading, Duration)| {
            let is_quiet = flow == 0.0 && total(*began) == 0.0 && total(now) == 0.0;
            *time <= 3 * MINUTE || is_quiet
        };
        let grown = |(began, time): (Reading, Duration)| (total(now) - total(began)) * 1000.0 / time.as_millis() as f64;
        self.arrivals = passed.filter(counts).map(|since| (flow + grown(since)).max(0.0));
        self.minute = Some(now);
    }

    /// Counts a low reading that calls for so many workers, or ends the row of them.
    fn note(&mut self, low: Option<u32>, rules: &Rules) {
        let Some(workers) = low else { return self.low.clear() };
        self.low.push_back(workers);
        while self.low.len() > rules.low_readings as usize {
            self.low.pop_front();
        }
    }
}

/// The memory as it is now: old launches forgotten, the newest rate kept.
fn recall(history: &History, rules: &Rules, seen: &Observation, now: Timestamp) -> History {
    let mut history = history.clone();
    history.launches.retain(|launch| remaining(Some(launch.at), rules.warmup, now).is_some());
    history.rate = seen.rate.filter(|rate| rate.is_finite() && *rate > 0.0).or(history.rate);
    history
}

/// The time until `span` has passed since `since`; `None` if it has. A time in the future, from a clock that was set
/// back, counts as passed.
fn remaining(since: Option<Timestamp>, span: Duration, now: Timestamp) -> Option<Duration> {
    let passed = now.checked_since(since?)?;
    (passed < span).then(|| span - passed)
}

/// Step scaling.
fn steps(seen: &Observation, rules: &Rules, history: &History) -> Want {
    let fleet = &seen.fleet;
    let launched = history.launches.iter().fold(0, |sum: u32, launch| sum.saturating_add(launch.workers));
    let warming = launched.max(fleet.desired.saturating_sub(fleet.in_service)).min(fleet.desired);
    let state = messages(seen);
    if let Some(step) = rules.step(seen.visible) {
        let why = format!("{state}, {} or more call for {} more", step.depth, workers(step.add));
        let wanted = (fleet.desired - warming).saturating_add(step.add);
        let answered = wanted <= fleet.desired && warming > 0;
        let state = if answered { format!("{state}; {} warming up, which answers them", are(warming)) } else { state };
        return Want { out: Some((wanted, why)).filter(|_| !answered), low: None, state };
    }
    let total = seen.visible.saturating_add(seen.in_flight);
    Want { out: None, low: (total <= rules.low).then_some(0), state }
}

/// Backlog per worker, and utilisation where nothing waits.
fn backlog(seen: &Observation, rules: &Rules, history: &History) -> Want {
    let fleet = &seen.fleet;
    let state = messages(seen);
    let total = seen.visible.saturating_add(seen.in_flight);
    let rate = rules.rate.or(history.rate);
    let Some(rate) = rate else {
        let state = if total > 0 {
            format!("{state}; a worker's rate is known once one has had all the work that it can do")
        } else {
            state
        };
        return Want { out: None, low: (total == 0).then_some(0), state };
    };
    let share = rules.latency.as_secs_f64() * rate;
    // Saturates at the largest u32, which the fleet's maximum then bounds.
    let needed = |messages: u64| (messages as f64 / share).ceil() as u32;
    let desired = f64::from(fleet.desired);
    let within = in_words(rules.latency);
    let waiting = needed(seen.visible);
    let of_waiting = (waiting > fleet.desired).then(|| {
        let why = format!("{state}, {} at {rate:.1} images/s clear them within {within}", workers(waiting));
        (waiting, why)
    });
    let steady = history.arrivals.map(|arrivals| arrivals / (rate * utilisation(rules)));
    let of_steady = steady.filter(|steady| *steady > desired * (1.0 + TOLERANCE)).map(|steady| {
        let (arrivals, steady) = (history.arrivals.unwrap_or_default(), steady.ceil() as u32);
        (steady, format!("{arrivals:.1} images/s come, which {} do with room for more", workers(steady)))
    });
    let steady = steady.map(|steady| steady.ceil() as u32);
    let state = if total > 0 {
        format!("{state}, work for {}", workers(needed(total).max(steady.unwrap_or(0))))
    } else {
        state
    };
    let low = if total == 0 && steady.is_none() { Some(0) } else { steady.map(|steady| needed(total).max(steady)) };
    let low = low.filter(|low| f64::from(*low) <= desired * (1.0 - TOLERANCE));
    Want { out: of_steady.max(of_waiting), low, state }
}

/// The share of what a fleet could do that `backlog` has it do. What comes above it waits until further workers have
/// warmed up, and may wait for the latency.
fn utilisation(rules: &Rules) -> f64 {
    let (latency, warmup) = (rules.latency.as_secs_f64(), rules.warmup.as_secs_f64());
    latency / (latency + warmup)
}

/// `1 worker`, `2 workers`.
fn workers(n: u32) -> String {
    format!("{n} worker{}", if n == 1 { "" } else { "s" })
}

/// `1 worker is`, `2 workers are`.
fn are(n: u32) -> String {
    format!("{} {}", workers(n), if n == 1 { "is" } else { "are" })
}

/// `5 messages wait and 3 are in flight`.
fn messages(seen: &Observation) -> String {
    match (seen.visible, seen.in_flight) {
        (0, 0) => "the queue is empty".to_owned(),
        (1, 0) => "1 message waits".to_owned(),
        (n, 0) => format!("{n} messages wait"),
        (n, held) => format!("{n} waiting and {held} in flight"),
    }
}

/// `1m 5s`, in whole seconds.
fn in_words(time: Duration) -> String {
    let seconds = time.as_millis().div_ceil(1000);
    humantime::format_duration(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))).to_string()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
