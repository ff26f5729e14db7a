//! `[collect]`: from the queue to the store.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// How batches are read ahead, grouped and committed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Collect {
    /// Transactions at the same time.
    pub writers: usize,
    /// Rows at which a group of waiting batches is committed.
    pub group_rows: usize,
    /// How long a group waits for more batches before it is committed.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub group_wait: Duration,
    /// Batches read ahead per partition.
    pub max_deliveries: usize,
    /// Recorded failures after which a batch that cannot be decoded or stored for a reason of its own becomes a dead letter.
    pub dead_after: u32,
    /// Memory that batches and dictionaries in hand may take together, decoded; when it is used up, reading waits. The process needs
    /// about as much again at its peak.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_memory: usize,
    /// Samples whose time is further ahead than this are rejected as `time_in_future`: a clock that is wrong would make partitions for
    /// days that never come. 0s: none are.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_future: Duration,
    /// Samples whose time is longer ago than this are rejected as `time_too_old`. 0s: none are, so that old exports can be stored.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_past: Duration,
    /// Days that the samples of one batch may lie in: in PostgreSQL each new one is a partition. A batch with more is a dead letter;
    /// `telemetry dead-letters retry` stores it all the same.
    pub max_days: usize,
}

impl Default for Collect {
    fn default() -> Self {
        Self {
            writers: 2,
            group_rows: 262_144,
            group_wait: Duration::from_millis(20),
            max_deliveries: 4,
            dead_after: 3,
            max_memory: 192 << 20,
            max_future: Duration::from_secs(24 * 3600),
            max_past: Duration::ZERO,
            max_days: 400,
        }
    }
}

impl Collect {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.within("collect.writers", self.writers, 1, 256, "each writer is a connection to PostgreSQL");
        check.at_least("collect.group_rows", self.group_rows, 1, "no group could ever be committed");
        check.at_most(
            "collect.group_wait",
            self.group_wait,
            Duration::from_secs(60),
            "rows would wait that long before they are stored",
        );
        check.within("collect.max_deliveries", self.max_deliveries, 1, 1024, "batches read ahead are held in memory");
        check.within("collect.max_memory", self.max_memory, 16 << 20, 1 << 40, "one batch of the usual size needs some of it");
        check.at_least("collect.max_days", self.max_days, 1, "no batch could be stored");
        check.at_least("collect.dead_after", self.dead_after, 1, "no batch would be tried even once");
    }
}
