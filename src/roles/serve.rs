//! `imgcls serve`: the web tier, and with the local backend the whole system.

use std::{io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{notify, signals::stop_token, work::load_bundle};
use crate::{
    backend::{
        self, Backend,
        local::{Supervisor, WorkerCommand},
    },
    cli::{Global, address},
    clock::{Clock, SystemClock},
    config::{BackendKind, Config},
    model::Bundle,
    scaling::{Rules, controller},
    web::{self, App, ModelFacts},
};

/// Flags of `imgcls serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port; port 0 takes a free one. Default: 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Opens everything but `/healthcheck`; needed to listen wider than loopback. Other users see it in the process list: prefer
    /// the variable `IMGCLS_WEB_TOKEN`.
    #[arg(long)]
    token: Option<String>,
    /// Listen wider than loopback without a token: anybody who reaches the port may upload, read and delete.
    #[arg(long)]
    open: bool,
    /// A host name under which browsers reach the service; may be repeated.
    #[arg(long, value_name = "HOST")]
    public_host: Vec<String>,
    /// Most worker processes; default: one per core, at most 8.
    #[arg(long, value_name = "N")]
    max_workers: Option<u32>,
    /// Run no worker processes and no scaling; others do.
    #[arg(long)]
    no_workers: bool,
    /// Directory of a model bundle; default: the embedded one.
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
}

impl ServeArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Vec<(String, String)> {
        let mut keys = Vec::new();
        let mut add = |key: &str, value: Option<String>| keys.extend(value.map(|value| (key.to_owned(), value)));
        add("web.listen", self.listen.map(|a| a.to_string()));
        add("web.token", self.token.clone());
        add("web.open", self.open.then(|| "true".to_owned()));
        add("web.public_hosts", (!self.public_host.is_empty()).then(|| self.public_host.join(",")));
        add("fleet.max", self.max_workers.map(|n| n.to_string()));
        add("fleet.supervise", self.no_workers.then(|| "false".to_owned()));
        add("model", self.model.clone());
        keys
    }
}

/// Serves until it is stopped, then drains.
///
/// # Errors
/// If the data directory, the backend or the address cannot be used.
pub async fn run(_args: ServeArgs, config: Config, global: &Global) -> anyhow::Result<ExitCode> {
    let stop = stop_token()?;
    let bundle = load_bundle(&config.model)?;
    let model = facts(bundle);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (backend, store) = match config.backend {
        BackendKind::Local => {
            let (backend, store) = backend::local::open(&config, Arc::clone(&clock))?;
            (backend, Some(store))
        }
        BackendKind::Aws => (backend::open(&config, Arc::clone(&clock)).await?, None),
    };
    // Held until the end: two servers would sweep each other's uploads away and run twice the workers.
    let lock = store.as_ref().map(|store| store.lock_server()).transpose()?;
    if let (Some(store), Some(lock)) = (&store, &lock) {
        let swept = store.sweep(lock).await?;
        if swept > 0 {
            info!(files = swept, "removed what interrupted uploads had left");
        }
    }
    let address = config.web.listen;
    let listener = web::listen(address)
        .with_context(|| format!("cannot listen on {address}; choose another address with --listen"))?;
    let bound = listener.local_addr()?;
    if !bound.ip().is_loopback() && config.web.token.expose().is_none() {
        warn!(%bound, "open to everybody who reaches this address: they may upload, read and delete");
    }
    let app = App::new(backend.clone(), config.clone(), model, Arc::clone(&clock))?;

    let mut background = tokio::task::JoinSet::new();
    if let Some(store) = store.filter(|_| config.fleet.supervise) {
        let command = worker_command(&config, global)?;
        background.spawn(Supervisor::new(store, command).run(stop.clone()));
        background.spawn(scale(backend, config.scaling.clone(), clock, stop.clone()));
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{bound}")
        .and_then(|()| stdout.flush())
        .context("cannot write to standard output")?;
    notify::ready(stop.clone());
    web::serve(listener, app, stop.clone()).await?;
    stop.cancel();
    while let Some(ended) = background.join_next().await {
        ended?;
    }
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What pages tell of the model; its weights are not kept, workers have their own.
fn facts(bundle: Bundle) -> ModelFacts {
    let note = format!("It knows {} classes only and gives one of them to every picture.", bundle.labels.len());
    ModelFacts { name: bundle.card.name, labels: bundle.labels, note }
}

/// How a worker process is started: this binary, this configuration, its share of the cores.
fn worker_command(config: &Config, global: &Global) -> anyhow::Result<WorkerCommand> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A fixed share, not one that shrinks as the fleet grows: running workers cannot give threads back.
    let threads = (cores / config.fleet.max as usize).max(1);
    let mut args = vec!["work".to_owned(), "--supervised".to_owned(), format!("--threads={threads}")];
    if let Some(file) = &global.config {
        args.extend(["--config".to_owned(), file.display().to_string()]);
    }
    for (key, value) in global.overrides() {
        args.push(format!("--set={key}={value}"));
    }
    // They are many on one machine and would fight for one port.
    args.push("--set=worker.metrics_listen=".to_owned());
    if !config.model.as_os_str().is_empty() {
        args.push(format!("--model={}", config.model.display()));
    }
    let program = std::env::current_exe().context("cannot find this program's file to start workers from")?;
    Ok(WorkerCommand { program, args })
}

/// Ticks the scaling policy.
async fn scale(backend: Backend, rules: Rules, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(rules.interval.max(Duration::from_secs(1)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match tokio::time::timeout(Duration::from_secs(30), controller::tick(&backend, &rules, &*clock)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "no scaling decision this time"),
            Err(_) => warn!("the scaling decision took too long"),
        }
    }
}
