//! How a connection is made: host after host, with TLS as it is wanted, with the newest certificates and password there are.
//!
//! The client knows three of libpq's modes. What `allow` and `prefer` add (another attempt without TLS, or with it) is done here,
//! host by host, and so is that TLS is not for Unix sockets.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::Connect;
use rand::seq::SliceRandom as _;
use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode as Wire, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Error, NoTls, Socket};

use super::error::{Login, is_refusal, is_tls, was_cut_off};
use super::tls::Tls;
use crate::address::postgres::{Endpoint, parse};
use crate::config::{Postgres, SslMode};
use crate::watched::Secret;

/// Further attempts at a handshake that broke: a server that rejects the client certificate says so after its side of the handshake,
/// and the message can be lost with the connection.
const HANDSHAKE_RETRIES: u32 = 2;

/// A client and the task that drives its connection.
type Connected = (Client, JoinHandle<()>);

/// Makes connections. Clones share everything.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    /// The client's configuration without hosts.
    base: Config,
    targets: Vec<Target>,
    random: bool,
    endpoint: Arc<Endpoint>,
    tls: Option<Tls>,
    password: Option<Secret>,
    /// How long connecting to one host may take.
    timeout: Duration,
    /// Whether a connection was ever made: then a refusal may be a rotation that has reached one side only.
    worked: AtomicBool,
}

/// One host to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The host's name, or the directory of its socket.
    pub(super) host: Option<Host>,
    /// The host's address (`hostaddr`), where the name is not to be resolved.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Connector {
    /// A connector for a configuration. Files are read, nothing is connected.
    pub(super) fn new(config: &Postgres) -> Result<Self, String> {
        let (parsed, endpoint, asked) = parse(config.url.expose_secret())?;
        let tls = Tls::wanted(asked, &config.tls)?;
        let targets = targets(&parsed);
        let random = parsed.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let base = base(&parsed, config.connect_timeout);
        Ok(Self(Arc::new(Inner {
            base,
            targets,
            random,
            endpoint: Arc::new(endpoint),
            tls,
            password: config.password.clone(),
            timeout: config.connect_timeout,
            worked: AtomicBool::new(false),
        })))
    }

    /// The hosts and the database, without secrets.
    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.0.endpoint)
    }

    /// The client's configuration, as the pool asks for it.
    pub(super) fn config(&self) -> Config {
        self.0.base.clone()
    }

    /// How long connecting may take, all hosts together.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout.saturating_mul(u32::try_from(self.0.targets.len()).unwrap_or(u32::MAX).max(1))
    }

    /// What is weak about how it connects, and what to do.
    pub(super) fn warning(&self) -> Option<&'static str> {
        self.0.tls.as_ref().and_then(Tls::warning)
    }

    /// When the client certificate expires.
    pub(super) fn certificate_ends(&self) -> Option<SystemTime> {
        self.0.tls.as_ref().and_then(Tls::ends)
    }

    /// Connections made before this time were made with certificates that have been replaced.
    pub(super) fn stale_before(&self) -> Option<Instant> {
        self.0.tls.as_ref().map(Tls::since)
    }

    /// Notes that a connection was made and accepted.
    pub(super) fn has_worked(&self) {
        self.0.worked.store(true, Ordering::Relaxed);
    }

    /// What a login is made with.
    pub(super) fn login(&self) -> Login {
        Login {
            certificate: self.0.tls.as_ref().is_some_and(|tls| tls.shows),
            direct: self.0.tls.as_ref().is_some_and(|tls| tls.direct),
            worked: self.0.worked.load(Ordering::Relaxed),
            password_can_change: self.0.password.as_ref().is_some_and(Secret::can_change),
        }
    }

    /// The hosts, in the order they are given.
    pub(super) fn targets(&self) -> &[Target] {
        &self.0.targets
    }

    /// How TLS is done; `None`: without TLS.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_ref()
    }

    /// The TLS mode and the user, in words.
    pub(super) fn describe(&self) -> String {
        let mode = self.0.tls.as_ref().map_or(SslMode::Disable, |tls| tls.mode);
        let user = self.0.base.get_user().map_or_else(String::new, |user| format!(" as {user}"));
        format!("sslmode={}{user}", mode.name())
    }

    /// Connects to the first host that accepts the connection.
    pub(super) async fn connect_any(&self) -> Result<Connected, Error> {
        let mut order: Vec<&Target> = self.0.targets.iter().collect();
        if self.0.random {
            order.shuffle(&mut rand::rng());
        }
        let mut kept: Option<Error> = None;
        let last = order.len().saturating_sub(1);
        for (at, target) in order.into_iter().enumerate() {
            let attempt = self.0.reach(target);
            let outcome = if at == last {
                attempt.await
            } else {
                let Ok(outcome) = tokio::time::timeout(self.0.timeout, attempt).await else { continue };
                outcome
            };
            match outcome {
                Ok(made) => return Ok(made),
                // What a person has to put right is said before what may pass.
                Err(error) if kept.as_ref().is_none_or(|kept| !is_refusal(kept)) => kept = Some(error),
                Err(_) => {}
            }
        }
        match kept {
            Some(error) => Err(error),
            // The last one is the one that is left to the pool's time limit.
            None => std::future::pending().await,
        }
    }
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send + '_>> {
        Box::pin(self.connect_any())
    }
}

