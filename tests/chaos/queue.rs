//! The Redis of a run: a cluster, or a single server; behind the relays of the network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::network::Network;
use crate::support::cluster::{Cluster, Options};
use crate::support::node::{Access, Node, words};
use crate::support::postgres::free_port;

/// As `redis.partitions` has it unless it is set.
const PARTITIONS: u16 = 8;

/// What Redis has of a part of the queue: how far each source is, and how many entries were ever added.
#[derive(Clone, Debug, Default)]
pub struct Has {
    pub rows: BTreeMap<String, i64>,
    pub entries: i64,
}

impl Has {
    fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.entries += other.entries;
    }
}

/// What is there.
pub enum Queue {
    /// Shards are numbered from 0: the nodes that belong together.
    Cluster { cluster: Cluster, shards: Vec<Vec<usize>>, slots: Vec<u16> },
    /// One server.
    Single { node: Node, port: u16 },
}

impl Queue {
    /// A cluster whose files are in this directory.
    pub fn cluster(network: &Arc<Network>, dir: &Path) -> Self {
        let relays = network.clone();
        let front: crate::support::cluster::Front = Arc::new(move |node, port| relays.front(node, port));
        let cluster = Cluster::start_with(Options { front: Some(front), dir: Some(dir.to_owned()), ..Options::default() });
        let shard = |primary: &usize| [vec![*primary], cluster.replicas_of(*primary)].concat();
        let shards = cluster.masters().iter().map(shard).collect();
        let slots = (0..PARTITIONS).map(|p| cluster.slot_of(&format!("{{telemetry:{p}}}"))).collect();
        Self::Cluster { cluster, shards, slots }
    }

    /// A single server whose files are in this directory.
    pub fn single(network: &Network, dir: &Path) -> Self {
        let access = Access { tls: None, acl: true };
        let (port, dir) = (free_port(), dir.join("node-0"));
        let mut arguments = access.server_arguments(port, &dir);
        arguments.extend(words(&["--appendonly", "yes", "--maxmemory-policy", "noeviction"]));
        Self::Single { node: Node::start(port, &dir, &access, arguments), port: network.front(0, port) }
    }

