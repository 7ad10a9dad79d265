//! `imgcls status`: queue, fleet, results and workers.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    backend::{
        self, Backend,
        status::{Report, Status, WorkerStatus},
    },
    clock::{Clock, SystemClock},
    config::Stores,
    contract::Timestamp,
    model::Bundle,
    tls,
};

/// Flags of `imgcls status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON, as `/api/status` does.
    #[arg(long)]
    json: bool,
    /// Only ask the server on this machine whether it is ready, and fail if it is not; for health checks.
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

impl StatusArgs {
    /// Whether only the server on this machine is asked.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }
}

/// A server that does not answer within this time is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the server on this machine, which listens on `listen`, whether it is ready.
///
/// # Errors
/// If it cannot be asked, or is not ready: with what it says.
pub async fn ready(listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let url = format!("http://{address}/readyz");
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls::without_roots()?);
    let client = client.timeout(PATIENCE).build()?;
    let answer = client.get(&url).send().await.with_context(|| format!("cannot ask the server at {url}"))?;
    let is_ready = answer.status().is_success();
    let checks = answer.text().await.with_context(|| format!("cannot read the answer of {url}"))?;
    if !is_ready {
        anyhow::bail!("the server is not ready: {}", checks.trim());
    }
    writeln!(std::io::stdout(), "ready")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the status.
///
/// # Errors
/// If the backend cannot be read.
pub async fn run(args: StatusArgs, stores: Stores, model: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let clock = Arc::new(SystemClock);
    let backend = backend::open_existing(&stores, Arc::<SystemClock>::clone(&clock)).await?;
    let now = clock.now();
    let (model, classes) = present(&backend, model, now).await?;
    let status = backend::status::read(&backend, &model, now).await?;
    let mut out = std::io::stdout();
    if args.json {
        let scaling = backend::status::scaling(&backend).await?;
        let report = Report { status: &status, classes: &classes, scaling: &scaling, age_seconds: 0 };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{}", text(&status, now))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The model of the service, as rows have it, and its classes: the configured one or, without one, that of the workers.
/// Of one that is not on this machine the classes are not known.
async fn present(
    backend: &Backend,
    configured: Option<PathBuf>,
    now: Timestamp,
) -> anyhow::Result<(String, Vec<String>)> {
    let ours = Bundle::open(configured.as_deref())?;
    let id = ours.id();
    if configured.is_some() {
        return Ok((id, ours.labels));
    }
    match backend::model_of(&backend.workers.heartbeats().await?, now) {
        Some(theirs) if theirs != id => {
            let name = theirs.rsplit_once('@').map_or(theirs, |(name, _)| name);
            let known = Bundle::open(Some(Path::new(name))).ok().filter(|bundle| bundle.id() == theirs);
            Ok((theirs.to_owned(), known.map(|bundle| bundle.labels).unwrap_or_default()))
        }
        _ => Ok((id, ours.labels)),
    }
}

/// The status for people.
fn text(status: &Status, now: Timestamp) -> String {
    let Status { queue, fleet, results, .. } = status;
    let about = if results.exact { "" } else { "about " };
    let mut lines = vec![
        format!("backend  {}", status.backend),
        format!("model    {}", status.model),
        format!("queue    {} queued, {} in flight, {} dead letters", queue.visible, queue.in_flight, queue.dead),
        format!(
            "fleet    {} desired, {} running, {} busy ({} to {})",
            fleet.desired, fleet.running, fleet.busy, fleet.state.min, fleet.state.max
        ),
        format!("results  {about}{}, {} of them failed", results.total, results.failed),
        format!("rate     {:.0} images/min", status.images_per_minute),
    ];
    lines.extend(status.oldest_message_seconds.map(|seconds| format!("oldest   queued for {seconds:.0} s")));
    if status.workers.is_empty() {
        lines.push("worker   none".to_owned());
    }
    lines.extend(status.workers.iter().map(|worker| line(worker, now)));
    lines.push(String::new());
    lines.join("\n")
}

fn line(worker: &WorkerStatus, now: Timestamp) -> String {
    let state = match (worker.draining, worker.in_flight) {
        (true, _) => "draining",
        (_, 0) => "idle",
        _ => "busy",
    };
    let seen = now.since(worker.seen_at).as_secs();
    format!(
        "worker   {}  {state}, {} in flight, {} done, {} failed, seen {seen} s ago",
        worker.worker, worker.in_flight, worker.done, worker.failed
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backend::{
        Depth, Latency, Totals,
        status::{FleetRest, FleetStatus},
    };

    #[test]
    fn text_for_people() {
        let worker = WorkerStatus {
            worker: "host-1".into(),
            seen_at: Timestamp::from_millis(5000),
            in_flight: 3,
            done: 7,
            ..WorkerStatus::default()
        };
        let status = Status {
            backend: "local",
            model: "m".into(),
            queue: Depth { visible: 5, in_flight: 3, dead: 1 },
            fleet: FleetStatus {
                desired: 2,
                running: 1,
                busy: 1,
                fault: None,
                state: FleetRest { min: 1, max: 2, pending: 1, terminating: 0 },
            },
            results: Totals { total: 10, failed: 2, exact: true },
            images_per_minute: 41.6,
            workers: vec![worker],
            labels: BTreeMap::new(),
            oldest_message_seconds: Some(2.4),
            failed: 0,
            latency: Latency::default(),
        };
        insta::assert_snapshot!(text(&status, Timestamp::from_millis(9000)), @r"
        backend  local
        model    m
        queue    5 queued, 3 in flight, 1 dead letters
        fleet    2 desired, 1 running, 1 busy (1 to 2)
        results  10, 2 of them failed
        rate     42 images/min
        oldest   queued for 2 s
        worker   host-1  busy, 3 in flight, 7 done, 0 failed, seen 4 s ago
        ");
    }
}
