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
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    App,
    outcome::{Fate, FileOutcome},
    status,
};
use crate::telemetry::metrics::{Counted, Whole, answer, registry, seconds};

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
    queue: Family<Kind, Whole>,
    workers: Family<Kind, Whole>,
    classified: Family<Kind, Counter>,
    rate: Gauge<f64, AtomicU64>,
    stores_up: Whole,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = registry();
        let metrics = Self {
            registry: Registry::default(),
            calls: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            uploads: Family::default(),
            connections: Whole::default(),
            waiting: Whole::default(),
            queue: Family::default(),
            workers: Family::default(),
            classified: Family::default(),
            rate: Gauge::default(),
            stores_up: Whole::default(),
        };
        registry.register("http_requests", "Requests answered", metrics.calls.clone());
        registry.register_with_unit("http_request_duration", "Time to answer", Unit::Seconds, metrics.seconds.clone());
        registry.register("uploads", "Files of uploads by what became of them", metrics.uploads.clone());
        registry.register("http_connections", "Open connections", metrics.connections.clone());
        registry.register("classify_waiting", "Images whose result is waited for", metrics.waiting.clone());
        registry.register("queue_messages", "Messages by state", metrics.queue.clone());
        registry.register("workers", "Workers of the fleet by state", metrics.workers.clone());
        registry.register("images", "Images that workers finished, by outcome", metrics.classified.clone());
        registry.register("images_per_minute", "Images finished in the last minute", metrics.rate.clone());
        registry.register("stores_up", "Whether the stores could be asked for this answer", metrics.stores_up.clone());
        Self { registry, ..metrics }
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
pub(crate) async fn get(State(app): State<Arc<App>>) -> Response {
    let metrics = &app.metrics;
    metrics.waiting.set(app.waiters.len() as u64);
    match status::current(&app).await {
        Ok(known) if known.stale_seconds().is_some() => {
            tracing::warn!("metrics without the stores' part: they do not answer");
            metrics.stores_up.set(0);
        }
        Ok(known) => {
            let system = &known.value.system;
            metrics.stores_up.set(1);
            let queue = |state, count| metrics.queue.get_or_create(&Kind { state }).set(count);
            queue("visible", system.queue.visible);
            queue("in_flight", system.queue.in_flight);
            queue("dead", system.queue.dead);
            let workers = |state, count: u64| metrics.workers.get_or_create(&Kind { state }).set(count);
            workers("desired", system.fleet.desired.into());
            workers("running", system.fleet.running.into());
            workers("busy", system.fleet.busy.into());
            for (state, count) in [("classified", system.labels.values().sum()), ("failed", system.results.failed)] {
                metrics.classified.get_or_create(&Kind { state }).inner().store(count, Ordering::Relaxed);
            }
            metrics.rate.set(system.images_per_minute);
        }
        Err(error) => {
            tracing::warn!(%error, "metrics without the stores' part");
            metrics.stores_up.set(0);
        }
    }
    answer(&metrics.registry)
}
