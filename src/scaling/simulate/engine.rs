//! The event loop: workers and fleet manager around the queue, from event to event.

use std::{
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp, LogNormal};

use super::{
    Scenario, ScenarioError,
    event::{Event, Planned},
    load::Arrivals,
    queue::Queue,
    report::{Run, Sample},
};
use crate::{
    backend::FleetState,
    config::{Policy, Rules},
    contract::Timestamp,
    scaling::{History, Observation, decide},
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
    /// Workers that may be taken although they have work.
    released: u32,
    launched: u64,
    billed_s: f64,
}

/// Simulates the scenario under `rules`.
///
/// # Errors
/// [`ScenarioError::NeverDrains`] if the fleet cannot catch up with the load.
pub fn run(scenario: &Scenario, rules: &Rules) -> Result<Run, ScenarioError> {
    let mut arrivals = Arrivals::new(&scenario.load, scenario.noise, scenario.random, scenario.seed);
    let ends_s = arrivals.ends_s().max(scenario.duration.as_secs_f64());
    let mut engine = Engine::new(scenario);
    let mut story = Story { peak: scenario.fleet.start, ..Story::default() };
    engine.plan(0.0, Event::Second);
    engine.plan(0.0, Event::Tick);
    while let Some(Planned { at_s, event, .. }) = engine.events.pop() {
        engine.advance(at_s);
        match event {
            Event::Second => {
                if engine.queue.is_empty() && at_s > arrivals.ends_s() && at_s >= ends_s {
                    break;
                }
                if at_s > ends_s + PATIENCE.as_secs_f64() {
                    let after = humantime::format_duration(PATIENCE);
                    return Err(ScenarioError::NeverDrains { left: engine.queue.waiting().ceil() as u64, after });
                }
                let (at_once, over_the_second) = arrivals.second(at_s);
                engine.next_second(at_once, over_the_second);
            }
            Event::Tick => story.tick(&mut engine, rules),
            Event::Ready(id) => engine.ready(id),
            Event::Failed(id) => engine.fail(id),
            Event::Gone(id) => engine.gone(id),
            Event::Visible(cohorts) => engine.queue.show(cohorts),
        }
        story.peak = story.peak.max(engine.in_service);
    }
    Ok(story.end(engine, rules.policy))
}

/// What the policy did and saw.
#[derive(Debug, Default)]
struct Story {
    history: History,
    ticks: f64,
    actions: u32,
    peak: u32,
    timeline: Vec<Sample>,
}

impl Story {
    /// One decision.
    fn tick(&mut self, engine: &mut Engine<'_>, rules: &Rules) {
        let now = Timestamp::from_millis((engine.now_s * 1000.0).round() as i64);
        let decision = decide(&engine.observe(), rules, &self.history, now);
        self.history = decision.history;
        engine.released = decision.release;
        if decision.target != engine.desired {
            self.actions += 1;
            engine.desired = decision.target;
        }
        engine.converge();
        self.timeline.push(engine.sample(engine.now_s, rules.policy));
        self.ticks += 1.0;
        engine.plan(self.ticks * rules.interval.as_secs_f64(), Event::Tick);
    }

    /// The account of it all.
    fn end(mut self, mut engine: Engine<'_>, policy: Policy) -> Run {
        let scenario = engine.scenario;
        // Without a set duration the account closes with the last message.
        let end_s = if scenario.duration.is_zero() { engine.queue.last_done_s() } else { engine.now_s };
        engine.queue.rest();
        self.timeline.push(engine.sample(end_s, policy));
        let running: f64 = engine.instances.values().map(|instance| (end_s - instance.launched_s).max(0.0)).sum();
        let instance_s = engine.billed_s + running;
        Run {
            policy,
            drained_after_s: engine.queue.last_done_s(),
            messages: engine.queue.waits().count().round() as u64,
            instance_minutes: instance_s / 60.0,
            cost: instance_s / 3600.0 * scenario.worker.price_per_hour,
            wait_s: engine.queue.waits().quantiles(),
            actions: self.actions,
            peak: self.peak,
            timeline: self.timeline,
        }
    }
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
            released: 0,
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
        if !self.scenario.fleet.protection {
            n
        } else if self.queue.waiting() > 0.0 {
            n - self.served()
        } else {
            n - self.served() + self.without(self.queue.flow() * worker.idle.as_secs_f64()).floor() as u32
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
            flow: self.queue.flow_of_the_minute(),
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
        let mut allowed = self.unprotected() + self.released;
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
                    self.released = self.released.saturating_sub(1);
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

    /// A worker is lost with the messages that it holds; they come back after the visibility time-out, and another is
    /// launched.
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
#[path = "engine_tests.rs"]
mod tests;
