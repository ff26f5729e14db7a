//! A primary, two replicas, and three Sentinels that watch over them (TLS, client certificates, an ACL), on free ports.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::certificates::Certificates;
use super::node::{Access, Node, PASSWORD, USER, words};
use super::postgres::free_port;

/// What the Sentinels call the primary.
pub const SERVICE: &str = "telemetry-queue";

/// How long anything may take that is awaited.
const PATIENCE: Duration = Duration::from_secs(90);

/// Servers and Sentinels. Their processes end when this is dropped.
pub struct Sentinel {
    access: Access,
    servers: Vec<Node>,
    sentinels: Vec<Node>,
    _files: TempDir,
}

impl Sentinel {
    /// Starts all six and waits until the Sentinels know each other and the replicas; with TLS and an ACL, or with neither.
    pub fn start(secure: bool) -> Self {
        let files = TempDir::new().unwrap();
        let access = Access { tls: secure.then(|| Arc::new(Certificates::new())), acl: secure };
        let ports = [free_port(), free_port(), free_port()];
        let servers = ports.iter().enumerate().map(|(i, port)| {
            let dir = files.path().join(format!("server-{i}"));
            let mut arguments = access.server_arguments(*port, &dir);
            arguments.extend(access.replica_arguments());
            arguments.extend(words(&["--appendonly", "yes", "--maxmemory-policy", "noeviction"]));
            if i > 0 {
                arguments.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), ports[0].to_string()]);
            }
            Node::start(*port, &dir, &access, arguments)
        });
        let servers = servers.collect();
        let sentinels = (0..3).map(|i| start_sentinel(&access, &files.path().join(format!("sentinel-{i}")), ports[0])).collect();
        let all = Self { access, servers, sentinels, _files: files };
        all.wait_until_whole();
        all
    }

    /// The servers; the first one began as the primary.
    pub fn servers(&self) -> &[Node] {
        &self.servers
    }

    /// The Sentinels.
    pub fn sentinels(&self) -> &[Node] {
        &self.sentinels
    }

    /// What the program is told.
    pub fn variables(&self) -> Vec<(String, String)> {
        let scheme = if self.access.tls.is_some() { "rediss-sentinel" } else { "redis-sentinel" };
        let others: Vec<_> = self.sentinels[1..].iter().map(|other| format!("node=localhost:{}", other.port)).collect();
        let first = self.sentinels[0].port;
        let url = format!("{scheme}://localhost:{first}?sentinelServiceName={SERVICE}&{}", others.join("&"));
        let mut variables = vec![("REDIS_URL".to_owned(), url)];
        variables.extend(self.access.variables());
        variables
    }

    /// The primary, as most Sentinels that run say.
    pub fn primary(&self) -> Option<usize> {
        let says = |sentinel: &Node| {
            let said = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).ok()?;
            let port: u16 = said.lines().nth(1)?.parse().ok()?;
            self.servers.iter().position(|server| server.port == port)
        };
        let said: Vec<_> = self.sentinels.iter().filter(|sentinel| sentinel.runs()).filter_map(says).collect();
        said.iter().copied().find(|one| said.iter().filter(|other| *other == one).count() >= 2)
    }

    /// Has the Sentinels make another server the primary; gives it.
    #[track_caller]
    pub fn fail_over(&self) -> usize {
        let before = self.primary();
        // Right after another failover they refuse for a while.
        self.wait_for("a failover to begin", || self.sentinels[0].command(&["SENTINEL", "FAILOVER", SERVICE]) == "OK");
        self.wait_for_successor(before)
    }

    /// Waits until another server is the primary; gives it.
    #[track_caller]
    pub fn wait_for_successor(&self, before: Option<usize>) -> usize {
        let successor = || self.primary().filter(|now| Some(*now) != before && self.is_primary(*now));
        self.wait_for("another primary", || successor().is_some());
        successor().expect("it was there")
    }

    fn is_primary(&self, server: usize) -> bool {
        self.servers[server].info("replication", "role").as_deref() == Some("master")
    }

    /// Waits until every process runs, the Sentinels know each other, and all replicas are in step.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        let field = |said: &str, name: &str| said.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
        let knows = |sentinel: &Node| {
            let said = sentinel.try_command(&["SENTINEL", "MASTER", SERVICE]).unwrap_or_default();
            ["num-slaves", "num-other-sentinels"].iter().all(|name| field(&said, name).as_deref() == Some("2"))
                && field(&said, "flags").as_deref() == Some("master")
        };
        let in_step = |primary: usize| {
            self.is_primary(primary)
                && (0..self.servers.len()).filter(|server| *server != primary).all(|server| {
                    let replication = self.servers[server].try_command(&["INFO", "replication"]).unwrap_or_default();
                    replication.contains("master_link_status:up")
                        && replication.contains(&format!("master_port:{}\r", self.servers[primary].port))
                })
        };
        self.wait_for("Sentinels that know everybody", || {
            self.sentinels.iter().all(knows) && self.primary().is_some_and(in_step)
        });
    }

    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "still waiting for {what}:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        self.servers.iter().chain(&self.sentinels).map(Node::log_end).collect()
    }
}

/// A Sentinel keeps what it learns in its configuration file.
fn start_sentinel(access: &Access, dir: &Path, primary: u16) -> Node {
    let port = free_port();
    let mut conf = String::new();
    for word in access.server_arguments(port, dir) {
        match word.strip_prefix("--") {
            Some(option) => conf.push_str(&format!("\n{option}")),
            None => conf.push_str(&format!(" \"{word}\"")),
        }
    }
    conf.push_str(&format!(
        "\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds {SERVICE} 1000\n\
         sentinel failover-timeout {SERVICE} 3000\n"
    ));
    if access.acl {
        conf.push_str(&format!("sentinel auth-user {SERVICE} {USER}\nsentinel auth-pass {SERVICE} \"{PASSWORD}\"\n"));
        conf.push_str(&format!("sentinel sentinel-user {USER}\nsentinel sentinel-pass \"{PASSWORD}\"\n"));
    }
    let file = dir.join("sentinel.conf");
    std::fs::write(&file, conf).unwrap();
    Node::start(port, dir, access, vec![super::node::text(&file), "--sentinel".to_owned()])
}
