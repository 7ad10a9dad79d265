//! The whole system on one machine under whatever can befall it, in an order drawn from a seed: signals to workers and
//! server, full disks, steps of the clock, other models, resets, requeues; four who upload, each with a ledger. `make
//! soak` runs it for longer.
//!
//! `SOAK_SECONDS` says for how long things befall it, `SOAK_SEED` which. The times of the schedule are the same for the
//! same seed; how they meet the system's own depends on the machine.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::{
    audit::Contents,
    ledger::{Ledger, Resets},
    pictures::Pictures,
    schedule::{Action, Schedule},
    system::System,
    uploader::Uploader,
};
use crate::support::{DEADLINE, client, client_builder, eventually, form};

mod audit;
mod clock;
mod ledger;
mod pictures;
mod schedule;
mod system;
mod uploader;

/// How long received messages are hidden here.
const VISIBILITY: Duration = Duration::from_secs(2);

/// For so long things befall it where `SOAK_SECONDS` does not say otherwise.
const SECONDS: u64 = 40;

const UPLOADERS: usize = 4;

/// In this last part of the time the server is not started again, so that what it leaks can be seen.
const CALM_SERVER: f64 = 0.4;

/// Memory and open files that a server may have more than at its start: caches that were empty then, and the pool of
/// readers.
const MORE_MEMORY: u64 = 64 << 20;
const MORE_FILES: usize = 32;

/// Most memory that a worker may have.
const WORKER_MEMORY: u64 = 400 << 20;

/// A number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn whatever_befalls_it_nothing_is_lost_doubled_or_wrong() {
    let seed = variable("SOAK_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let time = Duration::from_secs(variable("SOAK_SECONDS").unwrap_or(SECONDS));
    let seconds = time.as_secs();
    println!("soak of {seconds} s; repeat its schedule with SOAK_SEED={seed} SOAK_SECONDS={seconds} make soak");
    let dir = tempfile::tempdir().unwrap();
    let (pictures, resets) = (Arc::new(Pictures::new(dir.path())), Arc::new(Resets::default()));
    let mut system = System::start(dir.path(), Arc::clone(&pictures), Arc::clone(&resets));
    let first = warm_up(&system, &pictures).await;
    let at_start = Usage::of(system.server.pid());

    let stop = CancellationToken::new();
    let uploaders: Vec<_> = (0..UPLOADERS)
        .map(|id| Uploader::new(id, seed, system.url.subscribe(), Arc::clone(&pictures), Arc::clone(&resets)))
        .map(|uploader| tokio::spawn(uploader.run(stop.clone())))
        .collect();
    befall(&mut system, seed, time).await;
    stop.cancel();
    let (mut ledgers, mut acknowledged) = (vec![first], 0);
    for uploader in uploaders {
        let (ledger, count) = uploader.await.unwrap_or_else(|error| {
            panic!("an uploader saw what must not be: {error}; SOAK_SEED={seed}; log: {}", tail(&system.server.log()))
        });
        ledgers.push(ledger);
        acknowledged += count;
    }
    assert!(acknowledged as u64 >= seconds, "only {acknowledged} were acknowledged");
    no_messages(&system).await;
    eventually("the end of workers that were asked to stop", async || system.all_have_ended().then_some(())).await;
    check_usage(&system, &at_start);
    judge(system, &Truth { seed, ledgers, resets, pictures }).await;
    println!("{acknowledged} acknowledged");
}

/// Fails if server or workers take more than they should.
fn check_usage(system: &System, at_start: &Usage) {
    let server = Usage::of(system.server.pid());
    println!("server of {} s: {server:?}, one at its start {at_start:?}", system.started.elapsed().as_secs());
    assert!(server.memory <= at_start.memory + MORE_MEMORY && server.files <= at_start.files + MORE_FILES);
    let workers: Vec<Usage> = system.server.workers().into_iter().map(Usage::of).collect();
    assert!(workers.iter().all(|worker| worker.memory <= WORKER_MEMORY), "{workers:?}");
}

/// What the end is judged by.
struct Truth {
    seed: u64,
    ledgers: Vec<Ledger>,
    resets: Arc<Resets>,
    pictures: Arc<Pictures>,
}

