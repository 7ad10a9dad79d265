//! The local backend: one data directory on this machine.
//!
//! ```text
//! imgcls.db          records of images, tags, outputs, queue, results and their index, heartbeats, fleet (SQLite)
//! images/ab/ab…      the images' bytes, under random ids
//! uploads/           the web tier's uploads in progress; on the same file system, so that storing one moves no bytes
//! server.lock        held by the one server
//! ```
//!
//! Any number of processes may open the directory. Every method is safe to call from all of them at once.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::{Backend, Error, ErrorKind, Result};
use crate::{
    clock::Clock,
    config::{self, Local},
};

mod blocks;
mod counts;
mod db;
mod files;
mod fleet;
mod folders;
mod found;
mod images;
mod index;
mod matcher;
mod outputs;
mod page;
mod pulse;
mod queue;
mod queue_time;
mod reset;
mod results;
mod row;
mod scaler;
mod schema;
mod search;
mod supervisor;
mod tags;
mod unsynced;
mod worker_process;
mod workers;

pub use files::ServerLock;
pub use supervisor::Supervisor;
pub use worker_process::WorkerCommand;

/// Spooled uploads that are made durable at the same time: enough for the disk to join their journal writes.
const CONCURRENT_SYNCS: usize = 16;

/// The database's file in the data directory.
const DATABASE: &str = "imgcls.db";

/// Whether `dir` is a data directory.
#[must_use]
pub fn is_data_dir(dir: &Path) -> bool {
    dir.join(DATABASE).is_file()
}

/// One data directory, opened. It implements every trait of the backend.
#[derive(Debug)]
pub struct Store {
    db: db::Db,
    files: files::Files,
    clock: Arc<dyn Clock>,
    queue: config::Queue,
    fleet: config::Fleet,
    /// Why the supervisor in this process cannot start workers.
    fault: Mutex<Option<String>>,
    /// Messages may have become visible.
    arrived: Notify,
    syncs: Arc<Semaphore>,
}

/// Opens the data directory that `config` names, creating it if it is not there.
///
/// # Errors
/// [`ErrorKind::Refused`] if it cannot be used: no access, no local file system, written by a newer version.
pub fn open(config: &Local, clock: Arc<dyn Clock>) -> Result<(Backend, Arc<Store>)> {
    let store = Arc::new(Store::open(&config.data_dir, config.queue.clone(), config.fleet, clock)?);
    let backend = Backend {
        name: "local",
        images: Arc::<Store>::clone(&store),
        tags: Arc::<Store>::clone(&store),
        outputs: Arc::<Store>::clone(&store),
        queue: Arc::<Store>::clone(&store),
        dead_letters: Arc::<Store>::clone(&store),
        results: Arc::<Store>::clone(&store),
        workers: Arc::<Store>::clone(&store),
        scaler: Arc::<Store>::clone(&store),
        fleet: Arc::<Store>::clone(&store),
        reset: Arc::<Store>::clone(&store),
    };
    Ok((backend, store))
}

impl Store {
    /// Opens the data directory `dir`, creating it if it is not there.
    ///
    /// # Errors
    /// As for [`open`].
    pub fn open(dir: &Path, queue: config::Queue, fleet: config::Fleet, clock: Arc<dyn Clock>) -> Result<Self> {
        let files = files::Files::create(dir)?;
        let written = files.clone();
        Ok(Self {
            files,
            db: db::Db::open(&dir.join(DATABASE), move || written.sync())?,
            clock,
            queue,
            fleet,
            fault: Mutex::default(),
            arrived: Notify::new(),
            syncs: Arc::new(Semaphore::new(CONCURRENT_SYNCS)),
        })
    }

    /// Takes the lock of the directory's one server.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if another process holds it.
    pub fn lock_server(&self) -> Result<ServerLock> {
        self.files.lock_server()
    }

    /// Removes what a former server left half done: image files that were never recorded. It may run while the server
    /// works. Answers how many files went.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn sweep(&self, lock: &ServerLock) -> Result<u64> {
        let files = self.files.clone();
        let since = lock.since();
        self.db
            .read(move |db| {
                let mut known = db.prepare("SELECT 1 FROM images WHERE file = ?1")?;
                files.sweep(since, |id| Ok(known.exists([id])?))
            })
            .await
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::new(ErrorKind::Transient, "file work was broken off").because(e))?
    }
}

#[cfg(test)]
mod index_tests;
#[cfg(test)]
mod tests;
