//! A partition of the queue, as its server has it: what the scripts in `src/transport/redis/scripts` and the commands beside them mean. A test of
//! the program (`tests/it/transport/simulated.rs`) plays the same operations here and on a real Redis, and compares the answers.
//!
//! One call is one script or command: nothing comes between its parts. Time is passed in, in ms.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::planted::Planted;
use crate::model::{DictionaryId, Position, RowRange, SourceId};

/// The id of an entry, as Redis gives them: time and a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// When it was added, ms.
    pub ms: u64,
    /// Which of that millisecond.
    pub sequence: u64,
}

impl EntryId {
    /// The id before all others.
    pub const ZERO: Self = Self { ms: 0, sequence: 0 };

    fn following(self) -> Self {
        Self { ms: self.ms, sequence: self.sequence + 1 }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

/// A batch in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its source.
    pub source: SourceId,
    /// Its rows.
    pub rows: RowRange,
    /// What stands for the encoded rows.
    pub payload: u64,
    /// The dictionaries that it names.
    pub dictionaries: Vec<DictionaryId>,
}

/// A batch that is to be added.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What becomes an entry.
    pub entry: Arc<Entry>,
    /// Where the publisher thinks that the queue is in the source.
    pub expected: Option<Position>,
    /// Where it is afterwards.
    pub next: Position,
    /// Dictionaries that come with it.
    pub with: Vec<DictionaryId>,
}

/// The answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the queue.
    Accepted,
    /// The queue is elsewhere in the source.
    Moved(Option<Position>),
    /// The backlog is at its limit.
    Full,
    /// These dictionaries are missing.
    Need(Vec<DictionaryId>),
}

/// Why a call came to nothing, though it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server has no memory left.
    OutOfMemory,
    /// The server accepts no writes now (MISCONF, NOREPLICAS). The connection stays.
    NoWrites,
}

/// What a call answers.
pub type Answer<T> = Result<T, Refusal>;

/// A consumer group.
pub type Group = u8;
/// A consumer of a group, by its name.
pub type Consumer = u16;

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Pending {
    consumer: Consumer,
    since: u64,
}

#[derive(Clone, Debug, Default)]
struct GroupState {
    delivered: EntryId,
    pending: BTreeMap<EntryId, Pending>,
}

/// What a partition holds, and what a replica copies.
#[derive(Clone, Debug, Default)]
struct Held {
    exists: bool,
    entries: BTreeMap<EntryId, Arc<Entry>>,
    last: EntryId,
    positions: BTreeMap<SourceId, Position>,
    committed: BTreeMap<(Group, SourceId), u64>,
    /// The dictionaries, and the last entry that refers to each.
    dictionaries: BTreeMap<DictionaryId, EntryId>,
    groups: BTreeMap<Group, GroupState>,
    leases: BTreeMap<SourceId, (u64, u64)>,
    marks: BTreeMap<Group, (Option<u64>, Option<u64>)>,
}

/// How much waits for a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Entries not acknowledged.
    pub entries: u64,
    /// Those of them that were read.
    pub pending: u64,
}

/// What one of the entries is that a consumer wants to read again: `None` where it is no longer in the stream.
pub type Reread = (EntryId, Option<Arc<Entry>>);

/// What a server's clock shows when time begins, ms.
const EPOCH: u64 = 1_000_000_000;

/// Entries that were claimed, with who had each.
pub type Claimed = Vec<(EntryId, Consumer)>;

/// A partition's server.
#[derive(Clone, Debug)]
pub struct Server {
    held: Held,
    /// What a failover finds: the same, or an earlier state.
    replica: Held,
    replicas: bool,
    limit: usize,
    planted: Option<Planted>,
    /// The server has no memory left.
    pub out_of_memory: bool,
    /// The server accepts no writes.
    pub no_writes: bool,
    /// What its clock is ahead of ours, ms.
    pub clock_ahead: i64,
    /// Whether the replica has all of it.
    pub in_sync: bool,
}

impl Server {
    /// An empty partition that takes so many entries.
    #[must_use]
    pub fn new(limit: usize, replicas: bool, planted: Option<Planted>) -> Self {
        Self {
            held: Held::default(),
            replica: Held::default(),
            replicas,
            limit,
            planted,
            out_of_memory: false,
            no_writes: false,
            clock_ahead: 0,
            in_sync: true,
        }
    }

