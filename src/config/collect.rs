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
    /// Number of transactions that write at the same time.
    pub writers: usize,
    /// Number of rows at which a group of waiting batches is committed.
    pub group_rows: usize,
    /// How long a group waits for more batches before it is committed.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub group_wait: Duration,
    /// Maximum batches per partition that are read ahead.
    pub max_deliveries: usize,
    /// Number of failures after which a batch becomes a dead letter. Only failures that the batch itself causes count, not those of
    /// Redis or PostgreSQL.
    pub dead_after: u32,
    /// Memory for all decoded batches and dictionaries that the collector holds. When it is used up, reading waits. At its peak, the
    /// process needs about twice as much.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_memory: usize,
    /// Samples whose time is further in the future than this are rejected as `time_in_future`, because a wrong clock makes partitions
    /// for days that never come. 0s: no limit.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_future: Duration,
    /// Samples whose time is further in the past than this are rejected as `time_too_old`. 0s: no limit, so that old exports can be
    /// stored.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_past: Duration,
    /// Maximum days that the samples of one batch may spread over: in PostgreSQL, each new day is a partition. A batch with more days
    /// becomes a dead letter; `telemetry dead-letters retry` stores it anyway.
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
            "rows may wait this long before they are stored",
        );
        check.within("collect.max_deliveries", self.max_deliveries, 1, 1024, "batches read ahead are held in memory");
        check.within("collect.max_memory", self.max_memory, 16 << 20, 1 << 40, "it must hold at least one batch, decoded");
        check.at_least("collect.max_days", self.max_days, 1, "no batch could be stored");
        check.at_least("collect.dead_after", self.dead_after, 1, "no batch would be tried even once");
    }
}
