//! A real Redis Cluster: three primaries with a replica each (TLS, client certificates, an ACL), on free ports.

mod change;
mod view;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::certificates::Certificates;
use super::node::{Access, Node, words};
use super::postgres::free_port;

/// How long anything may take that is awaited: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a node calls itself to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// `localhost`.
    Hostname,
    /// 127.0.0.1.
    Ip,
    /// Nothing: clients go on with the address they know.
    Unknown,
}

/// Puts something (a relay) in front of a port of the node with this number; gives the port that others are told.
pub type Front = Arc<dyn Fn(usize, u16) -> u16 + Send + Sync>;

/// What may differ.
#[derive(Clone)]
pub struct Options {
    /// TLS with client certificates, and an ACL; otherwise neither.
    pub secure: bool,
    pub endpoints: Endpoints,
    /// Whether a slot without an owner stops all others.
    pub full_coverage: bool,
    pub node_timeout: Duration,
    /// What stands in front of every port (client and bus).
    pub front: Option<Front>,
    /// Where its files are; a directory of its own, removed in the end, where it is not said.
    pub dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            secure: true,
            endpoints: Endpoints::Hostname,
            full_coverage: false,
            node_timeout: Duration::from_millis(1500),
            front: None,
            dir: None,
        }
    }
}

/// A cluster. Its processes end when this is dropped. Nodes are named by their number, in the order they were started.
pub struct Cluster {
    access: Access,
    options: Options,
    dir: PathBuf,
    nodes: Mutex<Vec<Arc<Place>>>,
    _files: Option<TempDir>,
}

/// A node and what it is called.
pub struct Place {
    pub node: Node,
    pub id: String,
    /// What clients are told.
    pub client_port: u16,
    bus_port: u16,
}

impl Cluster {
    /// The default one.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts one and waits until it is whole.
    pub fn start_with(options: Options) -> Self {
        let files = options.dir.is_none().then(|| TempDir::new().unwrap());
        let dir = options.dir.clone().or_else(|| Some(files.as_ref()?.path().to_owned())).unwrap();
        let tls = options.secure.then(|| Arc::new(Certificates::new()));
        let access = Access { tls, acl: options.secure };
        let cluster = Self { access, options, dir, nodes: Mutex::new(Vec::new()), _files: files };
        for _ in 0..6 {
            cluster.start_node();
        }
        let first = cluster.place(0);
        let mut create = cluster.access.cli(first.node.port);
        create.args(["--cluster", "create"]);
        for place in cluster.places() {
            create.arg(format!("127.0.0.1:{}@{}", place.client_port, place.bus_port));
        }
        let done = create.args(["--cluster-replicas", "1", "--cluster-yes"]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("[OK] All 16384 slots covered"), "{said}\n{}", cluster.logs());
        cluster.wait_until_whole();
        cluster
    }

    /// Starts another process, which belongs to no cluster yet. Gives its number.
    fn start_node(&self) -> usize {
        let number = self.places().len();
        let (port, bus) = (free_port(), free_port());
        let told = |port| self.options.front.as_ref().map_or(port, |front| front(number, port));
        let (client_port, bus_port) = (told(port), told(bus));
        let timeout = self.options.node_timeout.as_millis().to_string();
        let [bus, announced_bus, announced] = [bus, bus_port, client_port].map(|port| port.to_string());
        let mut arguments = vec!["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", &timeout];
        // A replica whose link is broken for long is elected all the same: what it loses is to be lost.
        arguments.extend(["--cluster-replica-validity-factor", "0", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
        arguments.extend(["--cluster-require-full-coverage", if self.options.full_coverage { "yes" } else { "no" }]);
        arguments.extend(["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-bus-port", &announced_bus]);
        match self.options.endpoints {
            Endpoints::Hostname => {
                arguments.extend(["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"]);
            }
            Endpoints::Ip => {}
            Endpoints::Unknown => arguments.extend(["--cluster-preferred-endpoint-type", "unknown-endpoint"]),
        }
        if self.options.secure {
            arguments.extend(["--tls-cluster", "yes", "--cluster-announce-tls-port", &announced]);
        } else {
            arguments.extend(["--cluster-announce-port", &announced]);
        }
        let dir = self.dir.join(format!("node-{number}"));
        let mut all = self.access.server_arguments(port, &dir);
        all.extend(self.access.replica_arguments());
        all.extend(words(&arguments));
        let node = Node::start(port, &dir, &self.access, all);
        let id = node.command(&["CLUSTER", "MYID"]);
        self.all().push(Arc::new(Place { node, id, client_port, bus_port }));
        number
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Place>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node that was started.
    pub fn places(&self) -> Vec<Arc<Place>> {
        self.all().clone()
    }

    /// A node.
    pub fn place(&self, node: usize) -> Arc<Place> {
        self.all()[node].clone()
    }

    /// The URL of a node; any of them is enough.
    pub fn url(&self, node: usize) -> String {
        let scheme = if self.options.secure { "rediss" } else { "redis" };
        format!("{scheme}://localhost:{}", self.place(node).client_port)
    }

    /// What the program is told; the first node is the one it is told of.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("REDIS_URL".to_owned(), self.url(0))];
        variables.extend(self.access.variables());
        variables
    }

    /// Runs a command on a node.
    #[track_caller]
    pub fn command(&self, node: usize, words: &[&str]) -> String {
        self.place(node).node.command(words)
    }

    /// SIGKILL.
    pub fn kill(&self, node: usize) {
        self.place(node).node.kill();
    }

    /// Starts it again after [`Cluster::kill`].
    pub fn restart(&self, node: usize) {
        self.place(node).node.restart();
    }

    /// SIGSTOP.
    pub fn freeze(&self, node: usize) {
        self.place(node).node.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self, node: usize) {
        self.place(node).node.thaw();
    }

    /// The ends of all logs, for who has to find out what was wrong.
    pub fn logs(&self) -> String {
        self.places().iter().map(|place| place.node.log_end()).collect()
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "still waiting for {what}:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
