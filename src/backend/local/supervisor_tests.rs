//! The supervisor with small programs in the place of workers.

use std::process::Command;

use super::*;
use crate::{
    backend::{Fleet, FleetState},
    clock::SystemClock,
    config,
    contract::WorkerId,
};

const DEADLINE: Duration = Duration::from_secs(30);

struct Fixture {
    store: Arc<Store>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

/// A supervised fleet of 1 to 4 shells that run `script`.
fn supervise(script: &str, patience: Patience) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let fleet = config::Fleet { min: 1, max: 4 };
    let store = Arc::new(Store::open(dir.path(), config::Raw::default().queue, fleet, Arc::new(SystemClock)).unwrap());
    let command = WorkerCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), dir.path().display().to_string()],
    };
    let shutdown = CancellationToken::new();
    let supervisor = Supervisor { patience, ..Supervisor::new(Arc::clone(&store), command) };
    let running = tokio::spawn(supervisor.run(shutdown.clone()));
    Fixture { store, shutdown, running, dir }
}

impl Fixture {
    /// Waits until the fleet looks like this, and answers the ids of the processes that were ever started.
    async fn until(&self, what: &str, is: impl Fn(&FleetState, &[u32]) -> bool) -> Vec<u32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let state = self.store.observe().await.unwrap();
            let pids: Vec<u32> = std::fs::read_to_string(self.dir.path().join("pids"))
                .unwrap_or_default()
                .lines()
                .map(|line| line.parse().unwrap())
                .collect();
            if is(&state, &pids) {
                return pids;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}: {state:?} {pids:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a fault.
    async fn fault(&self) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(fault) = self.store.fault() {
                return fault;
            }
            assert!(Instant::now() < deadline, "waited in vain for a fault");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends workers that do not listen.
    async fn end_by_force(self) {
        self.running.abort();
        assert!(self.running.await.unwrap_err().is_cancelled());
    }

    async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.running).await.unwrap().unwrap();
        let state = self.store.observe().await.unwrap();
        assert_eq!((state.in_service, state.pending, state.terminating), (0, 0, 0));
    }
}

/// A worker that ends when its stdin does.
const OBEDIENT: &str = "echo $$ >> $0/pids; echo hello >&2; exec cat";

