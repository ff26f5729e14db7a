//! The admin server: /livez, /readyz, /metrics. It is small on purpose: few connections, short headers, short timeouts. A new
//! connection is always accepted, and the oldest one is closed where there are too many, so that health checks are never delayed by
//! clients that hold connections or read /metrics slowly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, http::HeaderValue};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Lifecycle;
use crate::config::{ConfigError, Origin};

const MAX_CONNECTIONS: usize = 64;
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Listens, and serves for the life of the process. Returns the address, since port 0 takes a free port.
pub(super) async fn serve(lifecycle: &Lifecycle, address: SocketAddr, origin: &Origin) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let reason = format!(
            "cannot listen on {address}: {error}; pass another address with --admin-listen (port 0 takes a free port, off disables the \
             admin server)"
        );
        ConfigError::Invalid { key: "admin.listen".to_owned(), origin: origin.clone(), reason }
    })?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "admin server: /livez /readyz /metrics");
    lifecycle.spawn("admin server", accept(listener, lifecycle.clone()));
    Ok(address)
}

/// The open connections, by age.
#[derive(Debug, Default)]
struct Connections(Mutex<BTreeMap<u64, Connection>>);

/// An open connection: whether it has sent a request, and the token that closes it.
#[derive(Clone, Debug, Default)]
struct Connection {
    answering: Arc<AtomicBool>,
    cut: CancellationToken,
}

impl Connections {
    /// Adds a connection. Where there are too many, the oldest one without a request is closed, else the oldest of all.
    fn admit(&self, id: u64) -> Connection {
        let connection = Connection::default();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_CONNECTIONS {
            let idle = open.iter().find(|(_, one)| !one.answering.load(Ordering::Relaxed)).map(|(id, _)| *id);
            let oldest = idle.or_else(|| open.keys().next().copied());
            if let Some(evicted) = oldest.and_then(|id| open.remove(&id)) {
                evicted.cut.cancel();
            }
        }
        open.insert(id, connection.clone());
        connection
    }

    fn closed(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Serves until the end of the process: while it drains, /readyz reports that.
async fn accept(listener: TcpListener, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let connections = Arc::new(Connections::default());
    let stopping = lifecycle.stopping();
    let serving = async {
        for id in 0.. {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (lifecycle, connections, one) = (lifecycle.clone(), Arc::clone(&connections), connections.admit(id));
                    tokio::spawn(async move {
                        tokio::select! {
                            () = connection(stream, lifecycle, Arc::clone(&one.answering)) => {}
                            () = one.cut.cancelled() => {}
                        }
                        connections.closed(id);
                    });
                    // Lets the connections that were closed for this one end now, so that there are hardly more than MAX_CONNECTIONS.
                    tokio::task::yield_now().await;
                }
                // Out of file descriptors, or the peer went away: neither is a reason to end.
                Err(error) => {
                    tracing::debug!(%error, "admin server: a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => Ok(()),
        () = stopping.cancelled() => Ok(()),
    }
}

async fn connection(stream: TcpStream, lifecycle: Lifecycle, answering: Arc<AtomicBool>) {
    let service = service_fn(move |request| {
        let lifecycle = lifecycle.clone();
        answering.store(true, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(&request, &lifecycle).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A peer that hangs or does not speak HTTP is not our problem.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
}

async fn answer(request: &Request<Incoming>, lifecycle: &Lifecycle) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/livez", "/readyz", "/metrics"].contains(&path) {
        return text(StatusCode::NOT_FOUND, "not found: there are /livez, /readyz and /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => typed(StatusCode::OK, lifecycle.metrics_text().await, PROMETHEUS),
        "/readyz" => state(lifecycle.ready().await),
        _ => state(lifecycle.live().map(str::to_owned)),
    }
}

fn state(state: Result<String, String>) -> Response<Full<Bytes>> {
    match state {
        Ok(said) => text(StatusCode::OK, said),
        Err(said) => text(StatusCode::SERVICE_UNAVAILABLE, said),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, body, TEXT)
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::Console;

    async fn server() -> (Lifecycle, SocketAddr) {
        let lifecycle = Lifecycle::new(Console::default());
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        lifecycle.set_metrics(metrics);
        let address = serve(&lifecycle, free, &Origin::Default).await.expect("a free port");
        (lifecycle, address)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        // The server may close before it has read everything; its answer counts.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await
    }

    #[tokio::test]
    async fn readyz_says_in_words_what_is_not_ready() {
        let (lifecycle, address) = server().await;
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("starting\n"), "{answer}");
        lifecycle.health().set("redis", Err("connection refused".to_owned()));
        lifecycle.health().set("postgres", Ok(()));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("\r\n\r\nredis: connection refused\n"), "{answer}");
        lifecycle.health().set("redis", Ok(()));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
        lifecycle.drain();
        assert!(get(address, "/readyz").await.contains("draining"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn only_what_is_there_is_served() {
        let (_lifecycle, address) = server().await;
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics?name=x").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let head = ask(address, "HEAD /livez HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        let post = ask(address, "POST /livez HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");
    }

    #[tokio::test]
    async fn nonsense_and_endless_headers_are_refused() {
        let (_lifecycle, address) = server().await;
        let nonsense = ask(address, "nonsense\r\n\r\n").await;
        assert!(nonsense.is_empty() || nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
        let many = (0..=MAX_HEADERS).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
        let many = ask(address, &format!("GET /livez HTTP/1.1\r\n{many}\r\n")).await;
        assert!(!many.starts_with("HTTP/1.1 200"), "{many}");
        let long = ask(address, &format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * MAX_HEAD_BYTES))).await;
        assert!(!long.starts_with("HTTP/1.1 200"), "{long}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn whoever_holds_connections_does_not_keep_health_from_being_asked() {
        let (_lifecycle, address) = server().await;
        let mut held = Vec::new();
        for n in 0..2 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            // Half a head, or nothing at all.
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: h\r\nx: ").await;
            }
            held.push(stream);
        }
        let answer = tokio::time::timeout(HEAD_TIMEOUT / 2, get(address, "/livez")).await.expect("before the others time out");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
