//! One connection: made, checked, used, ended.
//!
//! A [`Conn`] is one TCP connection and never reconnects: what was sent over it is answered over it or fails. So nothing that was
//! meant for one primary can reach another. Making a new one is the business of [`super::link::Link`].

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, ReplicaConfig, ServerConfig, TcpConfig, UnresponsiveConfig,
};
use fred::types::{ClusterHash, CustomCommand, RespVersion, Value};
use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use secrecy::ExposeSecret;
use socket2::TcpKeepalive;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Asked, Who, ends_connection, explain};
use super::keys::Keys;
use super::life::Life;
use super::reply;
use super::script::{self, Script};
use super::url::{Endpoint, validate_url};
use crate::transport::{Result, TransportError};

/// What every connection of a transport shares.
pub(super) struct Shared {
    /// The configuration, with the secrets in it.
    pub(super) config: crate::config::Redis,
    /// host:port.
    pub(super) endpoint: String,
    /// Key names.
    pub(super) keys: Keys,
    /// Up or down, for the log.
    pub(super) life: Life,
    who: Who,
    fred: Config,
}

impl Shared {
    /// Checks the configuration; no I/O.
    pub(super) fn new(config: &crate::config::Redis) -> Result<Self> {
        let bad = |key: &str, why: String| TransportError::Mismatch(format!("redis.{key}: {why}"));
        let Endpoint { host, port, database, username, password } =
            validate_url(config.url.expose_secret()).map_err(|why| bad("url", why))?;
        if config.prefix.is_empty() || config.prefix.contains(['{', '}']) {
            return Err(bad("prefix", "it must not be empty or contain { or }, which name the slot in a cluster".to_owned()));
        }
        if config.partitions == 0 {
            return Err(bad("partitions", "there must be at least one".to_owned()));
        }
        let username = config.username.clone().or(username).filter(|name| !name.is_empty());
        let password = config.password.clone().or(password);
        if username.is_some() && password.is_none() {
            return Err(bad(
                "url",
                "it has a user but no password; write redis://user:password@host or set REDIS_PASSWORD".to_owned(),
            ));
        }
        let endpoint = Endpoint { host: host.clone(), port, database, username: None, password: None }.to_string();
        let fred = Config {
            fail_fast: true,
            username: username.clone(),
            password: password.map(|p| p.expose_secret().to_owned()),
            server: ServerConfig::new_centralized(host, port),
            version: RespVersion::RESP3,
            database: (database > 0).then_some(database),
            ..Config::default()
        };
        Ok(Self {
            config: config.clone(),
            life: Life::new(endpoint.clone()),
            endpoint,
            keys: Keys::new(&config.prefix),
            who: Who {
                user: username.unwrap_or_else(|| "default".to_owned()),
                patterns: format!("~{{{0}:* ~{0}:*", config.prefix),
            },
            fred,
        })
    }

    fn explain(&self, asked: &Asked, error: &Error) -> TransportError {
        explain(&self.endpoint, &self.who, asked, error)
    }

    /// Not reachable, for this reason.
    pub(super) fn unavailable(&self, reason: impl Into<String>) -> TransportError {
        TransportError::Unavailable { endpoint: self.endpoint.clone(), reason: reason.into() }
    }

    fn client(&self) -> Client {
        let connection = ConnectionConfig {
            connection_timeout: self.config.connect_timeout,
            internal_command_timeout: self.config.connect_timeout,
            // A command that was written and not answered may have been done: we find out, the client must not guess.
            max_command_attempts: 1,
            max_redirections: 1,
            unresponsive: UnresponsiveConfig::default(),
            disable_cluster_health_check: true,
            replica: ReplicaConfig { lazy_connections: true, ignore_reconnection_errors: true, ..ReplicaConfig::default() },
            tcp: TcpConfig {
                nodelay: Some(true),
                keepalive: Some(TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5))),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        };
        let performance =
            PerformanceConfig { default_command_timeout: self.config.command_timeout, ..PerformanceConfig::default() };
        Client::new(self.fred.clone(), Some(performance), Some(connection), None)
    }
}

