//! A streamer: carries out what the cores of the publisher's side decide ([`Window`], [`Completion`]), on sources whose rows are their numbers.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::messages::{Health, Id, LEASE_TTL, Lane, Ms, NodeId, Outcome, Reply, Request};
use crate::model::{DictionaryId, Digest, Position, RowRange, SourceId};
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::completion::{Completion, Goal, Step};
use crate::protocol::rest::Rests;
use crate::protocol::window::{Answer, BatchPlan, Command, Halt, Ticket, Window, is_elsewhere};
use crate::queue::{Batch, Entry, Published, Refusal};

/// Between two looks at a source that has nothing new, or at a lease that another one has.
const LOOK_EVERY: Ms = 1_000;
const ASK_LEASE_EVERY: Ms = 500;
/// Rows that have a dictionary in common.
const ROWS_PER_DICTIONARY: u64 = 16;

/// When a source is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is stored.
    Stored,
    /// When it is queued.
    Queued,
    /// Never: it is followed.
    Followed,
}

/// A source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its id.
    pub id: SourceId,
    /// Its rows in the end.
    pub rows: u64,
    /// One more of them is there after each of these times; 0: all are there from the start.
    pub row_every: Ms,
    /// A row whose batch is not good.
    pub bad: Option<(u64, Health)>,
    /// When it is done.
    pub until: Until,
}

impl Source {
    fn available(&self, now: Ms) -> u64 {
        now.checked_div(self.row_every).map_or(self.rows, |rows| rows.min(self.rows))
    }

    /// The position before a row.
    #[must_use]
    pub fn position(&self, row: u64) -> Position {
        Position { row, offset: row * 100, tail: Digest::from_u128(self.id.digest().to_u128() ^ u128::from(row)) }
    }

    fn entry(&self, rows: RowRange) -> Entry {
        let health = self.bad.filter(|(row, _)| rows.first <= *row && *row < rows.end).map_or(Health::Good, |(_, health)| health);
        let used = rows.first / ROWS_PER_DICTIONARY..=(rows.end - 1) / ROWS_PER_DICTIONARY;
        let id = |n: u64| DictionaryId::from_digest(Digest::from_u128(self.id.digest().to_u128().rotate_left(9) ^ u128::from(n)));
        Entry { source: self.id, rows, payload: health as u64, dictionaries: used.map(id).collect() }
    }
}

/// A batch that is kept until it is accepted.
struct Parcel {
    entry: Arc<Entry>,
    next: Position,
}

/// A source on its way.
struct Pump {
    window: Window,
    parcels: BTreeMap<Ticket, Parcel>,
    next_row: u64,
    filling: bool,
}

enum Phase {
    Leasing,
    Pumping(Box<Pump>),
    /// The lease is on its way back; whether the source is at its end.
    GivingBack(bool),
    Ended,
    Done,
}

/// One source of a streamer.
struct Task {
    source: Rc<Source>,
    phase: Phase,
    completion: Option<Completion>,
    reached_end: bool,
    next_row_kept: Option<u64>,
    rests: Rests,
    renewing: bool,
    /// How many windows it had: what an earlier one asked is not heard by the next.
    windows: u32,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    AskLease,
    Lease,
    RenewTimer,
    Renew,
    GiveBack,
    Publish(Ticket, u64),
    Locate,
    Rested,
    Fill,
    LookTimer,
    Look,
    Committed,
    Replicated,
    ReplicatedAt(bool),
    EndLocated,
    EndRested,
}

impl Purpose {
    fn is_of_window(self) -> bool {
        matches!(self, Self::Publish(..) | Self::Locate | Self::Rested | Self::Fill | Self::LookTimer | Self::Look)
    }
}

/// A streamer.
pub struct Streamer {
    node: NodeId,
    size: usize,
    tasks: Vec<Task>,
    pending: BTreeMap<Id, (usize, u32, Purpose)>,
    given_up: BTreeMap<Id, (usize, u32, Ticket, u64)>,
}

