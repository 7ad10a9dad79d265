//! Protection of the machine from scale-in: taken before work begins, dropped after some empty receives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Mutex;
use tracing::warn;

use super::lease::Leases;
use crate::backend::{Instance, within};

/// After so many empty receives in a row the protection is dropped.
const EMPTY_RECEIVES: usize = 3;

/// How long a call to the machine's manager may take.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(10);

/// The machine's protection, as far as this worker knows.
#[derive(Debug)]
pub(crate) struct Protection {
    instance: Arc<dyn Instance>,
    leases: Arc<Leases>,
    /// Whether the machine is protected; held while that changes.
    protected: Mutex<bool>,
    empty_receives: AtomicUsize,
}

impl Protection {
    /// The protection of a machine that was launched with it and works while `leases` has some.
    #[must_use]
    pub(crate) fn new(instance: Arc<dyn Instance>, leases: Arc<Leases>) -> Self {
        Self { instance, leases, protected: Mutex::new(true), empty_receives: AtomicUsize::new(0) }
    }

    /// Protects the machine before work begins, its leases being taken already. False if it cannot be protected: it may
    /// be gone at any time.
    pub(crate) async fn take(&self) -> bool {
        self.empty_receives.store(0, Ordering::SeqCst);
        let mut protected = self.protected.lock().await;
        if !*protected {
            if let Err(error) = within(INSTANCE_TIMEOUT, self.instance.protect(true)).await {
                warn!(%error, "cannot take protection from scale-in; draining");
                return false;
            }
            *protected = true;
        }
        true
    }

    /// Counts an empty receive, and drops the protection after a few if nothing is held.
    pub(crate) async fn received_nothing(&self) {
        if self.empty_receives.fetch_add(1, Ordering::SeqCst) + 1 < EMPTY_RECEIVES {
            return;
        }
        let mut protected = self.protected.lock().await;
        // Looked at under the lock: a receiver takes its leases before it asks for protection.
        if *protected && self.leases.is_empty() {
            match within(INSTANCE_TIMEOUT, self.instance.protect(false)).await {
                Ok(()) => *protected = false,
                Err(error) => warn!(%error, "cannot drop protection from scale-in"),
            }
        }
    }
}
