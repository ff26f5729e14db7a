//! A real redis-server on a port of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tempfile::TempDir;

use super::guard;
use super::postgres::free_port;

/// A server. Its process ends when this is dropped.
pub struct RedisServer {
    port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
}

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    List(Vec<Reply>),
}

impl RedisServer {
    /// Starts one, with an append-only file.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        for _ in 0..5 {
            let server = Self {
                port: free_port(),
                dir: TempDir::new().unwrap(),
                arguments: arguments.iter().map(ToString::to_string).collect(),
                child: Mutex::new(None),
            };
            server.spawn();
            if server.wait_until_ready() {
                return server;
            }
            // Somebody else took the port: another one.
            assert!(server.log().contains("Address already in use"), "redis-server did not start:\n{}", server.log());
        }
        panic!("no free port for redis-server");
    }

    fn spawn(&self) {
        let child = guard::command("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--logfile", "log", "--dir"])
            .arg(self.dir.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be on PATH");
        *self.child.lock().unwrap() = Some(child);
    }

    fn wait_until_ready(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let ended = self.child.lock().unwrap().as_mut().is_none_or(|c| c.try_wait().unwrap().is_some());
            if ended {
                return false;
            }
            match self.try_command(&["PING"]) {
                Ok(Reply::Text(_)) => return true,
                Ok(Reply::Error(error)) if error.starts_with("NOAUTH") => return true,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("redis-server on port {} is not ready:\n{}", self.port, self.log());
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn signal(&self, signal: &str) {
        guard::signal(self.child.lock().unwrap().as_ref().expect("the server runs").id(), signal);
    }

    /// Stops its process where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Ends it without warning (SIGKILL).
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap().take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again after [`RedisServer::kill`], on the same port with the same files.
    pub fn restart(&self) {
        self.spawn();
        assert!(self.wait_until_ready(), "redis-server did not start again:\n{}", self.log());
    }

    /// Copies what it has on disk now.
    pub fn save(&self) -> TempDir {
        let kept = TempDir::new().unwrap();
        for file in std::fs::read_dir(self.dir.path().join("appendonlydir")).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), kept.path().join(file.file_name())).unwrap();
        }
        kept
    }

    /// Ends it, and starts it again with what it had on disk then: what a failover does that loses acknowledged writes.
    pub fn set_back(&self, to: &TempDir) {
        self.kill();
        let files = self.dir.path().join("appendonlydir");
        std::fs::remove_dir_all(&files).unwrap();
        std::fs::create_dir(&files).unwrap();
        for file in std::fs::read_dir(to.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), files.join(file.file_name())).unwrap();
        }
        self.restart();
    }

    /// Runs a command and gives its answer; panics when there is none.
    pub fn command(&self, words: &[&str]) -> Reply {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.log()))
    }

    /// Runs a command that answers a number.
    pub fn int(&self, words: &[&str]) -> i64 {
        match self.command(words) {
            Reply::Int(n) => n,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    /// Runs a command that must succeed.
    pub fn ok(&self, words: &[&str]) {
        if let Reply::Error(error) = self.command(words) {
            panic!("{words:?}: {error}");
        }
    }

    /// Adds an entry to a partition's stream as somebody would who knows the keys and nothing else.
    pub fn add_entry(&self, partition: u16, source: &str, (first, end): (u64, u64), payload: &[u8]) {
        let (stream, first, end) = (format!("{{telemetry:{partition}}}:stream"), first.to_string(), end.to_string());
        let words = ["XADD", &stream, "*", "s", source, "f", &first, "e", &end, "d"].map(str::as_bytes);
        let answer = self.try_bytes(&[&words[..], &[payload]].concat()).unwrap();
        assert!(matches!(answer, Reply::Text(_)), "{answer:?}");
    }

    /// Puts a dictionary under its name.
    pub fn set_dictionary(&self, partition: u16, id: &str, dictionary: &[u8]) {
        let key = format!("{{telemetry:{partition}}}:dict:{id}");
        let answer = self.try_bytes(&[b"SET", key.as_bytes(), dictionary]).unwrap();
        assert!(!matches!(answer, Reply::Error(_)), "{answer:?}");
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<Reply> {
        self.try_bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    fn try_bytes(&self, words: &[&[u8]]) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        read_reply(&mut BufReader::new(stream))
    }
}

fn read_reply(from: &mut impl BufRead) -> std::io::Result<Reply> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let rest = line[1..].to_owned();
    let count = || rest.parse::<i64>().map_err(std::io::Error::other);
    Ok(match &line[..1] {
        "+" => Reply::Text(rest),
        "-" => Reply::Error(rest),
        ":" => Reply::Int(count()?),
        "$" if count()? < 0 => Reply::Nil,
        "$" => {
            let mut bytes = vec![0; count()? as usize + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" if count()? < 0 => Reply::Nil,
        "*" => Reply::List((0..count()?).map(|_| read_reply(from)).collect::<Result<_, _>>()?),
        other => return Err(std::io::Error::other(format!("`{other}` begins no answer"))),
    })
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A configuration with short timeouts.
pub fn config(url: &str) -> telemetry::config::Redis {
    telemetry::config::Redis {
        url: SecretString::from(url.to_owned()),
        username: None,
        password: None,
        prefix: "t".to_owned(),
        partitions: telemetry::model::Partitions::new(2).expect("not 0"),
        max_backlog: 1_000,
        min_replicas: None,
        lease_ttl: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        command_timeout: Duration::from_secs(2),
        reconnect_min: Duration::from_millis(10),
        reconnect_max: Duration::from_millis(100),
        group: telemetry::model::GroupId::named("collectors"),
        consumer: "one".to_owned(),
        claim_idle: Duration::from_secs(60),
        block: Duration::from_millis(50),
        topology_refresh: Duration::from_secs(30),
        tls: telemetry::config::RedisTls::default(),
        sentinel_username: None,
        sentinel_password: None,
    }
}
