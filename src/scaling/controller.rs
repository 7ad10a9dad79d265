//! The controller: looks, decides, carries out.

use super::{
    carry_out::{Plan, carry_out},
    decide,
    observe::observe,
    outcome::{Action, Outcome, TickError},
    surplus::surplus,
};
use crate::{backend::Backend, clock::Clock, config::Rules, contract::Timestamp};

/// Decides once and carries it out.
///
/// # Errors
/// [`TickError`]; after one the next call starts afresh, and no change is remembered that was not made.
pub async fn tick(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    let now = clock.now();
    let plan = plan(backend, rules, now).await?;
    let action = carry_out(backend, &plan, now).await?;
    let outcome = outcome(plan, action);
    tell(&outcome);
    Ok(outcome)
}

/// Decides once and changes nothing.
///
/// # Errors
/// [`TickError::Read`].
pub async fn dry_run(backend: &Backend, rules: &Rules, clock: &dyn Clock) -> Result<Outcome, TickError> {
    Ok(outcome(plan(backend, rules, clock.now()).await?, Action::DryRun))
}

async fn plan(backend: &Backend, rules: &Rules, now: Timestamp) -> Result<Plan, TickError> {
    let sight = observe(backend, now).await?;
    let decision = decide(&sight.seen, rules, &sight.memory.history, now);
    let surplus = surplus(&sight, decision.release, now);
    Ok(Plan { sight, decision, surplus })
}

fn outcome(plan: Plan, action: Action) -> Outcome {
    let Plan { sight, decision, .. } = plan;
    let from = sight.seen.fleet.desired;
    Outcome { action, from, target: decision.target, reason: decision.reason, seen: sight.seen }
}

/// Tells what happened, so that the log reads like a story: changes aloud, the rest only to those who ask.
fn tell(outcome: &Outcome) {
    let Outcome { action, from, target, reason, seen } = outcome;
    let fleet = &seen.fleet;
    match action {
        Action::Scaled if target > from => {
            tracing::info!(from, target, visible = seen.visible, in_flight = seen.in_flight, "scaling out: {reason}");
        }
        Action::Scaled => {
            tracing::info!(from, target, visible = seen.visible, in_flight = seen.in_flight, "scaling in: {reason}");
        }
        Action::InProgress => {
            tracing::info!(from, target, "the fleet is busy with an earlier change; deciding again next time");
        }
        Action::Overtaken => tracing::info!("another run has just decided on this reading; leaving it at that"),
        Action::Nothing | Action::DryRun => {
            tracing::debug!(desired = from, visible = seen.visible, in_flight = seen.in_flight, "{reason}");
        }
    }
    if fleet.in_service > *target && fleet.in_service > 0 && fleet.protected >= fleet.in_service {
        tracing::info!(
            desired = target,
            in_service = fleet.in_service,
            "every worker is at work and protected; each leaves as it finishes, which is as it should be"
        );
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
