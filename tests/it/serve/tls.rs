//! HTTPS: verified by a client that knows the authority, renewed without a restart.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::{Serving, app, write};
use crate::support::app::{App, text, wait_for};
use crate::support::certificates::{Authority, Issued, client, named};
use crate::support::http::send;
use crate::support::postgres::free_port;

impl Authority {
    /// What a client of ours says at once, and whom it trusts; it shows `own`, if that is asked for.
    fn connector(&self, version: &'static SupportedProtocolVersion, protocol: &[u8], own: Option<&Issued>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// GET over TLS; what is wrong, in words.
    async fn get(&self, port: u16, name: &'static str, version: &'static SupportedProtocolVersion) -> Result<String, String> {
        self.get_as(port, name, version, None).await
    }

    async fn get_as(
        &self,
        port: u16,
        name: &'static str,
        version: &'static SupportedProtocolVersion,
        own: Option<&Issued>,
    ) -> Result<String, String> {
        self.ask(port, name, version, own, "GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await
    }

    async fn ask(
        &self,
        port: u16,
        name: &'static str,
        version: &'static SupportedProtocolVersion,
        own: Option<&Issued>,
        request: &str,
    ) -> Result<String, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name).unwrap();
        let connector = self.connector(version, b"http/1.1", own);
        let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        // Whoever is refused learns it after the handshake.
        if answer.is_empty() { Err(format!("no answer: {read:?}")) } else { Ok(answer) }
    }
}

