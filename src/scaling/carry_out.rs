//! Carries a decision out: remembers it by compare-and-swap, sets the desired capacity, lets surplus machines go.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Decision, History,
    memory::{Memory, alike},
    observe::Sight,
    outcome::{Action, CALL_TIMEOUT, TickError},
    surplus::Surplus,
};
use crate::{
    backend::{Backend, SetDesired, within},
    contract::{Change, Timestamp},
};

/// How many decisions are remembered for the status page.
const REMEMBERED: usize = 20;

/// What was seen, and what was decided on it; nothing has been changed yet.
pub(super) struct Plan {
    pub(super) sight: Sight,
    pub(super) decision: Decision,
    pub(super) surplus: Surplus,
}

/// Does what was planned. After an error no change is remembered that was not made.
pub(super) async fn carry_out(backend: &Backend, plan: &Plan, now: Timestamp) -> Result<Action, TickError> {
    let action = set_desired(backend, plan, now).await?;
    let machines = &plan.surplus.machines;
    if matches!(action, Action::Scaled | Action::Nothing) && !machines.is_empty() {
        // They are asked again at the next reading, so a failure costs a little money and nothing else.
        if let Err(error) = within(CALL_TIMEOUT, backend.fleet.release(machines)).await {
            tracing::warn!(%error, machines = machines.len(), "cannot let surplus machines go");
        }
    }
    Ok(action)
}

async fn set_desired(backend: &Backend, plan: &Plan, now: Timestamp) -> Result<Action, TickError> {
    let Plan { sight: Sight { seen, memory, version, .. }, decision, surplus } = plan;
    let from = seen.fleet.desired;
    let changes = decision.target != from;
    let mut next = Memory {
        history: decision.history.clone(),
        decisions: memory.decisions.clone(),
        silent: surplus.silent.clone(),
    };
    if changes {
        let at = now.date().and_then(|at| at.replace_nanosecond(0).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let at = at.format(&Rfc3339).unwrap_or_default();
        next.decisions.push_front(Change { at, from, target: decision.target, reason: decision.reason.clone() });
        next.decisions.truncate(REMEMBERED);
    }
    // What is known already is not written again: an idle machine's disk may sleep.
    let is_news = changes || memory.silent != next.silent || !alike(&memory.history, &next.history);
    if is_news && !remember(backend, *version, &next).await? {
        return Ok(Action::Overtaken);
    }
    if !changes {
        return Ok(Action::Nothing);
    }
    let set = within(CALL_TIMEOUT, backend.fleet.set_desired(decision.target)).await;
    if let Ok(SetDesired::Accepted) = set {
        return Ok(Action::Scaled);
    }
    // A change that fails is not remembered as made, or its cool-down would hold up the next attempt.
    next.history = History { last: None, ..memory.history.clone() };
    next.decisions.pop_front();
    let forgotten = remember(backend, Some(version.unwrap_or(0) + 1), &next).await;
    match set {
        Ok(_) => forgotten.map(|_| Action::InProgress),
        Err(source) => Err(TickError::Act { what: format!("set the desired capacity to {}", decision.target), source }),
    }
}

/// Writes the memory, if nobody else did since it was read.
async fn remember(backend: &Backend, version: Option<u64>, memory: &Memory) -> Result<bool, TickError> {
    let text = serde_json::to_string(memory).unwrap_or_else(|_| "{}".to_owned());
    within(CALL_TIMEOUT, backend.scaler.swap(version, &text))
        .await
        .map_err(|source| TickError::Act { what: "write the scaler's memory".to_owned(), source })
}
