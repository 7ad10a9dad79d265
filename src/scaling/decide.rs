//! The scaling decision: from an observation and a memory to a desired capacity and a reason. Pure.
//!
//! - `steps` is step scaling as CloudWatch alarms do it: each step adds workers to those that are *warm*, so that a backlog which is
//!   being answered is not answered again, while a deeper one adds the difference.
//! - `backlog` is AWS's backlog per instance: desired = ceil(messages / (acceptable latency x images a second of one worker))
//!   (Amazon EC2 Auto Scaling, "Scaling policy based on Amazon SQS"). Workers that are starting count as workers.
//!
//! Both scale out on visible messages. Both scale in after several low readings in a row, to the most that any of those readings
//! called for, and never below the workers that are busy: under a steady load the queue is empty and only they tell what is needed.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Policy, Rules};
use crate::backend::FleetState;

/// `backlog` scales in only if that saves a tenth of the fleet, so that it does not follow every wave
/// (the tolerance of Kubernetes' horizontal pod autoscaler).
const TOLERANCE: f64 = 0.1;

/// What the policy looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Observation {
    /// Messages that wait.
    pub visible: u64,
    /// Messages that workers hold.
    pub in_flight: u64,
    /// Workers that hold messages.
    pub busy: u32,
    /// Measured images a second of one busy worker, if any was measured.
    pub rate: Option<f64>,
    /// The fleet.
    pub fleet: FleetState,
}

/// What the queue looked like when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// Messages that waited.
    pub visible: u64,
    /// Messages that workers held.
    pub in_flight: u64,
}

/// Workers that were asked for lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
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
    /// The last scale-out, milliseconds since 1970.
    pub out_at_ms: Option<i64>,
    /// The last scale-in, milliseconds since 1970.
    pub in_at_ms: Option<i64>,
    /// The last rate that was measured, for a fleet that has been scaled to zero.
    pub rate: Option<f64>,
}

/// How many workers there should be, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The desired capacity; the observed one if nothing is to be done.
    pub target: u32,
    /// A sentence for the log.
    pub reason: String,
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
/// The target is within the fleet's bounds, grows with the number of messages, adds at most [`Rules::max_step`] workers, and is no
/// scale-in below the workers that are busy. Deciding again on the same reading, which is any within half of [`Rules::interval`],
/// changes nothing.
#[must_use]
pub fn decide(seen: &Observation, rules: &Rules, history: &History, now_ms: i64) -> Decision {
    let fleet = &seen.fleet;
    let mut history = recall(history, rules, seen, now_ms);
    let hold = |history: History, reason: String| Decision { target: fleet.desired, reason, history };

    if fleet.desired < fleet.min || fleet.desired > fleet.max {
        let target = fleet.desired.max(fleet.min).min(fleet.max);
        let reason =
            format!("the fleet is to have {} to {} workers: from {} to {target}", fleet.min, fleet.max, fleet.desired);
        return Decision { target, reason, history };
    }
    if let Some(left) = history.last.and_then(|last| remaining(Some(last.at_ms), rules.interval / 2, now_ms)) {
        return hold(
            history,
            format!("this reading has just been answered; the next one counts in {}", in_words(left)),
        );
    }
    history.last = Some(Reading { at_ms: now_ms, visible: seen.visible, in_flight: seen.in_flight });

    let want = match rules.policy {
        Policy::Steps => steps(seen, rules, &history),
        Policy::Backlog => backlog(seen, rules, &history),
    };
    match want.low {
        Some(workers) => {
            history.low.push_back(workers);
            while history.low.len() > rules.low_readings as usize {
                history.low.pop_front();
            }
        }
        None => history.low.clear(),
    }

    let from_zero = fleet.desired == 0 && seen.visible > 0;
    let wanted = want.out.as_ref().map_or(0, |(wanted, _)| *wanted).max(u32::from(from_zero)).min(fleet.max);
    if wanted > fleet.desired {
        let cooling = remaining(history.out_at_ms, rules.cooldown_out, now_ms).filter(|_| !from_zero);
        let target = wanted.min(fleet.desired.saturating_add(rules.max_step));
        let why = want.out.map_or(want.state, |(_, why)| why);
        if let Some(left) = cooling {
            return hold(history, format!("{why}, but the last scale-out is too recent: wait {} more", in_words(left)));
        }
        let bound = match () {
            () if target < wanted => ", no more than that at a time",
            () if target == fleet.max => ", the most allowed",
            () => "",
        };
        history.out_at_ms = Some(now_ms);
        history.launches.push(Launch { at_ms: now_ms, workers: target - fleet.desired });
        return Decision {
            target,
            reason: format!("{why}: from {} to {}{bound}", fleet.desired, workers(target)),
            history,
        };
    }
    if let Some((_, why)) = want.out.filter(|_| fleet.desired == fleet.max) {
        return hold(history, format!("{why}, and {} are the most allowed", workers(fleet.max)));
    }

    let wanted = history.low.iter().max().map(|most| floor(seen).max(*most));
    let Some(target) = wanted.filter(|wanted| *wanted < fleet.desired) else {
        return hold(history, format!("{}; nothing to do", want.state));
    };
    let readings = history.low.len();
    if readings < rules.low_readings as usize {
        let reason = format!("{}: low reading {readings} of {} before scaling in", want.state, rules.low_readings);
        return hold(history, reason);
    }
    if fleet.pending > 0 {
        return hold(
            history,
            format!("{}, but {} still starting; no scale-in meanwhile", want.state, are(fleet.pending)),
        );
    }
    let changed = history.in_at_ms.max(history.out_at_ms);
    if let Some(left) = remaining(changed, rules.cooldown_in, now_ms) {
        return hold(
            history,
            format!("{}, but the last change is too recent: wait {} more", want.state, in_words(left)),
        );
    }
    let kept = if target > fleet.min && seen.busy > 0 { ", busy workers stay" } else { "" };
    let reason = format!(
        "{} for {readings} readings in a row: from {} down to {}{kept}",
        want.state,
        fleet.desired,
        workers(target)
    );
    history.in_at_ms = Some(now_ms);
    history.low.clear();
    history.launches.clear();
    Decision { target, reason, history }
}

