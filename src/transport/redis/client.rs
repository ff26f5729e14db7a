//! One connection: made, checked, used, ended.
//!
//! A [`Conn`] is one TCP connection and never reconnects: what was sent over it is answered over it or fails. So nothing that was
//! meant for one primary can reach another. Making a new one is the business of [`super::link::Link`].

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::fred::clients::Client;
use ::fred::error::{Error, ErrorKind};
use ::fred::types::{ConnectHandle, Value};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use rand::Rng as _;
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Change, CommandContext, NotRun, ends_connection, explain};
use super::fred::{self, begun};
use super::malformed::{KeyKind, shown};
use super::reply;
use super::script::{self, Script};
use super::shared::Shared;
use super::topology::Deployment;
use crate::address::redis::Address;
use crate::model::Partition;
use crate::tls::Current;
use crate::transport::{Result, TransportError};
use crate::watched::Secret;

/// Connections are renewed within this time after a certificate was: not all of them at once.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// The user to log in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// The ACL user of the server.
    Server,
    /// The ACL user of the sentinels.
    Sentinel,
}

impl Credentials {
    fn secret(self, shared: &Shared) -> Option<&Secret> {
        match self {
            Self::Server => shared.password.as_ref(),
            Self::Sentinel => shared.config.sentinel_password.as_ref(),
        }
    }
}

/// A connection. Ends when dropped; calls that wait then fail.
pub(super) struct Conn {
    wire: Arc<Wire>,
    client: Client,
    /// The TLS settings that the connection was made with, and when it ends after they were renewed.
    tls: Option<Arc<Current>>,
    renew_at: OnceLock<Instant>,
    /// INFO server, where the server was asked.
    server: Option<Info>,
    /// Partitions in which the configured number of partitions was compared; none before the server was checked.
    compared: Vec<Partition>,
    /// Identifies the server's process: another one after a restart, or when an address leads elsewhere.
    pub(super) run_id: String,
}

/// The part of a connection that calls hold while they wait.
struct Wire {
    shared: Arc<Shared>,
    address: Address,
    closed: CancellationToken,
    made: Instant,
    /// The scripts that were sent over the connection, by name.
    scripts: Mutex<Vec<&'static str>>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.wire.closed.cancel();
    }
}

impl Conn {
    /// Connects to the server that has a partition and checks the server: version, number of partitions.
    pub(super) async fn open(shared: &Arc<Shared>, partition: Partition) -> Result<Self> {
        let address = shared.topology.place(shared, partition).await?;
        Self::open_at(shared, &address, &[partition]).await
    }

    /// The same with a server that has these partitions. Takes the connection that was made when it was asked where they are, if that
    /// was just now: over a long line each round trip counts.
    pub(super) async fn open_at(shared: &Arc<Shared>, address: &Address, partitions: &[Partition]) -> Result<Self> {
        let opened = async {
            let mut conn = match shared.spares.take(address) {
                Some(conn) => conn,
                None => {
                    let dialed = Self::dial(shared, address, Credentials::Server).await;
                    dialed.map_err(|error| shared.lasting(error))?
                }
            };
            conn.check(partitions).await?;
            Ok(conn)
        };
        match opened.await {
            Ok(conn) => {
                shared.statuses.connected(address, conn.wire.made);
                Ok(conn)
            }
            Err(error) => {
                shared.topology.doubt(None);
                shared.statuses.unreachable(address, &error);
                Err(error)
            }
        }
    }

    /// Connects to a server, and says who we are. A password that is refused may have become another in its file just now. Whether a
    /// refusal is the last word is for the caller to say ([`Shared::lasting`]).
    pub(super) async fn dial(shared: &Arc<Shared>, address: &Address, credentials: Credentials) -> Result<Self> {
        let secret = credentials.secret(shared);
        let used = secret.map(Secret::get);
        let mut attempted = Self::attempt(shared, address, credentials, used.as_ref()).await;
        if let (Err(error), Some(secret), Some(used)) = (&attempted, secret, &used)
            && super::error::is_about_login(error)
            && let Some(other) = secret.other_than(used)
        {
            attempted = Self::attempt(shared, address, credentials, Some(&other)).await;
        }
        match attempted {
            Ok(conn) => Ok(conn),
            Err(error) => Err(failed_to_connect(shared, address, credentials, &error).await),
        }
    }

