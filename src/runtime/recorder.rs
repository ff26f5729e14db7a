//! The recorder of metrics behind /metrics, one per process. [`observe`](super::observe) defines the metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::Lifecycle;
use super::observe::{
    BUILD_INFO, Direction, LATENCY, METRICS, MetricKind, RECONNECTS, START_TIME, Target, batches, bytes_raw, bytes_wire,
    conflicts, days_dropped, dead_letters, maintenance_failures, rows_duplicate, rows_expired, rows_published, rows_read,
    rows_rejected, rows_stored, samples_packed,
};
use crate::model::Reason;

/// Buckets of the latency between clusters: from a local queue to an hour behind.
const LATENCY_BUCKETS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Buckets of the duration of single operations.
const DURATION_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Installs the recorder, once per process; describes all metrics, and starts the counters at 0.
pub(super) fn install(role: &'static str) -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(LATENCY.to_owned()), &LATENCY_BUCKETS)?
        .set_buckets(&DURATION_BUCKETS)?;
    let handle = builder.install_recorder()?;
    describe();
    zero();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "role" => role).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!(START_TIME).set(now.as_secs_f64());
    Ok(handle)
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Starts the counters at 0. Without that, `rate()` misses the first step of a counter, and a counter that has not counted yet looks
/// like one that was lost.
fn zero() {
    for rows in [
        rows_read,
        rows_published,
        rows_stored,
        rows_duplicate,
        rows_expired,
        conflicts,
        bytes_raw,
        bytes_wire,
        dead_letters,
        samples_packed,
        days_dropped,
        maintenance_failures,
    ] {
        rows(0);
    }
    for reason in Reason::ALL {
        rows_rejected(reason, 0);
    }
    for direction in [Direction::Published, Direction::Committed] {
        batches(direction, 0);
    }
    for target in [Target::Redis, Target::Postgres] {
        metrics::counter!(RECONNECTS, "target" => target.name()).increment(0);
    }
}

/// Runs the recorder's upkeep. Without it, histograms grow without bound where nobody scrapes.
pub(super) fn keep_up(lifecycle: &Lifecycle, metrics: PrometheusHandle) {
    let stopping = lifecycle.stopping();
    lifecycle.spawn("metrics upkeep", async move {
        while tokio::time::timeout(Duration::from_secs(5), stopping.cancelled()).await.is_err() {
            metrics.run_upkeep();
        }
        Ok(())
    });
}
