//! What the server counts, as Prometheus text.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    App,
    outcome::{Fate, FileOutcome},
    status,
};
use crate::{
    backend::{Latency, status::Status},
    telemetry::metrics::{Counted, Whole, answer, registry, seconds},
};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    state: &'static str,
}

/// The counters, and the gauges that are set when somebody looks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    seconds: Family<Route, Histogram>,
    uploads: Family<Kind, Counter>,
    connections: Whole,
    waiting: Whole,
    system: SystemMetrics,
    stores_up: Whole,
}

/// What the stores tell.
#[derive(Debug, Default)]
struct SystemMetrics {
    queue: Family<Kind, Whole>,
    oldest: Gauge<f64, AtomicU64>,
    workers: Family<Kind, Whole>,
    desired: Whole,
    classified: Family<Kind, Counter>,
    rate: Gauge<f64, AtomicU64>,
    latency: UploadToLabel,
}

/// The sum of what all workers counted.
#[derive(Debug, Clone, Default)]
struct UploadToLabel(Arc<Mutex<Latency>>);

impl Collector for UploadToLabel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("upload_to_label", "Time from upload to label, over all workers.");
        let latency = self.0.lock();
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(latency.sum_seconds(), latency.count(), &latency.classes(), None)
    }
}

impl SystemMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("queue_messages", "Messages by state", self.queue.clone());
        let help =
            "How long the message that comes next has waited; 0 if none waits, and on AWS, where CloudWatch has it";
        registry.register_with_unit("oldest_message_age", help, Unit::Seconds, self.oldest.clone());
        registry.register("workers", "Workers of the fleet by state", self.workers.clone());
        registry.register("workers_desired", "Workers that the fleet should have", self.desired.clone());
        registry.register("images", "Images that workers finished, by outcome", self.classified.clone());
        registry.register("images_per_minute", "Images finished in the last minute", self.rate.clone());
        registry.register_collector(Box::new(self.latency.clone()));
    }

    fn set(&self, status: &Status) {
        let queue = |state, count| self.queue.get_or_create(&Kind { state }).set(count);
        queue("visible", status.queue.visible);
        queue("in_flight", status.queue.in_flight);
        queue("dead", status.queue.dead);
        self.oldest.set(status.oldest_message_seconds.unwrap_or_default());
        let fleet = &status.fleet;
        let workers = |state, count: u32| self.workers.get_or_create(&Kind { state }).set(count.into());
        // Who is busy is known from heartbeats, which may be of workers that the fleet's manager counts no more.
        let busy = fleet.busy.min(fleet.running);
        workers("busy", busy);
        workers("idle", fleet.running - busy);
        workers("starting", fleet.state.pending);
        workers("stopping", fleet.state.terminating);
        self.desired.set(fleet.desired.into());
        for (state, count) in [("classified", status.labels.values().sum()), ("failed", status.failed)] {
            self.classified.get_or_create(&Kind { state }).inner().store(count, Ordering::Relaxed);
        }
        self.rate.set(status.images_per_minute);
        self.latency.0.lock().clone_from(&status.latency);
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let (calls, uploads) = (Family::<Call, Counter>::default(), Family::<Kind, Counter>::default());
        let seconds = Family::<Route, Histogram>::new_with_constructor(seconds);
        let (connections, waiting, stores_up) = (Whole::default(), Whole::default(), Whole::default());
        let system = SystemMetrics::default();
        let registry = registry(|ours| {
            ours.register("http_requests", "Requests answered", calls.clone());
            ours.register_with_unit("http_request_duration", "Time to answer", Unit::Seconds, seconds.clone());
            ours.register("uploads", "Files of uploads by what became of them", uploads.clone());
            ours.register("http_connections", "Open connections", connections.clone());
            ours.register("classify_waiting", "Images whose result is waited for", waiting.clone());
            ours.register("stores_up", "Whether the stores could be asked for this answer", stores_up.clone());
            system.register(ours);
        });
        for state in ["stored", "unchanged", "refused"] {
            // A rate needs its zero.
            drop(uploads.get_or_create(&Kind { state }));
        }
        Self { registry, calls, seconds, uploads, connections, waiting, system, stores_up }
    }

    /// Counts a file of an upload.
    pub(crate) fn uploaded(&self, outcome: &FileOutcome) {
        let state = match outcome.fate {
            Fate::Refused(_) => "refused",
            Fate::Stored { unchanged: true, .. } => "unchanged",
            Fate::Stored { unchanged: false, .. } => "stored",
        };
        self.uploads.get_or_create(&Kind { state }).inc();
    }

    /// Counts a connection until the answer is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }
}

/// Counts every answer, and logs it.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    // Routes, not addresses: there are as many addresses as images. Methods that nobody knows are many, too.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "other",
    }
    .to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let seconds = start.elapsed().as_secs_f64();
    if response.status().is_server_error() {
        tracing::warn!(method, route, status, seconds, "request failed");
    } else {
        tracing::debug!(method, route, status, seconds, "request answered");
    }
    app.metrics.seconds.get_or_create(&Route { route: route.clone() }).observe(seconds);
    app.metrics.calls.get_or_create(&Call { method, route, status }).inc();
    response
}

/// `GET /metrics`. The server's own counters come even when the stores are down.
pub(crate) async fn get(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let metrics = &app.metrics;
    metrics.waiting.set(app.waiters.len() as u64);
    match status::current(&app).await {
        Ok(known) if known.stale_seconds().is_some() => {
            tracing::warn!("metrics without the stores' part: they do not answer");
            metrics.stores_up.set(0);
        }
        Ok(known) => {
            metrics.stores_up.set(1);
            metrics.system.set(&known.value.system);
        }
        Err(error) => {
            tracing::warn!(%error, "metrics without the stores' part");
            metrics.stores_up.set(0);
        }
    }
    answer(&metrics.registry, &headers)
}
