//! HTTPS: certificate and key from files, read again when they change. TLS 1.2 and 1.3.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};

use crate::watched::Watched;

/// How connections are encrypted. A new certificate counts from the next handshake on.
#[derive(Debug)]
pub(super) struct Tls(Watched<ServerConfig>);

impl Tls {
    /// From a certificate chain and its key, both PEM.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(super) fn load(chain: &Path, key: &Path) -> Result<Self, String> {
        Watched::new("certificate and key", vec![chain.to_owned(), key.to_owned()], read).map(Self)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.get())
    }
}

fn read(files: &[PathBuf]) -> Result<ServerConfig, String> {
    let (chain_file, key_file) = (files[0].display(), files[1].display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files[0])
        .and_then(Iterator::collect)
        .map_err(|error| format!("http.tls_cert_file: {chain_file} is no certificate in PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!("http.tls_cert_file: {chain_file} has no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files[1])
        .map_err(|error| format!("http.tls_key_file: {key_file} is no private key in PEM: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("http.tls_cert_file, http.tls_key_file: {chain_file} and {key_file} do not fit: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
