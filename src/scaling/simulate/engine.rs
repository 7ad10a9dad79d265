//! The event loop: workers and fleet manager around the queue, from event to event.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp, LogNormal};

use super::{
    Scenario, ScenarioError,
    load::Arrivals,
    queue::{Cohort, Queue},
    report::{Run, Sample},
};
use crate::{
    backend::FleetState,
    scaling::{History, Observation, Policy, Rules, decide},
};

/// How long the fleet may take to clear what a load has left behind.
const PATIENCE: Duration = Duration::from_secs(2 * 86_400);

/// A worker's rate is known so many seconds after the first one began to work: heartbeats come every ten seconds.
const MEASURED_AFTER_S: f64 = 10.0;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pending,
    InService,
    Terminating,
}

#[derive(Debug, Clone, Copy)]
struct Instance {
    launched_s: f64,
    phase: Phase,
}

/// What happens at a time.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    /// The queue gets the arrivals of the next second, and the fleet's manager looks at its workers.
    Second,
    /// The policy decides.
    Tick,
    /// A worker begins to work.
    Ready(u64),
    /// A worker is lost.
    Failed(u64),
    /// A worker is off the bill.
    Gone(u64),
    /// Messages of a lost worker are visible again.
    Visible(Vec<Cohort>),
}

/// An event with its time; earlier ones first, and of those at the same time the one that was planned first.
#[derive(Debug)]
struct Planned {
    at_s: f64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_s.total_cmp(&self.at_s).then(other.order.cmp(&self.order))
    }
}

struct Engine<'a> {
    scenario: &'a Scenario,
    now_s: f64,
    events: BinaryHeap<Planned>,
    planned: u64,
    rng: StdRng,
    queue: Queue,
    instances: BTreeMap<u64, Instance>,
    pending: u32,
    in_service: u32,
    terminating: u32,
    desired: u32,
    launched: u64,
    billed_s: f64,
}

