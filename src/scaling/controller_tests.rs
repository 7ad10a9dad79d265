//! Tests of the controller.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::{
    backend::{Fleet, FleetState, Heartbeat, Result, SetDesired, Tally, local},
    clock::ManualClock,
    config::Raw,
    scaling::Memory,
};

/// A local backend with a clock that is moved by hand; its fleet is the workers whose heartbeats are written.
struct World {
    backend: Backend,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Raw { data_dir: dir.path().join("data"), ..Raw::default() }.local().unwrap();
        config.fleet.max = 20;
        let clock = Arc::new(ManualClock::at(1_800_000_000_000));
        let (backend, _) = local::open(&config, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        Self { backend, clock, _dir: dir }
    }

    async fn send(&self, messages: usize) {
        self.backend.queue.send(&vec!["{}".to_owned(); messages]).await.unwrap();
    }

    /// So many workers are heard of, the first `busy` of which hold a message.
    async fn workers(&self, running: u32, busy: u32) {
        for id in 0..running {
            let beat = Heartbeat {
                worker: format!("w{id}").into(),
                in_flight: u32::from(id < busy),
                done: 800,
                busy_images: 800,
                busy_ms: 10_000,
                ..Heartbeat::default()
            };
            self.backend.workers.beat(&beat).await.unwrap();
        }
    }

    async fn empty(&self) {
        self.backend.reset.reset(&Tally::default()).await.unwrap();
    }

    async fn tick(&self, rules: &Rules) -> Outcome {
        tick(&self.backend, rules, self.clock.as_ref()).await.unwrap()
    }

    async fn memory(&self) -> Memory {
        serde_json::from_str(&self.backend.scaler.read().await.unwrap().unwrap().value).unwrap()
    }

    async fn desired(&self) -> u32 {
        self.backend.fleet.observe().await.unwrap().desired
    }
}

#[tokio::test]
async fn a_burst_is_scaled_out_for_and_back_in_and_remembered() {
    let world = World::new();
    let rules = Rules::default();
    world.workers(1, 1).await;
    world.send(1200).await;
    let out = world.tick(&rules).await;
    assert_eq!(
        (out.action, out.from, out.target, world.desired().await),
        (Action::Scaled, 1, 16, 16),
        "{}",
        out.reason
    );

    world.clock.advance(Duration::from_secs(10));
    world.workers(16, 16).await;
    let again = world.tick(&rules).await;
    assert_eq!((again.action, again.target), (Action::Nothing, 16), "{}", again.reason);

    world.empty().await;
    let mut last = again;
    for _ in 0..10 {
        world.clock.advance(Duration::from_secs(10));
        world.workers(16, 2).await;
        last = world.tick(&rules).await;
        if last.action == Action::Scaled {
            break;
        }
    }
    assert_eq!((last.action, last.target, world.desired().await), (Action::Scaled, 2, 2), "{}", last.reason);
    let memory = world.memory().await;
    let changes: Vec<_> = memory.decisions.iter().map(|past| (past.from, past.target)).collect();
    assert_eq!(changes, [(16, 2), (1, 16)]);
    assert_eq!(memory.decisions[1].at, "2027-01-15T08:00:00Z");
    assert!(memory.decisions[1].reason.starts_with("1200 messages wait"), "{}", memory.decisions[1].reason);
}

#[tokio::test]
async fn an_idle_system_writes_nothing() {
    let world = World::new();
    let rules = Rules::default();
    let mut versions = Vec::new();
    for _ in 0..6 {
        world.workers(1, 0).await;
        world.tick(&rules).await;
        versions.push(world.backend.scaler.read().await.unwrap().unwrap().version);
        world.clock.advance(rules.interval);
    }
    assert_eq!(versions[3..], [versions[2]; 3], "{versions:?}");
    world.send(1).await;
    world.tick(&rules).await;
    assert!(world.backend.scaler.read().await.unwrap().unwrap().version > versions[5]);
}

#[tokio::test]
async fn a_dry_run_decides_and_changes_nothing() {
    let world = World::new();
    world.workers(1, 0).await;
    world.send(150).await;
    let outcome = dry_run(&world.backend, &Rules::default(), world.clock.as_ref()).await.unwrap();
    assert_eq!((outcome.action, outcome.from, outcome.target), (Action::DryRun, 1, 3));
    assert_eq!(world.desired().await, 1);
    assert_eq!(world.backend.scaler.read().await.unwrap(), None);
}

