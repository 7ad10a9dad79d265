//! What an uploader knows of its images, and when everything was emptied.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The times at which everything was emptied.
#[derive(Debug, Default)]
pub(super) struct Resets(Mutex<Vec<Reset>>);

#[derive(Debug, Clone, Copy)]
struct Reset {
    began: Instant,
    /// `None` while it is under way.
    ended: Option<Instant>,
    /// It said that it emptied everything.
    done: bool,
}

/// What resets have done to an operation's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survival {
    Survived,
    Gone,
    /// They ran side by side, or the reset may have failed.
    Unknown,
}

impl Resets {
    /// A reset begins; its number.
    pub(super) fn begin(&self) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Reset { began: Instant::now(), ended: None, done: false });
        all.len() - 1
    }

    /// The reset with this number has ended.
    pub(super) fn end(&self, number: usize, done: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all[number] = Reset { ended: Some(Instant::now()), done, ..all[number] };
    }

    /// What became of that which was done between `began` and `ended`.
    fn survival(&self, began: Instant, ended: Instant) -> Survival {
        let mut survival = Survival::Survived;
        for reset in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if reset.ended.is_some_and(|at| at < began) {
                continue;
            }
            if reset.done && reset.began > ended {
                return Survival::Gone;
            }
            survival = Survival::Unknown;
        }
        survival
    }
}

/// A picture that was sent under a name.
#[derive(Debug, Clone, Copy)]
struct Sent {
    picture: usize,
    began: Instant,
    ended: Instant,
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Entry {
    /// The picture that was acknowledged under this name.
    acknowledged: Option<Sent>,
    /// Pictures that were sent under it, or a name that would become it, without a clear answer.
    unclear: Vec<Sent>,
    /// It was asked to be deleted, without a clear answer.
    perhaps_deleted: bool,
}

/// What must be stored under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// This picture.
    Stored(usize),
    /// One of these, or nothing.
    Perhaps(Vec<usize>),
}

/// An uploader's ledger, by the names under which images are stored.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<String, Entry>);

impl Ledger {
    /// The answer said that the picture is stored as `name`.
    pub(super) fn acknowledged(&mut self, name: &str, picture: usize, began: Instant) {
        let entry = self.0.entry(name.to_owned()).or_default();
        entry.acknowledged = Some(Sent { picture, began, ended: Instant::now() });
        entry.perhaps_deleted = false;
    }

    /// The picture was sent as `name`, and may be stored under it.
    pub(super) fn unclear(&mut self, name: &str, picture: usize, began: Instant) {
        self.0.entry(name.to_owned()).or_default().unclear.push(Sent { picture, began, ended: Instant::now() });
    }

    /// The answer said that `name` is removed.
    pub(super) fn deleted(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// It was asked to remove `name`.
    pub(super) fn perhaps_deleted(&mut self, name: &str) {
        if let Some(entry) = self.0.get_mut(name) {
            entry.perhaps_deleted = true;
        }
    }

    /// A name that is surely stored and of which nothing is unclear, the `n`th modulo how many there are.
    pub(super) fn certain(&self, resets: &Resets, n: usize) -> Option<(String, usize)> {
        let known = self.0.iter().filter(|(_, entry)| entry.unclear.is_empty());
        let certain: Vec<_> = known
            .filter_map(|(name, entry)| match entry.expected(resets) {
                Expected::Stored(picture) => Some((name.clone(), picture)),
                Expected::Perhaps(_) => None,
            })
            .collect();
        (!certain.is_empty()).then(|| certain[n % certain.len()].clone())
    }

    /// What must be stored under `name`.
    pub(super) fn expected(&self, resets: &Resets, name: &str) -> Expected {
        self.0.get(name).map_or(Expected::Perhaps(Vec::new()), |entry| entry.expected(resets))
    }

    /// All names that it knows.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Entry {
    fn expected(&self, resets: &Resets) -> Expected {
        let survival = |sent: &Sent| resets.survival(sent.began, sent.ended);
        match self.acknowledged.as_ref().map(|sent| (sent, survival(sent))) {
            Some((sent, Survival::Survived)) if !self.perhaps_deleted => Expected::Stored(sent.picture),
            acknowledged => {
                // Nobody knows when a request without an answer had its effect: that is never surely gone.
                let mut pictures: Vec<usize> = self.unclear.iter().map(|sent| sent.picture).collect();
                pictures.extend(
                    acknowledged.filter(|(_, survival)| *survival != Survival::Gone).map(|(sent, _)| sent.picture),
                );
                Expected::Perhaps(pictures)
            }
        }
    }
}
