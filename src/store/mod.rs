//! Stores, where samples end up: what every implementation promises. `postgres/` is the one for real use,
//! `sqlite/` the one of `telemetry all` where no PostgreSQL is configured. What both need is in `chunk`, `compare`,
//! `ledger_change`, `text`; what PostgreSQL keeps small rows in, in `slab`.
//!
//! A commit is one transaction: samples, rejects and the covered ranges of their sources. A row is written only if the store has no
//! sample of its series, time and value, whatever source or family that came from. Where the store has another value of its series
//! and time, that is a conflict: both are kept, and the later one counts.

mod chunk;
mod compare;
mod conflicts;
mod ledger_change;
pub mod maintenance;
pub mod packed;
pub mod postgres;
mod read;
pub mod rollup;
mod slab;
pub mod sqlite;
mod text;

pub use chunk::Ids;
pub use conflicts::{Conflict, ConflictSpan, conflicts};
pub use read::{
    Chunk, ChunkRange, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Latest, Limit, Reader, SeriesFilter,
    SeriesRow, Snapshot, SnapshotFor, Span, Standby, Texts,
};
pub use rollup::{Level, Needs, RolledUp, Rollup, Unrolled};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::batch::{Batch, DecodeError, Dictionary};
use crate::model::{DictionaryId, Reason, RowRange, RowSet, SourceId, TimeMs};

/// What can go wrong between this program and its store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, starting, timed out, out of disk, too many connections: waiting can help.
    #[error("{endpoint} is unavailable: {reason}")]
    Unavailable {
        /// `PostgreSQL at host:port/database`, `SQLite in directory`; no secrets.
        endpoint: String,
        /// The error, with its causes.
        reason: String,
    },
    /// Others hold all connections that may be held for this: waiting can help. Says which limit that is.
    #[error("{0}")]
    Busy(String),
    /// A snapshot is gone before it was read to its end: a standby has ended it, or its connection was lost. Another one can be had.
    #[error("{endpoint}: the samples that were being read are gone: {reason}")]
    SnapshotLost {
        /// `PostgreSQL at host:port/database`; no secrets.
        endpoint: String,
        /// The error, with its causes.
        reason: String,
    },
    /// Wrong password, no such database, missing right, too old a server: waiting cannot help. Says what to do.
    #[error("{endpoint} cannot be used: {reason}")]
    Refused {
        /// `PostgreSQL at host:port/database`, `SQLite in directory`; no secrets.
        endpoint: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The schema is missing or damaged. Says what to do.
    #[error("{0}")]
    Schema(String),
    /// The schema is that of a newer version of this program, or of another program: waiting cannot help. Says what to do.
    #[error("{0}")]
    Version(String),
    /// The store is another one than when this process began.
    #[error(
        "this PostgreSQL is another store ({found}) than the one that this process began with ({expected}): point DATABASE_URL at the \
         former one, or start the process again"
    )]
    OtherStore {
        /// The store's id when this process began.
        expected: String,
        /// The store's id now.
        found: String,
    },
    /// A stored chunk is damaged: what is stored in it cannot be said, nor whether something is not. Says which, and what to do.
    #[error("{0}")]
    DamagedChunk(String),
    /// The batch itself cannot be stored.
    #[error("the batch cannot be stored: {0}")]
    BadBatch(String),
}

impl StoreError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy(_) | Self::SnapshotLost { .. })
    }
}

/// The result of asking a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A batch with the dictionaries its header names, in that order: every run's series stands in them. A clone shares both, so that
/// each attempt at a commit may have the group.
#[derive(Clone, Debug)]
pub struct Incoming {
    batch: Arc<Batch>,
    dictionaries: Arc<[Arc<Dictionary>]>,
}

