//! Connections: accepted while there are places, given up when slow, drained at the end.

use std::{
    any::Any,
    convert::Infallible,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    files,
    pace::{Answer, PacedBody, PacedStream},
    places::{Kind, Place, Places},
};

/// A client has this long for the head of a request, and a connection may be idle for so long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A proxy of ours has this long. It must give connections up before we do, or it sends a request on one that we are
/// just closing, and its client gets a 502: load balancers keep them for a minute or two.
const PROXY_TIMEOUT: Duration = Duration::from_secs(300);

/// Most bytes of a request that wait to be parsed; also what a head may have.
const BUFFER_BYTES: usize = 64 << 10;

/// Connections that the kernel keeps for us until we accept them, if it lets us have so many.
const BACKLOG: u32 = 4096;

/// At the end, requests under way have this long.
const DRAIN: Duration = Duration::from_secs(20);

/// Listens on `address`, with a queue that a burst of connections does not fill.
///
/// # Errors
/// If the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart need not wait for connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The two ends of the connection that a request came on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// What a server serves, and to how many.
#[derive(Clone)]
pub(crate) struct Service {
    /// Answers the requests, which carry the [`Ends`] of their connection and its [`Activity`](super::Activity).
    pub(crate) routes: Router,
    /// Most connections at a time, as far as the system's limit of open files allows. Some more are accepted, whose
    /// requests are refused unless there is a place within a moment.
    pub(crate) connections: usize,
    /// The path that is answered on those, too.
    pub(crate) health_check: Option<&'static str>,
    /// What other requests on those are told.
    pub(crate) refusal: fn() -> Response,
    /// Whether this peer is a proxy, which keeps connections for later requests of its clients.
    pub(crate) is_proxy: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Makes what is held for as long as a connection is open.
    pub(crate) opened: Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// A server, and what all its connections share.
#[derive(Debug)]
pub(crate) struct Server {
    service: Service,
    local: SocketAddr,
    http: http1::Builder,
    places: Arc<Places>,
    connections: TaskTracker,
    graceful: GracefulShutdown,
    /// Ends every connection at once.
    cut: CancellationToken,
}

impl Server {
    /// Returns a server of `service` at the address `local`.
    pub(crate) fn new(service: Service, local: SocketAddr) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).max_buf_size(BUFFER_BYTES);
        Self {
            places: Places::new(files::affordable(service.connections)),
            service,
            local,
            http,
            connections: TaskTracker::new(),
            graceful: GracefulShutdown::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Takes connections until `shutdown` is cancelled. Those that are open then stay so.
    pub(crate) async fn accept(&self, listener: TcpListener, shutdown: &CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => tokio::select! {
                    () = shutdown.cancelled() => return,
                    place = self.places.enter() => self.spawn(stream, peer, place),
                },
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; waiting a moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Serves a connection until it ends, loses its place or is cut.
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let ends = Ends { peer, local: stream.local_addr().unwrap_or(self.local) };
        let io = TokioIo::new(PacedStream::new(stream, place.activity.clone()));
        let place = Arc::new(place);
        let (service, held) = (self.service.clone(), Arc::clone(&place));
        let service = service_fn(move |request| answer(service.clone(), Arc::clone(&held), ends, request));
        let mut http = self.http.clone();
        http.header_read_timeout(self.patience(peer.ip()));
        let connection = self.graceful.watch(http.serve_connection(io, service));
        let (cut, open) = (self.cut.clone(), (self.service.opened)());
        self.connections.spawn(async move {
            tokio::select! {
                // What has come is read before the place is given up.
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "connection ended");
                },
                () = place.is_lost() => tracing::debug!(%peer, "connection gave its place to another"),
                () = place.activity.is_cut() => tracing::debug!(%peer, "connection gave what it held to others"),
                () = cut.cancelled() => tracing::debug!(%peer, "connection cut"),
            }
            drop((open, place));
        });
    }

    /// How long this peer may take for the head of a request, or until the next one.
    fn patience(&self, peer: IpAddr) -> Duration {
        if (self.service.is_proxy)(peer) { PROXY_TIMEOUT } else { HEAD_TIMEOUT }
    }

    /// Lets requests under way and `others` end, and cuts off those that have not after 20 s.
    pub(crate) async fn drain(self, others: impl Future<Output = ()>) {
        self.connections.close();
        let drained = async {
            self.graceful.shutdown().await;
            self.connections.wait().await;
            others.await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(open = self.connections.len(), "some requests did not end in time; cutting them off");
            self.cut.cancel();
            self.connections.wait().await;
        }
    }

    /// Cuts off all connections.
    pub(crate) fn end(self) {
        self.cut.cancel();
    }
}

