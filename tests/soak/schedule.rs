//! What befalls the system, and when: drawn from a seed, so that a run can be repeated.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::VISIBILITY;

/// Something that befalls the system.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// SIGKILL to the worker with this number, modulo how many there are.
    KillWorker(usize),
    /// SIGTERM to a worker.
    TermWorker(usize),
    /// SIGSTOP to a worker, and SIGCONT after so long.
    StopWorker(usize, Duration),
    /// SIGKILL to the server, and another start.
    KillServer,
    /// SIGTERM to the server, and another start.
    TermServer,
    /// SIGSTOP to the server, and SIGCONT after so long.
    StopServer(Duration),
    /// The data directory's disk is full for so long.
    FillDisk(Duration),
    /// The clock of every process is set so many seconds on, or back.
    StepClock(i64),
    /// The server is stopped and started with the other model.
    SwitchModel,
    /// Everything is emptied, by the web page's call.
    ResetPage,
    /// Everything is emptied, by the command.
    ResetCommand,
    /// `imgcls queue` with these arguments.
    Queue(&'static [&'static str]),
}

/// Every kind of action, the frequent ones several times. A deck is dealt to its end before it is shuffled again, so
/// that no kind is left out for long.
const DECK: [fn(&mut StdRng) -> Action; 30] = [
    |rng| Action::KillWorker(rng.random_range(0..8)),
    |rng| Action::KillWorker(rng.random_range(0..8)),
    |rng| Action::KillWorker(rng.random_range(0..8)),
    |rng| Action::KillWorker(rng.random_range(0..8)),
    |rng| Action::KillWorker(rng.random_range(0..8)),
    |rng| Action::TermWorker(rng.random_range(0..8)),
    |rng| Action::TermWorker(rng.random_range(0..8)),
    |rng| Action::TermWorker(rng.random_range(0..8)),
    |rng| Action::StopWorker(rng.random_range(0..8), pause(rng)),
    |rng| Action::StopWorker(rng.random_range(0..8), pause(rng)),
    |rng| Action::StopWorker(rng.random_range(0..8), pause(rng)),
    |_| Action::KillServer,
    |_| Action::KillServer,
    |_| Action::TermServer,
    |rng| Action::StopServer(pause(rng)),
    |rng| Action::FillDisk(pause(rng)),
    |rng| Action::FillDisk(pause(rng)),
    |rng| Action::StepClock(3600 + rng.random_range(0..60)),
    |rng| Action::StepClock(-3600 - rng.random_range(0..60)),
    |rng| Action::StepClock(rng.random_range(-90..90)),
    |_| Action::SwitchModel,
    |_| Action::ResetPage,
    |_| Action::ResetCommand,
    |_| Action::Queue(&["requeue", "all"]),
    |_| Action::Queue(&["requeue", "failed"]),
    |_| Action::Queue(&["requeue", "missing"]),
    |_| Action::Queue(&["requeue", "missing"]),
    |_| Action::Queue(&["redrive"]),
    |_| Action::Queue(&["peek"]),
    |_| Action::Queue(&["dead"]),
];

/// Longer than messages stay hidden.
fn pause(rng: &mut StdRng) -> Duration {
    VISIBILITY.mul_f64(rng.random_range(1.2..2.5))
}

/// An endless series of pauses and actions.
#[derive(Debug)]
pub(super) struct Schedule {
    rng: StdRng,
    deck: Vec<usize>,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), deck: Vec::new() }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Action);

    fn next(&mut self) -> Option<Self::Item> {
        if self.deck.is_empty() {
            self.deck = (0..DECK.len()).collect();
            self.deck.shuffle(&mut self.rng);
        }
        let card = self.deck.pop()?;
        let after = Duration::from_millis(self.rng.random_range(50..1500));
        Some((after, DECK[card](&mut self.rng)))
    }
}
