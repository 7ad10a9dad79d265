//! Connections: accepted up to a limit, given up when slow, drained at the end.

use std::{io, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{App, guard::Ends, router};

/// A client has this long for the head of a request, and a connection may be idle for so long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A client must take some of the answer within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of a request that wait to be parsed; also what a head may have.
const BUFFER_BYTES: usize = 64 << 10;

/// At the end, requests under way have this long.
const DRAIN: Duration = Duration::from_secs(20);

/// Serves `app` until `shutdown` is cancelled, then takes no more connections, lets requests under way end, and cuts off after 20 s
/// those that have not.
///
/// # Errors
/// If the listener has no address.
pub async fn serve(listener: TcpListener, app: Arc<App>, shutdown: CancellationToken) -> io::Result<()> {
    let local = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(app.config.web.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let routes = router(Arc::clone(&app));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_BYTES);

    loop {
        // The place first: who finds none waits in the kernel's queue.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            (place, accepted) = accepted => match (place, accepted) {
                (Ok(place), Ok((stream, peer))) => (place, stream, peer),
                (_, Err(error)) if is_about_one_connection(&error) => continue,
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection; waiting a moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                (Err(_), _) => break,
            },
        };
        let ends = Ends { peer, local: stream.local_addr().unwrap_or(local) };
        let routes = routes.clone().map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ends);
            request.map(axum::body::Body::new)
        });
        let io = TokioIo::new(Box::pin(with_timeout(stream)));
        let connection = graceful.watch(http.serve_connection(io, TowerToHyperService::new(routes)));
        let (cut, open) = (cut.clone(), app.metrics.connection());
        connections.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "connection ended");
                },
                () = cut.cancelled() => tracing::debug!(%peer, "connection cut"),
            }
            drop(open);
            release(place);
        });
    }

    drop(listener);
    app.stopping.cancel();
    app.tasks.close();
    connections.close();
    let drained = async {
        graceful.shutdown().await;
        connections.wait().await;
        app.tasks.wait().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "some requests did not end in time; cutting them off");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

fn release(place: OwnedSemaphorePermit) {
    drop(place);
}

fn with_timeout(stream: TcpStream) -> TimeoutStream<TcpStream> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    stream
}

/// Whether the error is the connection's and not the listener's.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
