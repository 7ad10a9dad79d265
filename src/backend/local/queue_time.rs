//! The queue's time: the machine's clock, which may be set back.
//!
//! The latest time at which the queue was written is kept. If the clock is before it, it was set back, and what is
//! hidden until some time of the old clock is hidden until the same time of the new one: nothing waits longer than it
//! was to wait.

use rusqlite::Connection;

use crate::backend::Result;

/// A clock that is less than this before the latest time, in milliseconds, was not set back: processes read it at
/// different moments, and a message may well wait so much longer.
const STEP_MS: i64 = 1000;

/// The latest time is written again after so many milliseconds.
const PRECISION_MS: i64 = 100;

/// Whether the clock was set back since the queue was last written.
pub(super) fn was_set_back(db: &Connection, now_ms: i64) -> Result<bool> {
    Ok(latest(db)? > now_ms + STEP_MS)
}

/// Returns the time with which the messages' times compare, for who only reads them: the latest one if the clock was
/// set back.
pub(super) fn comparable(db: &Connection, now_ms: i64) -> Result<i64> {
    let latest = latest(db)?;
    Ok(if latest > now_ms + STEP_MS { latest } else { now_ms })
}

/// Has the messages' times compare with `now_ms`, at the beginning of whatever writes them.
pub(super) fn settle(db: &Connection, now_ms: i64) -> Result<()> {
    let latest = latest(db)?;
    let was_set_back = latest > now_ms + STEP_MS;
    if was_set_back {
        tracing::warn!(by_ms = latest - now_ms, "the clock was set back; hidden messages are shown that much earlier");
        db.execute(
            "UPDATE messages SET visible_at = visible_at - ?2 WHERE visible_at > ?1",
            (now_ms, latest - now_ms),
        )?;
    }
    if was_set_back || now_ms > latest + PRECISION_MS {
        db.prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'time'")?.execute([now_ms])?;
    }
    Ok(())
}

fn latest(db: &Connection) -> Result<i64> {
    let mut find = db.prepare_cached("SELECT value FROM counters WHERE name = 'time'")?;
    Ok(find.query_row([], |row| row.get(0))?)
}
