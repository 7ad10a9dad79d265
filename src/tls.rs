//! TLS for clients: rustls on ring, with the machine's root certificates (or those of `SSL_CERT_FILE`), else those
//! built in.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// The certificates to trust. Those built in, Mozilla's, count only where the machine has none, as in an empty
/// container: a machine's own list may leave some out on purpose.
#[must_use]
pub fn roots() -> Vec<CertificateDer<'static>> {
    let native = rustls_native_certs::load_native_certs().certs;
    if native.is_empty() { webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec() } else { native }
}

/// A client's TLS settings with [`roots`], without client certificates.
///
/// # Errors
/// If ring supports none of the default protocol versions, which would be a defect of the build.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    // A machine's list may hold certificates that rustls cannot read; the others count.
    store.add_parsable_certificates(roots());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_trusts_somebody() {
        assert!(!roots().is_empty());
        client_config().unwrap();
    }

    #[test]
    fn the_built_in_roots_can_be_read() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        let (read, ignored) = RootCertStore::empty().add_parsable_certificates(built_in.iter().cloned());
        assert_eq!((read, ignored), (built_in.len(), 0));
    }
}
