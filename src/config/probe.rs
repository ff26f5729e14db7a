//! `[probe]`: how often `telemetry probe` measures the connection to Redis.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// How often `telemetry probe` measures the connection to Redis.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Probe {
    /// Time between two probes. Each probe opens a new connection to every node of Redis.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub interval: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10) }
    }
}

impl Probe {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let (least, most) = (Duration::from_millis(200), Duration::from_secs(3600));
        check.at_least_duration("probe.interval", self.interval, least, "Redis would be kept busy with new connections");
        check.at_most("probe.interval", self.interval, most, "a lost connection would be noticed late");
    }
}
