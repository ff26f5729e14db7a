//! HTTPS: certificate and key from files, read again when they change; where an authority for clients is set, only those with a
//! certificate of it get in. TLS 1.2 and 1.3.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use glob::{MatchOptions, Pattern};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version};

use super::auth::Certificate;
use crate::config::{Authentication, Http};
use crate::tls::{Pem, alternative_names, certificates, facts, private_key, provider};
use crate::watched::Watched;

const CERT: &str = "http.tls_cert_file";
const KEY: &str = "http.tls_key_file";
const CLIENT_CA: &str = "http.tls_client_ca_file";

/// How connections are encrypted. A new certificate counts from the next handshake on.
#[derive(Debug)]
pub(super) struct Tls {
    current: Watched<Current>,
    /// Which clients' certificates may read; `None` = all that the handshake accepts.
    names: Option<Vec<Pattern>>,
}

/// The certificate and key that are in use.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    ends: SystemTime,
}

/// What clients have to show.
#[derive(Debug)]
pub(super) struct ClientAuth {
    authority: PathBuf,
    /// A client may show no certificate: it has a token instead.
    optional: bool,
    names: Vec<String>,
}

impl ClientAuth {
    /// As configured; `None` where no certificates are asked for.
    pub(super) fn of(config: &Http) -> Option<Self> {
        let authority = config.tls_client_ca_file.clone()?;
        let optional = config.tokens_file.is_some() && config.authentication == Authentication::Any;
        Some(Self { authority, optional, names: config.tls_client_names.clone() })
    }
}

impl Tls {
    /// From a certificate chain and its key, and what clients have to show, all PEM.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(super) fn load(chain: &Path, key: &Path, clients: Option<ClientAuth>) -> Result<Self, String> {
        let names =
            clients.as_ref().filter(|clients| !clients.names.is_empty()).map(|clients| patterns(&clients.names)).transpose()?;
        let optional = clients.as_ref().is_some_and(|clients| clients.optional);
        let authority = clients.map(|clients| clients.authority);
        let files = [Some(chain.to_owned()), Some(key.to_owned()), authority].into_iter().flatten().collect();
        let read = move |files: &[PathBuf]| read(&files[0], &files[1], files.get(2).map(|file| &**file), optional);
        Ok(Self { current: Watched::new("certificates of HTTPS", files, read)?, names })
    }

    /// What a client's certificate, which the handshake has verified, is good for.
    pub(super) fn certificate(&self, chain: Option<&[CertificateDer<'_>]>) -> Certificate {
        let Some(own) = chain.and_then(<[_]>::first) else { return Certificate::None };
        let Some(patterns) = &self.names else { return Certificate::Accepted };
        let names = alternative_names(own);
        let any_case = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        // Names of hosts are the same in any case, paths of URIs are not.
        let options = |name: &str| if name.contains("://") { MatchOptions::new() } else { any_case };
        let accepted = names.iter().any(|name| patterns.iter().any(|pattern| pattern.matches_with(name, options(name))));
        if accepted { Certificate::Accepted } else { Certificate::OtherName }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.get().config))
    }

    /// When the certificate in use ends.
    pub(super) fn ends(&self) -> SystemTime {
        self.current.get().ends
    }
}

/// Only `*` stands for something else.
fn patterns(names: &[String]) -> Result<Vec<Pattern>, String> {
    let pattern = |name: &String| {
        let parts: Vec<String> = name.split('*').map(Pattern::escape).collect();
        Pattern::new(&parts.join("*")).map_err(|error| format!("http.tls_client_names: `{name}`: {error}"))
    };
    names.iter().map(pattern).collect()
}

fn read(chain_file: &Path, key_file: &Path, client_ca: Option<&Path>, optional: bool) -> Result<Current, String> {
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
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| format!("{CLIENT_CA}: {}: {error}", file.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{CERT}, {KEY}: {} and {} do not fit: {error}", chain_file.display(), key_file.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), ends })
}
