//! A real PgBouncer between the program and PostgreSQL: what shares server processes is found out, what does not works.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use telemetry::diagnosis::Outcome;
use telemetry::store::postgres::{PostgresStore, Use, diagnose};
use telemetry::store::{Store, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rows::{Content, plain};
use crate::support::app::{App, wait_for};
use crate::support::guard;
use crate::support::postgres::{Database, PASSWORD, Server, free_port};
use crate::support::redis::RedisServer;

/// A PgBouncer before the server that tests share.
struct Pooler {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Pooler {
    async fn start(mode: &str, size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, server) = (free_port(), Server::shared().port);
        let file = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres password={PASSWORD}\n[pgbouncer]\nlisten_addr=127.0.0.1\n\
             listen_port={port}\nauth_type=any\npool_mode={mode}\nunix_socket_dir=\ndefault_pool_size={size}\n"
        );
        std::fs::write(&file, text).unwrap();
        // It does not run as root.
        let mut command = guard::command("pgbouncer");
        std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path()).status().unwrap();
        command.args(["-q", "-u", "postgres"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pooler = Self { child: command.spawn().expect("pgbouncer starts (tests/setup installs it)"), port, _dir: dir };
        wait_for("PgBouncer", || async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
        pooler
    }

    fn before(&self, database: &Database) -> Database {
        Database { url: format!("postgres://postgres@127.0.0.1:{}/{}", self.port, database.name()) }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_server_processes_is_refused() {
    let database = Server::shared().database().await;
    for (mode, size) in [("transaction", 3), ("transaction", 1), ("statement", 3)] {
        let pooler = Pooler::start(mode, size).await;
        let through = pooler.before(&database);
        let store: PostgresStore = through.store();
        let refused = store.id().await.expect_err("refused").to_string();
        assert!(refused.contains("pooler") && refused.contains("pool_mode = session"), "{mode}, {size}: {refused}");
        let steps = diagnose(&through.config(), Use::Writing).await;
        let step = steps.last().expect("steps");
        assert_eq!((step.name, step.outcome), ("pooler", Outcome::Failed), "{mode}, {size}: {steps:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_end_where_a_pooler_shares_server_processes() {
    let pooler = Pooler::start("transaction", 3).await;
    let redis = RedisServer::start();
    let through = pooler.before(&Server::shared().database().await);
    let app = App::new(&redis.url(), &through.url);
    for arguments in [&["collect"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let mut role = app.start(arguments);
        assert_eq!(role.wait(), 2, "{}", role.log());
        assert!(role.log().contains("pool_mode = session"), "{}", role.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_session_mode_works() {
    let database = Server::shared().empty_database().await;
    let pooler = Pooler::start("session", 20).await;
    let store = pooler.before(&database).store();
    store.migrate().await.expect("migrated");
    let committed = store.commit(&[Content::new("a", plain(5)).all()]).await.expect("committed");
    assert!(!committed.settled.is_empty());
    let steps = diagnose(&pooler.before(&database).config(), Use::Writing).await;
    assert!(steps.iter().all(|step| step.outcome != Outcome::Failed), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_a_second_connection_is_no_pooler() {
    let server = Server::shared();
    let database = server.database().await;
    let admin = database.client().await;
    let owner = format!("lonely_{}", database.name());
    admin
        .batch_execute(&format!(
            "CREATE ROLE {owner} SUPERUSER LOGIN PASSWORD '{PASSWORD}'; ALTER ROLE {owner} NOSUPERUSER CONNECTION LIMIT 1"
        ))
        .await
        .expect("a role");
    admin.batch_execute(&format!("GRANT pg_read_all_data TO {owner}")).await.expect("rights");
    let url = database.url.replacen("postgres://postgres:", &format!("postgres://{owner}:"), 1);
    let store = Database { url }.store();
    let said = match store.id().await {
        Ok(_) => return,
        Err(error) => error,
    };
    assert!(!matches!(said, StoreError::Refused { .. }), "it may wait, not end: {said}");
}

/// What a server does at a moment when nothing is known about it yet.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// It is being stopped when a transaction is to begin.
    Stopped,
    /// It stands still for a while, once.
    Stalled,
}

/// A server that knows how to tell its process, and is in trouble; everything else it does not answer.
struct Troubled {
    listener: TcpListener,
    trouble: Trouble,
    connections: AtomicU32,
    /// Questions of the first connection.
    asked: AtomicU32,
}

impl Troubled {
    async fn start(trouble: Trouble) -> (Arc<Self>, Database) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://u@127.0.0.1:{}/d?sslmode=disable", listener.local_addr().unwrap().port());
        let server = Arc::new(Self { listener, trouble, connections: AtomicU32::new(0), asked: AtomicU32::new(0) });
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = accepting.listener.accept().await {
                let number = accepting.connections.fetch_add(1, Ordering::Relaxed);
                let server = Arc::clone(&accepting);
                tokio::spawn(async move { server.serve(stream, number).await });
            }
        });
        (server, Database { url })
    }

    /// Ends with the connection, or where it does not answer.
    async fn serve(&self, mut stream: TcpStream, number: u32) -> Option<()> {
        read_message(&mut stream, false).await?;
        stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await.ok()?;
        loop {
            let (kind, body) = read_message(&mut stream, true).await?;
            let text = String::from_utf8_lossy(&body).into_owned();
            let answer = match (kind, self.trouble) {
                (b'Q', Trouble::Stopped) if text.starts_with("BEGIN") => {
                    message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0")
                }
                (b'Q', trouble) if text.starts_with("SELECT pg_backend_pid()") => {
                    let stalls =
                        matches!(trouble, Trouble::Stalled) && number == 0 && self.asked.fetch_add(1, Ordering::Relaxed) == 1;
                    if stalls {
                        // Longer than the one process of a pooler is waited for.
                        tokio::time::sleep(Duration::from_secs(4)).await;
                    }
                    let pid = (1000 + number).to_string();
                    let mut column = b"\0\x01pid\0".to_vec();
                    column.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 0]);
                    let mut row = vec![0, 1, 0, 0, 0, 4];
                    row.extend(pid.as_bytes());
                    [message(b'T', &column), message(b'D', &row), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
                }
                (b'Q', _) => [message(b'C', b"DONE\0"), message(b'Z', b"I")].concat(),
                _ => return None,
            };
            stream.write_all(&answer).await.ok()?;
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

async fn read_message(stream: &mut TcpStream, named: bool) -> Option<(u8, Vec<u8>)> {
    let kind = if named { stream.read_u8().await.ok()? } else { 0 };
    let mut body = vec![0; usize::try_from(stream.read_u32().await.ok()?).ok()?.checked_sub(4)?];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_or_stalls_at_that_moment_is_no_pooler() {
    for trouble in [Trouble::Stopped, Trouble::Stalled] {
        let (server, database) = Troubled::start(trouble).await;
        let said = database.store().id().await.expect_err("it answers nothing that is stored");
        assert!(matches!(said, StoreError::Unavailable { .. }), "{trouble:?}: {said:?}");
        assert!(server.connections.load(Ordering::Relaxed) > 2, "{trouble:?}: it was looked for a pooler, and then used");
    }
}
