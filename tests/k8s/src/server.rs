//! What the API server asks a kubelet for: logs of containers, and commands beside them (`kubectl logs`, `kubectl exec`, `helm test --logs`).
//! Commands go by WebSocket, as API servers since 1.36 do it for nodes that say that they can. It asks nobody for a certificate: it can be
//! reached from inside the test's own network namespace only.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::shared::Shared;

/// Serves until it fails.
pub async fn serve(shared: Arc<Shared>) -> Result<()> {
    let settings = &shared.settings;
    let certificates = CertificateDer::pem_file_iter(&settings.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((settings.node_ip, settings.port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request)) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            // Who asked has gone.
            let _ = connection.await;
        });
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let query: Vec<(String, String)> = request.uri().query().unwrap_or_default().split('&').filter_map(parameter).collect();
    match parts.as_slice() {
        ["containerLogs", namespace, pod, container] => match log(shared, namespace, pod, container).map(std::fs::read) {
            Some(Ok(log)) => text(StatusCode::OK, tail(log, &query)),
            _ => text(StatusCode::NOT_FOUND, format!("there is no log of container {container} of {namespace}/{pod}")),
        },
        ["exec", namespace, pod, container] => {
            let key = ((*namespace).to_owned(), (*pod).to_owned(), (*container).to_owned());
            let process = shared.processes.lock().ok().and_then(|processes| processes.get(&key).cloned());
            match process {
                Some(process) => upgrade(request, process, &query),
                None => text(StatusCode::NOT_FOUND, format!("container {container} of {namespace}/{pod} does not run")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "this kubelet has logs and exec only"),
    }
}

/// A parameter of a query, decoded.
fn parameter(pair: &str) -> Option<(String, String)> {
    let (name, value) = pair.split_once('=')?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some((name.to_owned(), String::from_utf8(bytes).ok()?))
}

/// The newest log of a container.
fn log(shared: &Shared, namespace: &str, pod: &str, container: &str) -> Option<PathBuf> {
    let begin = format!("{namespace}_{pod}_{container}_");
    let files = std::fs::read_dir(shared.settings.run.join("logs")).ok()?.flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with(&begin))
        .max_by_key(|file| file.metadata().and_then(|meta| meta.modified()).ok())
        .map(|file| file.path())
}

fn tail(log: Vec<u8>, query: &[(String, String)]) -> Vec<u8> {
    let Some(lines) = query.iter().find(|(name, _)| name == "tailLines").and_then(|(_, value)| value.parse::<usize>().ok())
    else {
        return log;
    };
    let all: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    all[all.len().saturating_sub(lines)..].concat()
}

/// Becomes a WebSocket, over which the command's streams go.
fn upgrade(
    mut request: Request<Incoming>,
    process: crate::container::Process,
    query: &[(String, String)],
) -> Response<Full<Bytes>> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &hyper::header::HeaderValue| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let key = header(SEC_WEBSOCKET_KEY);
    let offered = header(SEC_WEBSOCKET_PROTOCOL);
    let protocol =
        ["v5.channel.k8s.io", "v4.channel.k8s.io"].into_iter().find(|known| offered.split(',').any(|one| one.trim() == *known));
    let (Some(protocol), false) = (protocol, key.is_empty()) else {
        return text(StatusCode::BAD_REQUEST, format!("this kubelet executes by WebSocket only; offered: {offered:?}"));
    };
    let command: Vec<String> = query.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
    let input = query.iter().any(|(name, value)| name == "input" && matches!(value.as_str(), "1" | "true"));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let result = async {
            let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded.await?), Role::Server, None).await;
            execute(stream, &process, &command, input).await
        };
        if let Err(error) = result.await {
            eprintln!("exec: {error:#}");
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .header(SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Full::default());
    response.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Each message is of a channel, its first byte: 0 to 2 are standard input, output and error, 3 says how it ended, 255 ends another.
async fn execute<S>(
    stream: WebSocketStream<S>,
    process: &crate::container::Process,
    command: &[String],
    input: bool,
) -> Result<()>
where
    S: AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut source) = stream.split();
    let mut child = process
        .command(command)
        .stdin(if input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(16);
    for (channel, pipe) in [
        (1, Box::new(child.stdout.take().context("no standard output")?) as Box<dyn AsyncRead + Send + Unpin>),
        (2, Box::new(child.stderr.take().context("no standard error")?)),
    ] {
        tokio::spawn(copy(channel, pipe, sender.clone()));
    }
    drop(sender);
    let mut stdin = child.stdin.take();
    loop {
        tokio::select! {
            message = receiver.recv() => match message {
                Some(message) => sink.send(Message::Binary(message.into())).await?,
                None => break,
            },
            message = source.next() => match message {
                Some(Ok(Message::Binary(bytes))) => match bytes.first() {
                    Some(0) => if let Some(stdin) = &mut stdin { stdin.write_all(&bytes[1..]).await? },
                    Some(255) => stdin = None,
                    _ => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
    let status = child.wait().await?;
    let said = match status.code() {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        code => {
            let code = code.unwrap_or(137).to_string();
            json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code}]},
            })
        }
    };
    let mut message = vec![3];
    message.extend(said.to_string().into_bytes());
    sink.send(Message::Binary(message.into())).await?;
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
    // Until the other side has closed it, too.
    while let Some(Ok(_)) = source.next().await {}
    Ok(())
}

async fn copy(channel: u8, mut pipe: Box<dyn AsyncRead + Send + Unpin>, to: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![channel; 16 * 1024];
    while let Ok(length @ 1..) = pipe.read(&mut buffer[1..]).await {
        if to.send(buffer[..=length].to_vec()).await.is_err() {
            return;
        }
    }
}
