//! One redis-server process among others (of a cluster, or around a Sentinel), and redis-cli to talk to it: with TLS and an ACL.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::certificates::Certificates;
use super::guard;

/// The user of tests, and a password that is not safe in a URL.
pub const USER: &str = "telemetry";
pub const PASSWORD: &str = "s3cr#t/pw";

/// How its processes are reached.
#[derive(Clone)]
pub struct Access {
    /// TLS, with client certificates required.
    pub tls: Option<Arc<Certificates>>,
    /// Only [`USER`] may come in.
    pub acl: bool,
}

impl Access {
    /// How a server is told to be reached: its port, certificates and users. Makes its directory, and the file of users in it.
    pub fn server_arguments(&self, port: u16, dir: &Path) -> Vec<String> {
        std::fs::create_dir_all(dir).unwrap();
        let mut arguments = words(&["--bind", "127.0.0.1", "--save", "", "--logfile", "log", "--dir"]);
        arguments.push(text(dir));
        match &self.tls {
            None => arguments.extend(words(&["--port", &port.to_string()])),
            Some(certificates) => {
                arguments.extend(words(&["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "yes"]));
                arguments.extend(words(&["--tls-replication", "yes"]));
                for (option, file) in [("ca-cert", "ca.crt"), ("cert", "server.crt"), ("key", "server.key")] {
                    arguments.extend([format!("--tls-{option}-file"), text(&certificates.path(file))]);
                }
            }
        }
        if self.acl {
            let users = format!("user default off\nuser {USER} on ~* &* +@all >{PASSWORD}\n");
            std::fs::write(dir.join("users.acl"), users).unwrap();
            arguments.extend(["--aclfile".to_owned(), text(&dir.join("users.acl"))]);
        }
        arguments
    }

    /// How a replica is told to log in at its primary.
    pub fn replica_arguments(&self) -> Vec<String> {
        if self.acl { words(&["--masteruser", USER, "--masterauth", PASSWORD]) } else { Vec::new() }
    }

    /// redis-cli, with what it needs to come in. A server that does not answer ends it.
    pub fn cli(&self, port: u16) -> Command {
        let mut cli = Command::new("timeout");
        cli.args(["-s", "KILL", "20", "redis-cli", "-h", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(certificates) = &self.tls {
            cli.arg("--tls");
            for (option, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
                cli.arg(option).arg(certificates.path(file));
            }
        }
        if self.acl {
            cli.args(["--user", USER]).env("REDISCLI_AUTH", PASSWORD);
        }
        cli
    }

    /// What the program is told of it, but for the URL.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        if self.acl {
            variables.push(("REDIS_USERNAME".to_owned(), USER.to_owned()));
            variables.push(("REDIS_PASSWORD".to_owned(), PASSWORD.to_owned()));
        }
        if let Some(certificates) = &self.tls {
            variables.push(("REDIS_TLS_ENABLED".to_owned(), "true".to_owned()));
            for (name, file) in
                [("REDIS_CA_CERT", "ca.crt"), ("REDIS_CLIENT_CERT", "client.crt"), ("REDIS_CLIENT_KEY", "client.key")]
            {
                variables.push((name.to_owned(), text(&certificates.path(file))));
            }
        }
        variables
    }
}

/// A process. Ends when dropped.
pub struct Node {
    pub port: u16,
    dir: PathBuf,
    access: Access,
    arguments: Vec<String>,
    state: Mutex<State>,
}

enum State {
    Running(Child),
    Frozen(Child),
    Dead,
}

impl Node {
    /// Starts one; its log is in this directory.
    pub fn start(port: u16, dir: &Path, access: &Access, arguments: Vec<String>) -> Self {
        let node = Self { port, dir: dir.to_owned(), access: access.clone(), arguments, state: Mutex::new(State::Dead) };
        node.restart();
        node
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it (again), on the same port with the same files.
    pub fn restart(&self) {
        assert!(matches!(*self.state(), State::Dead), "it runs");
        let child = guard::command("redis-server")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be on PATH");
        *self.state() = State::Running(child);
        let begun = Instant::now();
        while self.try_command(&["PING"]).as_deref() != Ok("PONG") {
            let ended = match &mut *self.state() {
                State::Running(child) => child.try_wait().unwrap().is_some(),
                State::Frozen(_) | State::Dead => true,
            };
            assert!(!ended && begun.elapsed() < Duration::from_secs(30), "redis-server did not start:\n{}", self.log_end());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let state = std::mem::replace(&mut *self.state(), State::Dead);
        if let State::Running(mut child) | State::Frozen(mut child) = state {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        let mut state = self.state();
        *state = match std::mem::replace(&mut *state, State::Dead) {
            State::Running(child) => {
                guard::signal(child.id(), "STOP");
                State::Frozen(child)
            }
            other => other,
        };
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        let mut state = self.state();
        *state = match std::mem::replace(&mut *state, State::Dead) {
            State::Frozen(child) => {
                guard::signal(child.id(), "CONT");
                State::Running(child)
            }
            other => other,
        };
    }

    /// Neither dead nor frozen.
    pub fn runs(&self) -> bool {
        matches!(*self.state(), State::Running(_))
    }

    /// Dead.
    pub fn is_dead(&self) -> bool {
        matches!(*self.state(), State::Dead)
    }

    /// Runs a command and gives what redis-cli prints, also an error of Redis; panics where nobody answers.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.log_end()))
    }

    /// Runs a command that answers OK.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) {
        let said = self.command(words);
        assert_eq!(said, "OK", "{words:?}\n{}", self.log_end());
    }

    /// As [`Node::command`]; an error where nobody answers.
    pub fn try_command(&self, words: &[&str]) -> Result<String, String> {
        self.try_commands(&[words])
    }

    /// Several commands on one connection, and all that they print.
    pub fn try_commands(&self, commands: &[&[&str]]) -> Result<String, String> {
        let mut cli = self.access.cli(self.port);
        let mut child =
            cli.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("redis-cli must be on PATH");
        let mut stdin = child.stdin.take().unwrap();
        // By its input, not its arguments: any word is taken, and no password shows in a list of processes.
        let lines: String = commands.iter().map(|words| line(words)).collect();
        // A redis-cli that cannot connect does not read.
        let _ = stdin.write_all(lines.as_bytes());
        drop(stdin);
        let done = child.wait_with_output().unwrap();
        let (said, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        if done.status.success() && !error.contains("Could not connect") {
            return Ok(said.trim_end().to_owned());
        }
        Err(format!("{} {}", said.trim(), error.trim()))
    }

    /// A field of INFO.
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        let info = self.try_command(&["INFO", section]).ok()?;
        info.lines().find_map(|line| Some(line.trim().strip_prefix(field)?.strip_prefix(':')?.to_owned()))
    }

    /// The end of what it wrote to its log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- redis-server on port {}:\n{}\n", self.port, lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn line(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    quoted.join(" ") + "\n"
}

/// Owned words.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