/// A connection. Ends when dropped; calls that wait then fail.
pub(super) struct Conn {
    wire: Arc<Wire>,
    client: Client,
    /// Identifies the server's process: another one after a restart, or when an address leads elsewhere.
    pub(super) run_id: String,
}

/// What a call needs of its connection while it waits.
struct Wire {
    shared: Arc<Shared>,
    closed: CancellationToken,
    made: Instant,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.wire.closed.cancel();
    }
}

impl Conn {
    /// Connects and checks who answers: version, kind of server, number of partitions. Loads the scripts.
    pub(super) async fn open(shared: &Arc<Shared>) -> Result<Self> {
        let asked = Asked { command: "HELLO", script: None, keys: Vec::new() };
        let client = shared.client();
        let mut up = client.reconnect_rx();
        let mut task = client.connect();
        let outcome = tokio::time::timeout(shared.config.connect_timeout * 2, async {
            tokio::select! {
                up = up.recv() => up.map(|_| ()).map_err(|_| Error::new(ErrorKind::Canceled, "")),
                ended = &mut task => match ended {
                    Ok(Err(error)) => Err(error),
                    _ => Err(Error::new(ErrorKind::IO, "the connection was closed while it was made")),
                },
            }
        })
        .await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                task.abort();
                if matches!(error.kind(), ErrorKind::Timeout) {
                    return Err(shared.unavailable("no answer in time to the connection attempt"));
                }
                return Err(shared.explain(&asked, &error));
            }
            Err(_) => {
                task.abort();
                return Err(shared.unavailable("no answer in time to the connection attempt"));
            }
        }

        let closed = CancellationToken::new();
        let ended = closed.clone();
        // Lives as long as the connection, which ends it.
        tokio::spawn(async move {
            tokio::select! {
                _ = &mut task => {}
                () = ended.cancelled() => task.abort(),
            }
            ended.cancel();
        });
        let wire = Arc::new(Wire { shared: shared.clone(), closed, made: Instant::now() });
        let mut conn = Self { wire, client, run_id: String::new() };
        conn.check().await?;
        shared.life.connected(conn.wire.made);
        Ok(conn)
    }

    async fn check(&mut self) -> Result<()> {
        let refused = |reason: String| TransportError::Refused { endpoint: self.wire.shared.endpoint.clone(), reason };
        let info = reply::text(&self.call("INFO", vec!["server".into()]).await?)?;
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
        if field("redis_mode") == "cluster" {
            return Err(refused(
                "it is a Redis Cluster, which is not yet supported in this version; use a single server".to_owned(),
            ));
        }
        if field("redis_mode") == "sentinel" {
            return Err(refused(
                "it is a Sentinel, which is not yet supported in this version; use the address of the server".to_owned(),
            ));
        }
        let version = field("redis_version");
        let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 2) {
            return Err(refused(format!("its version is {version}; 6.2 or newer is needed")));
        }
        let run_id = field("run_id").to_owned();
        try_join_all(script::ALL.iter().map(|s| self.call("SCRIPT", vec!["LOAD".into(), s.text.into()]))).await?;
        self.check_partitions().await?;
        self.run_id = run_id;
        Ok(())
    }

    /// Compares the number of partitions with the one that Redis keeps, and writes it if Redis has none (at first use, and after
    /// it lost everything).
    pub(super) async fn check_partitions(&self) -> Result<()> {
        let shared = &self.wire.shared;
        let (key, ours) = (shared.keys.meta(), shared.config.partitions);
        let known = self.run(&script::ONCE, vec![key.clone()], vec!["partitions".into(), ours.to_string().into()]).await;
        let known = match known {
            Ok(known) => reply::text(&known)?,
            // A full Redis that has no number yet: it is written another time.
            Err(TransportError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if known == ours.to_string() {
            return Ok(());
        }
        Err(TransportError::Mismatch(format!(
            "the queue in Redis at {} was made with {known} partitions ({key}), and the configuration says {ours}; set \
             redis.partitions to {known}",
            shared.endpoint
        )))
    }

    /// Whether the connection is not known to be broken.
    pub(super) fn is_alive(&self) -> bool {
        !self.wire.closed.is_cancelled()
    }

    /// Runs a command.
    pub(super) fn call(&self, command: &'static str, args: Vec<Value>) -> BoxFuture<'static, Result<Value>> {
        let wire = self.wire.clone();
        self.call_within(command, args, wire.shared.config.command_timeout)
            .map(move |answer| answer?.ok_or_else(|| wire.shared.unavailable("the stream or its group is gone")))
            .boxed()
    }

    /// Runs a command that may take this long. `None`: the stream or its group is gone. It is on its way when this returns.
    pub(super) fn call_within(
        &self,
        command: &'static str,
        args: Vec<Value>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Option<Value>>> {
        let keys = args.iter().filter_map(|a| a.as_str()).filter(|a| a.starts_with('{')).map(|a| a.into_owned()).collect();
        let asked = Asked { command, script: None, keys };
        let (client, wire) = (self.client.clone(), self.wire.clone());
        begun(async move {
            match raw(&client, &wire, command, args, timeout).await {
                Ok(value) => Ok(Some(value)),
                Err(error) if super::error::lost_group(&error) => Ok(None),
                Err(error) => Err(wire.failed(&asked, &error)),
            }
        })
    }

    /// Runs a script. It is on its way when this returns.
    pub(super) fn run(&self, script: &'static Script, keys: Vec<String>, args: Vec<Value>) -> BoxFuture<'static, Result<Value>> {
        let mut call: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
        call.push(script.sha().into());
        call.push(Value::Integer(keys.len() as i64));
        call.extend(keys.iter().map(|k| Value::from(k.as_str())));
        call.extend(args);
        let asked = Asked { command: "EVALSHA", script: Some(script), keys };
        let (client, wire) = (self.client.clone(), self.wire.clone());
        let timeout = wire.shared.config.command_timeout;
        begun(async move {
            let mut answer = raw(&client, &wire, "EVALSHA", call.clone(), timeout).await;
            if answer.as_ref().is_err_and(|e| super::error::code(e) == "NOSCRIPT") {
                // Flushed since we connected.
                call[0] = script.text.into();
                answer = raw(&client, &wire, "EVAL", call, timeout).await;
            }
            answer.map_err(|error| wire.failed(&asked, &error))
        })
    }
}

impl Wire {
    fn failed(&self, asked: &Asked, error: &Error) -> TransportError {
        let explained = self.shared.explain(asked, error);
        if ends_connection(error) {
            self.closed.cancel();
            self.shared.life.lost(self.made, &explained);
        }
        explained
    }
}

async fn raw(
    client: &Client,
    wire: &Wire,
    command: &'static str,
    args: Vec<Value>,
    timeout: Duration,
) -> std::result::Result<Value, Error> {
    if wire.closed.is_cancelled() {
        return Err(Error::new(ErrorKind::Canceled, ""));
    }
    let options = Options { timeout: Some(timeout), max_attempts: Some(1), ..Options::default() };
    let client = client.with_options(&options);
    let call = client.custom(CustomCommand::new_static(command, ClusterHash::FirstKey, false), args);
    tokio::select! {
        biased;
        answer = call => answer,
        () = wire.closed.cancelled() => Err(Error::new(ErrorKind::Canceled, "")),
    }
}

/// Polls a call once, which hands its command to the connection: several calls made one after the other arrive in that order,
/// whoever waits for them first.
fn begun<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let mut call = Box::pin(call);
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => std::future::ready(answer).boxed(),
        Poll::Pending => call,
    }
}

/// A binary argument, not copied.
pub(super) fn bytes(bytes: &Bytes) -> Value {
    Value::Bytes(bytes.clone())
}