/// Answers one request.
async fn answer(
    service: Service,
    place: Arc<Place>,
    ends: Ends,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let activity = &place.activity;
    // Who sends many requests at once does not have them answered in one turn: others wait, too.
    if !activity.begin() {
        tokio::task::yield_now().await;
    }
    request.extensions_mut().insert(ends);
    request.extensions_mut().insert(activity.clone());
    let is_health_check = Some(request.uri().path()) == service.health_check;
    let mut response = if is_health_check || place.promote().await {
        service.routes.oneshot(request.map(|body| Body::new(PacedBody::new(body, activity.clone())))).await?
    } else {
        (service.refusal)()
    };
    if place.kind() == Kind::Extra {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer::new(body, activity.clone())))
}

/// Whether the error is the connection's and not the listener's.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{http::StatusCode, response::IntoResponse as _, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;

    /// Serves `routes` to up to `connections` clients that are proxies or not, and returns the address.
    fn serve(routes: Router, connections: usize, is_proxy: bool) -> SocketAddr {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service {
            routes,
            connections,
            health_check: Some("/health"),
            refusal: || (StatusCode::SERVICE_UNAVAILABLE, "refused").into_response(),
            is_proxy: Arc::new(move |_| is_proxy),
            opened: Arc::new(|| Box::new(())),
        };
        let server = Server::new(service, address);
        tokio::spawn(async move { server.accept(listener, &CancellationToken::new()).await });
        address
    }

    /// What a second request gets on a connection that was idle for so long after the first.
    async fn second_answer(is_proxy: bool, idle: Duration) -> String {
        let address = serve(Router::new().route("/", get(async || "here")), 4, is_proxy);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut ask = async || {
            // A connection that was closed may take the request all the same.
            client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.ok();
            let mut answer = Vec::new();
            while !answer.ends_with(b"here") && client.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
            String::from_utf8(answer).unwrap()
        };
        assert!(ask().await.starts_with("HTTP/1.1 200"));
        tokio::time::pause();
        tokio::time::advance(idle).await;
        tokio::time::resume();
        ask().await
    }

    #[tokio::test]
    async fn a_proxy_may_keep_its_connections() {
        assert_eq!(second_answer(false, Duration::from_secs(20)).await, "");
        assert!(second_answer(true, Duration::from_secs(250)).await.starts_with("HTTP/1.1 200"));
    }

    /// In one thread, where a turn that does not end holds up everybody.
    #[tokio::test]
    async fn who_sends_many_requests_at_once_waits_for_others() {
        const MANY: usize = 100;
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let counted = async move || count.fetch_add(1, Ordering::Relaxed).to_string();
        let address = serve(Router::new().route("/", get(counted)), 4, false);
        let request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_all(&request.repeat(MANY)).await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(request).await.unwrap();
        let mut answer = Vec::with_capacity(4096);
        other.read_buf(&mut answer).await.unwrap();
        let before: usize = String::from_utf8(answer).unwrap().rsplit("\r\n").next().unwrap().parse().unwrap();
        assert!(before < MANY / 2, "{before} requests of the other were answered first");
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 200").count() < MANY {
            let mut some = vec![0; 4096];
            let n = greedy.read(&mut some).await.unwrap();
            answers.push_str(std::str::from_utf8(&some[..n]).unwrap());
        }
        assert_eq!(answered.load(Ordering::Relaxed), MANY + 1);
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_a_moment_and_may_ask_for_health() {
        let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begin, going_on) = (Arc::clone(&began), Arc::clone(&go_on));
        let slow = async move || {
            begin.notify_one();
            going_on.notified().await;
            "at last"
        };
        let routes = Router::new().route("/", get(async || "here")).route("/slow", get(slow));
        let address = serve(routes.route("/health", get(async || "well")), 1, false);
        let ask = async |client: &mut TcpStream, path: &str, end: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(end.as_bytes()) {
                assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
            }
            String::from_utf8(answer).unwrap().to_lowercase()
        };
        let connect = async || TcpStream::connect(address).await.unwrap();
        let mut first = connect().await;
        let served = ask(&mut first, "/slow", "at last");
        let others = async {
            began.notified().await;
            let health = ask(&mut connect().await, "/health", "well").await;
            let refused = ask(&mut connect().await, "/", "refused").await;
            let mut patient = connect().await;
            let waited = ask(&mut patient, "/", "here");
            let (waited, ()) = tokio::join!(waited, async {
                tokio::task::yield_now().await;
                go_on.notify_one();
            });
            let again = ask(&mut patient, "/", "here").await;
            [health, refused, waited, again]
        };
        let (_, [health, refused, waited, again]) = tokio::join!(served, others);
        assert!(health.starts_with("http/1.1 200") && health.contains("connection: close"), "{health}");
        assert!(refused.starts_with("http/1.1 503") && refused.contains("connection: close"), "{refused}");
        for kept in [waited, again] {
            assert!(kept.starts_with("http/1.1 200") && !kept.contains("connection: close"), "{kept}");
        }
    }
}
