//! The names of the keys. Those of one partition share the hash tag `{prefix:partition}`, and with it a cluster's slot.

use crate::model::{DictionaryId, FamilyId, GroupId, Partition, SourceId};

/// Makes key names.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, partition: Partition, name: &str) -> String {
        format!("{{{}:{partition}}}:{name}", self.prefix)
    }

    /// The stream of batches.
    pub(super) fn stream(&self, partition: Partition) -> String {
        self.of(partition, "stream")
    }

    /// Hash: source → position.
    pub(super) fn positions(&self, partition: Partition) -> String {
        self.of(partition, "positions")
    }

    /// Hash: source → row up to which a group has stored everything.
    pub(super) fn committed(&self, partition: Partition, group: &GroupId) -> String {
        self.of(partition, &format!("committed:{group}"))
    }

    /// Hash: dictionary → id of the last entry that refers to it.
    pub(super) fn dicts(&self, partition: Partition) -> String {
        self.of(partition, "dicts")
    }

    /// String: a dictionary.
    pub(super) fn dict(&self, partition: Partition, digest: DictionaryId) -> String {
        self.of(partition, &format!("dict:{digest}"))
    }

    /// String: the owner of a source.
    pub(super) fn lease(&self, partition: Partition, source: SourceId) -> String {
        self.of(partition, &format!("lease:{source}"))
    }

    /// Hash: what was fixed at first use.
    pub(super) fn meta(&self, partition: Partition) -> String {
        self.of(partition, "meta")
    }

    /// List: the known contents that begin with the same record.
    pub(super) fn registry(&self, partition: Partition, first_record: FamilyId) -> String {
        self.of(partition, &format!("registry:{first_record}"))
    }

    /// The slot of all of a partition's keys in a cluster.
    pub(super) fn slot(&self, partition: Partition) -> u16 {
        fred::util::redis_keyslot(self.stream(partition).as_bytes())
    }
}