impl Incoming {
    /// A batch and its dictionaries.
    ///
    /// # Errors
    /// A run names a series that is not in the dictionaries.
    pub fn new(batch: Batch, dictionaries: Vec<Arc<Dictionary>>) -> std::result::Result<Self, DecodeError> {
        batch.check(&dictionaries)?;
        Ok(Self { batch: Arc::new(batch), dictionaries: dictionaries.into() })
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The batch's dictionaries.
    #[must_use]
    pub fn dictionaries(&self) -> &[Arc<Dictionary>] {
        &self.dictionaries
    }
}

/// The outcome of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Samples written, by cluster.
    pub stored: BTreeMap<String, u64>,
    /// Samples that were there already.
    pub duplicate: u64,
    /// Samples that are older than what is kept, in rows that were not covered before: they are not written.
    pub expired: u64,
    /// Samples written beside another value of their series and time.
    pub conflict: u64,
    /// Rejected rows newly noted.
    pub rejected: u64,
    /// For each source of the batches: the row up to which, from 0 on, everything is covered, dead or dropped.
    pub settled: Vec<(SourceId, u64)>,
}

/// A batch that could not be decoded or stored for a reason of its own, kept for people.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The letter's number; 0 before it is kept.
    pub id: i64,
    /// The source, as the queue's entry says.
    pub source: SourceId,
    /// The rows, as the queue's entry says.
    pub rows: RowRange,
    /// Why it could not be stored.
    pub reason: String,
    /// The encoded batch.
    pub payload: Bytes,
    /// The dictionaries it named and that were found, encoded.
    pub dictionaries: Vec<(DictionaryId, Bytes)>,
    /// When the letter was kept; `None` before.
    pub buried: Option<TimeMs>,
}

/// The outcome of burying letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buried {
    /// For each letter, in the order given: whether it is kept now and was not before.
    pub kept: Vec<bool>,
    /// How far their sources are settled (see [`Committed::settled`]).
    pub settled: Vec<(SourceId, u64)>,
}

/// The ledger of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLedger {
    /// The source.
    pub source: SourceId,
    /// The source's cluster.
    pub cluster: String,
    /// The source's name for people.
    pub name: String,
    /// Rows that are stored or rejected.
    pub covered: RowSet,
    /// Rows of dead letters that are not covered.
    pub dead: RowSet,
    /// Rows of dead letters that were dropped by hand.
    pub dropped: RowSet,
    /// Covered rows that are samples (stored from this source, or found stored before).
    pub valid: u64,
    /// Of the valid ones, those that were found stored before.
    pub duplicate: u64,
    /// Of the valid ones, those that came when samples of their time were not kept any more, and were not stored.
    pub expired: u64,
    /// Samples of this source that were written beside another value of their series and time.
    pub conflict: u64,
    /// Covered rows that were rejected, by reason. `valid + sum(rejected) = covered.len()`.
    pub rejected: BTreeMap<Reason, u64>,
    /// The first commit; `None` where nothing was ever committed.
    pub first_commit: Option<TimeMs>,
    /// The last commit, likewise.
    pub last_commit: Option<TimeMs>,
    /// Time of the newest sample.
    pub newest_sample: Option<TimeMs>,
}

impl SourceLedger {
    /// The ledger of a source of which the store has nothing.
    #[must_use]
    pub fn empty(source: SourceId) -> Self {
        Self {
            source,
            cluster: String::new(),
            name: String::new(),
            covered: RowSet::new(),
            dead: RowSet::new(),
            dropped: RowSet::new(),
            valid: 0,
            duplicate: 0,
            expired: 0,
            conflict: 0,
            rejected: BTreeMap::new(),
            first_commit: None,
            last_commit: None,
            newest_sample: None,
        }
    }
}

/// What the gauges of a collector say about its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many dead letters there are.
    pub dead_letters: u64,
    /// When something of each cluster was committed last.
    pub last_commit: BTreeMap<String, TimeMs>,
}

/// Which implementation a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// PostgreSQL.
    Postgres,
    /// SQLite in a directory.
    Sqlite,
}

impl StoreKind {
    /// The name of its check at /readyz.
    #[must_use]
    pub fn health_check(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }

    /// The name of the implementation for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }

    /// What to do to use the former store again instead of another one.
    #[must_use]
    pub fn way_back(self) -> &'static str {
        match self {
            Self::Postgres => "point DATABASE_URL at the former one",
            Self::Sqlite => "give the former directory with --data-dir",
        }
    }

    /// Whether each day of samples is a partition, of which there cannot be any number.
    #[must_use]
    pub fn has_partitions(self) -> bool {
        self == Self::Postgres
    }
}

/// A store, where samples end up.
#[async_trait]
pub trait Store: Send + Sync {
    /// Which implementation this store is.
    fn kind(&self) -> StoreKind;

    /// Brings the schema up to date (under a lock, so that many may do it at once) and learns the store's id.
    async fn migrate(&self) -> Result<()>;

    /// The store's id: a UUID made with the schema.
    async fn id(&self) -> Result<String>;

    /// The same, for who does not compare what the store has: one whose server or database is another one than when it was last used may
    /// be an older state, and counts as having been away, once.
    async fn id_if_unchanged(&self) -> Result<String> {
        self.id().await
    }

    /// Commits a group of batches in one transaction. They may be of any sources, overlap, or be there already.
    async fn commit(&self, group: &[Incoming]) -> Result<Committed>;

    /// Notes that a batch failed for a reason of its own; returns how often that has been noted for this queue entry.
    async fn note_failure(&self, entry: &str, reason: &str) -> Result<u32>;

    /// Forgets the failures noted for an entry.
    async fn forget_failures(&self, entry: &str) -> Result<()>;

    /// Keeps dead letters (each once per source, rows and payload) in one transaction, and forgets the failures noted for their entries,
    /// which are named beside them.
    async fn bury_all(&self, letters: &[(DeadLetter, String)]) -> Result<Buried>;

    /// Keeps one dead letter, see [`Store::bury_all`].
    async fn bury(&self, letter: &DeadLetter, entry: &str) -> Result<(SourceId, u64)> {
        let buried = self.bury_all(&[(letter.clone(), entry.to_owned())]).await?;
        Ok(buried.settled.first().copied().unwrap_or((letter.source, 0)))
    }

    /// Whether this user may do what a collector does, partitions of new days included. Said at the start, so that it does not show
    /// at midnight.
    async fn check_rights(&self) -> Result<()> {
        Ok(())
    }

    /// The dead letters, oldest first, without payloads.
    async fn dead_letters(&self) -> Result<Vec<DeadLetter>>;

    /// One dead letter with its payload and dictionaries.
    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>>;

    /// Commits what a dead letter holds, and removes it, in one transaction.
    async fn revive(&self, id: i64, incoming: &Incoming) -> Result<Committed>;

    /// Gives a dead letter's rows up: they are noted as dropped, and the letter is removed. `false`: there is no such letter.
    async fn drop_letter(&self, id: i64) -> Result<bool>;

    /// The ledger of every source.
    async fn ledger(&self) -> Result<Vec<SourceLedger>>;

    /// Where conflicts are, in the order in which they were noted: those after `after`.
    async fn conflict_spans(&self, after: i64, limit: usize) -> Result<Vec<ConflictSpan>>;

    /// What the gauges say.
    async fn standing(&self) -> Result<Standing>;

    /// How far these sources are settled (see [`Committed::settled`]); unknown ones are at 0.
    async fn settled(&self, sources: &[SourceId]) -> Result<Vec<(SourceId, u64)>>;

    /// A round trip to the store.
    async fn ping(&self) -> Result<()>;

    /// The store for this process alone to maintain; `None` where somebody else maintains it. Whoever does it in the background makes way
    /// for who is `urgent`.
    async fn maintain<'a>(&'a self, urgent: bool) -> Result<Option<Box<dyn maintenance::Maintenance + 'a>>>;

    /// Rows and bytes of the store by form.
    async fn form_sizes(&self) -> Result<Vec<maintenance::FormSize>>;

    /// Reads every row of samples, to find those that are damaged.
    async fn verify(&self) -> Result<maintenance::Verified>;
}
