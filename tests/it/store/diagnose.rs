//! What `telemetry check` finds out about PostgreSQL: each fault in the step where it is, with the field's word for it.

use std::time::Duration;

use telemetry::diagnosis::{Outcome, Step};
use telemetry::store::Store;
use telemetry::store::postgres::{Use, diagnose};

use crate::support::certificates::{Authority, client};
use crate::support::postgres::{Database, PASSWORD, Server, free_port};
use crate::support::proxy::Proxy;

async fn look(url: &str) -> Vec<Step> {
    let mut config = Database { url: url.to_owned() }.config();
    config.connect_timeout = Duration::from_secs(3);
    let steps = diagnose(&config, Use::Writing).await;
    for step in &steps {
        let said = format!("{step:?}");
        assert!(!said.contains(PASSWORD) && !said.contains("hunter2"), "{said}");
        assert!(!step.seen.is_empty());
    }
    steps
}

#[track_caller]
fn step<'a>(steps: &'a [Step], name: &str) -> &'a Step {
    steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("no {name} in {steps:#?}"))
}

/// This step must have this outcome and say these words; and no other one may have failed.
#[track_caller]
fn finds(steps: &[Step], name: &str, outcome: Outcome, words: &[&str]) {
    let found = step(steps, name);
    assert_eq!(found.outcome, outcome, "{steps:#?}");
    let said = format!("{} {}", found.seen, found.todo);
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let others = steps.iter().filter(|step| step.name != name && step.outcome == Outcome::Failed);
    assert_eq!(others.count(), 0, "{steps:#?}");
}

