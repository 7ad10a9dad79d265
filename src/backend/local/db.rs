//! Access to the SQLite file: one thread writes, a few connections read.
//!
//! Whatever writes wait go into one transaction (group commit), each in a savepoint of its own, so that one that fails
//! spoils no other. A write is answered after its transaction is on disk. What it needs beside the database is prepared
//! and synced before the transaction begins, for all of them together and where nobody else is kept from writing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::schema;
use crate::backend::{Error, ErrorKind, Result};

/// The time between two transactions of one process, in which another finds its turn.
pub(super) const WRITE_GAP: Duration = Duration::from_micros(400);

/// The time after a transaction in which those whom it answered may come again, so that they share the next one.
const GATHERING: Duration = Duration::from_micros(100);

/// Most writes that wait; more wait to be queued.
const MAX_QUEUED: usize = 1024;

/// Most writes in one transaction.
const MAX_BATCH: usize = 512;

/// Reads at a time.
const READERS: usize = 4;

/// Handle to the file. Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Db {
    writes: mpsc::Sender<Box<dyn Write>>,
    readers: Readers,
}

/// Connections for reading.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Db {
    /// Opens the file, creating it if it is not there. `sync` makes durable what writes have prepared; none of them is
    /// run if it fails.
    pub(super) fn open(path: &Path, sync: impl Fn() -> Result<()> + Send + 'static) -> Result<Self> {
        let writer = Writer { db: schema::open_writer(path)?, sync: Box::new(sync) };
        let (writes, waiting) = mpsc::channel(MAX_QUEUED);
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(waiting))?;
        let readers =
            Readers { path: path.to_owned(), idle: Arc::default(), permits: Arc::new(Semaphore::new(READERS)) };
        Ok(Self { writes, readers })
    }

    /// Runs `work` in a write transaction. It is not run if the caller has gone before its turn.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_prepared(|_| Ok(work)).await
    }

    /// Runs what `prepare` returns in a write transaction, and `prepare`, which may read the database, before it.
    /// Neither is run if the caller has gone before its turn.
    pub(super) async fn write_prepared<T, W>(
        &self,
        prepare: impl FnOnce(&Connection) -> Result<W> + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let gone = || Error::new(ErrorKind::Transient, "the writer of the data directory has ended");
        let (reply, answer) = oneshot::channel();
        self.writes.send(Box::new(Task { stage: Stage::Asked(prepare), reply })).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs `work` in a read transaction, which sees one state of the file.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.readers.permits).acquire_owned().await;
        let readers = self.readers();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.read(work)
        });
        task.await.map_err(|e| Error::new(ErrorKind::Transient, "reading the database").because(e))?
    }

    /// The connections for reading, for work that blocks and may do so.
    pub(super) fn readers(&self) -> Readers {
        self.readers.clone()
    }
}

impl Readers {
    /// Runs `work` in a read transaction, on this thread. The caller bounds how many do so at a time.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let pooled = self.idle.lock().pop();
        let db = pooled.map_or_else(|| schema::open_reader(&self.path), Ok)?;
        let snapshot = db.unchecked_transaction()?;
        let outcome = work(&snapshot);
        snapshot.finish()?;
        self.idle.lock().push(db);
        outcome
    }
}

/// A write that waits for its turn.
trait Write: Send {
    /// Does what comes before the transaction.
    fn prepare(&mut self, db: &Connection);

    /// Does the work and keeps the outcome. False if it failed, so that its changes are taken back.
    fn run(&mut self, db: &Connection) -> bool;

    /// Answers the caller; `failure` is what befell the transaction.
    fn answer(self: Box<Self>, failure: Option<&Error>);
}

struct Task<P, W, T> {
    stage: Stage<P, W, T>,
    reply: oneshot::Sender<Result<T>>,
}

enum Stage<P, W, T> {
    Asked(P),
    Prepared(W),
    Done(Result<T>),
    /// The caller has gone; nothing more is done.
    Gone,
}

impl<P, W, T> Task<P, W, T> {
    /// The stage that is to be followed by the next.
    fn take(&mut self) -> Stage<P, W, T> {
        let stage = std::mem::replace(&mut self.stage, Stage::Gone);
        if self.reply.is_closed() { Stage::Gone } else { stage }
    }
}

