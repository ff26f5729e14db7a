//! Reaching a server step by step, to say in words which step failed: name, TCP, TLS, who answers. The client's own connections say
//! only that they failed; `check` and `probe` want the steps themselves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, ProtocolVersion};

use crate::address::redis::Address;
use crate::tls::{self, Facts, Remedy};

/// What the settings are called in messages.
pub(super) const CA: &str = "redis.tls.ca (REDIS_CA_CERT)";
/// The client's certificate.
pub(super) const CERT: &str = "redis.tls.cert (REDIS_CLIENT_CERT)";
/// Its key.
pub(super) const KEY: &str = "redis.tls.key (REDIS_CLIENT_KEY)";

/// A stage of reaching a server, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Resolving the host's name.
    Resolve,
    /// Connecting by TCP.
    Connect,
    /// The TLS handshake.
    Tls,
    /// A first command and its answer.
    Greet,
}

/// Why a server was not reached.
#[derive(Clone, Debug)]
pub struct DialError {
    /// The stage that failed.
    pub stage: Stage,
    /// Why, and what to do.
    pub reason: String,
    /// Whether waiting can cure it (a server that is away); else the configuration is wrong.
    pub passing: bool,
}

/// What was found on the way to a server.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// The addresses that the name resolves to.
    pub addresses: Vec<SocketAddr>,
    /// How long resolving took.
    pub resolve: Duration,
    /// How long TCP took.
    pub connect: Duration,
    /// How long TLS took.
    pub handshake: Option<Duration>,
    /// `TLSv1.3`.
    pub version: Option<&'static str>,
    /// The certificates the server showed, its own first.
    pub chain: Vec<Facts>,
}

/// How a connection is encrypted, and the name that the certificate is verified for.
pub(super) struct Encrypt {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: String,
}

/// Goes through all stages, each within `patience`; what was found on the way is in `reached` also where it ends with a fault.
pub(super) async fn dial(
    address: &Address,
    encrypt: Option<&Encrypt>,
    patience: Duration,
    reached: &mut Reached,
) -> Result<(), DialError> {
    let stream = connect(address, patience, reached).await?;
    let Some(encrypt) = encrypt else {
        return greet(stream, patience).await.map_err(|silence| DialError {
            stage: Stage::Greet,
            reason: match silence {
                Silence::Timeout => {
                    "it accepts the connection and does not answer: frozen, overloaded, or not Redis (timed out); look at the server".to_owned()
                }
                Silence::Closed => {
                    "it closes the connection at once; if it expects TLS, use rediss:// or REDIS_TLS_ENABLED=true".to_owned()
                }
                Silence::Foreign => "what answers there does not speak the Redis protocol; check redis.url".to_owned(),
            },
            passing: matches!(silence, Silence::Timeout),
        });
    };
    let begun = Instant::now();
    let stream = match handshake(stream, encrypt, patience).await {
        Ok(stream) => stream,
        Err(Some(fault)) => return Err(fault),
        Err(None) => return Err(plain_or_silent(address, patience).await),
    };
    reached.handshake = Some(begun.elapsed());
    let (_, session) = stream.get_ref();
    reached.version = session.protocol_version().map(|version| match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    });
    reached.chain = session.peer_certificates().unwrap_or_default().iter().filter_map(|der| tls::facts(der).ok()).collect();
    greet_encrypted(stream, encrypt, patience).await
}

async fn connect(address: &Address, patience: Duration, reached: &mut Reached) -> Result<TcpStream, DialError> {
    let begun = Instant::now();
    let fault = |stage, reason: String, passing| DialError { stage, reason, passing };
    let resolved = timeout(patience, tokio::net::lookup_host((address.host.as_str(), address.port))).await;
    let addresses: Vec<SocketAddr> = match resolved {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Err(fault(
                Stage::Resolve,
                format!("the name {} does not resolve: {error}; check the name and DNS", address.host),
                true,
            ));
        }
        Err(_) => {
            return Err(fault(
                Stage::Resolve,
                format!("DNS does not answer for {} (timed out); check the resolver, and that it may be asked", address.host),
                true,
            ));
        }
    };
    reached.resolve = begun.elapsed();
    reached.addresses.clone_from(&addresses);
    let mut last = format!("the name {} resolves to no address", address.host);
    for target in addresses {
        let begun = Instant::now();
        match timeout(patience, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => {
                reached.connect = begun.elapsed();
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = format!(
                    "{target} refused the connection: nothing listens there, or a firewall rejects it; check port and service"
                );
            }
            Ok(Err(error)) => {
                last = format!("{target} cannot be reached: {error}; check the address, routes, firewalls and network policies");
            }
            Err(_) => {
                last =
                    format!("{target} does not answer (timed out); check the address, the host, firewalls and network policies");
            }
        }
    }
    Err(fault(Stage::Connect, last, true))
}

