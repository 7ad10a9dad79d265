//! Which machines may go: those of workers that are too many, and those whose worker is lost.

use std::{collections::BTreeMap, time::Duration};

use super::observe::Sight;
use crate::{backend::Heartbeat, contract::Timestamp};

/// A worker that has run for so long is sound: one that ends again and again is not, though each of it is heard of.
const SOUND: Duration = Duration::from_secs(60);

/// After so long without a sound worker a machine is lost. A restart of a worker, or of the store of heartbeats, is
/// over long before.
const LOST: Duration = Duration::from_secs(5 * 60);

/// The machines that may go, and those that may have to later.
pub(super) struct Surplus {
    /// Those that lose their protection from scale-in now.
    pub(super) machines: Vec<String>,
    /// What to remember as [`Memory::silent`](super::memory::Memory::silent).
    pub(super) silent: BTreeMap<String, Timestamp>,
}

/// Returns the machines of as many workers as are to be released, and those that are lost.
pub(super) fn surplus(sight: &Sight, release: u32, now: Timestamp) -> Surplus {
    let Sight { alive, protected, memory, .. } = sight;
    let silent = silent(protected, alive, &memory.silent, now);
    // Those without any worker count among the protected, and go when they are lost.
    let without_worker = |machine: &&String| !alive.iter().any(|beat| beat.worker.instance() == Some(*machine));
    let without_worker = silent.keys().filter(without_worker).count();
    let mut machines = least_busy(alive, (release as usize).saturating_sub(without_worker));
    machines.extend(lost(&silent, now));
    machines.sort_unstable();
    machines.dedup();
    Surplus { machines, silent }
}

/// The machines of the workers that hold the fewest messages, of these the newest.
fn least_busy(alive: &[Heartbeat], count: usize) -> Vec<String> {
    let mut working: Vec<_> = alive.iter().filter(|beat| !beat.draining).collect();
    working.sort_by_key(|beat| (beat.in_flight, std::cmp::Reverse(beat.started_at)));
    let machines = working.into_iter().take(count).filter_map(|beat| beat.worker.instance());
    machines.map(str::to_owned).collect()
}

/// The protected machines without a sound worker, and since when that is so as far as it was seen.
fn silent(
    protected: &[String],
    alive: &[Heartbeat],
    before: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let sound = |beat: &&Heartbeat| now.since(beat.started_at) >= SOUND;
    let is_silent =
        |machine: &&String| !alive.iter().filter(sound).any(|beat| beat.worker.instance() == Some(*machine));
    // A time in the future is from before the clock was set back.
    let since = |machine: &String| before.get(machine).map_or(now, |since| now.min(*since));
    protected.iter().filter(is_silent).map(|machine| (machine.clone(), since(machine))).collect()
}

/// Those that are silent for so long that their protection, which the worker should drop, would stay for ever.
fn lost(silent: &BTreeMap<String, Timestamp>, now: Timestamp) -> Vec<String> {
    let lost: Vec<String> =
        silent.iter().filter(|(_, since)| now.since(**since) >= LOST).map(|(machine, _)| machine.clone()).collect();
    if !lost.is_empty() {
        let message = "no worker of these machines is sound; they lose their protection from scale-in";
        tracing::warn!(machines = ?lost, message);
    }
    lost
}
