//! What holds for every route: whose `Host` and `Origin` are taken, who the client is, and the security headers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    App,
    error::{Error, Result, Shown},
};
use crate::{
    config::{Network, Web},
    http::Ends,
};

/// Scripts, styles and pictures from here only, nothing inline, and no frame may show a page.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who asks, as far as it can be known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// The address, behind trusted proxies the one that they tell.
    pub(crate) address: IpAddr,
    /// The client's side is https.
    pub(crate) https: bool,
    /// The port that the client reaches the service at, unless it is the scheme's.
    pub(crate) port: Option<u16>,
}

/// The host names under which the service is reached.
#[derive(Debug)]
pub(crate) struct Hosts {
    public: Vec<String>,
    listen: IpAddr,
    proxies: Vec<Network>,
}

impl Hosts {
    pub(crate) fn new(web: &Web) -> Self {
        Self {
            public: web
                .public_hosts
                .iter()
                .map(|host| without_default_port(&host.to_ascii_lowercase()).to_owned())
                .collect(),
            listen: web.listen.ip(),
            proxies: web.trusted_proxies.clone(),
        }
    }

    /// Whether `host`, with or without a port, is ours. An address that the connection arrived at needs no
    /// configuration: a page of another site cannot make a browser send it, since only names can be rebound.
    fn allows(&self, host: &str, local: Option<IpAddr>) -> bool {
        let host = host.to_ascii_lowercase();
        if self.public.iter().any(|public| public == without_default_port(&host)) {
            return true;
        }
        let name = without_port(&host);
        if name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else { return false };
        let address = address.to_canonical();
        address.is_loopback()
            // The address that the server prints when it listens on all of them.
            || address == self.listen
            || local.is_some_and(|local| local.to_canonical() == address)
    }

    /// Whether this peer is a proxy of ours.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|proxy| proxy.contains(peer))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !unbracketed_v6(name) => {
            name
        }
        _ => host,
    }
}

/// The port that is told with a host, unless it is the scheme's.
fn port_of(host: &str) -> Option<u16> {
    let host = without_default_port(host);
    host.strip_prefix(without_port(host))?.strip_prefix(':')?.parse().ok()
}

fn unbracketed_v6(name: &str) -> bool {
    name.contains(':') && !name.ends_with(']')
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host)
}

/// Refuses foreign hosts and origins, and tells the handlers who the client is.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let (client, response) = match check(&app.hosts, &request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            (client.address, next.run(request).await)
        }
        Err(error) => (peer(&request), error.into_response()),
    };
    if is_refusal(&response)
        && let Some(Shown(error)) = response.extensions().get()
    {
        app.refusals.tell(client, error);
    }
    response
}

/// Whether somebody was kept out. Who presented a wrong token is told of where that is seen.
fn is_refusal(response: &Response) -> bool {
    matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
}

/// Who is at the other end of the connection.
fn peer(request: &Request) -> IpAddr {
    request.extensions().get::<Ends>().map_or(IpAddr::from([127, 0, 0, 1]), |ends| ends.peer.ip())
}

fn check(hosts: &Hosts, request: &Request) -> Result<Client> {
    let headers = request.headers();
    let ends = request.extensions().get::<Ends>().copied();
    let peer = peer(request);
    let proxied = hosts.trusts(peer);

    let forbidden = |message: String| Err(Error::new(StatusCode::FORBIDDEN, message));
    let sent = single(headers, &header::HOST)?.ok_or_else(|| Error::bad_request("the request has no Host header"))?;
    let forwarded = proxied.then(|| last_forwarded(headers, "x-forwarded-host")).flatten();
    let authority = request.uri().authority().map(|a| a.as_str());
    let host = forwarded.unwrap_or(sent);
    for candidate in [Some(host), authority].into_iter().flatten() {
        if !hosts.allows(candidate, ends.map(|ends| ends.local.ip())) {
            return forbidden(format!(
                "the host {candidate:?} is not served here; if it is yours, start the server with --public-host \
                 {candidate}, or add it to web.public_hosts"
            ));
        }
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) {
        if let Some(site) = single(headers, &header::HeaderName::from_static("sec-fetch-site"))?
            && !matches!(site, "same-origin" | "none")
        {
            return forbidden("a page of another site asked for this change; it is refused".to_owned());
        }
        if let Some(origin) = single(headers, &header::ORIGIN)? {
            let of = origin.split_once("://").map(|(_, host)| host.to_ascii_lowercase());
            if of.is_none_or(|of| without_default_port(&of) != without_default_port(&host.to_ascii_lowercase())) {
                return forbidden(format!("a page of {origin} asked for this change; it is refused"));
            }
        }
    }
    Ok(Client {
        address: if proxied { client_behind(hosts, headers).unwrap_or(peer) } else { peer },
        https: proxied && last_forwarded(headers, "x-forwarded-proto").is_some_and(|p| p.eq_ignore_ascii_case("https")),
        port: port_of(host),
    })
}

