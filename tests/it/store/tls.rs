//! TLS to PostgreSQL: modes as libpq has them, every fault with its words, and what is renewed without a restart.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use telemetry::config::{PostgresTls, SslMode};
use telemetry::store::postgres::PostgresStore;
use telemetry::store::{Store, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};

use crate::support::app::{App, text, wait_for};
use crate::support::certificates::{Authority, Issued, Wish, client, named};
use crate::support::postgres::{Database, PASSWORD, Server, free_port};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

fn url(user: &str, host: &str, port: u16, parameters: &str) -> String {
    format!("postgres://{user}:{PASSWORD}@{host}:{port}/postgres?{parameters}")
}

async fn ping(url: &str) -> Result<PostgresStore, StoreError> {
    let store = PostgresStore::connect(&Database { url: url.to_owned() }.config())?;
    store.ping().await.map(|()| store)
}

/// Of the connections of this name: whether they are encrypted, and the serial numbers of the certificates they showed.
async fn seen(server: &Server, application: &str) -> Vec<(bool, Option<String>)> {
    let sql = "SELECT ssl, client_serial::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
    let rows = Database { url: server.url("postgres") }.client().await.query(sql, &[&application]).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// It must be refused for good (or only for now), with these words and without the password.
#[track_caller]
fn fails(outcome: Result<PostgresStore, StoreError>, for_good: bool, words: &[&str]) {
    let error = outcome.map(|_| ()).expect_err("it must fail");
    let said = error.to_string();
    let refused = matches!(error, StoreError::Refused { .. });
    assert!(refused == for_good && error.is_transient() != for_good, "{error:?}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert!(!said.contains(PASSWORD), "{said}");
}

/// A server with TLS, its authority, the file with that authority's certificate, and the parameters that ask for its full check.
fn verified() -> (&'static Server, &'static Authority, tempfile::NamedTempFile, String) {
    let (server, authority) = Server::with_tls();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&ca, &authority.pem).unwrap();
    let full = format!("sslmode=verify-full&sslrootcert={}", ca.path().display());
    (server, authority, ca, full)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_does_what_it_does_in_libpq() {
    let (server, authority) = Server::with_tls();
    for user in ["only_tls", "only_plain"] {
        server.user(user).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("c a+.crt");
    std::fs::write(&ca, &authority.pem).unwrap();
    let ca = format!("sslrootcert={}", text(&ca).replace(' ', "%20"));
    let plain = Server::shared().port;
    // user, host, parameters, whether it is encrypted then
    for (at, (user, host, parameters, encrypted)) in [
        ("postgres", "localhost", "", true),
        ("postgres", "localhost", "sslmode=disable", false),
        ("postgres", "localhost", "sslmode=allow", false),
        ("only_tls", "localhost", "sslmode=allow", true),
        ("postgres", "localhost", "sslmode=prefer", true),
        ("only_plain", "localhost", "sslmode=prefer", false),
        ("only_tls", "127.0.0.1", "sslmode=require", true),
        ("postgres", "127.0.0.1", &format!("sslmode=require&{ca}"), true),
        ("postgres", "127.0.0.1", &format!("sslmode=verify-ca&{ca}"), true),
        ("postgres", "localhost", &format!("sslmode=verify-full&{ca}"), true),
        ("postgres", "localhost", &format!("sslmode=verify-full&{ca}&hostaddr=127.0.0.1&ssl_min_protocol_version=TLSv1.3"), true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("mode_{at}");
        let url = url(user, host, server.port, &format!("application_name={name}&{parameters}"));
        let store = ping(&url).await.unwrap_or_else(|error| panic!("{user} {parameters}: {error}"));
        assert_eq!(seen(server, &name).await, [(encrypted, None)], "{user} {parameters}");
        drop(store);
    }
    // A server that has no TLS.
    for mode in ["", "sslmode=allow", "sslmode=prefer"] {
        ping(&url("postgres", "127.0.0.1", plain, mode)).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
    }
    fails(ping(&url("postgres", "127.0.0.1", plain, "sslmode=require")).await, true, &["has no TLS", "sslmode"]);
    // The same as key=value pairs, and over its socket, which needs none.
    let pairs = format!(
        "host={} port={} user=postgres password={PASSWORD} dbname=postgres sslmode=verify-full application_name=socket",
        server.dir.display(),
        server.port
    );
    let store = ping(&pairs).await.expect("over the socket");
    assert_eq!(seen(server, "socket").await, [(false, None)]);
    drop(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_has_its_words() {
    let (server, authority) = Server::with_tls();
    for user in ["only_tls", "only_plain", "needs_cert", "by_cert"] {
        server.user(user).await;
    }
    let (other, double) = (Authority::new("another authority"), Authority::new("the authority of tests"));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, other_ca, double_ca) = (file("ca", &authority.pem), file("other", &other.pem), file("double", &double.pem));
    let full = |ca: &str| format!("sslmode=verify-full&sslrootcert={ca}");
    let at = |user: &str, host: &str, parameters: &str| url(user, host, server.port, parameters);

    fails(ping(&at("postgres", "localhost", &full(&other_ca))).await, true, &["authority we trust", "sslrootcert"]);
    fails(ping(&at("postgres", "localhost", &full(&double_ca))).await, true, &["same name, with another key", "sslrootcert"]);
    fails(ping(&at("postgres", "localhost", "sslmode=verify-full&sslrootcert=system")).await, true, &["authority we trust"]);
    fails(ping(&at("postgres", "127.0.0.1", &full(&ca))).await, true, &["another name", "127.0.0.1", "localhost"]);
    fails(ping(&at("only_tls", "localhost", "sslmode=disable")).await, true, &["without TLS", "verify-full"]);
    fails(ping(&at("only_plain", "localhost", "sslmode=require")).await, true, &["pg_hba.conf", "add a line"]);
    let wrong = at("postgres", "localhost", "sslmode=require").replace(PASSWORD, "hunter2");
    fails(ping(&wrong).await, true, &["password", "DB_PASSWORD"]);
    let plain = at("postgres", "localhost", "sslmode=disable&channel_binding=require");
    fails(ping(&plain).await, true, &["channel_binding=require", "TLS"]);
    let local = at("postgres", "localhost", &full("/does/not/exist"));
    fails(ping(&local).await, true, &["sslrootcert: /does/not/exist cannot be read"]);

    // Certificates of clients.
    let shown = |issued: &Issued| {
        let (cert, key) = (file("client.crt", &issued.cert), file("client.key", &issued.key));
        format!("{}&sslcert={cert}&sslkey={key}", full(&ca))
    };
    fails(ping(&at("needs_cert", "localhost", &full(&ca))).await, true, &["client certificate", "sslcert"]);
    let wrong_name = shown(&authority.issue(&client("somebody", 7)));
    fails(ping(&at("by_cert", "localhost", &wrong_name)).await, true, &["common name", "pg_ident.conf"]);
    fails(ping(&at("needs_cert", "localhost", &wrong_name)).await, true, &["common name", "password"]);
    let unknown = shown(&other.issue(&client("by_cert", 7)));
    fails(ping(&at("by_cert", "localhost", &unknown)).await, true, &["does not accept our client certificate", "sslcert"]);
    let ended = SystemTime::now() - Duration::from_secs(3600);
    let expired = shown(&authority.issue(&Wish { ends: Some(ended), ..client("by_cert", 7) }));
    fails(ping(&at("by_cert", "localhost", &expired)).await, true, &["client certificate has expired", "sslcert"]);

    // And the good ones.
    for user in ["needs_cert", "by_cert"] {
        let good = shown(&authority.issue(&client(user, 77)));
        let store = ping(&at(user, "localhost", &format!("{good}&application_name=good_{user}"))).await.expect(user);
        assert_eq!(seen(server, &format!("good_{user}")).await, [(true, Some("77".to_owned()))]);
        assert!(store.certificate_ends().is_some_and(|ends| ends > SystemTime::now()));
    }
    // The same as keys, in PEM.
    let issued = authority.issue(&client("by_cert", 78));
    let mut config = Database { url: at("by_cert", "localhost", "application_name=keys") }.config();
    config.tls = PostgresTls {
        mode: Some(SslMode::VerifyFull),
        ca: Some(authority.pem.clone()),
        cert: Some(issued.cert),
        key: Some(issued.key.into()),
    };
    let store = PostgresStore::connect(&config).expect("a configuration");
    store.ping().await.expect("good keys");
    assert_eq!(seen(server, "keys").await, [(true, Some("78".to_owned()))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_shows_is_looked_at_closely() {
    let authority = Authority::new("an authority");
    let server = Server::start_with_tls(&authority.issue(&named(&["localhost"])), &authority);
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let full = |host: &str| url("postgres", host, server.port, &format!("sslmode=verify-full&sslrootcert={}", ca.display()));
    let shows = |issued: Issued, trusted: &str| {
        std::fs::write(&ca, trusted).unwrap();
        server.replace_certificate(&issued);
    };
    let says = |host: &'static str, words: &'static str| {
        let full = &full;
        wait_for(words, move || async move { ping(&full(host)).await.is_err_and(|error| error.to_string().contains(words)) })
    };

    let ended = SystemTime::now() - Duration::from_secs(60);
    shows(authority.issue(&Wish { ends: Some(ended), ..named(&["localhost"]) }), &authority.pem);
    says("localhost", "has expired").await;
    // Its people may be about to renew it.
    fails(ping(&full("localhost")).await, false, &["certificate has expired", "renew it"]);
    shows(authority.issue(&Wish { common_name: "localhost", ..named(&[]) }), &authority.pem);
    says("localhost", "subject alternative names").await;
    fails(ping(&full("localhost")).await, true, &["subject alternative names"]);
    // Made by `openssl req -x509`: its own authority.
    let own = named(&["localhost"]).self_signed();
    shows(own.clone(), &own.cert);
    wait_for("trust in a certificate of its own", || async { ping(&full("localhost")).await.is_ok() }).await;
    fails(ping(&full("127.0.0.1")).await, true, &["another name"]);
    let over = Wish { ends: Some(ended), ..named(&["localhost"]) }.self_signed();
    shows(over.clone(), &over.cert);
    says("localhost", "has expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_hosts_are_tried_one_after_the_other() {
    let (server, _, _ca, full) = verified();
    let frozen = Proxy::to(server.port).await;
    frozen.silence();
    let dead = free_port();
    let hosts = |hosts: &str| format!("postgres://postgres:{PASSWORD}@{hosts}/postgres?{full}");
    ping(&hosts(&format!("localhost:{dead},localhost:{}", server.port))).await.expect("the second host");
    let mut config = Database { url: hosts(&format!("localhost:{},localhost:{}", frozen.port(), server.port)) }.config();
    config.connect_timeout = Duration::from_millis(1500);
    PostgresStore::connect(&config).expect("a configuration").ping().await.expect("the host behind the frozen one");
    // What a person has to put right is said, in whatever place it is.
    fails(ping(&hosts(&format!("127.0.0.1:{},localhost:{dead}", server.port))).await, true, &["another name"]);
    let socket = server.dir.display().to_string().replace('/', "%2F");
    ping(&hosts(&format!("localhost:{dead},{socket}:{}", server.port))).await.expect("the socket");
}

/// Ends TLS in front of a server, with a certificate of its own. `asks`: as PostgreSQL does it, after a question; else at once.
/// Behind it, TLS goes on where `again` is set.
async fn terminator(to: u16, own: &Issued, asks: bool, again: bool) -> u16 {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut question = [0; 8];
                if asks {
                    inbound.read_exact(&mut question).await.ok()?;
                    inbound.write_all(b"S").await.ok()?;
                }
                let mut inbound = acceptor.accept(inbound).await.ok()?;
                assert_eq!(inbound.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
                let mut outbound = TcpStream::connect(("127.0.0.1", to)).await.ok()?;
                if again {
                    outbound.write_all(&question).await.ok()?;
                    outbound.read_exact(&mut [0]).await.ok()?;
                    let mut outbound = trusting().connect("localhost".try_into().unwrap(), outbound).await.ok()?;
                    tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await.ok()
                } else {
                    tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await.ok()
                }
            });
        }
    });
    port
}

/// A client that trusts everybody.
fn trusting() -> tokio_rustls::TlsConnector {
    let settings = telemetry::tls::ClientSettings {
        ca: None,
        cert: None,
        key: None,
        verify: telemetry::tls::Verify::Nothing,
        names: telemetry::tls::Names { what: "nothing", ca: "", cert: "", key: "" },
    };
    Arc::clone(&telemetry::tls::ClientTls::load(settings).unwrap().current().config).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_in_between_is_noticed_by_the_channel_s_binding() {
    let (server, authority, _ca, full) = verified();
    ping(&url("postgres", "localhost", server.port, &format!("{full}&channel_binding=require"))).await.expect("it is bound");
    // With a certificate that we trust, and the very traffic of the server behind it.
    let between = terminator(server.port, &authority.issue(&named(&["localhost"])), true, true).await;
    fails(ping(&url("postgres", "localhost", between, &full)).await, true, &["channel binding"]);
    ping(&url("postgres", "localhost", between, &format!("{full}&channel_binding=disable"))).await.expect("nobody asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_from_the_first_byte_on() {
    let (server, authority, _ca, full) = verified();
    let direct = format!("{full}&sslnegotiation=direct");
    let front = terminator(server.port, &authority.issue(&named(&["localhost"])), false, false).await;
    ping(&url("postgres", "localhost", front, &format!("{direct}&channel_binding=disable"))).await.expect("direct");
    if server.version().await < 170_000 {
        fails(
            ping(&url("postgres", "localhost", server.port, &direct)).await,
            false,
            &["sslnegotiation=direct", "PostgreSQL 17"],
        );
    } else {
        ping(&url("postgres", "localhost", server.port, &direct)).await.expect("direct");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_replaces_the_connections() {
    let (server, authority) = Server::with_tls();
    server.user("by_cert").await;
    let app = App::new("", "");
    let dir = app.dir.path().to_owned();
    let file = |name: &str| dir.join(name).display().to_string();
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    std::fs::write(dir.join("ca.crt"), &authority.pem).unwrap();
    authority.issue(&Wish { ends: Some(in_an_hour), ..client("by_cert", 501) }).write(&dir, "client");
    let app = app
        .with("DATABASE_URL", &url("by_cert", "localhost", server.port, "application_name=renewed&sslmode=verify-full"))
        .with("TELEMETRY__POSTGRES__TLS__CA", &file("ca.crt"))
        .with("TELEMETRY__POSTGRES__TLS__CERT", &file("client.crt"))
        .with("TELEMETRY__POSTGRES__TLS__KEY", &file("client.key"));
    app.run(&["migrate"]).exits(0);
    let listen = format!("127.0.0.1:{}", free_port());
    let role = app.start(&["serve", "--listen", &listen]);
    wait_for("a ready server", || async { role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    let left = || role.metric("telemetry_certificate_expiry_seconds{target=\"postgres-client\"}").unwrap_or_default();
    wait_for("the metric", || async { left() > 3000.0 && left() <= 3600.0 }).await;
    // A connection for questions, beside the one of the heartbeat.
    let port: u16 = listen.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(crate::support::http::get(port, "/api/v1/clusters", &[]).unwrap().status, 200);
    let serials = || async { seen(server, "renewed").await.into_iter().filter_map(|(_, serial)| serial).collect::<Vec<_>>() };
    assert!(serials().await.iter().filter(|serial| *serial == "501").count() >= 2, "{:?}", serials().await);

    authority.issue(&client("by_cert", 502)).write(&dir, "client");
    wait_for("no connection with the old certificate", || async {
        let serials = serials().await;
        !serials.is_empty() && serials.iter().all(|serial| serial == "502")
    })
    .await;
    wait_for("the new end", || async { left() > 3700.0 }).await;
    assert_eq!(crate::support::http::get(port, "/api/v1/clusters", &[]).unwrap().status, 200);
    assert_eq!(role.get("/readyz").unwrap().0, 200);
    assert!(role.log().contains("certificates of PostgreSQL were read again"), "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_rotated_under_a_running_collector() {
    let (server, _) = Server::with_tls();
    server.user("rotated").await;
    let (redis, database) = (RedisServer::start(), server.empty_database().await);
    let app = App::new(&redis.url(), "");
    let password = app.dir.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let name = database.url.rsplit('/').next().unwrap();
    let app = app
        .with("DATABASE_URL", &format!("postgres://rotated@localhost:{}/{name}?sslmode=require", server.port))
        .with("DB_PASSWORD_FILE", text(&password));
    let (csv, holds) = app.export("a.csv", 4, 20, 3);
    let mut collect = app.start(&["collect"]);
    wait_for("a ready collector", || async { collect.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    let client = database.client().await;
    // On the server first: until the file has it, too, nobody gets in.
    client.batch_execute("ALTER ROLE rotated PASSWORD 'another'").await.unwrap();
    client.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'").await.unwrap();
    app.run(&["stream", "--csv", &csv, "--cluster", "p"]).exits(0);
    wait_for("the fault is said", || async { collect.log().contains("accepted earlier; retrying") }).await;
    assert!(collect.ended().is_none() && collect.get("/readyz").unwrap().0 == 503, "{}", collect.log());
    let next = app.dir.path().join("next");
    std::fs::write(&next, "another\n").unwrap();
    std::fs::rename(&next, &password).unwrap();
    holds.arrive(&database, "p").await;
    assert!(collect.ended().is_none(), "{}", collect.log());
    // One that starts with a wrong one ends, with a message.
    std::fs::write(&password, "wrong\n").unwrap();
    app.run(&["collect", "--admin-listen", "off"]).exits(2).says(&["password", "DB_PASSWORD_FILE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_with_2_where_waiting_cannot_help() {
    let (server, _) = Server::with_tls();
    let other = Authority::new("another authority");
    let app = App::new("", "");
    let ca = app.dir.path().join("other.crt");
    std::fs::write(&ca, &other.pem).unwrap();
    let with = |parameters: &str| url("postgres", "localhost", server.port, parameters);
    for command in [&["migrate"][..], &["serve", "--admin-listen", "off", "--listen", "127.0.0.1:0"]] {
        let wrong = with(&format!("sslmode=verify-full&sslrootcert={}", ca.display()));
        let app = App::new("", &wrong);
        app.run(command).exits(2).says(&["certificate", "authority we trust", "sslrootcert"]);
    }
    let check = |url: &str| App::new("", url).run(&["config", "check"]).exits(2);
    check(&with("sslmode=maybe")).says(&["postgres.url (DATABASE_URL)", "sslmode=maybe", "verify-full"]);
    check(&with("sslmode=verify-full&sslrootcert=/no/such")).says(&["postgres.url (DATABASE_URL)", "sslrootcert", "/no/such"]);
    let key = "TELEMETRY__POSTGRES__TLS__CA";
    let keys = App::new("", &with("sslrootcert=system")).with(key, "/no/such");
    keys.run(&["config", "check"]).exits(2).says(&["postgres.tls.ca", "sslrootcert", "differ"]);
    let keys = App::new("", &with("")).with(key, "/no/such");
    keys.run(&["config", "check"]).exits(2).says(&[&format!("postgres.tls.ca ({key})"), "/no/such"]);
    let mode = App::new("", &with("")).with("TELEMETRY__POSTGRES__TLS__MODE", "maybe");
    mode.run(&["config", "check"]).exits(2).says(&["TELEMETRY__POSTGRES__TLS__MODE", "maybe", "verify-full"]);
}