    /// An earlier clock was far ahead: ids count up from where it stood, and after a failover come again.
    pub fn follow_a_clock_that_was_ahead(&mut self) {
        self.held.last = EntryId { ms: 2 * EPOCH, sequence: 0 };
        self.replica.last = self.held.last;
    }

    fn is(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    fn clock(&self, now: u64) -> u64 {
        (EPOCH + now).saturating_add_signed(self.clock_ahead)
    }

    /// Before a command that writes: refuses it, or notes that the replica is behind.
    fn writes(&mut self) -> Answer<()> {
        if self.no_writes {
            return Err(Refusal::NoWrites);
        }
        self.in_sync = !self.replicas;
        Ok(())
    }

    /// Before a command that takes memory.
    fn grows(&mut self) -> Answer<()> {
        // Either refusal comes at the first write.
        if self.out_of_memory && !self.no_writes {
            return Err(Refusal::OutOfMemory);
        }
        self.writes()
    }

    /// `publish.lua`.
    ///
    /// # Errors
    /// Those of the server; nothing is written then.
    pub fn publish(&mut self, group: Group, batch: &Batch, now: u64) -> Answer<Published> {
        let at = self.held.positions.get(&batch.entry.source).copied();
        if at != batch.expected && !self.is(Planted::LeaseForOwnership) {
            return Ok(Published::Moved(at));
        }
        if self.held.entries.len() >= self.limit {
            let waiting = self.held.groups.values().map(|g| g.pending.len() + self.held.after(g.delivered).count()).max();
            if waiting.unwrap_or(self.held.entries.len()) >= self.limit {
                return Ok(Published::Full);
            }
        }
        let missing = |id: &&DictionaryId| !batch.with.contains(id) && !self.held.dictionaries.contains_key(id);
        let need: Vec<_> = batch.entry.dictionaries.iter().filter(missing).copied().collect();
        if !need.is_empty() {
            return Ok(Published::Need(need));
        }
        self.grows()?;
        self.held.exists = true;
        let is_new = !self.held.groups.contains_key(&group);
        self.held.groups.entry(group).or_default();
        if self.is(Planted::PositionBeforeEntry) {
            self.held.positions.insert(batch.entry.source, batch.next);
            self.replica = self.held.clone();
        }
        let ms = self.clock(now);
        let id = if ms > self.held.last.ms { EntryId { ms, sequence: 0 } } else { self.held.last.following() };
        self.held.last = id;
        self.held.entries.insert(id, batch.entry.clone());
        if is_new && self.is(Planted::GroupAtTheEnd) {
            self.held.groups.entry(group).or_default().delivered = id;
        }
        self.held.positions.insert(batch.entry.source, batch.next);
        if self.is(Planted::PositionElsewhere) {
            self.replica.positions.insert(batch.entry.source, batch.next);
        }
        for dictionary in &batch.entry.dictionaries {
            self.held.dictionaries.insert(*dictionary, id);
        }
        if self.is(Planted::TrimByTime) {
            let before = EntryId { ms: ms.saturating_sub(60_000), sequence: 0 };
            self.held.entries = self.held.entries.split_off(&before);
        }
        Ok(Published::Accepted)
    }

    /// Where the queue is in a source.
    #[must_use]
    pub fn position(&self, source: SourceId) -> Option<Position> {
        self.held.positions.get(&source).copied()
    }

    /// How far a source is committed.
    #[must_use]
    pub fn committed(&self, group: Group, source: SourceId) -> u64 {
        self.held.committed.get(&(group, source)).copied().unwrap_or(0)
    }

    /// `lease.lua`: `Some` where it is the caller's.
    ///
    /// # Errors
    /// Those of the server.
    pub fn lease(&mut self, source: SourceId, owner: u64, ttl: u64, now: u64) -> Answer<Option<Option<Position>>> {
        match self.held.leases.get(&source).filter(|(_, until)| *until > now).map(|(owner, _)| *owner) {
            Some(held_by) if held_by != owner => return self.writes().map(|()| None),
            Some(_) => self.writes()?,
            None => self.grows()?,
        }
        self.held.leases.insert(source, (owner, now + ttl));
        Ok(Some(self.position(source)))
    }

    /// `release.lua`.
    ///
    /// # Errors
    /// Those of the server.
    pub fn release(&mut self, source: SourceId, owner: u64, now: u64) -> Answer<()> {
        if self.held.leases.get(&source).is_some_and(|(held_by, until)| *held_by == owner && *until > now) {
            self.writes()?;
            self.held.leases.remove(&source);
        }
        Ok(())
    }

    /// WAIT: whether a replica has everything (or there is none).
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.in_sync
    }

