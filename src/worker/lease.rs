//! Leases: every held message stays hidden, from its receive until it is settled, by extending its visibility at
//! half-life.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backend::{Queue, Receipt, within};

/// How long one call that extends leases may take; a lease has at least two tries before it runs out.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The messages that this worker holds.
#[derive(Debug)]
pub(crate) struct Leases {
    queue: Arc<dyn Queue>,
    held: Mutex<HashMap<Receipt, Instant>>,
    /// Taken while visibilities are written, so that an extension under way cannot undo a hand-back.
    writing: tokio::sync::Mutex<()>,
}

impl Leases {
    /// No leases on `queue` yet.
    #[must_use]
    pub(crate) fn new(queue: Arc<dyn Queue>) -> Self {
        Self { queue, held: Mutex::default(), writing: tokio::sync::Mutex::default() }
    }

    /// Takes leases on messages that were asked for at `received`: their time runs from then at the earliest.
    pub(crate) fn take<'a>(&self, receipts: impl IntoIterator<Item = &'a Receipt>, received: Instant) {
        let mut held = self.held.lock();
        held.extend(receipts.into_iter().map(|receipt| (receipt.clone(), received)));
    }

    /// Gives up leases on messages that are deleted, without a word to the queue.
    pub(crate) fn forget(&self, receipts: &[Receipt]) {
        let mut held = self.held.lock();
        for receipt in receipts {
            held.remove(receipt);
        }
    }

    /// Gives up a lease and has the queue show the message after `delay`; zero hands it back at once. If the queue
    /// cannot be reached, the message comes back when its visibility time-out ends.
    pub(crate) async fn release(&self, receipt: &Receipt, delay: Duration) {
        self.forget(std::slice::from_ref(receipt));
        let _writing = self.writing.lock().await;
        let shown = self.queue.extend(std::slice::from_ref(receipt), delay);
        if let Err(error) = within(EXTEND_TIMEOUT, shown).await {
            warn!(%error, "cannot hand a message back; it comes back when its visibility time-out ends");
        }
    }

    /// How many messages are held.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.held.lock().len()
    }

    /// Whether none is held.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extends leases at half-life until `stop`.
    pub(crate) async fn keep(&self, stop: CancellationToken) {
        let timeout = self.queue.policy().visibility_timeout;
        let mut ticks = tokio::time::interval((timeout / 8).max(Duration::from_millis(50)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.extend_due(timeout).await,
            }
        }
    }

    async fn extend_due(&self, timeout: Duration) {
        let _writing = self.writing.lock().await;
        let now = Instant::now();
        let due: Vec<Receipt> = {
            let held = self.held.lock();
            held.iter()
                .filter(|(_, since)| now.duration_since(**since) >= timeout / 2)
                .map(|(r, _)| r.clone())
                .collect()
        };
        if due.is_empty() {
            return;
        }
        match within(EXTEND_TIMEOUT, self.queue.extend(&due, timeout)).await {
            Ok(stale) => {
                let mut held = self.held.lock();
                for receipt in due {
                    if stale.contains(&receipt) {
                        // Another worker may have the message now. Both store the same result, so this one goes on.
                        held.remove(&receipt);
                        warn!("a lease ran out before it could be extended");
                    } else if let Some(since) = held.get_mut(&receipt) {
                        *since = now;
                    }
                }
            }
            Err(error) => warn!(%error, messages = due.len(), "cannot extend leases; trying again"),
        }
    }
}