fn full(server: &Server, authority: &Authority, user: &str, host: &str) -> (tempfile::NamedTempFile, String) {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &authority.pem).unwrap();
    let parameters = format!("sslmode=verify-full&sslrootcert={}", ca.path().display());
    let url = format!("postgres://{user}:{PASSWORD}@{host}:{}/postgres?{parameters}", server.port);
    (ca, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_database_is_described() {
    let database = Server::shared().database().await;
    let steps = look(&database.url).await;
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    let expected = [
        "configuration",
        "tcp",
        "tls",
        "login",
        "server",
        "writable",
        "schema",
        "rights",
        "connections",
        "settings",
        "size",
        "clock",
    ];
    assert_eq!(names, expected);
    finds(&steps, "schema", Outcome::Ok, &["the one this program knows", "public"]);
    finds(&steps, "rights", Outcome::Ok, &["migrate", "collect", "serve"]);
    finds(&steps, "login", Outcome::Ok, &["as postgres", "without TLS"]);
    finds(&steps, "tls", Outcome::Warning, &["sslmode=prefer", "verify-full"]);
    // Test servers do without.
    finds(&steps, "settings", Outcome::Warning, &["fsync"]);
    finds(&steps, "clock", Outcome::Ok, &["to within"]);
    for name in ["configuration", "tcp", "server", "writable", "connections", "size"] {
        assert_eq!(step(&steps, name).outcome, Outcome::Ok, "{steps:#?}");
    }

    let (server, authority) = Server::with_tls();
    let (_ca, url) = full(server, authority, "postgres", "localhost");
    let steps = look(&url).await;
    finds(&steps, "tls", Outcome::Ok, &["TLS 1.3", "localhost", "the authority of tests", "ends in", "for this name"]);
    finds(&steps, "dns", Outcome::Ok, &["127.0.0.1"]);
    finds(&steps, "login", Outcome::Ok, &["TLSv1.3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_line_are_where_they_are() {
    let (server, authority) = Server::with_tls();
    server.user("needs_cert").await;
    let nobody = free_port();
    finds(&look(&format!("postgres://u:hunter2@127.0.0.1:{nobody}/t")).await, "tcp", Outcome::Failed, &["refused", "listen"]);
    finds(
        &look("postgres://u:hunter2@no-such-host.invalid/t").await,
        "dns",
        Outcome::Failed,
        &["resolve", "no-such-host.invalid"],
    );
    let frozen = Proxy::to(server.port).await;
    frozen.silence();
    let steps = look(&format!("postgres://u:hunter2@127.0.0.1:{}/t?sslmode=require", frozen.port())).await;
    finds(&steps, "tls", Outcome::Failed, &["timed out"]);

    let other = Authority::new("another authority");
    let (_ca, url) = full(server, &other, "postgres", "localhost");
    let words = ["certificate", "authority we trust", "sslrootcert", "signed by CN=the authority of tests"];
    finds(&look(&url).await, "tls", Outcome::Failed, &words);
    let (_ca, url) = full(server, authority, "postgres", "127.0.0.1");
    finds(&look(&url).await, "tls", Outcome::Failed, &["certificate", "another name", "localhost"]);
    let plain = Server::shared().url("postgres");
    finds(&look(&format!("{plain}?sslmode=require")).await, "tls", Outcome::Failed, &["no TLS", "ssl = on"]);
    let (_ca, url) = full(server, authority, "needs_cert", "localhost");
    finds(&look(&url).await, "login", Outcome::Failed, &["client certificate", "sslcert"]);
    finds(&look(&plain.replace(PASSWORD, "hunter2")).await, "login", Outcome::Failed, &["password", "DB_PASSWORD"]);
    finds(&look(&Server::shared().url("no_such_database")).await, "login", Outcome::Failed, &["no_such_database", "create"]);
    let steps = look("postgres://u@h/t?sslmode=verify-ca").await;
    finds(&steps, "configuration", Outcome::Failed, &["sslrootcert"]);
    // One host of two is enough.
    let two = plain.replace("127.0.0.1", &format!("127.0.0.1:{nobody},127.0.0.1"));
    let steps = look(&two).await;
    assert!(steps.iter().any(|step| step.name == "tcp" && step.outcome == Outcome::Warning && step.seen.contains("refused")));
    finds(&steps, "login", Outcome::Ok, &[]);
    // A certificate of ours that ends soon.
    let (_ca, url) = full(server, authority, "needs_cert", "localhost");
    let ends = std::time::SystemTime::now() + Duration::from_secs(3 * 86_400 + 60);
    let issued = authority.issue(&crate::support::certificates::Wish { ends: Some(ends), ..client("needs_cert", 9) });
    let mut config = Database { url }.config();
    config.tls.cert = Some(issued.cert);
    config.tls.key = Some(issued.key.into());
    finds(&diagnose(&config, Use::Writing).await, "client certificate", Outcome::Warning, &["ends in 3 days"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_schema_and_of_rights_have_their_steps() {
    let server = Server::shared();
    let empty = server.empty_database().await;
    let steps = look(&empty.url).await;
    finds(&steps, "schema", Outcome::Ok, &["not made yet", "collect"]);
    finds(&steps, "rights", Outcome::Ok, &["enough"]);
    let tables: i64 = empty
        .client()
        .await
        .query_one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(tables, 0, "looking changes nothing");
    let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", empty.url);
    finds(&look(&read_only).await, "writable", Outcome::Failed, &["read only"]);

    let (reader, writer, nobody) =
        (format!("reads_{}", server.port), format!("writes_{}", server.port), format!("nobody_{}", server.port));
    let admin = empty.client().await;
    for role in [&reader, &writer, &nobody] {
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.unwrap();
    }
    let url = |role: &str| empty.url.replace("postgres:a", &format!("{role}:a"));
    finds(&look(&url(&nobody)).await, "rights", Outcome::Failed, &["permission", "GRANT", "CREATE"]);
    empty.store().migrate().await.unwrap();
    finds(&look(&url(&nobody)).await, "rights", Outcome::Failed, &["permission", "GRANT SELECT"]);
    admin
        .batch_execute(&format!(
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {writer}"
        ))
        .await
        .unwrap();
    finds(&look(&url(&reader)).await, "rights", Outcome::Warning, &["enough to serve"]);
    finds(&look(&url(&writer)).await, "rights", Outcome::Warning, &["partition", "owner"]);
    admin.batch_execute(&format!("ALTER ROLE {reader} CONNECTION LIMIT 2")).await.unwrap();
    finds(&look(&url(&reader)).await, "connections", Outcome::Warning, &["limited to 2", "pool_size"]);

    admin.batch_execute("DELETE FROM schema_migration WHERE version = 2; DELETE FROM schema_step").await.unwrap();
    finds(&look(&empty.url).await, "schema", Outcome::Ok, &["version 1", "needs 2", "migrate"]);
    finds(&look(&url(&reader)).await, "rights", Outcome::Failed, &["permission", "owner", "telemetry migrate"]);
    admin.batch_execute("INSERT INTO schema_migration VALUES (99, 'later', 'x')").await.unwrap();
    finds(&look(&empty.url).await, "schema", Outcome::Failed, &["version 99", "upgrade"]);
}
