//! The system under test: the server with its workers, on a disk and by a clock of its own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{VISIBILITY, clock::Clock, ledger::Resets, pictures::Pictures, schedule::Action};
use crate::support::{Server, signal_if_there};

/// Room on the disk, of which uploads leave some free.
const DISK_MIB: u64 = 512;

/// The running system.
#[derive(Debug)]
pub(super) struct System {
    pub(super) server: Server,
    /// Where it listens, for the uploaders.
    pub(super) url: watch::Sender<String>,
    /// Which of the models it uses.
    pub(super) model: usize,
    /// When the server was last started.
    pub(super) started: Instant,
    pictures: Arc<Pictures>,
    resets: Arc<Resets>,
    /// Stopped processes, and until when.
    stopped: Vec<(Instant, u32)>,
    /// Workers that were asked to stop.
    asked: Vec<u32>,
    /// The disk is full until then.
    full_until: Option<Instant>,
    clock: Option<Clock>,
    // Last, so that it is unmounted after the server is gone.
    disk: Option<Disk>,
}

impl System {
    /// Starts the system in `dir`.
    pub(super) fn start(dir: &Path, pictures: Arc<Pictures>, resets: Arc<Resets>) -> Self {
        let disk = Disk::mount(&dir.join("disk"));
        let clock = Clock::new(dir);
        let data = disk.as_ref().map_or(dir, |disk| disk.path.as_path()).join("data");
        let variables = clock.as_ref().map_or_else(Vec::new, Clock::variables);
        let server = Server::start_in(&data, &dir.join("log"), arguments(&pictures, 0), variables);
        let url = watch::Sender::new(server.url.clone());
        let started = Instant::now();
        Self {
            server,
            url,
            model: 0,
            started,
            pictures,
            resets,
            stopped: Vec::new(),
            asked: Vec::new(),
            full_until: None,
            clock,
            disk,
        }
    }

    /// Waits so long, and lets stopped processes go on and frees the disk when it is time.
    pub(super) async fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            self.stopped.retain(|(until, pid)| *until > now || continue_process(*pid));
            if self.full_until.is_some_and(|until| until <= now) {
                self.free_disk();
            }
            if now >= end {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20).min(end - now)).await;
        }
    }

    /// Ends what is under way: stopped processes go on, the disk has room.
    pub(super) fn calm(&mut self) {
        self.stopped.drain(..).for_each(|(_, pid)| {
            continue_process(pid);
        });
        self.free_disk();
    }

    /// Does it.
    pub(super) async fn perform(&mut self, action: Action, client: &reqwest::Client) {
        match action {
            Action::KillWorker(n) => {
                if let Some(pid) = self.worker(n) {
                    signal_if_there(pid, "KILL");
                }
            }
            Action::TermWorker(n) => {
                if let Some(pid) = self.worker(n) {
                    signal_if_there(pid, "TERM");
                    self.asked.push(pid);
                }
            }
            Action::StopWorker(n, time) => {
                if let Some(pid) = self.worker(n) {
                    self.stop(pid, time);
                }
            }
            Action::StopServer(time) => self.stop(self.server.pid(), time),
            Action::KillServer => {
                tokio::task::block_in_place(|| self.server.kill());
                self.calm();
                self.start_again();
            }
            Action::TermServer => self.restart(),
            Action::SwitchModel => {
                self.model = 1 - self.model;
                self.restart();
            }
            Action::FillDisk(time) => {
                if let Some(disk) = &self.disk {
                    disk.fill();
                    self.full_until = Some(Instant::now() + time);
                }
            }
            Action::StepClock(seconds) => {
                if let Some(clock) = &mut self.clock {
                    clock.step(seconds);
                }
            }
            Action::ResetPage => {
                let reset = self.resets.begin();
                let asked = client.post(format!("{}/reset", self.server.url)).header("accept", "application/json");
                // The server may be stopped, and nothing but this lets it go on.
                self.calm();
                let done = asked.send().await.is_ok_and(|answer| answer.status() == 200);
                self.resets.end(reset, done);
            }
            Action::ResetCommand => {
                let reset = self.resets.begin();
                let done = self.tool(&["reset", "--yes"]);
                self.resets.end(reset, done);
            }
            Action::Queue(args) => {
                self.tool(&[&["queue"], args].concat());
            }
        }
    }

    /// Sets the clock right: files have the real time, and what is swept at a start goes by both.
    pub(super) fn set_clock_right(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.set_right();
        }
    }

    /// Stops the server, which must end well by itself, and starts it again with the current model.
    pub(super) fn restart(&mut self) {
        self.calm();
        let ended = tokio::task::block_in_place(|| self.server.terminate());
        assert!(ended.success(), "the server ended with {ended}; its log: {}", self.server.log());
        self.start_again();
    }

    fn start_again(&mut self) {
        let args = arguments(&self.pictures, self.model);
        tokio::task::block_in_place(|| self.server.restart_with(args));
        self.started = Instant::now();
        self.url.send_replace(self.server.url.clone());
    }

    /// Runs a command; whether it succeeded. It may fail, on a full disk for one.
    fn tool(&self, args: &[&str]) -> bool {
        let mut command = self.server.tool(args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        output.status.success()
    }

    fn worker(&self, n: usize) -> Option<u32> {
        let workers = self.server.workers();
        (!workers.is_empty()).then(|| workers[n % workers.len()])
    }

    /// Whether every worker that was asked to stop has ended.
    pub(super) fn all_have_ended(&self) -> bool {
        let data = self.server.dir.display().to_string();
        let command_line = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        !self.asked.iter().any(|pid| command_line(pid).contains(&data))
    }

    fn stop(&mut self, pid: u32, time: Duration) {
        signal_if_there(pid, "STOP");
        self.stopped.push((Instant::now() + time, pid));
    }

    fn free_disk(&mut self) {
        self.full_until = None;
        if let Some(disk) = &self.disk {
            disk.free();
        }
    }
}

/// Lets a stopped process go on, and says that it need not be kept in mind.
fn continue_process(pid: u32) -> bool {
    signal_if_there(pid, "CONT");
    false
}

fn arguments(pictures: &Pictures, model: usize) -> Vec<String> {
    let mut args = vec!["--max-workers".to_owned(), "3".to_owned()];
    let visibility = format!("queue.visibility_timeout={}s", VISIBILITY.as_secs());
    // So often is no message received, however many workers are killed: a dead letter would be one that got lost.
    for set in [&visibility, "queue.max_receives=1000", "scaling.interval=1s", "fleet.min=2"] {
        args.extend(["--set".to_owned(), set.to_owned()]);
    }
    if let Some(dir) = &pictures.models[model].dir {
        args.extend(["--model".to_owned(), dir.display().to_string()]);
    }
    args
}

/// A small disk.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it at `path`, if this user may.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let options = format!("size={DISK_MIB}m,mode=700");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            _ => {
                eprintln!("skipped: full disks, since this user cannot mount a small one");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves not a byte free.
    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x5a; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since workers of a killed server take a moment to end.
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}
