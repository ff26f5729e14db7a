//! What a client trusts and shows.

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

/// How closely the server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Who signed it, and whether it names the server.
    Full,
    /// Who signed it.
    Chain,
    /// Not at all.
    Nothing,
}

/// What the settings are called, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// What logs call the files.
    pub what: &'static str,
    /// The certificate authority.
    pub ca: &'static str,
    /// The client's certificate.
    pub cert: &'static str,
    /// Its key.
    pub key: &'static str,
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Certificate authorities, PEM text or a path; the system's where there are none.
    pub ca: Option<String>,
    /// The client's certificate chain.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<SecretString>,
    /// How closely the server is looked at.
    pub verify: Verify,
    /// What the settings are called.
    pub names: Names,
}

/// How the handshake is made, where it is not the usual way.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Versions of TLS.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// What is to be spoken (ALPN); empty: that is not said.
    pub alpn: &'static [&'static str],
    /// Whether the server is told the name that it was asked for (SNI).
    pub sni: bool,
}

impl Default for Handshake {
    fn default() -> Self {
        Self { versions: vec![&version::TLS13, &version::TLS12], alpn: &[], sni: true }
    }
}

/// What counts for the next handshake.
#[derive(Clone, Debug)]
pub struct Current {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// When the certificate that the client shows ends.
    pub ends: Option<SystemTime>,
}

/// A client's TLS, read again when its files change.
#[derive(Debug)]
pub struct ClientTls {
    watched: Watched<Current>,
    server_ends: Arc<AtomicU64>,
}

impl ClientTls {
    /// Reads everything once.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load(settings: ClientSettings) -> Result<Self, String> {
        Self::load_with(settings, Handshake::default())
    }

    /// The same, with a handshake of one's own.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load_with(settings: ClientSettings, handshake: Handshake) -> Result<Self, String> {
        let names = settings.names;
        match (&settings.cert, &settings.key) {
            (Some(_), None) => {
                return Err(format!("{} is set and {} is not: a client certificate needs its key", names.cert, names.key));
            }
            (None, Some(_)) => {
                return Err(format!("{} is set and {} is not: a key needs its certificate", names.key, names.cert));
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

    /// What counts now.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.watched.get()
    }

    /// When the certificate ends that a server showed last; `None` before the first handshake.
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
        Verify::Nothing => Trust::Anybody,
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
                .map_err(|error| format!("{} and {} do not fit: {error}", names.cert, names.key))?;
            (config, ends)
        }
        _ => (builder.with_no_client_auth(), None),
    };
    config.alpn_protocols = handshake.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.enable_sni = handshake.sni;
    Ok(Current { config: Arc::new(config), ends })
}

/// The authorities, and the certificates as they were given.
fn roots(settings: &ClientSettings) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &settings.ca else {
        // One that cannot be read keeps nobody from using the others.
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(format!(
                "the system has no certificate authorities (package ca-certificates); install them or set {}",
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
        assert!(said(settings(Some(&a.0), Some(&a.0), Some(&b.1))).contains("do not fit"));
        assert!(said(settings(Some(&a.1), None, None)).contains("t.ca"));
        let good = ClientTls::load(settings(Some(&a.0), Some(&a.0), Some(&a.1))).unwrap();
        assert!(good.current().ends.is_some_and(|ends| ends > SystemTime::now()));
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }
}