/// Simulates the scenario under `rules`.
///
/// # Errors
/// [`ScenarioError::NeverDrains`] if the fleet cannot catch up with the load.
pub fn run(scenario: &Scenario, rules: &Rules) -> Result<Run, ScenarioError> {
    let mut arrivals = Arrivals::new(&scenario.load, scenario.noise, scenario.random, scenario.seed);
    let ends_s = arrivals.ends_s();
    let until_s = scenario.duration.as_secs_f64();
    let mut engine = Engine::new(scenario);
    let mut history = History::default();
    let (mut actions, mut peak) = (0, scenario.fleet.start);
    let mut timeline = Vec::new();
    let mut ticks = 0.0;
    engine.plan(0.0, Event::Second);
    engine.plan(0.0, Event::Tick);
    while let Some(Planned { at_s, event, .. }) = engine.events.pop() {
        engine.advance(at_s);
        match event {
            Event::Second => {
                if engine.queue.is_empty() && at_s > ends_s && at_s >= until_s {
                    break;
                }
                if at_s > ends_s.max(until_s) + PATIENCE.as_secs_f64() {
                    let after = humantime::format_duration(PATIENCE);
                    return Err(ScenarioError::NeverDrains { left: engine.queue.waiting().ceil() as u64, after });
                }
                let (at_once, over_the_second) = arrivals.second(at_s);
                engine.next_second(at_once, over_the_second);
            }
            Event::Tick => {
                let seen = engine.observe();
                let decision = decide(&seen, rules, &history, (at_s * 1000.0).round() as i64);
                history = decision.history;
                if decision.target != engine.desired {
                    actions += 1;
                    engine.desired = decision.target;
                    engine.converge();
                }
                timeline.push(engine.sample(at_s, rules.policy));
                ticks += 1.0;
                engine.plan(ticks * rules.interval.as_secs_f64(), Event::Tick);
            }
            Event::Ready(id) => engine.ready(id),
            Event::Failed(id) => engine.fail(id),
            Event::Gone(id) => engine.gone(id),
            Event::Visible(cohorts) => engine.queue.show(cohorts),
        }
        peak = peak.max(engine.in_service);
    }
    // Without a set duration the account closes with the last message.
    let end_s = if until_s > 0.0 { engine.now_s } else { engine.queue.last_done_s() };
    engine.queue.rest();
    timeline.push(engine.sample(end_s, rules.policy));
    let running: f64 = engine.instances.values().map(|instance| (end_s - instance.launched_s).max(0.0)).sum();
    let instance_s = engine.billed_s + running;
    Ok(Run {
        policy: rules.policy,
        drained_after_s: engine.queue.last_done_s(),
        messages: engine.queue.waits().count().round() as u64,
        instance_minutes: instance_s / 60.0,
        cost: instance_s / 3600.0 * scenario.worker.price_per_hour,
        wait_s: engine.queue.waits().quantiles(),
        actions,
        peak,
        timeline,
    })
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let start = scenario.fleet.start;
        let mut engine = Self {
            scenario,
            now_s: 0.0,
            events: BinaryHeap::new(),
            planned: 0,
            // Not the arrivals' stream: both policies meet the same load, however many workers they launch.
            rng: StdRng::seed_from_u64(scenario.seed ^ 0x5ca1_ab1e),
            queue: Queue::default(),
            instances: BTreeMap::new(),
            pending: 0,
            in_service: 0,
            terminating: 0,
            desired: start,
            launched: 0,
            billed_s: 0.0,
        };
        for _ in 0..start {
            let id = engine.launch();
            engine.ready(id);
        }
        engine
    }

    fn plan(&mut self, at_s: f64, event: Event) {
        self.planned += 1;
        self.events.push(Planned { at_s, order: self.planned, event });
    }

    /// Images a second of one worker under the limit on its calls.
    fn rate(&self) -> f64 {
        let limit = self.scenario.limits.instance_rate;
        if limit > 0.0 { self.scenario.worker.rate.min(limit) } else { self.scenario.worker.rate }
    }

    /// Workers that get messages: where the queue allows no more in flight, the rest get none.
    fn served(&self) -> u32 {
        let allowed = self.scenario.limits.in_flight / u64::from(self.scenario.worker.holds);
        self.in_service.min(u32::try_from(allowed).unwrap_or(u32::MAX))
    }

    /// Images a second of the fleet.
    fn capacity(&self) -> f64 {
        let all = f64::from(self.served()) * self.rate();
        let limit = self.scenario.limits.queue_rate;
        if limit > 0.0 { all.min(limit) } else { all }
    }

    /// Lets time pass until `to_s`.
    fn advance(&mut self, to_s: f64) {
        self.queue.drain(self.now_s, to_s, self.capacity());
        self.now_s = to_s;
    }

    fn next_second(&mut self, at_once: f64, over_the_second: f64) {
        self.queue.fill(self.now_s, at_once, over_the_second);
        if self.desired != self.pending + self.in_service {
            self.converge();
        }
        self.plan(self.now_s + 1.0, Event::Second);
    }

    /// Messages that the workers hold because more wait.
    fn held(&self) -> f64 {
        self.queue.waiting().min(f64::from(self.served()) * f64::from(self.scenario.worker.holds))
    }

    /// Messages that the workers hold: what waits in them, or what passes through them (Little's law).
    fn in_flight(&self) -> f64 {
        self.held().max(self.queue.flow() * self.scenario.worker.takes.as_secs_f64())
    }

    /// How many of `n` workers get none of `messages` that come to any of them by chance.
    fn without(&self, messages: f64) -> f64 {
        let n = f64::from(self.served());
        if n > 0.0 { n * (-messages / n).exp() } else { 0.0 }
    }

    /// Workers that hold messages.
    fn busy(&self) -> u32 {
        self.served() - self.without(self.in_flight()).floor() as u32
    }

    /// Workers that nothing protects from scale-in: those without work for long enough, or all.
    fn unprotected(&self) -> u32 {
        let (n, worker) = (self.in_service, &self.scenario.worker);
        match () {
            () if !self.scenario.fleet.protection => n,
            () if self.queue.waiting() > 0.0 => n - self.served(),
            () => n - self.served() + self.without(self.queue.flow() * worker.idle.as_secs_f64()).floor() as u32,
        }
    }

    fn observe(&self) -> Observation {
        let (held, in_flight) = (self.held(), self.in_flight());
        let known = self.queue.working_since_s().is_some_and(|since| self.now_s - since >= MEASURED_AFTER_S);
        Observation {
            visible: (self.queue.waiting() - held).round() as u64,
            in_flight: (in_flight + self.queue.hidden()).round() as u64,
            busy: self.busy(),
            rate: known.then(|| self.rate()),
            fleet: FleetState {
                min: self.scenario.fleet.min,
                max: self.scenario.fleet.max,
                desired: self.desired,
                in_service: self.in_service,
                pending: self.pending,
                terminating: self.terminating,
                protected: self.in_service - self.unprotected(),
            },
        }
    }

    fn sample(&self, t_s: f64, policy: Policy) -> Sample {
        let Observation { visible, in_flight, .. } = self.observe();
        Sample { t_s, policy, visible, in_flight, desired: self.desired, in_service: self.in_service }
    }

    /// The fleet's manager: starts workers that are missing, and ends those too many that are not protected.
    fn converge(&mut self) {
        let boot = &self.scenario.worker;
        let spread = LogNormal::new(boot.boot.as_secs_f64().max(1e-3).ln(), boot.boot_spread).ok();
        while self.pending + self.in_service < self.desired {
            let id = self.launch();
            let after_s = spread.as_ref().map_or(0.0, |spread| spread.sample(&mut self.rng));
            self.plan(self.now_s + after_s, Event::Ready(id));
        }
        let mut surplus = (self.pending + self.in_service).saturating_sub(self.desired);
        if surplus == 0 {
            return;
        }
        let mut allowed = self.unprotected();
        // The newest first: a worker that starts has done nothing yet.
        let ids: Vec<u64> = self.instances.keys().rev().copied().collect();
        for id in ids {
            if surplus == 0 {
                break;
            }
            let Some(instance) = self.instances.get_mut(&id) else { continue };
            match instance.phase {
                Phase::Terminating => continue,
                Phase::Pending => self.pending -= 1,
                Phase::InService if allowed == 0 => continue,
                Phase::InService => {
                    allowed -= 1;
                    self.in_service -= 1;
                }
            }
            instance.phase = Phase::Terminating;
            self.terminating += 1;
            surplus -= 1;
            self.plan(self.now_s + self.scenario.worker.stop.as_secs_f64(), Event::Gone(id));
        }
    }

    fn launch(&mut self) -> u64 {
        self.launched += 1;
        self.pending += 1;
        self.instances.insert(self.launched, Instance { launched_s: self.now_s, phase: Phase::Pending });
        self.launched
    }

    fn ready(&mut self, id: u64) {
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.phase == Phase::Pending) else {
            return;
        };
        instance.phase = Phase::InService;
        self.pending -= 1;
        self.in_service += 1;
        let mean_s = self.scenario.worker.mean_time_to_failure.as_secs_f64();
        if mean_s > 0.0
            && let Ok(exp) = Exp::new(1.0 / mean_s)
        {
            let after_s: f64 = exp.sample(&mut self.rng);
            self.plan(self.now_s + after_s, Event::Failed(id));
        }
    }

    /// A worker is lost with the messages that it holds; they come back after the visibility time-out, and another is launched.
    fn fail(&mut self, id: u64) {
        if self.instances.get(&id).is_none_or(|instance| instance.phase != Phase::InService) {
            return;
        }
        let lost = self.held() / f64::from(self.served().max(1));
        self.in_service -= 1;
        self.bill(id);
        let cohorts = self.queue.hide(lost);
        if !cohorts.is_empty() {
            self.plan(self.now_s + self.scenario.limits.visibility.as_secs_f64(), Event::Visible(cohorts));
        }
        self.converge();
    }

    fn gone(&mut self, id: u64) {
        if self.instances.get(&id).is_some_and(|instance| instance.phase == Phase::Terminating) {
            self.terminating -= 1;
            self.bill(id);
        }
    }

    fn bill(&mut self, id: u64) {
        if let Some(instance) = self.instances.remove(&id) {
            self.billed_s += self.now_s - instance.launched_s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::{
        Step,
        simulate::{Load, Rate, frontier, scenario::Worker, table},
    };

    fn named(name: &str) -> Scenario {
        let path = format!("{}/config/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        Scenario::load(path.as_ref()).expect("the scenario is valid")
    }

    fn both(scenario: &Scenario) -> [Run; 2] {
        let rules = scenario.rules.clone().unwrap_or_default();
        [Policy::Steps, Policy::Backlog]
            .map(|policy| run(scenario, &Rules { policy, ..rules.clone() }).expect("drains"))
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

    /// The geometric mean, in which each load counts the same. On the noisy day alone it is 0.95: a few messages in flight are
    /// scattered over all workers, and those that hold any are neither scaled in nor without protection, whichever policy decides.
    #[test]
    fn at_equal_wait_backlog_needs_four_fifths_on_the_whole() {
        let shares = SIX.map(|name| {
            let scenario = named(name);
            let found = frontier(&scenario, &scenario.rules.clone().unwrap_or_default()).expect("drains");
            let (latency, backlog) = found.at_equal_wait().expect("is as quick with some latency");
            let share = backlog.instance_minutes / found.steps.instance_minutes;
            println!("{name}: {share:.2} with {}", humantime::format_duration(*latency));
            share
        });
        let whole = (shares.iter().map(|share| share.ln()).sum::<f64>() / shares.len() as f64).exp();
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
        let rules = Rules { policy: Policy::Backlog, rate: 80.0, ..Rules::default() };
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
}
