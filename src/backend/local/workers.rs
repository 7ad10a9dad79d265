//! Heartbeats: one row a worker, few altogether.

use async_trait::async_trait;
use rusqlite::Connection;

use super::{Store, row::corrupt};
use crate::backend::{Heartbeat, Registry, Result, workers::MAX_HEARTBEATS};

#[async_trait]
impl Registry for Store {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()> {
        let beat = Heartbeat { seen_at: self.clock.now(), ..heartbeat.clone() };
        self.db
            .write(move |db| {
                write_beat(db, &beat)?;
                fold_old_beats(db)
            })
            .await
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        self.db.read(|db| read_beats(db, i64::MAX)).await
    }
}

fn write_beat(db: &Connection, beat: &Heartbeat) -> Result<()> {
    let body = serde_json::to_string(beat).map_err(|e| corrupt("heartbeats").because(e))?;
    db.prepare_cached("INSERT OR REPLACE INTO heartbeats (worker, seen_at, body) VALUES (?1, ?2, ?3)")?.execute((
        beat.worker.as_str(),
        beat.seen_at,
        body,
    ))?;
    Ok(())
}

/// The heartbeats, those not heard of for longest first.
pub(super) fn read_beats(db: &Connection, limit: i64) -> Result<Vec<Heartbeat>> {
    let mut all = db.prepare_cached("SELECT body FROM heartbeats ORDER BY seen_at LIMIT ?1")?;
    let bodies = all.query_map([limit], |row| row.get::<_, String>(0))?;
    bodies.map(|body| serde_json::from_str(&body?).map_err(|e| corrupt("heartbeats").because(e))).collect()
}

/// Sums up the oldest heartbeats if there are too many.
fn fold_old_beats(db: &Connection) -> Result<()> {
    let count: i64 = db.prepare_cached("SELECT count(*) FROM heartbeats")?.query_row([], |row| row.get(0))?;
    let too_many = count - MAX_HEARTBEATS as i64;
    if too_many <= 0 {
        return Ok(());
    }
    // The sum counts as one, and is among the oldest, for it keeps the time of the oldest.
    let mut sum = Heartbeat::of_former_workers();
    for beat in read_beats(db, too_many + 1)? {
        sum.absorb(&beat);
        db.prepare_cached("DELETE FROM heartbeats WHERE worker = ?1")?.execute([beat.worker.as_str()])?;
    }
    write_beat(db, &sum)
}
