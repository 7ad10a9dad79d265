//! One file by HTTP: resumed where it was cut off, with a known size, tried again for a while.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use tokio::time::Instant;

use super::client;
use crate::retry::Retry;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Tries in a row that may bring nothing, once something has come.
const RETRY: Retry = Retry { attempts: 7, first: Duration::from_millis(250), longest: Duration::from_secs(10) };

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Nothing answers.
    #[error(
        "nothing answers; behind a proxy set HTTPS_PROXY, or name a mirror as model_mirror; a file from elsewhere \
         can be imported with `imgcls model import`"
    )]
    NoNetwork(#[source] Option<reqwest::Error>),
    /// It came in part.
    #[error("the connection breaks again and again; what has come is kept, so a later try goes on from there")]
    Broken(#[source] Option<reqwest::Error>),
    /// The server has no such file, or gives it to nobody.
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
    Write(#[from] std::io::Error),
}

/// How one try ended, if not well.
enum Failure {
    /// Another try may help.
    Passing(Option<reqwest::Error>),
    Lasting(DownloadError),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Lasting(error.into())
    }
}

/// What to fetch.
#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    /// The file's size.
    pub(super) bytes: u64,
    pub(super) to: &'a Path,
    /// How long to try until the first byte comes.
    pub(super) patience: Duration,
}

impl Download<'_> {
    /// Fetches what is missing of the file. `progress` gets the bytes so far.
    ///
    /// # Errors
    /// [`DownloadError`]; what has come so far stays.
    pub(super) async fn run(&self, progress: impl Fn(u64)) -> Result<(), DownloadError> {
        let client = client::new(CONNECT.min(self.patience)).map_err(DownloadError::Client)?;
        let mut file = OpenOptions::new().create(true).append(true).open(self.to)?;
        let give_up = Instant::now() + self.patience;
        let (mut came, mut waits) = (false, delays());
        loop {
            let have = file.metadata()?.len();
            if have == self.bytes {
                file.sync_all()?;
                return Ok(());
            }
            let failure = match self.request(&client, have, (!came).then_some(give_up)).await {
                Ok(response) => match self.append(response, &mut file, &progress).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let error = match failure {
                Failure::Passing(error) => error,
                Failure::Lasting(error) => return Err(error),
            };
            if file.metadata()?.len() > have {
                (came, waits) = (true, delays());
            }
            match waits.next() {
                Some(wait) if came || Instant::now() + wait < give_up => tokio::time::sleep(wait).await,
                _ if came => return Err(DownloadError::Broken(error)),
                _ => return Err(DownloadError::NoNetwork(error)),
            }
        }
    }

    /// Asks for the file from byte `have` on, until `give_up` if there is such a time.
    async fn request(&self, client: &Client, have: u64, give_up: Option<Instant>) -> Result<Response, Failure> {
        let mut request = client.get(self.url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let sent = match give_up {
            Some(time) => tokio::time::timeout_at(time, request.send()).await.map_err(|_| Failure::Passing(None))?,
            None => request.send().await,
        };
        let response = sent.map_err(|e| Failure::Passing(Some(e)))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Passing(response.error_for_status().err()))
            }
            status => Err(Failure::Lasting(DownloadError::Status(status))),
        }
    }

    /// Puts an answer behind what is there, or in its place if it is the whole file.
    async fn append(&self, mut answer: Response, file: &mut File, progress: impl Fn(u64)) -> Result<(), Failure> {
        let mut have = file.metadata()?.len();
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if range != format!("bytes {have}-{}/{}", self.bytes - 1, self.bytes) {
                return Err(self.other_size(file));
            }
        } else {
            // A page that a network puts in the way of everything, for one: what has come stays.
            let is_other = |length| answer.status() == StatusCode::OK && length != self.bytes;
            if answer.content_length().is_some_and(is_other) {
                return Err(Failure::Lasting(DownloadError::Size { expected: self.bytes }));
            }
            file.set_len(0)?;
            have = 0;
            if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                return Err(Failure::Passing(answer.error_for_status().err()));
            }
        }
        while let Some(chunk) = answer.chunk().await.map_err(|e| Failure::Passing(Some(e)))? {
            have += chunk.len() as u64;
            if have > self.bytes {
                return Err(self.other_size(file));
            }
            file.write_all(&chunk)?;
            progress(have);
        }
        // Without a length, an early end may be the end of another file, or a connection that was cut.
        if have < self.bytes { Err(Failure::Passing(None)) } else { Ok(()) }
    }

    /// Another file than ours: nothing of it is kept.
    fn other_size(&self, file: &File) -> Failure {
        match file.set_len(0) {
            Ok(()) => Failure::Lasting(DownloadError::Size { expected: self.bytes }),
            Err(error) => error.into(),
        }
    }
}

/// The waits between tries, until too many in a row have brought nothing.
fn delays() -> impl Iterator<Item = Duration> {
    (1..RETRY.attempts).map(|failures| RETRY.pause(failures))
}
