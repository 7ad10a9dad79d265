//! Metrics as Prometheus text: what all roles that have some share.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, atomic::AtomicU64},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::process::Process;
use crate::{
    build,
    http::{Server, Service},
};

/// Seconds: from a page out of memory to a long poll or a result that is waited for.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// A gauge of things that can be counted.
pub type Whole = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    commit: &'static str,
}

/// A registry with what every process tells, its build and its resources, and with what `register` adds, whose names
/// then all begin with `imgcls_`.
pub fn registry(register: impl FnOnce(&mut Registry)) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let ours = registry.sub_registry_with_prefix("imgcls");
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version: build::VERSION, commit: build::COMMIT.unwrap_or_default() }).set(1);
    ours.register("build_info", "Always 1; the labels tell the build", build);
    register(ours);
    registry
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

/// All of `registry`, as OpenMetrics.
///
/// # Errors
/// If a collector fails; those here do not.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// The answer to a scrape with these headers: Prometheus' text format, or OpenMetrics for those who ask for it.
pub fn answer(registry: &Registry, headers: &HeaderMap) -> Response {
    let mut text = match text(registry) {
        Ok(text) => text,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kind = if accepted.any(|accepted| accepted.contains("application/openmetrics-text")) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        text = as_prometheus_text(&text);
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// OpenMetrics, as the library writes it, in Prometheus' older format: a counter is known by the name of its samples,
/// there are no units, and the end is not marked.
fn as_prometheus_text(openmetrics: &str) -> String {
    let type_of = |line: &str| Some(line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.to_owned());
    let counters: HashSet<String> = openmetrics.lines().filter_map(type_of).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let told = ["# HELP ", "# TYPE "].into_iter().find_map(|what| Some((what, line.strip_prefix(what)?)));
        match told.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(name) => {
                text.extend([what, name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
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
    let routes = Router::new()
        .route("/metrics", get(async |State(of): State<Arc<M>>, headers: HeaderMap| answer(M::as_ref(&of), &headers)))
        .with_state(of);
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

#[cfg(test)]
mod tests {
    use prometheus_client::{metrics::counter::Counter, registry::Unit};

    use super::*;

    fn example() -> Registry {
        registry(|ours| {
            let counter = Counter::<u64>::default();
            counter.inc();
            ours.register("jobs", "Jobs done", counter);
            ours.register_with_unit("job_duration", "Time of a job", Unit::Seconds, seconds());
        })
    }

    async fn scrape(accept: &str) -> (String, String) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        let answer = answer(&example(), &headers);
        let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_does_not_ask_for_openmetrics_gets_plain_text() {
        let (kind, text) = scrape("*/*").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        for line in [
            "# HELP imgcls_jobs_total Jobs done.",
            "# TYPE imgcls_jobs_total counter",
            "imgcls_jobs_total 1",
            "# TYPE imgcls_job_duration_seconds histogram",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in {text}");
        }
        assert!(
            text.contains("imgcls_build_info{version=\"") && !text.contains("# UNIT") && !text.contains("EOF"),
            "{text}"
        );
        let (kind, text) = scrape("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5").await;
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(text.contains("# TYPE imgcls_jobs counter") && text.ends_with("# EOF\n"), "{text}");
    }
}
