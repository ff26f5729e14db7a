//! The queue inside one process, for `telemetry all`: the same promises as the one in Redis, as far as a process can give them. It
//! ends with the process. What it held is read again then, and what is stored is not stored twice: the store knows what it covers.
//!
//! | file | what |
//! |---|---|
//! | `state` | partitions: entries, positions, dictionaries; leases |
//! | `registry` | which content is which source, on disk: a file that has grown meanwhile is still the same source |

mod registry;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use self::registry::Registry;
use self::state::{Entry, State};
use super::{
    Backlog, Consumer, ConsumerState, Delivery, FetchedDictionary, GroupState, Identity, Inspector, Lease, Outgoing,
    PartitionState, Published, Publisher, Receipt, Redelivery, Result, SourceState, StoreMark,
};
use crate::model::{DictionaryId, FamilyId, GroupId, Partition, Partitions, Position, RowRange, SourceId, TimeMs};

/// What the one group is called where groups are listed.
const GROUP: &str = "collectors";

/// Limits of the queue, and how long things last.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many partitions.
    pub partitions: Partitions,
    /// Batches of a partition that may wait.
    pub max_backlog: u64,
    /// Bytes of batches that may wait, all partitions together. One batch always may.
    pub max_bytes: usize,
    /// How long a lease lasts without renewing.
    pub lease_ttl: Duration,
    /// After how long what another consumer has read may be claimed.
    pub claim_idle: Duration,
    /// How long a receiver waits for something new.
    pub block: Duration,
    /// This consumer's name.
    pub consumer: String,
}

/// The queue, as one consumer sees it. [`MemoryTransport::join`] gives the view of another.
pub struct MemoryTransport {
    settings: Settings,
    epoch: u64,
    shared: Arc<QueueState>,
}

/// The epoch of an entry that its consumer let go.
const PUT_BACK: u64 = u64::MAX;

/// Entries, registry and waiting readers of the queue, for all its clones.
struct QueueState {
    state: Mutex<State>,
    registry: Mutex<Registry>,
    arrived: Vec<Notify>,
    epochs: AtomicU64,
}

