//! The queue between edge and centre: what every implementation of it promises. `redis/` is the one for real use.
//!
//! A source belongs to one partition. Within a partition a batch is accepted only at the position the queue has for its source
//! ([`Publisher::publish`]), so that a batch that is sent twice, by whomever, is accepted once.

pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::model::{DictionaryId, Digest, FamilyId, GroupId, Partition, Partitions, Position, RowRange, SourceId};
pub use crate::protocol::receipts::{Redelivery, StoreMark};

/// Bytes that a dictionary in the queue can have: what a frame of the greatest size comes to where nothing of it can be
/// compressed.
pub const MAX_DICTIONARY_BYTES: usize = 33 << 20;

/// Bytes that the payload of an entry can have, likewise. A longer one is nobody's batch, and is not read where that can be helped.
pub const MAX_ENTRY_BYTES: usize = 33 << 20;

/// Bytes of a payload beyond which an entry that was delivered before is handed out without it ([`Delivery::withheld`]): many consumers
/// begin with what they left unfinished, in all partitions at once.
pub const MAX_REDELIVERED_BYTES: usize = 1 << 20;

/// What can go wrong between us and the queue.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// Not reachable, timed out, loading, failing over: waiting can help.
    #[error("Redis at {endpoint} is unavailable: {reason}")]
    Unavailable {
        /// host:port, no secrets.
        endpoint: String,
        /// What was seen.
        reason: String,
    },
    /// Redis is out of memory: waiting for collectors can help.
    #[error("Redis at {endpoint} is full (maxmemory reached); waiting for collectors to make room")]
    Full {
        /// host:port.
        endpoint: String,
    },
    /// Wrong password, missing right, wrong kind of server: waiting cannot help. Says what to do.
    #[error("Redis at {endpoint} rejected the connection: {reason}")]
    Refused {
        /// host:port.
        endpoint: String,
        /// What was said, and what to do.
        reason: String,
    },
    /// The queue was made with other settings. Says which key to change to what.
    #[error("{0}")]
    Mismatch(String),
    /// The queue inside this process cannot keep its file. Says which, and why.
    #[error("{0}")]
    Local(String),
    /// A key stands in the way of a whole partition or source: waiting until somebody mends it can help.
    #[error("Redis at {endpoint}: {reason}")]
    Blocked {
        /// host:port.
        endpoint: String,
        /// The key.
        key: String,
        /// What is wrong with it, and how to mend it.
        reason: String,
    },
    /// Something in the queue is not what it should be.
    #[error("{0}")]
    Corrupt(String),
}

impl TransportError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. } | Self::Local(_) | Self::Blocked { .. })
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, TransportError>;

/// One encoded batch, ready to be sent (and sent again).
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its source.
    pub source: SourceId,
    /// The rows it covers.
    pub rows: RowRange,
    /// The position the queue must have for the source, `None` = the queue does not know the source.
    pub expected: Option<Position>,
    /// The position after the batch.
    pub next: Position,
    /// The encoded batch.
    pub payload: Bytes,
    /// Every dictionary the batch refers to.
    pub dictionaries: Vec<DictionaryId>,
    /// Those to be written with it (a subset of `dictionaries`, with their bytes).
    pub with: Vec<(DictionaryId, Bytes)>,
}

/// What the queue says to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the queue.
    Accepted,
    /// The queue is elsewhere in this source (or, `None`, does not know it): go there.
    Moved(Option<Position>),
    /// The backlog of the partition is at its limit: wait.
    Full,
    /// Send these dictionaries with it.
    NeedDictionaries(Vec<DictionaryId>),
}

/// What asking for a lease brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Ours until the ttl ends. Carries the queue's position, so that a loss is noticed.
    Held(Option<Position>),
    /// Another streamer's.
    Taken,
}

/// A source in the registry: the content whose first `length` bytes have the digest `prefix` is `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How many bytes were hashed.
    pub length: u64,
    /// Their digest.
    pub prefix: Digest,
    /// The source.
    pub source: SourceId,
}

