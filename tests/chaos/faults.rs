//! What each fault does.

use std::time::Instant;

use crate::lab::Lab;
use crate::plan::Fault;
use crate::queue::{Lost, Queue};
use crate::roles::Kind;
use crate::support::proxy::Line;

/// A fault that was.
#[derive(Default)]
pub struct Happened {
    /// What there is to say of it.
    pub said: String,
    /// What Redis had acknowledged, and has not any more.
    pub lost: Option<Lost>,
    /// When what was wrong ended.
    pub mended: Option<Instant>,
}

impl Lab {
    /// Does it, and undoes it.
    pub fn inflict(&mut self, fault: &Fault) -> Happened {
        let Fault { shard, time, choice, .. } = *fault;
        match fault.kind {
            "kill-primary" => self.kill_primary(fault),
            "freeze-primary" => {
                let node = self.queue.on_primary(shard, |node| node.freeze());
                self.rest(time);
                self.queue.with_node(node, |node| node.thaw());
                said(format!("node {node} for {:.1} s", time.as_secs_f64()))
            }
            "lost-writes" => self.lose_writes(fault),
            "partition" => self.part(fault),
            "shard-down" => self.take_shard_down(fault),
            "fail-over" => {
                let (cluster, nodes) = self.queue.shard(shard).expect("a cluster");
                said(format!("node {} after node {}", cluster.fail_over(nodes[0]), nodes[0]))
            }
            "reshard" => self.reshard(fault),
            "flush" => {
                let node = self.queue.on_primary(shard, |node| node.ok(&["FLUSHALL"]));
                said(format!("node {node}"))
            }
            "script-flush" => said(format!("node {}", self.queue.on_primary(shard, |node| node.ok(&["SCRIPT", "FLUSH"])))),
            "crash-postgres" | "restart-postgres" => {
                if fault.kind == "crash-postgres" {
                    self.server.crash();
                } else {
                    self.server.stop();
                }
                self.rest(time);
                self.server.start_again();
                said(format!("away for {:.1} s", time.as_secs_f64()))
            }
            "kill-collector" | "kill-streamer" => {
                self.roles.kill(fault.kind == "kill-streamer", choice, time);
                if choice % 3 == 0 {
                    self.roles.kill(fault.kind == "kill-streamer", choice + 1, time);
                }
                said(format!("{}, for {:.1} s", if choice % 3 == 0 { "two" } else { "one" }, time.as_secs_f64()))
            }
            "cut-streamers" | "silence-streamers" => {
                self.network.streamers(if fault.kind == "cut-streamers" { Line::Cut } else { Line::Silent });
                self.rest(time);
                self.network.streamers(Line::Open);
                said(format!("for {:.1} s", time.as_secs_f64()))
            }
            other => unreachable!("{other} is not in the plan"),
        }
    }

    /// Killed, and started again after a while: before or after another was elected.
    fn kill_primary(&mut self, fault: &Fault) -> Happened {
        let node = self.queue.on_primary(fault.shard, |node| node.kill());
        let killed = Instant::now();
        self.rest(fault.time);
        self.queue.with_node(node, |node| node.restart());
        let said = format!("node {node} of shard {}, started again after {:.1} s", fault.shard, fault.time.as_secs_f64());
        // Where there is a replica, it is to take over: the clock runs from the kill.
        Happened { said, mended: self.queue.shard(fault.shard).map(|_| killed), ..Happened::default() }
    }

    /// The replicas cannot log in at their primary; it takes writes, dies, and one of them is elected without those writes.
    fn lose_writes(&mut self, fault: &Fault) -> Happened {
        let partitions = self.queue.partitions_of(fault.shard);
        // With collectors frozen, nothing of what gets lost is stored already.
        let frozen = fault.choice.is_multiple_of(2);
        if frozen {
            self.roles.signal(Kind::Collector, "STOP");
        }
        let (cluster, nodes) = self.queue.shard(fault.shard).expect("a cluster");
        let (primary, replicas) = (nodes[0], nodes[1..].to_vec());
        for replica in &replicas {
            cluster.break_replication(*replica);
        }
        self.rest(fault.time);
        let (cluster, _) = self.queue.shard(fault.shard).expect("a cluster");
        // From here on nothing more is acknowledged, so that what is counted is what was.
        cluster.place(primary).node.ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let had = self.queue.has(primary, &partitions);
        let kept = self.queue.has(replicas[0], &partitions);
        cluster.kill(primary);
        let killed = Instant::now();
        let lost = Lost::between(&had, &kept);
        let covered = self.covered();
        let stored = |source: &String| covered.iter().find(|(id, _)| same(id, source)).map_or(0, |(_, (_, rows))| *rows);
        let unstored: i64 = lost.sources.iter().map(|(source, (kept, had))| (had - stored(source).max(*kept)).max(0)).sum();
        let (cluster, _) = self.queue.shard(fault.shard).expect("a cluster");
        let successor = cluster.wait_for_successor(primary, &replicas);
        for replica in &replicas {
            cluster.mend_replication(*replica);
        }
        if frozen {
            self.roles.signal(Kind::Collector, "CONT");
        }
        self.rest(fault.time);
        self.queue.with_node(primary, |node| node.restart());
        let said =
            format!("node {primary}, succeeded by {successor}: Redis lost {lost}; {unstored} of the rows were not in PostgreSQL");
        Happened { said, lost: Some(lost), mended: Some(killed) }
    }