    /// XGROUP CREATE … 0 MKSTREAM.
    ///
    /// # Errors
    /// Those of the server.
    pub fn make_group(&mut self, group: Group) -> Answer<()> {
        if self.held.groups.contains_key(&group) {
            // BUSYGROUP, unless the server refuses first.
            return if self.no_writes { Err(Refusal::NoWrites) } else { Ok(()) };
        }
        self.grows()?;
        self.held.exists = true;
        let delivered = if self.is(Planted::GroupAtTheEnd) { self.held.last } else { EntryId::ZERO };
        self.held.groups.insert(group, GroupState { delivered, ..GroupState::default() });
        Ok(())
    }

    /// XPENDING of one consumer: ids after this one. `None`: there is no such group.
    #[must_use]
    pub fn pending_of(&self, group: Group, consumer: Consumer, after: EntryId, count: usize) -> Option<Vec<EntryId>> {
        let group = self.held.groups.get(&group)?;
        let own = group.pending.range(after.following()..).filter(|(_, pending)| pending.consumer == consumer);
        Some(own.map(|(id, _)| *id).take(count).collect())
    }

    /// XAUTOCLAIM … JUSTID: takes what has been idle for so long. Gives where to go on (zero: all were looked at) and the ids, with who
    /// had each.
    ///
    /// # Errors
    /// Those of the server.
    pub fn claim(
        &mut self,
        group: Group,
        consumer: Consumer,
        (idle, from, count): (u64, EntryId, usize),
        now: u64,
    ) -> Answer<Option<(EntryId, Claimed)>> {
        self.writes()?;
        let Some(state) = self.held.groups.get_mut(&group) else { return Ok(None) };
        let (mut claimed, mut next, mut deleted) = (Vec::new(), EntryId::ZERO, Vec::new());
        for (looked, (id, pending)) in state.pending.range_mut(from..).enumerate() {
            if claimed.len() == count || looked == count * 10 {
                next = *id;
                break;
            }
            if now.saturating_sub(pending.since) < idle && self.planted != Some(Planted::ClaimWhatIsKept) {
                continue;
            }
            if !self.held.entries.contains_key(id) {
                deleted.push(*id);
                continue;
            }
            claimed.push((*id, pending.consumer));
            *pending = Pending { consumer, since: now };
        }
        for id in deleted {
            state.pending.remove(&id);
        }
        Ok(Some((next, claimed)))
    }

    /// `read.lua`: entries that are the consumer's.
    ///
    /// # Errors
    /// Those of the server.
    pub fn reread(&mut self, group: Group, consumer: Consumer, ids: &[EntryId], now: u64) -> Answer<Option<Vec<Reread>>> {
        let Some(state) = self.held.groups.get_mut(&group) else { return Ok(None) };
        let mut found = Vec::new();
        for id in ids {
            if let Some(pending) = state.pending.get_mut(id).filter(|pending| pending.consumer == consumer) {
                let entry = self.held.entries.get(id).cloned();
                if entry.is_some() {
                    if self.no_writes {
                        return Err(Refusal::NoWrites);
                    }
                    pending.since = now;
                }
                found.push((*id, entry));
            }
        }
        self.in_sync = !self.replicas;
        Ok(Some(found))
    }