impl std::fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTransport").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryTransport {
    /// An empty queue. `registry`: the file that remembers sources; without one they are forgotten with the process.
    ///
    /// # Errors
    ///
    /// [`super::TransportError::Local`]: the file cannot be used.
    pub fn open(settings: Settings, registry: Option<&Path>) -> Result<Arc<Self>> {
        let shared = QueueState {
            state: Mutex::new(State::new(settings.partitions)),
            registry: Mutex::new(Registry::open(registry)?),
            arrived: settings.partitions.iter().map(|_| Notify::new()).collect(),
            epochs: AtomicU64::new(1),
        };
        Ok(Arc::new(Self { settings, epoch: 0, shared: Arc::new(shared) }))
    }

    /// The same queue, as another consumer (or the same one after a restart) sees it. The number of partitions stays.
    #[must_use]
    pub fn join(&self, settings: Settings) -> Arc<Self> {
        let epoch = self.shared.epochs.fetch_add(1, Ordering::Relaxed);
        let settings = Settings { partitions: self.settings.partitions, ..settings };
        Arc::new(Self { settings, epoch, shared: Arc::clone(&self.shared) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// What is there for this consumer now.
    fn take(&self, partition: Partition, max: usize) -> Vec<Delivery> {
        let now = Instant::now();
        let mut state = self.state();
        let mut deliveries = Vec::new();
        // Own ones of before a restart, then those left lying, then new ones: each of them in order.
        let is_own = |e: &Entry| e.held.as_ref().is_some_and(|h| h.consumer == self.settings.consumer && h.epoch != self.epoch);
        let is_left = |e: &Entry| {
            e.held.as_ref().is_some_and(|h| h.epoch != self.epoch && now.duration_since(h.since) >= self.settings.claim_idle)
        };
        let is_new = |e: &Entry| e.held.is_none();
        let kinds: [&dyn Fn(&Entry) -> bool; 3] = [&is_own, &is_left, &is_new];
        for kind in kinds {
            for (id, entry) in &mut state.partition(partition).entries {
                if deliveries.len() >= max {
                    break;
                }
                if kind(entry) {
                    let redelivered = entry.held.is_some();
                    entry.hold(&self.settings.consumer, self.epoch, now);
                    deliveries.push(Delivery {
                        receipt: Receipt { partition, entry: id.to_string(), epoch: self.epoch },
                        source: entry.source,
                        rows: entry.rows,
                        payload: entry.payload.clone(),
                        // Only batches of this process are in the queue.
                        oversize: None,
                        withheld: None,
                        redelivered,
                    });
                }
            }
        }
        deliveries
    }

    fn lay_down(&self, batch: &Outgoing) -> Published {
        let partition = batch.source.partition(self.settings.partitions);
        let mut state = self.state();
        let bytes = state.bytes();
        let place = state.partition(partition);
        let position = place.positions.get(&batch.source).copied();
        if position != batch.expected {
            return Published::Moved(position);
        }
        let too_big = bytes > 0 && bytes + batch.payload.len() > self.settings.max_bytes;
        if too_big || place.entries.len() as u64 >= self.settings.max_backlog {
            return Published::Full;
        }
        let missing: Vec<DictionaryId> = batch
            .dictionaries
            .iter()
            .filter(|digest| !place.dictionaries.contains_key(digest) && !batch.with.iter().any(|(with, _)| with == *digest))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Published::NeedDictionaries(missing);
        }
        place.accept(batch, TimeMs::now());
        drop(state);
        self.shared.arrived[partition.index()].notify_waiters();
        Published::Accepted
    }
}

#[async_trait]
impl Publisher for MemoryTransport {
    fn partitions(&self) -> Partitions {
        self.settings.partitions
    }

    async fn position(&self, source: SourceId) -> Result<Option<Position>> {
        let partition = source.partition(self.settings.partitions);
        Ok(self.state().partition(partition).positions.get(&source).copied())
    }

    fn publish(&self, batch: &Outgoing) -> BoxFuture<'static, Result<Published>> {
        let answer = self.lay_down(batch);
        async move { Ok(answer) }.boxed()
    }

    async fn committed(&self, source: SourceId) -> Result<u64> {
        let partition = source.partition(self.settings.partitions);
        Ok(self.state().partition(partition).committed.get(&source).copied().unwrap_or(0))
    }

    async fn lease(&self, source: SourceId, owner: &str) -> Result<Lease> {
        let partition = source.partition(self.settings.partitions);
        let mut state = self.state();
        if !state.lease(source, owner, Instant::now(), self.settings.lease_ttl) {
            return Ok(Lease::Taken);
        }
        Ok(Lease::Held(state.partition(partition).positions.get(&source).copied()))
    }

    async fn release(&self, source: SourceId, owner: &str) -> Result<()> {
        self.state().release(source, owner);
        Ok(())
    }

    async fn identities(&self, first_record: FamilyId) -> Result<Vec<Identity>> {
        Ok(lock(&self.shared.registry).of(first_record))
    }

    async fn register(
        &self,
        first_record: FamilyId,
        seen: &[Identity],
        new: Identity,
    ) -> Result<std::result::Result<(), Vec<Identity>>> {
        // A line to a local file, once a source: short enough to wait for here.
        lock(&self.shared.registry).register(first_record, seen, new)
    }

    async fn replicated(&self, _: SourceId) -> Result<bool> {
        Ok(true)
    }

    async fn ping(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
}

#[async_trait]
impl Consumer for MemoryTransport {
    fn partitions(&self) -> Partitions {
        self.settings.partitions
    }

    async fn receive(&self, partition: Partition, max: usize) -> Result<Vec<Delivery>> {
        let until = tokio::time::Instant::now() + self.settings.block;
        loop {
            let arrived = self.shared.arrived[partition.index()].notified();
            tokio::pin!(arrived);
            // Before looking: what arrives in between is not missed.
            arrived.as_mut().enable();
            let deliveries = self.take(partition, max);
            if !deliveries.is_empty() || tokio::time::timeout_at(until, arrived).await.is_err() {
                return Ok(deliveries);
            }
        }
    }

    async fn payload(&self, delivery: &Delivery) -> Result<Option<Bytes>> {
        let receipt = &delivery.receipt;
        let mut state = self.state();
        let entry = receipt.entry.parse().ok().and_then(|id: u64| state.partition(receipt.partition).entries.get(&id));
        Ok(entry.map(|entry| entry.payload.clone()))
    }

    async fn dictionary_within(&self, partition: Partition, id: DictionaryId, limit: usize) -> Result<Option<FetchedDictionary>> {
        Ok(self.state().partition(partition).dictionaries.get(&id).map(|dictionary| {
            let length = dictionary.bytes.len();
            let bytes = if length > limit { Bytes::new() } else { dictionary.bytes.clone() };
            FetchedDictionary { length: length as u64, bytes }
        }))
    }

    async fn acknowledge(&self, partition: Partition, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) -> Result<usize> {
        let mut state = self.state();
        let place = state.partition(partition);
        for (source, row) in settled {
            let committed = place.committed.entry(*source).or_default();
            *committed = (*committed).max(*row);
        }
        let done = receipts.iter().filter(|receipt| receipt.entry.parse().is_ok_and(|id| place.remove(id))).count();
        place.trim();
        Ok(done)
    }

    fn let_go(&self, partition: Partition, receipts: &[Receipt], redelivery: Redelivery) {
        let mut state = self.state();
        let place = state.partition(partition);
        for receipt in receipts {
            let entry = receipt.entry.parse().ok().and_then(|id: u64| place.entries.get_mut(&id));
            let Some(entry) = entry.filter(|entry| entry.held.as_ref().is_some_and(|held| held.epoch == receipt.epoch)) else {
                continue;
            };
            match (redelivery, &mut entry.held) {
                (Redelivery::AfterIdle, Some(held)) => {
                    held.epoch = PUT_BACK;
                    held.consumer.clear();
                }
                (_, held) => *held = None,
            }
        }
        drop(state);
        if redelivery == Redelivery::AtOnce {
            self.shared.arrived[partition.index()].notify_waiters();
        }
    }

    async fn contains(&self, delivery: &Delivery) -> Result<bool> {
        let receipt = &delivery.receipt;
        let mut state = self.state();
        Ok(receipt.entry.parse().is_ok_and(|id: u64| state.partition(receipt.partition).entries.contains_key(&id)))
    }

    async fn keep(&self, partition: Partition, receipts: &[Receipt]) -> Result<()> {
        let now = Instant::now();
        let mut state = self.state();
        let place = state.partition(partition);
        for receipt in receipts {
            let entry = receipt.entry.parse().ok().and_then(|id: u64| place.entries.get_mut(&id));
            if let Some(held) = entry.and_then(|entry| entry.held.as_mut()).filter(|held| held.epoch == receipt.epoch) {
                held.since = now;
            }
        }
        Ok(())
    }

    async fn backlog(&self, partition: Partition) -> Result<Backlog> {
        Inspector::backlog(self, partition).await
    }

    async fn leave(&self, _: Partition) -> Result<()> {
        Ok(())
    }

    async fn store_marks(&self) -> Result<Vec<(Partition, Option<StoreMark>)>> {
        let mark = self.state().store_mark.clone();
        Ok(self.settings.partitions.iter().map(|partition| (partition, Some(mark.clone()))).collect())
    }

    async fn mark_store(&self, store: &str, partitions: &[(Partition, Option<String>)]) -> Result<Vec<(Partition, StoreMark)>> {
        let mut state = self.state();
        for (_, generation) in partitions {
            if state.store_mark.generation == *generation {
                state.store_mark.store.get_or_insert_with(|| store.to_owned());
            }
        }
        Ok(partitions.iter().map(|(partition, _)| (*partition, state.store_mark.clone())).collect())
    }

    async fn ping(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
}

#[async_trait]
impl Inspector for MemoryTransport {
    fn partitions(&self) -> Partitions {
        self.settings.partitions
    }

    async fn sources(&self, partition: Partition) -> Result<Vec<SourceState>> {
        Ok(self.state().partition(partition).sources())
    }

    async fn queued(&self, partition: Partition) -> Result<Vec<(SourceId, RowRange)>> {
        Ok(self.state().partition(partition).entries.values().map(|entry| (entry.source, entry.rows)).collect())
    }

    async fn reset(&self, source: Option<SourceId>) -> Result<u64> {
        Ok(self.state().reset(source))
    }

    async fn backlog(&self, partition: Partition) -> Result<Backlog> {
        let mut state = self.state();
        let entries = &state.partition(partition).entries;
        let oldest = entries.first_key_value().map_or(Duration::ZERO, |(_, entry)| TimeMs::now().since(entry.at));
        Ok(Backlog {
            entries: entries.len() as u64,
            pending: entries.values().filter(|entry| entry.held.is_some()).count() as u64,
            oldest_ms: oldest.as_millis() as u64,
        })
    }

    async fn look(&self, partition: Partition, consumers: usize) -> Result<PartitionState> {
        let backlog = Inspector::backlog(self, partition).await?;
        let now = Instant::now();
        let mut state = self.state();
        let place = state.partition(partition);
        let mut holders: BTreeMap<&str, ConsumerState> = BTreeMap::new();
        for held in place.entries.values().filter_map(|entry| entry.held.as_ref()) {
            let idle_ms = now.duration_since(held.since).as_millis() as u64;
            let new = || ConsumerState { name: held.consumer.clone(), pending: 0, idle_ms };
            let holder = holders.entry(&held.consumer).or_insert_with(new);
            holder.pending += 1;
            holder.idle_ms = holder.idle_ms.min(idle_ms);
        }
        let mut latest: Vec<_> = holders.into_values().collect();
        latest.sort_by_key(|consumer| consumer.idle_ms);
        let group = GroupState { name: GroupId::named(GROUP), backlog, consumers: latest.len() as u64, latest };
        Ok(PartitionState {
            backlog,
            entries: backlog.entries,
            added: Some(place.accepted()),
            newest_ms: place.newest.map(|at| TimeMs::now().since(at).as_millis() as u64),
            groups: vec![GroupState { latest: group.latest.into_iter().take(consumers).collect(), ..group }],
            held_by: None,
        })
    }
}