    /// The primary is cut off from all other nodes, and clients are not: it takes writes until it notices, while the others elect
    /// another one.
    fn part(&mut self, fault: &Fault) -> Happened {
        let partitions = self.queue.partitions_of(fault.shard);
        let nodes = self.queue.shard(fault.shard).expect("a cluster").1;
        let (primary, replica) = (nodes[0], nodes[1]);
        self.network.part(&[primary]);
        // What was on its way has arrived.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let kept = self.queue.has(replica, &partitions);
        self.rest(fault.time);
        self.queue.with_node(primary, |node| node.ok(&["CONFIG", "SET", "cluster-allow-reads-when-down", "yes"]));
        let had = self.queue.has(primary, &partitions);
        self.queue.with_node(primary, |node| node.ok(&["CONFIG", "SET", "cluster-allow-reads-when-down", "no"]));
        self.network.part(&[]);
        let mended = Instant::now();
        let (cluster, _) = self.queue.shard(fault.shard).expect("a cluster");
        let successor = cluster.wait_for_successor(primary, &[replica]);
        let lost = Lost::between(&had, &kept);
        let time = fault.time.as_secs_f64();
        let said = format!("node {primary} alone for {time:.1} s, succeeded by {successor}: Redis lost {lost}");
        Happened { said, lost: Some(lost), mended: Some(mended) }
    }

    /// Primary and replicas are killed; files of other shards go on.
    fn take_shard_down(&mut self, fault: &Fault) -> Happened {
        let partitions = self.queue.partitions_of(fault.shard);
        let nodes = self.queue.shard(fault.shard).expect("a cluster").1;
        for node in &nodes {
            self.queue.with_node(*node, |node| node.kill());
        }
        let covered = self.covered();
        let healthy = |name: &String| {
            let sources: Vec<_> = covered.iter().filter(|(_, (file, _))| file == name).map(|(source, _)| source).collect();
            !sources.is_empty() && sources.iter().all(|source| !partitions.contains(&Queue::partition_of(source)))
        };
        let mut marks = self.marks();
        marks.retain(|name, _| healthy(name));
        self.rest(fault.time);
        for name in self.behind(&marks) {
            self.problem(format!("while shard {} was down, a file of another shard stood still: {name}", fault.shard));
        }
        for node in &nodes {
            self.queue.with_node(*node, |node| node.restart());
        }
        said(format!("nodes {nodes:?} for {:.1} s; {} files of other shards went on", fault.time.as_secs_f64(), marks.len()))
    }

    /// Slots that are in use move to another shard, key by key.
    fn reshard(&mut self, fault: &Fault) -> Happened {
        let slots = self.queue.slots().to_vec();
        let mut moved = Vec::new();
        for n in 0..2 {
            let slot = slots[((fault.choice >> (8 * n)) % slots.len() as u64) as usize];
            let (cluster, _) = self.queue.shard(fault.shard).expect("a cluster");
            let others: Vec<_> = cluster.masters().into_iter().filter(|node| Some(*node) != cluster.owner_of(slot)).collect();
            let to = others[((fault.choice >> 20) % others.len() as u64) as usize];
            cluster.move_slot(slot, to);
            moved.push(format!("slot {slot} to node {to}"));
            self.tend();
        }
        said(moved.join(", "))
    }
}

/// Whether two spellings are of the same source.
fn same(one: &str, other: &str) -> bool {
    one.replace('-', "") == other.replace('-', "")
}

fn said(said: String) -> Happened {
    Happened { said, ..Happened::default() }
}
