//! The SQLite file: its tables, its version, and how a connection to it is set up.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::index;
use crate::backend::{Error, ErrorKind, Result};

/// `user_version` of the files that this program writes.
const VERSION: i64 = 3;

/// How long a connection waits for other processes' transactions.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The bounds of one sleep while another process writes, in microseconds. Below [`WRITE_GAP`](super::db::WRITE_GAP), so
/// that a waiting process finds the gap that a busy one leaves.
const BUSY_SLEEP_US: std::ops::Range<u64> = 80..320;

/// A dead letter is a message that is `spent` (received as often as allowed) and visible again: nothing has to move it.
/// Counters are kept by triggers, so that totals cost one look-up and are exact.
const TABLES: &str = "
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('sequencer', 0), ('messages', 0), ('results', 0), ('failed', 0), ('time', 0);

CREATE TABLE images (
    name TEXT NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    file TEXT NOT NULL UNIQUE,
    sequencer INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    tags TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE TABLE outputs (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 0,
    receipt INTEGER NOT NULL DEFAULT 0,
    spent INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX messages_by_visibility ON messages (spent, visible_at);
CREATE TRIGGER message_in AFTER INSERT ON messages BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'messages';
END;
CREATE TRIGGER message_out AFTER DELETE ON messages BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'messages';
END;

CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    sort_key TEXT NOT NULL UNIQUE,
    image TEXT NOT NULL,
    label TEXT,
    sequencer TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE TRIGGER result_in AFTER INSERT ON results BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'results';
    UPDATE counters SET value = value + (NEW.label IS NULL) WHERE name = 'failed';
END;
CREATE TRIGGER result_out AFTER DELETE ON results BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'results';
    UPDATE counters SET value = value - (OLD.label IS NULL) WHERE name = 'failed';
END;
CREATE TRIGGER result_over AFTER UPDATE OF label ON results BEGIN
    UPDATE counters SET value = value + (NEW.label IS NULL) - (OLD.label IS NULL) WHERE name = 'failed';
END;

CREATE TABLE heartbeats (worker TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, body TEXT NOT NULL) STRICT;

CREATE TABLE scaler (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, value TEXT NOT NULL) STRICT;

CREATE TABLE fleet (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    desired INTEGER,
    running INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    terminating INTEGER NOT NULL DEFAULT 0,
    observed_at INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO fleet (id) VALUES (1);
";

/// What [`index`] keeps: blocks by the key of their first line, how many images have a label, and how many are in a
/// folder. Version 3 has it.
const INDEX: &str = "
CREATE TABLE blocks (id INTEGER PRIMARY KEY, first TEXT NOT NULL UNIQUE, entries BLOB NOT NULL) STRICT;
CREATE TABLE labels (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE, images INTEGER NOT NULL) STRICT;
CREATE TABLE folders (
    parent TEXT NOT NULL,
    sort_key TEXT NOT NULL,
    folder TEXT NOT NULL,
    images INTEGER NOT NULL,
    PRIMARY KEY (parent, sort_key)
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('uncertain', 0), ('waiting', 0);
";

/// From version 1, which did not keep the queue's latest time.
const FROM_1: &str = "INSERT INTO counters SELECT 'time', coalesce(max(sent_at), 0) FROM messages;";

/// Writes the tables, or brings those of an earlier version up to this one.
fn lay_out(db: &Connection, version: i64) -> Result<()> {
    match version {
        0 => db.execute_batch(TABLES)?,
        1 => db.execute_batch(FROM_1)?,
        _ => {}
    }
    if version < 3 {
        db.execute_batch(INDEX)?;
    }
    if (1..3).contains(&version) {
        tracing::info!("the data directory gets its index for searches");
        index::build(db)?;
    }
    Ok(())
}

/// Opens the file for writing, and creates or checks its tables.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    let mut db = Connection::open(path).map_err(|e| Error::from(e).of(path))?;
    db.busy_handler(Some(wait_for_others))?;
    use_wal(&db).map_err(|e| e.of(path))?;
    // FULL: a commit has reached the disk when it returns.
    db.pragma_update(None, "synchronous", "FULL")?;
    // The log is cut back after a large transaction, such as a reset.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // Pages: 16 MB of log, in which most pages are written many times over.
    db.pragma_update(None, "wal_autocheckpoint", 4096)?;
    db.set_prepared_statement_cache_capacity(64);
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version =
        tx.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map_err(|e| Error::from(e).of(path))?;
    if !(0..=VERSION).contains(&version) {
        let message = format!(
            "{} has layout version {version}, this program knows {VERSION}; use a newer imgcls or another data \
             directory",
            path.display()
        );
        return Err(Error::new(ErrorKind::Refused, message));
    }
    lay_out(&tx, version)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(db)
}

/// Opens the file for reading only; [`open_writer`] came before.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    // Read-write, because a reader of a WAL file writes its shared memory.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_handler(Some(wait_for_others))?;
    db.pragma_update(None, "query_only", true)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Turns the write-ahead log on. SQLite does not call the busy handler for this, so processes that start together
/// retry.
fn use_wal(db: &Connection) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match db
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
            .map_err(Error::from)
        {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "SQLite keeps its journal in mode {mode} here; put the data directory on a local file system"
                    ),
                ));
            }
            Err(error) if error.kind() == ErrorKind::Transient && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(rand::random_range(1..10)));
            }
            Err(error) => return Err(error),
        }
    }
}

