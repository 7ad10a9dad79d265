//! `imgcls work`: the app tier.

use std::{net::SocketAddr, num::NonZero, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{notify, signals::stop_token};
use crate::{
    backend::{self, Backend, Departure, Instance},
    build,
    clock::{Clock, SystemClock},
    config::{
        Work,
        flags::{Overrides, threads, value_name},
    },
    contract::WorkerId,
    model::{Bundle, Classifier, Engine, Parallel, give_back_large_blocks},
    telemetry,
    worker::{Metrics, Settings, Worker},
};

/// How long the machine's manager may take to be told that the worker is done: a stop as a whole ends before the
/// service manager kills it, after 40 s.
const FAREWELL: Duration = Duration::from_secs(8);

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
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZero<usize>>,
    /// What runs the network.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// The model: a name, as `imgcls model list` shows it, or a bundle's directory.
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
    /// End when standard input closes, so that a supervisor that is killed leaves no worker behind.
    #[arg(long, hide = true)]
    supervised: bool,
}

impl WorkArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides::default();
        keys.set("worker.threads", self.threads);
        keys.set("worker.engine", self.engine.map(value_name));
        keys.set("model", self.model.as_ref());
        keys
    }
}

/// What a worker works with.
struct Parts {
    classifier: Classifier,
    backend: Backend,
    instance: Arc<dyn Instance>,
}

/// Runs the worker until it is stopped, or until the queue is empty if so asked.
///
/// # Errors
/// If the model or the backend cannot be opened, or the shutdown command fails.
pub async fn run(args: WorkArgs, config: Work) -> anyhow::Result<ExitCode> {
    let stop = stop_token()?;
    if args.supervised {
        stop_with_stdin(stop.clone())?;
    }
    let metrics = Metrics::new();
    let _exposed = match config.worker.metrics_listen {
        Some(address) => Some(expose(address, Arc::clone(&metrics)).await?),
        None => None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Parts { classifier, backend, instance } = tokio::select! {
        parts = open(&config, Arc::clone(&clock)) => parts?,
        // It holds no message yet.
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let settings = settings(&config, &*instance, &classifier, args.until_empty);
    info!(
        version = build::VERSION,
        backend = backend.name,
        stores = %config.stores,
        worker = %settings.worker,
        model = classifier.id(),
        threads = settings.threads,
        "working"
    );
    // A supervised one is none of the service manager's: its supervisor is.
    if !args.supervised {
        notify::ready(stop.clone());
    }
    let machine = Arc::clone(&instance);
    let worker = Worker { backend, instance: machine, classifier: Arc::new(classifier), clock, metrics, settings };
    let summary = worker.run(stop.child_token()).await?;
    info!(done = summary.done, failed = summary.failed, "worker ended");
    drained(&*instance).await;
    if args.shutdown_after && !stop.is_cancelled() {
        depart(&*instance, &config.worker.shutdown_command).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(config: &Work, clock: Arc<dyn Clock>) -> anyhow::Result<Parts> {
    Ok(Parts {
        classifier: classifier(config).await?,
        backend: backend::open(&config.stores, clock).await?,
        instance: backend::instance(&config.stores).await?,
    })
}

/// Loads the model and runs it once.
async fn classifier(config: &Work) -> anyhow::Result<Classifier> {
    give_back_large_blocks();
    let bundle = Bundle::open(config.model.as_deref())?;
    let (engine, threads) = (config.worker.engine, config.worker.all_threads().get());
    tokio::task::spawn_blocking(move || -> anyhow::Result<Classifier> {
        let classifier = Classifier::new(bundle, engine, Parallel::one(threads))?;
        classifier.warm_up()?;
        Ok(classifier)
    })
    .await?
}

fn settings(config: &Work, instance: &dyn Instance, classifier: &Classifier, until_empty: bool) -> Settings {
    Settings {
        worker: WorkerId::new(instance.id(), std::process::id()),
        threads: config.worker.all_threads().get(),
        batch: config.worker.batch,
        receivers: config.worker.receivers,
        pixel_budget: config.worker.pixel_budget,
        limits: config.limits,
        min_confidence: config.min_confidence.resolve(classifier.card().min_confidence),
        until_empty,
    }
}

/// Lets the machine's manager know that the worker is done with it.
async fn drained(instance: &dyn Instance) {
    match tokio::time::timeout(FAREWELL, instance.drained()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "cannot tell the machine's manager that the worker is drained"),
        Err(_) => warn!("telling the machine's manager that the worker is drained took too long"),
    }
}

/// Has the machine taken away: by its manager, or where it has none by `command`.
async fn depart(instance: &dyn Instance, command: &(String, Vec<String>)) -> anyhow::Result<()> {
    match tokio::time::timeout(MANAGER_TIMEOUT, instance.depart()).await?? {
        Departure::Unmanaged => shut_down(command).await?,
        Departure::Leaving => info!("the machine leaves its group"),
        Departure::Needed => info!("the group is at its minimum; the machine stays"),
    }
    Ok(())
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
        if let Err(error) = telemetry::metrics::expose(listener, metrics, ended).await {
            warn!(%error, "cannot answer scrapes any more");
        }
    });
    Ok(guard)
}

/// Cancels `stop` when standard input ends: the supervisor is gone, or wants this process to end.
///
/// The thread is nobody's: a read of standard input cannot be broken off, so the end of the process must not wait for
/// it.
fn stop_with_stdin(stop: CancellationToken) -> std::io::Result<()> {
    let watch = move || {
        // What comes in means nothing, and an error is an end too.
        if let Err(error) = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()) {
            warn!(%error, "cannot read standard input");
        }
        stop.cancel();
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(watch).map(drop)
}

async fn shut_down((program, arguments): &(String, Vec<String>)) -> anyhow::Result<()> {
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
