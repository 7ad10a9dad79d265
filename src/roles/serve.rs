//! `imgcls serve`: the web tier, and with the local backend the whole system.

use std::{io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{notify, signals::stop_token};
use crate::{
    backend::{
        self, Backend,
        local::{ServerLock, Store, Supervisor, WorkerCommand},
    },
    build,
    clock::{Clock, SystemClock},
    config::{
        Rules, Secret, Serve, Stores, Workers,
        flags::{Overrides, address, whole},
    },
    model::Bundle,
    scaling::controller,
    web::{self, App, ModelFacts},
};

/// Examples of its use.
const EXAMPLES: &str = "Examples:
  imgcls serve                                          a whole system on http://127.0.0.1:8080
  imgcls serve --listen localhost:9000 --model resnet18-imagenet
  IMGCLS_WEB_TOKEN=… imgcls serve --listen 0.0.0.0:8080 --public-host photos.example.com";

/// Flags of `imgcls serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Address or name, and port; port 0 takes a free one. Default: 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Option<String>,
    /// Opens everything but `/healthcheck` and the bare states of `/readyz`; needed to listen wider than loopback.
    /// Other users see it in the process list: prefer the variable `IMGCLS_WEB_TOKEN`.
    #[arg(long)]
    token: Option<Secret>,
    /// Listen wider than loopback without a token: anybody who reaches the port may upload, read and delete.
    #[arg(long)]
    open: bool,
    /// A host name under which browsers reach the service; may be repeated.
    #[arg(long, value_name = "HOST")]
    public_host: Vec<String>,
    /// Most worker processes; default: one per core, at most 8.
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    max_workers: Option<u32>,
    /// Run no worker processes and no scaling; others do.
    #[arg(long)]
    no_workers: bool,
    /// The model: a name, as `imgcls model list` shows it, or a bundle's directory.
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
}

impl ServeArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides::default();
        keys.set("web.listen", self.listen.as_ref());
        keys.set("web.token", self.token.as_ref().map(Secret::expose));
        keys.set("web.open", self.open.then_some(true));
        keys.set("web.public_hosts", Some(self.public_host.join(",")).filter(|hosts| !hosts.is_empty()));
        keys.set("fleet.max", self.max_workers);
        keys.set("fleet.supervise", self.no_workers.then_some(false));
        keys.set("model", self.model.as_ref());
        keys
    }
}

/// A server that is about to begin.
struct Server {
    listener: TcpListener,
    app: Arc<App>,
    /// The supervisor of the workers and the scaling policy.
    background: JoinSet<()>,
    /// Held until the end.
    _lock: Option<ServerLock>,
}

/// Serves until it is stopped, then drains. Worker processes are started with `worker_flags`.
///
/// # Errors
/// If the data directory, the backend or the address cannot be used.
pub async fn run(config: Serve, worker_flags: Vec<String>) -> anyhow::Result<ExitCode> {
    let stop = stop_token()?;
    let prepared = tokio::select! {
        prepared = prepare(config, worker_flags, &stop) => prepared?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let Server { listener, app, mut background, _lock } = prepared;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{}", listener.local_addr()?)
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

/// Opens all that is needed, and starts the workers.
async fn prepare(config: Serve, worker_flags: Vec<String>, stop: &CancellationToken) -> anyhow::Result<Server> {
    let model = facts(Bundle::open(config.model.as_deref())?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Before the stores: where the port is taken, no new data directory is left behind.
    let listener = listen(config.web.listen, config.web.token.is_some())?;
    let (backend, local) = open(&config.stores, &clock).await?;
    let (store, lock) = local.unzip();
    info!(
        version = build::VERSION,
        backend = backend.name,
        model = model.name,
        data_dir = %config.data_dir.display(),
        "serving"
    );
    let app = App::new(backend.clone(), config.clone(), model, Arc::clone(&clock))?;
    let mut background = JoinSet::new();
    if let (Some(store), Some(workers)) = (store, config.workers) {
        let command = worker_command(&workers, worker_flags)?;
        background.spawn(Supervisor::new(store, command).run(stop.clone()));
        background.spawn(scale(backend, workers.rules, clock, stop.clone()));
    }
    Ok(Server { listener, app, background, _lock: lock })
}

/// Opens the stores. A local directory is locked too: two servers would sweep each other's uploads away and run twice
/// the workers.
async fn open(stores: &Stores, clock: &Arc<dyn Clock>) -> anyhow::Result<(Backend, Option<(Arc<Store>, ServerLock)>)> {
    let Stores::Local(local) = stores else { return Ok((backend::open(stores, Arc::clone(clock)).await?, None)) };
    let (backend, store) = backend::local::open(local, Arc::clone(clock))?;
    let lock = store.lock_server()?;
    let swept = store.sweep(&lock).await?;
    if swept > 0 {
        info!(files = swept, "removed what interrupted uploads had left");
    }
    Ok((backend, Some((store, lock))))
}

fn listen(address: SocketAddr, has_token: bool) -> anyhow::Result<TcpListener> {
    let listener = web::listen(address)
        .with_context(|| format!("cannot listen on {address}; choose another address with --listen"))?;
    let bound = listener.local_addr()?;
    if !bound.ip().is_loopback() && !has_token {
        warn!(%bound, "open to everybody who reaches this address: they may upload, read and delete");
    }
    Ok(listener)
}

/// With fewer classes, most pictures of the world are of none of them.
const FEW_CLASSES: usize = 100;

/// What pages tell of the model; its weights are not kept, workers have their own.
fn facts(bundle: Bundle) -> ModelFacts {
    let classes = bundle.labels.len();
    let note = if classes < FEW_CLASSES {
        format!(
            "It knows {classes} classes only and gives one of them to every picture: what is none of them gets a \
             wrong label."
        )
    } else {
        format!("It knows {classes} classes.")
    };
    ModelFacts { name: bundle.id(), labels: bundle.labels, note }
}

/// How a worker process is started: this binary with these flags and its share of the cores.
fn worker_command(workers: &Workers, flags: Vec<String>) -> anyhow::Result<WorkerCommand> {
    let mut args = vec!["work".to_owned(), "--supervised".to_owned()];
    args.extend(flags);
    args.push(format!("--threads={}", workers.threads));
    // They are many on one machine and would fight for one port.
    args.push("--set=worker.metrics_listen=".to_owned());
    let program = std::env::current_exe().context("cannot find this program's file to start workers from")?;
    Ok(WorkerCommand { program, args })
}

/// Ticks the scaling policy.
async fn scale(backend: Backend, rules: Rules, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(rules.interval);
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
