//! `imgcls reset`: empties the system.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use indicatif::ProgressBar;

use super::confirm::confirm;
use crate::{
    backend::{self, Tally},
    clock::SystemClock,
    config::Stores,
};

/// Flags of `imgcls reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Asks, empties the system, says what went.
///
/// # Errors
/// Without `--yes` where nobody can be asked, and what the backend says.
pub async fn run(args: ResetArgs, stores: Stores) -> anyhow::Result<ExitCode> {
    let backend = backend::open_existing(&stores, Arc::new(SystemClock)).await?;
    if !confirm(&format!("Remove every image, output, message and result in {stores}?"), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let removed = Tally::default();
    with_progress("removing", &removed, backend.reset.reset(&removed)).await?;
    // A worker that has not heard of it may still write: the system is empty when that is gone, too.
    with_progress("waiting for workers to hear of it", &removed, backend.reset.settle(&removed)).await?;
    let report = removed.report();
    println!(
        "removed {} images, {} outputs, {} messages, {} results",
        report.images, report.outputs, report.messages, report.results
    );
    Ok(ExitCode::SUCCESS)
}

/// Shows on a terminal what `removed` counts while `work` goes on.
async fn with_progress<T>(what: &'static str, removed: &Tally, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new_spinner();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                let report = removed.report();
                let total = report.images + report.outputs + report.messages + report.results;
                bar.set_message(format!("{what}; {total} removed"));
                bar.tick();
            }
        }
    }
}
