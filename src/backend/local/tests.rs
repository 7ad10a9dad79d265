//! The contract suite on this backend, and what only it promises.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::{
    backend::{
        Backend, Depth, Heartbeat, Tally, UploadBytes, local,
        suite::{Environment, contract_suite, name},
    },
    clock::{Clock, ManualClock, SystemClock},
    config::Raw,
    contract::{Digest, WorkerId},
};

fn open(dir: &Path, clock: Arc<dyn Clock>) -> (Backend, Arc<local::Store>) {
    let mut config = Raw { data_dir: dir.join("data"), ..Raw::default() }.local().unwrap();
    config.queue.max_receives = 3;
    config.fleet.max = 4;
    local::open(&config, clock).unwrap()
}

async fn environment() -> Environment {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_790_000_000_000));
    let (backend, _) = open(dir.path(), Arc::<ManualClock>::clone(&clock));
    let (other, _) = open(dir.path(), Arc::<ManualClock>::clone(&clock));
    Environment {
        backend,
        other,
        set_back: Some({
            let clock = Arc::clone(&clock);
            Box::new(move |by| clock.set_back(by))
        }),
        advance: Box::new(move |by| {
            clock.advance(by);
            Box::pin(async {})
        }),
        patience: Duration::from_secs(2),
        refuses_stale_receipts: true,
        knows_removed_images: true,
        spool: dir.path().to_owned(),
        _guards: vec![Box::new(dir)],
    }
}

mod suite {
    use super::*;

    contract_suite!(super::super::environment);
}

/// Files below the directory of images.
fn image_files(dir: &Path) -> usize {
    let shards = std::fs::read_dir(dir.join("data/images")).unwrap();
    shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
}

#[tokio::test]
async fn files_go_with_their_images() {
    let env = environment().await;
    env.put("a.png", b"one").await;
    env.put("a.png", b"one").await;
    env.put("b.png", b"two").await;
    assert_eq!(image_files(&env.spool), 2);
    env.backend.images.delete(&name("a.png")).await.unwrap();
    assert_eq!(image_files(&env.spool), 1);
    let thumbnails = env.spool.join("data/thumbnails");
    std::fs::create_dir(&thumbnails).unwrap();
    std::fs::write(thumbnails.join("b.jpg"), "small").unwrap();
    env.backend.reset.reset(&Tally::default()).await.unwrap();
    assert_eq!(image_files(&env.spool), 0);
    assert_eq!(std::fs::read_dir(thumbnails).unwrap().count(), 0);
}

#[tokio::test]
async fn locations_are_escaped() {
    let env = environment().await;
    assert_eq!(env.backend.images.location(&name("a b+%ü#.png")), "/images/a%20b%2B%25%C3%BC%23.png");
    assert_eq!(env.backend.images.location(&name("a b/ü.png")), "/images/a%20b/%C3%BC.png");
}

#[tokio::test]
async fn heartbeats_stay_few_and_lose_nothing() {
    let env = environment().await;
    for i in 0..200 {
        let mut beat = Heartbeat { worker: WorkerId::new("host", i), done: 1, failed: 2, ..Heartbeat::default() };
        beat.labels.insert("cat".into(), 1);
        env.backend.workers.beat(&beat).await.unwrap();
        (env.advance)(Duration::from_secs(1)).await;
    }
    let beats = env.backend.workers.heartbeats().await.unwrap();
    assert!(beats.len() <= 64, "{}", beats.len());
    let sum = |of: fn(&Heartbeat) -> u64| beats.iter().map(of).sum::<u64>();
    assert_eq!((sum(|b| b.done), sum(|b| b.failed), sum(|b| b.labels["cat"])), (200, 400, 200));
    assert!(beats.iter().any(|b| b.worker.as_str() == "host-199"));
}

/// Who lives was taken for the oldest, and counted again with each heartbeat.
#[tokio::test]
async fn after_the_clock_was_set_back_nobody_who_lives_is_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_790_000_000_000));
    let (backend, _) = open(dir.path(), Arc::<ManualClock>::clone(&clock));
    let beat = |i, done| Heartbeat { worker: WorkerId::new("host", i), done, ..Heartbeat::default() };
    for i in 0..100 {
        clock.advance(Duration::from_secs(60));
        backend.workers.beat(&beat(i, 1)).await.unwrap();
    }
    clock.set_back(Duration::from_secs(7 * 24 * 3600));
    for _ in 0..20 {
        clock.advance(Duration::from_secs(10));
        for i in 100..104 {
            backend.workers.beat(&beat(i, 5)).await.unwrap();
        }
    }
    let beats = backend.workers.heartbeats().await.unwrap();
    assert_eq!(beats.iter().map(|beat| beat.done).sum::<u64>(), 100 + 4 * 5);
    assert!(beats.len() <= 64 && (100..104).all(|i| beats.iter().any(|b| b.worker == WorkerId::new("host", i))));
}

