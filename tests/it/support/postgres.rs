//! A real PostgreSQL: one for the whole test binary, with a database of its own for each test, or one of its own for a test that
//! kills it. A watchdog on a pipe stops it and removes its files when the test process ends, however it ends.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use telemetry::config::{Postgres as Config, PostgresTls};
use telemetry::store::Store;
use telemetry::store::postgres::PostgresStore;
use tokio_postgres::{Client, NoTls};

use super::certificates::{Authority, Issued, named};

/// Of the superuser.
pub const PASSWORD: &str = "a-secret-of-tests";
const TEMPLATE: &str = "telemetry_template";

/// pg_hba.conf of a server with TLS. Such users are made by [`Server::user`].
const RULES: &str = "\
local     all postgres                 scram-sha-256
hostssl   all only_tls    127.0.0.1/32 scram-sha-256
hostnossl all only_plain  127.0.0.1/32 scram-sha-256
hostssl   all needs_cert  127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl   all by_cert     127.0.0.1/32 cert
host      all postgres    127.0.0.1/32 scram-sha-256
host      all rotated     127.0.0.1/32 scram-sha-256
";

/// A server.
pub struct Server {
    pub dir: PathBuf,
    bin: PathBuf,
    pub port: u16,
    /// With TLS: options, and rules of who may log in how.
    tls: bool,
    /// Its standard input closes with us.
    watchdog: Child,
}

/// A database of one's own.
#[derive(Clone, Debug)]
pub struct Database {
    pub url: String,
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.starts_with(b"0\n")
}

/// Where initdb and pg_ctl are: on PATH, or where distributions put them.
fn bin_dir() -> PathBuf {
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut packaged: Vec<PathBuf> = glob::glob("/usr/lib/postgresql/*/bin").expect("a glob").filter_map(Result::ok).collect();
    packaged.sort();
    on_path
        .chain(packaged.into_iter().rev())
        .find(|dir| dir.join("initdb").exists() && dir.join("pg_ctl").exists())
        .expect("PostgreSQL is installed (initdb and pg_ctl)")
}

/// A command as a user that PostgreSQL runs as.
fn command(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) {
    assert!(succeeds(command), "{command:?} failed");
}

fn succeeds(command: &mut Command) -> bool {
    // No pipes: the server would inherit them and keep them open.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").status();
    status.expect("the command starts").success()
}

