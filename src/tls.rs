//! How clients reach servers: by which resolver they find a name's addresses, and whom they trust. TLS is rustls on
//! ring, with the machine's root certificates (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`), else those built in.

use std::{
    env,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_smithy_dns::HickoryDnsResolver;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

/// Where the system's resolver and hickory read which servers to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why there is no TLS.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A variable that says whom to trust, and nobody is there.
    #[error(
        "{variable} is {value:?}, which gives no certificate to trust ({why}); name certificates in PEM form there, or \
         unset it"
    )]
    NoCertificate {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: OsString,
        /// What is the matter with the first thing that cannot be read.
        why: String,
    },
    /// Ring supports none of the default protocol versions, which would be a defect of the build.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// The certificates to trust. Those built in, Mozilla's, count only where the machine has none, as in an empty
/// container: a machine's own list may leave some out on purpose.
///
/// # Errors
/// [`TlsError::NoCertificate`]: who names certificates does not want others.
pub fn roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut native = named("SSL_CERT_FILE", env::var_os("SSL_CERT_FILE"), |file| vec![in_file(Path::new(file))])?;
    // An empty list of directories is none; an empty name of a file would be looked for instead of the machine's roots.
    let directories = env::var_os("SSL_CERT_DIR").filter(|list| !list.is_empty());
    native.extend(named("SSL_CERT_DIR", directories, in_directories)?);
    if native.is_empty() {
        native = load_native_certs().certs;
    }
    Ok(if native.is_empty() { webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec() } else { native })
}

/// What `load` finds at a variable's value; nothing where it is not set.
fn named(
    variable: &'static str,
    value: Option<OsString>,
    load: impl FnOnce(&OsString) -> Vec<CertificateResult>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for result in load(&value) {
        found.extend(result.certs);
        errors.extend(result.errors);
    }
    if found.is_empty() {
        // Without the path, which is in the value.
        let why = errors.first().and_then(std::error::Error::source).map(ToString::to_string);
        let why = why.unwrap_or_else(|| "none is there".to_owned());
        return Err(TlsError::NoCertificate { variable, value, why });
    }
    Ok(found)
}

fn in_file(file: &Path) -> CertificateResult {
    load_certs_from_paths(Some(file), None)
}

/// What is in directories that are listed as in `PATH`.
fn in_directories(list: &OsString) -> Vec<CertificateResult> {
    let named = env::split_paths(list).filter(|dir| !dir.as_os_str().is_empty());
    named.map(|dir: PathBuf| load_certs_from_paths(None, Some(&dir))).collect()
}

/// A client's TLS settings with [`roots`], without client certificates.
///
/// # Errors
/// [`TlsError`].
pub fn client_config() -> Result<ClientConfig, TlsError> {
    trusting(roots()?)
}

/// The settings of a client that has nobody to trust, since it asks this machine alone, without TLS.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn without_roots() -> Result<ClientConfig, TlsError> {
    trusting(Vec::new())
}

fn trusting(roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    // A machine's list may hold certificates that rustls cannot read; the others count.
    store.add_parsable_certificates(roots);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

/// Finds the addresses of names. `localhost` needs nobody for that.
#[derive(Debug, Clone)]
pub enum Resolver {
    /// Asks the servers of `/etc/resolv.conf` itself: `getaddrinfo` of a static glibc binary loads the machine's NSS
    /// plugins, which must be of the very glibc version it was built with.
    Hickory(Arc<HickoryDnsResolver>),
    /// Has `getaddrinfo` do it.
    System,
}

impl Resolver {
    /// The one that this machine's `/etc/resolv.conf` allows.
    #[must_use]
    pub fn of_machine() -> Self {
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        if is_for_hickory(&text) { Self::Hickory(Arc::default()) } else { Self::System }
    }
}

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            match self {
                _ if is_localhost(name) => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
                Self::Hickory(hickory) => hickory.resolve_dns(name).await,
                Self::System => {
                    let found = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
                    Ok(found.map(|address| address.ip()).collect())
                }
            }
        })
    }
}

/// Whether a name is this machine's whatever a resolver says, by RFC 6761, section 6.3.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether hickory can make use of this `/etc/resolv.conf`. It panics where no server is named, as without a network,
/// and at what it does not know.
fn is_for_hickory(text: &str) -> bool {
    let mut names_a_server = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split(['#', ';']).next().unwrap_or_default().split_whitespace().collect();
        match words[..] {
            [] => {}
            ["nameserver", server] if is_server(server) => names_a_server = true,
            ["domain", domain] if is_domain(domain) => {}
            ["search", ref domains @ ..] if domains.iter().all(|domain| is_domain(domain)) => {}
            ["options", ref options @ ..] if options.iter().all(|option| is_option(option)) => {}
            _ => return false,
        }
    }
    names_a_server
}

