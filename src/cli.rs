//! The command line. The doc comments are the help text.

use std::{net::SocketAddr, num::NonZero, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{BackendKind, LogFormat},
    roles,
};

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 failed, or some files did; 2 bad usage or configuration. `imgcls scale` has more.";

/// Elastic image classification in one binary: a whole system on a laptop, a fleet on AWS.
///
/// Start with `imgcls serve` and open the address that it prints, or label files at once with `imgcls classify PATH…`.
#[derive(Debug, Parser)]
#[command(name = "imgcls", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands take.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file; `imgcls config` prints one with every key.
    #[arg(long, global = true, env = "IMGCLS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets any configuration key, such as `fleet.max=4`; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Where the stores are.
    #[arg(long, global = true, value_enum)]
    pub backend: Option<BackendKind>,
    /// Directory of the local backend.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// The roles, and the tools beside them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Web tier: upload page and API, results, status. With the local backend it is the whole system.
    Serve(roles::serve::ServeArgs),
    /// App tier: takes messages, classifies the images, stores the results.
    Work(roles::work::WorkArgs),
    /// Makes one scaling decision for the app tier (a cron job), or simulates many.
    Scale(roles::scale::ScaleArgs),
    /// Empties the system: images, outputs, messages and results.
    Reset(roles::reset::ResetArgs),
    /// Labels local files; needs no service.
    Classify(roles::classify::ClassifyArgs),
    /// Shows queue, fleet, results and workers.
    Status(roles::status::StatusArgs),
    /// Looks into the queue and the dead letters.
    Queue(roles::queue::QueueArgs),
    /// Creates or checks the AWS resources: buckets, notification, queues, table.
    Setup(roles::setup::SetupArgs),
    /// Prints the effective configuration; secrets are not shown.
    Config,
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints a manual page, such as `imgcls man serve | man -l -`.
    Man {
        /// The command; without one the program's own page.
        command: Option<String>,
    },
}

impl Global {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Vec<(String, String)> {
        let mut keys = self.set.clone();
        let mut add = |key: &str, value: Option<String>| keys.extend(value.map(|value| (key.to_owned(), value)));
        add("backend", self.backend.map(value_name));
        add("data_dir", self.data_dir.as_ref().map(|dir| dir.display().to_string()));
        add("log_format", self.log_format.map(value_name));
        keys
    }
}

/// The name of a value as the command line and the configuration spell it.
pub fn value_name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Reads a whole number of 1 or more.
///
/// # Errors
/// If it is none, in words for a user.
pub fn positive(text: &str) -> Result<NonZero<usize>, String> {
    text.parse().map_err(|_| "must be a whole number of 1 or more".to_owned())
}

/// Reads an address and port.
///
/// # Errors
/// If it is none, in words for a user.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_configuration_keys() {
        let cli =
            Cli::parse_from(["imgcls", "status", "--set", "fleet.max=4", "--data-dir", "/x", "--backend", "local"]);
        let want =
            [("fleet.max", "4"), ("backend", "local"), ("data_dir", "/x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(cli.global.overrides(), want);
        assert!(Cli::try_parse_from(["imgcls", "status", "--set", "fleet.max"]).is_err());
    }
}
