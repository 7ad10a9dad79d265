//! Tests of the decision.

use proptest::prelude::*;

use super::*;
use crate::config::Step;

/// A time of so many milliseconds.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

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
    let mut now = at(0);
    let mut told = Vec::new();
    for (visible, in_flight, busy) in readings {
        now = now + MINUTE;
        let seen = Observation {
            visible: *visible,
            in_flight: *in_flight,
            busy: *busy,
            rate: Some(10.0),
            flow: f64::from(*busy) * 5.0,
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
    let readings = [(50, 1, 1), (120, 1, 1), (1500, 3, 3), (600, 18, 18), (10, 9, 9), (0, 2, 2), (0, 0, 0), (0, 0, 0)];
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
    7: 32.6 images/s come, which 7 workers do with room for more: from 1 to 7 workers
    7: 2000 waiting and 60 in flight, work for 4 workers: low reading 1 of 3 before scaling in
    7: 700 waiting and 60 in flight, work for 2 workers: low reading 2 of 3 before scaling in
    4: 0 waiting and 6 in flight, work for 1 worker for 3 readings in a row: from 7 down to 4 workers
    4: 0 waiting and 9 in flight, work for 4 workers; nothing to do
    4: 0 waiting and 2 in flight, work for 2 workers: low reading 1 of 3 before scaling in
    4: the queue is empty: low reading 2 of 3 before scaling in
    "#);
}

#[test]
fn one_backlog_is_answered_once_and_a_deeper_one_by_the_difference() {
    let rules = Rules { cooldown_out: Duration::ZERO, warmup: Duration::from_secs(300), ..Rules::default() };
    let first = decide(&seen(150, 1), &rules, &History::default(), at(0));
    assert_eq!(first.target, 3);
    let starting = FleetState { in_service: 1, pending: 2, ..fleet(3) };
    let again = Observation { visible: 180, fleet: starting, ..Observation::default() };
    let second = decide(&again, &rules, &first.history, at(0) + MINUTE);
    assert_eq!(second.target, 3, "{}", second.reason);
    assert_eq!(second.reason, "180 messages wait; 2 workers are warming up, which answers them; nothing to do",);
    // In service, but not for long enough to have made a difference.
    let third = decide(&seen(180, 3), &rules, &second.history, at(0) + 2 * MINUTE);
    assert_eq!(third.target, 3, "{}", third.reason);
    let deeper = decide(&seen(600, 3), &rules, &third.history, at(0) + 3 * MINUTE);
    assert_eq!(deeper.target, 6, "{}", deeper.reason);
    let warm = decide(&seen(150, 6), &rules, &deeper.history, at(0) + 9 * MINUTE);
    assert_eq!(warm.target, 8, "{}", warm.reason);
}

#[test]
fn a_fleet_at_zero_starts_for_one_message_despite_cooldowns() {
    for policy in [Policy::Steps, Policy::Backlog] {
        let rules = Rules { policy, ..Rules::default() };
        let none = FleetState { min: 0, max: 5, ..FleetState::default() };
        let history = History { out_at: Some(at(0)), in_at: Some(at(9_000)), ..History::default() };
        let one = Observation { visible: 1, fleet: none, ..Observation::default() };
        assert_eq!(decide(&one, &rules, &history, at(10_000)).target, 1);
        let nothing = Observation { fleet: none, ..Observation::default() };
        assert_eq!(decide(&nothing, &rules, &history, at(10_000)).target, 0);
    }
}

#[test]
fn a_fleet_goes_to_zero_only_when_all_is_done() {
    let rules = Rules { low_readings: 1, ..Rules::default() };
    let one = FleetState { min: 0, max: 5, desired: 1, in_service: 1, ..FleetState::default() };
    let left = Observation { visible: 3, fleet: one, ..Observation::default() };
    assert_eq!(decide(&left, &rules, &History::default(), at(0)).target, 1);
    let done = Observation { fleet: one, ..Observation::default() };
    assert_eq!(decide(&done, &rules, &History::default(), at(0)).target, 0);
}

#[test]
fn the_rate_is_set_or_measured_or_remembered_and_never_guessed() {
    let rules = Rules { policy: Policy::Backlog, ..Rules::default() };
    let unknown = decide(&seen(100_000, 1), &rules, &History::default(), at(0));
    assert_eq!(unknown.target, 1);
    assert!(unknown.reason.contains("rate is known once"), "{}", unknown.reason);
    let set = Rules { rate: Some(100.0), max_step: 100, ..rules.clone() };
    assert_eq!(decide(&seen(60_000, 1), &set, &History::default(), at(0)).target, 10);
    let measured = Observation { rate: Some(100.0), ..seen(30_000, 1) };
    let measured = decide(&measured, &rules, &History::default(), at(0));
    assert_eq!(measured.target, 5);
    let remembered = decide(&seen(60_000, 5), &rules, &measured.history, at(0) + MINUTE);
    assert_eq!(remembered.target, 10);
}

#[test]
fn nothing_is_scaled_in_while_workers_start_or_after_a_recent_change() {
    let rules = Rules { low_readings: 1, ..Rules::default() };
    let starting =
        Observation { fleet: FleetState { in_service: 2, pending: 2, ..fleet(4) }, ..Observation::default() };
    let decision = decide(&starting, &rules, &History::default(), at(0));
    assert_eq!((decision.target, decision.reason.contains("still starting")), (4, true), "{}", decision.reason);
    let recent = History { out_at: Some(at(0)), ..History::default() };
    let decision = decide(&seen(0, 4), &rules, &recent, at(59_000));
    assert_eq!((decision.target, decision.reason.contains("wait 1s more")), (4, true), "{}", decision.reason);
    assert_eq!(decide(&seen(0, 4), &rules, &recent, at(60_000)).target, 1);
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
            rate: Some(rate).filter(|rate| *rate >= 5.0),
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
        protected in 0u32..60,
        rate in prop::option::of(0.1f64..100.0),
        flow in 0.0..500.0,
    ) -> Observation {
        let desired = desired.clamp(min, min + span);
        let pending = pending.min(desired);
        let in_service = desired - pending;
        let protected = protected.min(in_service);
        let fleet =
            FleetState { min, max: min + span, desired, in_service, pending, protected, ..FleetState::default() };
        Observation { visible, in_flight, busy: busy.min(in_service), rate, flow, fleet }
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
        minute in prop::option::of((0i64..300, depth())),
        arrivals in prop::option::of(0.0..500.0),
    ) -> History {
        History {
            last: last.map(|s| Reading { at: at(s * 1000), visible: 7, in_flight: 1 }),
            minute: minute.map(|(s, visible)| Reading { at: at(s * 1000), visible, in_flight: 1 }),
            arrivals,
            low,
            launches: launches.into_iter().map(|(s, workers)| Launch { at: at(s * 1000), workers }).collect(),
            out_at: out.map(|s| at(s * 1000)),
            in_at: into.map(|s| at(s * 1000)),
            rate,
        }
    }
}

