//! Tests of the simulation.

use super::*;
use crate::{
    config::Step,
    scaling::simulate::{Load, Rate, frontier, scenario::Worker, table},
};

fn named(name: &str) -> Scenario {
    let path = format!("{}/config/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Scenario::load(path.as_ref()).expect("the scenario is valid")
}

fn both(scenario: &Scenario) -> [Run; 2] {
    let rules = scenario.rules.clone().unwrap_or_default();
    [Policy::Steps, Policy::Backlog].map(|policy| run(scenario, &Rules { policy, ..rules.clone() }).expect("drains"))
}

fn steady(rate: f64, minutes: u64) -> Scenario {
    let lasts = Duration::from_secs(60 * minutes);
    Scenario { duration: lasts, ..Scenario::of("steady", vec![Load::Steady { rate: Rate(rate), lasts }]) }
}

const SIX: [&str; 6] = ["burst", "steady", "ramp", "sawtooth", "two-bursts", "noisy-day"];

#[test]
fn the_originals_readings_are_met_within_a_fifth() {
    let scenario = named("original-2021");
    let run = run(&scenario, scenario.rules.as_ref().expect("has rules")).expect("drains");
    let simulated: Vec<_> = run
        .timeline
        .iter()
        .filter(|sample| sample.t_s % 30.0 == 0.0)
        .map(|sample| sample.visible + sample.in_flight)
        .collect();
    assert_eq!(simulated, [2136, 2080, 2025, 1580, 1136, 692, 247]);
    let measured = [2136, 1998, 1741, 1305, 1000, 812, 509, 275];
    for (reading, measured) in measured.into_iter().enumerate() {
        let simulated = simulated.get(reading).copied().unwrap_or(0);
        assert!(simulated.abs_diff(measured) * 5 <= 2136, "reading {reading}: {simulated} for {measured}");
    }
    assert!((run.instance_minutes - 26.0).abs() < 0.5, "{}", run.instance_minutes);
}

#[test]
fn at_our_rate_the_originals_burst_calls_for_nobody() {
    let [steps, backlog] = both(&named("original-own-rate"));
    assert_eq!((backlog.actions, backlog.peak), (0, 1));
    assert!(backlog.drained_after_s < 30.0 && steps.drained_after_s < 30.0);
    assert!(
        steps.instance_minutes > 2.0 * backlog.instance_minutes,
        "{}",
        table(&named("original-own-rate"), &[steps])
    );
}

#[test]
fn backlog_is_on_the_frontier_of_each_load() {
    for name in SIX {
        let scenario = named(name);
        let rules = scenario.rules.clone().unwrap_or_default();
        let found = frontier(&scenario, &rules).expect("drains");
        let (_, as_set) = found.backlog.iter().find(|(latency, _)| *latency == rules.latency).expect("is tried");
        assert!(found.holds(as_set), "{name}");
        assert!(as_set.instance_minutes < found.steps.instance_minutes, "{name}");
    }
}

/// The geometric mean, in which each load counts the same, and the sum, in which the noisy day counts most.
#[test]
fn at_equal_wait_backlog_needs_four_fifths_on_the_whole() {
    let mut minutes = (0.0, 0.0);
    let shares = SIX.map(|name| {
        let scenario = named(name);
        let found = frontier(&scenario, &scenario.rules.clone().unwrap_or_default()).expect("drains");
        let (latency, backlog) = found.at_equal_wait().expect("is as quick with some latency");
        let share = backlog.instance_minutes / found.steps.instance_minutes;
        println!("{name}: {share:.2} with {}", humantime::format_duration(*latency));
        minutes = (minutes.0 + backlog.instance_minutes, minutes.1 + found.steps.instance_minutes);
        share
    });
    let pooled = minutes.0 / minutes.1;
    let whole = (shares.iter().map(|share| share.ln()).sum::<f64>() / shares.len() as f64).exp();
    println!("geometric mean {whole:.2}, pooled {pooled:.2}");
    assert!(pooled <= 0.8, "{pooled:.3}");
    assert!(whole <= 0.8 && shares.iter().all(|share| *share < 1.05), "{whole:.3}: {shares:.3?}");
}

#[test]
fn every_message_is_done_whatever_fails() {
    let mut scenario = steady(300.0, 30);
    let all = both(&scenario)[0].messages;
    scenario.worker.mean_time_to_failure = Duration::from_secs(300);
    for run in both(&scenario) {
        assert_eq!(run.messages, all);
        assert!(run.wait_s.p99 > 30.0, "{:?}", run.wait_s);
    }
}

#[test]
fn a_constant_load_is_not_flapped_at() {
    for workers in [0.3, 1.0, 2.5, 4.9, 9.99, 17.0] {
        for policy in [Policy::Steps, Policy::Backlog] {
            let rules = Rules { policy, ..Rules::default() };
            let run = run(&steady(80.0 * workers, 180), &rules).expect("drains");
            // The first hour is for finding the right size.
            let later: Vec<_> = run.timeline.iter().filter(|s| (3600.0..10_800.0).contains(&s.t_s)).collect();
            let changes = later.windows(2).filter(|pair| pair[0].desired != pair[1].desired).count();
            assert!(changes <= 2, "{policy} for {workers} workers' worth: {changes} changes");
        }
    }
}

#[test]
fn limits_of_the_services_hold() {
    let mut scenario = Scenario::of("burst", vec![Load::Burst { count: 80_000, at: Duration::ZERO }]);
    let rules = Rules { policy: Policy::Backlog, rate: Some(80.0), ..Rules::default() };
    let free = run(&scenario, &rules).expect("drains").drained_after_s;
    scenario.limits.queue_rate = 100.0;
    let queue = run(&scenario, &rules).expect("drains").drained_after_s;
    scenario.limits.queue_rate = 0.0;
    scenario.limits.instance_rate = 10.0;
    let instance = run(&scenario, &rules).expect("drains").drained_after_s;
    scenario.limits.instance_rate = 0.0;
    scenario.limits.in_flight = 40;
    let in_flight = run(&scenario, &rules).expect("drains").drained_after_s;
    assert!(
        free < 300.0 && queue >= 799.0 && instance > free + 100.0 && in_flight >= 999.0,
        "{queue} {instance} {in_flight}"
    );
}

#[test]
fn protected_workers_stay_and_idle_ones_leave() {
    let mut scenario = steady(100.0, 30);
    scenario.fleet.start = 20;
    let rules = Rules { steps: vec![Step { depth: 1_000_000, add: 1 }], low: 900_000, ..Rules::default() };
    let protected = run(&scenario, &rules).expect("drains");
    assert_eq!(protected.timeline.iter().map(|s| s.in_service).min(), Some(20));
    scenario.load.clear();
    scenario.load.push(Load::Burst { count: 1, at: Duration::ZERO });
    let idle = run(&scenario, &rules).expect("drains");
    assert_eq!(idle.timeline.last().map(|s| s.in_service), Some(1));
}

#[test]
fn a_fleet_that_cannot_catch_up_is_an_error() {
    let mut scenario = steady(800.0, 24 * 60);
    scenario.fleet.max = 2;
    let error = run(&scenario, &Rules::default()).expect_err("cannot").to_string();
    assert!(error.contains("fleet.max"), "{error}");
}

#[test]
fn millions_a_minute_on_thousands_of_instances() {
    let [_, backlog] = both(&named("internet"));
    assert!(backlog.peak > 1000 && backlog.messages > 200_000_000, "{backlog:?}");
}

#[test]
fn the_same_scenario_gives_the_same_figures() {
    let scenario = Scenario {
        worker: Worker { mean_time_to_failure: Duration::from_secs(900), ..Worker::default() },
        ..named("sawtooth")
    };
    assert_eq!(both(&scenario), both(&scenario));
}

#[test]
fn the_table_is_readable() {
    let scenario = named("original-own-rate");
    insta::assert_snapshot!(table(&scenario, &both(&scenario)), @r#"
    the original's burst at our rate: 2,136 messages. 80 images/s on each instance, 60 s to boot, at most 8 instances.

    policy   drained after  p50 wait  p95 wait  p99 wait  instance-minutes    cost  actions  peak
    steps              27s       14s       26s       26s              21.7  0.0042        2     8
    backlog            27s       14s       26s       26s              10.0  0.0019        0     1
    "#);
}
