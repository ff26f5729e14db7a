//! `[store]`: how stored samples are looked after.

use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
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

/// How long samples are kept. They go by whole UTC days, some time after a day has ended for that long, for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Retention {
    /// How long samples are kept as they came. Not set: for ever. Samples of days that are over for longer are dropped, and such samples
    /// that come later are counted as expired, and not stored. What was dropped once stays so when this becomes longer.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::duration")]
    pub raw: Option<Duration>,
    /// How long their rollups of 5 minutes are kept. Not set: for ever.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::duration")]
    pub five_minutes: Option<Duration>,
    /// How long their rollups of an hour are kept. Not set: for ever.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::duration")]
    pub hour: Option<Duration>,
}

impl Retention {
    fn validate(&self, check: &mut Check<'_>) {
        let day = Duration::from_secs(86_400);
        // The oldest time that the store can have is in 1990.
        let most = day * 36_500;
        let keys = [
            ("store.retention.raw", self.raw),
            ("store.retention.five_minutes", self.five_minutes),
            ("store.retention.hour", self.hour),
        ];
        for (key, kept) in keys.iter().filter_map(|(key, kept)| kept.map(|kept| (*key, kept))) {
            check.at_least_duration(key, kept, day, "samples are dropped by whole days");
            check.at_most(key, kept, most, "to keep them for ever, do not set it");
        }
        for (at, (key, kept)) in keys.iter().enumerate() {
            for (finer, finer_kept) in &keys[..at] {
                if let (Some(kept), Some(finer_kept)) = (kept, finer_kept)
                    && kept < finer_kept
                {
                    let (kept, finer_kept) = (humantime::format_duration(*kept), humantime::format_duration(*finer_kept));
                    check.refuse(
                        key,
                        format!("{kept} is shorter than {finer} ({finer_kept}): what is coarser is kept at least as long as what is finer"),
                    );
                }
            }
        }
    }
}

/// Maintenance: small rows of samples become large ones, and what is past its time is dropped. `telemetry compact` does both at once.
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
    /// What the samples of the store may take, with their indexes. Not set: any size. Nothing is dropped for it: from 80 percent on,
    /// collectors warn, and so do `telemetry check` and an alert.
    #[serde(with = "units::optional_size", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::size_schema")]
    pub disk_budget: Option<u64>,
    /// `postgres://…` of a standby (or the primary) that `serve` reads from, with the other settings of `[postgres]`. Not set:
    /// `postgres.url`. Answers are as far behind as the standby; `/api/v1/pipeline` and a metric say how far.
    #[serde(serialize_with = "units::secret::url", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub read_url: Option<SecretString>,
    /// How long samples are kept.
    pub retention: Retention,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            maintenance: Switch::On,
            maintenance_interval: Duration::from_secs(60),
            maintenance_delay: Duration::from_secs(600),
            maintenance_rate: 20_000_000,
            maintenance_max_samples: 400_000,
            disk_budget: None,
            read_url: None,
            retention: Retention::default(),
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
        if self.disk_budget == Some(0) {
            check.refuse("store.disk_budget", "0 is no size: to allow any, do not set it".to_owned());
        }
        self.retention.validate(check);
    }
}