/// `Err(None)`: silence, or an answer that is no TLS.
async fn handshake(stream: TcpStream, encrypt: &Encrypt, patience: Duration) -> Result<TlsStream<TcpStream>, Option<DialError>> {
    let fault = |reason, passing| Some(DialError { stage: Stage::Tls, reason, passing });
    let name = ServerName::try_from(encrypt.name.clone()).map_err(|_| {
        fault(format!("`{}` is not a name that a certificate can contain; set redis.tls.server_name", encrypt.name), false)
    })?;
    match timeout(patience, TlsConnector::from(Arc::clone(&encrypt.config)).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => match tls::within(&error) {
            Some(error) if tls::remedy(error) == Remedy::NotTls => Err(None),
            Some(error) => Err(fault(explained(error), tls::remedy(error) == Remedy::Wait)),
            None => Err(fault(format!("the connection broke during the TLS handshake: {error}"), true)),
        },
        Err(_) => Err(None),
    }
}

/// A TLS error in words, with the setting for the name to verify.
fn explained(error: &Error) -> String {
    let said = tls::explain(error, CA, CERT);
    match error {
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) if !presented.is_empty() => {
            format!("{said} (redis.tls.server_name, REDIS_TLS_SERVER_NAME)")
        }
        _ => said,
    }
}

/// TLS got no answer: perhaps because the port is a plain one (a plain Redis waits for the end of a line that never comes).
async fn plain_or_silent(address: &Address, patience: Duration) -> DialError {
    let plain = match connect(address, patience, &mut Reached::default()).await {
        Ok(stream) => greet(stream, patience).await.is_ok(),
        Err(_) => false,
    };
    if plain {
        let reason = "it speaks Redis without TLS on this port, but TLS is configured; use its TLS port, or redis:// without REDIS_TLS_ENABLED";
        return DialError { stage: Stage::Tls, reason: reason.to_owned(), passing: false };
    }
    let reason = "it accepts the connection and does not answer the TLS handshake: frozen, overloaded, or not a TLS port (timed out); look at the server";
    DialError { stage: Stage::Tls, reason: reason.to_owned(), passing: true }
}

enum Silence {
    Timeout,
    Closed,
    Foreign,
}

/// A word that every Redis answers, whoever says it: an error too is an answer.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin, patience: Duration) -> Result<(), Silence> {
    match timeout(patience, exchange(&mut stream)).await {
        Ok(Ok(Some(b'+' | b'-'))) => Ok(()),
        Ok(Ok(Some(_))) => Err(Silence::Foreign),
        Ok(Ok(None) | Err(_)) => Err(Silence::Closed),
        Err(_) => Err(Silence::Timeout),
    }
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Option<u8>> {
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
    stream.flush().await?;
    let mut byte = [0];
    Ok((stream.read(&mut byte).await? > 0).then_some(byte[0]))
}

/// Under TLS 1.3 a server that misses a client certificate, or does not like it, says so only now; and the alert may get lost, so
/// that nothing but the end of the connection is left of it.
async fn greet_encrypted(mut stream: TlsStream<TcpStream>, encrypt: &Encrypt, patience: Duration) -> Result<(), DialError> {
    let fault = |reason: String, passing| DialError { stage: Stage::Tls, reason, passing };
    match timeout(patience, exchange(&mut stream)).await {
        Ok(Ok(Some(b'+' | b'-'))) => Ok(()),
        Ok(Ok(Some(_))) => {
            let reason = "what answers there does not speak the Redis protocol; check redis.url".to_owned();
            Err(DialError { stage: Stage::Greet, reason, passing: false })
        }
        Ok(Err(error)) if tls::within(&error).is_some() => {
            Err(fault(tls::explain_io(&error, CA, CERT).unwrap_or_default(), false))
        }
        Ok(Ok(None) | Err(_)) if encrypt.config.client_auth_cert_resolver.has_certs() => Err(fault(
            format!(
                "the server closed the connection right after the TLS handshake; it may not accept our client certificate: check {CERT}"
            ),
            false,
        )),
        Ok(Ok(None) | Err(_)) => Err(fault(
            format!(
                "the server closed the connection right after the TLS handshake: it wants a client certificate; set {CERT} and {KEY}"
            ),
            false,
        )),
        Err(_) => Err(DialError {
            stage: Stage::Greet,
            reason: "it does not answer after the TLS handshake (timed out)".to_owned(),
            passing: true,
        }),
    }
}
