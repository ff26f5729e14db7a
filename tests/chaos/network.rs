//! What stands between the processes: a relay in front of every port of Redis (for clients, and of the cluster's bus), which knows who
//! calls, and lets through who may. So a line can be cut and a cluster parted without root and without Redis knowing of it: nodes
//! announce the relays' ports, and nothing goes past them.
//!
//! Who calls is found out through /proc: the socket's inode, and the process that has it open.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::proxy::{Line, relay};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A server of Redis, by the number of its directory.
    Node(usize),
    /// `telemetry stream`.
    Streamer,
    /// Everybody else: `telemetry collect`, `audit`, …
    Other,
}

/// What is let through.
#[derive(Clone, Debug)]
struct Rules {
    /// The nodes of the minority: what they and the others say to each other gets lost, and clients reach both.
    apart: BTreeSet<usize>,
    /// The line of streamers.
    streamers: Line,
}

impl Rules {
    fn between(&self, caller: Caller, node: usize) -> Line {
        match caller {
            Caller::Node(other) if self.apart.contains(&other) != self.apart.contains(&node) => Line::Silent,
            Caller::Streamer => self.streamers,
            Caller::Node(_) | Caller::Other => Line::Open,
        }
    }
}

/// All lines.
pub struct Network {
    runtime: tokio::runtime::Handle,
    rules: watch::Sender<Rules>,
}

impl Network {
    /// Everything is let through.
    pub fn new(runtime: &tokio::runtime::Handle) -> Arc<Self> {
        let rules = watch::Sender::new(Rules { apart: BTreeSet::new(), streamers: Line::Open });
        Arc::new(Self { runtime: runtime.clone(), rules })
    }

    /// Puts a relay in front of a node's port; gives the relay's port.
    pub fn front(&self, node: usize, port: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let rules = self.rules.subscribe();
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((inbound, from)) = listener.accept().await {
                tokio::spawn(pass(inbound, from, own, (node, port), rules.clone()));
            }
        });
        own
    }

    /// Parts these nodes from the others.
    pub fn part(&self, nodes: &[usize]) {
        self.rules.send_modify(|rules| rules.apart = nodes.iter().copied().collect());
    }

    /// Does something with the line of streamers.
    pub fn streamers(&self, line: Line) {
        self.rules.send_modify(|rules| rules.streamers = line);
    }

    /// Lets everything through.
    pub fn mend(&self) {
        self.part(&[]);
        self.streamers(Line::Open);
    }
}

async fn pass(inbound: TcpStream, from: SocketAddr, own: u16, to: (usize, u16), mut rules: watch::Receiver<Rules>) {
    let Ok(caller) = tokio::task::spawn_blocking(move || who_calls(from.port(), own)).await else { return };
    let now = rules.borrow_and_update().between(caller, to.0);
    if now == Line::Cut {
        return;
    }
    let (line, delay) = (watch::Sender::new(now), watch::Sender::new(Duration::ZERO));
    let changes = async {
        while rules.changed().await.is_ok() {
            line.send_replace(rules.borrow_and_update().between(caller, to.0));
        }
    };
    tokio::select! {
        () = relay(inbound, to.1, line.subscribe(), delay.subscribe()) => {}
        () = changes => {}
    }
}

fn who_calls(from: u16, to: u16) -> Caller {
    let owner = inode(from, to).and_then(|inode| owner(&format!("socket:[{inode}]")));
    let Some(process) = owner else { return Caller::Other };
    let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(number) = name.strip_prefix("node-").and_then(|number| number.parse().ok()) {
        return Caller::Node(number);
    }
    let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
    if arguments.split(|byte| *byte == 0).nth(1) == Some(b"stream") { Caller::Streamer } else { Caller::Other }
}

/// The inode of a connection's socket on the side that called.
fn inode(from: u16, to: u16) -> Option<String> {
    let wanted = (format!("0100007F:{from:04X}"), format!("0100007F:{to:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|cells| {
        cells.get(1).is_some_and(|local| *local == wanted.0) && cells.get(2).is_some_and(|remote| *remote == wanted.1)
    })?;
    line.get(9).map(ToString::to_string)
}

/// The directory in /proc of the process that has this open: one of ours.
fn owner(socket: &str) -> Option<std::path::PathBuf> {
    let ours = |process: &Path| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        ["redis-server", "telemetry"].contains(&name.trim())
    };
    let has = |process: &Path| {
        let open = std::fs::read_dir(process.join("fd")).ok();
        open.is_some_and(|files| {
            files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.to_str() == Some(socket)))
        })
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    processes.filter(|process| ours(process)).find(|process| has(process))
}
