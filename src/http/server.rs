//! The accept loop: connections counted, encrypted where that is configured, watched, and ended in time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::auth::Certificate;
use super::client::Peer;
use super::connection::{Patience, Tracked, Watch, Watched};
use super::connections::{Access, Connections, Open};
use super::health;
use super::problem::Problem;
use super::tls::{ClientAuth, Tls};
use crate::config::Http;
use crate::runtime::Lifecycle;

/// How often each connection's time limits are checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How often at most the log says that clients have no accepted certificate.
const REJECTED_LOG_EVERY: Duration = Duration::from_secs(60);
/// Requests of one HTTP/2 connection at the same time.
const STREAMS: u32 = 64;
/// Header lines of a request.
const MAX_HEADERS: usize = 100;
/// Bytes of an answer that wait in memory for one client.
const SEND_BUFFER: usize = 256 << 10;

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    config: Http,
}

impl Server {
    /// Listens. Port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address cannot be had, or certificate and key cannot be used: in words.
    pub async fn bind(config: &Http) -> Result<Self, String> {
        let tls = match (&config.tls_cert_file, &config.tls_key_file) {
            (Some(chain), Some(key)) => Some(Arc::new(Tls::load(chain, key, ClientAuth::of(config))?)),
            _ => None,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            format!("cannot listen on {}: {error}; give another address with --listen (port 0 takes a free one)", config.listen)
        })?;
        Ok(Self { listener, tls, config: config.clone() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Says when the certificate in use ends, whenever it is asked; `None` without TLS.
    pub fn certificate(&self) -> Option<impl Fn() -> SystemTime + Send + Sync + use<>> {
        self.tls.clone().map(|tls| move || tls.ends())
    }

    /// Serves until `lifecycle` drains; then what is being answered may end, for `stop_grace` at most.
    pub async fn run(self, router: Router, lifecycle: &Lifecycle) {
        let (draining, stopping) = (lifecycle.draining(), lifecycle.stopping());
        let config = &self.config;
        let shared = Arc::new(ServerContext {
            patience: Patience {
                head: config.head_timeout,
                idle: config.idle_timeout,
                stall: config.stall_timeout,
                min_rate: config.min_transfer_rate,
            },
            max_head: config.max_head_bytes,
            tls: self.tls,
            router,
            connections: Connections::new(
                config.max_connections,
                config.max_connections_per_client,
                config.trusted_proxies.clone(),
            ),
            draining: draining.clone(),
            cut: CancellationToken::new(),
            last_rejected: Mutex::default(),
        });
        let tasks = TaskTracker::new();
        let accepting = async {
            loop {
                let (stream, peer) = accept(&self.listener).await;
                let open = shared.connections.admit(peer.ip(), shared.cut.child_token());
                tasks.spawn(connection(Arc::clone(&shared), stream, peer, open));
                // Those that were cut off for it end now: there are hardly more than there may be.
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = accepting => {}
            () = draining.cancelled() => {}
        }
        drop(self.listener);
        tasks.close();
        tokio::select! {
            () = tasks.wait() => return,
            () = tokio::time::sleep(self.config.stop_grace) => {}
            () = stopping.cancelled() => {}
        }
        if !tasks.is_empty() {
            tracing::info!(connections = tasks.len(), "answers that were not taken in time are cut off");
        }
        shared.cut.cancel();
        tasks.wait().await;
    }
}

/// Settings, router and open connections of a server, for each of its connections.
struct ServerContext {
    patience: Patience,
    max_head: usize,
    tls: Option<Arc<Tls>>,
    router: Router,
    connections: Arc<Connections>,
    draining: CancellationToken,
    cut: CancellationToken,
    /// When the log said last that a client has no accepted certificate.
    last_rejected: Mutex<Option<Instant>>,
}

impl ServerContext {
    /// Says who got no connection. Port scans and load balancers that only knock are no news; somebody without the certificate that is
    /// asked for is, once in a while.
    fn refused(&self, peer: SocketAddr, error: &std::io::Error) {
        let unknown = error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>())
            .is_some_and(|error| matches!(error, rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)));
        let mut last = self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown && last.is_none_or(|last| last.elapsed() >= REJECTED_LOG_EVERY) {
            *last = Some(Instant::now());
            tracing::warn!(%peer, %error, "a client was refused: its certificate is not one of http.tls_client_ca_file");
        } else {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // Out of file descriptors, or a peer that went away: neither is ours to die of.
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(shared: Arc<ServerContext>, stream: TcpStream, peer: SocketAddr, open: Open) {
    // Answers are written in one go: there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    let serving = async {
        match &shared.tls {
            None => serve(&shared, stream, peer, Certificate::None, &open).await,
            Some(tls) => match tls.acceptor().accept(stream).await {
                Ok(stream) => {
                    let certificate = tls.certificate(stream.get_ref().1.peer_certificates());
                    serve(&shared, stream, peer, certificate, &open).await;
                }
                Err(error) => shared.refused(peer, &error),
            },
        }
    };
    tokio::select! {
        () = serving => {}
        () = open.cut.cancelled() => {}
        reason = overdue(&open.watch, &shared.patience) => tracing::debug!(%peer, reason, "a connection was cut off"),
    }
}

async fn overdue(watch: &Watch, patience: &Patience) -> &'static str {
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    loop {
        ticks.tick().await;
        if let Some(reason) = watch.overdue(patience, Instant::now()) {
            return reason;
        }
    }
}

/// The answer on a connection beyond the limits, to whatever is not a question of health.
fn no_room(version: Version) -> Response {
    let detail = "too many connections (http.max_connections, http.max_connections_per_client): try again later";
    let mut response = Problem::unavailable(detail).into_response();
    if version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn serve<I>(shared: &ServerContext, io: I, peer: SocketAddr, certificate: Certificate, open: &Open)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = &open.watch;
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let busy = watch.begin(request.version());
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        request.extensions_mut().insert(certificate);
        let router = shared.router.clone();
        let refused = open.access == Access::HealthOnly && !health::is_probe(request.uri().path());
        async move {
            let response = if refused {
                no_room(request.version())
            } else {
                match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            };
            Ok::<_, Infallible>(response.map(|body| Tracked::new(body, busy)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Time limits are the watch's: hyper's would cut idle connections off as if they were slow.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(shared.max_head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(shared.max_head).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(Watched::new(io, Arc::clone(watch))), service);
    tokio::pin!(connection);
    let mut asked = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = shared.draining.cancelled(), if !asked => {
                connection.as_mut().graceful_shutdown();
                asked = true;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %ChainOf(error.as_ref()), "a connection ended");
    }
}

/// An error with its causes, in one line.
struct ChainOf<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for ChainOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
