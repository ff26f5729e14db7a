//! What went wrong in a handshake, in words that say what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// An error of rustls; `ca` and `cert` are what the settings for the authority and the client's certificate are called.
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
                    "the server does not accept our client certificate ({alert:?}); it must be signed by an authority that the server knows: check {cert}"
                )
            }
            AlertDescription::CertificateExpired => {
                format!("the server says that our client certificate has expired; renew {cert}")
            }
            AlertDescription::HandshakeFailure => {
                format!(
                    "the server broke off the TLS handshake; it may want a client certificate ({cert}), or other ciphers or versions of TLS"
                )
            }
            AlertDescription::ProtocolVersion => "the server wants another version of TLS than 1.2 or 1.3".to_owned(),
            AlertDescription::UnrecognisedName => "the server does not know the name it was asked for (SNI)".to_owned(),
            other => format!("the server broke off TLS ({other:?})"),
        },
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "what answers there does not speak TLS; is it a plain port?".to_owned()
        }
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "the server speaks neither TLS 1.2 nor 1.3".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(wrong: &CertificateError, ca: &str) -> String {
    match wrong {
        CertificateError::UnknownIssuer => {
            format!("the server's certificate is not signed by an authority we trust; {ca} must have the one that signed it")
        }
        CertificateError::BadSignature => {
            format!(
                "the server's certificate is not signed by an authority we trust: {ca} has one of the same name, with another key; it must \
                 have the one that signed it"
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
            "the server's certificate is for no name: it has at most a common name, and what counts are subject alternative names; make \
             one with them on the server"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the server's certificate is for another name ({wrong}); connect by a name that is in it, or set the name to verify"
            )
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the server's own certificate is marked as an authority; {ca} must have the authority that signs server certificates, and the server one that it signed"
            )
        }
        other => format!("the server's certificate is not good: {other}"),
    }
}

/// What an error calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The other side does not speak TLS at all.
    NotTls,
    /// Waiting: a certificate of the server that has run out, or is not valid yet, is for its people to renew.
    Wait,
    /// Changing the configuration of one side.
    Change,
}

/// What an error calls for.
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

/// The error of TLS in an error of a stream, if there is one.
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

/// As [`explain`], of an error of a stream; `None` where it has nothing of TLS in it.
#[must_use]
pub fn explain_io(error: &io::Error, ca: &str, cert: &str) -> Option<String> {
    within(error).map(|error| explain(error, ca, cert))
}
