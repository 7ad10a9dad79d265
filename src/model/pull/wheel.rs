//! A file in a Python package: pip fetches the wheel, as it alone knows the user's index, proxies and credentials.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
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

/// Has pip fetch a package, such as `name==1.0`, into `dir`, which is emptied first, and returns the wheel.
///
/// # Errors
/// [`WheelError`].
pub(super) async fn fetch(package: &str, bytes: u64, dir: &Path, patience: Patience) -> Result<PathBuf, WheelError> {
    let failed = |source| WheelError::Write { path: dir.to_owned(), source };
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed)?;
    }
    fs::create_dir_all(dir).map_err(failed)?;
    let arguments =
        ["-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"];
    let mut child = Command::new("python3")
        .args(arguments)
        .args(["--timeout", &patience.first.as_secs().max(1).to_string(), "--retries", "1", "--dest"])
        .arg(dir)
        .arg(package)
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(WheelError::NoPython)?;
    let longest = LONGEST.min(patience.whole);
    let ended = timeout(longest, outcome(&mut child, patience.first)).await;
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

/// Waits for pip: `None` if it went well, else what it said.
async fn outcome(child: &mut Child, patience: Duration) -> Result<Option<String>, WheelError> {
    let failed = WheelError::NoPython;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(WheelError::Pip("its output is gone".to_owned()));
    };
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
    timeout(patience, answered).await.map_err(|_| WheelError::NoNetwork)?.map_err(failed)?;
    while lines.next_line().await.map_err(failed)?.is_some() {}
    let status = child.wait().await.map_err(failed)?;
    let errors = errors.await.map_or_else(|_| Ok(Vec::new()), |read| read.map_err(failed))?;
    Ok((!status.success()).then(|| String::from_utf8_lossy(&errors).into_owned()))
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
