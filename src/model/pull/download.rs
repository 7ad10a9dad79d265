//! One file by HTTP: resumed where it was cut off, with a known size, tried again for a while.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_RANGE, RANGE},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::client;
use crate::retry::Retry;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for the head of an answer, once something has come.
const HEAD: Duration = Duration::from_secs(20);
/// How often to try, and the waits between.
const RETRY: Retry = Retry { attempts: 7, first: Duration::from_millis(250), longest: Duration::from_secs(10) };

/// When a download is given up.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long to try until the first byte comes.
    pub first: Duration,
    /// How long it may take altogether.
    pub whole: Duration,
    /// Bytes that must come in each of these lengths of time: a connection that brings fewer is as good as dead.
    pub least: (u64, Duration),
    /// Tries in a row that may bring nothing, once something has come.
    pub tries: u32,
}

impl Patience {
    /// Where a user waits for the file.
    pub const LONG: Self = Self {
        first: Duration::from_secs(8),
        whole: Duration::from_secs(24 * 3600),
        least: (30 << 10, Duration::from_secs(30)),
        tries: RETRY.attempts,
    };
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Not an address.
    #[error("that is no address of http:// or https://; correct model_mirror")]
    Address,
    /// Nothing answers.
    #[error(
        "nothing answers; behind a proxy set HTTPS_PROXY, or name a mirror as model_mirror; a file from elsewhere \
         can be imported with `imgcls model import`"
    )]
    NoNetwork(#[source] Option<reqwest::Error>),
    /// Something answers, and it is no file.
    #[error("what answers does not give the file")]
    Answer(#[source] reqwest::Error),
    /// It came in part.
    #[error("the connection breaks again and again; what has come is kept, so a later try goes on from there")]
    Broken(#[source] Option<reqwest::Error>),
    /// Hardly anything comes.
    #[error("it comes too slowly to wait for; what has come is kept, so a later try goes on from there")]
    Slow,
    /// The server has no such file, or gives it to nobody, or not now.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// It is another file.
    #[error("the server's file has another size than {expected} bytes")]
    Size {
        /// Ours.
        expected: u64,
    },
    /// The client cannot be built, for example since no certificates are there.
    #[error("the HTTP client cannot be built")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be written.
    #[error("cannot write the file")]
    Write(#[from] io::Error),
}

/// How one try ended, if not well.
enum Failure {
    /// Another try may help.
    Passing(DownloadError),
    Lasting(DownloadError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lasting(error.into())
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // The caller names the address.
        let error = error.without_url();
        if error.is_redirect() || error.is_builder() {
            Self::Lasting(DownloadError::Answer(error))
        } else if error.is_connect() || error.is_timeout() {
            Self::Passing(DownloadError::NoNetwork(Some(error)))
        } else {
            Self::Passing(DownloadError::Answer(error))
        }
    }
}

/// What to fetch.
#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    /// The file's size.
    pub(super) bytes: u64,
    pub(super) to: &'a Path,
    pub(super) patience: Patience,
}

impl Download<'_> {
    /// Fetches what is missing of the file. `progress` gets the bytes so far.
    ///
    /// # Errors
    /// [`DownloadError`]; what has come so far stays.
    pub(super) async fn run(&self, progress: impl Fn(u64)) -> Result<(), DownloadError> {
        let url = Url::parse(self.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or(DownloadError::Address)?;
        let client = client::new(CONNECT.min(self.patience.first)).map_err(DownloadError::Client)?;
        match timeout(self.patience.whole, self.tries(&client, &url, progress)).await {
            Ok(ended) => ended,
            Err(_) => Err(DownloadError::Slow),
        }
    }

    async fn tries(&self, client: &Client, url: &Url, progress: impl Fn(u64)) -> Result<(), DownloadError> {
        let give_up = Instant::now() + self.patience.first;
        let (mut came, mut waits) = (false, self.delays());
        loop {
            let have = self.have()?;
            if have == self.bytes {
                File::open(self.to)?.sync_all()?;
                return Ok(());
            }
            let head_until = if came { Instant::now() + HEAD } else { give_up };
            let tried = match self.request(client, url, have, head_until).await {
                Ok(response) => self.take(response, have, &progress).await,
                Err(failure) => Err(failure),
            };
            let error = match tried {
                Ok(()) => continue,
                Err(Failure::Passing(error)) => error,
                Err(Failure::Lasting(error)) => return Err(error),
            };
            if self.have()? > have {
                (came, waits) = (true, self.delays());
            }
            match (waits.next(), error) {
                (Some(wait), _) if came || Instant::now() + wait < give_up => tokio::time::sleep(wait).await,
                (_, DownloadError::NoNetwork(error)) if came => return Err(DownloadError::Broken(error)),
                (_, DownloadError::Answer(error)) if came => return Err(DownloadError::Broken(Some(error))),
                (_, error) => return Err(error),
            }
        }
    }

    /// Bytes that are there. More than the file has are of another one.
    fn have(&self) -> io::Result<u64> {
        match fs::metadata(self.to) {
            Ok(file) if file.len() > self.bytes => fs::remove_file(self.to).map(|()| 0),
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Asks for the file from byte `have` on, until `give_up`.
    async fn request(&self, client: &Client, url: &Url, have: u64, give_up: Instant) -> Result<Response, Failure> {
        let mut request = client.get(url.clone());
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let sent = timeout_at(give_up, request.send()).await;
        let response = sent.map_err(|_| Failure::Passing(DownloadError::NoNetwork(None)))??;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Passing(DownloadError::Status(status)))
            }
            // It ends before what is there.
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.other_size()),
            status => Err(Failure::Lasting(DownloadError::Status(status))),
        }
    }

    /// Puts an answer behind the `have` bytes that are there, or in their place if it is the whole file. A page that a
    /// network puts in the way of everything costs nothing of what has come.
    async fn take(&self, answer: Response, have: u64, progress: impl Fn(u64)) -> Result<(), Failure> {
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if range != format!("bytes {have}-{}/{}", self.bytes - 1, self.bytes) {
                return Err(self.other_size());
            }
            return self.append(answer, self.to, have, progress).await;
        }
        let length = answer.content_length();
        if length.is_some_and(|length| length != self.bytes) {
            return Err(self.other_size());
        }
        let beside = self.beside();
        fs::remove_file(&beside).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        // With its length known and nothing to lose it can be gone on with, whatever happens.
        if have == 0 && length.is_some() {
            return self.append(answer, self.to, 0, progress).await;
        }
        let ended = self.append(answer, &beside, 0, progress).await;
        // Without a length, an early end may be the end of another file.
        let is_kept = ended.is_ok() || length.is_some() && fs::metadata(&beside).is_ok_and(|file| file.len() > have);
        if is_kept {
            fs::rename(&beside, self.to)?;
        } else {
            fs::remove_file(&beside).ok();
        }
        ended
    }

    /// Where an answer goes of which it is not yet clear whether it is the file.
    fn beside(&self) -> PathBuf {
        self.to.with_extension("new")
    }

    /// Appends what comes to a file of `have` bytes, until ours is complete.
    async fn append(&self, mut answer: Response, to: &Path, have: u64, progress: impl Fn(u64)) -> Result<(), Failure> {
        let mut file = OpenOptions::new().create(true).append(true).open(to)?;
        let (least, window) = self.patience.least;
        let (mut now, mut before, mut until) = (have, have, Instant::now() + window);
        loop {
            // The client's own time-out is for a connection that brings nothing; this one is for nearly nothing.
            match timeout_at(until, answer.chunk()).await {
                Ok(chunk) => {
                    let Some(chunk) = chunk? else { break };
                    if now + chunk.len() as u64 > self.bytes {
                        file.set_len(have)?;
                        return Err(self.other_size());
                    }
                    file.write_all(&chunk)?;
                    now += chunk.len() as u64;
                    progress(now);
                }
                Err(_) if now - before < least => return Err(Failure::Lasting(DownloadError::Slow)),
                Err(_) => (before, until) = (now, Instant::now() + window),
            }
        }
        if now < self.bytes { Err(Failure::Passing(DownloadError::Size { expected: self.bytes })) } else { Ok(()) }
    }

    fn other_size(&self) -> Failure {
        Failure::Lasting(DownloadError::Size { expected: self.bytes })
    }

    /// The waits between tries, until too many in a row have brought nothing.
    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        (1..self.patience.tries).map(|failures| RETRY.pause(failures))
    }
}