const NOW: Timestamp = Timestamp::from_millis(300_000);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn made_up_rules_are_sound(rules in rules()) {
        prop_assert_eq!(rules.check(), Ok(()));
    }

    #[test]
    fn the_target_is_within_the_bounds(
        seen in observation(),
        rules in rules(),
        history in history(),
        desired in 0u32..99,
    ) {
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
        seen in observation(), rules in rules(), history in history(), later in 0u64..500,
    ) {
        let first = decide(&seen, &rules, &history, NOW);
        let acted = FleetState { desired: first.target, ..seen.fleet };
        for fleet in [seen.fleet, acted] {
            let now = NOW + Duration::from_millis(later);
            let second = decide(&Observation { fleet, ..seen }, &rules, &first.history, now);
            prop_assert_eq!(second.target, fleet.desired, "{}", second.reason);
        }
    }

    #[test]
    fn busy_workers_stay_unless_the_work_is_known(seen in observation(), rules in rules(), history in history()) {
        let decision = decide(&seen, &rules, &history, NOW);
        if rules.policy == Policy::Steps {
            prop_assert!(decision.target >= seen.busy.min(seen.fleet.desired));
            prop_assert_eq!(decision.release, 0);
        } else {
            prop_assert!(decision.target + decision.release <= seen.fleet.protected.max(decision.target));
            let rate = rules.rate.or(decision.history.rate);
            let arrivals = decision.history.arrivals;
            if let (Some(rate), Some(arrivals), true) = (rate, arrivals, decision.target < seen.fleet.desired) {
                let most = f64::from(decision.target) * rate;
                prop_assert!(arrivals <= most + 1e-6, "{}: {} of {}", decision.reason, arrivals, most);
            }
        }
    }

    #[test]
    fn no_scale_out_beyond_the_largest_step(seen in observation(), rules in rules(), history in history()) {
        let target = decide(&seen, &rules, &history, NOW).target;
        prop_assert!(target <= seen.fleet.desired + rules.max_step);
    }

    #[test]
    fn cooldowns_hold(seen in observation(), rules in rules(), history in history()) {
        let decision = decide(&seen, &rules, &history, NOW);
        let cooling = |at: Option<Timestamp>, span| remaining(at, span, NOW).is_some();
        if decision.target > seen.fleet.desired && seen.fleet.desired > 0 {
            prop_assert!(!cooling(history.out_at, rules.cooldown_out));
        }
        if decision.target < seen.fleet.desired {
            prop_assert!(!cooling(history.out_at, rules.cooldown_in));
            prop_assert!(!cooling(history.in_at, rules.cooldown_in));
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
