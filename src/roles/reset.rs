//! `imgcls reset`: empties the system.

use std::{
    io::{BufRead, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::bail;
use clap::Args;

use crate::{backend, clock::SystemClock, config::Config};

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
pub async fn run(args: ResetArgs, config: Config) -> anyhow::Result<ExitCode> {
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!("reset removes every image and result and cannot ask here; say --yes");
        }
        eprint!("Remove every image, output, message and result? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            eprintln!("nothing removed");
            return Ok(ExitCode::FAILURE);
        }
    }
    let backend = backend::open(&config, Arc::new(SystemClock)).await?;
    let report = backend.reset.reset().await?;
    println!(
        "removed {} images, {} outputs, {} messages, {} results",
        report.images, report.outputs, report.messages, report.results
    );
    Ok(ExitCode::SUCCESS)
}
