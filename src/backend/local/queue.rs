//! The queue: one row per message. A message is hidden until `visible_at`, and a dead letter once it is `spent` and
//! visible again.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::time::Instant;

use super::{Store, queue_time};
use crate::{
    backend::{DeadLetter, DeadLetters, Depth, Message, Queue, QueuePolicy, Receipt, Result},
    contract::Timestamp,
};

/// How often a long poll looks for messages of other processes: first and at last.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// Most messages in one receive, and the longest wait, as with SQS.
const MAX_RECEIVE: usize = 10;
const MAX_WAIT: Duration = Duration::from_secs(20);

const COLUMNS: &str = "id, receipt, body, receive_count, sent_at";

#[async_trait]
impl Queue for Store {
    fn policy(&self) -> QueuePolicy {
        QueuePolicy {
            visibility_timeout: self.queue.visibility_timeout,
            max_receives: Some(self.queue.max_receives),
            // Looking costs nothing here, and a worker that stops waits for its receive.
            long_poll: Duration::from_secs(1),
            peek_counts: false,
        }
    }

    async fn send(&self, bodies: &[String]) -> Result<()> {
        let (bodies, now) = (bodies.to_vec(), self.clock.now());
        self.db.write(move |db| bodies.iter().try_for_each(|body| insert(db, body, now))).await?;
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        let max = max.clamp(1, MAX_RECEIVE);
        let mut pause = POLL.0;
        loop {
            // Registered before looking, so that a message that comes in between is not missed.
            let arrived = self.arrived.notified();
            let now = self.clock.now();
            if self.db.read(move |db| Ok(queue_time::was_set_back(db, now)? || is_any_visible(db, now)?)).await? {
                let (hidden_until, limit) = (now + self.queue.visibility_timeout, self.queue.max_receives);
                let messages = self.db.write(move |db| take(db, max, now, hidden_until, limit)).await?;
                if !messages.is_empty() {
                    return Ok(messages);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            if tokio::time::timeout(pause.min(left), arrived).await.is_err() {
                pause = (pause * 2).min(POLL.1);
            }
        }
    }

    async fn extend(&self, receipts: &[Receipt], visibility: Duration) -> Result<Vec<Receipt>> {
        let (receipts, now) = (receipts.to_vec(), self.clock.now());
        let until = now + visibility;
        let stale = self
            .db
            .write(move |db| {
                queue_time::settle(db, now)?;
                let mut extend =
                    db.prepare_cached("UPDATE messages SET visible_at = ?3 WHERE id = ?1 AND receipt = ?2")?;
                let mut stale = Vec::new();
                for receipt in receipts {
                    let Some((id, nonce)) = parts(&receipt) else {
                        stale.push(receipt);
                        continue;
                    };
                    if extend.execute((id, nonce, until))? == 0 {
                        stale.push(receipt);
                    }
                }
                Ok(stale)
            })
            .await?;
        if visibility.is_zero() {
            self.arrived.notify_waiters();
        }
        Ok(stale)
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        let receipts = receipts.to_vec();
        self.db
            .write(move |db| {
                let mut delete = db.prepare_cached("DELETE FROM messages WHERE id = ?1 AND receipt = ?2")?;
                let mut exists = db.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
                let mut failed = Vec::new();
                for receipt in receipts {
                    let Some((id, nonce)) = parts(&receipt) else {
                        failed.push(receipt);
                        continue;
                    };
                    if delete.execute((id, nonce))? == 0 && exists.exists([id])? {
                        failed.push(receipt);
                    }
                }
                Ok(failed)
            })
            .await
    }

    async fn depth(&self) -> Result<Depth> {
        let now = self.clock.now();
        // Counts what is in flight and dead, which is little; the backlog is the rest.
        self.db
            .read(move |db| {
                let now = queue_time::comparable(db, now)?;
                let mut count = db.prepare_cached(
                    "SELECT (SELECT value FROM counters WHERE name = 'messages'),
                        (SELECT count(*) FROM messages WHERE spent = 0 AND visible_at > ?1)
                            + (SELECT count(*) FROM messages WHERE spent = 1 AND visible_at > ?1),
                        (SELECT count(*) FROM messages WHERE spent = 1 AND visible_at <= ?1)",
                )?;
                let (all, in_flight, dead) = count.query_row([now], |row| {
                    Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?))
                })?;
                Ok(Depth { visible: all.saturating_sub(in_flight + dead), in_flight, dead })
            })
            .await
    }

