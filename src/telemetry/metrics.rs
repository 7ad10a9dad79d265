//! Metrics as Prometheus text: what all roles that have some share.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{Server, Service};

/// Seconds: from a page out of memory to a long poll or a result that is waited for.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// A gauge of things that can be counted.
pub type Whole = Gauge<u64, AtomicU64>;

/// A registry whose names all begin with `imgcls_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("imgcls")
}

/// A histogram of seconds.
#[must_use]
pub fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

/// One thing that a gauge counts for as long as this lives.
#[derive(Debug)]
pub struct Counted(Whole);

impl Counted {
    /// Counts one more.
    #[must_use]
    pub fn new(gauge: &Whole) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All of `registry` as text.
///
/// # Errors
/// If a collector fails; those here do not.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// The answer to a scrape.
pub fn answer(registry: &Registry) -> Response {
    match text(registry) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Connections of those who scrape: a few, of which some are forgotten.
const CONNECTIONS: usize = 16;

/// Answers `GET /metrics` on `listener` with what `of` holds until `ended`, for a role that has no other listener.
///
/// # Errors
/// If the listener has no address.
pub async fn expose<M>(listener: TcpListener, of: Arc<M>, ended: CancellationToken) -> io::Result<()>
where
    M: AsRef<Registry> + Send + Sync + 'static,
{
    let routes =
        Router::new().route("/metrics", get(async |State(of): State<Arc<M>>| answer(M::as_ref(&of)))).with_state(of);
    let service = Service {
        routes,
        connections: CONNECTIONS,
        health_check: None,
        refusal: || (StatusCode::SERVICE_UNAVAILABLE, "too many connections; try again").into_response(),
        is_proxy: Arc::new(|_| false),
        opened: Arc::new(|| Box::new(())),
    };
    let server = Server::new(service, listener.local_addr()?);
    server.accept(listener, &ended).await;
    // Scrapes under way are cut: nobody waits for them.
    server.end();
    Ok(())
}
