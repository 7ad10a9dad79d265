//! The supervisor with small programs in the place of workers.

use std::process::Command;

use super::*;
use crate::{
    backend::{Fleet, FleetState},
    clock::SystemClock,
    config,
};

const DEADLINE: Duration = Duration::from_secs(30);

struct Fixture {
    store: Arc<Store>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

/// A supervised fleet of 1 to 4 shells that run `script`.
fn supervise(script: &str, grace: Duration) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = config::Config::default();
    let fleet = config::Fleet { min: 1, max: 4, supervise: true };
    let store = Arc::new(Store::open(dir.path(), config.queue, fleet, Arc::new(SystemClock)).unwrap());
    let command = WorkerCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), dir.path().display().to_string()],
    };
    let shutdown = CancellationToken::new();
    let supervisor = Supervisor { grace, ..Supervisor::new(Arc::clone(&store), command) };
    let running = tokio::spawn(supervisor.run(shutdown.clone()));
    Fixture { store, shutdown, running, dir }
}

impl Fixture {
    /// Waits until the fleet looks like this, and answers the ids of the processes that were ever started.
    async fn until(&self, what: &str, is: impl Fn(&FleetState, &[i32]) -> bool) -> Vec<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let state = self.store.observe().await.unwrap();
            let pids: Vec<i32> = std::fs::read_to_string(self.dir.path().join("pids"))
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
    let fleet = supervise(OBEDIENT, GRACE);
    fleet.until("one runs", |s, pids| s.pending == 1 && pids.len() == 1).await;
    fleet.store.set_desired(99).await.unwrap();
    let pids = fleet.until("four run", |s, pids| s.desired == 4 && s.pending == 4 && pids.len() == 4).await;

    assert!(Command::new("kill").args(["-9", &pids[2].to_string()]).status().unwrap().success());
    let pids = fleet.until("the dead one is replaced", |s, pids| s.pending == 4 && pids.len() == 5).await;

    // The second is heard of and holds messages: it is not stopped while others are idle.
    let beat = Heartbeat { worker: format!("host-{}", pids[1]), in_flight: 3, ..Heartbeat::default() };
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
    let fleet = supervise("trap '' TERM INT; echo $$ >> $0/pids; exec sleep 1000", Duration::from_millis(300));
    let pids = fleet.until("it runs", |_, pids| pids.len() == 1).await;
    fleet.end().await;
    assert!(!Command::new("kill").args(["-0", &pids[0].to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn those_that_die_at_once_are_started_again_with_pauses() {
    let fleet = supervise("echo $$ >> $0/pids; exit 3", GRACE);
    fleet.until("it was started three times", |_, pids| pids.len() == 3).await;
    fleet.end().await;
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