impl<P, W, T> Write for Task<P, W, T>
where
    P: FnOnce(&Connection) -> Result<W> + Send,
    W: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn prepare(&mut self, db: &Connection) {
        self.stage = match self.take() {
            Stage::Asked(prepare) => prepare(db).map_or_else(|e| Stage::Done(Err(e)), Stage::Prepared),
            stage => stage,
        };
    }

    fn run(&mut self, db: &Connection) -> bool {
        self.stage = match self.take() {
            Stage::Prepared(work) => Stage::Done(work(db)),
            stage => stage,
        };
        matches!(self.stage, Stage::Done(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<&Error>) {
        let outcome = match (self.stage, failure) {
            // Its own error tells more than what followed from it.
            (Stage::Done(Err(error)), _) => Err(error),
            (_, Some(failure)) => Err(Error::new(failure.kind(), failure.to_string())),
            (Stage::Done(Ok(value)), None) => Ok(value),
            (Stage::Asked(_) | Stage::Prepared(_) | Stage::Gone, None) => return,
        };
        // A caller that has gone needs no answer.
        drop(self.reply.send(outcome));
    }
}

/// The one that writes.
struct Writer {
    db: Connection,
    sync: Box<dyn Fn() -> Result<()> + Send>,
}

impl Writer {
    fn run(self, mut waiting: mpsc::Receiver<Box<dyn Write>>) {
        let mut batch = Vec::new();
        let mut last_commit: Option<Instant> = None;
        while waiting.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            let rest_of = |gap: Duration| gap.saturating_sub(last_commit.map_or(gap, |at| at.elapsed()));
            std::thread::sleep(rest_of(GATHERING));
            let mut prepared = self.prepare(&mut batch, &mut waiting);
            // Files take longer than the gap; without them what comes in the rest of it goes along.
            let rest = rest_of(WRITE_GAP);
            if prepared.is_ok() && !rest.is_zero() {
                std::thread::sleep(rest);
                prepared = self.prepare(&mut batch, &mut waiting);
            }
            let failure = prepared.err();
            if failure.is_some() {
                batch.drain(..).for_each(|write| write.answer(failure.as_ref()));
            }
            while !batch.is_empty() {
                let (done, failure) = self.transact(&mut batch);
                for write in done {
                    write.answer(failure.as_ref());
                }
            }
            last_commit = Some(Instant::now());
        }
    }

    /// Prepares what is not yet prepared of the batch, and what comes meanwhile goes along.
    fn prepare(&self, batch: &mut Vec<Box<dyn Write>>, waiting: &mut mpsc::Receiver<Box<dyn Write>>) -> Result<()> {
        let mut prepared = 0;
        loop {
            while batch.len() < MAX_BATCH
                && let Ok(more) = waiting.try_recv()
            {
                batch.push(more);
            }
            if prepared == batch.len() {
                // To the others of the batch it says nothing of what they asked for.
                return (self.sync)().map_err(|error| match error.kind() {
                    ErrorKind::Full => error,
                    _ => Error::new(ErrorKind::Transient, error.to_string()),
                });
            }
            batch[prepared..].iter_mut().for_each(|write| write.prepare(&self.db));
            prepared = batch.len();
        }
    }

    /// Runs the batch in one transaction. Returns those that were run and, if they are not stored, why; what is left in
    /// `batch` was not run, because an error such as a full disk ended the transaction early.
    fn transact(&self, batch: &mut Vec<Box<dyn Write>>) -> (Vec<Box<dyn Write>>, Option<Error>) {
        let db = &self.db;
        if let Err(error) = statement(db, "BEGIN IMMEDIATE") {
            return (std::mem::take(batch), Some(error));
        }
        let mut ran = 0;
        let mut failure = None;
        for write in batch.iter_mut() {
            ran += 1;
            failure = in_savepoint(db, write.as_mut()).err();
            if failure.is_none() && db.is_autocommit() {
                failure = Some(Error::new(ErrorKind::Transient, "the database took the transaction back; try again"));
            }
            if failure.is_some() {
                break;
            }
        }
        if failure.is_none() {
            failure = statement(db, "COMMIT").err();
        }
        if failure.is_some()
            && !db.is_autocommit()
            && let Err(error) = statement(db, "ROLLBACK")
        {
            tracing::error!(%error, "cannot roll a transaction back");
        }
        (batch.drain(..ran).collect(), failure)
    }
}

