//! What every connection of a transport shares: the configuration, where Redis is, as whom we are there, what was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use secrecy::ExposeSecret;

use super::dial::{self, Encrypt, Fault, Reached};
use super::error::Who;
use super::keys::Keys;
use super::life::Lives;
use super::malformed::Malformed;
use super::spare::Spares;
use super::topology::Topology;
use crate::address::redis::{Address, Endpoint, validate_url};
use crate::tls::{ClientSettings, ClientTls, Names, Verify};
use crate::transport::{Result, TransportError};
use crate::watched::Secret;

const TLS_NAMES: Names = Names { what: "Redis certificates", ca: dial::CA, cert: dial::CERT, key: dial::KEY };

/// What every connection of a transport shares.
pub(super) struct Shared {
    /// The configuration, with the secrets in it.
    pub(super) config: crate::config::Redis,
    /// Where to ask first.
    pub(super) seeds: Vec<Address>,
    /// The seeds, for messages that are about all of it.
    pub(super) endpoint: String,
    /// Database number.
    pub(super) database: u8,
    /// What sentinels call the server.
    pub(super) service: Option<String>,
    /// Key names.
    pub(super) keys: Keys,
    /// Up or down, for the log.
    pub(super) lives: Lives,
    /// Which node has what.
    pub(super) topology: Topology,
    /// Connections that nobody uses yet.
    pub(super) spares: Spares,
    /// Values that were passed over.
    pub(super) malformed: Malformed,
    /// TLS, where it is on.
    pub(super) tls: Option<ClientTls>,
    /// As whom we are there, for messages.
    pub(super) who: Who,
    /// The ACL user.
    pub(super) username: Option<String>,
    /// Its password.
    pub(super) password: Option<Secret>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Shared {
    /// Checks the configuration; no I/O but for certificates.
    pub(super) fn new(config: &crate::config::Redis) -> Result<Self> {
        let bad = |key: &str, why: String| TransportError::Mismatch(format!("redis.{key}: {why}"));
        let endpoint = validate_url(config.url.expose_secret()).map_err(|why| bad("url", why))?;
        let text = endpoint.to_string();
        let Endpoint { seeds, database, username, password, tls, service } = endpoint;
        if config.prefix.is_empty() || config.prefix.contains(['{', '}']) {
            return Err(bad("prefix", "it must not be empty or contain { or }, which name the slot in a cluster".to_owned()));
        }
        let username = config.username.clone().or(username).filter(|name| !name.is_empty());
        let password = config.password.clone().or(password.map(Secret::from));
        if username.is_some() && password.is_none() {
            return Err(bad(
                "url",
                "it has a user but no password; write redis://user:password@host or set REDIS_PASSWORD".to_owned(),
            ));
        }
        let tls = if tls || config.tls.enabled { Some(encrypted(config)?) } else { None };
        Ok(Self {
            config: config.clone(),
            topology: Topology::new(config),
            lives: Lives::default(),
            spares: Spares::default(),
            malformed: Malformed::default(),
            seeds,
            endpoint: text,
            database,
            service,
            keys: Keys::new(&config.prefix),
            tls,
            who: Who {
                user: username.clone().unwrap_or_else(|| "default".to_owned()),
                patterns: format!("~{{{}:*", config.prefix),
            },
            username,
            password,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    /// Not reachable, for this reason.
    pub(super) fn unavailable(&self, reason: impl Into<String>) -> TransportError {
        TransportError::Unavailable { endpoint: self.endpoint.clone(), reason: reason.into() }
    }

    /// Whether a refused password may be due to a sentinel that wants another.
    pub(super) fn may_be_sentinel(&self) -> bool {
        let without = self.config.sentinel_username.is_none() && self.config.sentinel_password.is_none();
        self.service.is_some() || !without || self.seeds.iter().any(|seed| seed.port == 26_379)
    }

    /// How a server is encrypted.
    pub(super) fn encrypt(&self, address: &Address) -> Option<Encrypt> {
        let tls = self.tls.as_ref()?;
        let name = self.config.tls.server_name.clone().unwrap_or_else(|| address.host.clone());
        Some(Encrypt { config: Arc::clone(&tls.current().config), name })
    }

    /// Goes to a server step by step.
    pub(super) async fn dial(&self, address: &Address, reached: &mut Reached) -> std::result::Result<(), Fault> {
        dial::dial(address, self.encrypt(address).as_ref(), self.config.connect_timeout, reached).await
    }

    /// Why a server cannot be reached, in words. What once worked may work again by itself (certificates and passwords are being
    /// renewed on both sides): it is not given up.
    pub(super) async fn diagnose(&self, address: &Address, seen: TransportError) -> TransportError {
        // A silent server costs two of these: one for TLS, one to see whether it is a plain port.
        let patience = self.config.connect_timeout / 3;
        let (mut reached, encrypt) = (Reached::default(), self.encrypt(address));
        let dialed = dial::dial(address, encrypt.as_ref(), patience, &mut reached);
        let fault = tokio::time::timeout(self.config.connect_timeout, dialed).await;
        let endpoint = address.to_string();
        match fault {
            Ok(Err(Fault { reason, passing: true, .. })) => TransportError::Unavailable { endpoint, reason },
            Ok(Err(Fault { reason, passing: false, .. })) => self.lasting(TransportError::Refused { endpoint, reason }),
            Ok(Ok(())) | Err(_) => seen,
        }
    }

    /// What waiting cannot help, unless it has worked before.
    pub(super) fn lasting(&self, error: TransportError) -> TransportError {
        match error {
            TransportError::Refused { endpoint, reason } if self.lives.ever_up() => {
                TransportError::Unavailable { endpoint, reason: format!("{reason} (it was good before: this is tried again)") }
            }
            other => other,
        }
    }

    /// Bytes went over a connection.
    pub(super) fn count(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    /// Bytes sent and received since the start: commands and answers as they are written, without TLS and TCP around them.
    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// When our certificate ends, and that of the server that was reached last.
    pub(super) fn certificates(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        let Some(tls) = &self.tls else { return (None, None) };
        (tls.current().ends, tls.server_ends())
    }
}

fn encrypted(config: &crate::config::Redis) -> Result<ClientTls> {
    let section = &config.tls;
    if section.insecure_skip_verify {
        tracing::warn!(
            "redis.tls.insecure_skip_verify is set: the certificate of Redis is NOT verified, anybody on the way can read and change \
             what is sent; never use it but for trying"
        );
    }
    let settings = ClientSettings {
        ca: section.ca.clone(),
        cert: section.cert.clone(),
        key: section.key.clone(),
        verify: if section.insecure_skip_verify { Verify::Nothing } else { Verify::Full },
        names: TLS_NAMES,
    };
    ClientTls::load(settings).map_err(TransportError::Mismatch)
}
