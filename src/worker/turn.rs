//! Turns: ordinary messages are processed beside each other, one that may kill workers alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// From this receive on a message is processed alone: it may be the one that kills workers.
const SUSPICIOUS_RECEIVES: u32 = 3;

/// Who may process.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Read by ordinary messages at work, written by a suspicious one.
    alone: RwLock<()>,
    /// Suspicious messages held.
    suspicious: AtomicUsize,
    calm: Notify,
}

/// The right to process a message, beside others or alone.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// Beside others.
    Shared { _guard: RwLockReadGuard<'a, ()> },
    /// Alone.
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

/// A suspicious message, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Suspect(Arc<Turns>);

impl Turns {
    /// Marks a message as held if it is suspicious after so many receives.
    pub(crate) fn suspect(self: &Arc<Self>, receives: u32) -> Option<Suspect> {
        (receives >= SUSPICIOUS_RECEIVES).then(|| {
            self.suspicious.fetch_add(1, Ordering::SeqCst);
            Suspect(Arc::clone(self))
        })
    }

    /// Waits for the turn of a message.
    pub(crate) async fn turn(&self, alone: bool) -> Turn<'_> {
        if alone {
            Turn::Alone { _guard: self.alone.write().await }
        } else {
            Turn::Shared { _guard: self.alone.read().await }
        }
    }

    /// Waits until no suspicious message is held; while there are any, nothing should be received.
    pub(crate) async fn calm(&self) {
        loop {
            let calm = self.calm.notified();
            if self.suspicious.load(Ordering::SeqCst) == 0 {
                return;
            }
            calm.await;
        }
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        if self.0.suspicious.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.calm.notify_waiters();
        }
    }
}