/// The header's one value.
fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if values.next().is_none() => Ok(Some(text)),
        _ => Err(Error::bad_request(format!("the {name} header is not valid"))),
    }
}

/// What the nearest proxy added: proxies append.
fn last_forwarded<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim).filter(|v| !v.is_empty())
}

/// The nearest address that is not a trusted proxy's.
fn client_behind(hosts: &Hosts, headers: &HeaderMap) -> Option<IpAddr> {
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    let addresses = values.iter().rev().flat_map(|v| v.rsplit(','));
    for text in addresses {
        let address = text.trim().parse().or_else(|_| text.trim().parse::<SocketAddr>().map(|a| a.ip())).ok()?;
        if !hosts.trusts(address) {
            return Some(address);
        }
    }
    None
}

/// Adds the security headers that an answer does not have yet.
pub(crate) async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not no-referrer, under which browsers send "Origin: null" with forms.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::config::Raw;

    fn hosts() -> Hosts {
        let mut web = Raw::default().serve().unwrap().web;
        web.public_hosts = vec!["img.example.com".into(), "Other.example:8443".into()];
        web.trusted_proxies = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2/31".parse().unwrap()];
        Hosts::new(&web)
    }

    fn ask(method: &str, peer: &str, headers: &[(&str, &str)]) -> Result<Client> {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        request.extensions_mut().insert(Ends { peer, local: "192.168.1.5:8080".parse().unwrap() });
        check(&hosts(), &request)
    }

    #[test]
    fn only_our_hosts_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "img.example.com",
            "img.example.com:443",
            "IMG.example.com:80",
            "other.example:8443",
            "192.168.1.5:8080",
            "app.localhost:3000",
        ] {
            assert!(ask("GET", "127.0.0.1", &[("host", host)]).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.1.6",
            "img.example.com:8080",
            "other.example",
            "",
            ":80",
            "[::2]",
            "0.0.0.0",
            "img.example.com.",
            "127.0.0.1@evil.example",
        ] {
            let error = ask("GET", "127.0.0.1", &[("host", host)]).unwrap_err();
            assert_eq!(error.status(), StatusCode::FORBIDDEN, "{host}");
        }
        assert_eq!(ask("GET", "127.0.0.1", &[]).unwrap_err().status(), StatusCode::BAD_REQUEST);
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(ask("GET", "127.0.0.1", &two).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn changes_come_from_our_pages_or_from_scripts() {
        let post = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "localhost:8080")];
            all.extend_from_slice(headers);
            ask("POST", "127.0.0.1", &all).is_ok()
        };
        assert!(post(&[]));
        assert!(post(&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(post(&[("sec-fetch-site", "none")]));
        assert!(!post(&[("origin", "http://evil.example")]));
        assert!(!post(&[("origin", "http://localhost:9090")]));
        assert!(!post(&[("origin", "null")]));
        assert!(!post(&[("sec-fetch-site", "cross-site")]));
        assert!(!post(&[("sec-fetch-site", "same-site")]));
        assert!(ask("GET", "127.0.0.1", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]).is_ok());
        for method in ["PUT", "DELETE", "PATCH"] {
            assert!(ask(method, "127.0.0.1", &[("host", "localhost"), ("origin", "http://evil.example")]).is_err());
        }
    }

    #[test]
    fn forwarded_headers_count_from_proxies_only() {
        let headers =
            [("host", "localhost"), ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.2"), ("x-forwarded-proto", "https")];
        let direct = ask("GET", "5.5.5.5", &headers).unwrap();
        assert_eq!((direct.address, direct.https), ("5.5.5.5".parse().unwrap(), false));
        let proxied = ask("GET", "10.0.0.1", &headers).unwrap();
        assert_eq!((proxied.address, proxied.https), ("1.2.3.4".parse().unwrap(), true));
        let by_another = ask("GET", "::ffff:10.0.0.3", &headers).unwrap();
        assert_eq!((by_another.address, by_another.https), ("1.2.3.4".parse().unwrap(), true));

        let port =
            |peer, host, forwarded| ask("GET", peer, &[("host", host), ("x-forwarded-host", forwarded)]).unwrap().port;
        assert_eq!(port("5.5.5.5", "localhost:8080", "localhost:9090"), Some(8080));
        assert_eq!(port("10.0.0.1", "localhost:8080", "localhost:9090"), Some(9090));
        for host in ["localhost", "[::1]", "::1", "img.example.com:443", "img.example.com:80"] {
            assert_eq!(port("5.5.5.5", host, "localhost"), None, "{host}");
        }
        assert_eq!(port("5.5.5.5", "[::1]:8080", "localhost"), Some(8080));

        let host = [("host", "localhost"), ("x-forwarded-host", "evil.example")];
        assert!(ask("GET", "5.5.5.5", &host).is_ok());
        assert!(ask("GET", "10.0.0.1", &host).is_err());
    }
}
