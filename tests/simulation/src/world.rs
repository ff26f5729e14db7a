//! A run: nodes, servers and stores, step by step, until everything is stored or something is wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::collector::Collector;
use crate::ledger::Ledger;
use crate::messages::{Event, Ms, NodeId};
use crate::network::{Incoming, Net};
use crate::planted::Planted;
use crate::queue::Server;
use crate::schedule::Choices;
use crate::shape::{Role, Shape};
use crate::streamer::Streamer;

/// How long a run may take, once nothing goes wrong any more, until everything is stored.
const PATIENCE: Ms = 20 * 60_000;
/// How often it is looked whether everything is.
const LOOK_EVERY: Ms = 5_000;
/// More steps than any run needs.
const MOST_STEPS: u64 = 200_000;

/// A node.
pub enum Node {
    /// It does not run.
    Down,
    /// A streamer.
    Streamer(Box<Streamer>),
    /// A collector.
    Collector(Box<Collector>),
}

/// A run.
pub struct World {
    pub(crate) net: Net,
    pub(crate) shape: Shape,
    pub(crate) nodes: Vec<Node>,
    pub(crate) started_at: Vec<Ms>,
    /// How often a collector's process ended.
    pub(crate) collectors_ended: u32,
    operator_comes: bool,
}

/// What came of a run.
pub struct Report {
    /// What was wrong, if anything was.
    pub violation: Option<String>,
    /// How many things happened.
    pub steps: u64,
    /// How long it took, in the time of the run.
    pub simulated: Ms,
    /// A digest of all that happened.
    pub digest: u64,
    /// The choices.
    pub choices: Vec<u32>,
    /// What happened, where that was asked for.
    pub lines: Vec<String>,
}

impl World {
    fn new(mut choices: Choices, planted: Option<Planted>, lines: bool) -> Self {
        let shape = Shape::choose(&mut choices);
        let servers = (0..shape.partitions).map(|_| Server::new(shape.limit, shape.replicas, planted));
        let servers = servers.map(|mut server| {
            if shape.ids_count_up {
                server.follow_a_clock_that_was_ahead();
            }
            server
        });
        let group = |role: &Role| if let Role::Collector(group) = role { *group } else { 0 };
        let mut net = Net::new(choices, planted, servers.collect(), shape.roles.iter().map(group).collect(), lines);
        net.trouble = shape.trouble;
        if shape.groups > 1 {
            for place in &mut net.places {
                for group in 0..shape.groups {
                    let _made = place.server.make_group(group);
                }
            }
        }
        let nodes: Vec<Node> = shape.roles.iter().map(|_| Node::Down).collect();
        for node in 0..nodes.len() {
            net.schedule(1, Event::Start(node));
        }
        net.schedule(shape.fault_every / 2, Event::Fault);
        net.schedule(shape.duration, Event::Calm);
        net.trace.line(0, format_args!("{shape:?}"));
        let started_at = vec![0; nodes.len()];
        Self { net, shape, nodes, started_at, collectors_ended: 0, operator_comes: false }
    }

    fn start(&mut self, node: NodeId) {
        if !matches!(self.nodes[node], Node::Down) {
            return;
        }
        self.started_at[node] = self.net.now;
        self.net.frozen_until[node] = 0;
        self.nodes[node] = match &self.shape.roles[node] {
            Role::Streamer(sources, size) => Node::Streamer(Box::new(Streamer::start(node, *size, sources, &mut self.net))),
            Role::Collector(_) => Node::Collector(Box::new(Collector::start(node, &mut self.net))),
        };
    }

    fn stop(&mut self, node: NodeId) {
        if matches!(self.nodes[node], Node::Collector(_)) {
            self.collectors_ended += 1;
        }
        self.nodes[node] = Node::Down;
        self.net.orphan(node);
    }

    /// A node's process ends; it starts again after a while.
    pub(crate) fn crash(&mut self, node: NodeId, time: Ms) {
        if let Node::Streamer(streamer) = &self.nodes[node]
            && streamer.is_done()
        {
            return;
        }
        self.stop(node);
        self.net.schedule(self.net.now + time, Event::Start(node));
    }

