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
use tokio::time::{Instant, timeout_at};

use super::client;
use crate::retry::Retry;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for the head of an answer, once something has come.
const HEAD: Duration = Duration::from_secs(20);
/// How often to try, and the waits between.
const RETRY: Retry = Retry { attempts: 7, first: Duration::from_millis(250), longest: Duration::from_secs(10) };
/// Most answers with a part of what was asked for: a server that gives less at a time is as good as dead.
const MOST_PARTS: u32 = 1000;

/// When a download is given up.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long to try until the first byte comes.
    pub first: Duration,
    /// How long it may take altogether. It is given up sooner where it is clear that it will take longer.
    pub whole: Duration,
    /// Bytes that must come in each of these lengths of time: a connection that brings fewer is as good as dead. As
    /// often it is looked whether the rest comes in time.
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
    /// Part of the file, but not the one that was asked for.
    Elsewhere,
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
        let end = Instant::now() + self.patience.whole;
        match timeout_at(end, self.tries(&client, &url, end, progress)).await {
            Ok(ended) => ended,
            Err(_) => Err(DownloadError::Slow),
        }
    }

    async fn tries(
        &self,
        client: &Client,
        url: &Url,
        end: Instant,
        progress: impl Fn(u64),
    ) -> Result<(), DownloadError> {
        let give_up = Instant::now() + self.patience.first;
        let (mut came, mut waits, mut parts) = (false, self.delays(), 0);
        let mut ask = Ask::Rest;
        loop {
            let have = self.have()?;
            if have == self.bytes {
                File::open(self.to)?.sync_all()?;
                return Ok(());
            }
            let head_until = if came { Instant::now() + HEAD } else { give_up };
            let tried = match self.request(client, url, ask.from(have), head_until).await {
                Ok(response) => self.take(response, have, ask, end, &progress).await,
                Err(failure) => Err(failure),
            };
            let error = match tried {
                Ok(()) if parts == MOST_PARTS => return Err(DownloadError::Broken(None)),
                Ok(()) => {
                    (came, waits, parts) = (true, self.delays(), parts + 1);
                    continue;
                }
                Err(Failure::Elsewhere) if ask == Ask::Rest => {
                    ask = Ask::Whole;
                    continue;
                }
                Err(Failure::Elsewhere) => return Err(DownloadError::Status(StatusCode::PARTIAL_CONTENT)),
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

    /// Asks for the file from byte `from` on, until `give_up`.
    async fn request(&self, client: &Client, url: &Url, from: u64, give_up: Instant) -> Result<Response, Failure> {
        let mut request = client.get(url.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
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
    async fn take(
        &self,
        answer: Response,
        have: u64,
        ask: Ask,
        end: Instant,
        progress: impl Fn(u64),
    ) -> Result<(), Failure> {
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(Range::read);
            let range = range.ok_or(Failure::Elsewhere)?;
            if range.size.is_some_and(|size| size != self.bytes) || range.last >= self.bytes {
                return Err(self.other_size());
            }
            if range.first != have || ask.from(have) != have {
                return Err(Failure::Elsewhere);
            }
            return self.append(answer, self.to, have..range.last + 1, end, progress).await;
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
            return self.append(answer, self.to, 0..self.bytes, end, progress).await;
        }
        let ended = self.append(answer, &beside, 0..self.bytes, end, progress).await;
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

    /// Appends what comes to a file, which has the bytes before these, until it has these too.
    async fn append(
        &self,
        mut answer: Response,
        to: &Path,
        these: std::ops::Range<u64>,
        end: Instant,
        progress: impl Fn(u64),
    ) -> Result<(), Failure> {
        let mut file = OpenOptions::new().create(true).append(true).open(to)?;
        let (least, window) = self.patience.least;
        let began = Instant::now();
        let (mut now, mut before, mut until) = (these.start, these.start, began + window);
        loop {
            // The client's own time-out is for a connection that brings nothing; this one is for nearly nothing.
            if let Ok(chunk) = timeout_at(until, answer.chunk()).await {
                let Some(chunk) = chunk? else { break };
                if now + chunk.len() as u64 > these.end {
                    file.set_len(these.start)?;
                    return Err(self.other_size());
                }
                file.write_all(&chunk)?;
                now += chunk.len() as u64;
                progress(now);
            }
            let at = Instant::now();
            if at >= until {
                let (came, rest) = (now - these.start, self.bytes - these.start);
                let in_time = super::comes_in_time(came, at - began, rest, end.saturating_duration_since(at));
                if now - before < least || !in_time {
                    return Err(Failure::Lasting(DownloadError::Slow));
                }
                (before, until) = (now, at + window);
            }
        }
        if now < these.end { Err(Failure::Passing(DownloadError::Size { expected: self.bytes })) } else { Ok(()) }
    }

    fn other_size(&self) -> Failure {
        Failure::Lasting(DownloadError::Size { expected: self.bytes })
    }

    /// The waits between tries, until too many in a row have brought nothing.
    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        (1..self.patience.tries).map(|failures| RETRY.pause(failures))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// What is not yet there.
    Rest,
    /// All of it, of a server that answers with another part than the rest.
    Whole,
}

impl Ask {
    /// The first byte that is asked for where `have` bytes are there.
    fn from(self, have: u64) -> u64 {
        match self {
            Self::Rest => have,
            Self::Whole => 0,
        }
    }
}

/// Which part of a file an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    /// Bytes of the file; a server need not know them.
    size: Option<u64>,
}

impl Range {
    /// Reads `Content-Range`, such as `bytes 0-9/100` or `bytes 0-9/*`.
    fn read(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let size = if size == "*" { None } else { Some(size.parse().ok()?) };
        (first <= last).then_some(Self { first, last, size })
    }
}
