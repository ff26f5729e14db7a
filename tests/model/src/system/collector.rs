//! A collector: the product's own life of receipts, with a session in which entries are read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::engine::{Answer, Batch, Entry, EntryId, Op};
use super::few::{FEW, Few};
use super::machine::Machine;
use super::{Fault, MAX_SOURCES};
use crate::model::{Partition, Partitions, SourceId};
use crate::protocol::receipts::{
    Acknowledgement, Arrival, Decoded, Event as Happened, Receipt, Receipts, Settings, Step, Unacknowledged,
};

/// What happens to a collector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// What it asked for to read is answered.
    Read(Op, Answer),
    /// What it has is committed; by source, how far that is settled.
    Committed([u8; MAX_SOURCES]),
    /// What it had committed is acknowledged.
    Acknowledged,
    /// Its connections are gone; whether while it acknowledged.
    SessionEnds {
        /// Whether it was waiting for the answer to an acknowledgement.
        acknowledging: bool,
    },
}

/// What can be seen of a collector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// What it asks for next, if it reads now; `None` while it has its hands full.
    pub read: Option<Op>,
    /// What it asks for when its turn to claim has come.
    pub claim: Option<Op>,
    /// The acknowledgement that is due.
    pub acknowledgement: Option<Op>,
    /// What it has to commit.
    pub batches: Few<Batch>,
    /// Whether it has listed and read what it had before.
    pub is_up_to_date: bool,
}

/// A collector.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Collector {
    name: u8,
    fault: Option<Fault>,
    receipts: Receipts<EntryId>,
    /// Which session this is.
    epoch: u64,
    /// Whether it has listed what it had read before.
    has_listed_own: bool,
    /// Entries that are its own and are to be read.
    listed: Few<EntryId>,
    /// What the session has handed out.
    handed_out: BTreeSet<EntryId>,
    /// What waits for a commit.
    offered: Vec<(Receipt<EntryId>, Batch)>,
    /// What is to be acknowledged.
    acknowledgements: Vec<Acknowledgement<EntryId>>,
}

impl Collector {
    /// One that begins.
    pub fn new(name: u8, fault: Option<Fault>) -> Self {
        let settings = Settings { partitions: Partitions::ONE, dead_after: 5, claim_idle: Duration::from_secs(60) };
        Self {
            name,
            fault,
            receipts: Receipts::new(settings),
            epoch: 0,
            has_listed_own: false,
            listed: Few::default(),
            handed_out: BTreeSet::new(),
            offered: Vec::new(),
            acknowledgements: Vec::new(),
        }
    }

    fn session_ends(&mut self) {
        if self.fault != Some(Fault::ReceiptsOutliveSessions) {
            self.epoch += 1;
        }
        self.has_listed_own = false;
        self.listed = Few::default();
        self.handed_out.clear();
    }

    fn has_read(&mut self, op: Op, answer: Answer) {
        match (op, answer) {
            (Op::ListOwn { .. } | Op::Claim { .. }, Answer::Ids(ids)) => {
                self.has_listed_own = true;
                self.listed = ids.as_slice().iter().copied().filter(|id| !self.handed_out.contains(id)).collect();
            }
            (Op::Read { .. } | Op::ReadNew { .. }, Answer::Entries(entries)) => {
                self.listed = Few::default();
                for entry in entries.as_slice() {
                    self.take_up(*entry, matches!(op, Op::Read { .. }));
                }
            }
            // The queue is another one now: it begins anew.
            (_, Answer::NoGroup) => self.session_ends(),
            _ => {}
        }
    }

    /// Takes a delivery to where it waits for a commit.
    fn take_up(&mut self, entry: Entry, redelivered: bool) {
        if !self.handed_out.insert(entry.id) {
            return;
        }
        let receipt = Receipt { partition: Partition::FIRST, entry: entry.id, epoch: self.epoch };
        self.receipts.delivered([Arrival { receipt: receipt.clone(), bytes: 1, redelivered, oversize: false, withheld: false }]);
        let mut event = Happened::TakenUp;
        loop {
            event = match self.receipts.happened(&receipt, event) {
                Step::NoteAttempt => Happened::AttemptNoted(1),
                Step::Decode => Happened::Decoded(Decoded::Batch),
                Step::ForgetAttempts => Happened::AttemptsForgotten,
                Step::Offer => break,
                step => panic!("{step:?} of a batch that is sound"),
            };
        }
        if self.fault == Some(Fault::AcknowledgedFirst) {
            self.acknowledgements.extend(self.receipts.committed(std::slice::from_ref(&receipt), &[]));
        }
        self.offered.push((receipt, entry.batch));
        self.offered.sort_unstable();
    }