    async fn peek(&self, limit: usize) -> Result<Vec<Message>> {
        let now = self.clock.now();
        self.db.read(move |db| select(db, false, queue_time::comparable(db, now)?, limit, message)).await
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let now = self.clock.now();
        let dead = self.db.read(move |db| select(db, true, queue_time::comparable(db, now)?, limit, message)).await?;
        Ok(dead.into_iter().map(DeadLetter::from).collect())
    }

    async fn redrive(&self) -> Result<u64> {
        let now = self.clock.now();
        let moved = self
            .db
            .write(move |db| {
                queue_time::settle(db, now)?;
                let mut redrive = db.prepare_cached(
                    "UPDATE messages SET spent = 0, receive_count = 0, visible_at = ?1 \
                     WHERE spent = 1 AND visible_at <= ?1",
                )?;
                Ok(redrive.execute([now])?)
            })
            .await?;
        self.arrived.notify_waiters();
        Ok(moved as u64)
    }

    async fn drop_all(&self) -> Result<u64> {
        let now = self.clock.now();
        self.db
            .write(move |db| {
                queue_time::settle(db, now)?;
                let mut drop = db.prepare_cached("DELETE FROM messages WHERE spent = 1 AND visible_at <= ?1")?;
                Ok(drop.execute([now])? as u64)
            })
            .await
    }
}

/// Adds a message that is visible at once.
pub(super) fn insert(db: &Connection, body: &str, now: Timestamp) -> Result<()> {
    queue_time::settle(db, now)?;
    db.prepare_cached("INSERT INTO messages (body, sent_at, visible_at) VALUES (?1, ?2, ?2)")?.execute((body, now))?;
    Ok(())
}

fn is_any_visible(db: &Connection, now: Timestamp) -> Result<bool> {
    let mut find = db.prepare_cached("SELECT 1 FROM messages WHERE spent = 0 AND visible_at <= ?1 LIMIT 1")?;
    Ok(find.query_row([now], |_| Ok(())).optional()?.is_some())
}

/// Hides the messages that have been visible longest, and hands them out.
fn take(db: &Connection, max: usize, now: Timestamp, hidden_until: Timestamp, limit: u32) -> Result<Vec<Message>> {
    queue_time::settle(db, now)?;
    let mut update = db.prepare_cached(
        "UPDATE messages SET visible_at = ?2, receive_count = receive_count + 1, receipt = receipt + 1,
            spent = (receive_count + 1 >= ?3)
         WHERE id = ?1 RETURNING id, receipt, body, receive_count, sent_at",
    )?;
    let ids = select(db, false, now, max, |row| row.get::<_, i64>(0))?;
    ids.into_iter().map(|id| Ok(update.query_row((id, hidden_until, limit), message)?)).collect()
}

/// Visible messages or dead letters, those that have been so longest first.
fn select<T>(
    db: &Connection,
    dead: bool,
    now: Timestamp,
    limit: usize,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM messages WHERE spent = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?3"
    ))?;
    Ok(select.query_map((dead, now, limit as i64), read)?.collect::<Result<_, _>>()?)
}

/// A message from [`COLUMNS`].
fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let id: i64 = row.get(0)?;
    Ok(Message {
        id: id.to_string(),
        receipt: Receipt(format!("{id}-{}", row.get::<_, i64>(1)?)),
        body: row.get(2)?,
        receive_count: row.get(3)?,
        sent_at: row.get(4)?,
    })
}

/// The message's id and its count of receives, which redriving leaves alone, so that no two receives share a receipt.
fn parts(receipt: &Receipt) -> Option<(i64, i64)> {
    let (id, nonce) = receipt.0.split_once('-')?;
    Some((id.parse().ok()?, nonce.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_receipt_is_read_or_refused(
            text in "\\PC{0,40}|-?[0-9]{0,25}-?-?[0-9]{0,25}", id in 0..i64::MAX, nonce in 0..i64::MAX,
        ) {
            let _ = parts(&Receipt(text));
            prop_assert_eq!(parts(&Receipt(format!("{id}-{nonce}"))), Some((id, nonce)));
        }
    }
}
