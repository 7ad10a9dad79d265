//! `imgcls work`: the app tier.

use std::{net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{notify, signals::stop_token};
use crate::{
    backend::{self, Departure},
    cli::value_name,
    clock::SystemClock,
    config::Config,
    model::{Bundle, Classifier, Engine, Parallel},
    telemetry,
    worker::{self, Metrics, Settings},
};

/// How long the machine's manager may take to answer.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags of `imgcls work`.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// End when the queue is empty; the default is to run for ever.
    #[arg(long)]
    until_empty: bool,
    /// Then run the command of `worker.shutdown_command`, by default `shutdown -h now`.
    #[arg(long, requires = "until_empty")]
    shutdown_after: bool,
    /// Threads for inference, and as many for decoding; default: one per core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// What runs the network.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Directory of a model bundle; default: the embedded one.
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// End when standard input closes, so that a supervisor that is killed leaves no worker behind.
    #[arg(long, hide = true)]
    supervised: bool,
}

impl WorkArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Vec<(String, String)> {
        let mut keys = Vec::new();
        let mut add = |key: &str, value: Option<String>| keys.extend(value.map(|value| (key.to_owned(), value)));
        add("worker.threads", self.threads.map(|n| n.to_string()));
        add("worker.engine", self.engine.map(value_name));
        add("model", self.model.clone());
        keys
    }
}

/// Runs the worker until it is stopped, or until the queue is empty if so told.
///
/// # Errors
/// If the model or the backend cannot be opened, or the shutdown command fails.
pub async fn run(args: WorkArgs, config: Config) -> anyhow::Result<ExitCode> {
    let stop = stop_token()?;
    if args.supervised {
        tokio::spawn(stop_with_stdin(stop.clone()));
    }
    let metrics = Metrics::new();
    let _exposed = match config.worker.metrics_listen {
        Some(address) => Some(expose(address, Arc::clone(&metrics)).await?),
        None => None,
    };
    let bundle = load_bundle(&config.model)?;
    let (engine, threads) = (config.worker.engine, config.worker.threads);
    let classifier = tokio::task::spawn_blocking(move || -> anyhow::Result<Classifier> {
        let classifier = Classifier::new(bundle, engine, Parallel::one(threads))?;
        classifier.warm_up()?;
        Ok(classifier)
    })
    .await??;
    let clock = Arc::new(SystemClock);
    let backend = backend::open(&config, Arc::<SystemClock>::clone(&clock)).await?;
    let instance = backend::instance(&config).await?;
    let settings = Settings {
        worker: format!("{}-{}", instance.id(), std::process::id()),
        threads,
        batch: config.worker.batch,
        receivers: config.worker.receivers,
        pixel_budget: config.worker.pixel_budget,
        limits: config.limits,
        until_empty: args.until_empty,
    };
    info!(worker = settings.worker, model = classifier.card().name, threads, "working");
    // A supervised one is none of the service manager's: its supervisor is.
    if !args.supervised {
        notify::ready(stop.clone());
    }
    let interrupted = stop.clone();
    let run_stop = stop.child_token();
    let summary =
        worker::run(backend, Arc::clone(&instance), Arc::new(classifier), clock, metrics, settings, run_stop).await?;
    info!(done = summary.done, failed = summary.failed, "worker ended");
    let told = tokio::time::timeout(MANAGER_TIMEOUT, instance.drained()).await;
    if let Err(error) = told.map_err(|_| "it took too long".to_owned()).and_then(|told| told.map_err(|e| e.to_string()))
    {
        warn!(error, "cannot tell the machine's manager that the worker is drained");
    }
    if args.shutdown_after && !interrupted.is_cancelled() {
        match tokio::time::timeout(MANAGER_TIMEOUT, instance.depart()).await?? {
            Departure::Unmanaged => shut_down(&config.worker.shutdown_command).await?,
            Departure::Leaving => info!("the machine leaves its group"),
            Departure::Needed => info!("the group is at its minimum; the machine stays"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers scrapes of `metrics` at `address` until the answer is dropped.
async fn expose(address: SocketAddr, metrics: Arc<Metrics>) -> anyhow::Result<DropGuard> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another worker.metrics_listen"))?;
    let bound = listener.local_addr()?;
    info!("metrics on http://{bound}/metrics");
    if !bound.ip().is_loopback() {
        warn!(%bound, "everybody who reaches this address can read the metrics");
    }
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        if let Err(error) = telemetry::metrics::expose(listener, metrics, ended.cancelled()).await {
            warn!(%error, "cannot answer scrapes any more");
        }
    });
    Ok(guard)
}

/// The bundle in `dir`, or the embedded one where `dir` is empty.
pub(super) fn load_bundle(dir: &Path) -> anyhow::Result<Bundle> {
    if dir.as_os_str().is_empty() {
        Bundle::embedded().context("the embedded model is damaged")
    } else {
        Bundle::load(dir).with_context(|| format!("cannot load model bundle {}", dir.display()))
    }
}

async fn stop_with_stdin(stop: CancellationToken) {
    let mut buffer = [0; 64];
    let mut stdin = tokio::io::stdin();
    // Data means nothing; the end, or an error, means that the supervisor is gone or wants us to end.
    while matches!(stdin.read(&mut buffer).await, Ok(n) if n > 0) {}
    stop.cancel();
}

async fn shut_down(command: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = command.split_first() else { bail!("worker.shutdown_command is empty") };
    warn!(program, "the queue is empty; shutting down");
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .status()
        .await
        .with_context(|| format!("cannot run shutdown command {program:?}; set worker.shutdown_command"))?;
    if !status.success() {
        bail!("shutdown command {program:?} ended with {status}");
    }
    Ok(())
}
