//! `[store]`: how stored samples are looked after.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// Whether something is done or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is done.
    #[default]
    On,
    /// It is not done.
    Off,
}

/// Maintenance: small rows of samples become large ones. `telemetry compact` does it at once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Store {
    /// Whether collectors pack closed hours and days in the background: `on` or `off`. One collector at a time does it.
    pub maintenance: Switch,
    /// Time between two looks for what is to be packed.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub maintenance_interval: Duration,
    /// How long after its end an hour is closed, and how long nothing may have arrived for a day of the past before it is packed in the
    /// background. What arrives later is packed again with what it touches.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub maintenance_delay: Duration,
    /// Maximum samples per minute that a collector packs in the background.
    pub maintenance_rate: u64,
    /// Maximum samples that are packed at once. They are held in memory, at up to 100 bytes each.
    pub maintenance_max_samples: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            maintenance: Switch::On,
            maintenance_interval: Duration::from_secs(60),
            maintenance_delay: Duration::from_secs(600),
            maintenance_rate: 20_000_000,
            maintenance_max_samples: 400_000,
        }
    }
}

impl Store {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let interval = self.maintenance_interval;
        check.at_least_duration("store.maintenance_interval", interval, second, "the store would be searched without a pause");
        check.at_most("store.maintenance_interval", interval, day, "closed hours would not be packed for this time");
        check.at_most("store.maintenance_delay", self.maintenance_delay, day, "closed hours would not be packed for this time");
        check.at_least(
            "store.maintenance_rate",
            self.maintenance_rate,
            10_000,
            "packing would not keep up with any fleet; store.maintenance = \"off\" ends it",
        );
        check.within(
            "store.maintenance_max_samples",
            self.maintenance_max_samples,
            200_000,
            100_000_000,
            "a packed row has up to 131,072 samples, and what is packed at once is held in memory",
        );
    }
}
