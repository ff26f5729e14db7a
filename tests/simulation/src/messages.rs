//! What nodes ask servers and stores, what these answer, and what happens when.

use crate::model::{DictionaryId, Position, RowRange, RowSet, SourceId};
use crate::queue::{Batch, EntryId, Group, Published, Refusal};
use crate::session::{Read, ReadAnswer};

/// Time, ms from the beginning.
pub type Ms = u64;
/// A streamer or collector, by number.
pub type NodeId = usize;
/// A call or a timer.
pub type Id = u64;

/// `redis.command_timeout` and `redis.connect_timeout`.
pub const TIMEOUT: Ms = 3_000;
/// `redis.block`.
pub const BLOCK: Ms = 1_500;
/// `redis.lease_ttl`.
pub const LEASE_TTL: Ms = 4_000;
/// `redis.claim_idle`.
pub const CLAIM_IDLE: Ms = 10_000;
/// How long an answer of the store is awaited.
pub const STORE_PATIENCE: Ms = 10_000;

/// Which of a node's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// To publish and look.
    Link(usize),
    /// To read.
    Reader(usize),
    /// To acknowledge.
    Writer(usize),
    /// To the store: each call is alone.
    Store,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// To add a batch.
    Publish(Batch),
    /// Where the queue is in a source.
    Position(SourceId),
    /// How far a source is committed.
    Committed(SourceId),
    /// For a lease.
    Lease(SourceId),
    /// To give it back.
    Release(SourceId),
    /// Whether a replica has everything.
    Replicated,
    /// To read.
    Read(Read),
    /// To make the group.
    MakeGroup,
    /// To acknowledge entries, and note what is settled.
    Acknowledge(Vec<EntryId>, Vec<(SourceId, u64)>),
    /// To acknowledge entries that were deleted.
    AcknowledgeAway(Vec<EntryId>),
    /// To keep claims.
    Keep(Vec<EntryId>),
    /// Whether an entry is there.
    Contains(EntryId, SourceId, RowRange),
    /// Which of these dictionaries are missing.
    Dictionaries(Vec<DictionaryId>),
    /// Which store is marked.
    LookAtMark,
    /// To mark the store, where the generation is this one.
    Mark(u64, Option<u64>),
    /// The sources.
    Sources,
    /// To remove dictionaries that are not used.
    Sweep,
    /// Which store it is.
    StoreId,
    /// What the store says of itself.
    Standing,
    /// To commit batches, with what each is.
    Commit(u64, Vec<(SourceId, RowRange, Health)>),
    /// To note a failure.
    NoteFailure(u64, String),
    /// To forget failures.
    ForgetFailures(u64, String),
    /// To keep dead letters.
    Bury(u64, Vec<(SourceId, RowRange, String)>),
    /// How far sources are settled.
    Settled(Vec<SourceId>),
}

impl Request {
    /// Whether entries, positions or what is committed may be others after it.
    #[must_use]
    pub fn changes_what_is_queued(&self) -> bool {
        matches!(self, Self::Publish(_) | Self::Acknowledge(..) | Self::AcknowledgeAway(_) | Self::MakeGroup)
    }

    /// What it is, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Position(_) => "position",
            Self::Committed(_) => "committed",
            Self::Lease(_) => "lease",
            Self::Release(_) => "release",
            Self::Replicated => "replicated",
            Self::Read(_) => "read",
            Self::MakeGroup => "make the group",
            Self::Acknowledge(..) => "acknowledge",
            Self::AcknowledgeAway(_) => "acknowledge away",
            Self::Keep(_) => "keep",
            Self::Contains(..) => "contains",
            Self::Dictionaries(_) => "dictionaries",
            Self::LookAtMark => "look at the mark",
            Self::Mark(..) => "mark",
            Self::Sources => "sources",
            Self::Sweep => "sweep",
            Self::StoreId => "which store",
            Self::Standing => "standing",
            Self::Commit(..) => "commit",
            Self::NoteFailure(..) => "note a failure",
            Self::ForgetFailures(..) => "forget failures",
            Self::Bury(..) => "bury",
            Self::Settled(_) => "settled",
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is the answer to the request of that name")]
pub enum Reply {
    Published(Published),
    Position(Option<Position>),
    Committed(u64),
    Lease(Option<Option<Position>>),
    Done,
    Replicated(bool),
    Read(ReadAnswer),
    Acknowledged(usize),
    Contains(bool),
    Missing(Vec<DictionaryId>),
    Mark(Option<u64>, Option<u64>),
    Sources(Vec<(SourceId, Option<Position>, u64)>),
    StoreId(u64),
    Settled(Vec<(SourceId, u64)>),
    Failures(u32),
    BadBatch,
    DamagedChunk,
    OtherStore,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An answer.
    Reply(Reply),
    /// The server does not do it now.
    Refused(Refusal),
    /// No answer: it may have been done or not.
    Lost,
}

/// What a batch is, which shows when it is decoded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can be stored.
    Good,
    /// It cannot be decoded.
    Damaged,
    /// The store cannot take it.
    Bad,
    /// It is in a version that is not known as long as things go wrong.
    Unknown,
    /// A damaged chunk hides whether it is stored, as long as things go wrong.
    Hidden,
    /// It kills who decodes it.
    Killer,
}

impl Health {
    /// From a payload.
    #[must_use]
    pub fn of(payload: u64) -> Self {
        [Self::Good, Self::Damaged, Self::Bad, Self::Unknown, Self::Hidden, Self::Killer]
            [usize::try_from(payload % 6).unwrap_or(0)]
    }
}

/// What happens at a time.
#[derive(Debug)]
pub enum Event {
    /// A request arrives.
    Arrive(Id),
    /// A request arrives once more.
    Again(NodeId, Group, usize, u64, Box<Request>),
    /// A commit is applied, knowing what was covered when it began, unless the store ended meanwhile.
    Apply(Id, u64, Vec<RowSet>),
    /// An answer arrives.
    Answer(Id, Outcome),
    /// Nobody waits for the answer any longer.
    GiveUp(Id),
    /// The node is told so.
    Told(Id),
    /// A timer of a node is due.
    Timer(NodeId, Id),
    /// A replica gets what it lacks.
    Replicate(usize),
    /// A server is as it was before.
    Recover(usize),
    /// A node starts.
    Start(NodeId),
    /// Something goes wrong.
    Fault,
    /// Nothing goes wrong any more.
    Calm,
    /// Somebody repairs what waits for people.
    Operator,
}
