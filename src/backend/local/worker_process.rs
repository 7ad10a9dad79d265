//! One worker process: started with a pipe to its stdin, asked to stop by closing it.

use std::{
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, Command},
    time::Instant,
};

use super::pulse::Pulse;
use crate::backend::Heartbeat;

/// Longer lines of a worker's log are passed on in pieces.
const MAX_LINE: u64 = 16 * 1024;

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. It must end soon after its stdin is closed, and name itself in heartbeats as
    /// [`WorkerId::new`](crate::contract::WorkerId::new) does.
    pub args: Vec<String>,
}

/// A worker process. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    pub(super) pid: u32,
    pub(super) started: Instant,
    pub(super) pulse: Pulse,
    child: Child,
    /// Open as long as it shall work.
    stdin: Option<ChildStdin>,
    /// When it is killed, if it is to stop.
    kill_at: Option<Instant>,
    /// The last line of its log.
    last_line: Arc<Mutex<String>>,
}

impl WorkerProcess {
    /// Starts a worker; its log lines go to this process's stderr. `beats` are all heartbeats that there are.
    pub(super) fn start(command: &WorkerCommand, beats: &[Heartbeat]) -> io::Result<Self> {
        let mut child = Command::new(&command.program);
        child.args(&command.args);
        child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C in a terminal is for the server, which then lets its workers finish.
        #[cfg(unix)]
        child.process_group(0);
        let mut child = child.spawn()?;
        let last_line = Arc::<Mutex<String>>::default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(pass_on(stderr, Arc::clone(&last_line)));
        }
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
        let stdin = child.stdin.take();
        Ok(Self { pid, started: Instant::now(), pulse: Pulse::new(pid, beats), child, stdin, kill_at: None, last_line })
    }

    /// Whether it is to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.kill_at.is_some()
    }

    /// Asks it to finish; it is killed if it still runs after `grace`.
    pub(super) fn stop(&mut self, grace: Duration) {
        if self.kill_at.is_none() {
            self.stdin = None;
            self.kill_at = Some(Instant::now() + grace);
        }
    }

    /// The last line that it logged so far, empty if there is none.
    pub(super) fn last_line(&self) -> String {
        self.last_line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its exit status if it has ended. Kills it if it was asked to stop and its time is over.
    pub(super) fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status));
        }
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            tracing::warn!(pid = self.pid, "worker did not stop in time; killing it");
            self.child.start_kill()?;
        }
        Ok(None)
    }
}

/// Copies a worker's log to our own stderr, a line at a time, so that the lines of several do not mix.
async fn pass_on(stderr: ChildStderr, last_line: Arc<Mutex<String>>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        *last_line.lock().unwrap_or_else(PoisonError::into_inner) =
            String::from_utf8_lossy(line.trim_ascii()).into_owned();
        let mut out = tokio::io::stderr();
        if out.write_all(&line).await.is_ok() && out.flush().await.is_ok() {
            continue;
        }
        // Nobody reads our log. The worker must not block on its own.
        while matches!(reader.fill_buf().await, Ok(bytes) if !bytes.is_empty()) {
            let read = reader.buffer().len();
            reader.consume(read);
        }
        return;
    }
}
