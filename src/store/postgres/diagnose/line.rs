//! The way to each host: its name, its port, its TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::connect::{Connector, Target};
use super::super::tls::{CA, CERT, Tls};
use crate::config::SslMode;
use crate::diagnosis::Step;
use crate::tls::{ClientSettings, ClientTls, Facts, Names, Verify, explain_io, facts};

/// Certificates that end within so many days are warned of.
const WARN_DAYS: i64 = 14;
/// The message that asks whether the server has TLS (SSLRequest).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Looks at every host. Where one fails, and another does not, that is a warning: one is enough.
pub(super) async fn look(connector: &Connector, patience: Duration) -> Vec<Step> {
    let mut all = Vec::new();
    for target in connector.targets() {
        all.push(look_at(target, connector.tls(), patience).await);
    }
    let failed = |steps: &Vec<Step>| steps.iter().any(|step| step.outcome == crate::diagnosis::Outcome::Failed);
    if all.iter().any(|steps| !failed(steps)) {
        for step in all.iter_mut().flatten().filter(|step| step.outcome == crate::diagnosis::Outcome::Failed) {
            step.outcome = crate::diagnosis::Outcome::Warning;
        }
    }
    all.into_iter().flatten().collect()
}

async fn look_at(target: &Target, tls: Option<&Tls>, patience: Duration) -> Vec<Step> {
    let Some(host) = target.name() else { return vec![socket(target, patience).await] };
    let mut steps = Vec::new();
    let addresses = match target.address {
        Some(address) => vec![SocketAddr::new(address, target.port)],
        None => match resolve(&host, target.port, patience).await {
            Ok(addresses) => {
                if host.parse::<std::net::IpAddr>().is_err() {
                    let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                    steps.push(Step::ok("dns", format!("{host} is {}", list.join(", "))));
                }
                addresses
            }
            Err(reason) => {
                steps.push(Step::failed(
                    "dns",
                    format!("cannot resolve {host}: {reason}"),
                    "correct the host in DATABASE_URL, or the DNS that this machine asks",
                ));
                return steps;
            }
        },
    };
    let (step, stream) = reach(&host, &addresses, patience).await;
    steps.push(step);
    let Some(stream) = stream else { return steps };
    match tls {
        None => {
            let far = addresses.iter().any(|address| !address.ip().is_loopback());
            steps.push(if far {
                Step::warning(
                    "tls",
                    "not used (sslmode=disable)",
                    "use sslmode=verify-full where the network is not protected otherwise",
                )
            } else {
                Step::ok("tls", "not used (sslmode=disable)")
            });
        }
        Some(tls) => steps.extend(secure(&host, stream, tls, patience).await),
    }
    steps
}

async fn socket(target: &Target, patience: Duration) -> Step {
    let directory = match &target.host {
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.clone(),
        _ => return Step::failed("socket", "no host", "name one in DATABASE_URL"),
    };
    let path = directory.join(format!(".s.PGSQL.{}", target.port));
    let shown = path.display().to_string();
    match tokio::time::timeout(patience, tokio::net::UnixStream::connect(&path)).await {
        Ok(Ok(_)) => Step::ok("socket", format!("{shown} answers; TLS is not for sockets")),
        Ok(Err(error)) => {
            Step::failed("socket", format!("{shown}: {error}"), "start PostgreSQL, or correct the directory or the port")
        }
        Err(_) => Step::failed("socket", format!("{shown}: timed out"), "look at PostgreSQL's log"),
    }
}

async fn resolve(host: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(patience, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("timed out".to_owned()),
    }
}

/// The first address that answers.
async fn reach(host: &str, addresses: &[SocketAddr], patience: Duration) -> (Step, Option<TcpStream>) {
    let mut failures = Vec::new();
    for address in addresses {
        let begun = Instant::now();
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let took = begun.elapsed().as_secs_f64() * 1000.0;
                return (Step::ok("tcp", format!("{address} answers after {took:.1} ms")), Some(stream));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                failures.push(format!("{address} refused the connection"));
            }
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address} timed out after {patience:?}")),
        }
    }
    let todo = format!(
        "see that PostgreSQL runs on {host} and listens there (listen_addresses, port), and that firewalls and network policies allow the connection"
    );
    (Step::failed("tcp", failures.join("; "), todo), None)
}