/// A free port, never the same twice, below those that outgoing connections take (32768 and up): who listens there a moment later
/// still finds it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Several test binaries may run at once: each begins elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    (0..20_000)
        .map(|_| {
            12_000 + u16::try_from((begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % 20_000).expect("below 20,000")
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Server {
    /// The server that tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            std::thread::spawn(|| {
                let server = Self::start();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(server.make_template());
                server
            })
            .join()
            .expect("PostgreSQL starts")
        })
    }

    /// A server with TLS that tests share, with the authority that signed its certificate and those of its clients. It is `localhost`.
    pub fn with_tls() -> (&'static Self, &'static Authority) {
        static SHARED: OnceLock<(Server, Authority)> = OnceLock::new();
        let (server, authority) = SHARED.get_or_init(|| {
            let authority = Authority::new("the authority of tests");
            (Self::start_with_tls(&authority.issue(&named(&["localhost"])), &authority), authority)
        });
        (server, authority)
    }

    /// A server of one's own with TLS. Users that are named after how they may log in are in [`RULES`].
    pub fn start_with_tls(own: &Issued, clients: &Authority) -> Self {
        Self::start_as(Some((own, clients)))
    }

    /// A server of one's own.
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// A standby of this server, which follows it.
    pub fn standby(&self) -> Self {
        let (dir, watchdog) = Self::place();
        let from = format!("host=127.0.0.1 port={} user=postgres password={PASSWORD}", self.port);
        // On PATH there may be links to some of the programs only.
        let real = std::fs::canonicalize(self.bin.join("pg_ctl")).expect("it is there");
        run(command(&real.with_file_name("pg_basebackup"))
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "-d", &from, "-D"])
            .arg(dir.join("data")));
        Self { dir, bin: self.bin.clone(), port: free_port(), tls: false, watchdog }.started()
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) {
        run(self.pg_ctl().args(["-w", "promote"]));
    }

    /// A directory, and what stops the server in it and removes it when we are gone.
    fn place() -> (PathBuf, Child) {
        let dir = tempfile::Builder::new().prefix("telemetry-pg-").tempdir().expect("a directory").keep();
        std::fs::write(dir.join("password"), PASSWORD).expect("a password file");
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(&dir));
        }
        let script = "cat >/dev/null; kill -QUIT \"$(head -1 \"$0/data/postmaster.pid\")\"; \
                      while [ -e \"$0/data/postmaster.pid\" ] && kill -0 \"$(head -1 \"$0/data/postmaster.pid\")\"; do sleep 0.05; done; \
                      rm -rf \"$0\"";
        let watchdog = Command::new("sh")
            .args(["-c", script])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the watchdog starts");
        (dir, watchdog)
    }

    fn start_as(tls: Option<(&Issued, &Authority)>) -> Self {
        let (bin, (dir, watchdog)) = (bin_dir(), Self::place());
        run(command(&bin.join("initdb"))
            .args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--pwfile"])
            .arg(dir.join("password"))
            .arg("-D")
            .arg(dir.join("data")));
        let server = Self { dir, bin, port: free_port(), tls: tls.is_some(), watchdog };
        if let Some((own, clients)) = tls {
            std::fs::write(server.dir.join("clients.crt"), &clients.pem).expect("a file");
            server.write_certificate(own);
            std::fs::write(server.dir.join("data/pg_hba.conf"), RULES).expect("the rules");
        }
        server.started()
    }

    fn started(mut self) -> Self {
        // A port that was free may be taken before the server has it.
        for _ in 0..5 {
            if self.try_start() {
                return self;
            }
            self.port = free_port();
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    /// Starts it (again), on its port.
    pub fn start_again(&self) {
        assert!(self.try_start(), "PostgreSQL starts again");
    }

    fn try_start(&self) -> bool {
        let mut options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off -c max_connections=300 \
             -c shared_buffers=64MB -c max_locks_per_transaction=256",
            self.port,
            self.dir.display()
        );
        if self.tls {
            let file = |name: &str| self.dir.join(name).display().to_string();
            options += &format!(
                " -c ssl=on -c ssl_cert_file={} -c ssl_key_file={} -c ssl_ca_file={}",
                file("server.crt"),
                file("server.key"),
                file("clients.crt")
            );
        }
        succeeds(self.pg_ctl().args(["-w", "-o", &options, "-l"]).arg(self.dir.join("log")).arg("start"))
    }

    /// Gives it another certificate, which counts a moment later.
    pub fn replace_certificate(&self, own: &Issued) {
        self.write_certificate(own);
        run(self.pg_ctl().arg("reload"));
    }

    fn write_certificate(&self, own: &Issued) {
        own.write(&self.dir, "server");
        let key = self.dir.join("server.key");
        run(Command::new("chmod").arg("600").arg(&key));
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&key));
        }
    }

    /// Kills it as a crash would: no checkpoint, no goodbye.
    pub fn crash(&self) {
        run(self.pg_ctl().args(["-w", "-m", "immediate", "stop"]));
    }

    /// Stops it as an administrator would: sessions are ended, everything is written.
    pub fn stop(&self) {
        run(self.pg_ctl().args(["-w", "-m", "fast", "stop"]));
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn pg_ctl(&self) -> Command {
        let mut command = command(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.dir.join("data"));
        command
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// A user, with the rights of a superuser and the password of tests.
    pub async fn user(&self, name: &str) {
        let admin = Database { url: self.url("postgres") }.client().await;
        let made = admin.batch_execute(&format!("CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")).await;
        // Tests that share a server may share a user.
        let there = |error: &tokio_postgres::Error| error.code().is_some_and(|code| ["42710", "23505"].contains(&code.code()));
        assert!(made.as_ref().err().is_none_or(there), "{made:?}");
    }

    /// Its version, such as 150004.
    pub async fn version(&self) -> i32 {
        let admin = Database { url: self.url("postgres") }.client().await;
        let row = admin.query_one("SELECT current_setting('server_version_num')::int", &[]).await.expect("a version");
        row.get(0)
    }

    /// A new database without any schema.
    pub async fn empty_database(&self) -> Database {
        self.create("template1").await
    }

    /// A new database with the schema, and an id of its own.
    pub async fn database(&self) -> Database {
        let database = self.create(TEMPLATE).await;
        database.client().await.batch_execute("UPDATE store SET id = gen_random_uuid()").await.expect("a new id");
        database
    }

    /// A copy of a database, which nobody may be connected to, under another name.
    pub async fn copy(&self, database: &Database) -> Database {
        self.create(&database.name()).await
    }

    /// Puts a copy in the place of a database, under whoever is connected to it.
    pub async fn put_back(&self, database: &Database, copy: &Database) {
        let admin = Database { url: self.url("postgres") }.client().await;
        admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name())).await.expect("dropped");
        admin.batch_execute(&format!("ALTER DATABASE {} RENAME TO {}", copy.name(), database.name())).await.expect("put back");
    }

    async fn create(&self, template: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = Database { url: self.url("postgres") }.client().await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        // While somebody still is in the template, or copies it, it has to wait.
        while let Err(error) = admin.batch_execute(&create).await {
            assert_eq!(error.code().map(|code| code.code()), Some("55006"), "{error:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Database { url: self.url(&name) }
    }

    async fn make_template(&self) {
        let admin = Database { url: self.url("postgres") }.client().await;
        admin.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await.expect("a template");
        let template = Database { url: self.url(TEMPLATE) };
        template.store().migrate().await.expect("the schema");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // It may have been reaped already, with the process that started it.
        let _ = self.watchdog.wait();
    }
}

impl Database {
    /// Its name.
    pub fn name(&self) -> String {
        let path = self.url.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// What a role would be configured with.
    pub fn config(&self) -> Config {
        Config {
            url: self.url.clone().into(),
            password: None,
            pool_size: 4,
            download_percent: 50,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            idle_transaction_timeout: Duration::from_secs(30),
            series_cache: 100_000,
            tls: PostgresTls::default(),
        }
    }

    /// A store in it.
    pub fn store(&self) -> PostgresStore {
        PostgresStore::connect(&self.config()).expect("a good configuration")
    }

    /// A plain connection.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }
}
