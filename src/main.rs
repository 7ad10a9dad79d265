//! The command line's entry: parse, configure, log, dispatch, exit code.

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser};
use imgcls::{
    cli::{Cli, Command},
    config::{Config, ConfigError},
    roles, telemetry,
};

/// Bad usage or configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imgcls: {error:#}");
            let usage = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if usage { USAGE } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    let mut flags = global.overrides();
    match &command {
        Command::Serve(args) => flags.extend(args.overrides()),
        Command::Work(args) => flags.extend(args.overrides()),
        _ => {}
    }
    match &command {
        &Command::Completions { shell } => {
            // Into memory first: the generator panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "imgcls", &mut script);
            std::io::stdout().write_all(&script)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man { command } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(manual(command.as_deref())?).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let config = Config::load(global.config.as_deref(), utf8_environment(), &flags)?;
    telemetry::start(config.log_format)?;
    match command {
        Command::Classify(args) => Ok(exit(roles::classify::run(&args, &config)?)),
        Command::Serve(args) => in_runtime(roles::serve::run(args, config, &global)),
        Command::Work(args) => in_runtime(roles::work::run(args, config)),
        Command::Scale(args) => in_runtime(roles::scale::run(args, config)),
        Command::Setup(args) => in_runtime(roles::setup::run(args, config)),
        Command::Reset(args) => in_runtime(roles::reset::run(args, config)),
        Command::Status(args) => in_runtime(roles::status::run(args, config)),
        Command::Queue(args) => in_runtime(roles::queue::run(args, config)),
        Command::Config => roles::config::run(&config),
        Command::Completions { .. } | Command::Man { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// What the manual page of `command` is made from, of the program's own without one.
fn manual(command: Option<&str>) -> anyhow::Result<clap::Command> {
    let mut program = Cli::command();
    program.build();
    let Some(name) = command else { return Ok(program) };
    let Some(found) = program.find_subcommand(name) else {
        anyhow::bail!("there is no command {name:?}; `imgcls --help` lists them");
    };
    Ok(found.clone())
}

fn exit(all_well: bool) -> ExitCode {
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn in_runtime(role: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(role)
}

/// The variables that are text; others cannot be ours.
fn utf8_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
