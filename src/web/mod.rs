//! The web tier: upload page and API, results, status, reset and health over HTTP.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backend::{self, Backend, within},
    clock::Clock,
    config::Serve,
};

pub use crate::http::listen;

mod accept;
mod asked;
mod assets;
mod auth;
mod body;
mod chart;
mod classes;
mod classify;
mod compression;
mod csv;
mod detail;
mod error;
mod etag;
mod facets;
mod features;
mod frame;
mod guard;
mod history;
mod images;
mod index;
mod limiter;
mod listing;
mod login;
mod metrics;
mod multipart;
mod openapi;
mod outcome;
mod outgoing;
mod params;
mod part;
mod queue;
mod range;
mod raw;
mod ready;
mod refusals;
mod reset;
mod results;
mod router;
mod selection;
mod serve;
mod shared;
mod shares;
mod slow;
mod spool;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod thumbnails;
mod upload;
mod version;

pub use error::Error;
pub use router::router;
pub use serve::serve;

/// A store must answer a question within this time.
const STORE_TIMEOUT: Duration = Duration::from_secs(20);

/// What pages and answers tell of the model.
#[derive(Debug, Clone, Default)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// Its classes.
    pub labels: Vec<String>,
    /// What a user should know before trusting a label.
    pub note: String,
}

/// Everything that the handlers share.
#[derive(Debug)]
pub struct App {
    backend: Backend,
    config: Serve,
    model: ModelFacts,
    clock: Arc<dyn Clock>,
    auth: auth::Auth,
    hosts: guard::Hosts,
    spool: Arc<spool::Spool>,
    /// Uploads that are being stored.
    storing: Arc<Semaphore>,
    /// Requests that may have a part with a large head.
    part_heads: Arc<Semaphore>,
    /// Requests that may have many files.
    many_files: Arc<shares::Shares>,
    waiters: Arc<classify::Waiters>,
    features: features::Features,
    image_memory: Arc<shares::Shares>,
    thumbnails: thumbnails::Thumbnails,
    metrics: metrics::Metrics,
    refusals: refusals::Refusals,
    status: shared::Shared<status::Status>,
    history: history::History,
    readiness: shared::Shared<ready::Checks>,
    /// Work that outlives the request that began it.
    tasks: TaskTracker,
    /// Cancelled when the server begins to stop.
    stopping: CancellationToken,
}

impl App {
    /// The web tier of `backend`. Uploads in progress go to `uploads` in the configured data directory.
    ///
    /// # Errors
    /// If the spool cannot be made.
    pub fn new(backend: Backend, config: Serve, model: ModelFacts, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            auth: auth::Auth::new(&config.web, Arc::clone(&clock)),
            hosts: guard::Hosts::new(&config.web),
            spool: spool::Spool::open(&config.data_dir.join("uploads"))?,
            storing: Arc::new(Semaphore::new(multipart::MAX_STORING)),
            part_heads: body::large_heads(),
            many_files: multipart::many_files(),
            waiters: classify::Waiters::new(Arc::clone(&backend.results)),
            features: features::Features::default(),
            image_memory: outgoing::memory(&config.limits),
            thumbnails: thumbnails::Thumbnails::open(&config.data_dir.join("thumbnails"))?,
            metrics: metrics::Metrics::new(),
            refusals: refusals::Refusals::default(),
            status: shared::Shared::default(),
            history: history::History::default(),
            readiness: shared::Shared::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            backend,
            config,
            model,
            clock,
        }))
    }
}

/// A store's answer, or an error if it takes too long.
async fn ask<T>(question: impl Future<Output = backend::Result<T>>) -> error::Result<T> {
    Ok(within(STORE_TIMEOUT, question).await?)
}

/// Does `work` to its end even if the client that asked for it goes away, and returns what came of it.
///
/// # Errors
/// Those of the work, and 503 if it panics.
async fn see_through<T: Send + 'static>(
    app: &App,
    work: impl Future<Output = error::Result<T>> + Send + 'static,
) -> error::Result<T> {
    let ended = app.tasks.spawn(work).await;
    ended.unwrap_or_else(|_| Err(Error::unavailable("the work ended abruptly; ask for it again")))
}
