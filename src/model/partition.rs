//! The partitions of a queue, and which one a source belongs to.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Serialize, Serializer};

use super::{Digest, FamilyId, SourceId};

/// One of a queue's partitions. Only [`Partitions`] makes them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Partition(u16);

impl Partition {
    /// The one that every queue has.
    pub const FIRST: Self = Self(0);

    /// Its number, for keys and labels; the first is 0.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its place in a list that has one item for each partition.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Partition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

/// How many partitions a queue has (`redis.partitions`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Partitions(NonZeroU16);

impl Partitions {
    /// A single partition.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// So many partitions; `None` for none.
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        match NonZeroU16::new(count) {
            Some(count) => Some(Self(count)),
            None => None,
        }
    }

    /// Their number.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.0.get()
    }

    /// The partition with this number, if there are so many.
    #[must_use]
    pub const fn get(self, number: u16) -> Option<Partition> {
        if number < self.0.get() { Some(Partition(number)) } else { None }
    }

    /// All of them, in order.
    pub fn iter(self) -> <Self as IntoIterator>::IntoIter {
        (0..self.0.get()).map(Partition)
    }

    /// The partition of a digest: the remainder of its last 32 bits. The one place where a partition follows from an id.
    fn of(self, digest: Digest) -> Partition {
        let remainder = (digest.to_u128() & PARTITION_BITS) % u128::from(self.0.get());
        Partition(u16::try_from(remainder).expect("a remainder of a u16 is a u16"))
    }
}

impl IntoIterator for Partitions {
    type Item = Partition;
    type IntoIter = std::iter::Map<std::ops::Range<u16>, fn(u16) -> Partition>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The bits of a digest that decide on its partition.
const PARTITION_BITS: u128 = u32::MAX as u128;

impl SourceId {
    /// The partition that the source belongs to.
    #[must_use]
    pub fn partition(self, partitions: Partitions) -> Partition {
        partitions.of(self.digest())
    }

    /// The same id, moved into the partition of a family: what is kept by family and what is kept by source are in one place.
    #[must_use]
    pub fn with_partition_of(self, family: FamilyId) -> Self {
        let bits = self.digest().to_u128() & !PARTITION_BITS | family.digest().to_u128() & PARTITION_BITS;
        Self::from_digest(Digest::from_u128(bits))
    }
}

impl FamilyId {
    /// The partition that the family's sources belong to.
    #[must_use]
    pub fn partition(self, partitions: Partitions) -> Partition {
        partitions.of(self.digest())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_source_is_where_its_family_is(source: u128, family: u128, count in 1u16..=1024) {
            let partitions = Partitions::new(count).expect("not 0");
            let family = FamilyId::from_digest(Digest::from_u128(family));
            let own = SourceId::from_digest(Digest::from_u128(source));
            let moved = own.with_partition_of(family);
            prop_assert_eq!(moved.partition(partitions), family.partition(partitions));
            prop_assert!(moved.partition(partitions).number() < count);
            prop_assert_eq!(moved.digest().to_u128() >> 32, source >> 32, "it stays as unlikely to meet another");
            prop_assert!(partitions.iter().any(|partition| partition == own.partition(partitions)));
        }
    }

    #[test]
    fn there_are_as_many_as_there_are() {
        let three = Partitions::new(3).expect("not 0");
        assert_eq!(three.iter().map(Partition::number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((three.get(2).map(Partition::index), three.get(3)), (Some(2), None));
        assert_eq!(Partitions::new(0), None);
    }
}
