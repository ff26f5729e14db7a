//! Metrics of the store: sizes, maintenance, standbys.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// Rows of the store by form.
pub const STORE_ROWS: &str = "telemetry_store_rows";
/// Bytes of the store's samples by form.
pub const STORE_BYTES: &str = "telemetry_store_bytes";
/// What the store's samples may take.
pub const STORE_BUDGET: &str = "telemetry_store_budget_bytes";
/// Days that were dropped.
pub const DAYS_DROPPED: &str = "telemetry_store_days_dropped_total";
/// How far a standby is behind its primary.
pub const STANDBY_BEHIND: &str = "telemetry_store_standby_behind_seconds";
/// Samples that maintenance has packed.
pub const SAMPLES_PACKED: &str = "telemetry_store_samples_packed_total";
/// Age of the oldest day that is to be packed.
pub const OLDEST_UNPACKED: &str = "telemetry_store_oldest_unpacked_seconds";
/// Duration of a round of maintenance.
pub const MAINTENANCE_SECONDS: &str = "telemetry_store_maintenance_seconds";
/// What maintenance could not do.
pub const MAINTENANCE_FAILURES: &str = "telemetry_store_maintenance_failures_total";

/// Sets rows and bytes of a form of the store.
pub fn store_size(form: &'static str, rows: u64, bytes: u64) {
    gauge!(STORE_ROWS, "form" => form).set(rows as f64);
    gauge!(STORE_BYTES, "form" => form).set(bytes as f64);
}

/// Counts samples that were packed.
pub fn samples_packed(samples: u64) {
    counter!(SAMPLES_PACKED).increment(samples);
}

/// Sets how old the oldest day is that is to be packed.
pub fn oldest_unpacked(age: Duration) {
    gauge!(OLDEST_UNPACKED).set(age.as_secs_f64());
}

/// Records how long a round of maintenance took.
pub fn maintenance(took: Duration) {
    histogram!(MAINTENANCE_SECONDS).record(took.as_secs_f64());
}

/// Counts what maintenance could not do.
pub fn maintenance_failures(failures: u64) {
    counter!(MAINTENANCE_FAILURES).increment(failures);
}

/// Sets what the samples of the store may take.
pub fn store_budget(bytes: u64) {
    gauge!(STORE_BUDGET).set(bytes as f64);
}

/// Sets how far the server that is read from is behind its primary; `None`: it does not say.
pub fn standby_behind(behind: Option<Duration>) {
    gauge!(STANDBY_BEHIND).set(behind.map_or(f64::NAN, |behind| behind.as_secs_f64()));
}

/// Counts days that were dropped because they were past their time.
pub fn days_dropped(days: u64) {
    counter!(DAYS_DROPPED).increment(days);
}
