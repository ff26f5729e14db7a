//! `[batch]`: how many rows go into a batch, and when it is sent.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;
use crate::batch::{DEFAULT_NEW_SERIES, MAX_ROWS, MAX_SERIES};

/// A batch is closed when it reaches a limit of rows, new series, bytes or age, whichever comes first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Batch {
    /// Maximum rows of a batch.
    pub max_rows: usize,
    /// Maximum size of a batch before compression.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_bytes: usize,
    /// Maximum series that a batch contains for the first time. It bounds the size of a dictionary, and how many series a collector
    /// registers at once.
    pub max_new_series: usize,
    /// Age at which a batch is sent although it is not full.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_age: Duration,
    /// Maximum batches of one source that are sent and not yet answered.
    pub in_flight: usize,
    /// Level of zstd compression, 1 (fast) to 22 (small).
    pub compression_level: i32,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_rows: 65_536,
            max_bytes: 1 << 20,
            max_new_series: DEFAULT_NEW_SERIES,
            max_age: Duration::from_millis(200),
            in_flight: 8,
            compression_level: 3,
        }
    }
}

impl Batch {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.within(
            "batch.max_rows",
            self.max_rows,
            1,
            MAX_ROWS,
            "a batch is held in memory, and decoded at once by the collector",
        );
        check.within("batch.max_bytes", self.max_bytes, 1024, 16 << 20, "a batch is one entry of the queue");
        check.within("batch.max_new_series", self.max_new_series, 1, MAX_SERIES, "a dictionary is held in memory");
        check.positive("batch.max_age", self.max_age, "every row would be a batch of its own");
        check.at_most("batch.max_age", self.max_age, Duration::from_secs(3600), "rows may wait this long before they are sent");
        check.within("batch.in_flight", self.in_flight, 1, 1024, "batches in flight are held in memory until they are answered");
        check.within("batch.compression_level", self.compression_level, 1, 22, "zstd has levels 1 to 22");
    }
}