    async fn attempt(
        shared: &Arc<Shared>,
        address: &Address,
        credentials: Credentials,
        password: Option<&SecretString>,
    ) -> std::result::Result<Self, Error> {
        let tls = shared.tls.as_ref().map(|tls| tls.current());
        let (username, database) = match credentials {
            Credentials::Server => (shared.username.as_ref(), shared.database),
            Credentials::Sentinel => (shared.config.sentinel_username.as_ref(), 0),
        };
        let client = fred::client(&shared.config, address, (username, password), database, tls.as_deref());
        let task = fred::connect(&client, shared.config.connect_timeout).await?;
        Ok(Self::driven(shared, address, client, task, tls))
    }

    fn driven(
        shared: &Arc<Shared>,
        address: &Address,
        client: Client,
        mut task: ConnectHandle,
        tls: Option<Arc<Current>>,
    ) -> Self {
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
        let wire =
            Wire { shared: shared.clone(), address: address.clone(), closed, made: Instant::now(), scripts: Mutex::default() };
        Self {
            wire: Arc::new(wire),
            client,
            tls,
            renew_at: OnceLock::new(),
            server: None,
            compared: Vec::new(),
            run_id: String::new(),
        }
    }

    /// Reads INFO server.
    pub(super) async fn identify_server(&mut self) -> Result<&Info> {
        let info = self.info("server").await?;
        Ok(self.server.insert(info))
    }

    async fn check(&mut self, partitions: &[Partition]) -> Result<()> {
        if self.server.is_none() {
            self.identify_server().await?;
        }
        if self.compared.is_empty() {
            self.run_id = self.check_server().await?;
        }
        let new: Vec<Partition> = partitions.iter().copied().filter(|p| !self.compared.contains(p)).collect();
        let compared = join_all(new.iter().map(|p| self.check_partitions(*p))).await;
        let mut passing = None;
        for (partition, compared) in new.into_iter().zip(compared) {
            match compared {
                Ok(()) => self.compared.push(partition),
                // One that is moving to another node just now keeps nobody from the others.
                Err(error) if error.is_transient() => passing = Some(error),
                Err(error) => return Err(error),
            }
        }
        passing.filter(|_| self.compared.is_empty()).map_or(Ok(()), Err)
    }

    /// Checks that the server is of the kind that the topology says, and new enough. Returns the id of its process.
    async fn check_server(&self) -> Result<String> {
        let shared = &self.wire.shared;
        let Some(info) = &self.server else { return Err(self.unavailable("it was not asked what it is")) };
        let stale = match (shared.topology.current().as_deref().map(|known| &known.kind), info.mode()) {
            (Some(Deployment::Cluster(_)), "cluster") | (Some(Deployment::Single(_)), "standalone") => None,
            (Some(Deployment::Watched { .. }), "standalone") => {
                (self.info("replication").await?.field("role") == "slave").then_some("it is a replica now")
            }
            (_, "sentinel") => Some("it is now a Sentinel instead of a server"),
            (None, _) => None,
            // Servers that do not say it (as some managed ones) are taken at their word.
            (_, "") => None,
            _ => Some("a different kind of Redis answers there than before"),
        };
        if let Some(stale) = stale {
            return Err(self.unavailable(stale));
        }
        if !info.is_new_enough() {
            return Err(self.refused(&format!("it is {}; {NEEDED}", info.product())));
        }
        Ok(info.field("run_id").to_owned())
    }

    /// A section of INFO.
    pub(super) async fn info(&self, section: &'static str) -> Result<Info> {
        Ok(Info(reply::text(&self.call("INFO", vec![section.into()]).await?)?))
    }

    /// The address that the connection leads to.
    pub(super) fn address(&self) -> &Address {
        &self.wire.address
    }

    /// The address as host:port.
    pub(super) fn endpoint(&self) -> String {
        self.wire.address.to_string()
    }

    /// CLUSTER INFO, as this node sees the cluster.
    pub(super) async fn cluster_info(&self) -> Result<Info> {
        Ok(Info(reply::text(&self.call("CLUSTER", vec!["INFO".into()]).await?)?))
    }

    /// An error that waiting cannot cure.
    pub(super) fn refused(&self, reason: &str) -> TransportError {
        TransportError::Refused { endpoint: self.wire.address.to_string(), reason: reason.to_owned() }
    }