/// The streamers' side.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// How many partitions there are.
    fn partitions(&self) -> Partitions;

    /// Where the queue is in a source.
    async fn position(&self, source: SourceId) -> Result<Option<Position>>;

    /// Sends a batch. The command is on its way when this returns (before the future is polled), so that several sent one after
    /// the other arrive in that order.
    fn publish(&self, batch: &Outgoing) -> BoxFuture<'static, Result<Published>>;

    /// The row up to which, from 0 on, everything of the source is in the store (or buried as a dead letter).
    async fn committed(&self, source: SourceId) -> Result<u64>;

    /// Takes or renews the lease of a source. Renewing works when Redis is full.
    async fn lease(&self, source: SourceId, owner: &str) -> Result<Lease>;

    /// Gives a lease back.
    async fn release(&self, source: SourceId, owner: &str) -> Result<()>;

    /// The registered contents that begin with the same record. They are kept in the partition of `first_record`, which is that of
    /// the sources too ([`SourceId::with_partition_of`]): what is away takes only its own sources with it.
    async fn identities(&self, first_record: FamilyId) -> Result<Vec<Identity>>;

    /// Registers a content, if the registry still is as it was `seen`; else gives what it is now, and nothing was written.
    async fn register(
        &self,
        first_record: FamilyId,
        seen: &[Identity],
        new: Identity,
    ) -> Result<std::result::Result<(), Vec<Identity>>>;

    /// Whether what was published of this source has reached as many replicas as configured (`redis.min_replicas`); waits at most a
    /// command's timeout.
    async fn replicated(&self, source: SourceId) -> Result<bool>;

    /// A round trip.
    async fn ping(&self) -> Result<Duration>;
}

/// Proof that an entry was read; consumed by [`Consumer::acknowledge`].
pub type Receipt = crate::protocol::receipts::Receipt<String>;

/// An entry of the queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// To acknowledge it with.
    pub receipt: Receipt,
    /// The source, as the entry's own fields say.
    pub source: SourceId,
    /// The rows, likewise.
    pub rows: RowRange,
    /// The encoded batch; empty where it is longer than one can be, or withheld.
    pub payload: Bytes,
    /// How many bytes the payload has in the queue, where that is more than [`MAX_ENTRY_BYTES`].
    pub oversize: Option<u64>,
    /// How many bytes the payload has in the queue, where it was left there for now, because the entry was delivered before and it has
    /// more than [`MAX_REDELIVERED_BYTES`]. [`Consumer::payload`] fetches it.
    pub withheld: Option<u64>,
    /// Whether it was delivered before: to this consumer in an earlier connection or process, or to one that left it lying.
    pub redelivered: bool,
}

/// What the queue has under a dictionary's name.
#[derive(Debug, Clone)]
pub struct FetchedDictionary {
    /// How many bytes it has.
    pub length: u64,
    /// All of them, or where there are more than were asked for at most the first.
    pub bytes: Bytes,
}

/// How much waits in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Entries not yet acknowledged.
    pub entries: u64,
    /// Of those, the ones a consumer has read.
    pub pending: u64,
    /// Age of the oldest, from its entry id, ms.
    pub oldest_ms: u64,
}

