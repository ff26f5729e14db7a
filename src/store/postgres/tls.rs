//! TLS to PostgreSQL: what the URL and `[postgres.tls]` ask for together, and what is needed to do it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use secrecy::SecretString;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::address::postgres::TlsParameters;
use crate::config::{PostgresTls, SslMode};
use crate::tls::{ClientSettings, ClientTls, Current, Handshake, Names, Verify};

/// Names of settings in messages, where either of two places may be meant.
pub(super) const CA: &str = "sslrootcert (postgres.tls.ca)";
pub(super) const CERT: &str = "sslcert (postgres.tls.cert)";
/// The value of `sslrootcert` that stands for the authorities of the system.
const SYSTEM: &str = "system";

/// How TLS is done. `None` in its place: without TLS.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// Whether TLS begins with the first byte, without asking the server first.
    pub(super) direct: bool,
    /// Whether a client certificate is shown.
    pub(super) shows: bool,
    pub(super) verify: Verify,
    client: ClientTls,
    /// The certificates of the latest handshake, and since when they are in use.
    seen: Mutex<(Arc<Current>, Instant)>,
}

impl Tls {
    /// TLS as the parameters of the URL and the keys of the configuration ask for it together.
    pub(super) fn wanted(asked: TlsParameters, keys: &PostgresTls) -> Result<Option<Self>, String> {
        let mode = one("mode", "sslmode", asked.mode, keys.mode)?;
        let key_of_url = asked.key.clone().map(SecretString::from);
        if key_of_url.is_some() && keys.key.is_some() {
            return Err("sslkey of the database URL and postgres.tls.key are both set: give it in one of the two".to_owned());
        }
        let names = Names {
            what: "certificates of PostgreSQL",
            ca: if asked.ca.is_some() { "sslrootcert" } else { "postgres.tls.ca" },
            cert: if asked.cert.is_some() { "sslcert" } else { "postgres.tls.cert" },
            key: if asked.key.is_some() { "sslkey" } else { "postgres.tls.key" },
        };
        let by_key = keys.ca.is_some();
        let ca = one("ca", "sslrootcert", asked.ca, keys.ca.clone())?;
        let cert = one("cert", "sslcert", asked.cert, keys.cert.clone())?;
        let system = ca.as_deref() == Some(SYSTEM);
        // As libpq has it: `system` alone means the strictest mode, a file alone does not. A key of ours that names an authority is
        // there for no other reason than to have the server verified.
        let mode = mode.unwrap_or(if system || by_key { SslMode::VerifyFull } else { SslMode::Prefer });
        if system && mode < SslMode::VerifyFull {
            return Err(format!(
                "sslmode={} is too weak for the authorities of the system, which sign for everybody; use sslmode=verify-full",
                mode.name()
            ));
        }
        let direct = asked.direct.unwrap_or_default();
        if direct && mode < SslMode::Require {
            return Err(format!(
                "sslnegotiation=direct leaves no way without TLS, and sslmode is {}; use require or stricter",
                mode.name()
            ));
        }
        if mode == SslMode::VerifyCa && ca.is_none() {
            return Err(
                "sslmode=verify-ca needs the authority that signed the server's certificate: set sslrootcert or postgres.tls.ca \
                        (or use verify-full, which takes those of the system, too)"
                    .to_owned(),
            );
        }
        if mode == SslMode::Disable {
            return Ok(None);
        }
        let verify = match mode {
            SslMode::VerifyFull => Verify::Full,
            _ if ca.is_some() => Verify::Chain,
            _ => Verify::Nothing,
        };
        let shows = cert.is_some();
        let settings =
            ClientSettings { ca: ca.filter(|_| !system), cert, key: key_of_url.or_else(|| keys.key.clone()), verify, names };
        let handshake = Handshake {
            versions: if asked.newest == Some(true) { vec![&TLS13] } else { vec![&TLS13, &TLS12] },
            alpn: &["postgresql"],
            sni: asked.sni.unwrap_or(true),
        };
        let client = ClientTls::load_with(settings, handshake)?;
        let seen = Mutex::new((client.current(), Instant::now()));
        Ok(Some(Self { mode, direct, shows, verify, client, seen }))
    }