    /// What the program is told.
    pub fn variables(&self) -> Vec<(String, String)> {
        match self {
            Self::Cluster { cluster, .. } => cluster.variables(),
            Self::Single { port, .. } => {
                let mut variables = vec![("REDIS_URL".to_owned(), format!("redis://127.0.0.1:{port}"))];
                variables.extend(Access { tls: None, acl: true }.variables());
                variables
            }
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        match self {
            Self::Cluster { shards, .. } => shards.len(),
            Self::Single { .. } => 1,
        }
    }

    /// The cluster and the nodes of a shard, its primary first.
    pub fn shard(&self, shard: usize) -> Option<(&Cluster, Vec<usize>)> {
        let Self::Cluster { cluster, shards, .. } = self else { return None };
        let masters = cluster.masters();
        let mut nodes = shards[shard].clone();
        nodes.sort_by_key(|node| !masters.contains(node));
        Some((cluster, nodes))
    }

    /// Does something with the process of a shard's primary; gives the node's number.
    pub fn on_primary(&self, shard: usize, act: impl FnOnce(&Node)) -> usize {
        match self {
            Self::Single { node, .. } => {
                act(node);
                0
            }
            Self::Cluster { cluster, .. } => {
                let primary = self.shard(shard).expect("a cluster").1[0];
                act(&cluster.place(primary).node);
                primary
            }
        }
    }

    /// A node's process.
    pub fn with_node(&self, number: usize, act: impl FnOnce(&Node)) {
        match self {
            Self::Single { node, .. } => act(node),
            Self::Cluster { cluster, .. } => act(&cluster.place(number).node),
        }
    }

    /// The slot of each partition; empty for a single server.
    pub fn slots(&self) -> &[u16] {
        match self {
            Self::Cluster { slots, .. } => slots,
            Self::Single { .. } => &[],
        }
    }

    /// The partitions that a shard has now.
    pub fn partitions_of(&self, shard: usize) -> Vec<u16> {
        let Self::Cluster { slots, .. } = self else { return (0..PARTITIONS).collect() };
        let Some((cluster, nodes)) = self.shard(shard) else { return Vec::new() };
        let members = cluster.members();
        let has = |slot: &u16| {
            members.iter().any(|m| nodes.contains(&m.node) && m.of.is_none() && m.slots.iter().any(|range| range.contains(slot)))
        };
        (0..PARTITIONS).filter(|p| has(&slots[usize::from(*p)])).collect()
    }

    /// The partition of a source.
    pub fn partition_of(source: &str) -> u16 {
        let id = u128::from_str_radix(&source.replace('-', ""), 16).expect("a source's id is 128 bits");
        u16::try_from(id % u128::from(PARTITIONS)).expect("a small number")
    }

    /// What a node has of these partitions; a replica is asked too.
    pub fn has(&self, node: usize, partitions: &[u16]) -> Has {
        let mut all = Has::default();
        for partition in partitions {
            self.with_node(node, |node| all.add(has(node, *partition)));
        }
        all
    }

    /// How far a source is.
    pub fn position_of(&self, source: &str) -> Option<i64> {
        let partition = Self::partition_of(source);
        (0..self.shards()).filter(|shard| self.partitions_of(*shard).contains(&partition)).find_map(|shard| {
            let primary = self.on_primary(shard, |_| {});
            self.has(primary, &[partition]).rows.get(source).copied()
        })
    }

    /// Of what was lost, the sources that are where they were, or further: their lost rows have been sent again.
    pub fn sent_again(&self, lost: &Lost) -> Lost {
        let again = |(source, (_, had)): &(&String, &(i64, i64))| self.position_of(source).is_some_and(|row| row >= *had);
        let sources = lost.sources.iter().filter(again).map(|(source, rows)| (source.clone(), *rows)).collect();
        Lost { entries: 0, sources }
    }

    /// Whether everything runs and is in step. Does what an operator would for that.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Cluster { cluster, .. } => {
                cluster.close_slots();
                cluster.is_whole()
            }
            Self::Single { node, .. } => node.runs() && node.try_command(&["PING"]).as_deref() == Ok("PONG"),
        }
    }

    /// Everything runs, whatever was done before.
    pub fn start_all(&self) {
        let start = |node: &Node| {
            node.thaw();
            if node.is_dead() {
                node.restart();
            }
        };
        match self {
            Self::Single { node, .. } => start(node),
            Self::Cluster { cluster, .. } => cluster.places().iter().for_each(|place| start(&place.node)),
        }
    }

    /// The ends of the logs.
    pub fn logs(&self) -> String {
        match self {
            Self::Cluster { cluster, .. } => cluster.logs(),
            Self::Single { node, .. } => node.log_end(),
        }
    }
}

fn has(node: &Node, partition: u16) -> Has {
    let positions = format!("{{telemetry:{partition}}}:positions");
    let stream = format!("{{telemetry:{partition}}}:stream");
    let commands: [&[&str]; 3] = [&["READONLY"], &["HGETALL", &positions], &["XINFO", "STREAM", &stream]];
    let said = node.try_commands(&commands).unwrap_or_else(|error| panic!("{error}\n{}", node.log_end()));
    let lines: Vec<&str> = said.lines().collect();
    let rows = lines.windows(2).filter_map(|pair| {
        // A source, and `row:offset:digest`.
        let source = (pair[0].len() >= 32 && !pair[0].contains(':')).then(|| pair[0].to_owned())?;
        Some((source, pair[1].split_once(':')?.0.parse().ok()?))
    });
    let added = lines.iter().position(|line| *line == "entries-added").and_then(|at| lines.get(at + 1)?.parse().ok());
    Has { rows: rows.collect(), entries: added.unwrap_or(0) }
}

/// What Redis had acknowledged, and has not any more.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    pub entries: i64,
    /// Per source: the row up to which it still was there, and the one up to which it had been.
    pub sources: BTreeMap<String, (i64, i64)>,
}

impl Lost {
    /// The difference between who had it and who has it.
    pub fn between(had: &Has, kept: &Has) -> Self {
        let behind = had.rows.iter().filter_map(|(source, row)| {
            let has = kept.rows.get(source).copied().unwrap_or(0);
            (has < *row).then(|| (source.clone(), (has, *row)))
        });
        Self { entries: had.entries - kept.entries, sources: behind.collect() }
    }

    /// The rows.
    pub fn rows(&self) -> i64 {
        self.sources.values().map(|(kept, had)| had - kept).sum()
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} entries with {} rows of {} sources", self.entries, self.rows(), self.sources.len())
    }
}
