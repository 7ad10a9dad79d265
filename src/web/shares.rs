//! What is shared out among requests and bounded: memory for images, room for what became of many files. A client that
//! keeps its share because it is slow gives way to those who wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::http::{Activity, Doing};

/// Who sends or takes fewer bytes a second, loses its share to those who wait. The beginning does not count: it is in
/// the system's buffers.
const SLOW_BYTES_PER_S: u64 = 64 << 10;

/// The time in which that is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Who waits looks so often for who is slow.
const LOOK: Duration = Duration::from_millis(500);

/// So many of a thing, and the clients that have some of it.
#[derive(Debug)]
pub(crate) struct Shares {
    /// What it is, for the log.
    what: &'static str,
    free: Arc<Semaphore>,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    by_number: HashMap<u64, Holder>,
}

/// A client that has a share until it has sent or taken what that is for.
#[derive(Debug)]
struct Holder {
    activity: Activity,
    share: usize,
    /// When it was last looked at, and how many bytes it had moved by then.
    seen: (Instant, u64),
    /// Its bytes a second between the last two looks, if they were few.
    slow: Option<u64>,
}

impl Holder {
    /// Looks how much was moved since the last look, if that was a while ago.
    fn look(&mut self) {
        let (at, before) = self.seen;
        let (time, moved) = (at.elapsed(), self.activity.moved());
        if time >= SPAN {
            let bytes_per_s = ((moved - before) as f64 / time.as_secs_f64()) as u64;
            // Nobody has looked for long: what it did meanwhile may have been to wait for us.
            let is_known = time < 2 * SPAN;
            self.slow = Some(bytes_per_s).filter(|speed| is_known && *speed < SLOW_BYTES_PER_S);
            self.seen = (Instant::now(), moved);
        }
    }

    /// Returns its bytes a second if they are few and it is the client that is waited for.
    fn is_slow(&self) -> Option<u64> {
        self.slow.filter(|_| matches!(self.activity.doing(), Doing::Owing(_)))
    }
}

impl Shares {
    /// Returns `count` of what the log calls `what`.
    pub(crate) fn new(count: usize, what: &'static str) -> Arc<Self> {
        Arc::new(Self { what, free: Arc::new(Semaphore::new(count)), holders: Mutex::default() })
    }

    /// How many are left.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.free.available_permits()
    }

    /// How many clients hold some.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        self.holders.lock().by_number.len()
    }

    /// Returns so many of them, `None` where others have them and keep them for all of `patience`.
    pub(crate) async fn take(&self, wanted: u32, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let share = Arc::clone(&self.free).acquire_many_owned(wanted);
        let give_way = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.make_room(wanted as usize);
            }
        };
        let granted = async {
            tokio::select! {
                share = share => share.ok(),
                () = give_way => None,
            }
        };
        timeout(patience, granted).await.ok().flatten()
    }

    /// Cuts off clients that are slow, the slowest first, until so many will be free.
    fn make_room(&self, wanted: usize) {
        let mut holders = self.holders.lock();
        holders.by_number.values_mut().for_each(Holder::look);
        let mut slow: Vec<_> = holders.by_number.values().filter_map(|one| Some((one.is_slow()?, one))).collect();
        slow.sort_by_key(|(speed, _)| *speed);
        let mut free = self.free.available_permits();
        for (bytes_per_s, holder) in slow {
            if free >= wanted {
                break;
            }
            tracing::info!(bytes_per_s, what = self.what, "others wait for what a slow client holds; cutting it off");
            holder.activity.cut();
            free += holder.share;
        }
    }

    /// Lets the client with this activity hold `share` for as long as it is not slow while others wait.
    pub(crate) fn hold(self: &Arc<Self>, share: OwnedSemaphorePermit, activity: Activity) -> Held {
        let seen = (Instant::now(), activity.moved());
        let holder = Holder { activity, share: share.num_permits(), seen, slow: None };
        let mut holders = self.holders.lock();
        holders.next += 1;
        let number = holders.next;
        holders.by_number.insert(number, holder);
        Held { share, known: Known { number, shares: Arc::clone(self) } }
    }
}

/// A client's share, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    share: OwnedSemaphorePermit,
    known: Known,
}

impl Held {
    /// Returns the share for what is done without the client.
    pub(crate) fn without_client(self) -> OwnedSemaphorePermit {
        drop(self.known);
        self.share
    }
}

/// An entry among the holders.
#[derive(Debug)]
struct Known {
    number: u64,
    shares: Arc<Shares>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.shares.holders.lock().by_number.remove(&self.number);
    }
}