/// The memory as it is now: old launches forgotten, the newest rate kept.
fn recall(history: &History, rules: &Rules, seen: &Observation, now_ms: i64) -> History {
    let mut history = history.clone();
    history.launches.retain(|launch| remaining(Some(launch.at_ms), rules.warmup, now_ms).is_some());
    history.rate = seen.rate.filter(|rate| rate.is_finite() && *rate > 0.0).or(history.rate);
    history
}

/// Milliseconds until `span` has passed since `since`; `None` if it has. A time in the future, from a clock that was set back,
/// counts as passed.
fn remaining(since: Option<i64>, span: Duration, now_ms: i64) -> Option<i64> {
    let passed = now_ms.saturating_sub(since?);
    let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    (0..span).contains(&passed).then(|| span - passed)
}

/// What no scale-in goes below: the minimum, the busy workers, and one while there is work.
fn floor(seen: &Observation) -> u32 {
    let fleet = &seen.fleet;
    let work = u32::from(seen.visible > 0 || seen.in_flight > 0);
    fleet.min.max(seen.busy.max(work).min(fleet.desired))
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

/// Backlog per worker.
fn backlog(seen: &Observation, rules: &Rules, history: &History) -> Want {
    let fleet = &seen.fleet;
    let state = messages(seen);
    let total = seen.visible.saturating_add(seen.in_flight);
    let rate = Some(rules.rate).filter(|rate| *rate > 0.0).or(history.rate);
    let Some(rate) = rate else {
        let state =
            if total > 0 { format!("{state}; a worker's rate is known once one has finished images") } else { state };
        return Want { out: None, low: (total == 0).then_some(0), state };
    };
    let share = rules.latency.as_secs_f64() * rate;
    // Saturates at the largest u32, which the fleet's maximum then bounds.
    let needed = |messages: u64| (messages as f64 / share).ceil() as u32;
    let calm = f64::from(needed(total)) <= f64::from(fleet.desired) * (1.0 - TOLERANCE);
    let out = needed(seen.visible);
    let within = in_words(i64::try_from(rules.latency.as_millis()).unwrap_or(i64::MAX));
    let why = format!("{state}, {} at {rate:.1} images/s clear them within {within}", workers(out));
    let state = if total > 0 { format!("{state}, work for {}", workers(needed(total))) } else { state };
    // Under a steady load the queue is empty and the busy workers tell what is needed, in each reading, since any one may find some
    // of them idle. While more waits than they hold they work off a backlog, which tells nothing of what comes after it.
    let steady = if seen.visible > seen.in_flight { 0 } else { seen.busy };
    Want { out: (out > fleet.desired).then_some((out, why)), low: calm.then(|| needed(total).max(steady)), state }
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

/// Milliseconds as `1m 5s`.
fn in_words(ms: i64) -> String {
    let seconds = u64::try_from(ms).unwrap_or(0).div_ceil(1000);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scaling::Step;

    const MINUTE: i64 = 60_000;

    fn fleet(desired: u32) -> FleetState {
        FleetState { min: 1, max: 20, desired, in_service: desired, ..FleetState::default() }
    }

    fn seen(visible: u64, desired: u32) -> Observation {
        Observation { visible, fleet: fleet(desired), ..Observation::default() }
    }

    /// Decides on one reading a minute; a fleet does at once as it is told.
    fn story(rules: &Rules, start: u32, readings: &[(u64, u64, u32)]) -> Vec<(u32, String)> {
        let mut history = History::default();
        let mut desired = start;
        let mut now = 0;
        let mut told = Vec::new();
        for (visible, in_flight, busy) in readings {
            now += MINUTE;
            let seen = Observation {
                visible: *visible,
                in_flight: *in_flight,
                busy: *busy,
                rate: Some(10.0),
                fleet: fleet(desired),
            };
            let decision = decide(&seen, rules, &history, now);
            desired = decision.target;
            history = decision.history;
            told.push((desired, decision.reason));
        }
        told
    }

    #[test]
    fn steps_tell_a_story() {
        let readings =
            [(50, 1, 1), (120, 1, 1), (1500, 3, 3), (600, 18, 18), (10, 9, 9), (0, 2, 2), (0, 0, 0), (0, 0, 0)];
        let told = story(&Rules::default(), 1, &readings);
        let told: Vec<_> = told.iter().map(|(target, reason)| format!("{target}: {reason}")).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        1: 50 waiting and 1 in flight; nothing to do
        3: 120 waiting and 1 in flight, 100 or more call for 2 workers more: from 1 to 3 workers
        18: 1500 waiting and 3 in flight, 1000 or more call for 15 workers more: from 3 to 18 workers
        20: 600 waiting and 18 in flight, 500 or more call for 5 workers more: from 18 to 20 workers, the most allowed
        20: 10 waiting and 9 in flight: low reading 1 of 3 before scaling in
        20: 0 waiting and 2 in flight: low reading 2 of 3 before scaling in
        1: the queue is empty for 3 readings in a row: from 20 down to 1 worker
        1: the queue is empty; nothing to do
        "#);
    }

    #[test]
    fn backlog_tells_a_story() {
        let rules = Rules { policy: Policy::Backlog, ..Rules::default() };
        let readings =
            [(500, 0, 0), (2136, 20, 1), (2000, 60, 4), (700, 60, 4), (0, 6, 2), (0, 9, 3), (0, 2, 2), (0, 0, 0)];
        let told = story(&rules, 1, &readings);
        let told: Vec<_> = told.iter().map(|(target, reason)| format!("{target}: {reason}")).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        1: 500 messages wait, work for 1 worker; nothing to do
        4: 2136 waiting and 20 in flight, 4 workers at 10.0 images/s clear them within 1m: from 1 to 4 workers
        4: 2000 waiting and 60 in flight, work for 4 workers; nothing to do
        4: 700 waiting and 60 in flight, work for 2 workers; nothing to do
        4: 0 waiting and 6 in flight, work for 1 worker: low reading 2 of 3 before scaling in
        3: 0 waiting and 9 in flight, work for 1 worker for 3 readings in a row: from 4 down to 3 workers, busy workers stay
        3: 0 waiting and 2 in flight, work for 1 worker: low reading 1 of 3 before scaling in
        3: the queue is empty: low reading 2 of 3 before scaling in
        "#);
    }

    #[test]
    fn one_backlog_is_answered_once_and_a_deeper_one_by_the_difference() {
        let rules = Rules { cooldown_out: Duration::ZERO, warmup: Duration::from_secs(300), ..Rules::default() };
        let first = decide(&seen(150, 1), &rules, &History::default(), 0);
        assert_eq!(first.target, 3);
        let starting = FleetState { in_service: 1, pending: 2, ..fleet(3) };
        let again = Observation { visible: 180, fleet: starting, ..Observation::default() };
        let second = decide(&again, &rules, &first.history, MINUTE);
        assert_eq!(second.target, 3, "{}", second.reason);
        assert_eq!(second.reason, "180 messages wait; 2 workers are warming up, which answers them; nothing to do",);
        // In service, but not for long enough to have made a difference.
        let third = decide(&seen(180, 3), &rules, &second.history, 2 * MINUTE);
        assert_eq!(third.target, 3, "{}", third.reason);
        let deeper = decide(&seen(600, 3), &rules, &third.history, 3 * MINUTE);
        assert_eq!(deeper.target, 6, "{}", deeper.reason);
        let warm = decide(&seen(150, 6), &rules, &deeper.history, 9 * MINUTE);
        assert_eq!(warm.target, 8, "{}", warm.reason);
    }

    #[test]
    fn a_fleet_at_zero_starts_for_one_message_despite_cooldowns() {
        for policy in [Policy::Steps, Policy::Backlog] {
            let rules = Rules { policy, ..Rules::default() };
            let none = FleetState { min: 0, max: 5, ..FleetState::default() };
            let history = History { out_at_ms: Some(0), in_at_ms: Some(9_000), ..History::default() };
            let one = Observation { visible: 1, fleet: none, ..Observation::default() };
            assert_eq!(decide(&one, &rules, &history, 10_000).target, 1);
            let nothing = Observation { fleet: none, ..Observation::default() };
            assert_eq!(decide(&nothing, &rules, &history, 10_000).target, 0);
        }
    }

    #[test]
    fn a_fleet_goes_to_zero_only_when_all_is_done() {
        let rules = Rules { low_readings: 1, ..Rules::default() };
        let one = FleetState { min: 0, max: 5, desired: 1, in_service: 1, ..FleetState::default() };
        let left = Observation { visible: 3, fleet: one, ..Observation::default() };
        assert_eq!(decide(&left, &rules, &History::default(), 0).target, 1);
        let done = Observation { fleet: one, ..Observation::default() };
        assert_eq!(decide(&done, &rules, &History::default(), 0).target, 0);
    }

    #[test]
    fn the_rate_is_set_or_measured_or_remembered_and_never_guessed() {
        let rules = Rules { policy: Policy::Backlog, ..Rules::default() };
        let unknown = decide(&seen(100_000, 1), &rules, &History::default(), 0);
        assert_eq!(unknown.target, 1);
        assert!(unknown.reason.contains("rate is known once"), "{}", unknown.reason);
        let set = Rules { rate: 100.0, max_step: 100, ..rules.clone() };
        assert_eq!(decide(&seen(60_000, 1), &set, &History::default(), 0).target, 10);
        let measured = Observation { rate: Some(100.0), ..seen(30_000, 1) };
        let measured = decide(&measured, &rules, &History::default(), 0);
        assert_eq!(measured.target, 5);
        let remembered = decide(&seen(60_000, 5), &rules, &measured.history, MINUTE);
        assert_eq!(remembered.target, 10);
    }

    #[test]
    fn nothing_is_scaled_in_while_workers_start_or_after_a_recent_change() {
        let rules = Rules { low_readings: 1, ..Rules::default() };
        let starting =
            Observation { fleet: FleetState { in_service: 2, pending: 2, ..fleet(4) }, ..Observation::default() };
        let decision = decide(&starting, &rules, &History::default(), 0);
        assert_eq!((decision.target, decision.reason.contains("still starting")), (4, true), "{}", decision.reason);
        let recent = History { out_at_ms: Some(0), ..History::default() };
        let decision = decide(&seen(0, 4), &rules, &recent, 59_000);
        assert_eq!((decision.target, decision.reason.contains("wait 1s more")), (4, true), "{}", decision.reason);
        assert_eq!(decide(&seen(0, 4), &rules, &recent, 60_000).target, 1);
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let steps = prop::collection::btree_map(21u64..3000, 1u32..20, 1..5).prop_map(|steps| {
            let mut adds: Vec<_> = steps.values().copied().collect();
            adds.sort_unstable();
            steps.into_keys().zip(adds).map(|(depth, add)| Step { depth, add }).collect::<Vec<_>>()
        });
        let times = (0u64..200, 0u64..200, 0u64..200, 1u64..200, 1u64..60);
        (any::<bool>(), steps, times, 0.0..50.0, 1u32..5, 1u32..40).prop_map(
            |(backlog, steps, (out, into, warmup, latency, interval), rate, low_readings, max_step)| Rules {
                policy: if backlog { Policy::Backlog } else { Policy::Steps },
                interval: Duration::from_secs(interval),
                steps,
                low: 20,
                latency: Duration::from_secs(latency),
                rate: if rate < 5.0 { 0.0 } else { rate },
                low_readings,
                cooldown_out: Duration::from_secs(out),
                cooldown_in: Duration::from_secs(into),
                warmup: Duration::from_secs(warmup),
                max_step,
            },
        )
    }

    fn depth() -> impl Strategy<Value = u64> {
        prop_oneof![3 => 0u64..30, 3 => 0u64..3000, 1 => 0u64..10_000_000]
    }

    prop_compose! {
        fn observation()(
            visible in depth(),
            in_flight in depth(),
            min in 0u32..5,
            span in 0u32..60,
            desired in 0u32..60,
            pending in 0u32..3,
            busy in 0u32..60,
            rate in prop::option::of(0.1f64..100.0),
        ) -> Observation {
            let desired = desired.clamp(min, min + span);
            let pending = pending.min(desired);
            let in_service = desired - pending;
            let fleet = FleetState { min, max: min + span, desired, in_service, pending, ..FleetState::default() };
            Observation { visible, in_flight, busy: busy.min(in_service), rate, fleet }
        }
    }

    prop_compose! {
        fn history()(
            last in prop::option::of(0i64..300),
            low in prop::collection::vec_deque(0u32..60, 0..5),
            launches in prop::collection::vec((0i64..300, 1u32..20), 0..3),
            out in prop::option::of(0i64..300),
            into in prop::option::of(0i64..300),
            rate in prop::option::of(0.1f64..100.0),
        ) -> History {
            History {
                last: last.map(|s| Reading { at_ms: s * 1000, visible: 7, in_flight: 1 }),
                low,
                launches: launches.into_iter().map(|(s, workers)| Launch { at_ms: s * 1000, workers }).collect(),
                out_at_ms: out.map(|s| s * 1000),
                in_at_ms: into.map(|s| s * 1000),
                rate,
            }
        }
    }

    const NOW: i64 = 300_000;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn made_up_rules_are_sound(rules in rules()) {
            prop_assert_eq!(rules.check(), Ok(()));
        }

        #[test]
        fn the_target_is_within_the_bounds(seen in observation(), rules in rules(), history in history(), desired in 0u32..99) {
            let mut seen = seen;
            for desired in [seen.fleet.desired, desired] {
                seen.fleet.desired = desired;
                let target = decide(&seen, &rules, &history, NOW).target;
                prop_assert!((seen.fleet.min..=seen.fleet.max).contains(&target));
            }
        }

        #[test]
        fn more_depth_never_means_fewer(
            seen in observation(), rules in rules(), history in history(), more in depth(), more_in_flight in depth(),
        ) {
            let fewer = decide(&seen, &rules, &history, NOW);
            let deeper = Observation { visible: seen.visible + more, in_flight: seen.in_flight + more_in_flight, ..seen };
            let deeper = decide(&deeper, &rules, &history, NOW);
            prop_assert!(deeper.target >= fewer.target, "{} but {}", fewer.reason, deeper.reason);
        }

        #[test]
        fn a_second_run_on_the_same_reading_changes_nothing(
            seen in observation(), rules in rules(), history in history(), later in 0i64..500,
        ) {
            let first = decide(&seen, &rules, &history, NOW);
            let acted = FleetState { desired: first.target, ..seen.fleet };
            for fleet in [seen.fleet, acted] {
                let second = decide(&Observation { fleet, ..seen }, &rules, &first.history, NOW + later);
                prop_assert_eq!(second.target, fleet.desired, "{}", second.reason);
            }
        }

        #[test]
        fn no_scale_in_below_the_busy_workers(seen in observation(), rules in rules(), history in history()) {
            let target = decide(&seen, &rules, &history, NOW).target;
            prop_assert!(target >= seen.busy.min(seen.fleet.desired));
        }

        #[test]
        fn no_scale_out_beyond_the_largest_step(seen in observation(), rules in rules(), history in history()) {
            let target = decide(&seen, &rules, &history, NOW).target;
            prop_assert!(target <= seen.fleet.desired + rules.max_step);
        }

        #[test]
        fn cooldowns_hold(seen in observation(), rules in rules(), history in history()) {
            let decision = decide(&seen, &rules, &history, NOW);
            let cooling = |at: Option<i64>, span| remaining(at, span, NOW).is_some();
            if decision.target > seen.fleet.desired && seen.fleet.desired > 0 {
                prop_assert!(!cooling(history.out_at_ms, rules.cooldown_out));
            }
            if decision.target < seen.fleet.desired {
                prop_assert!(!cooling(history.out_at_ms, rules.cooldown_in));
                prop_assert!(!cooling(history.in_at_ms, rules.cooldown_in));
                prop_assert_eq!(seen.fleet.pending, 0);
            }
        }

        #[test]
        fn the_memory_survives_json_and_stays_small(seen in observation(), rules in rules(), history in history()) {
            let decision = decide(&seen, &rules, &history, NOW);
            prop_assert!(decision.history.low.len() <= 5 && decision.history.launches.len() <= 4);
            let text = serde_json::to_string(&decision.history).expect("serializes");
            let back: History = serde_json::from_str(&text).expect("parses");
            prop_assert_eq!(back.launches, decision.history.launches);
        }
    }
}
