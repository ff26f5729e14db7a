//! `[data]`: the embedded store and queue, which `telemetry all` uses where no PostgreSQL or no Redis is configured.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// The embedded store and queue.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Data {
    /// Directory of the embedded store. Only one process at a time can use it.
    pub dir: PathBuf,
    /// Maximum bytes of batches that wait in the embedded queue.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub queue_bytes: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from("telemetry-data"), queue_bytes: 64 << 20 }
    }
}

impl Data {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        if self.dir.as_os_str().is_empty() {
            check.refuse("data.dir", "is empty: set it to a directory".to_owned());
        }
        check.within("data.queue_bytes", self.queue_bytes, 1 << 20, 1 << 40, "the queue is held in memory");
    }
}