    /// XREADGROUP … >: entries that nobody has read.
    ///
    /// # Errors
    /// Those of the server.
    pub fn read_new(&mut self, group: Group, consumer: Consumer, count: usize, now: u64) -> Answer<Option<Vec<Reread>>> {
        self.writes()?;
        let Some(delivered) = self.held.groups.get(&group).map(|state| state.delivered) else { return Ok(None) };
        let found: Vec<Reread> = self.held.after(delivered).take(count).map(|(id, entry)| (*id, Some(entry.clone()))).collect();
        if let Some(state) = self.held.groups.get_mut(&group) {
            for (id, _) in &found {
                state.delivered = *id;
                state.pending.insert(*id, Pending { consumer, since: now });
            }
        }
        Ok(Some(found))
    }

    /// `acknowledge.lua`: how many were acknowledged.
    ///
    /// # Errors
    /// Those of the server.
    pub fn acknowledge(&mut self, group: Group, ids: &[EntryId], settled: &[(SourceId, u64)]) -> Answer<usize> {
        self.writes()?;
        let before = self.held.groups.get(&group).map_or(0, |state| state.pending.len());
        if let Some(state) = self.held.groups.get_mut(&group) {
            state.pending.retain(|id, _| !ids.contains(id));
        }
        for (source, row) in settled {
            let committed = self.held.committed.entry((group, *source)).or_insert(*row);
            *committed = (*committed).max(*row);
        }
        self.held.trim(self.is(Planted::TrimForOneGroup).then_some(group));
        Ok(before - self.held.groups.get(&group).map_or(0, |state| state.pending.len()))
    }

    /// XACK alone, of entries that were deleted.
    pub fn acknowledge_away(&mut self, group: Group, ids: &[EntryId]) {
        if self.writes().is_ok()
            && let Some(state) = self.held.groups.get_mut(&group)
        {
            state.pending.retain(|id, _| !ids.contains(id));
        }
    }

    /// `keep.lua`: how many are still the consumer's.
    ///
    /// # Errors
    /// Those of the server.
    pub fn keep(&mut self, group: Group, consumer: Consumer, ids: &[EntryId], now: u64) -> Answer<usize> {
        let Some(state) = self.held.groups.get_mut(&group) else { return Ok(0) };
        let mut kept = 0;
        for id in ids {
            if let Some(pending) = state.pending.get_mut(id).filter(|pending| pending.consumer == consumer) {
                if self.no_writes {
                    return Err(Refusal::NoWrites);
                }
                // XCLAIM takes what was deleted out of the pending ones.
                if self.held.entries.contains_key(id) {
                    pending.since = now;
                    kept += 1;
                } else {
                    state.pending.remove(id);
                }
            }
        }
        self.in_sync = !self.replicas;
        Ok(kept)
    }

    /// `contains.lua`: whether an entry is in the stream, and not another one that has got its id since.
    #[must_use]
    pub fn contains(&self, id: EntryId, source: SourceId, rows: RowRange) -> bool {
        self.held.entries.get(&id).is_some_and(|entry| (entry.source, entry.rows) == (source, rows))
    }

    /// Whether there is such a dictionary.
    #[must_use]
    pub fn has_dictionary(&self, id: DictionaryId) -> bool {
        self.held.dictionaries.contains_key(&id)
    }

    /// `sweep.lua`, for all dictionaries: how many went.
    ///
    /// # Errors
    /// Those of the server.
    pub fn sweep(&mut self, unused_for: u64, now: u64) -> Answer<usize> {
        self.writes()?;
        self.held.trim(None);
        let bound = self.held.groups.values().map(|state| match state.pending.keys().next() {
            Some(first) => *first,
            None => state.delivered,
        });
        let bound = bound.min();
        if bound.is_none() && !self.held.entries.is_empty() {
            return Ok(0);
        }
        let clock = self.clock(now);
        let bound = if self.is(Planted::SweepWhatIsNeeded) { None } else { bound };
        let before = self.held.dictionaries.len();
        self.held.dictionaries.retain(|_, used| bound.is_some_and(|bound| *used >= bound) || used.ms + unused_for > clock);
        Ok(before - self.held.dictionaries.len())
    }

    /// `mark.lua`: the mark and the generation that are there now.
    ///
    /// # Errors
    /// Those of the server.
    pub fn mark_store(&mut self, group: Group, store: u64, seen: Option<u64>) -> Answer<(Option<u64>, Option<u64>)> {
        let (mark, generation) = self.mark(group);
        if mark.is_none() && generation == seen {
            self.writes()?;
            self.held.marks.insert(group, (Some(store), generation));
        }
        Ok(self.mark(group))
    }

