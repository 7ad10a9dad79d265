//! The fleet as everybody sees it: what is desired, and what the supervisor last observed.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};

use super::{Store, workers::read_beats};
use crate::{
    backend::{Fleet, FleetState, Heartbeat, Result, SetDesired},
    config,
    contract::Timestamp,
};

/// The supervisor writes what it sees at least every second; an observation older than this is nobody's.
const OBSERVED: Duration = Duration::from_secs(5);

/// Worker processes by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// They run and were heard of.
    pub(super) running: u32,
    /// They run and were not heard of yet.
    pub(super) pending: u32,
    /// They are to stop.
    pub(super) terminating: u32,
}

#[async_trait]
impl Fleet for Store {
    async fn observe(&self) -> Result<FleetState> {
        let (ours, now) = ((self.fleet.min, self.fleet.max), self.clock.now());
        self.db
            .read(move |db| {
                let mut beats = read_beats(db)?;
                beats.retain(|beat| beat.is_alive(now));
                let count = |is: &dyn Fn(&Heartbeat) -> bool| {
                    u32::try_from(beats.iter().filter(|b| is(b)).count()).unwrap_or(u32::MAX)
                };
                let mut find =
                    db.prepare_cached("SELECT desired, running, pending, terminating, observed_at FROM fleet")?;
                let (desired, observed, at) = find.query_row([], |row| {
                    let observed = Observed { running: row.get(1)?, pending: row.get(2)?, terminating: row.get(3)? };
                    Ok((row.get::<_, Option<u32>>(0)?, observed, row.get::<_, Timestamp>(4)?))
                })?;
                // Without a supervisor, those that were started by hand are the fleet.
                let is_supervised = now.abs_diff(at) < OBSERVED;
                let (min, max) = if is_supervised { bounds(db)?.unwrap_or(ours) } else { ours };
                let observed = if is_supervised {
                    observed
                } else {
                    Observed { running: count(&|b| !b.draining), pending: 0, terminating: count(&|b| b.draining) }
                };
                Ok(FleetState {
                    min,
                    max,
                    desired: desired.unwrap_or(min).clamp(min, max),
                    in_service: observed.running,
                    pending: observed.pending,
                    terminating: observed.terminating,
                    protected: count(&|b| !b.draining && b.in_flight > 0).min(observed.running),
                })
            })
            .await
    }

    fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    async fn set_desired(&self, desired: u32) -> Result<SetDesired> {
        let desired = desired.clamp(self.fleet.min, self.fleet.max);
        self.db
            .write(move |db| {
                db.prepare_cached("UPDATE fleet SET desired = ?1")?.execute([desired])?;
                Ok(SetDesired::Accepted)
            })
            .await
    }
}

/// The bounds that the supervisor has, which its flags may have set: those of other processes may differ. `None` if it
/// is of a version that does not tell.
fn bounds(db: &Connection) -> Result<Option<(u32, u32)>> {
    let mut find = db.prepare_cached(
        "SELECT min.value, max.value FROM counters AS min, counters AS max
         WHERE min.name = 'fleet_min' AND max.name = 'fleet_max'",
    )?;
    Ok(find.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

impl Store {
    /// The desired capacity, within its bounds.
    pub(super) async fn desired(&self) -> Result<u32> {
        let (min, max) = (self.fleet.min, self.fleet.max);
        self.db
            .read(move |db| {
                let mut find = db.prepare_cached("SELECT desired FROM fleet")?;
                let desired: Option<u32> = find.query_row([], |row| row.get(0))?;
                Ok(desired.unwrap_or(min).clamp(min, max))
            })
            .await
    }

    /// Sets why workers cannot start.
    pub(super) fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock() = fault;
    }

    /// Writes what the supervisor sees.
    pub(super) async fn write_observed(&self, observed: Observed) -> Result<()> {
        let (config::Fleet { min, max, .. }, now) = (self.fleet, self.clock.now());
        self.db
            .write(move |db| {
                let Observed { running, pending, terminating } = observed;
                db.prepare_cached("UPDATE fleet SET running = ?1, pending = ?2, terminating = ?3, observed_at = ?4")?
                    .execute((running, pending, terminating, now))?;
                db.prepare_cached("INSERT OR REPLACE INTO counters VALUES ('fleet_min', ?1), ('fleet_max', ?2)")?
                    .execute((min, max))?;
                Ok(())
            })
            .await
    }

    /// Writes that the supervisor sees no worker.
    #[cfg(test)]
    pub(super) async fn observed_none(&self) {
        self.write_observed(Observed::default()).await.unwrap();
    }
}
