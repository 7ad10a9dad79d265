//! The queue's time: the machine's clock, which may be set back.
//!
//! The latest time at which the queue was written is kept. If the clock is before it, it was set back, and what is
//! hidden until some time of the old clock is hidden until the same time of the new one: nothing waits longer than it
//! was to wait.

use std::time::Duration;

use rusqlite::Connection;

use crate::{backend::Result, contract::Timestamp};

/// A clock that is less than this before the latest time was not set back: processes read it at
/// different moments, and a message may well wait so much longer.
const STEP: Duration = Duration::from_secs(1);

/// The latest time is written again after so long.
const PRECISION: Duration = Duration::from_millis(100);

/// Whether the clock was set back since the queue was last written.
pub(super) fn was_set_back(db: &Connection, now: Timestamp) -> Result<bool> {
    Ok(latest(db)? > now + STEP)
}

/// Returns the time with which the messages' times compare, for who only reads them: the latest one if the clock was
/// set back.
pub(super) fn comparable(db: &Connection, now: Timestamp) -> Result<Timestamp> {
    let latest = latest(db)?;
    Ok(if latest > now + STEP { latest } else { now })
}

/// Has the messages' times compare with `now`, at the beginning of whatever writes them.
pub(super) fn settle(db: &Connection, now: Timestamp) -> Result<()> {
    let latest = latest(db)?;
    let was_set_back = latest > now + STEP;
    if was_set_back {
        let by_ms = latest.as_millis() - now.as_millis();
        tracing::warn!(by_ms, "the clock was set back; hidden messages are shown that much earlier");
        db.execute("UPDATE messages SET visible_at = visible_at - ?2 WHERE visible_at > ?1", (now, by_ms))?;
    }
    if was_set_back || now > latest + PRECISION {
        db.prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'time'")?.execute([now])?;
    }
    Ok(())
}

fn latest(db: &Connection) -> Result<Timestamp> {
    let mut find = db.prepare_cached("SELECT value FROM counters WHERE name = 'time'")?;
    Ok(find.query_row([], |row| row.get(0))?)
}