    fn has_committed(&mut self, settled: [u8; MAX_SOURCES]) {
        let (receipts, batches): (Vec<_>, Vec<_>) = std::mem::take(&mut self.offered).into_iter().unzip();
        let mut rows = [0; MAX_SOURCES];
        for batch in batches {
            let row = &mut rows[usize::from(batch.source)];
            let end = if self.fault == Some(Fault::SettledIsEnd) { batch.end } else { settled[usize::from(batch.source)] };
            *row = end.max(*row);
        }
        let rows = rows.iter().enumerate().filter(|(_, row)| **row > 0);
        let rows: Vec<(SourceId, u64)> = rows.map(|(source, row)| (source_id(source), u64::from(*row))).collect();
        self.acknowledgements.extend(self.receipts.committed(&receipts, &rows));
    }

    fn has_acknowledged(&mut self) {
        let acknowledgement = self.acknowledgements.remove(0);
        self.receipts.acknowledged(&acknowledgement);
        for receipt in acknowledgement.receipts.iter().filter(|receipt| receipt.epoch == self.epoch) {
            self.handed_out.remove(&receipt.entry);
        }
    }

    fn acknowledgement(&self) -> Option<Op> {
        let due = self.acknowledgements.first()?;
        // No receipt outlives its session.
        let live = due.receipts.iter().filter(|receipt| receipt.epoch == self.epoch);
        let mut settled = [0; MAX_SOURCES];
        for (source, row) in &due.settled {
            let at = (0..MAX_SOURCES).find(|at| source_id(*at) == *source).unwrap_or_default();
            settled[at] = u8::try_from(*row).unwrap_or(u8::MAX);
        }
        Some(Op::Acknowledge { ids: live.map(|receipt| receipt.entry).collect(), settled })
    }

    fn has_room(&self, more: usize) -> bool {
        let unacknowledged: usize = self.acknowledgements.iter().map(|one| one.receipts.len()).sum();
        self.offered.len() + unacknowledged + more <= FEW
    }

    fn read(&self) -> Option<Op> {
        let collector = self.name;
        if !self.has_listed_own {
            return Some(Op::ListOwn { collector });
        }
        if !self.listed.is_empty() {
            return self.has_room(self.listed.len()).then_some(Op::Read { collector, ids: self.listed });
        }
        self.has_room(1).then_some(Op::ReadNew { collector })
    }
}

fn source_id(source: usize) -> SourceId {
    format!("{source:032x}").parse().unwrap_or(SourceId::UNKNOWN)
}

impl Machine for Collector {
    type Event = Event;
    type View = View;

    fn happens(&mut self, event: Event) {
        match event {
            Event::Read(op, answer) => self.has_read(op, answer),
            Event::Committed(settled) => self.has_committed(settled),
            Event::Acknowledged => self.has_acknowledged(),
            Event::SessionEnds { acknowledging } => {
                self.session_ends();
                if acknowledging
                    && let Some(mut due) = (!self.acknowledgements.is_empty()).then(|| self.acknowledgements.remove(0))
                    && let Unacknowledged::Again(_) = self.receipts.not_acknowledged(&mut due)
                {
                    self.acknowledgements.insert(0, due);
                }
            }
        }
    }

    fn view(&self) -> View {
        let can_claim = self.has_listed_own && self.listed.is_empty() && self.has_room(1);
        View {
            read: self.read(),
            claim: can_claim.then_some(Op::Claim { collector: self.name }),
            acknowledgement: self.acknowledgement(),
            batches: self.offered.iter().map(|(_, batch)| *batch).collect(),
            is_up_to_date: self.has_listed_own && self.listed.is_empty(),
        }
    }
}