    /// An error that waiting can cure.
    pub(super) fn unavailable(&self, reason: &str) -> TransportError {
        TransportError::Unavailable { endpoint: self.wire.address.to_string(), reason: reason.to_owned() }
    }

    /// Compares the number of partitions with the one that Redis keeps, and writes it if Redis has none (at first use, and after
    /// it lost everything).
    pub(super) async fn check_partitions(&self, partition: Partition) -> Result<()> {
        let shared = &self.wire.shared;
        let (key, ours) = (shared.keys.meta(partition), shared.config.partitions);
        let known = self.run(&script::ONCE, vec![key.clone()], vec!["partitions".into(), ours.to_string().into()]).await;
        let known = match known {
            Ok(known) => known,
            // A full Redis that has no number yet: it is written another time. Where nobody can write one, the configuration's counts.
            Err(TransportError::Full { .. } | TransportError::Blocked { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(known) = reply::exact::<NonZeroU16>(&known) else {
            let (which, todo) = (format!("the field partitions of {key}"), format!("HSET {key} partitions {ours}"));
            shared.malformed.note(KeyKind::Partitions, &which, &shown(reply::raw(&known)), &todo);
            return Ok(());
        };
        if known.get() == ours.count() {
            return Ok(());
        }
        Err(TransportError::Mismatch(format!(
            "the queue in Redis at {} was made with {known} partitions ({key}), but the configuration says {ours}; set \
             redis.partitions to {known}",
            self.wire.address
        )))
    }

    /// Whether the connection is not known to be broken, and not to be renewed.
    pub(super) fn is_alive(&self) -> bool {
        !self.wire.closed.is_cancelled() && !self.is_outdated()
    }

    /// Whether the connection was made with certificates that were renewed meanwhile. The old ones may end at any time, so it is made again, each
    /// at a moment of its own.
    fn is_outdated(&self) -> bool {
        let (Some(tls), Some(used)) = (&self.wire.shared.tls, &self.tls) else { return false };
        if Arc::ptr_eq(&tls.current(), used) {
            return false;
        }
        let now = Instant::now();
        now >= *self.renew_at.get_or_init(|| now + rand::rng().random_range(Duration::ZERO..RENEW_WITHIN))
    }

    /// Runs a command.
    pub(super) fn call(&self, command: &'static str, args: Vec<Value>) -> BoxFuture<'static, Result<Value>> {
        let wire = self.wire.clone();
        self.call_within(command, args, wire.shared.config.command_timeout)
            .map(move |answer| answer?.ok_or_else(|| wire.unavailable("the stream or its group is gone")))
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
        let context = CommandContext { command, script: None, keys };
        let (client, wire) = (self.client.clone(), self.wire.clone());
        begun(async move {
            match raw(&client, &wire, command, args, timeout).await {
                Ok(value) => Ok(Some(value)),
                Err(error) if super::error::lost_group(&error) => Ok(None),
                Err(error) => Err(wire.failed(&context, &error)),
            }
        })
    }

    /// Runs a command to learn whether the server knows it and the user may run it.
    pub(super) async fn attempt_command(
        &self,
        command: &'static str,
        args: Vec<Value>,
    ) -> Result<std::result::Result<Value, NotRun>> {
        let context = CommandContext { command, script: None, keys: Vec::new() };
        match raw(&self.client, &self.wire, command, args, self.wire.shared.config.command_timeout).await {
            Ok(value) => Ok(Ok(value)),
            Err(error) if ends_connection(&error) => Err(self.wire.failed(&context, &error)),
            Err(error) => Ok(Err(NotRun::of(&error))),
        }
    }

    /// Runs a script; before its first use over this connection it is sent, in the same round trip. It is on its way when this returns.
    pub(super) fn run(&self, script: &'static Script, keys: Vec<String>, args: Vec<Value>) -> BoxFuture<'static, Result<Value>> {
        self.run_within(script, keys, args, self.wire.shared.config.command_timeout)
    }

    /// Runs a script that may take this long.
    pub(super) fn run_within(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Value>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Value>> {
        let load = self.wire.sends_first(script).then(|| self.call("SCRIPT", vec!["LOAD".into(), script.text.into()]));
        let mut call: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
        call.push(script.sha().into());
        call.push(Value::Integer(keys.len() as i64));
        call.extend(keys.iter().map(|k| Value::from(k.as_str())));
        call.extend(args);
        let context = CommandContext { command: "EVALSHA", script: Some(script), keys };
        let (client, wire) = (self.client.clone(), self.wire.clone());
        let forget = self.wire.clone();
        let answer = begun(async move {
            let mut answer = raw(&client, &wire, "EVALSHA", call.clone(), timeout).await;
            if answer.as_ref().is_err_and(|e| super::error::code(e) == "NOSCRIPT") {
                // Flushed since we sent it.
                call[0] = script.text.into();
                answer = raw(&client, &wire, "EVAL", call, timeout).await;
            }
            answer.map_err(|error| wire.failed(&context, &error))
        });
        let Some(load) = load else { return answer };
        async move {
            if let Err(error) = load.await {
                forget.scripts().retain(|sent| *sent != script.name);
                return Err(error);
            }
            answer.await
        }
        .boxed()
    }
}

impl Wire {
    fn scripts(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a script is sent; whether this is the first time.
    fn sends_first(&self, script: &Script) -> bool {
        let mut sent = self.scripts();
        let first = !sent.contains(&script.name);
        if first {
            sent.push(script.name);
        }
        first
    }

    fn unavailable(&self, reason: &str) -> TransportError {
        TransportError::Unavailable { endpoint: self.address.to_string(), reason: reason.to_owned() }
    }

    fn failed(&self, context: &CommandContext, error: &Error) -> TransportError {
        let shared = &self.shared;
        let mut explained = explain(&self.address.to_string(), &shared.who, context, error);
        if super::error::is_about_login(error) {
            explained = shared.lasting(explained);
        }
        if let TransportError::Blocked { key, .. } = &explained {
            shared.malformed.blocked(key, &explained);
        }
        let change = Change::said_by(error, &self.address);
        if let Some(change) = &change {
            shared.topology.doubt(change.to.clone());
        }
        if ends_connection(error) {
            self.closed.cancel();
            shared.topology.doubt(None);
            shared.statuses.lost(&self.address, self.made, &explained);
        } else if change.is_some_and(|change| change.ends) {
            self.closed.cancel();
        }
        explained
    }
}

/// The oldest version: ACL selectors and the errors of scripts are read as they are since then.
pub(super) const NEEDED: &str = "Redis 7.0 or later, or Valkey, is required";

/// A section of INFO.
pub(super) struct Info(String);

impl Info {
    /// A field's value; empty where it is not there.
    pub(super) fn field(&self, name: &str) -> &str {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    }

    /// `standalone`, `cluster` or `sentinel`; empty where the server does not say it. Valkey 8 has another word for the field.
    pub(super) fn mode(&self) -> &str {
        match self.field("redis_mode") {
            "" => self.field("server_mode"),
            mode => mode,
        }
    }

    /// `Redis 7.0.15`, `Valkey 8.1.1`.
    pub(super) fn product(&self) -> String {
        match self.field("valkey_version") {
            "" => format!("Redis {}", self.field("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    /// Whether the version is recent enough. Valkey reports the Redis version that it is compatible with.
    pub(super) fn is_new_enough(&self) -> bool {
        self.field("redis_version").split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(0) >= 7
    }
}

/// Why a connection could not be made. The client says little: unless it is about the password, the server is dialled again stage by stage.
async fn failed_to_connect(shared: &Shared, address: &Address, credentials: Credentials, error: &Error) -> TransportError {
    let context = CommandContext { command: "AUTH", script: None, keys: Vec::new() };
    let said = match error.kind() {
        ErrorKind::Timeout => {
            TransportError::Unavailable { endpoint: address.to_string(), reason: "the connection attempt timed out".to_owned() }
        }
        _ => explain(&address.to_string(), &shared.who, &context, error),
    };
    if credentials == Credentials::Sentinel || super::error::is_about_rights(error) {
        return said;
    }
    // One that froze is not asked for its reasons: that would take as long again.
    if matches!(error.kind(), ErrorKind::Timeout) && shared.statuses.ever_up() {
        return said;
    }
    shared.diagnose(address, said).await
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
    let answer = tokio::select! {
        biased;
        answer = fred::send(client, command, args, timeout) => answer,
        () = wire.closed.cancelled() => Err(Error::new(ErrorKind::Canceled, "")),
    };
    let (sent, received) = fred::traffic(client);
    wire.shared.count(sent, received);
    answer
}
