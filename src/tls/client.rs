//! TLS settings of a client: the authorities that it trusts, and the certificate that it presents.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrecy::{ExposeSecret, SecretString};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::pem::{Pem, certificates, private_key};
use super::verify::{Authorities, Trust, Verifier};
use super::{facts, provider};
use crate::watched::Watched;

/// What is verified of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The chain to an authority, and the name of the server.
    Full,
    /// The chain to an authority.
    Chain,
    /// Nothing.
    Nothing,
}

/// The names of the settings, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// What logs call the files.
    pub what: &'static str,
    /// Key of the certificate authority.
    pub ca: &'static str,
    /// Key of the client certificate.
    pub cert: &'static str,
    /// Key of the client's private key.
    pub key: &'static str,
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Certificate authorities, PEM text or a path; `None`: the authorities of the system.
    pub ca: Option<String>,
    /// Certificate chain of the client, PEM text or a path.
    pub cert: Option<String>,
    /// Private key of the client, PEM text or a path.
    pub key: Option<SecretString>,
    /// What is verified of the server's certificate.
    pub verify: Verify,
    /// The names of the settings.
    pub names: Names,
}

/// Options of the handshake that differ between servers.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Versions of TLS that are offered.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Application protocols that are offered (ALPN); empty: none.
    pub alpn: &'static [&'static str],
    /// Whether the name of the server is sent (SNI).
    pub sni: bool,
}

impl Default for Handshake {
    fn default() -> Self {
        Self { versions: vec![&version::TLS13, &version::TLS12], alpn: &[], sni: true }
    }
}

/// The configuration of the next handshake.
#[derive(Clone, Debug)]
pub struct Current {
    /// Configuration for rustls.
    pub config: Arc<ClientConfig>,
    /// When the client certificate expires; `None` where there is none.
    pub ends: Option<SystemTime>,
}

/// TLS of a client, read again when its files change.
#[derive(Debug)]
pub struct ClientTls {
    watched: Watched<Current>,
    server_ends: Arc<AtomicU64>,
}

impl ClientTls {
    /// Reads all files, with the default handshake.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load(settings: ClientSettings) -> Result<Self, String> {
        Self::load_with(settings, Handshake::default())
    }

    /// Reads all files, with this handshake.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load_with(settings: ClientSettings, handshake: Handshake) -> Result<Self, String> {
        let names = settings.names;
        match (&settings.cert, &settings.key) {
            (Some(_), None) => {
                return Err(format!(
                    "{} is set, but {} is not: a client certificate needs its private key",
                    names.cert, names.key
                ));
            }
            (None, Some(_)) => {
                return Err(format!("{} is set, but {} is not: a private key needs its certificate", names.key, names.cert));
            }
            _ => {}
        }
        let given = [settings.ca.as_deref(), settings.cert.as_deref(), settings.key.as_ref().map(|key| key.expose_secret())];
        let files = given.into_iter().flatten().filter_map(|text| Pem::of(text).file().map(PathBuf::from)).collect();
        let server_ends = Arc::new(AtomicU64::new(0));
        let ends = Arc::clone(&server_ends);
        let watched = Watched::new(names.what, files, move |_| read(&settings, &handshake, &ends))?;
        Ok(Self { watched, server_ends })
    }

    /// The configuration of the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.watched.get()
    }

    /// When the certificate expires that a server presented at the last handshake; `None` before the first one.
    #[must_use]
    pub fn server_ends(&self) -> Option<SystemTime> {
        let ends = self.server_ends.load(Ordering::Relaxed);
        (ends > 0).then(|| UNIX_EPOCH + Duration::from_secs(ends))
    }
}

fn read(settings: &ClientSettings, handshake: &Handshake, server_ends: &Arc<AtomicU64>) -> Result<Current, String> {
    let names = settings.names;
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&handshake.versions)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let algorithms = provider.signature_verification_algorithms;
    let authorities = || {
        let (roots, given) = roots(settings)?;
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("{}: {error}", names.ca))?;
        Ok::<_, String>(Authorities { usual, given })
    };
    let trust = match settings.verify {
        Verify::Full => Trust::Full(authorities()?),
        Verify::Chain => Trust::Chain(authorities()?),
        Verify::Nothing => Trust::All,
    };
    let verifier = Arc::new(Verifier { trust, algorithms, ends: Arc::clone(server_ends) });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let (mut config, ends) = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(names.cert, &Pem::of(cert))?;
            let ends = chain
                .first()
                .map(|first| facts(first).map(|facts| facts.ends))
                .transpose()
                .map_err(|error| format!("{}: {error}", names.cert))?;
            let key = private_key(names.key, &Pem::of(key.expose_secret()))?;
            let config = builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("{} and {} do not match: {error}", names.cert, names.key))?;
            (config, ends)
        }
        _ => (builder.with_no_client_auth(), None),
    };
    config.alpn_protocols = handshake.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.enable_sni = handshake.sni;
    Ok(Current { config: Arc::new(config), ends })
}

/// The authorities, and the certificates of `ca` as they were given.
fn roots(settings: &ClientSettings) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &settings.ca else {
        // Certificates that cannot be read are skipped; the others are used.
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(format!(
                "the system has no certificate authorities: install the package ca-certificates, or set {}",
                settings.names.ca
            ));
        }
        return Ok((roots, Vec::new()));
    };
    let given = certificates(settings.names.ca, &Pem::of(ca))?;
    for certificate in &given {
        roots.add(certificate.clone()).map_err(|error| format!("{}: {error}", settings.names.ca))?;
    }
    Ok((roots, given))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { what: "test certificates", ca: "t.ca", cert: "t.cert", key: "t.key" };

    fn settings(ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> ClientSettings {
        let own = |text: Option<&str>| text.map(str::to_owned);
        ClientSettings { ca: own(ca), cert: own(cert), key: key.map(Into::into), verify: Verify::Full, names: NAMES }
    }

    #[test]
    fn halves_and_misfits_are_named() {
        let (a, b) = (made(), made());
        let said = |s: ClientSettings| ClientTls::load(s).unwrap_err();
        assert!(said(settings(Some(&a.0), Some(&a.0), None)).contains("t.key is not"));
        assert!(said(settings(Some(&a.0), None, Some(&a.1))).contains("t.cert is not"));
        assert!(said(settings(Some(&a.0), Some(&a.0), Some(&b.1))).contains("do not match"));
        assert!(said(settings(Some(&a.1), None, None)).contains("t.ca"));
        let good = ClientTls::load(settings(Some(&a.0), Some(&a.0), Some(&a.1))).unwrap();
        assert!(good.current().ends.is_some_and(|ends| ends > SystemTime::now()));
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }
}
