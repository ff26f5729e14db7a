//! Messages for errors of a handshake. `telemetry check` splits a message at its last "; ": what follows is what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// The message for an error of rustls; `ca` and `cert` are the names of the settings for the authority and the client certificate.
#[must_use]
pub fn explain(error: &Error, ca: &str, cert: &str) -> String {
    match error {
        Error::InvalidCertificate(wrong) => certificate(wrong, ca),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                format!("the server wants a client certificate; set {cert} and its key")
            }
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                format!(
                    "the server does not accept our client certificate ({alert:?}); an authority that the server trusts must sign it: check {cert}"
                )
            }
            AlertDescription::CertificateExpired => {
                format!("the server reports that our client certificate has expired; renew {cert}")
            }
            AlertDescription::HandshakeFailure => {
                format!(
                    "the server aborted the TLS handshake; it may require a client certificate ({cert}), or other ciphers or versions of TLS"
                )
            }
            AlertDescription::ProtocolVersion => "the server requires a version of TLS other than 1.2 and 1.3".to_owned(),
            AlertDescription::UnrecognisedName => "the server does not know the name that was sent to it (SNI)".to_owned(),
            other => format!("the server aborted TLS ({other:?})"),
        },
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "the server does not speak TLS on this port; is it the plain port?".to_owned()
        }
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "the server supports neither TLS 1.2 nor TLS 1.3".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(wrong: &CertificateError, ca: &str) -> String {
    match wrong {
        CertificateError::UnknownIssuer => {
            format!("the server's certificate is not signed by an authority we trust; set {ca} to the authority that signed it")
        }
        CertificateError::BadSignature => {
            format!(
                "the server's certificate is not signed by an authority we trust: {ca} has one of the same name, with another key; set it to the \
                 authority that signed the certificate"
            )
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            format!("the server's certificate has expired, {days} days ago; renew it on the server")
        }
        CertificateError::Expired => "the server's certificate has expired; renew it on the server".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet ({wrong}); check the clocks of both sides")
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the server's certificate has no subject alternative names, and a common name does not count; issue a certificate with \
             subject alternative names for the server"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the server's certificate is for another name ({wrong}); connect by a name that it contains, or set the name to verify"
            )
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the server's certificate is itself an authority; use a certificate for the server that an authority has signed, and set {ca} to that authority"
            )
        }
        other => format!("the server's certificate is not valid: {other}"),
    }
}

/// What helps against an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The other side does not speak TLS: the address or the scheme is wrong.
    NotTls,
    /// Waiting: the server's certificate has expired or is not valid yet, and its operators renew it.
    Wait,
    /// Changing the configuration of one side.
    Change,
}

/// What helps against an error.
#[must_use]
pub fn remedy(error: &Error) -> Remedy {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => Remedy::NotTls,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Remedy::Wait,
        _ => Remedy::Change,
    }
}

/// The TLS error inside an I/O error; `None` where there is none.
#[must_use]
pub fn within(error: &io::Error) -> Option<&Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<Error>() {
            return Some(tls);
        }
        cause = inner.source();
    }
    None
}

/// The message of [`explain`] for the TLS error inside an I/O error; `None` where there is none.
#[must_use]
pub fn explain_io(error: &io::Error, ca: &str, cert: &str) -> Option<String> {
    within(error).map(|error| explain(error, ca, cert))
}
