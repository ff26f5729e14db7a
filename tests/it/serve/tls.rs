//! HTTPS: verified by a client that knows the authority, renewed without a restart.

use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::{Serving, app, write};
use crate::support::app::{App, text, wait_for};
use crate::support::http::send;
use crate::support::postgres::free_port;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Chain and key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn connector(&self, version: &'static SupportedProtocolVersion, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// GET over TLS; what is wrong, in words.
    async fn get(&self, port: u16, name: &'static str, version: &'static SupportedProtocolVersion) -> Result<String, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name).unwrap();
        let connector = self.connector(version, b"http/1.1");
        let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await
            .map_err(|error| error.to_string())?;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        Ok(answer)
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
    let (authority, other) = (Authority::new(), Authority::new());
    let app = app();
    let (chain_file, key_file) = (app.dir.path().join("tls.crt"), app.dir.path().join("tls.key"));
    let (chain, key) = authority.issue("gateway.example");
    write(&chain_file, &chain);
    write(&key_file, &key);
    let serving = serving(app, &chain_file, &key_file).await;
    for version in [&version::TLS12, &version::TLS13] {
        let answer = authority.get(serving.port, "gateway.example", version).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security"), "{answer}");
    }
    assert!(other.get(serving.port, "gateway.example", &version::TLS13).await.is_err());
    assert!(authority.get(serving.port, "renewed.example", &version::TLS13).await.is_err());
    let plain = send(serving.port, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(plain.is_none(), "no answer without TLS: {plain:?}");

    // HTTP/2 is offered, and spoken.
    let stream = TcpStream::connect(("127.0.0.1", serving.port)).await.unwrap();
    let name = ServerName::try_from("gateway.example").unwrap();
    let stream = authority.connector(&version::TLS13, b"h2").connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let (chain, key) = authority.issue("renewed.example");
    write(&chain_file, &chain);
    write(&key_file, &key);
    let renewed = || async { authority.get(serving.port, "renewed.example", &version::TLS13).await.is_ok() };
    wait_for("the new certificate", renewed).await;
    write(&key_file, "no key");
    wait_for("the fault is said", || async { renewed().await && serving.role.log().contains("no private key in PEM") }).await;
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
}