const RESTS: (std::time::Duration, std::time::Duration) =
    (std::time::Duration::from_millis(100), std::time::Duration::from_secs(2));

impl Streamer {
    /// A streamer of these sources that starts now, with so many batches of each in flight.
    pub fn start(node: NodeId, size: usize, sources: &[Rc<Source>], net: &mut Net) -> Self {
        let task = |source: &Rc<Source>| Task {
            source: source.clone(),
            phase: Phase::Leasing,
            completion: None,
            reached_end: false,
            next_row_kept: None,
            rests: Rests::new(RESTS.0, RESTS.1),
            renewing: false,
            windows: 0,
        };
        let tasks = sources.iter().map(task).collect();
        let mut streamer = Self { node, size, tasks, pending: BTreeMap::new(), given_up: BTreeMap::new() };
        for at in 0..streamer.tasks.len() {
            streamer.wake(at, 1, Purpose::AskLease, net);
        }
        streamer
    }

    /// Whether every source is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.tasks.iter().all(|task| matches!(task.phase, Phase::Done))
    }

    /// The most batches that a source has in flight, and how many it may have.
    #[must_use]
    pub fn most_in_flight(&self) -> (usize, usize) {
        let in_flight = |task: &Task| if let Phase::Pumping(pump) = &task.phase { pump.window.len() } else { 0 };
        (self.tasks.iter().map(in_flight).max().unwrap_or(0), self.size)
    }

    /// What each source waits for, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let one = |task: &Task| {
            let phase = match &task.phase {
                Phase::Leasing => "waits for its lease".to_owned(),
                Phase::Pumping(pump) => format!("has {} in flight, is at row {}", pump.window.len(), pump.next_row),
                Phase::GivingBack(_) => "gives its lease back".to_owned(),
                Phase::Ended => format!("is at its end: {:?}", task.completion),
                Phase::Done => "is done".to_owned(),
            };
            format!("{} {phase}", task.source.id)
        };
        self.tasks.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn lane(&self, at: usize, net: &Net) -> Lane {
        Lane::Link(self.tasks[at].source.id.partition(net.partitions).index())
    }

    fn call(&mut self, at: usize, request: Request, purpose: Purpose, net: &mut Net) {
        let id = net.call(self.node, self.lane(at, net), request);
        self.pending.insert(id, (at, self.tasks[at].windows, purpose));
    }

    fn wake(&mut self, at: usize, after: Ms, purpose: Purpose, net: &mut Net) {
        let id = net.timer(self.node, after);
        self.pending.insert(id, (at, self.tasks[at].windows, purpose));
    }

    fn rest_before_lease(&mut self, at: usize, net: &mut Net) {
        let rest = self.tasks[at].rests.next();
        let after = net.within(rest.shortest, rest.longest);
        self.wake(at, after, Purpose::AskLease, net);
    }

    /// A timer is due.
    pub fn woken(&mut self, id: Id, net: &mut Net) {
        let Some((at, windows, purpose)) = self.pending.remove(&id) else { return };
        if purpose.is_of_window() && windows != self.tasks[at].windows {
            return;
        }
        match purpose {
            Purpose::AskLease => {
                let source = self.tasks[at].source.id;
                self.call(at, Request::Lease(source), Purpose::Lease, net);
            }
            Purpose::RenewTimer => {
                let source = self.tasks[at].source.id;
                if matches!(self.tasks[at].phase, Phase::Pumping(_)) {
                    self.call(at, Request::Lease(source), Purpose::Renew, net);
                    self.wake(at, LEASE_TTL / 3, Purpose::RenewTimer, net);
                } else {
                    self.tasks[at].renewing = false;
                }
            }
            Purpose::Rested => {
                if let Phase::Pumping(pump) = &mut self.tasks[at].phase {
                    pump.window.rested();
                }
                self.carry_out(at, net);
            }
            Purpose::Fill => {
                if let Phase::Pumping(pump) = &mut self.tasks[at].phase {
                    pump.filling = false;
                }
                self.fill(at, net);
            }
            Purpose::LookTimer => {
                let source = self.tasks[at].source.id;
                self.call(at, Request::Position(source), Purpose::Look, net);
            }
            Purpose::EndRested => {
                if net.is(Planted::EndNotWatched) {
                    if let Some(completion) = &mut self.tasks[at].completion {
                        completion.rested();
                        completion.unanswered();
                    }
                } else if let Some(completion) = &mut self.tasks[at].completion {
                    completion.rested();
                }
                self.complete(at, net);
            }
            _ => {}
        }
    }

    /// An answer to a call that was given up.
    pub fn late(&mut self, id: Id, outcome: Outcome, net: &mut Net) {
        let given_up = self.given_up.remove(&id);
        let Some((at, windows, ticket, attempt)) = given_up else { return };
        if windows != self.tasks[at].windows {
            return;
        }
        let Phase::Pumping(pump) = &mut self.tasks[at].phase else { return };
        pump.window.answered(ticket, attempt, answer(outcome));
        self.carry_out(at, net);
    }

    /// The outcome of a call.
    pub fn answered(&mut self, id: Id, outcome: Outcome, net: &mut Net) {
        let Some((at, windows, purpose)) = self.pending.remove(&id) else { return };
        if purpose.is_of_window() && windows != self.tasks[at].windows {
            return;
        }
        match (purpose, outcome) {
            (Purpose::Lease, outcome) => self.leased(at, &outcome, net),
            (Purpose::GiveBack, _) => match self.tasks[at].phase {
                Phase::GivingBack(true) => self.ended(at, net),
                _ => {
                    self.tasks[at].phase = Phase::Leasing;
                    self.wake(at, 1, Purpose::AskLease, net);
                }
            },
            (Purpose::Publish(ticket, attempt), outcome) => {
                if outcome == Outcome::Lost {
                    self.given_up.insert(id, (at, windows, ticket, attempt));
                }
                if let Phase::Pumping(pump) = &mut self.tasks[at].phase {
                    pump.window.answered(ticket, attempt, answer(outcome));
                }
                self.carry_out(at, net);
            }
            (Purpose::Locate, outcome) => {
                if let Phase::Pumping(pump) = &mut self.tasks[at].phase {
                    match outcome {
                        Outcome::Reply(Reply::Position(to)) => pump.window.located(to),
                        _ => pump.window.not_located(),
                    }
                }
                self.carry_out(at, net);
            }
            (Purpose::Look, outcome) => {
                if let Phase::Pumping(pump) = &mut self.tasks[at].phase {
                    pump.filling = false;
                    if matches!(outcome, Outcome::Reply(Reply::Position(to)) if pump.window.is_empty() && is_elsewhere(to, pump.window.confirmed()))
                    {
                        return self.go_back(at, net);
                    }
                }
                self.fill(at, net);
            }
            (purpose, outcome) => self.end_answered(at, purpose, &outcome, net),
        }
    }

    fn end_answered(&mut self, at: usize, purpose: Purpose, outcome: &Outcome, net: &mut Net) {
        let Some(completion) = &mut self.tasks[at].completion else { return };
        match (purpose, outcome) {
            (Purpose::Committed, Outcome::Reply(Reply::Committed(row))) => completion.committed(*row),
            (Purpose::Replicated, Outcome::Reply(Reply::Replicated(replicated))) => {
                let (source, replicated) = (self.tasks[at].source.id, *replicated);
                return self.call(at, Request::Position(source), Purpose::ReplicatedAt(replicated), net);
            }
            (Purpose::ReplicatedAt(replicated), Outcome::Reply(Reply::Position(to))) => completion.replicated(replicated, *to),
            (Purpose::EndLocated, Outcome::Reply(Reply::Position(to))) => completion.located(*to),
            (Purpose::Committed | Purpose::Replicated | Purpose::ReplicatedAt(_) | Purpose::EndLocated, _) => {
                completion.unanswered();
            }
            _ => return,
        }
        self.complete(at, net);
    }

    fn leased(&mut self, at: usize, outcome: &Outcome, net: &mut Net) {
        let size = self.size;
        let task = &mut self.tasks[at];
        match outcome {
            Outcome::Reply(Reply::Lease(Some(position))) => {
                task.rests.reset();
                let position = *position;
                let mut next_row = position.map_or(0, |position| position.row);
                if let Some(kept) = task.next_row_kept.take().filter(|_| net.is(Planted::MovedIgnored)) {
                    next_row = kept;
                }
                let window = Window::new(size, position);
                let pump = Pump { window, parcels: BTreeMap::new(), next_row, filling: false };
                task.phase = Phase::Pumping(Box::new(pump));
                task.windows += 1;
                if !std::mem::replace(&mut task.renewing, true) {
                    self.wake(at, LEASE_TTL / 3, Purpose::RenewTimer, net);
                }
                self.fill(at, net);
            }
            Outcome::Reply(_) => self.wake(at, ASK_LEASE_EVERY, Purpose::AskLease, net),
            _ => self.rest_before_lease(at, net),
        }
    }

    /// Reads on as far as there is room, one batch at a time.
    fn fill(&mut self, at: usize, net: &mut Net) {
        let task = &mut self.tasks[at];
        let Phase::Pumping(pump) = &mut task.phase else { return };
        if pump.filling {
            return;
        }
        let available = task.source.available(net.now);
        if pump.next_row < available {
            if !pump.window.has_room() {
                return;
            }
            let end = (pump.next_row + 1 + u64::from(net.choices.below(6))).min(available);
            let entry = Arc::new(task.source.entry(RowRange { first: pump.next_row, end }));
            let next = task.source.position(end);
            let ticket = pump.window.push(BatchPlan { next, dictionaries: entry.dictionaries.clone() });
            pump.parcels.insert(ticket, Parcel { entry, next });
            pump.next_row = end;
            pump.filling = true;
            let after = [1, 10, 200, 2_000][net.choices.below(4) as usize];
            self.wake(at, after, Purpose::Fill, net);
            return self.carry_out(at, net);
        }
        if !pump.window.is_empty() {
            return;
        }
        if pump.next_row >= task.source.rows && task.source.until != Until::Followed {
            task.reached_end = true;
            return self.give_back(at, true, net);
        }
        // Nothing new: is the queue where it was?
        pump.filling = true;
        self.wake(at, LOOK_EVERY, Purpose::LookTimer, net);
    }

    /// Does what the window says.
    fn carry_out(&mut self, at: usize, net: &mut Net) {
        loop {
            let Phase::Pumping(pump) = &mut self.tasks[at].phase else { return };
            let Some(command) = pump.window.command() else { break };
            match command {
                Command::Publish { ticket, attempt, expected, with } => {
                    let Some(parcel) = pump.parcels.get(&ticket) else {
                        return net.violated(|| format!("a batch is sent again that was accepted: {ticket:?}"));
                    };
                    let batch = Batch { entry: parcel.entry.clone(), expected, next: parcel.next, with };
                    self.call(at, Request::Publish(batch), Purpose::Publish(ticket, attempt), net);
                }
                Command::Accepted { ticket } => {
                    pump.parcels.remove(&ticket);
                }
                Command::Locate => {
                    let source = self.tasks[at].source.id;
                    self.call(at, Request::Position(source), Purpose::Locate, net);
                }
                Command::Rest(rest) => {
                    let after = net.within(rest.shortest, rest.longest);
                    self.wake(at, after, Purpose::Rested, net);
                }
                Command::Waiting { .. } | Command::NoLongerWaiting => {}
                Command::Halt(Halt::Elsewhere(_)) => return self.go_back(at, net),
                Command::Halt(Halt::Fatal) => return net.violated(|| "a window ends though waiting helps".to_owned()),
            }
        }
        self.fill(at, net);
    }

    /// The queue is elsewhere: once more, from where it is.
    fn go_back(&mut self, at: usize, net: &mut Net) {
        if let Phase::Pumping(pump) = &self.tasks[at].phase {
            self.tasks[at].next_row_kept = Some(pump.next_row);
        }
        self.give_back(at, false, net);
    }

    fn give_back(&mut self, at: usize, at_end: bool, net: &mut Net) {
        let source = self.tasks[at].source.id;
        self.tasks[at].phase = Phase::GivingBack(at_end);
        self.call(at, Request::Release(source), Purpose::GiveBack, net);
    }

    /// A source is at its end.
    fn ended(&mut self, at: usize, net: &mut Net) {
        let unfinished = self.tasks.iter().filter(|task| !task.reached_end).count();
        let task = &mut self.tasks[at];
        task.phase = Phase::Ended;
        let end = task.source.rows;
        match &mut task.completion {
            Some(completion) => completion.sent_again(end),
            None => {
                let stored = task.source.until == Until::Stored && !net.is(Planted::StoredWhenQueued);
                let goal = if stored { Goal::Stored } else { Goal::Queued };
                task.completion = Some(Completion::new(goal, end, unfinished));
            }
        }
        self.complete(at, net);
        for other in 0..self.tasks.len() {
            let before = self.tasks[other].completion;
            if let Some(completion) = &mut self.tasks[other].completion {
                completion.others_ended(unfinished);
            }
            if other != at && before != self.tasks[other].completion && matches!(self.tasks[other].phase, Phase::Ended) {
                self.complete(other, net);
            }
        }
    }

    /// Does what the completion says.
    fn complete(&mut self, at: usize, net: &mut Net) {
        let task = &mut self.tasks[at];
        let source = task.source.id;
        match task.completion.map(|completion| completion.next()) {
            Some(Step::AskCommitted) => self.call(at, Request::Committed(source), Purpose::Committed, net),
            Some(Step::AskReplicated) => self.call(at, Request::Replicated, Purpose::Replicated, net),
            Some(Step::Rest) => self.wake(at, ASK_LEASE_EVERY, Purpose::EndRested, net),
            Some(Step::Locate) => self.call(at, Request::Position(source), Purpose::EndLocated, net),
            Some(Step::SendAgain) => {
                task.phase = Phase::Leasing;
                self.wake(at, 1, Purpose::AskLease, net);
            }
            Some(Step::Finish) => {
                task.phase = Phase::Done;
                net.trace.line(net.now, format_args!("node {}: source {source} is done", self.node));
                let settled = net.shops[0].own().settled(source);
                if task.source.until == Until::Stored && settled < task.source.rows && !net.shops[0].older {
                    let rows = task.source.rows;
                    net.violated(|| {
                        format!("done implies stored: source {source} is done at row {rows}, and stored up to {settled}")
                    });
                }
            }
            None => {}
        }
    }
}

/// What an outcome is to the window.
fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Reply(Reply::Published(Published::Accepted)) => Answer::Accepted,
        Outcome::Reply(Reply::Published(Published::Moved(_))) => Answer::Moved,
        Outcome::Reply(Reply::Published(Published::Full)) | Outcome::Refused(Refusal::OutOfMemory) => Answer::Full,
        Outcome::Reply(Reply::Published(Published::Need(ids))) => Answer::NeedDictionaries(ids),
        Outcome::Reply(_) => Answer::Fatal,
        Outcome::Refused(Refusal::NoWrites) | Outcome::Lost => Answer::Away { blocked: false },
    }
}
