//! Verification of a server's certificate: against authorities, as a certificate that is its own authority, or with less checks where
//! the settings ask for that. It also records when the certificate expires.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::facts;

/// Which certificates are trusted.
#[derive(Debug)]
pub(super) enum Trust {
    /// Certificates that an authority has signed for the name of the server.
    Full(Authorities),
    /// Certificates that an authority has signed, for any name (libpq's verify-ca).
    Chain(Authorities),
    /// All certificates: the connection is encrypted, but the server may be anyone.
    All,
}

/// The authorities. A certificate that was itself given as an authority is trusted, too: `openssl req -x509` makes such certificates
/// (self-signed, and marked as an authority), and the usual check refuses an authority as a server.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) usual: Arc<WebPkiServerVerifier>,
    pub(super) given: Vec<CertificateDer<'static>>,
}

/// Verifies the certificates of servers, and records when the last one expires (seconds since 1970).
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) ends: Arc<AtomicU64>,
}

impl Authorities {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.given.iter().any(|given| given.as_ref() == end_entity.as_ref()) {
            return self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        // The certificate is trusted itself; its validity and its name remain to be checked.
        let time = facts(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let seconds = |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default());
        let (not_before, not_after) = (seconds(time.begins), seconds(time.ends));
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Ok(facts) = facts(end_entity) {
            self.ends.store(facts.ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), Ordering::Relaxed);
        }
        match &self.trust {
            Trust::Full(authorities) => authorities.check(end_entity, intermediates, server_name, ocsp_response, now),
            Trust::Chain(authorities) => {
                match authorities.check(end_entity, intermediates, server_name, ocsp_response, now) {
                    // The name is checked last: the chain is good.
                    Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                    )) => Ok(ServerCertVerified::assertion()),
                    other => other,
                }
            }
            Trust::All => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