#[tokio::test]
async fn the_fleet_grows_heals_and_shrinks() {
    let fleet = supervise(OBEDIENT, Patience::default());
    fleet.until("one runs", |s, pids| s.pending == 1 && pids.len() == 1).await;
    fleet.store.set_desired(99).await.unwrap();
    let pids = fleet.until("four run", |s, pids| s.desired == 4 && s.pending == 4 && pids.len() == 4).await;

    assert!(Command::new("kill").args(["-9", &pids[2].to_string()]).status().unwrap().success());
    let pids = fleet.until("the dead one is replaced", |s, pids| s.pending == 4 && pids.len() == 5).await;

    // The second is heard of and holds messages: it is not stopped while others are idle.
    let beat = Heartbeat { worker: WorkerId::new("host", pids[1]), in_flight: 3, ..Heartbeat::default() };
    fleet.store.beat(&beat).await.unwrap();
    fleet.until("one was heard of", |s, _| s.in_service == 1 && s.pending == 3 && s.protected == 1).await;
    fleet.store.set_desired(0).await.unwrap();
    fleet.until("one is left", |s, _| (s.in_service, s.pending, s.terminating) == (1, 0, 0)).await;
    assert!(Command::new("kill").args(["-0", &pids[1].to_string()]).status().unwrap().success());
    fleet.end().await;
    assert!(!Command::new("kill").args(["-0", &pids[1].to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn one_that_will_not_stop_is_killed() {
    let patience = Patience { stop: Duration::from_millis(300), ..Patience::default() };
    let fleet = supervise("trap '' TERM INT; echo $$ >> $0/pids; exec sleep 1000", patience);
    let pids = fleet.until("it runs", |_, pids| pids.len() == 1).await;
    fleet.end().await;
    assert!(!Command::new("kill").args(["-0", &pids[0].to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn those_that_cannot_start_are_started_again_with_pauses_and_that_is_a_fault() {
    let fleet =
        supervise("echo $$ >> $0/pids; echo no model >&2; test -e $0/mended || exit 3; exec cat", Patience::default());
    fleet.until("it was started twice", |_, pids| pids.len() >= 2).await;
    fleet.until("it was started three times", |_, pids| pids.len() >= 3).await;
    let fault = fleet.fault().await;
    assert!(fault.contains("workers cannot start") && fault.contains("exit status: 3"), "{fault}");
    // One that starts ends the fault.
    std::fs::write(fleet.dir.path().join("mended"), "").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while fleet.store.fault().is_some() {
        assert!(Instant::now() < deadline, "waited in vain for the end of the fault");
        let pids = fleet.until("it was started", |_, pids| !pids.is_empty()).await;
        let beat = Heartbeat { worker: WorkerId::new("host", pids[pids.len() - 1]), ..Heartbeat::default() };
        fleet.store.beat(&beat).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.end().await;
}

#[tokio::test]
async fn one_that_falls_silent_is_killed_and_replaced() {
    let patience = Patience { heartbeat: Duration::from_secs(2), ..Patience::default() };
    let fleet = supervise("echo $$ >> $0/pids; exec sleep 1000", patience);
    let pids = fleet.until("it runs", |_, pids| pids.len() == 1).await;
    let beat = Heartbeat { worker: WorkerId::new("host", pids[0]), ..Heartbeat::default() };
    fleet.store.beat(&beat).await.unwrap();
    fleet.until("it was heard of", |s, _| s.in_service == 1).await;
    fleet.until("it is replaced", |s, pids| (s.in_service, s.pending) == (0, 1) && pids.len() == 2).await;
    // Its process stays in the kernel's table until the supervisor has read how it ended.
    fleet
        .until("it is gone", |_, _| {
            !Command::new("kill").args(["-0", &pids[0].to_string()]).status().unwrap().success()
        })
        .await;
    fleet.end_by_force().await;
}

#[tokio::test]
async fn one_that_never_gets_ready_is_killed_and_replaced() {
    let patience = Patience { start: Duration::from_secs(1), ..Patience::default() };
    let fleet = supervise("echo $$ >> $0/pids; exec sleep 1000", patience);
    fleet.until("two were started", |_, pids| pids.len() >= 2).await;
    fleet.end_by_force().await;
}

#[tokio::test]
async fn one_that_drains_and_does_not_end_is_replaced_at_once_and_killed_in_time() {
    let patience = Patience { stop: Duration::from_secs(2), ..Patience::default() };
    let fleet = supervise("echo $$ >> $0/pids; exec sleep 1000", patience);
    let pids = fleet.until("it runs", |_, pids| pids.len() == 1).await;
    let beat = Heartbeat { worker: WorkerId::new("host", pids[0]), draining: true, ..Heartbeat::default() };
    fleet.store.beat(&beat).await.unwrap();
    fleet.until("it is replaced", |s, pids| (s.pending, s.terminating) == (1, 1) && pids.len() == 2).await;
    fleet.until("it is gone", |s, _| (s.pending, s.terminating) == (1, 0)).await;
    assert!(!Command::new("kill").args(["-0", &pids[0].to_string()]).status().unwrap().success());
    fleet.end_by_force().await;
}

#[tokio::test]
async fn deaths_in_a_row_lengthen_the_pause() {
    let mut deaths = Deaths::default();
    let started = Instant::now();
    deaths.add(started);
    deaths.add(started);
    assert_eq!(deaths.count, 1, "they were started together");
    tokio::time::sleep(Duration::from_millis(2)).await;
    deaths.add(Instant::now());
    assert_eq!(deaths.count, 2);
    assert_eq!([1, 2, 3].map(pause), [100, 200, 400].map(Duration::from_millis));
    assert_eq!([10, 11, u32::MAX].map(pause), [BACK_OFF.1; 3]);
}