async fn serving(app: App, chain: &std::path::Path, key: &std::path::Path) -> Serving {
    let app = app.with("TELEMETRY__HTTP__TLS_CERT_FILE", text(chain)).with("TELEMETRY__HTTP__TLS_KEY_FILE", text(key));
    let port = free_port();
    let role = app.start(&["all", "--listen", &format!("127.0.0.1:{port}")]);
    let serving = Serving { app, role, port };
    wait_for("a ready role", || async { serving.role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    serving
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_verified_and_certificates_are_renewed() {
    let (authority, other) = (Authority::new("one"), Authority::new("another"));
    let app = app();
    let (chain_file, key_file) = (app.dir.path().join("tls.crt"), app.dir.path().join("tls.key"));
    authority.issue(&named(&["gateway.example"])).write(app.dir.path(), "tls");
    let serving = serving(app, &chain_file, &key_file).await;
    for version in [&version::TLS12, &version::TLS13] {
        let answer = authority.get(serving.port, "gateway.example", version).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security"), "{answer}");
    }
    assert!(other.get(serving.port, "gateway.example", &version::TLS13).await.is_err());
    assert!(authority.get(serving.port, "renewed.example", &version::TLS13).await.is_err());
    let plain = send(serving.port, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(plain.is_none(), "no answer without TLS: {plain:?}");

    // HTTP/2 is offered, and spoken.
    let stream = TcpStream::connect(("127.0.0.1", serving.port)).await.unwrap();
    let name = ServerName::try_from("gateway.example").unwrap();
    let stream = authority.connector(&version::TLS13, b"h2", None).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    authority.issue(&named(&["renewed.example"])).write(serving.app.dir.path(), "tls");
    let renewed = || async { authority.get(serving.port, "renewed.example", &version::TLS13).await.is_ok() };
    wait_for("the new certificate", renewed).await;
    let left = serving.role.metric("telemetry_certificate_expiry_seconds{target=\"http\"}").unwrap();
    assert!(left > 0.0, "{left}");
    write(&key_file, "no key");
    wait_for("the fault is said", || async { renewed().await && serving.role.log().contains("not a private key in PEM") }).await;
    assert!(renewed().await, "the good ones stay");
}

#[test]
fn files_that_are_no_certificates_are_refused() {
    let app = app();
    let (chain, key) = (app.dir.path().join("tls.crt"), app.dir.path().join("tls.key"));
    write(&chain, "no certificate");
    write(&key, "no key");
    let one = App::new("", "").with("TELEMETRY__HTTP__TLS_CERT_FILE", text(&chain));
    one.run(&["all", "--admin-listen", "off"]).exits(2).says(&["http.tls_cert_file", "http.tls_key_file"]);
    let both = one.with("TELEMETRY__HTTP__TLS_KEY_FILE", text(&key));
    both.run(&["all", "--admin-listen", "off"]).exits(2).says(&["tls.crt", "no certificate"]);
    // An authority for clients: only where there is HTTPS, and then it is as good as tokens.
    let alone = App::new("", "").with("TELEMETRY__HTTP__TLS_CLIENT_CA_FILE", text(&chain));
    alone.run(&["config", "check"]).exits(2).says(&["http.tls_client_ca_file", "http.tls_cert_file"]);
    let with_key = alone.with("TELEMETRY__HTTP__TLS_CERT_FILE", text(&chain)).with("TELEMETRY__HTTP__TLS_KEY_FILE", text(&key));
    with_key.with("TELEMETRY__HTTP__LISTEN", "0.0.0.0:8443").run(&["config", "check"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_for_clients_only_those_with_a_certificate_get_in() {
    let (servers, clients, others) = (Authority::new("servers"), Authority::new("clients"), Authority::new("others"));
    let app = app();
    let dir = app.dir.path().to_owned();
    servers.issue(&named(&["gateway.example"])).write(&dir, "tls");
    write(&dir.join("clients.crt"), &clients.pem);
    let app = app.with("TELEMETRY__HTTP__TLS_CLIENT_CA_FILE", text(&dir.join("clients.crt")));
    let serving = serving(app, &dir.join("tls.crt"), &dir.join("tls.key")).await;
    let (good, foreign) = (clients.issue(&client("grafana", 3)), others.issue(&client("grafana", 3)));
    for version in [&version::TLS12, &version::TLS13] {
        let get = |own| servers.get_as(serving.port, "gateway.example", version, own);
        let answer = get(Some(&good)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for refused in [None, Some(&foreign)] {
            let said = get(refused).await.unwrap_err();
            assert!(!said.contains("200"), "{said}");
        }
    }
    assert!(serving.role.log().contains("a client was refused"), "{}", serving.role.log());
    // Another authority takes effect, and the former one's clients are out.
    write(&dir.join("clients.crt"), &others.pem);
    let get = |own| servers.get_as(serving.port, "gateway.example", &version::TLS13, Some(own));
    wait_for("the other authority", || async { get(&foreign).await.is_ok() && get(&good).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_with_the_right_names_read_and_a_token_may_do_instead() {
    // sha256("secret")
    const TOKEN: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b grafana\n";
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let right = clients.issue(&named(&["grafana.monitoring.example"]));
    let wrong = clients.issue(&named(&["grafana.monitoring.example.evil.example"]));
    for authentication in ["", "all", "any"] {
        let app = app();
        let dir = app.dir.path().to_owned();
        servers.issue(&named(&["gateway.example"])).write(&dir, "tls");
        write(&dir.join("clients.crt"), &clients.pem);
        write(&dir.join("tokens"), TOKEN);
        let mut app = app
            .with("TELEMETRY__HTTP__TLS_CLIENT_CA_FILE", text(&dir.join("clients.crt")))
            .with("TELEMETRY__HTTP__TLS_CLIENT_NAMES", "*.Monitoring.example,spiffe://example/*");
        if !authentication.is_empty() {
            app = app
                .with("TELEMETRY__HTTP__AUTHENTICATION", authentication)
                .with("TELEMETRY_API_TOKENS_FILE", text(&dir.join("tokens")));
        }
        let serving = serving(app, &dir.join("tls.crt"), &dir.join("tls.key")).await;
        let mut statuses = Vec::new();
        for own in [Some(&right), Some(&wrong), None] {
            for token in ["", "Authorization: Bearer secret\r\n"] {
                let request = format!("GET /api/v1/gpus HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{token}\r\n");
                let answer = servers.ask(serving.port, "gateway.example", &version::TLS13, own, &request).await;
                statuses.push(answer.map_or(0, |answer| answer[9..12].parse::<u16>().unwrap()));
            }
        }
        // The right certificate, the wrong one, none; each without and with a token. 0: no connection.
        let want = match authentication {
            "" => [200, 200, 403, 403, 0, 0],
            "all" => [401, 200, 403, 403, 0, 0],
            _ => [200, 200, 401, 200, 401, 200],
        };
        assert_eq!(statuses, want, "{authentication}");
    }
    let alone = App::new("", "").with("TELEMETRY__HTTP__TLS_CLIENT_NAMES", "*.example");
    alone.run(&["config", "check"]).exits(2).says(&["http.tls_client_names", "http.tls_client_ca_file"]);
}
