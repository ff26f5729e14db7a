//! [`Acknowledgement`]: what is stored is acknowledged by partition, a few times if need be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Receipt, Redelivery};
use crate::model::{Partition, Partitions, SourceId};
use crate::protocol::rest::{Rest, Rests};

/// How often an acknowledgement is tried before it is left to redelivery, which finds the rows stored.
pub const ACKNOWLEDGE_TRIES: u32 = 5;
/// First and longest rest between two tries.
const RESTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Entries of one partition that are stored, and how far sources of that partition are settled: one request to the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledgement<E> {
    /// The partition.
    pub partition: Partition,
    /// The receipts of what is stored.
    pub receipts: Vec<Receipt<E>>,
    /// The partition's sources that were settled further, and how far.
    pub settled: Vec<(SourceId, u64)>,
    failures: u32,
    rests: Rests,
}

/// What to do when an acknowledgement failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unacknowledged {
    /// Rest, and try again.
    Again(Rest),
    /// It was tried often enough: the entries are out of hand. Let them go; they come again, and are found stored.
    LetGo(Redelivery),
}

impl<E: Clone> Acknowledgement<E> {
    /// What is stored, by partition. A partition is told of its own sources only: another one may be on a node that is away.
    pub(super) fn by_partition(receipts: &[Receipt<E>], settled: &[(SourceId, u64)], partitions: Partitions) -> Vec<Self> {
        let mut by_partition = BTreeMap::<Partition, Vec<Receipt<E>>>::new();
        for receipt in receipts {
            by_partition.entry(receipt.partition).or_default().push(receipt.clone());
        }
        let of = |partition| settled.iter().filter(move |(source, _)| source.partition(partitions) == partition);
        let one = |(partition, receipts)| Self {
            partition,
            receipts,
            settled: of(partition).copied().collect(),
            failures: 0,
            rests: Rests::new(RESTS.0, RESTS.1),
        };
        by_partition.into_iter().map(one).collect()
    }

    /// How often it has failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It failed once more: how long to rest before the next try, if there is to be one.
    pub(super) fn failed(&mut self) -> Option<Rest> {
        self.failures = self.failures.saturating_add(1);
        (self.failures < ACKNOWLEDGE_TRIES).then(|| self.rests.next())
    }
}
