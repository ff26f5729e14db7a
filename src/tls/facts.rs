//! The fields of a certificate that messages, checks and metrics show.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The fields of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The subject.
    pub subject: String,
    /// The issuer, which has signed it.
    pub issuer: String,
    /// DNS names and IP addresses that it is valid for.
    pub names: Vec<String>,
    /// Beginning of its validity (not before).
    pub begins: SystemTime,
    /// End of its validity (not after).
    pub ends: SystemTime,
}

impl Facts {
    /// Whole days until it expires, rounded down; negative when it has expired.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        const DAY: u64 = 86_400;
        match self.ends.duration_since(now) {
            Ok(left) => i64::try_from(left.as_secs() / DAY).unwrap_or(i64::MAX),
            Err(over) => -i64::try_from(over.duration().as_secs() / DAY + 1).unwrap_or(i64::MAX),
        }
    }
}

/// Reads a certificate (DER).
///
/// # Errors
/// Why it cannot be read.
pub fn facts(der: &[u8]) -> Result<Facts, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| format!("it is not an X.509 certificate: {error}"))?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(name).collect(),
        _ => Vec::new(),
    };
    let time = |seconds: i64| match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    };
    Ok(Facts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names,
        begins: time(certificate.validity().not_before.timestamp()),
        ends: time(certificate.validity().not_after.timestamp()),
    })
}

/// The DNS, URI and e-mail names of a certificate (DER); empty where it cannot be read.
#[must_use]
pub fn alternative_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_its_names_and_days() {
        let mut params = rcgen::CertificateParams::new(vec!["redis.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let facts = facts(made.der()).unwrap();
        assert_eq!(facts.names, ["redis.example", "10.0.0.1"]);
        assert_eq!(facts.days_left(facts.ends - Duration::from_secs(2 * 86_400 + 5)), 2);
        assert_eq!(facts.days_left(facts.ends + Duration::from_secs(5)), -1);
        assert!(super::facts(b"nonsense").is_err());
    }
}
