//! A wall clock that can be set, for all processes of the system: libfaketime.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The clock.
#[derive(Debug)]
pub(super) struct Clock {
    /// Holds how far it is ahead, in seconds.
    file: PathBuf,
    ahead: i64,
    variables: Vec<(String, String)>,
    holder: Child,
    /// What the library shares among processes: a semaphore and memory.
    shared: Vec<PathBuf>,
}

impl Clock {
    /// A clock that is right, if the library is there and works. Its file is in `dir`.
    pub(super) fn new(dir: &Path) -> Option<Self> {
        let found = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter().flat_map(libraries).next();
        let clock = found.map(|library| Self::with(&library, dir.join("clock"))).filter(Self::works);
        if clock.is_none() {
            eprintln!("skipped: steps of the clock, since libfaketime is not there (Debian package faketime)");
        }
        clock
    }

    fn with(library: &Path, file: PathBuf) -> Self {
        let mut variables = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), file.display().to_string()),
        ];
        // Steps are seen within a second. Waiting goes by a clock that cannot be set, and files have their own time.
        for name in ["FAKETIME_CACHE_DURATION", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"] {
            variables.push((name.to_owned(), "1".to_owned()));
        }
        write(&file, 0);
        // A process that is killed leaves what it shares behind. One that is not shares its own with all others.
        let mut holder = Command::new("sh")
            .args(["-c", "echo \"$FAKETIME_SHARED\"; exec cat >&2"])
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut names = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut names).unwrap();
        let mut shared = Vec::new();
        if let Some((semaphore, memory)) = names.trim().split_once(' ') {
            shared.push(PathBuf::from(format!("/dev/shm/sem.{}", semaphore.trim_start_matches('/'))));
            shared.push(PathBuf::from(format!("/dev/shm/{}", memory.trim_start_matches('/'))));
            variables.push(("FAKETIME_SHARED".to_owned(), names.trim().to_owned()));
        }
        Self { file, ahead: 0, variables, holder, shared }
    }

    fn works(&self) -> bool {
        write(&self.file, 1_000_000);
        let seconds = |command: &mut Command| -> i64 {
            let output = command.arg("+%s").output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
        };
        let real = seconds(&mut Command::new("date"));
        let faked = seconds(Command::new("date").envs(self.variables()));
        write(&self.file, self.ahead);
        (999_000..1_001_000).contains(&(faked - real))
    }

    /// The environment of processes that go by it.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }

    /// Sets it right.
    pub(super) fn set_right(&mut self) {
        self.step(-self.ahead);
    }

    /// Sets it on, or back, by so many seconds.
    pub(super) fn step(&mut self, seconds: i64) {
        self.ahead += seconds;
        write(&self.file, self.ahead);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
        for path in &self.shared {
            fs::remove_file(path).ok();
        }
    }
}

fn write(file: &Path, ahead: i64) {
    // Nobody reads half of it.
    let new = file.with_extension("new");
    fs::write(&new, format!("{ahead:+}\n")).and_then(|()| fs::rename(&new, file)).unwrap();
}

/// libfaketime for programs with threads, below a directory for libraries or one for an architecture in it.
fn libraries(dir: &str) -> Vec<PathBuf> {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let dirs = below.chain([PathBuf::from(dir)]);
    dirs.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).filter(|path| path.is_file()).collect()
}
