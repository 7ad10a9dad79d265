//! `imgcls config`: prints the effective configuration.

use std::{io::Write, process::ExitCode};

use crate::config::Config;

/// Prints `config` as TOML; secrets show as `(set)`.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(toml::to_string(config)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