#[tokio::test]
async fn of_two_runs_on_one_reading_one_acts() {
    let world = World::new();
    world.workers(1, 1).await;
    world.send(600).await;
    let rules = Rules { cooldown_out: Duration::ZERO, warmup: Duration::ZERO, ..Rules::default() };
    let now = world.clock.now();
    let first = plan(&world.backend, &rules, now).await.unwrap();
    let second = plan(&world.backend, &rules, now).await.unwrap();
    assert_eq!(carry_out(&world.backend, &first, now).await.unwrap(), Action::Scaled);
    assert_eq!(carry_out(&world.backend, &second, now).await.unwrap(), Action::Overtaken);
    assert_eq!(world.desired().await, 6);
    let third = world.tick(&rules).await;
    assert_eq!((third.action, third.target), (Action::Nothing, 6), "{}", third.reason);
}

#[tokio::test]
async fn the_rate_is_measured_from_those_alive() {
    let world = World::new();
    let rules = Rules { policy: crate::config::Policy::Backlog, ..Rules::default() };
    world.workers(1, 1).await;
    world.send(10).await;
    let seen = world.tick(&rules).await.seen;
    assert_eq!((seen.rate, seen.busy), (Some(80.0), 1));
    world.clock.advance(Duration::from_secs(60));
    let seen = world.tick(&rules).await.seen;
    assert_eq!((seen.rate, seen.busy), (None, 0));
    assert_eq!(world.memory().await.history.rate, Some(80.0));
}

/// A group that is to have nobody, with machines that are protected, and what was released of them.
#[derive(Debug)]
struct Group {
    protected: Vec<String>,
    released: Mutex<Vec<String>>,
}

#[async_trait]
impl Fleet for Group {
    async fn observe(&self) -> Result<FleetState> {
        let protected = u32::try_from(self.protected.len()).unwrap();
        Ok(FleetState { max: 4, in_service: protected, protected, ..FleetState::default() })
    }

    async fn set_desired(&self, _desired: u32) -> Result<SetDesired> {
        Ok(SetDesired::Accepted)
    }

    fn protected(&self) -> Vec<String> {
        self.protected.clone()
    }

    async fn release(&self, machines: &[String]) -> Result<()> {
        self.released.lock().extend_from_slice(machines);
        Ok(())
    }
}

/// Of one the worker never says a word, of one it ends every half minute, and one works.
#[tokio::test]
async fn a_protected_machine_without_a_sound_worker_is_let_go_after_some_minutes() {
    let mut world = World::new();
    let protected = ["i-dead", "i-ending", "i-working"].map(str::to_owned).to_vec();
    let group = Arc::new(Group { protected, released: Mutex::default() });
    world.backend.fleet = Arc::clone(&group) as Arc<dyn Fleet>;
    let booted_at = world.clock.now();
    for n in 0..=10 {
        let now = world.clock.now();
        for (worker, started_at) in [(format!("i-ending-{n}"), now), ("i-working-1".to_owned(), booted_at)] {
            let beat = Heartbeat { worker: worker.into(), started_at, in_flight: 1, ..Heartbeat::default() };
            world.backend.workers.beat(&beat).await.unwrap();
        }
        assert!(group.released.lock().is_empty(), "after {n} half minutes");
        world.tick(&Rules::default()).await;
        world.clock.advance(Duration::from_secs(30));
    }
    assert_eq!(*group.released.lock(), ["i-dead", "i-ending"]);
    let silent: Vec<_> = world.memory().await.silent.into_keys().collect();
    assert_eq!(silent, ["i-dead", "i-ending"]);
}

#[tokio::test]
async fn a_memory_that_is_not_understood_is_replaced() {
    let world = World::new();
    assert!(world.backend.scaler.swap(None, "from another time").await.unwrap());
    world.workers(1, 0).await;
    assert_eq!(world.tick(&Rules::default()).await.action, Action::Nothing);
    assert_eq!(world.memory().await.decisions.len(), 0);
}
