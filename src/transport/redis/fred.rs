//! What is peculiar to the client library (fred), kept in this file. Everywhere else a connection is a connection.
//!
//! The library is used for single connections that never reconnect; its pools, clusters, sentinels and retries are left alone. Where it
//! differs from what is needed here:
//!
//! - It reconnects and sends again by itself. A command that was written and not answered may have been done, and only the caller can find
//!   out: one attempt, no redirections, no reconnection policy ([`client`], [`send`]).
//! - It logs in with HELLO under RESP3, which it writes as a line of words: a blank or a quote ends a password. RESP2 logs in with AUTH, whose
//!   arguments may have any bytes.
//! - `connect` gives a task and no outcome. The outcome is what comes first: the notice that it is up, or the end of the task ([`connect`]).
//! - A call does nothing before it is polled, so that two calls reach the server in the order in which they are waited for. They have to arrive
//!   in the order in which they are made ([`begun`]).
//! - Its own queues end with the connection, which it reports as an unknown error ([`has_ended`]); errors of the system come in their debug
//!   form ([`io_words`]).
//! - It counts bytes by client and sets the count back when asked ([`traffic`]).

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::fred::clients::Client;
use ::fred::error::{Error, ErrorKind};
use ::fred::interfaces::{ClientLike, EventInterface, MetricsInterface};
use ::fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, Server, ServerConfig, TcpConfig, TlsConfig, TlsConnector,
    TlsHostMapping, UnresponsiveConfig,
};
use ::fred::types::{ClusterHash, ConnectHandle, CustomCommand, RespVersion, Stats, Value};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use secrecy::{ExposeSecret, SecretString};
use socket2::TcpKeepalive;

use crate::address::redis::Address;
use crate::config::Redis;
use crate::tls::Current;

/// A client for one connection.
pub(super) fn client(
    config: &Redis,
    address: &Address,
    (username, password): (Option<&String>, Option<&SecretString>),
    database: u8,
    tls: Option<&Current>,
) -> Client {
    let server = Server {
        host: address.host.as_str().into(),
        port: address.port,
        tls_server_name: config.tls.server_name.as_deref().map(Into::into),
    };
    let fred = Config {
        fail_fast: true,
        username: username.cloned(),
        password: password.map(|p| p.expose_secret().to_owned()),
        server: ServerConfig::Centralized { server },
        version: RespVersion::RESP2,
        database: (database > 0).then_some(database),
        tls: tls.map(|tls| TlsConfig {
            connector: TlsConnector::from(tokio_rustls::TlsConnector::from(Arc::clone(&tls.config))),
            hostnames: TlsHostMapping::None,
        }),
        ..Config::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: config.connect_timeout,
        internal_command_timeout: config.connect_timeout,
        max_command_attempts: 1,
        max_redirections: 0,
        unresponsive: UnresponsiveConfig::default(),
        disable_cluster_health_check: true,
        tcp: TcpConfig {
            nodelay: Some(true),
            keepalive: Some(TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5))),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig { default_command_timeout: config.command_timeout, ..PerformanceConfig::default() };
    Client::new(fred, Some(performance), Some(connection), None)
}

/// Connects, and gives the task that serves the connection: it ends with the connection, and the connection with it.
pub(super) async fn connect(client: &Client, within: Duration) -> Result<ConnectHandle, Error> {
    let mut up = client.reconnect_rx();
    let mut task = client.connect();
    let outcome = tokio::time::timeout(within, async {
        tokio::select! {
            up = up.recv() => up.map(|_| ()).map_err(|_| Error::new(ErrorKind::Canceled, "")),
            ended = &mut task => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(Error::new(ErrorKind::IO, "the connection was closed while it was made")),
            },
        }
    })
    .await;
    match outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, ""))) {
        Ok(()) => Ok(task),
        Err(error) => {
            task.abort();
            Err(error)
        }
    }
}

/// Sends a command once.
pub(super) async fn send(client: &Client, command: &'static str, args: Vec<Value>, timeout: Duration) -> Result<Value, Error> {
    let options = Options { timeout: Some(timeout), max_attempts: Some(1), ..Options::default() };
    client.with_options(&options).custom(CustomCommand::new_static(command, ClusterHash::FirstKey, false), args).await
}

/// Bytes sent and received since this was asked last.
pub(super) fn traffic(client: &Client) -> (u64, u64) {
    let bytes = |stats: Stats| u64::try_from(stats.sum).unwrap_or_default();
    (bytes(client.take_req_size_metrics()), bytes(client.take_res_size_metrics()))
}

/// Polls a call once, which hands its command to the connection: several calls made one after the other arrive in that order,
/// whoever waits for them first.
pub(super) fn begun<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let mut call = Box::pin(call);
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => std::future::ready(answer).boxed(),
        Poll::Pending => call,
    }
}

/// Whether an error of an unknown kind says that the client's queues ended with its connection.
pub(super) fn has_ended(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unknown) && error.details().contains("channel closed")
}

/// The message in an error of the system.
pub(super) fn io_words(text: &str) -> String {
    let quoted = |mark: &str| text.split_once(mark).and_then(|(_, rest)| rest.split_once('"')).map(|(message, _)| message);
    let message = quoted("message: \"").or_else(|| quoted("error: \"")).unwrap_or(text);
    if message.contains("lookup address") { format!("its name does not resolve ({message})") } else { message.to_owned() }
}

/// A binary argument, not copied.
pub(super) fn bytes(bytes: &Bytes) -> Value {
    Value::Bytes(bytes.clone())
}
