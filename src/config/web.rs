//! The `web` section.

use std::{
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use super::{ConfigError, Network, Secret, layers::variable, raw};
use crate::tls;

/// The web tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Opens everything but `/healthcheck` and the bare states of `/readyz`; `None`: everything is open.
    pub token: Option<Secret>,
    /// Guards reset, delete, requeue and dead letters; `None`: the same as `token`.
    pub admin_token: Option<Secret>,
    /// Host names, with a port if it is not the scheme's, under which browsers reach the service besides loopback.
    pub public_hosts: Vec<String>,
    /// Addresses, and ranges of them, whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<Network>,
    /// Largest request body in bytes.
    pub max_request_bytes: u64,
    /// Largest number of connections at a time.
    pub max_connections: usize,
    /// How long `POST /classify` waits for its result.
    pub classify_timeout: Duration,
}

impl raw::Web {
    /// Checks the section.
    pub(super) fn resolve(&self) -> Result<Web, ConfigError> {
        for (key, value) in
            [("max_request_bytes", self.max_request_bytes.0), ("max_connections", self.max_connections as u64)]
        {
            if value == 0 {
                return Err(ConfigError::invalid(format!("web.{key} is 0, which lets nothing through; raise it")));
            }
        }
        if let Some(host) = self.public_hosts.iter().find(|host| host.is_empty() || host.contains(['/', ' '])) {
            return Err(ConfigError::invalid(format!(
                "web.public_hosts has {host:?}; name hosts alone, such as \"photos.example\" or \"photos.example:8443\""
            )));
        }
        let (token, admin_token) = (secret("web.token", &self.token)?, secret("web.admin_token", &self.admin_token)?);
        let listen = address(&self.listen)?;
        if !listen.ip().is_loopback() && token.is_none() && !self.open {
            return Err(ConfigError::invalid(
                "web.listen is not a loopback address, so anybody could use the service; set a token (--token or \
                 IMGCLS_WEB_TOKEN), or say --open",
            ));
        }
        Ok(Web {
            listen,
            token,
            admin_token,
            public_hosts: self.public_hosts.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            max_request_bytes: self.max_request_bytes.0,
            max_connections: self.max_connections,
            classify_timeout: self.classify_timeout,
        })
    }
}

/// A token, `None` where it is empty.
fn secret(key: &str, secret: &Secret) -> Result<Option<Secret>, ConfigError> {
    match secret.expose() {
        Secret::SET => Err(ConfigError::invalid(format!(
            "{key} is {:?}, which `imgcls config` prints in place of a secret; put the secret itself there, or into {}",
            Secret::SET,
            variable(key)
        ))),
        text => Ok(Secret::new(text)),
    }
}

/// An address and port to listen on. Of a name's addresses the first of IPv4, which is what `localhost` is to most.
pub(super) fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let refused = |why: &dyn std::fmt::Display| {
        ConfigError::invalid(format!(
            "web.listen is {text:?}, which is not an address and a port such as 127.0.0.1:8080 or localhost:8080: {why}"
        ))
    };
    // In a container with this binary alone there is no file that knows it.
    if let Some((host, port)) = text.rsplit_once(':')
        && tls::is_localhost(host)
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| refused(&error))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| refused(&"the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Raw};

    #[test]
    fn refusals_name_their_key() {
        let refused = |change: fn(&mut raw::Web)| {
            let mut web = Raw::default().web;
            change(&mut web);
            web.resolve().unwrap_err().to_string()
        };
        assert!(refused(|w| w.listen = "0.0.0.0:80".into()).contains("set a token"));
        assert!(refused(|w| w.listen = "nowhere".into()).contains("web.listen is \"nowhere\""));
        assert!(refused(|w| w.public_hosts = vec!["http://foo".into()]).contains("name hosts alone"));
        assert!(refused(|w| w.max_request_bytes = ByteSize(0)).contains("web.max_request_bytes is 0"));
        assert!(refused(|w| w.max_connections = 0).contains("web.max_connections is 0"));
        assert!(refused(|w| w.token = Secret::SET.to_owned().into()).contains("IMGCLS_WEB_TOKEN"));
    }

    #[test]
    fn a_token_or_a_word_opens_the_network_and_names_are_found() {
        let mut web = Raw::default().web;
        web.listen = "0.0.0.0:80".into();
        assert!(raw::Web { open: true, ..web.clone() }.resolve().is_ok());
        assert!(raw::Web { token: "t".to_owned().into(), ..web.clone() }.resolve().is_ok());
        // The second is known to no resolver.
        for name in ["localhost", "photos.localhost"] {
            web.listen = format!("{name}:8080");
            assert_eq!(web.resolve().unwrap().listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
        }
        web.listen = "localhost:http".into();
        assert!(web.resolve().unwrap_err().to_string().contains("localhost:http"));
    }
}