    /// What is weak about this configuration, and what to do.
    pub(super) fn warning(&self) -> Option<&'static str> {
        match self.mode {
            SslMode::Require if self.verify == Verify::Nothing => Some(
                "sslmode=require without sslrootcert encrypts and does not verify the server, so that anybody on the network can pose as \
                 it: use verify-full",
            ),
            mode if mode < SslMode::Require && self.verify != Verify::Nothing => Some(
                "sslrootcert is set, and sslmode also accepts connections without TLS, which anybody on the network can bring about: use \
                 verify-full",
            ),
            _ => None,
        }
    }

    /// The certificates for the next handshake.
    pub(super) fn current(&self) -> Arc<Current> {
        let current = self.client.current();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&seen.0, &current) {
            *seen = (Arc::clone(&current), Instant::now());
        }
        current
    }

    /// Since when the current certificates are in use: older connections were made with others.
    pub(super) fn since(&self) -> Instant {
        self.current();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// When the client certificate expires.
    pub(super) fn ends(&self) -> Option<SystemTime> {
        self.current().ends
    }

    /// The connector that the PostgreSQL client takes.
    pub(super) fn connector(current: &Current) -> MakeRustlsConnect {
        MakeRustlsConnect::new((*current.config).clone())
    }
}

/// The value of a setting that may be given in the URL, in the configuration, or the same in both.
fn one<T: PartialEq>(key: &str, parameter: &str, asked: Option<T>, set: Option<T>) -> Result<Option<T>, String> {
    match (asked, set) {
        (Some(asked), Some(set)) if asked != set => Err(format!(
            "{parameter} of the database URL and postgres.tls.{key} are both set, and differ: give it in one of the two"
        )),
        (Some(value), _) | (None, Some(value)) => Ok(Some(value)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of the parameters of a URL and of keys; `CA` stands for an authority.
    fn wanted(parameters: &str, keys: &PostgresTls) -> Result<Option<(SslMode, Verify)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority()).unwrap();
        let parameters = parameters.replace("CA", file.path().to_str().unwrap());
        let (_, _, asked) = crate::address::postgres::parse(&format!("postgres://h/t?{parameters}"))?;
        Tls::wanted(asked, keys).map(|tls| tls.map(|tls| (tls.mode, tls.verify)))
    }

    fn authority() -> String {
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn modes_mean_what_they_mean_to_libpq() {
        use SslMode::{Allow, Prefer, Require, VerifyCa, VerifyFull};
        let none = PostgresTls::default();
        for (parameters, expected) in [
            ("", Some((Prefer, Verify::Nothing))),
            ("sslmode=disable", None),
            ("sslmode=disable&sslrootcert=CA", None),
            ("sslmode=allow", Some((Allow, Verify::Nothing))),
            ("sslmode=require", Some((Require, Verify::Nothing))),
            ("sslrootcert=CA", Some((Prefer, Verify::Chain))),
            ("sslmode=require&sslrootcert=CA", Some((Require, Verify::Chain))),
            ("sslmode=verify-ca&sslrootcert=CA", Some((VerifyCa, Verify::Chain))),
            ("sslmode=verify-full&sslrootcert=CA&sslnegotiation=direct", Some((VerifyFull, Verify::Full))),
        ] {
            assert_eq!(wanted(parameters, &none), Ok(expected), "{parameters}");
        }
        for (parameters, says) in [
            ("sslmode=verify-ca", "sslrootcert"),
            ("sslmode=verify-ca&sslrootcert=system", "verify-full"),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("sslnegotiation=direct", "prefer"),
            ("sslmode=disable&sslnegotiation=direct", "disable"),
            ("sslmode=verify-full&sslrootcert=/does/not/exist", "sslrootcert: /does/not/exist cannot be read"),
            ("sslmode=require&sslcert=CA", "sslcert is set and postgres.tls.key is not"),
        ] {
            let said = wanted(parameters, &none).unwrap_err();
            assert!(said.contains(says), "{parameters}: {said}");
        }
    }

    #[test]
    fn keys_add_to_the_url_and_do_not_contradict_it() {
        let keys = PostgresTls { ca: Some(authority()), ..PostgresTls::default() };
        assert_eq!(wanted("", &keys), Ok(Some((SslMode::VerifyFull, Verify::Full))));
        assert_eq!(wanted("sslmode=verify-ca", &keys), Ok(Some((SslMode::VerifyCa, Verify::Chain))));
        assert!(wanted("sslrootcert=CA", &keys).unwrap_err().contains("postgres.tls.ca"));
        let keys = PostgresTls { mode: Some(SslMode::Require), ..PostgresTls::default() };
        assert_eq!(wanted("sslmode=require", &keys), Ok(Some((SslMode::Require, Verify::Nothing))));
        assert!(wanted("sslmode=verify-full", &keys).unwrap_err().contains("postgres.tls.mode"));
    }
}
