//! What a streamer and a collector decide: what they know, and what they do with an answer. Everything here is the product's own rule in
//! small; nothing here touches the queue or the store.

use super::engine::{Answer, Batch, Entry, EntryId, Op};
use super::few::{FEW, Few};
use super::{Fault, MAX_SOURCES};

/// Batches that a streamer has on their way at most.
const WINDOW: u8 = 2;

/// What a streamer is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Phase {
    /// It asks for the lease, which says where the queue is.
    #[default]
    Leasing,
    /// It sends.
    Sending,
    /// The first batch was not accepted: it awaits the answers to the others, so many of which have come.
    Settling(u8),
    /// It asks where the queue is.
    Locating,
    /// Everything is sent; it asks whether everything is stored.
    Watching,
    /// It is not yet; it asks whether the queue still is where it was.
    Looking,
    /// It has ended: everything is stored.
    Done,
}

/// A streamer, which works on one source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Streamer {
    /// What it is doing.
    pub phase: Phase,
    /// Where the queue is, as far as it has answered.
    pub confirmed: u8,
    /// The row up to which batches are on their way, from `confirmed` on.
    pub sent: u8,
    /// The position that the first batch on its way expects: `confirmed`, unless a fault is planted.
    pub expects: u8,
    /// A planted fault: the position of the first batch is moved, its entry is not added yet.
    pub half: bool,
}

/// A streamer's source and how it cuts it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Task {
    /// The source.
    pub source: u8,
    /// Its rows.
    pub rows: u8,
    /// Rows of a batch.
    pub step: u8,
}

impl Streamer {
    /// The batches on their way, each with the position that it expects.
    pub fn on_their_way(self, task: Task) -> impl Iterator<Item = (Batch, u8)> {
        let (mut from, mut expected) = (self.confirmed, self.expects);
        std::iter::from_fn(move || {
            if from >= self.sent {
                return None;
            }
            let end = (from + task.step).min(task.rows).min(self.sent);
            let batch = Batch { source: task.source, first: from, end };
            let one = (batch, expected);
            (from, expected) = (end, end);
            Some(one)
        })
    }

    /// Of those, the ones whose answers are still to come: what is lost with the connection.
    pub fn unanswered_batches(self, task: Task) -> impl Iterator<Item = (Batch, u8)> {
        let answered = match self.phase {
            Phase::Sending => 0,
            Phase::Settling(answered) => usize::from(answered),
            _ => usize::from(WINDOW),
        };
        self.on_their_way(task).skip(answered)
    }

    /// Whether another batch can be sent now.
    #[must_use]
    pub fn can_send(self, task: Task) -> bool {
        let on_their_way = self.on_their_way(task).count();
        self.phase == Phase::Sending && self.sent < task.rows && on_their_way < usize::from(WINDOW)
    }

    /// Sends the next batch.
    pub fn send(&mut self, task: Task) {
        self.sent = (self.sent + task.step).min(task.rows);
    }

    /// What its next request asks of the queue.
    #[must_use]
    pub fn request(self, task: Task) -> Option<Op> {
        let source = task.source;
        match self.phase {
            Phase::Leasing => Some(Op::Lease { source }),
            Phase::Sending if self.half => self.on_their_way(task).next().map(|(batch, _)| Op::Add { batch }),
            Phase::Sending => self.on_their_way(task).next().map(|(batch, expected)| Op::Publish { batch, expected }),
            Phase::Settling(answered) => {
                let next = self.on_their_way(task).nth(usize::from(answered));
                next.map(|(batch, expected)| Op::Publish { batch, expected })
            }
            Phase::Locating | Phase::Looking => Some(Op::Locate { source }),
            Phase::Watching => Some(Op::Committed { source }),
            Phase::Done => None,
        }
    }

    /// Acts on the answer.
    pub fn answered(&mut self, task: Task, answer: Answer, fault: Option<Fault>) {
        match (self.phase, answer) {
            (Phase::Leasing, Answer::Row(at)) => *self = Self::at(at, task),
            (Phase::Sending, Answer::Accepted) if fault == Some(Fault::PositionFirst) && !self.half => self.half = true,
            (Phase::Sending, Answer::Accepted) => {
                self.half = false;
                self.accepted(task);
            }
            (Phase::Sending, Answer::Moved(_)) => {
                self.phase = Phase::Settling(1);
                self.settle(task);
            }
            (Phase::Settling(answered), _) => {
                self.phase = Phase::Settling(answered + 1);
                self.settle(task);
            }
            (Phase::Locating, Answer::Row(at)) => self.go_on_from(at, task, fault),
            (Phase::Watching, Answer::Row(_)) if fault == Some(Fault::EndsWhenAccepted) => self.phase = Phase::Done,
            (Phase::Watching, Answer::Row(row)) => self.phase = if row >= task.rows { Phase::Done } else { Phase::Looking },
            // The queue has lost rows: they are sent again.
            (Phase::Looking, Answer::Row(at)) => self.phase = if at < task.rows { Phase::Leasing } else { Phase::Watching },
            _ => {}
        }
    }

    /// The connection is gone, and with it every answer that was to come.
    pub fn unanswered(&mut self) {
        if matches!(self.phase, Phase::Sending | Phase::Settling(_)) && self.sent > self.confirmed {
            self.half = false;
            self.phase = Phase::Locating;
        }
    }

    fn at(at: u8, task: Task) -> Self {
        let phase = if at >= task.rows { Phase::Watching } else { Phase::Sending };
        Self { phase, confirmed: at, sent: at, expects: at, half: false }
    }

