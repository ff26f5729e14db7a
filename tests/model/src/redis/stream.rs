//! A stream and its groups as a value, and how Redis reckons what a group has not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Version;
use super::id::Id;
use super::reply::Bytes;

/// The fields and values of an entry, one after the other.
pub type Fields = Arc<[Bytes]>;

/// A stream.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Stream {
    /// The entries.
    pub entries: BTreeMap<Id, Fields>,
    /// The last id that was given.
    pub last: Id,
    /// The greatest id that was deleted (not trimmed).
    pub max_deleted: Id,
    /// Entries that there ever were.
    pub added: i64,
    /// The groups, by name.
    pub groups: BTreeMap<Bytes, Group>,
}

/// A consumer group.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Group {
    /// The last id that was delivered.
    pub last: Id,
    /// How many entries were read, where that is known.
    pub read: Option<i64>,
    /// What was delivered and not acknowledged.
    pub pending: BTreeMap<Id, Pending>,
    /// When each consumer was last seen, ms.
    pub consumers: BTreeMap<Bytes, u64>,
}

/// A delivery that was not acknowledged.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pending {
    /// Whose it is.
    pub consumer: Bytes,
    /// When it was delivered, ms.
    pub at: u64,
    /// How often.
    pub count: i64,
}

impl Group {
    /// How many entries a consumer has pending.
    #[must_use]
    pub fn pending_of(&self, consumer: &[u8]) -> usize {
        self.pending.values().filter(|pending| &*pending.consumer == consumer).count()
    }
}

impl Stream {
    /// The least id there is; 0-0 in an empty stream.
    #[must_use]
    pub fn first(&self) -> Id {
        self.entries.keys().next().copied().unwrap_or_default()
    }

    fn length(&self) -> i64 {
        self.entries.len() as i64
    }

    /// Whether entries from an id on were deleted.
    fn has_tombstones(&self, from: Id, version: Version) -> bool {
        if self.entries.is_empty() || self.max_deleted == Id::default() {
            return false;
        }
        if !version.counts_what_is_left && self.first() > self.max_deleted {
            return false;
        }
        from <= self.max_deleted
    }

    /// The number of an id among all entries that there ever were, where that can be said.
    fn distance(&self, id: Id, version: Version) -> Option<i64> {
        if self.added == 0 {
            return Some(0);
        }
        if self.entries.is_empty() && id <= self.last {
            return Some(self.added);
        }
        if version.counts_what_is_left && id != Id::default() && id < self.max_deleted {
            return None;
        }
        match id.cmp(&self.last) {
            std::cmp::Ordering::Equal => return Some(self.added),
            std::cmp::Ordering::Greater => return None,
            std::cmp::Ordering::Less => {}
        }
        let first = self.first();
        if self.max_deleted == Id::default() || self.max_deleted < first {
            if id < first {
                return Some(self.added - self.length());
            }
            if id == first {
                return Some(self.added - self.length() + 1);
            }
        }
        None
    }

    /// How many entries a group has not read, where that can be said.
    #[must_use]
    pub fn lag(&self, group: &Group, version: Version) -> Option<i64> {
        if self.added == 0 {
            return Some(0);
        }
        if version.counts_what_is_left {
            if self.entries.is_empty() {
                return Some(0);
            }
            if group.last < self.first() && self.max_deleted < self.first() {
                return Some(self.length());
            }
        }
        match group.read {
            Some(read) if !self.has_tombstones(group.last, version) => Some(self.added - read),
            _ => Some(self.added - self.distance(group.last, version)?),
        }
    }

    /// How many entries a group has read once it reads this one.
    #[must_use]
    pub fn read_after(&self, group: &Group, id: Id, version: Version) -> Option<i64> {
        let from = if version.counts_what_is_left { group.last } else { id };
        match group.read {
            Some(read) if !self.has_tombstones(from, version) => Some(read + 1),
            read if self.added == 0 => read,
            _ => self.distance(id, version),
        }
    }
}