impl Truth {
    /// Fails if anything that is stored is wrong or missing. With `model` every row must be its.
    fn check(&self, system: &System, model: Option<&str>) -> Contents {
        let contents = Contents::read(&system.server.dir);
        let mut wrong = contents.missing(&self.ledgers, &self.resets, &self.pictures);
        wrong.extend(contents.wrong(&self.pictures, model));
        let all = wrong.len();
        wrong.truncate(20);
        let (seed, log) = (self.seed, || tail(&system.server.log()));
        assert!(wrong.is_empty(), "{all} faults; SOAK_SEED={seed}: {wrong:#?}\n{}", log());
        contents
    }
}

/// Checks what is there; again after all was classified by the current model; and after a start, which sweeps away what
/// killed servers had left.
async fn judge(mut system: System, truth: &Truth) {
    println!("{} stored at the end", truth.check(&system, None).count());
    assert!(system.server.tool(&["queue", "requeue", "all"]).output().unwrap().status.success());
    no_messages(&system).await;
    let model = truth.pictures.models[system.model].name.as_str();
    truth.check(&system, Some(model));
    system.set_clock_right();
    system.restart();
    let contents = truth.check(&system, Some(model));
    assert!(
        contents.orphans().is_empty(),
        "files without a record: {:?}; SOAK_SEED={}",
        contents.orphans(),
        truth.seed
    );
    let data = system.server.dir.clone();
    let left = audit::leftovers(&data);
    assert!(left.is_empty(), "left by servers that were killed: {left:?}; SOAK_SEED={}", truth.seed);
    assert!(system.server.terminate().success());
    eventually("the end of all processes", async || processes(&data).is_empty().then_some(())).await;
}

/// Uploads every picture once, so that all parts have run.
async fn warm_up(system: &System, pictures: &Pictures) -> Ledger {
    let (mut ledger, began) = (Ledger::default(), Instant::now());
    let files = (0..pictures.count()).map(|n| (format!("first{n}.png"), pictures.bytes(n).to_vec()));
    let client = client();
    let request = client.post(format!("{}/", system.server.url)).header("accept", "application/json");
    let answer: serde_json::Value = request.multipart(form(files)).send().await.unwrap().json().await.unwrap();
    for (n, entry) in answer["files"].as_array().unwrap().iter().enumerate() {
        ledger.acknowledged(entry["image"].as_str().unwrap(), n, began);
    }
    no_messages(system).await;
    ledger
}

/// Lets things befall the system for so long.
async fn befall(system: &mut System, seed: u64, time: Duration) {
    let client = client_builder().timeout(Duration::from_secs(60)).build().unwrap();
    let began = Instant::now();
    for (after, mut action) in Schedule::new(seed) {
        system.wait(after).await;
        if began.elapsed() >= time {
            break;
        }
        if began.elapsed() >= time.mul_f64(1.0 - CALM_SERVER) {
            action = match action {
                Action::KillServer | Action::TermServer | Action::SwitchModel => Action::KillWorker(0),
                other => other,
            };
        }
        println!("{:6.1} s {action:?}", began.elapsed().as_secs_f64());
        system.perform(action, &client).await;
    }
    system.calm();
}

/// Waits until the queue holds nothing, by what the store says now: the server may answer what it knew a moment ago.
async fn no_messages(system: &System) {
    let mut last = serde_json::Value::Null;
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        let output = tokio::task::block_in_place(|| system.server.tool(&["status", "--json"]).output()).unwrap();
        last = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if last["queue"]["visible"] == 0 && last["queue"]["in_flight"] == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("the queue does not get empty: {last}; log: {}", tail(&system.server.log()));
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(100)..].join("\n")
}

/// What a process takes.
#[derive(Debug)]
struct Usage {
    /// Resident bytes.
    memory: u64,
    /// Open files.
    files: usize,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Self { memory: kib.unwrap_or(0_u64) << 10, files }
    }
}

/// The processes that have this data directory among their arguments.
fn processes(data: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&*data.to_string_lossy())).collect()
}
