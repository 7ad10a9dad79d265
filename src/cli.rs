//! The command line. The doc comments are the help text.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{config::flags::Global, roles};

/// The end of the program's help.
const AFTER_HELP: &str = "Examples:
  imgcls serve                        a whole system: page, API, workers; open the address that it prints
  imgcls classify photos/             labels of the pictures in a folder, without any service
  imgcls queue dead                   what could not be classified, and `imgcls queue redrive` tries it again
  imgcls man serve | man -l -         the manual page of a command

Environment:
  IMGCLS_LOG       which log lines there are: info by default, or debug, or imgcls=debug,aws_config=warn
  IMGCLS_CONFIG    the configuration file
  IMGCLS_WEB_TOKEN and its like set any key, here web.token; `imgcls config` prints all with where they come from

Exit codes: 0 done; 1 failed, or some files did; 2 bad usage, configuration or model; \
     130 ended at once by a second signal. `imgcls scale` has more.";

/// Elastic image classification in one binary: a whole system on a laptop, a fleet on AWS.
///
/// Start with `imgcls serve` and open the address that it prints, or label files at once with `imgcls classify PATH…`.
#[derive(Debug, Parser)]
#[command(name = "imgcls", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
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
        /// The command, such as `serve` or `queue peek`; without one the program's own page.
        command: Vec<String>,
    },
}

/// Common options that do nothing for a command, which its help leaves out.
const WITHOUT_MEANING: [(&str, &[&str]); 6] = [
    ("classify", &["backend", "data_dir"]),
    ("train", &["backend", "data_dir"]),
    ("model", &["backend", "data_dir"]),
    ("setup", &["data_dir"]),
    ("completions", &["backend", "data_dir", "config", "set", "log_format"]),
    ("man", &["backend", "data_dir", "config", "set", "log_format"]),
];

/// The command line, as help, manual pages and completions show it.
#[must_use]
pub fn command() -> clap::Command {
    let mut program = Cli::command();
    if std::env::var_os("IMGCLS_CONFIG").is_some_and(|file| file.is_empty()) {
        // As if it were not set, which is how some unset what they inherit.
        program = program.mut_arg("config", |config| config.env(clap::builder::Resettable::Reset));
    }
    let common: Vec<clap::Arg> = program.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for (name, options) in WITHOUT_MEANING {
        // A command's own takes the place of the common one, and differs from it in this alone.
        let hidden = common.iter().filter(|arg| options.contains(&arg.get_id().as_str()));
        let hidden: Vec<clap::Arg> = hidden.map(|arg| arg.clone().hide(true)).collect();
        program = program.mut_subcommand(name, |command| command.args(hidden));
    }
    program
}

/// The command line of this process. Ends it after help, version or an error of usage.
#[must_use]
pub fn parse() -> Cli {
    Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

/// The end of a help as sections of a manual page. Its paragraphs are `Heading:` before indented lines, which stay as
/// they are, or `Heading: text`.
#[must_use]
pub fn end_of_manual(help: &str) -> String {
    let section = |paragraph: &str| {
        let (heading, text) = paragraph.split_once(':').unwrap_or(("Notes", paragraph));
        let heading = heading.to_uppercase();
        match text.strip_prefix('\n') {
            Some(lines) => {
                let lines: Vec<String> =
                    lines.lines().map(|line| roff(line.strip_prefix("  ").unwrap_or(line))).collect();
                format!(".SH \"{heading}\"\n.nf\n{}\n.fi\n", lines.join("\n"))
            }
            None => format!(".SH \"{heading}\"\n{}\n", roff(text.trim())),
        }
    };
    help.split("\n\n").filter(|paragraph| !paragraph.is_empty()).map(section).collect()
}

/// A line as roff writes it, so that what is copied from the page is what was meant.
fn roff(line: &str) -> String {
    let mut text = String::new();
    for char in line.chars() {
        match char {
            '\\' => text.push_str(r"\(rs"),
            '-' => text.push_str(r"\-"),
            '\'' => text.push_str(r"\(aq"),
            '`' => text.push_str(r"\(ga"),
            '^' => text.push_str(r"\(ha"),
            '~' => text.push_str(r"\(ti"),
            other => text.push(other),
        }
    }
    // A dot at the beginning would be a command.
    if text.starts_with('.') { format!(r"\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_configuration_keys() {
        let cli =
            Cli::parse_from(["imgcls", "status", "--set", "fleet.max=4", "--data-dir", "/x", "--backend", "local"]);
        let want = [("fleet.max", "4"), ("backend", "local"), ("data_dir", "/x")]
            .map(|(k, v)| (k.to_owned(), v.to_owned().into()));
        assert_eq!(cli.global.overrides().0, want);
        assert!(Cli::try_parse_from(["imgcls", "status", "--set", "fleet.max"]).is_err());
        let cli =
            Cli::parse_from(["imgcls", "serve", "--token", "s3cret", "--set", "model_mirror=https://me:s3cret@a"]);
        assert!(!format!("{cli:?}").contains("s3cret"), "{cli:?}");
    }

    #[test]
    fn the_end_of_a_help_becomes_sections() {
        let help = "Examples:\n  imgcls a -j   'x'\n  .b\n\nExit codes: 0 done; 1 failed";
        let want =
            ".SH \"EXAMPLES\"\n.nf\nimgcls a \\-j   \\(aqx\\(aq\n\\&.b\n.fi\n.SH \"EXIT CODES\"\n0 done; 1 failed\n";
        assert_eq!(end_of_manual(help), want);
        assert_eq!(end_of_manual(""), "");
    }
}
