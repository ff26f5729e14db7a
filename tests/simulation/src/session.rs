//! What a consumer remembers of a partition between its calls, as `src/transport/redis` does: which entries it has handed out within
//! its epoch, and what is to be read next.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::queue::{Entry, EntryId, Reread};

/// The right to acknowledge an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// The entry.
    pub entry: EntryId,
    /// The epoch in which it was read.
    pub epoch: u64,
}

/// An entry that was handed out.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// To acknowledge it with.
    pub receipt: Receipt,
    /// The entry.
    pub entry: Arc<Entry>,
    /// Whether it was delivered before.
    pub redelivered: bool,
}

/// What is read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Ids of entries that this consumer has pending.
    Own {
        /// After this one.
        after: EntryId,
        /// At most so many.
        count: usize,
    },
    /// Ids of entries that others have left lying.
    Claim {
        /// From this one on.
        from: EntryId,
        /// At most so many.
        count: usize,
    },
    /// The entries that were listed by those two.
    Listed(Vec<EntryId>),
    /// Entries that nobody has read.
    New {
        /// At most so many.
        count: usize,
    },
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadAnswer {
    /// There is no such group.
    NoGroup,
    /// Ids of entries; for a claim, where the next one goes on.
    Ids(Vec<EntryId>, EntryId),
    /// Entries.
    Entries(Vec<Reread>),
}

/// What an answer comes to.
#[derive(Debug)]
pub enum Step {
    /// Read again.
    ReadOn,
    /// Make the group, then call [`Session::renew`].
    MakeGroup,
    /// These are delivered. The ids are those of entries that were deleted: they are acknowledged away.
    Deliver(Vec<Delivery>, Vec<EntryId>),
}

/// A consumer's session with a partition.
#[derive(Clone, Debug)]
pub struct Session {
    /// The number that its receipts carry.
    pub epoch: u64,
    handed_out: BTreeSet<EntryId>,
    read_own_again: bool,
    own_after: Option<EntryId>,
    listed: VecDeque<EntryId>,
    claim_from: EntryId,
    claim_at: u64,
    /// How many entries a read may ask for: halved when one comes to nothing.
    limit: usize,
}

impl Session {
    /// A session over new connections.
    #[must_use]
    pub fn new(epoch: u64, now: u64) -> Self {
        Self {
            epoch,
            handed_out: BTreeSet::new(),
            read_own_again: false,
            own_after: Some(EntryId::ZERO),
            listed: VecDeque::new(),
            claim_from: EntryId::ZERO,
            claim_at: now,
            limit: usize::MAX,
        }
    }

    /// The group was made anew: old receipts are worth nothing.
    pub fn renew(&mut self, epoch: u64, now: u64) {
        *self = Self { limit: self.limit, ..Self::new(epoch, now) };
    }

    /// What is to be read now.
    pub fn next_read(&mut self, now: u64, count: usize) -> Read {
        let count = count.min(self.limit).max(1);
        if std::mem::take(&mut self.read_own_again) {
            self.own_after = Some(EntryId::ZERO);
        }
        if !self.listed.is_empty() {
            return Read::Listed(self.listed.iter().take(count).copied().collect());
        }
        if let Some(after) = self.own_after {
            return Read::Own { after, count };
        }
        if self.claim_from != EntryId::ZERO || now >= self.claim_at {
            return Read::Claim { from: self.claim_from, count };
        }
        Read::New { count }
    }

    /// Takes the answer to a read.
    pub fn take(&mut self, read: &Read, answer: ReadAnswer, now: u64, claim_idle: u64) -> Step {
        if answer == ReadAnswer::NoGroup {
            return Step::MakeGroup;
        }
        self.limit = self.limit.saturating_mul(2).max(1);
        let entries = match (read, answer) {
            (_, ReadAnswer::NoGroup) => Vec::new(),
            (Read::Own { .. }, ReadAnswer::Ids(ids, _)) => {
                self.own_after = ids.last().copied();
                self.list(ids);
                return Step::ReadOn;
            }
            (_, ReadAnswer::Ids(ids, next)) => {
                self.claim_from = next;
                if next == EntryId::ZERO {
                    self.claim_at = now + claim_idle / 2;
                }
                self.list(ids);
                return Step::ReadOn;
            }
            (Read::Listed(ids), ReadAnswer::Entries(entries)) => {
                self.listed.drain(..ids.len().min(self.listed.len()));
                entries
            }
            (_, ReadAnswer::Entries(entries)) => entries,
        };
        let redelivered = !matches!(read, Read::New { .. });
        let (mut deliveries, mut gone) = (Vec::new(), Vec::new());
        for (id, entry) in entries {
            let Some(entry) = entry else {
                gone.push(id);
                continue;
            };
            if self.handed_out.insert(id) {
                deliveries.push(Delivery { receipt: Receipt { entry: id, epoch: self.epoch }, entry, redelivered });
            }
        }
        match deliveries.is_empty() && redelivered {
            true if gone.is_empty() => Step::ReadOn,
            _ => Step::Deliver(deliveries, gone),
        }
    }

    /// A read of so many entries came to nothing.
    pub fn failed(&mut self, count: usize) {
        self.limit = (self.limit.min(count) / 2).max(1);
    }

    fn list(&mut self, ids: Vec<EntryId>) {
        self.listed.extend(ids.into_iter().filter(|id| !self.handed_out.contains(id)));
    }

    /// The ids of those receipts that are of this epoch.
    #[must_use]
    pub fn live(&self, receipts: &[Receipt]) -> Vec<EntryId> {
        receipts.iter().filter(|receipt| receipt.epoch == self.epoch).map(|receipt| receipt.entry).collect()
    }

    /// These were acknowledged, or are left to whoever claims them.
    pub fn forget(&mut self, ids: &[EntryId]) {
        for id in ids {
            self.handed_out.remove(id);
        }
    }

    /// These are to be delivered again by the next read.
    pub fn let_go(&mut self, ids: &[EntryId]) {
        for id in ids {
            self.read_own_again |= self.handed_out.remove(id);
        }
    }
}
