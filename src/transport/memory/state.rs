//! What the queue holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{DictionaryId, Partition, Partitions, Position, RowRange, SourceId, TimeMs};
use crate::transport::{Outgoing, SourceState, StoreMark};

/// Dictionaries of a partition that are kept although no entry needs them: the next batch of their source will.
const SPARE_DICTIONARIES: usize = 1024;

/// All partitions, and what concerns none of them.
pub(super) struct State {
    partitions: Vec<Place>,
    leases: HashMap<SourceId, (String, Instant)>,
    pub(super) store_mark: StoreMark,
}

/// One partition.
#[derive(Default)]
pub(super) struct Place {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) positions: BTreeMap<SourceId, Position>,
    pub(super) committed: BTreeMap<SourceId, u64>,
    pub(super) dictionaries: HashMap<DictionaryId, Dictionary>,
    /// When the newest entry there ever was came.
    pub(super) newest: Option<TimeMs>,
    next: u64,
    bytes: usize,
}

/// A batch that waits.
pub(super) struct Entry {
    pub(super) source: SourceId,
    pub(super) rows: RowRange,
    pub(super) payload: Bytes,
    pub(super) at: TimeMs,
    pub(super) held: Option<HeldEntry>,
}

/// The consumer that has read an entry, and since when.
pub(super) struct HeldEntry {
    pub(super) consumer: String,
    pub(super) epoch: u64,
    pub(super) since: Instant,
}

/// A dictionary, and the last entry that refers to it.
pub(super) struct Dictionary {
    pub(super) bytes: Bytes,
    last: u64,
}

impl Entry {
    pub(super) fn hold(&mut self, consumer: &str, epoch: u64, since: Instant) {
        self.held = Some(HeldEntry { consumer: consumer.to_owned(), epoch, since });
    }
}

impl Place {
    /// Takes a batch that was found in order.
    pub(super) fn accept(&mut self, batch: &Outgoing, at: TimeMs) {
        let id = self.next;
        self.next += 1;
        for (digest, bytes) in &batch.with {
            self.dictionaries.insert(*digest, Dictionary { bytes: bytes.clone(), last: id });
        }
        for digest in &batch.dictionaries {
            if let Some(dictionary) = self.dictionaries.get_mut(digest) {
                dictionary.last = id;
            }
        }
        self.bytes += batch.payload.len();
        self.newest = Some(at);
        self.positions.insert(batch.source, batch.next);
        let (source, rows, payload) = (batch.source, batch.rows, batch.payload.clone());
        self.entries.insert(id, Entry { source, rows, payload, at, held: None });
    }

    /// How many entries there ever were.
    pub(super) fn accepted(&self) -> u64 {
        self.next
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        self.bytes -= entry.payload.len();
        true
    }

    /// Lets go of dictionaries that no entry refers to, those least lately used first.
    pub(super) fn trim(&mut self) {
        if self.dictionaries.len() <= 2 * SPARE_DICTIONARIES {
            return;
        }
        let oldest = self.entries.first_key_value().map_or(self.next, |(id, _)| *id);
        let mut spare: Vec<(u64, DictionaryId)> =
            self.dictionaries.iter().filter(|(_, d)| d.last < oldest).map(|(digest, d)| (d.last, *digest)).collect();
        spare.sort_unstable();
        for (_, digest) in &spare[..spare.len().saturating_sub(SPARE_DICTIONARIES)] {
            self.dictionaries.remove(digest);
        }
    }

    /// What is known of sources, by id.
    pub(super) fn sources(&self) -> Vec<SourceState> {
        let known: BTreeSet<SourceId> = self.positions.keys().chain(self.committed.keys()).copied().collect();
        let state = |source: SourceId| SourceState {
            source,
            position: self.positions.get(&source).copied(),
            committed: self.committed.get(&source).copied().unwrap_or(0),
        };
        known.into_iter().map(state).collect()
    }
}

impl State {
    pub(super) fn new(partitions: Partitions) -> Self {
        Self {
            partitions: partitions.iter().map(|_| Place::default()).collect(),
            leases: HashMap::new(),
            store_mark: StoreMark::default(),
        }
    }

    pub(super) fn partition(&mut self, partition: Partition) -> &mut Place {
        &mut self.partitions[partition.index()]
    }

    /// Bytes of batches that wait.
    pub(super) fn bytes(&self) -> usize {
        self.partitions.iter().map(|place| place.bytes).sum()
    }

    /// Takes or renews a lease; `false` = another's.
    pub(super) fn lease(&mut self, source: SourceId, owner: &str, now: Instant, ttl: Duration) -> bool {
        if self.leases.get(&source).is_some_and(|(held_by, until)| held_by != owner && *until > now) {
            return false;
        }
        self.leases.insert(source, (owner.to_owned(), now + ttl));
        true
    }

    pub(super) fn release(&mut self, source: SourceId, owner: &str) {
        if self.leases.get(&source).is_some_and(|(held_by, _)| held_by == owner) {
            self.leases.remove(&source);
        }
    }

    /// Forgets where the queue is in a source, or in all; how many that were.
    pub(super) fn reset(&mut self, source: Option<SourceId>) -> u64 {
        let mut forgotten = 0;
        for place in &mut self.partitions {
            match source {
                Some(source) => {
                    let (position, committed) = (place.positions.remove(&source), place.committed.remove(&source));
                    forgotten += u64::from(position.is_some() || committed.is_some());
                }
                None => {
                    forgotten += place.sources().len() as u64;
                    place.positions.clear();
                    place.committed.clear();
                }
            }
        }
        if source.is_none() {
            let generation = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            self.store_mark = StoreMark { store: None, generation: Some(generation.to_string()) };
        }
        forgotten
    }
}
