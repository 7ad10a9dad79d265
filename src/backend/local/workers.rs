//! Heartbeats: one row a worker, few altogether.

use async_trait::async_trait;
use rusqlite::Connection;

use super::{Store, row::corrupt};
use crate::{
    backend::{Heartbeat, Registry, Result, workers::MAX_HEARTBEATS},
    contract::Timestamp,
};

#[async_trait]
impl Registry for Store {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()> {
        let beat = Heartbeat { seen_at: self.clock.now(), ..heartbeat.clone() };
        self.db
            .write(move |db| {
                write_beat(db, &beat)?;
                fold_old_beats(db, beat.seen_at)
            })
            .await
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        self.db.read(read_beats).await
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

/// All heartbeats.
pub(super) fn read_beats(db: &Connection) -> Result<Vec<Heartbeat>> {
    let mut all = db.prepare_cached("SELECT body FROM heartbeats")?;
    all.query_map([], |row| row.get::<_, String>(0))?.map(|body| beat(&body?)).collect()
}

fn beat(body: &str) -> Result<Heartbeat> {
    serde_json::from_str(body).map_err(|e| corrupt("heartbeats").because(e))
}

/// Sums up heartbeats of workers that are gone if there are too many.
fn fold_old_beats(db: &Connection, now: Timestamp) -> Result<()> {
    let count: i64 = db.prepare_cached("SELECT count(*) FROM heartbeats")?.query_row([], |row| row.get(0))?;
    let too_many = count - MAX_HEARTBEATS as i64;
    if too_many <= 0 {
        return Ok(());
    }
    // The sum counts as one. Whoever lives has a time that is near, whereas the clock may have been set back since
    // others were heard of.
    let mut sum = Heartbeat::of_former_workers();
    let mut farthest = db
        .prepare_cached("SELECT body FROM heartbeats ORDER BY worker = ?1 DESC, abs(seen_at - ?2) DESC LIMIT ?3 + 1")?;
    let farthest: Vec<String> =
        farthest.query_map((sum.worker.as_str(), now, too_many), |row| row.get(0))?.collect::<Result<_, _>>()?;
    for body in farthest {
        let beat = beat(&body)?;
        sum.absorb(&beat);
        db.prepare_cached("DELETE FROM heartbeats WHERE worker = ?1")?.execute([beat.worker.as_str()])?;
    }
    write_beat(db, &sum)
}
