//! The HTTP client that fetches models. It takes proxies from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`,
//! and trusts whom [`tls::roots`] trusts.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::dns::ResolveDns as _;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::tls::{self, Resolver};

/// A connection that brings nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(10);

/// A client that connects within `connect`.
pub(super) fn new(connect: Duration) -> Result<Client, Box<dyn Error + Send + Sync>> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls::client_config()?)
        .user_agent(concat!("imgcls/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .read_timeout(STALLED.min(connect * 2))
        .redirect(reqwest::redirect::Policy::limited(5))
        .dns_resolver(Arc::new(Dns(Resolver::of_machine())));
    Ok(builder.build()?)
}

/// The resolver as the client takes it.
struct Dns(Resolver);

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let addresses = resolver.resolve_dns(name.as_str()).await?;
            // The port is set by who connects.
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}
