//! The command line. The doc comments are the help text.

use clap::{Parser, Subcommand};

use crate::{config::flags::Global, roles};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed, or some files did; 2 bad usage, configuration or model; 130 ended at once by a second signal. \
     `imgcls scale` has more.";

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
    /// Lists, fetches, makes and shows models.
    Model(roles::model::ModelArgs),
    /// Makes a model that knows your own classes, from folders of pictures.
    Train(roles::train::TrainArgs),
    /// Shows queue, fleet, results and workers.
    Status(roles::status::StatusArgs),
    /// Looks into the queue and the dead letters.
    Queue(roles::queue::QueueArgs),
    /// Creates or checks the AWS resources: buckets, notification, queues, table.
    Setup(roles::setup::SetupArgs),
    /// Prints the effective configuration and where it comes from; secrets are not shown.
    Config(roles::config::ConfigArgs),
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
        assert_eq!(cli.global.overrides().0, want);
        assert!(Cli::try_parse_from(["imgcls", "status", "--set", "fleet.max"]).is_err());
    }
}
