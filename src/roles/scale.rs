//! `imgcls scale`: one scaling decision and its exit code, one every so often, or many on paper.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tracing::{info, warn};

use super::signals;
use crate::{
    backend::{self, Backend},
    build,
    clock::{Clock, SystemClock},
    config::{
        Policy, Raw, Rules, Scale, Stores,
        flags::{Overrides, amount, duration, whole},
    },
    scaling::{
        Action, Outcome, TickError, controller,
        simulate::{self, Load, Rate, Report, Run, Scenario, ScenarioError},
    },
};

/// How long a decision that has begun may go on after a stop.
const GRACE: Duration = Duration::from_secs(20);

/// Why there is no decision, or no simulation.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// Bad configuration, flags or scenario.
    #[error("{0}")]
    Usage(String),
    /// The queue, the fleet or the results store cannot be read.
    #[error("{0}")]
    Read(String),
    /// The decision cannot be carried out, or the chart not be written.
    #[error("{0}")]
    Act(String),
}

impl From<ScenarioError> for ScaleError {
    fn from(error: ScenarioError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<TickError> for ScaleError {
    fn from(error: TickError) -> Self {
        match error {
            TickError::Read { .. } => Self::Read(error.to_string()),
            TickError::Act { .. } => Self::Act(error.to_string()),
        }
    }
}

/// The end of the help.
const AFTER_HELP: &str = "Examples:
  imgcls scale --dry-run                                       what it would do now, and why
  imgcls scale --loop 30s                                      decides until SIGTERM, in place of a cron job
  imgcls scale --burst 2136 --worker-rate 80/s --compare       both policies on paper
  imgcls scale --simulate load.toml --svg load.svg             and as a chart

Exit codes: 0 acted or nothing to do, 2 bad configuration or scenario, 3 the queue, the fleet or the \
    results store cannot be read, 4 the decision cannot be carried out or the chart not be written";

/// Flags of `imgcls scale`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ScaleArgs {
    /// Decide, say so, and change nothing.
    #[arg(long, conflicts_with = "every")]
    dry_run: bool,
    /// Policy, instead of `scaling.policy`.
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Decide again and again, at this interval, such as `30s`, until SIGTERM.
    #[arg(long = "loop", value_name = "INTERVAL", value_parser = duration)]
    every: Option<Duration>,
    /// Simulation.
    #[command(flatten)]
    simulation: SimulationArgs,
}

/// The simulation's flags, which say nothing about a fleet that there is: without a load they are refused.
#[derive(Debug, Args)]
#[command(next_help_heading = "Simulation")]
#[command(group = clap::ArgGroup::new("load").args(["simulate", "burst", "rate"]).multiple(true))]
struct SimulationArgs {
    /// Simulate the scenario in FILE, or the load that --burst or --rate describe; touches no backend.
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["dry_run", "every"])]
    simulate: Option<Option<PathBuf>>,
    /// Simulate so many messages at once.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, conflicts_with_all = ["rate", "dry_run", "every"])]
    burst: Option<u64>,
    /// Simulate so many messages, such as `80/s`, `600/m` or `1000000/h`.
    #[arg(long, value_name = "RATE", conflicts_with_all = ["dry_run", "every"])]
    rate: Option<Rate>,
    /// How long --rate lasts.
    #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = duration, requires = "load")]
    lasts: Duration,
    /// Images a second of one worker, instead of the scenario's (80, or `scaling.rate` if it is set).
    #[arg(long, value_name = "RATE", requires = "load")]
    worker_rate: Option<Rate>,
    /// Time to boot a worker, instead of the scenario's (60s).
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "load")]
    boot: Option<Duration>,
    /// Fewest workers, instead of the scenario's (1).
    #[arg(long, value_name = "N", value_parser = whole::<u32>, requires = "load")]
    min: Option<u32>,
    /// Most workers, instead of the scenario's (20).
    #[arg(long, value_name = "N", value_parser = whole::<u32>, requires = "load")]
    max: Option<u32>,
    /// Price of a worker's hour, instead of the scenario's (0.085, a c6i.large in us-east-1).
    #[arg(long, value_name = "PRICE", value_parser = amount, requires = "load")]
    price: Option<f64>,
    /// Both policies side by side.
    #[arg(long, requires = "load")]
    compare: bool,
    /// Draw queue and fleet over time.
    #[arg(long, value_name = "FILE", requires = "load")]
    svg: Option<PathBuf>,
}

impl SimulationArgs {
    fn asked_for(&self) -> bool {
        self.simulate.is_some() || self.burst.is_some() || self.rate.is_some()
    }