/// SQLite's busy handler: sleeps a little and says whether to try again.
fn wait_for_others(tries: i32) -> bool {
    let mean_us = (BUSY_SLEEP_US.start + BUSY_SLEEP_US.end) / 2;
    if u128::from(tries.unsigned_abs()) * u128::from(mean_us) > BUSY_TIMEOUT.as_micros() {
        return false;
    }
    std::thread::sleep(Duration::from_micros(rand::random_range(BUSY_SLEEP_US)));
    true
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ffi::ErrorCode as Code;
        let kind = match error.sqlite_error_code() {
            Some(Code::DiskFull | Code::TooBig) => ErrorKind::Full,
            Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::SystemIoFailure | Code::OutOfMemory) => {
                ErrorKind::Transient
            }
            _ => ErrorKind::Refused,
        };
        let message = if kind == ErrorKind::Full { "the disk of the data directory is full" } else { "database" };
        Self::new(kind, message).because(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, message) = match error.kind() {
            Io::NotFound => (ErrorKind::NotFound, "file not found"),
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => {
                (ErrorKind::Full, "the disk of the data directory is full")
            }
            Io::PermissionDenied | Io::ReadOnlyFilesystem => (ErrorKind::Refused, "no access to the data directory"),
            _ => (ErrorKind::Transient, "data directory"),
        };
        Self::new(kind, message).because(error)
    }
}

impl Error {
    /// The same error, told with the file that it is about.
    pub(super) fn of(self, path: &Path) -> Self {
        Self::new(self.kind(), path.display().to_string()).because(self)
    }
}

/// Makes a file as an earlier version wrote it, with two labelled images, one of them in doubt, one that failed and one
/// that waits.
#[cfg(test)]
pub(super) fn make_old(path: &Path, version: i64) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(TABLES).unwrap();
    if version == 1 {
        db.execute("DELETE FROM counters WHERE name = 'time'", []).unwrap();
    } else {
        db.execute("UPDATE counters SET value = 7 WHERE name = 'time'", []).unwrap();
    }
    db.execute("INSERT INTO messages (body, sent_at, visible_at) VALUES ('one', 5, 5), ('two', 7, 9)", []).unwrap();
    let mut image = db.prepare("INSERT INTO images VALUES (?1, x'00', 1, ?1, ?2, 0, '{}')").unwrap();
    let sql = "INSERT INTO results (sort_key, image, label, body) VALUES (?1, ?2, ?3, ?4)";
    for (n, (name, label, outcome)) in [
        ("w.png", None, None),
        ("a/1.png", Some("cat"), Some(r#""label": "cat", "confidence": 0.9, "top": []"#)),
        ("bad.png", None, Some(r#""error": "no image""#)),
        ("a/b/2.png", Some("cat"), Some(r#""label": "cat", "confidence": 0.2, "top": [], "uncertain": true"#)),
    ]
    .into_iter()
    .enumerate()
    {
        image.execute((name, n)).unwrap();
        if let Some(outcome) = outcome {
            let rest = r#""location": "", "model": "m", "worker": "w", "classified_at": "2026-01-02T03:04:05Z""#;
            let body = format!(r#"{{"image": "{name}", {outcome}, {rest}}}"#);
            db.execute(sql, (crate::contract::order::sort_key(name), name, label, body)).unwrap();
        }
    }
    db.pragma_update(None, "user_version", version).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imgcls.db");
        open_writer(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        let error = open_writer(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("layout version 4"), "{error}");
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imgcls.db");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let error = open_writer(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("imgcls.db"), "{error}");
    }

    #[test]
    fn a_full_disk_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let db = open_writer(&dir.path().join("imgcls.db")).unwrap();
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        db.pragma_update(None, "max_page_count", pages).unwrap();
        let error = db.execute("INSERT INTO outputs VALUES ('x', zeroblob(100000))", []).unwrap_err();
        assert_eq!(Error::from(error).kind(), ErrorKind::Full);
        assert_eq!(Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)).kind(), ErrorKind::Full);
    }

    #[test]
    fn many_may_open_a_new_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imgcls.db");
        std::thread::scope(|scope| {
            for thread in (0..8).map(|_| scope.spawn(|| open_writer(&path).map(|_| ()))).collect::<Vec<_>>() {
                thread.join().unwrap().unwrap();
            }
        });
    }
}