#[tokio::test]
async fn without_a_supervisor_the_living_are_the_fleet() {
    let env = environment().await;
    let beat = |worker: &str, in_flight, draining| Heartbeat {
        worker: worker.into(),
        in_flight,
        draining,
        ..Heartbeat::default()
    };
    env.backend.workers.beat(&beat("gone", 1, false)).await.unwrap();
    (env.advance)(Heartbeat::ALIVE).await;
    for beat in [beat("busy", 2, false), beat("idle", 0, false), beat("stops", 1, true)] {
        env.backend.workers.beat(&beat).await.unwrap();
    }
    let state = env.other.fleet.observe().await.unwrap();
    assert_eq!((state.in_service, state.pending, state.terminating, state.protected), (2, 0, 1, 1));
    assert_eq!((state.min, state.max, state.desired), (1, 4, 1));
    for (asked, desired) in [(3, 3), (99, 4), (0, 1)] {
        env.backend.fleet.set_desired(asked).await.unwrap();
        assert_eq!(env.other.fleet.observe().await.unwrap().desired, desired);
    }
}

/// Flags of `imgcls serve` set its bounds, which another process does not know.
#[tokio::test]
async fn the_fleet_has_the_bounds_of_its_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_790_000_000_000));
    let mut config = Raw { data_dir: dir.path().join("data"), ..Raw::default() }.local().unwrap();
    (config.fleet.min, config.fleet.max) = (2, 7);
    let (_, store) = local::open(&config, Arc::<ManualClock>::clone(&clock)).unwrap();
    let (other, _) = open(dir.path(), Arc::<ManualClock>::clone(&clock));
    let bounds = async || {
        let state = other.fleet.observe().await.unwrap();
        (state.min, state.max, state.desired)
    };
    assert_eq!(bounds().await, (1, 4, 1));
    store.observed_none().await;
    assert_eq!(bounds().await, (2, 7, 2));
    other.reset.reset(&Tally::default()).await.unwrap();
    assert_eq!(bounds().await, (2, 7, 2));
    clock.advance(Duration::from_secs(60));
    assert_eq!(bounds().await, (1, 4, 1), "it is gone");
}

/// The variable by which the test below tells its children where to work.
const CHILD_DIR: &str = "IMGCLS_TEST_CHILD_DIR";

/// No test by itself: uploads images without end and prints the names of those that were acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_uploads_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let (backend, _) = open(dir, Arc::new(SystemClock));
    let uploaders = (0..4).map(async |uploader| {
        for i in 0.. {
            let text = format!("{}-{uploader}-{i}.png", std::process::id());
            let (size, digest) = (text.len() as u64, Digest::of(text.as_bytes()));
            let bytes = if i % 2 == 0 {
                UploadBytes::Memory(text.clone().into())
            } else {
                let path = dir.join(&text);
                std::fs::write(&path, &text).unwrap();
                UploadBytes::File(path)
            };
            let upload = crate::backend::Upload { name: name(&text), bytes, size, digest, media_type: "image/png" };
            backend.images.put(&upload).await.unwrap();
            println!("stored {text}");
        }
    });
    futures_util::future::join_all(uploaders).await;
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..3 {
        let children: Vec<_> = (0..3)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "backend::local::tests::child_uploads_until_killed", "--nocapture"])
                    .env(CHILD_DIR, dir.path())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for mut child in children {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let stored = |line: String| line.split_once("stored ").map(|(_, name)| name.to_owned());
            // Every child gets its turn while the others write, too.
            let mut names: Vec<String> = lines.by_ref().map_while(Result::ok).filter_map(stored).take(25).collect();
            assert_eq!(names.len(), 25, "the child ended by itself");
            child.kill().unwrap();
            names.extend(lines.map_while(Result::ok).filter_map(stored));
            child.wait().unwrap();
            acknowledged.extend(names);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (backend, store) = open(dir.path(), Arc::new(SystemClock));
        for text in &acknowledged {
            assert_eq!(backend.images.get(&name(text), 100).await.unwrap().bytes, text.as_bytes());
        }
        let images = backend.images.list(None, 1_000_000).await.unwrap().len();
        // One message each; those that were not acknowledged in time may be there, too.
        assert_eq!(backend.queue.depth().await.unwrap(), Depth { visible: images as u64, ..Depth::default() });
        let mut asked = BTreeSet::new();
        for message in backend.queue.peek(1_000_000).await.unwrap() {
            let event = crate::contract::event::parse(&message.body).unwrap().remove(0);
            assert!(asked.insert(backend.images.image_of(&event).unwrap()), "{event:?} came twice");
        }
        assert_eq!(asked.len(), images);
        let lock = store.lock_server().unwrap();
        store.sweep(&lock).await.unwrap();
        assert_eq!(image_files(dir.path()), images);
    });
}
