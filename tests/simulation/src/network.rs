//! What lies between nodes, servers and stores, and the time in which all of it happens. A call is a request that arrives and an answer that arrives,
//! each as late as is chosen, or not at all; what is sent over one connection stays in order; a connection that is lost loses every call
//! on it, and what was on its way may still arrive.

use crate::ledger::Ledger;
use crate::messages::{BLOCK, Event, Id, Lane, Ms, NodeId, Outcome, Request, STORE_PATIENCE, TIMEOUT};
use crate::model::{Partitions, RowRange, SourceId};
use crate::places::{Call, Conn, Place, Shop};
use crate::planted::Planted;
use crate::queue::{EntryId, Group, Server};
use crate::schedule::Choices;
use crate::session::Read;
use crate::trace::Trace;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The time, and what is on its way.
pub struct Net {
    /// Now.
    pub now: Ms,
    /// The choices.
    pub choices: Choices,
    /// What is planted.
    pub planted: Option<Planted>,
    /// The partitions.
    pub places: Vec<Place>,
    /// The stores, by group.
    pub shops: Vec<Shop>,
    /// How many partitions.
    pub partitions: Partitions,
    /// The group of each node.
    pub groups: Vec<Group>,
    /// Each node does nothing until then.
    pub frozen_until: Vec<Ms>,
    /// What happened.
    pub trace: Trace,
    /// How often in a thousand calls something happens to one.
    pub trouble: u32,
    /// Nothing goes wrong any more.
    pub is_calm: bool,
    /// The first thing that must not be.
    pub violation: Option<String>,
    /// What was claimed: partition, entry, from whom, by whom.
    pub claims: Vec<(usize, EntryId, NodeId, NodeId)>,
    /// How often each batch was delivered again: source and rows.
    pub redelivered: BTreeMap<(SourceId, RowRange), u32>,
    /// What was buried.
    pub buried: Vec<(SourceId, RowRange)>,
    /// Something was asked since this was last set to `false`.
    pub touched: bool,
    /// Which process of its store each node has talked to last; 0: none.
    pub(crate) seen_run: Vec<u64>,
    cut_until: Vec<Ms>,
    /// When something last happened to a call, by node and partition.
    troubled_at: Vec<Ms>,
    conns: Vec<Conn>,
    pub(crate) calls: BTreeMap<Id, Call>,
    events: BinaryHeap<Reverse<(Ms, u64, Slot)>>,
    ids: u64,
}

/// An event in the heap, which is ordered by time and number alone.
struct Slot(Event);

