//! The command line's entry: parse, configure, log, dispatch, exit code.

use std::{io::Write, process::ExitCode, time::Duration};

use clap::ValueEnum as _;
use imgcls::{
    build,
    cli::{self, Cli, Command},
    config::{
        self, Layers, LogFormat, Raw,
        flags::{Global, Overrides},
    },
    roles, telemetry,
};

mod exit;

/// How long blocking work may go on after its role has ended.
const LAST_MOMENT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run(cli::parse()) {
        Ok(code) => code,
        Err(error) if exit::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::tell_end(&format!("{error:#}"));
            exit::code(&error)
        }
    }
}

fn run(Cli { global, command }: Cli) -> anyhow::Result<ExitCode> {
    let plain = || configure(&global, &global.overrides());
    match command {
        Command::Classify(args) => {
            let raw = configure(&global, &global.overrides().and(args.overrides()))?;
            roles::classify::run(&args, raw.classify()?)
        }
        Command::Serve(args) => {
            let flags = global.overrides().and(args.overrides());
            let raw = configure(&global, &flags)?;
            in_runtime(roles::serve::run(raw.serve()?, global.for_workers(&flags)))
        }
        Command::Work(args) => {
            let raw = configure(&global, &global.overrides().and(args.overrides()))?;
            in_runtime(roles::work::run(args, raw.work()?))
        }
        Command::Model(args) => in_runtime(roles::model::run(args, plain()?)),
        Command::Train(args) => {
            let raw = configure(&global, &global.overrides().and(args.overrides()))?;
            roles::train::run(&args, raw.classify()?)
        }
        Command::Scale(args) => {
            let raw = configure(&global, &global.overrides().and(args.overrides()))?;
            in_runtime(roles::scale::run(args, &raw))
        }
        Command::Setup(args) => in_runtime(roles::setup::run(args, plain()?.stores()?)),
        Command::Reset(args) => in_runtime(roles::reset::run(args, plain()?.stores()?)),
        Command::Status(args) => {
            let raw = plain()?;
            if args.is_ready() {
                return in_runtime(roles::status::ready(raw.listen()?));
            }
            in_runtime(roles::status::run(args, raw.stores()?, raw.model()))
        }
        Command::Queue(args) => {
            let raw = plain()?;
            in_runtime(roles::queue::run(args, raw.stores()?, raw.model()))
        }
        Command::Config(args) => roles::config::run(&args, &layers(&global, &global.overrides())?),
        Command::Completions { shell } => completions(shell),
        Command::Man { command } => manual(&command),
    }
}

/// The merged configuration, for what needs no sources.
fn configure(global: &Global, flags: &Overrides) -> anyhow::Result<Raw> {
    Ok(layers(global, flags)?.raw)
}

/// Merges the layers of the configuration and starts logging.
fn layers(global: &Global, flags: &Overrides) -> anyhow::Result<Layers> {
    let loaded = config::environment(std::env::vars_os())
        .and_then(|environment| Layers::load(global.config.as_deref(), environment, flags));
    if let (Err(_), Some(format)) = (&loaded, log_format(flags)) {
        // What is wrong is told as the rest would be, as far as that is known.
        telemetry::start(format)?;
    }
    let layers = loaded?;
    telemetry::start(layers.raw.log_format)?;
    for unknown in &layers.unknown {
        tracing::warn!("ignored the unknown environment variable {unknown}");
    }
    Ok(layers)
}

/// How log lines should look by the flags or, without them, the environment.
fn log_format(flags: &Overrides) -> Option<LogFormat> {
    let flag = flags.0.iter().rfind(|(key, _)| key == "log_format").map(|(_, value)| value.expose().to_owned());
    LogFormat::from_str(&flag.or_else(|| std::env::var("IMGCLS_LOG_FORMAT").ok())?, true).ok()
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "imgcls", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page of `command`, the program's own without one.
fn manual(command: &[String]) -> anyhow::Result<ExitCode> {
    // `help` is as good as `--help` and has no page; a page refers to those of all commands below it.
    let mut program = cli::command().disable_help_subcommand(true);
    program.build();
    let found = command.iter().try_fold(&program, |parent, name| parent.find_subcommand(name));
    let Some(found) = found else {
        let message = format!("there is no command {:?}; `imgcls --help` lists them", command.join(" "));
        return Err(roles::UsageError(message).into());
    };
    let end = found.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    // Of a command the library takes the command's name for the program's. It would run the lines of the end together.
    let man = clap_mangen::Man::new(found.clone().after_help(None::<&str>));
    man.source(format!("imgcls {}", build::VERSION)).render(&mut page)?;
    page.extend(cli::end_of_manual(&end).into_bytes());
    std::io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a role to its end. Whatever it leaves behind has a moment to finish and cannot hold the process.
fn in_runtime(role: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(role);
    runtime.shutdown_timeout(LAST_MOMENT);
    ended
}