    /// The mark of the group's store, and its generation: another one each time that all sources are set back.
    #[must_use]
    pub fn mark(&self, group: Group) -> (Option<u64>, Option<u64>) {
        self.held.marks.get(&group).copied().unwrap_or_default()
    }

    /// The sources and how far each is committed, by id.
    #[must_use]
    pub fn sources(&self, group: Group) -> Vec<(SourceId, Option<Position>, u64)> {
        let committed = self.held.committed.keys().filter(|(of, _)| *of == group).map(|(_, source)| *source);
        let known: BTreeSet<SourceId> = self.held.positions.keys().copied().chain(committed).collect();
        known.into_iter().map(|source| (source, self.position(source), self.committed(group, source))).collect()
    }

    /// `reset.lua` for all sources; how many were known.
    pub fn reset(&mut self, group: Group, generation: u64) -> usize {
        let known = self.sources(group).len();
        self.held.positions.clear();
        self.held.committed.retain(|(of, _), _| *of != group);
        self.held.marks.insert(group, (None, Some(generation)));
        self.in_sync = !self.replicas;
        known
    }

    /// `leave.lua`: whether the consumer had nothing pending.
    #[must_use]
    pub fn leave(&self, group: Group, consumer: Consumer) -> bool {
        let state = self.held.groups.get(&group);
        state.is_some_and(|state| state.pending.values().all(|pending| pending.consumer != consumer))
    }

    /// `backlog.lua`, without the age.
    #[must_use]
    pub fn backlog(&self, group: Group) -> Backlog {
        match self.held.groups.get(&group) {
            Some(state) => {
                let pending = state.pending.len();
                Backlog { entries: (pending + self.held.after(state.delivered).count()) as u64, pending: pending as u64 }
            }
            None => Backlog { entries: self.held.entries.len() as u64, pending: 0 },
        }
    }

    /// The entries that the group will have delivered, again or for the first time.
    pub fn to_come(&self, group: Group) -> impl Iterator<Item = &Entry> {
        let state = self.held.groups.get(&group);
        self.held
            .entries
            .iter()
            .filter(move |(id, _)| state.is_none_or(|state| **id > state.delivered || state.pending.contains_key(id)))
            .map(|(_, entry)| &**entry)
    }

    /// Who has an entry, if it was read.
    #[must_use]
    pub fn holder(&self, group: Group, id: EntryId) -> Option<Consumer> {
        self.held.groups.get(&group)?.pending.get(&id).map(|pending| pending.consumer)
    }

    /// Entries become old in the hands of whoever has them, by so many ms.
    pub fn age(&mut self, group: Group, by: u64) {
        if let Some(state) = self.held.groups.get_mut(&group) {
            state.pending.values_mut().for_each(|pending| pending.since = pending.since.saturating_sub(by));
        }
    }

    /// The replica gets what it lacks.
    pub fn replicate(&mut self) {
        if !self.in_sync {
            self.replica.clone_from(&self.held);
            self.in_sync = true;
        }
    }

    /// The replica takes over as it is.
    pub fn fail_over(&mut self) {
        self.held.clone_from(&self.replica);
        (self.in_sync, self.no_writes, self.out_of_memory) = (true, false, false);
    }

    /// FLUSHALL: everything is gone, also at the replica.
    pub fn flush(&mut self) {
        self.held = Held::default();
        self.replica = Held::default();
        self.in_sync = true;
    }
}

impl Held {
    fn after(&self, id: EntryId) -> std::collections::btree_map::Range<'_, EntryId, Arc<Entry>> {
        self.entries.range(id.following()..)
    }

    /// Trims what every group (or `only` this one) has done with.
    fn trim(&mut self, only: Option<Group>) {
        let needed = |state: &GroupState| state.pending.keys().next().copied().unwrap_or(state.delivered.following());
        let of = self.groups.iter().filter(|(group, _)| only.is_none_or(|only| **group == only)).map(|(_, state)| needed(state));
        if let Some(from) = of.min() {
            self.entries = self.entries.split_off(&from);
        }
    }
}