/// The collectors' side.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// How many partitions there are.
    fn partitions(&self) -> Partitions;

    /// The next entries of a partition: first what this consumer had read before (after a start or a lost connection), then what
    /// others left lying for `claim_idle`, then new ones. Waits a while for new ones; an empty answer is no error.
    async fn receive(&self, partition: Partition, max: usize) -> Result<Vec<Delivery>>;

    /// The payload of an entry that was handed out without it. `None` = the entry is no longer there, or no longer this consumer's (another
    /// one claimed it, or the connection that it was read over is gone): nothing is to be done about it.
    async fn payload(&self, delivery: &Delivery) -> Result<Option<Bytes>>;

    /// A dictionary, unless it is longer than this; `None` = the queue does not have it.
    async fn dictionary_within(&self, partition: Partition, id: DictionaryId, limit: usize) -> Result<Option<FetchedDictionary>>;

    /// A dictionary's bytes; `None` = the queue does not have it. Of one that is longer than [`MAX_DICTIONARY_BYTES`] only the first
    /// bytes are read: they do not have the digest, so it is found to be damaged.
    async fn dictionary(&self, partition: Partition, id: DictionaryId) -> Result<Option<Bytes>> {
        let fetched = self.dictionary_within(partition, id, MAX_DICTIONARY_BYTES).await?;
        Ok(fetched.map(|fetched| fetched.bytes))
    }

    /// Acknowledges entries, notes how far their sources are stored, and trims what every group has done with. Receipts of an
    /// earlier connection are left alone. Returns how many were acknowledged.
    async fn acknowledge(&self, partition: Partition, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) -> Result<usize>;

    /// Lets entries go without acknowledging them: they stay pending, and come again as `redelivery` says. Receipts of an earlier connection
    /// are left alone: what they stand for is delivered again anyway.
    fn let_go(&self, partition: Partition, receipts: &[Receipt], redelivery: Redelivery);

    /// Whether the entry of a delivery is still in the queue (not trimmed, not lost). Another one that has got its id since, by a server whose
    /// clock is behind, is not it: source and rows tell.
    async fn contains(&self, delivery: &Delivery) -> Result<bool>;

    /// Says that these are still being worked on, so that nobody claims them.
    async fn keep(&self, partition: Partition, receipts: &[Receipt]) -> Result<()>;

    /// How much waits.
    async fn backlog(&self, partition: Partition) -> Result<Backlog>;

    /// Removes this consumer from the group, unless it has entries pending.
    async fn leave(&self, partition: Partition) -> Result<()>;

    /// What each partition says of the store that this group commits to; `None` where it is away, unless all are: then this fails.
    async fn store_marks(&self) -> Result<Vec<(Partition, Option<StoreMark>)>>;

    /// Says in these partitions which store (a UUID) this group commits to, where nobody said before, and the generation is still the one that
    /// [`Consumer::store_marks`] gave. Returns what each says now; those that are away are left out, unless all are: then this fails.
    async fn mark_store(&self, store: &str, partitions: &[(Partition, Option<String>)]) -> Result<Vec<(Partition, StoreMark)>>;

    /// A round trip.
    async fn ping(&self) -> Result<Duration>;
}

/// How far a source is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// The source.
    pub source: SourceId,
    /// Where the queue is in it.
    pub position: Option<Position>,
    /// See [`Publisher::committed`].
    pub committed: u64,
}

/// A consumer of a group, in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name.
    pub name: String,
    /// Entries that it has read and not acknowledged.
    pub pending: u64,
    /// How long ago it was last heard of, ms.
    pub idle_ms: u64,
}

/// A consumer group, in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub name: GroupId,
    /// What it has not acknowledged.
    pub backlog: Backlog,
    /// How many consumers it has.
    pub consumers: u64,
    /// Those heard of last, as many as were asked for.
    pub latest: Vec<ConsumerState>,
}

/// How a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// What waits for our group.
    pub backlog: Backlog,
    /// Entries that are kept, for whichever group.
    pub entries: u64,
    /// Entries that there ever were; `None` where the queue does not say.
    pub added: Option<u64>,
    /// Age of the newest entry there ever was, ms; `None` = there was none.
    pub newest_ms: Option<u64>,
    /// The groups, by name.
    pub groups: Vec<GroupState>,
    /// The group for whose sake alone entries are kept that all others have done with.
    pub held_by: Option<GroupId>,
}

/// For `audit`, `replay`, `top`: looking, and setting back.
#[async_trait]
pub trait Inspector: Send + Sync {
    /// How many partitions there are.
    fn partitions(&self) -> Partitions;

    /// The sources of a partition.
    async fn sources(&self, partition: Partition) -> Result<Vec<SourceState>>;

    /// The entries that are not acknowledged, without their payloads, oldest first.
    async fn queued(&self, partition: Partition) -> Result<Vec<(SourceId, RowRange)>>;

    /// Forgets where the queue is in a source (`None`: in all sources), and how far it is committed, so that streamers send it
    /// again from the start. With `None` the group's store mark goes too, and its generation is another one: a mark that is on its way is
    /// not written any more. Returns how many sources were set back.
    async fn reset(&self, source: Option<SourceId>) -> Result<u64>;

    /// How much waits.
    async fn backlog(&self, partition: Partition) -> Result<Backlog>;

    /// How a partition and its groups are; of each group at most so many consumers.
    async fn look(&self, partition: Partition, consumers: usize) -> Result<PartitionState>;
}