fn in_savepoint(db: &Connection, write: &mut dyn Write) -> Result<()> {
    statement(db, "SAVEPOINT one")?;
    let keep = write.run(db);
    if db.is_autocommit() {
        return Ok(());
    }
    if !keep {
        statement(db, "ROLLBACK TO one")?;
    }
    statement(db, "RELEASE one")
}

fn statement(db: &Connection, sql: &'static str) -> Result<()> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn insert(db: &Connection, key: &str, bytes: usize) -> Result<()> {
        db.execute("INSERT INTO outputs VALUES (?1, zeroblob(?2))", (key, i64::try_from(bytes).unwrap()))?;
        Ok(())
    }

    async fn keys(db: &Db) -> Vec<String> {
        db.read(|db| {
            let mut statement = db.prepare("SELECT key FROM outputs ORDER BY key")?;
            let keys = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(keys)
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn one_that_fails_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db"), || Ok(())).unwrap();
        let bad = db.write(|db| {
            insert(db, "half", 1)?;
            Err::<(), _>(Error::new(ErrorKind::NotFound, "no"))
        });
        let (a, bad, b) = tokio::join!(db.write(|db| insert(db, "a", 1)), bad, db.write(|db| insert(db, "b", 1)));
        a.unwrap();
        b.unwrap();
        assert_eq!(bad.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(keys(&db).await, ["a", "b"]);
    }

    /// SQLite keeps notes of the pages that a savepoint changes, in memory and then in a file.
    #[tokio::test]
    async fn one_write_may_change_any_number_of_pages() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db"), || Ok(())).unwrap();
        let fill = |db: &Connection| (0..2000).try_for_each(|n| insert(db, &format!("{n:04}"), 2000));
        db.write(fill).await.unwrap();
        let change = |db: &Connection| Ok(db.execute("UPDATE outputs SET body = zeroblob(2001)", [])?);
        let taken_back = db.write(move |db| {
            change(db)?;
            Err::<(), _>(Error::new(ErrorKind::NotFound, "no"))
        });
        assert_eq!(taken_back.await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(db.write(change).await.unwrap(), 2000);
        assert_eq!(db.write(|db| Ok(db.execute("DELETE FROM outputs", [])?)).await.unwrap(), 2000);
    }

    #[tokio::test]
    async fn a_full_disk_fails_writes_and_the_store_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db"), || Ok(())).unwrap();
        db.write(|db| {
            let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            db.pragma_update(None, "max_page_count", pages + 3)?;
            Ok(())
        })
        .await
        .unwrap();
        let (small, large) = tokio::join!(db.write(|db| insert(db, "a", 1)), db.write(|db| insert(db, "b", 1 << 20)));
        assert_eq!(large.unwrap_err().kind(), ErrorKind::Full);
        // It may have shared the transaction that was taken back; then it was told.
        assert_eq!(keys(&db).await, if small.is_ok() { vec!["a"] } else { vec![] });
        db.write(|db| insert(db, "c", 1)).await.unwrap();
        assert!(keys(&db).await.contains(&"c".to_owned()));
    }

    #[tokio::test]
    async fn nothing_is_stored_whose_needs_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Arc::new(AtomicBool::new(true));
        let refuses = Arc::clone(&refused);
        let sync = move || match refuses.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Full, "no room for names")),
            false => Ok(()),
        };
        let db = Db::open(&dir.path().join("db"), sync).unwrap();
        let put = |key: &'static str| db.write_prepared(move |_| Ok(move |db: &Connection| insert(db, key, 1)));
        assert_eq!(put("a").await.unwrap_err().kind(), ErrorKind::Full);
        refused.store(false, Ordering::SeqCst);
        put("c").await.unwrap();
        let failing = |_: &Connection| -> Result<fn(&Connection) -> Result<()>> {
            Err(Error::new(ErrorKind::Refused, "no name is free"))
        };
        assert_eq!(db.write_prepared(failing).await.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(keys(&db).await, ["c"]);
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db"), || Ok(())).unwrap();
        assert!(db.read(|db| insert(db, "a", 1)).await.is_err());
    }
}