    fn accepted(&mut self, task: Task) {
        self.confirmed = self.on_their_way(task).next().map_or(self.confirmed, |(batch, _)| batch.end);
        self.expects = self.confirmed;
        if self.confirmed >= task.rows {
            self.phase = Phase::Watching;
        }
    }

    fn settle(&mut self, task: Task) {
        if let Phase::Settling(answered) = self.phase
            && usize::from(answered) >= self.on_their_way(task).count()
        {
            self.phase = Phase::Locating;
        }
    }

    /// The queue is there: what it has is accepted, the rest is sent again. If it is nowhere that the batches lead to, the source is read
    /// again from there.
    fn go_on_from(&mut self, at: u8, task: Task, fault: Option<Fault>) {
        let is_known = at == self.confirmed || self.on_their_way(task).any(|(batch, _)| batch.end == at);
        if !is_known && fault == Some(Fault::LeaseIsOwnership) {
            (self.phase, self.expects) = (Phase::Sending, at);
        } else if !is_known {
            *self = Self::default();
        } else {
            let sent = self.sent;
            *self = Self::at(at, task);
            self.sent = sent.max(at);
        }
    }
}

/// An entry in a collector's hands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Held {
    /// The entry.
    pub entry: Entry,
    /// Whether the session that read it still is.
    pub is_live: bool,
}

/// A collector.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Collector {
    /// Whether it has listed what it had read before.
    pub has_listed_own: bool,
    /// Entries that are its own and are to be read.
    pub listed: Few<EntryId>,
    /// What it has read and not committed.
    pub held: Few<Held>,
    /// What it has committed and not acknowledged.
    pub committed: Few<EntryId>,
    /// By source: the row to note with that; 0: none.
    pub settled: [u8; MAX_SOURCES],
}

impl Collector {
    /// Whether something is to be acknowledged or noted.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.committed.is_empty() || self.settled.iter().any(|row| *row > 0)
    }

    /// The acknowledgement that is due.
    #[must_use]
    pub fn acknowledgement(&self) -> Option<Op> {
        self.owes().then_some(Op::Acknowledge { ids: self.committed, settled: self.settled })
    }

    /// What it asks for next, if it reads now; `None` while it has its hands full.
    #[must_use]
    pub fn read(&self, collector: u8) -> Option<Op> {
        if !self.has_listed_own {
            return Some(Op::ListOwn { collector });
        }
        if !self.listed.is_empty() {
            let fits = self.held.has_room(self.listed.len()) && self.committed.has_room(self.listed.len());
            return fits.then_some(Op::Read { collector, ids: self.listed });
        }
        self.has_room().then_some(Op::ReadNew { collector })
    }

    /// What it asks for when its turn to claim has come.
    #[must_use]
    pub fn claim(&self, collector: u8) -> Option<Op> {
        (self.has_listed_own && self.listed.is_empty() && self.has_room()).then_some(Op::Claim { collector })
    }

    fn has_room(&self) -> bool {
        self.held.len() + self.committed.len() < FEW
    }

    /// Acts on what reading was answered.
    pub fn has_read(&mut self, op: Op, answer: Answer, fault: Option<Fault>) {
        match (op, answer) {
            (Op::ListOwn { .. } | Op::Claim { .. }, Answer::Ids(ids)) => {
                self.has_listed_own = true;
                let held = self.held;
                let has = |id: EntryId| held.as_slice().iter().any(|held| held.is_live && held.entry.id == id);
                let committed = self.committed;
                self.listed = ids.as_slice().iter().copied().filter(|id| !has(*id) && !committed.contains(*id)).collect();
            }
            (Op::Read { .. } | Op::ReadNew { .. }, Answer::Entries(entries)) => {
                self.listed = Few::default();
                for entry in entries.as_slice() {
                    self.held.add(Held { entry: *entry, is_live: true });
                    if fault == Some(Fault::AcknowledgedFirst) {
                        self.committed.add(entry.id);
                    }
                }
            }
            // The queue is another one now: it begins anew.
            (_, Answer::NoGroup) => self.session_ends(None),
            _ => {}
        }
    }

    /// Its connections are gone, or the queue is another one: no receipt outlives that.
    pub fn session_ends(&mut self, fault: Option<Fault>) {
        self.has_listed_own = false;
        self.listed = Few::default();
        if fault != Some(Fault::ReceiptsOutliveSessions) {
            self.held.map(|held| Held { entry: Entry { id: EntryId::default(), ..held.entry }, is_live: false });
            self.committed = Few::default();
        }
    }

    /// What it holds is committed; the store says how far its sources are settled.
    pub fn has_committed(&mut self, settled: [u8; MAX_SOURCES], fault: Option<Fault>) {
        for held in self.held.as_slice() {
            let batch = held.entry.batch;
            let source = usize::from(batch.source);
            if held.is_live && !self.committed.contains(held.entry.id) && fault != Some(Fault::AcknowledgedFirst) {
                self.committed.add(held.entry.id);
            }
            let row = if fault == Some(Fault::SettledIsEnd) { batch.end } else { settled[source] };
            self.settled[source] = self.settled[source].max(row);
        }
        self.held = Few::default();
    }

    /// What was owed is acknowledged.
    pub fn has_acknowledged(&mut self) {
        self.committed = Few::default();
        self.settled = [0; MAX_SOURCES];
    }
}