impl Inner {
    /// Connects to a host in the ways that the mode allows.
    async fn reach(&self, target: &Target) -> Result<Connected, Error> {
        let Some(tls) = self.tls.as_ref().filter(|_| target.name().is_some()) else {
            return self.log_in(target, None, Wire::Disable).await;
        };
        match tls.mode {
            SslMode::Allow => {
                let error = match self.log_in(target, None, Wire::Disable).await {
                    Err(error) if error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => error,
                    other => return other,
                };
                let again = self.log_in(target, Some(tls), Wire::Require).await;
                // A server without TLS has said before why it does not take us.
                again.map_err(|again| if is_tls(&again) { error } else { again })
            }
            SslMode::Prefer => {
                let error = match self.log_in(target, Some(tls), Wire::Prefer).await {
                    Err(error) if is_tls(&error) || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => error,
                    other => return other,
                };
                let again = self.log_in(target, None, Wire::Disable).await;
                again.map_err(|again| {
                    let no_better = again.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
                    if no_better { error } else { again }
                })
            }
            _ => self.log_in(target, Some(tls), Wire::Require).await,
        }
    }

    /// Connects with the password there is; where it is refused, with the one that the file has by now.
    async fn log_in(&self, target: &Target, tls: Option<&Tls>, mode: Wire) -> Result<Connected, Error> {
        let Some(secret) = &self.password else { return self.handshake(target, tls, mode, None).await };
        let used = secret.get();
        let refused = match self.handshake(target, tls, mode, Some(&used)).await {
            Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => error,
            other => return other,
        };
        match secret.other_than(&used) {
            Some(other) => self.handshake(target, tls, mode, Some(&other)).await,
            None => Err(refused),
        }
    }

    async fn handshake(
        &self,
        target: &Target,
        tls: Option<&Tls>,
        mode: Wire,
        password: Option<&SecretString>,
    ) -> Result<Connected, Error> {
        let mut config = self.base.clone();
        target.set(&mut config);
        config.ssl_mode(mode);
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        let Some(tls) = tls else { return open(&config, NoTls).await };
        if tls.direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        let mut asked = 0;
        loop {
            let current = tls.current();
            match open(&config, Tls::connector(&current)).await {
                // Certificates that were replaced meanwhile: the connection would count as one with the new ones.
                Ok(_) if !Arc::ptr_eq(&current, &tls.current()) => {}
                Err(error) if tls.shows && asked < HANDSHAKE_RETRIES && was_cut_off(&error) => asked += 1,
                outcome => return outcome,
            }
        }
    }
}

impl Target {
    /// The name by which it is reached and verified; `None`: it is a socket of this machine.
    pub(super) fn name(&self) -> Option<String> {
        match (&self.host, self.address) {
            (Some(Host::Tcp(name)), _) => Some(name.clone()),
            // The name to verify is the address.
            (_, Some(address)) => Some(address.to_string()),
            _ => None,
        }
    }

    fn set(&self, config: &mut Config) {
        match (self.name(), &self.host) {
            (Some(name), _) => {
                config.host(name);
            }
            #[cfg(unix)]
            (None, Some(Host::Unix(path))) => {
                config.host_path(path);
            }
            _ => {}
        }
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        config.port(self.port);
    }
}

/// The hosts of a URL, each with its address and port.
fn targets(config: &Config) -> Vec<Target> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    (0..hosts.len().max(addresses.len()))
        .map(|at| Target {
            host: hosts.get(at).cloned(),
            address: addresses.get(at).copied(),
            port: ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432),
        })
        .collect()
}

/// The client's configuration without hosts: from the URL, with the settings of this program.
fn base(parsed: &Config, timeout: Duration) -> Config {
    let mut base = Config::new();
    if let Some(user) = parsed.get_user() {
        base.user(user);
    }
    if let Some(password) = parsed.get_password() {
        base.password(password);
    }
    if let Some(database) = parsed.get_dbname() {
        base.dbname(database);
    }
    if let Some(options) = parsed.get_options() {
        base.options(options);
    }
    base.application_name(parsed.get_application_name().unwrap_or("telemetry"))
        .target_session_attrs(parsed.get_target_session_attrs())
        .channel_binding(parsed.get_channel_binding())
        .connect_timeout(timeout)
        .tcp_user_timeout(timeout.max(super::pool::GRACE))
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3);
    base
}

/// Opens a connection and drives it, for as long as the client is there.
async fn open<T>(config: &Config, tls: T) -> Result<Connected, Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: TlsStream + Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok((client, driver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_their_own_addresses_and_ports() {
        let of = |url: &str| targets(&parse(url).unwrap().0);
        let tcp = |name: &str, port| Target { host: Some(Host::Tcp(name.to_owned())), address: None, port };
        assert_eq!(of("postgres://u@a:1,b:2/t"), [tcp("a", 1), tcp("b", 2)]);
        assert_eq!(of("host=a,b port=6000 dbname=t"), [tcp("a", 6000), tcp("b", 6000)]);
        let both = &of("host=a,b hostaddr=127.0.0.1,::1 dbname=t")[1];
        assert_eq!((both.host.clone(), both.address), (tcp("b", 1).host, "::1".parse().ok()));
        assert_eq!(of("postgres://u@%2Frun%2Fpg,b/t")[0].host, Some(Host::Unix("/run/pg".into())));
    }
}
