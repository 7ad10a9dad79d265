//! The web tier as a service: what it serves, and how it ends.

use std::{io, sync::Arc};

use axum::response::IntoResponse as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    App, Error,
    router::{HEALTH_CHECK, router},
    status,
};
use crate::http::{Server, Service};

/// Serves `app` until `shutdown` is cancelled, then takes no more connections, lets requests under way end, and cuts
/// off after 20 s those that have not.
///
/// # Errors
/// If the listener has no address.
pub async fn serve(listener: TcpListener, app: Arc<App>, shutdown: CancellationToken) -> io::Result<()> {
    let (open, proxies) = (Arc::clone(&app), Arc::clone(&app));
    let service = Service {
        routes: router(Arc::clone(&app)),
        connections: app.config.web.max_connections,
        health_check: Some(HEALTH_CHECK),
        refusal: || Error::unavailable("too many connections; try again").into_response(),
        is_proxy: Arc::new(move |peer| proxies.hosts.trusts(peer)),
        opened: Arc::new(move || Box::new(open.metrics.connection())),
    };
    app.tasks.spawn(status::remember(Arc::clone(&app)));
    let server = Server::new(service, listener.local_addr()?);
    server.accept(listener, &shutdown).await;
    app.stopping.cancel();
    app.tasks.close();
    server.drain(app.tasks.wait()).await;
    Ok(())
}