impl PartialEq for Slot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Slot {}
impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Slot {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// What comes to a node.
pub enum Incoming {
    /// The outcome of a call.
    Outcome(NodeId, Id, Outcome),
    /// An answer to a call that was given up.
    Late(NodeId, Id, Outcome),
    /// A timer.
    Timer(NodeId, Id),
    /// Nothing that concerns a node.
    Nothing,
    /// Something that the world decides.
    World(Event),
}

impl Net {
    /// A network of so many nodes.
    #[must_use]
    pub fn new(choices: Choices, planted: Option<Planted>, places: Vec<Server>, groups: Vec<Group>, lines: bool) -> Self {
        let (nodes, count) = (groups.len(), places.len());
        let shops = groups.iter().max().map_or(1, |group| usize::from(*group) + 1);
        let shop = |n: usize| Shop {
            ledger: Ledger::new(n as u64 + 1),
            backup: Ledger::new(n as u64 + 1),
            former: None,
            away_until: 0,
            run: 1,
            damaged: false,
            older: false,
        };
        Self {
            now: 0,
            choices,
            planted,
            places: places
                .into_iter()
                .map(|server| Place { server, run: 1, down_until: 0, frozen_until: 0, parked: Vec::new() })
                .collect(),
            shops: (0..shops).map(shop).collect(),
            partitions: u16::try_from(count).ok().and_then(Partitions::new).unwrap_or(Partitions::ONE),
            frozen_until: vec![0; nodes],
            groups,
            trace: Trace::new(lines),
            trouble: 0,
            is_calm: false,
            violation: None,
            claims: Vec::new(),
            redelivered: BTreeMap::new(),
            buried: Vec::new(),
            touched: false,
            seen_run: vec![0; nodes],
            cut_until: vec![0; nodes * count],
            troubled_at: vec![0; nodes * count],
            conns: vec![Conn::default(); nodes * count * 3],
            calls: BTreeMap::new(),
            events: BinaryHeap::new(),
            ids: 0,
        }
    }

    /// Whether a fault is planted.
    #[must_use]
    pub fn is(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    /// Something that must not be; the first is kept.
    pub fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// Has something happen.
    pub fn schedule(&mut self, at: Ms, event: Event) {
        self.ids += 1;
        self.events.push(Reverse((at.max(self.now), self.ids, Slot(event))));
    }

    /// Wakes a node after so long.
    pub fn timer(&mut self, node: NodeId, after: Ms) -> Id {
        self.ids += 1;
        let id = self.ids;
        self.schedule(self.now + after, Event::Timer(node, id));
        id
    }

    /// A time within a rest.
    pub fn within(&mut self, shortest: std::time::Duration, longest: std::time::Duration) -> Ms {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(Ms::MAX);
        let (shortest, longest) = (ms(shortest), ms(longest));
        shortest + (longest.saturating_sub(shortest)) * u64::from(self.choices.below(4)) / 3
    }

    /// Whether a node reaches a server.
    fn reaches(&self, node: NodeId, partition: usize) -> bool {
        self.places[partition].down_until <= self.now && self.cut_until[node * self.places.len() + partition] <= self.now
    }

    /// Cuts a node off a server for so long.
    pub fn cut(&mut self, node: NodeId, partition: usize, time: Ms) {
        let at = node * self.places.len() + partition;
        self.cut_until[at] = self.now + time;
    }

    /// Nobody is cut off any longer.
    pub fn mend_cuts(&mut self) {
        let now = self.now;
        self.cut_until.iter_mut().for_each(|until| *until = now.min(*until));
    }

    /// Whether an acknowledgement is still on its way, with what is committed.
    #[must_use]
    pub fn has_notes(&self) -> bool {
        self.calls.values().any(|call| matches!(call.request, Some(Request::Acknowledge(..))))
    }

    /// Whether anything has lately kept a node from a server, within so long.
    #[must_use]
    pub fn was_disturbed(&self, node: NodeId, partition: usize, within: Ms) -> bool {
        let since = self.now.saturating_sub(within);
        let place = &self.places[partition];
        self.frozen_until[node] >= since
            || place.down_until >= since
            || place.frozen_until >= since
            || self.cut_until[node * self.places.len() + partition] >= since
            || self.troubled_at[node * self.places.len() + partition] >= since
    }

    /// Something happened to a call of a node to a server.
    pub fn note_trouble(&mut self, node: NodeId, partition: usize) {
        let at = node * self.places.len() + partition;
        if let Some(troubled_at) = self.troubled_at.get_mut(at) {
            *troubled_at = self.now;
        }
    }

    fn key(&self, node: NodeId, lane: Lane) -> Option<(usize, usize)> {
        let (partition, which) = match lane {
            Lane::Link(partition) => (partition, 0),
            Lane::Reader(partition) => (partition, 1),
            Lane::Writer(partition) => (partition, 2),
            Lane::Store => return None,
        };
        Some(((node * self.places.len() + partition) * 3 + which, partition))
    }

    /// Connects where there is no connection: its number, or `None` where that fails.
    pub fn connect(&mut self, node: NodeId, lane: Lane) -> Option<u64> {
        let (key, partition) = self.key(node, lane)?;
        if !self.conns[key].alive {
            if !self.reaches(node, partition) {
                return None;
            }
            self.ids += 1;
            self.conns[key] = Conn { id: self.ids, alive: true, last_arrival: self.now + 1, last_answer: self.now };
        }
        Some(self.conns[key].id)
    }

    pub(crate) fn delay(&mut self) -> Ms {
        [1, 2, 5, 15][self.choices.below(4) as usize]
    }

    /// Sends a request; its outcome comes to the node under the id that is returned.
    pub fn call(&mut self, node: NodeId, lane: Lane, request: Request) -> Id {
        self.ids += 1;
        let id = self.ids;
        let group = self.groups[node];
        let reads = matches!(request, Request::Read(Read::New { .. }));
        let patience = if lane == Lane::Store { STORE_PATIENCE } else { TIMEOUT + if reads { BLOCK } else { 0 } };
        let twice = matches!(request, Request::Publish(_)).then(|| Box::new(request.clone()));
        let (key, partition) = self.key(node, lane).unwrap_or((usize::MAX, usize::MAX));
        let conn = if lane == Lane::Store { Some(0) } else { self.connect(node, lane) };
        let run = if lane == Lane::Store { self.shops[usize::from(group)].run } else { self.places[partition].run };
        let mut call = Call {
            node,
            group,
            key,
            conn: conn.unwrap_or(0),
            run,
            partition,
            request: Some(request),
            sent: self.now,
            patience,
            answer_lost: false,
            given_up: false,
            told: false,
            orphan: false,
            waited: false,
        };
        if conn.is_none() {
            let after = [20, 500, TIMEOUT][self.choices.below(3) as usize];
            call.request = None;
            self.calls.insert(id, call);
            self.note_trouble(node, partition);
            self.schedule(self.now + after, Event::Answer(id, Outcome::Lost));
            return id;
        }
        let mut at = self.now + self.delay();
        let (mut lost, mut breaks, trouble) = (partition != usize::MAX && !self.reaches(node, partition), false, self.trouble);
        if !self.is_calm && trouble > 0 && self.choices.happens(trouble) {
            if partition != usize::MAX {
                self.note_trouble(node, partition);
            }
            let name = call.request.as_ref().map_or("", Request::name);
            let kind = self.choices.below(6);
            let what = ["slow", "very late", "lost", "not answered", "cut off", "given twice"][kind as usize];
            self.trace.line(self.now, format_args!("node {node}: `{name}` to {partition} is {what}"));
            match kind {
                0 => at += [100, 400, 1_500, 2_900][self.choices.below(4) as usize],
                1 => at += 3_000 + 2_000 * u64::from(self.choices.below(8)),
                2 => lost = true,
                3 => call.answer_lost = true,
                4 => breaks = true,
                _ => {
                    if let Some(request) = twice {
                        let later = at + 100 * u64::from(self.choices.below(100));
                        self.schedule(later, Event::Again(node, group, partition, run, request));
                    }
                }
            }
        }
        if let Some(conn) = self.conns.get_mut(key) {
            at = at.max(conn.last_arrival);
            conn.last_arrival = at;
        }
        let late = at > self.now + patience;
        if lost {
            call.request = None;
            // What is sent behind it on the connection does not arrive before either.
            if let Some(conn) = self.conns.get_mut(key) {
                conn.last_arrival = self.now + patience + 1_000;
            }
        }
        self.calls.insert(id, call);
        if lost || breaks {
            self.schedule_give_up(id);
        } else if late {
            self.schedule(self.now + patience, Event::GiveUp(id));
        }
        if !lost {
            self.schedule(at, Event::Arrive(id));
        }
        id
    }

    /// The answer will not come: that is noticed soon, or when patience ends.
    pub(crate) fn schedule_give_up(&mut self, id: Id) {
        let soon = self.choices.below(2) == 1;
        let patience = self.calls.get(&id).map_or(TIMEOUT, |call| call.patience);
        self.schedule(self.now + if soon { 10 } else { patience }, Event::GiveUp(id));
    }

    /// The next thing that happens; `None` when nothing will.
    pub fn happen(&mut self) -> Option<Incoming> {
        let Reverse((at, _, Slot(event))) = self.events.pop()?;
        self.now = self.now.max(at);
        Some(match event {
            Event::Arrive(id) => self.arrive(id),
            Event::Again(node, group, partition, run, request) => {
                if self.places[partition].run == run && self.places[partition].down_until <= self.now {
                    self.trace.line(self.now, format_args!("node {node}: a batch arrives at {partition} once more"));
                    let _unseen = self.ask(node, group, partition, *request);
                }
                Incoming::Nothing
            }
            Event::Apply(id, run, learnt) => self.apply(id, run, &learnt),
            Event::Answer(id, outcome) => self.answer(id, outcome),
            Event::Told(id) => self.told(id),
            Event::GiveUp(id) => {
                let open = self.calls.get(&id).filter(|call| !call.given_up).map(|call| (call.key, call.conn));
                match open {
                    Some((usize::MAX, _)) => self.answer(id, Outcome::Lost),
                    Some((key, conn)) => {
                        self.break_conn(key, conn);
                        Incoming::Nothing
                    }
                    None => Incoming::Nothing,
                }
            }
            Event::Timer(node, id) => {
                if self.frozen_until[node] > self.now {
                    self.schedule(self.frozen_until[node], Event::Timer(node, id));
                    return Some(Incoming::Nothing);
                }
                Incoming::Timer(node, id)
            }
            other => Incoming::World(other),
        })
    }

    fn arrive(&mut self, id: Id) -> Incoming {
        let Some(call) = self.calls.get_mut(&id) else { return Incoming::Nothing };
        if call.partition == usize::MAX {
            return self.arrive_at_store(id);
        }
        let place = &mut self.places[call.partition];
        if call.request.is_none() || place.run != call.run || place.down_until > self.now {
            // It is lost; who waits for it gives up.
            let (sent, patience) = (call.sent, call.patience);
            call.request = None;
            if call.orphan || (call.given_up && call.told) {
                self.calls.remove(&id);
            } else if !call.given_up {
                self.schedule(sent + patience, Event::GiveUp(id));
            }
            return Incoming::Nothing;
        }
        if place.frozen_until > self.now {
            let (thaw, until) = (place.frozen_until, call.sent + call.patience);
            if thaw > until && !call.waited {
                self.schedule(until, Event::GiveUp(id));
            }
            self.schedule(thaw, Event::Arrive(id));
            return Incoming::Nothing;
        }
        let (node, group, partition) = (call.node, call.group, call.partition);
        if let Some(Request::Read(Read::New { .. })) = call.request
            && !call.waited
            && place.server.backlog(group).entries == place.server.backlog(group).pending
            && !place.server.no_writes
        {
            call.waited = true;
            place.parked.push(id);
            self.schedule(self.now + BLOCK, Event::Arrive(id));
            return Incoming::Nothing;
        }
        let Some(request) = call.request.take() else { return Incoming::Nothing };
        let lost = call.answer_lost;
        let key = call.key;
        let outcome = self.ask(node, group, partition, request);
        if lost {
            self.schedule_give_up(id);
            return Incoming::Nothing;
        }
        let mut at = self.now + self.delay();
        if let Some(conn) = self.conns.get_mut(key) {
            at = at.max(conn.last_answer);
            conn.last_answer = at;
        }
        if let Some(call) = self.calls.get(&id) {
            let until = call.sent + call.patience;
            if at > until && !call.given_up {
                self.schedule(until, Event::GiveUp(id));
            }
        }
        self.schedule(at, Event::Answer(id, outcome));
        Incoming::Nothing
    }

    pub(crate) fn answer(&mut self, id: Id, outcome: Outcome) -> Incoming {
        let Some(call) = self.calls.get_mut(&id) else { return Incoming::Nothing };
        let node = call.node;
        if call.orphan {
            self.calls.remove(&id);
            return Incoming::Nothing;
        }
        let thaw = self.frozen_until[node];
        if thaw > self.now {
            self.schedule(thaw, Event::Answer(id, outcome));
            return Incoming::Nothing;
        }
        if call.given_up && !call.told {
            // First things first.
            self.schedule(self.now + 1, Event::Answer(id, outcome));
            return Incoming::Nothing;
        }
        if call.given_up {
            self.calls.remove(&id);
            return Incoming::Late(node, id, outcome);
        }
        if outcome == Outcome::Lost && call.request.is_some() {
            // It may still arrive.
            (call.given_up, call.told) = (true, true);
        } else {
            self.calls.remove(&id);
        }
        Incoming::Outcome(node, id, outcome)
    }

    /// A connection is lost, with every call on it.
    fn break_conn(&mut self, key: usize, conn: u64) {
        if let Some(current) = self.conns.get_mut(key).filter(|current| current.id == conn) {
            current.alive = false;
            let per_node = self.places.len() * 3;
            self.note_trouble(key / per_node, key % per_node / 3);
        }
        let mut told = Vec::new();
        for (id, call) in &mut self.calls {
            if call.key == key && call.conn == conn && !call.given_up {
                call.given_up = true;
                told.push(*id);
            }
        }
        for id in told {
            self.schedule(self.now, Event::Told(id));
        }
    }

    /// The node is told that a call is lost; its answer may still come, late.
    fn told(&mut self, id: Id) -> Incoming {
        let Some(call) = self.calls.get_mut(&id) else { return Incoming::Nothing };
        let node = call.node;
        if self.frozen_until[node] > self.now {
            self.schedule(self.frozen_until[node], Event::Told(id));
            return Incoming::Nothing;
        }
        call.told = true;
        let orphan = call.orphan;
        if call.request.is_none() && call.answer_lost {
            self.calls.remove(&id);
        }
        if orphan { Incoming::Nothing } else { Incoming::Outcome(node, id, Outcome::Lost) }
    }

    /// A server's process ends: every connection to it is lost.
    pub fn break_all_to(&mut self, partition: usize) {
        self.places[partition].run += 1;
        self.places[partition].parked.clear();
        for node in 0..self.groups.len() {
            for lane in [Lane::Link(partition), Lane::Reader(partition), Lane::Writer(partition)] {
                if let Some((key, _)) = self.key(node, lane)
                    && self.conns[key].alive
                {
                    let conn = self.conns[key].id;
                    self.break_conn(key, conn);
                }
            }
        }
    }

    /// A node's process ends: nobody hears the answers; what is on its way may still arrive.
    pub fn orphan(&mut self, node: NodeId) {
        self.seen_run[node] = 0;
        let per_node = self.places.len() * 3;
        for conn in &mut self.conns[node * per_node..(node + 1) * per_node] {
            conn.alive = false;
        }
        self.calls.values_mut().filter(|call| call.node == node).for_each(|call| call.orphan = true);
    }
}