    fn incoming(&mut self, incoming: Incoming) {
        let net = &mut self.net;
        let (Incoming::Outcome(node, ..) | Incoming::Late(node, ..) | Incoming::Timer(node, _)) = &incoming else {
            if let Incoming::World(event) = incoming {
                self.event(&event);
            }
            return;
        };
        let node = *node;
        match (&mut self.nodes[node], incoming) {
            (Node::Streamer(streamer), Incoming::Outcome(_, id, outcome)) => streamer.answered(id, outcome, net),
            (Node::Streamer(streamer), Incoming::Late(_, id, outcome)) => streamer.late(id, outcome, net),
            (Node::Streamer(streamer), Incoming::Timer(_, id)) => streamer.woken(id, net),
            (Node::Collector(collector), Incoming::Outcome(_, id, outcome)) => collector.answered(id, outcome, net),
            (Node::Collector(collector), Incoming::Timer(_, id)) => collector.woken(id, net),
            _ => {}
        }
        let Node::Collector(collector) = &self.nodes[node] else { return };
        if let Some(why) = &collector.ended {
            self.net.trace.line(self.net.now, format_args!("node {node} ends: {why}"));
            // Those beside it find the same when they next compare.
            for other in 0..self.nodes.len() {
                if self.net.groups[other] == self.net.groups[node] && matches!(self.nodes[other], Node::Collector(_)) {
                    self.stop(other);
                }
            }
            if !std::mem::replace(&mut self.operator_comes, true) {
                self.net.schedule(self.net.now + 10_000, Event::Operator);
            }
        } else if collector.killed {
            self.net.trace.line(self.net.now, format_args!("node {node} is killed by what it decodes"));
            self.crash(node, 100);
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Start(node) => self.start(*node),
            Event::Replicate(partition) => self.net.places[*partition].server.replicate(),
            Event::Recover(partition) => {
                let server = &mut self.net.places[*partition].server;
                (server.out_of_memory, server.no_writes) = (false, false);
            }
            Event::Fault if !self.net.is_calm => self.fault(),
            Event::Operator => self.operate(),
            Event::Calm => self.calm(),
            _ => {}
        }
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
        self.net.trace.line(self.net.now, format_args!("nothing goes wrong any more"));
        self.net.is_calm = true;
        self.net.choices.calm();
        let now = self.net.now;
        for place in &mut self.net.places {
            (place.server.out_of_memory, place.server.no_writes) = (false, false);
            (place.down_until, place.frozen_until) = (place.down_until.min(now), place.frozen_until.min(now));
        }
        self.net.mend_cuts();
        for shop in &mut self.net.shops {
            shop.away_until = shop.away_until.min(now);
        }
        if self.net.shops.iter().any(|shop| shop.former.is_some()) {
            self.net.schedule(now, Event::Operator);
        }
    }

    /// Somebody does what the collectors' messages say: the former store is put back, or the other one stays; into one that is another or an
    /// older state everything is sent again, by streamers that were done too.
    fn operate(&mut self) {
        let away = |place: &crate::places::Place| place.down_until > self.net.now || place.frozen_until > self.net.now;
        if self.net.places.iter().any(away) || self.net.has_notes() {
            self.net.schedule(self.net.now + 1_000, Event::Operator);
            return;
        }
        self.operator_comes = false;
        self.net.touched = true;
        for group in 0..self.shape.groups {
            let ended = self
                .shape
                .roles
                .iter()
                .zip(&self.nodes)
                .any(|(role, node)| matches!((role, node), (Role::Collector(of), Node::Down) if *of == group));
            let stays = self.net.choices.below(2) == 1;
            let shop = &mut self.net.shops[usize::from(group)];
            if let Some(former) = shop.former.take() {
                if ended && stays {
                    (shop.older, shop.backup) = (true, Ledger::new(shop.ledger.id));
                } else {
                    shop.ledger = former;
                    shop.run += 1;
                }
            }
            if !(shop.older && ended) {
                continue;
            }
            self.net.trace.line(self.net.now, format_args!("everything is sent again for group {group}"));
            shop.older = false;
            let generation = self.net.now;
            for place in &mut self.net.places {
                place.server.reset(group, generation);
            }
            for node in 0..self.nodes.len() {
                if matches!(self.shape.roles[node], Role::Streamer(..)) {
                    self.stop(node);
                }
            }
        }
        for partition in 0..self.shape.partitions {
            self.net.schedule(self.net.now + 1, Event::Replicate(partition));
        }
        for node in 0..self.nodes.len() {
            self.net.schedule(self.net.now + 100, Event::Start(node));
        }
    }

    fn run(&mut self) -> u64 {
        let (mut steps, mut look_at, end) = (0, self.shape.duration, self.shape.duration + PATIENCE);
        while self.net.violation.is_none()
            && let Some(incoming) = self.net.happen()
        {
            steps += 1;
            if steps > MOST_STEPS {
                let nodes = self.describe();
                self.net.violated(|| format!("never stuck: no end after {steps} steps\n  {nodes}"));
            }
            self.incoming(incoming);
            self.check();
            if self.net.is_calm && self.net.now >= look_at {
                look_at = self.net.now + LOOK_EVERY;
                let Some(missing) = self.missing() else { break };
                if self.net.now > end {
                    let nodes = self.describe();
                    self.net.violated(|| format!("never stuck: {missing}\n  {nodes}"));
                }
            }
        }
        steps
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().enumerate().map(|(number, node)| match node {
            Node::Down => format!("node {number} is down"),
            Node::Streamer(streamer) => format!("node {number}: {}", streamer.describe()),
            Node::Collector(collector) => format!("node {number}: {}", collector.describe()),
        });
        nodes.collect::<Vec<_>>().join("\n  ")
    }
}

/// Runs a schedule. What a core asserts is an invariant too.
#[must_use]
pub fn run(choices: Choices, planted: Option<Planted>, lines: bool) -> Report {
    let mut world = World::new(choices, planted, lines);
    let steps = catch_unwind(AssertUnwindSafe(|| world.run()));
    let net = world.net;
    let violation = match &steps {
        Ok(_) => net.violation,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(format!("a core's assertion: {}", text.unwrap_or_default()))
        }
    };
    Report {
        violation,
        steps: steps.unwrap_or(0),
        simulated: net.now,
        digest: net.trace.digest(),
        choices: net.choices.made().to_vec(),
        lines: net.trace.lines.unwrap_or_default(),
    }
}