/// TLS with the server as it is wanted; and, where that fails, what the server shows.
async fn secure(host: &str, stream: TcpStream, tls: &Tls, patience: Duration) -> Vec<Step> {
    let weak = tls.mode < SslMode::Require;
    let address = stream.peer_addr();
    let current = tls.current();
    let connector = TlsConnector::from(Arc::clone(&current.config));
    let made = tokio::time::timeout(patience, start_tls(host, stream, &connector, tls.direct)).await;
    let step = match made {
        Ok(Ok(Some(stream))) => established(&stream, tls),
        Ok(Ok(None)) if weak => Step::warning(
            "tls",
            format!("the server has none, and sslmode={} allows a connection without", tls.mode.name()),
            "turn TLS on there (ssl = on), and use sslmode=verify-full",
        ),
        Ok(Ok(None)) => Step::failed(
            "tls",
            format!("the server has no TLS, and sslmode={} asks for it", tls.mode.name()),
            "turn TLS on there: ssl = on, with a certificate",
        ),
        Ok(Err(error)) => {
            let reason = explain_io(&error, CA, CERT).unwrap_or_else(|| format!("the handshake broke: {error}"));
            let shown = match address {
                Ok(address) => shown(host, address, tls.direct, patience).await,
                Err(_) => None,
            };
            let direct = if tls.direct { "; sslnegotiation=direct needs PostgreSQL 17 or later" } else { "" };
            let seen = shown.map_or_else(|| format!("{reason}{direct}"), |facts| format!("{reason}. It is {}", in_words(&facts)));
            if weak {
                Step::warning(
                    "tls",
                    format!("{seen}; sslmode={} allows a connection without TLS", tls.mode.name()),
                    "use sslmode=verify-full",
                )
            } else {
                Step::failed("tls", seen, "")
            }
        }
        Err(_) => Step::failed("tls", format!("no answer within {patience:?}: timed out"), "look at PostgreSQL's log"),
    };
    let mut steps = vec![step];
    steps.extend(tls.ends().map(|ends| own(ends, SystemTime::now())));
    steps
}

/// `None`: the server has no TLS.
async fn start_tls(
    host: &str,
    mut stream: TcpStream,
    connector: &TlsConnector,
    direct: bool,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    if !direct {
        stream.write_all(&SSL_REQUEST).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        if answer != *b"S" {
            return Ok(None);
        }
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    connector.connect(name, stream).await.map(Some)
}

fn established(stream: &TlsStream<TcpStream>, tls: &Tls) -> Step {
    let session = stream.get_ref().1;
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS").replace("TLSv1_", "TLS 1.");
    let shown = session.peer_certificates().and_then(|chain| facts(chain.first()?).ok());
    let verified = match tls.verify {
        Verify::Full => "signed by an authority we trust, for this name",
        Verify::Chain => "signed by an authority we trust; its name is not verified",
        Verify::Nothing => "not verified",
    };
    let Some(shown) = shown else { return Step::ok("tls", version) };
    let seen = format!("{version}; {}; {verified}", in_words(&shown));
    let days = shown.days_left(SystemTime::now());
    match tls.verify {
        _ if days < WARN_DAYS => Step::warning("tls", seen, "have the server's certificate renewed"),
        Verify::Nothing => {
            Step::warning("tls", seen, "anybody on the network can pose as the server: use sslmode=verify-full with sslrootcert")
        }
        _ => Step::ok("tls", seen),
    }
}

fn in_words(facts: &Facts) -> String {
    let names = if facts.names.is_empty() { "no names".to_owned() } else { facts.names.join(", ") };
    let days = match facts.days_left(SystemTime::now()) {
        days if days < 0 => "has expired".to_owned(),
        days => format!("ends in {days} days"),
    };
    format!("a certificate for {names}, signed by {}, that {days}", facts.issuer)
}

/// What the certificate of a server says that is not verified.
async fn shown(host: &str, address: SocketAddr, direct: bool, patience: Duration) -> Option<Facts> {
    let names = Names { what: "no certificates", ca: CA, cert: CERT, key: CERT };
    let settings = ClientSettings { ca: None, cert: None, key: None, verify: Verify::Nothing, names };
    let connector = TlsConnector::from(Arc::clone(&ClientTls::load(settings).ok()?.current().config));
    let looking = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let stream = start_tls(host, stream, &connector, direct).await.ok()??;
        facts(stream.get_ref().1.peer_certificates()?.first()?).ok()
    };
    tokio::time::timeout(patience, looking).await.ok()?
}

/// The step that looks at the client certificate.
fn own(ends: SystemTime, now: SystemTime) -> Step {
    const DAY: u64 = 86_400;
    let renew = "renew it; the files are read again by themselves";
    match ends.duration_since(now) {
        Err(_) => Step::failed("client certificate", "it has expired", renew),
        Ok(left) => {
            let days = left.as_secs() / DAY;
            let seen = format!("ends in {days} days");
            if i64::try_from(days).is_ok_and(|days| days < WARN_DAYS) {
                Step::warning("client certificate", seen, renew)
            } else {
                Step::ok("client certificate", seen)
            }
        }
    }
}
