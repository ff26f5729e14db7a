//! `[data]`: what `telemetry all` keeps by itself, where no Redis or no PostgreSQL is configured.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// The embedded store and queue.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Data {
    /// Directory of the embedded store. One process at a time.
    pub dir: PathBuf,
    /// Bytes of batches that may wait in the queue inside the process.
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
            check.refuse("data.dir", "is empty: name a directory".to_owned());
        }
        check.within("data.queue_bytes", self.queue_bytes, 1 << 20, 1 << 40, "it is held in memory");
    }
}
