//! `imgcls reset`: empties the system.

use std::{process::ExitCode, sync::Arc};

use clap::Args;

use super::confirm::confirm;
use crate::{backend, clock::SystemClock, config::Stores};

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
    let report = backend.reset.reset().await?;
    println!(
        "removed {} images, {} outputs, {} messages, {} results",
        report.images, report.outputs, report.messages, report.results
    );
    Ok(ExitCode::SUCCESS)
}
