//! The workspaces of the calls that may run side by side.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};

/// One workspace for each call; further calls wait.
pub(super) struct Calls<W> {
    idle: Mutex<Vec<W>>,
    returned: Condvar,
}

impl<W> Calls<W> {
    pub(super) fn new(workspaces: Vec<W>) -> Self {
        Self { idle: Mutex::new(workspaces), returned: Condvar::new() }
    }

    /// Waits for one that is idle; the last one returned, which the caches may still hold.
    pub(super) fn take(&self) -> Taken<'_, W> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = self.returned.wait_while(idle, |idle| idle.is_empty()).unwrap_or_else(PoisonError::into_inner);
        Taken { from: self, workspace: idle.pop() }
    }
}

/// A workspace that goes back when it is dropped.
pub(super) struct Taken<'a, W> {
    from: &'a Calls<W>,
    workspace: Option<W>,
}

impl<W> Deref for Taken<'_, W> {
    type Target = W;
    fn deref(&self) -> &W {
        self.workspace.as_ref().expect("it is there until the drop")
    }
}

impl<W> DerefMut for Taken<'_, W> {
    fn deref_mut(&mut self) -> &mut W {
        self.workspace.as_mut().expect("it is there until the drop")
    }
}

impl<W> Drop for Taken<'_, W> {
    fn drop(&mut self) {
        let mut idle = self.from.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.workspace.take());
        self.from.returned.notify_one();
    }
}
