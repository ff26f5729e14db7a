//! HTTPS: certificate and key from files, read again when they change; where an authority for clients is set, only those with a
//! certificate of it get in. TLS 1.2 and 1.3.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version};

use crate::tls::{Pem, certificates, facts, private_key, provider};
use crate::watched::Watched;

const CERT: &str = "http.tls_cert_file";
const KEY: &str = "http.tls_key_file";
const CLIENT_CA: &str = "http.tls_client_ca_file";

/// How connections are encrypted. A new certificate counts from the next handshake on.
#[derive(Debug)]
pub(super) struct Tls(Watched<Current>);

/// What counts now.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    ends: SystemTime,
}

impl Tls {
    /// From a certificate chain and its key, and the authority of clients, all PEM.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(super) fn load(chain: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, String> {
        let files = [Some(chain), Some(key), client_ca].into_iter().flatten().map(Path::to_owned).collect();
        Watched::new("certificates of HTTPS", files, |files| read(&files[0], &files[1], files.get(2).map(|file| &**file)))
            .map(Self)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.get().config))
    }

    /// When the certificate in use ends.
    pub(super) fn ends(&self) -> SystemTime {
        self.0.get().ends
    }
}

fn read(chain_file: &Path, key_file: &Path, client_ca: Option<&Path>) -> Result<Current, String> {
    let pem = |path: &Path| Pem::File(path.to_owned());
    let chain = certificates(CERT, &pem(chain_file))?;
    let first = chain.first().ok_or_else(|| format!("{CERT}: {} has no certificate in it", chain_file.display()))?;
    let ends = facts(first).map_err(|error| format!("{CERT}: {error}"))?.ends;
    let key = private_key(KEY, &pem(key_file))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(CLIENT_CA, &pem(file))? {
                roots.add(certificate).map_err(|error| format!("{CLIENT_CA}: {}: {error}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| format!("{CLIENT_CA}: {}: {error}", file.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{CERT}, {KEY}: {} and {} do not fit: {error}", chain_file.display(), key_file.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), ends })
}
