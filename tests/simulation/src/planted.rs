//! Faults that can be planted, to show that the simulation finds them.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Publishing does not compare positions: who has the lease is trusted.
    LeaseForOwnership,
    /// The position is moved, and copied to the replica, before the entry is added.
    PositionBeforeEntry,
    /// Positions live in another slot than entries: a failover may lose only these.
    PositionElsewhere,
    /// A group is made at the end of the stream instead of its beginning.
    GroupAtTheEnd,
    /// Entries are trimmed by their age.
    TrimByTime,
    /// Entries are trimmed when one group has done with them.
    TrimForOneGroup,
    /// A sweep removes dictionaries that entries still refer to.
    SweepWhatIsNeeded,
    /// What is claimed is not asked how long it has been idle.
    ClaimWhatIsKept,
    /// A commit writes rows without noting the range that they cover.
    CommitWithoutRange,
    /// A commit trusts what it learnt to be covered before it had the lock.
    CoverageNotLocked,
    /// Settled is the end of what is covered, gaps or not.
    SettledAhead,
    /// Entries are acknowledged before their rows are committed.
    AcknowledgeBeforeCommit,
    /// Dead letters are acknowledged before they are stored.
    AcknowledgeBeforeBurial,
    /// An acknowledgement that failed to the last stays in hand.
    FailedAcknowledgementHeld,
    /// The partition of what is settled is computed in another way than that of what is acknowledged.
    TwoPartitions,
    /// Deliveries of one read count as in hand one by one, as they are taken up.
    InHandOneByOne,
    /// Claims of what is in hand are not kept.
    NotKept,
    /// Receipts of an earlier epoch are sent.
    EpochIgnored,
    /// What comes again over a new connection is passed over where it was in hand before.
    RedeliverySkipped,
    /// Where the queue is elsewhere, the source goes on from where it was.
    MovedIgnored,
    /// A source counts as stored when it is queued.
    StoredWhenQueued,
    /// A source that was at its end is not looked at again.
    EndNotWatched,
    /// A store that was away is used again without being compared.
    StoreNotCompared,
    /// A store that was replaced while nobody asked is taken for the same.
    StoreReplacedUnnoticed,
    /// A partition that could not be asked is left out when a store is compared, and not asked later.
    PassedOver,
    /// A failure that is noted again, since the answer was lost, counts twice.
    NotedTwice,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::LeaseForOwnership,
        Self::PositionBeforeEntry,
        Self::PositionElsewhere,
        Self::GroupAtTheEnd,
        Self::TrimByTime,
        Self::TrimForOneGroup,
        Self::SweepWhatIsNeeded,
        Self::ClaimWhatIsKept,
        Self::CommitWithoutRange,
        Self::CoverageNotLocked,
        Self::SettledAhead,
        Self::AcknowledgeBeforeCommit,
        Self::AcknowledgeBeforeBurial,
        Self::FailedAcknowledgementHeld,
        Self::TwoPartitions,
        Self::InHandOneByOne,
        Self::NotKept,
        Self::EpochIgnored,
        Self::RedeliverySkipped,
        Self::MovedIgnored,
        Self::StoredWhenQueued,
        Self::EndNotWatched,
        Self::StoreNotCompared,
        Self::StoreReplacedUnnoticed,
        Self::PassedOver,
        Self::NotedTwice,
    ];

    /// What it is, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::LeaseForOwnership => "publishing trusts the lease, and compares no position",
            Self::PositionBeforeEntry => "the position is moved before the entry is added",
            Self::PositionElsewhere => "positions are in another slot than entries",
            Self::GroupAtTheEnd => "a group is made at the end of the stream",
            Self::TrimByTime => "entries are trimmed by their age",
            Self::TrimForOneGroup => "entries are trimmed when one of two groups has done with them",
            Self::SweepWhatIsNeeded => "a sweep removes dictionaries that entries refer to",
            Self::ClaimWhatIsKept => "what is kept is claimed",
            Self::CommitWithoutRange => "a commit does not note the range that it covers",
            Self::CoverageNotLocked => "a commit trusts what was covered before its lock",
            Self::SettledAhead => "settled is the end of what is covered, gaps or not",
            Self::AcknowledgeBeforeCommit => "entries are acknowledged before the commit",
            Self::AcknowledgeBeforeBurial => "dead letters are acknowledged before they are stored",
            Self::FailedAcknowledgementHeld => "a failed acknowledgement stays held",
            Self::TwoPartitions => "a source's partition is computed in two ways",
            Self::InHandOneByOne => "deliveries count as in hand one by one",
            Self::NotKept => "claims are not kept",
            Self::EpochIgnored => "receipts of an earlier connection are acknowledged",
            Self::RedeliverySkipped => "what comes again after a reconnect is passed over",
            Self::MovedIgnored => "a source goes on where it was though the queue is elsewhere",
            Self::StoredWhenQueued => "a source counts as stored when it is queued",
            Self::EndNotWatched => "a source at its end is not looked at again",
            Self::StoreNotCompared => "a store that was away is not compared",
            Self::StoreReplacedUnnoticed => "a store that was replaced while nobody asked is not noticed",
            Self::PassedOver => "a partition that was away when a store was compared is not compared later",
            Self::NotedTwice => "a failure that is noted again counts twice",
        }
    }
}