/// An address, of IPv6 perhaps with its zone.
fn is_server(word: &str) -> bool {
    match word.split_once('%') {
        Some((address, zone)) => {
            address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(char::is_alphanumeric)
        }
        None => word.parse::<IpAddr>().is_ok(),
    }
}

fn is_domain(word: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    // The root, which some write where there is nothing to search.
    word == "." || (word.len() < 254 && word.strip_suffix('.').unwrap_or(word).split('.').all(is_label))
}

fn is_option(word: &str) -> bool {
    const PLAIN: [&str; 15] = [
        "debug",
        "edns0",
        "inet6",
        "ip6-bytestring",
        "ip6-dotint",
        "no-aaaa",
        "no-check-names",
        "no-ip6-dotint",
        "no-reload",
        "no-tld-query",
        "rotate",
        "single-request",
        "single-request-reopen",
        "trust-ad",
        "use-vc",
    ];
    match word.split_once(':') {
        Some(("ndots" | "timeout" | "attempts", number)) => number.parse::<u32>().is_ok(),
        Some(_) => false,
        None => PLAIN.contains(&word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_trusts_somebody() {
        assert!(!roots().unwrap().is_empty());
        client_config().unwrap();
    }

    #[test]
    fn the_built_in_roots_can_be_read() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        let (read, ignored) = RootCertStore::empty().add_parsable_certificates(built_in.iter().cloned());
        assert_eq!((read, ignored), (built_in.len(), 0));
    }

    #[test]
    fn certificates_that_are_named_and_not_there_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("roots.pem");
        let of_file = || named("SSL_CERT_FILE", Some(file.clone().into()), |file| vec![in_file(Path::new(file))]);
        let of_dir = || named("SSL_CERT_DIR", Some(dir.path().into()), in_directories);
        let error = of_file().unwrap_err().to_string();
        assert!(error.starts_with("SSL_CERT_FILE is \"/") && error.contains("No such file"), "{error}");
        assert_eq!(error.matches("roots.pem").count(), 1, "{error}");
        std::fs::write(&file, "no certificate\n").unwrap();
        assert!(of_file().unwrap_err().to_string().contains("none is there"));
        assert!(of_dir().unwrap_err().to_string().starts_with("SSL_CERT_DIR is \"/"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!((of_file().unwrap().len(), of_dir().unwrap().len()), (1, 1));
        let empty = named("SSL_CERT_FILE", Some(OsString::new()), |file| vec![in_file(Path::new(file))]);
        assert!(empty.unwrap_err().to_string().starts_with("SSL_CERT_FILE is \"\""));
        assert!(named("SSL_CERT_DIR", None, in_directories).unwrap().is_empty());
    }

    #[test]
    fn hickory_gets_only_what_it_can_read() {
        for text in [
            "nameserver 10.0.0.2",
            "# Docker\nnameserver 127.0.0.11 # embedded\nsearch . eu-central-1.compute.internal\noptions ndots:0 edns0\n",
            "nameserver fe80::1%eth0\ndomain example.com.\n",
        ] {
            assert!(is_for_hickory(text), "{text}");
        }
        for text in [
            "",
            "\n# nothing\n",
            "search foo\n",
            "#nameserver 10.0.0.2",
            "nameserver",
            "nameserver dns.example\n",
            "nameserver 10.0.0.2 10.0.0.3\n",
            "nameserver 10.0.0.2\noptions ndots:many",
            "nameserver 10.0.0.2\noptions insecure1",
            "nameserver 10.0.0.2\nsearch a..b",
            "nameserver 10.0.0.2\nnonsense",
        ] {
            assert!(!is_for_hickory(text), "{text}");
        }
    }

    #[tokio::test]
    async fn localhost_is_found_without_a_resolver() {
        for name in ["localhost", "LocalHost.", "s3.localhost"] {
            let found = Resolver::System.resolve_dns(name).await.unwrap();
            assert_eq!(found, [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()], "{name}");
        }
        for name in ["localhost.example.com", "notlocalhost", ""] {
            assert!(!is_localhost(name), "{name}");
        }
        assert_eq!(Resolver::System.resolve_dns("127.0.0.1").await.unwrap(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    }
}
