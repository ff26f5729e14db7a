//! The program itself, as processes, against real servers; and what it must have stored.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use telemetry::roles::generate::Generate;
use tempfile::TempDir;

use super::guard;
use super::postgres::{Database, free_port};

/// How long anything may take that is awaited: generous, since the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The program with an environment of its own.
pub struct App {
    variables: Vec<(String, String)>,
    pub dir: TempDir,
}

/// A running role. Killed when dropped.
pub struct Role {
    child: Child,
    log: PathBuf,
    admin: u16,
}

impl App {
    /// With a queue and a store; empty = not set.
    pub fn new(redis: &str, database: &str) -> Self {
        Self::new_in(tempfile::tempdir().unwrap(), redis, database)
    }

    /// The same in this directory.
    pub fn new_in(dir: TempDir, redis: &str, database: &str) -> Self {
        let mut variables = Vec::new();
        for (name, value) in [("REDIS_URL", redis), ("DATABASE_URL", database)] {
            if !value.is_empty() {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        // What takes seconds in the field takes less in tests.
        for (name, value) in
            [("CLAIM_IDLE", "2s"), ("LEASE_TTL", "2s"), ("COMMAND_TIMEOUT", "2s"), ("BLOCK", "500ms"), ("RECONNECT_MAX", "500ms")]
        {
            variables.push((format!("TELEMETRY__REDIS__{name}"), value.to_owned()));
        }
        Self { variables, dir }
    }

    /// The same with another variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with all of these.
    pub fn with_all(mut self, variables: Vec<(String, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// A command of the program.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("TELEMETRY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_telemetry").into());
        let mut command = guard::command(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["TELEMETRY_", "REDIS_", "DATABASE_", "DB_", "CLUSTER_NAME"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .envs(self.variables.iter().map(|(n, v)| (n, v)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::from(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs a command with something on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A program that ends early reads no further.
            let _ = stdin.write_all(&input);
        });
        let done = Done::from(child.wait_with_output().unwrap());
        writer.join().unwrap();
        done
    }

    /// Starts a role with an admin server of its own.
    pub fn start(&self, arguments: &[&str]) -> Role {
        self.start_command(arguments[0], self.command(arguments))
    }

    /// The same with a variable.
    pub fn start_with(&self, name: &str, value: &str, arguments: &[&str]) -> Role {
        let mut command = self.command(arguments);
        command.env(name, value);
        self.start_command(arguments[0], command)
    }

    /// The same with only so many descriptors.
    pub fn start_with_descriptors(&self, descriptors: u32, arguments: &[&str]) -> Role {
        self.start_limited(&format!("--nofile={descriptors}:{descriptors}"), arguments)
    }

    /// The same with only so many bytes of address space.
    pub fn start_with_memory(&self, bytes: u64, arguments: &[&str]) -> Role {
        self.start_limited(&format!("--as={bytes}"), arguments)
    }

    fn start_limited(&self, limit: &str, arguments: &[&str]) -> Role {
        let plain = self.command(arguments);
        let mut command = guard::command("prlimit");
        command.arg(limit).arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        self.start_command(arguments[0], command)
    }

    fn start_command(&self, role: &str, mut command: Command) -> Role {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = self.dir.path().join(format!("{role}-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).unwrap();
        let admin = free_port();
        let listen = format!("127.0.0.1:{admin}");
        command.args(["--admin-listen", &listen]).stdout(file.try_clone().unwrap()).stderr(file);
        Role { child: command.spawn().expect("the program starts"), log, admin }
    }

    /// Writes a generated export and says what it holds.
    pub fn export(&self, name: &str, gpus: u32, steps: u64, seed: u64) -> (String, Holds) {
        let generate = Generate {
            gpus,
            duration: Duration::from_secs(steps),
            interval: Duration::from_secs(1),
            seed,
            start_ms: telemetry::model::TimeMs::from_millis(1_735_689_600_000),
        };
        let mut bytes = Vec::new();
        generate.write(&mut bytes).unwrap();
        let path = self.dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        (path.to_str().unwrap().to_owned(), Holds::of(&bytes))
    }
}

/// A finished command.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Done {
    /// It must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    /// One clear message: no panic, and these words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        assert!(!self.stderr.contains("panic"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        self
    }
}

impl Role {
    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where that is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Another signal, by name.
    pub fn signal(&self, name: &str) {
        guard::signal(self.pid(), name);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < PATIENCE, "it does not end ({}):\n{}", self.log_path().display(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// GET from its admin server: status and body; `None` while nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// A metric's value: the sum over the lines that begin so.
    pub fn metric(&self, begins: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        let values: Vec<f64> =
            text.lines().filter(|l| l.starts_with(begins)).filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Samples and sums (in thousandths) per metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds(pub BTreeMap<String, (i64, i64)>);

impl Holds {
    /// Of an export in the 12-column format.
    pub fn of(csv: &[u8]) -> Self {
        let mut holds = Self::default();
        for line in std::str::from_utf8(csv).unwrap().lines().skip(1) {
            let cells: Vec<&str> = line.splitn(12, ',').map(|cell| cell.trim_matches('"')).collect();
            let entry = holds.0.entry(cells[1].to_owned()).or_default();
            entry.0 += 1;
            entry.1 += (cells[10].parse::<f64>().unwrap() * 1000.0).round() as i64;
        }
        holds
    }

    /// Both together.
    pub fn plus(mut self, other: &Self) -> Self {
        for (metric, (rows, sum)) in &other.0 {
            let entry = self.0.entry(metric.clone()).or_default();
            entry.0 += rows;
            entry.1 += sum;
        }
        self
    }

    /// How many rows.
    pub fn rows(&self) -> i64 {
        self.0.values().map(|(rows, _)| rows).sum()
    }

    /// What a store holds of a cluster. A store that is not there yet holds nothing.
    pub async fn stored(database: &Database, cluster: &str) -> Self {
        let query = "SELECT metric_name, count(*), sum(round(value * 1000))::int8 FROM samples WHERE cluster = $1 GROUP BY 1";
        let Ok((client, connection)) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await else {
            return Self::default();
        };
        tokio::spawn(connection);
        let rows = client.query(query, &[&cluster]).await.unwrap_or_default();
        Self(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// Waits until a store holds exactly this of a cluster, and looks again a little later: what comes twice comes late.
    pub async fn arrive(&self, database: &Database, cluster: &str) {
        wait_for(&format!("{} rows of {cluster}", self.rows()), || async {
            Self::stored(database, cluster).await.rows() >= self.rows()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(&Self::stored(database, cluster).await, self, "exactly the rows and sums of {cluster}");
    }
}

/// Waits until something holds.
pub async fn wait_for<F>(what: &str, holds: impl Fn() -> F)
where
    F: Future<Output = bool>,
{
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small random sequence that a printed seed repeats.
pub struct Seeded(pub u64);

impl Seeded {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// The seed of a test: `SEED`, else a fixed one; printed where the test fails.
    pub fn from_environment(otherwise: u64) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        println!("SEED={seed}");
        Self(seed)
    }
}