    /// The scenario of the file or of the flags.
    fn scenario(&self, rules: &Rules) -> Result<Scenario, ScenarioError> {
        let file = self.simulate.as_ref().and_then(Option::as_deref);
        let mut scenario = match (file, self.burst, self.rate) {
            (Some(path), None, None) => Scenario::load(path)?,
            (None, Some(count), _) => Scenario::of("a burst", vec![Load::Burst { count, at: Duration::ZERO }]),
            (None, None, Some(rate)) => Scenario::of("a steady load", vec![Load::Steady { rate, lasts: self.lasts }]),
            (None, None, None) => {
                return Err(ScenarioError::Invalid(
                    "nothing to simulate: name a FILE, --burst N or --rate RATE".to_owned(),
                ));
            }
            (Some(_), ..) => {
                return Err(ScenarioError::Invalid("a FILE has its own load: leave --burst and --rate out".to_owned()));
            }
        };
        if let (None, Some(rate)) = (file, rules.rate) {
            scenario.worker.rate = rate;
        }
        if let Some(rate) = self.worker_rate {
            scenario.worker.rate = rate.0;
        }
        scenario.worker.boot = self.boot.unwrap_or(scenario.worker.boot);
        scenario.worker.price_per_hour = self.price.unwrap_or(scenario.worker.price_per_hour);
        scenario.fleet.min = self.min.unwrap_or(scenario.fleet.min);
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            return Err(ScenarioError::Invalid(format!("--min {min} is larger than --max {max}")));
        }
        scenario.fleet.max = self.max.unwrap_or(scenario.fleet.max.max(scenario.fleet.min));
        scenario.fleet.min = scenario.fleet.min.min(scenario.fleet.max);
        scenario.fleet.start = scenario.fleet.start.clamp(scenario.fleet.min, scenario.fleet.max);
        scenario.check()?;
        Ok(scenario)
    }
}

impl ScaleArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides::default();
        keys.set("scaling.policy", self.policy);
        keys.set("scaling.interval", self.every.map(humantime::format_duration));
        keys
    }
}

/// Decides and acts, or simulates.
///
/// # Errors
/// [`ScaleError`], whose kinds have exit codes of their own; and if standard output cannot be written.
pub async fn run(args: ScaleArgs, raw: &Raw) -> anyhow::Result<ExitCode> {
    if args.simulation.asked_for() {
        return simulate(&args, &raw.rules()?);
    }
    let Scale { stores, rules } = raw.scale()?;
    if matches!(&stores, Stores::Aws(aws) if aws.auto_scaling_group.is_none()) {
        let message = "aws.auto_scaling_group is not set, so there is nothing to scale";
        return Err(ScaleError::Usage(message.to_owned()).into());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let opened = backend::open(&stores, Arc::clone(&clock)).await;
    let backend = opened.map_err(|error| ScaleError::Read(error.to_string()))?;
    if args.every.is_some() {
        return repeat(&backend, &rules, clock.as_ref(), args.json).await;
    }
    let outcome = if args.dry_run {
        controller::dry_run(&backend, &rules, clock.as_ref()).await
    } else {
        controller::tick(&backend, &rules, clock.as_ref()).await
    };
    print(&outcome.map_err(ScaleError::from)?, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Decides at every interval until told to stop. What fails is told and tried again at the next one.
async fn repeat(backend: &Backend, rules: &Rules, clock: &dyn Clock, json: bool) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_token()?;
    let (backend_name, interval) = (backend.name, humantime::format_duration(rules.interval));
    info!(version = build::VERSION, backend = backend_name, policy = %rules.policy, %interval, "scaling");
    let mut interval = tokio::time::interval(rules.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            _ = interval.tick() => {}
        }
        // A decision that has begun is carried out, unless the stores take too long over it.
        tokio::select! {
            biased;
            outcome = controller::tick(backend, rules, clock) => match outcome {
                Ok(outcome) => print(&outcome, json)?,
                Err(error) => warn!(%error, "no scaling decision this time"),
            },
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {
                warn!("the stores take too long over a decision; leaving it");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn simulate(args: &ScaleArgs, rules: &Rules) -> anyhow::Result<ExitCode> {
    let scenario = args.simulation.scenario(rules).map_err(ScaleError::from)?;
    let rules = scenario.rules.as_ref().unwrap_or(rules);
    let chosen = args.policy.unwrap_or(rules.policy);
    let policies = if args.simulation.compare { vec![Policy::Steps, Policy::Backlog] } else { vec![chosen] };
    let runs = policies.into_iter().map(|policy| simulate::run(&scenario, &Rules { policy, ..rules.clone() }));
    let runs = runs.collect::<Result<Vec<Run>, _>>().map_err(ScaleError::from)?;
    if let Some(path) = &args.simulation.svg {
        let written = std::fs::write(path, simulate::chart(&scenario, &runs));
        written.map_err(|error| ScaleError::Act(format!("cannot write chart {}: {error}", path.display())))?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &Report::from(runs))?;
        writeln!(out)?;
    } else {
        write!(out, "{}", simulate::table(&scenario, &runs))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, outcome)?;
        writeln!(out)?;
        return Ok(());
    }
    let reason = &outcome.reason;
    match outcome.action {
        Action::Scaled => writeln!(out, "scaled: {reason}")?,
        Action::Nothing => writeln!(out, "{reason}")?,
        Action::InProgress => writeln!(out, "nothing changed, the fleet is busy with an earlier change: {reason}")?,
        Action::Overtaken => writeln!(out, "nothing changed, another run has just decided on this reading: {reason}")?,
        Action::DryRun if outcome.target != outcome.from => writeln!(out, "would scale: {reason}")?,
        Action::DryRun => writeln!(out, "{reason}")?,
    }
    Ok(())
}
