//! All metrics: name, kind, unit, labels, help; and a typed function that records each.

mod kinds;
mod store;

use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, gauge, histogram};

pub use self::kinds::{Certificate, Component, Direction, ProbeStep, Target};
pub use self::store::*;
use super::labels::LabelValues;
use super::metric::MetricKind::{Counter, Gauge, Histogram};
pub use super::metric::{Metric, MetricKind};
use crate::model::{Partition, Reason, TimeMs};

/// Clusters that have become values of a label.
static CLUSTERS: LabelValues = LabelValues::new();
/// Consumer groups that have become values of a label.
static GROUPS: LabelValues = LabelValues::new();

/// Time from closing a batch to its commit.
pub const LATENCY: &str = "cross_cluster_latency_seconds";
/// Whether the connection to the queue works.
pub const CONNECTION: &str = "message_queue_connection_status";
/// Rows read.
pub const ROWS_READ: &str = "telemetry_rows_read_total";
/// Rows that were rejected.
pub const ROWS_REJECTED: &str = "telemetry_rows_rejected_total";
/// Rows that the queue has accepted.
pub const ROWS_PUBLISHED: &str = "telemetry_rows_published_total";
/// Samples committed.
pub const ROWS_STORED: &str = "telemetry_rows_stored_total";
/// Samples that were already stored.
pub const ROWS_DUPLICATE: &str = "telemetry_rows_duplicate_total";
/// Samples that came when samples of their time were not kept any more.
pub const ROWS_EXPIRED: &str = "telemetry_rows_expired_total";
/// Samples that were committed beside another value of their series and time.
pub const CONFLICTS: &str = "telemetry_conflicts_total";
/// Batches that were published or committed.
pub const BATCHES: &str = "telemetry_batches_total";
/// Bytes of input that were read.
pub const BYTES_RAW: &str = "telemetry_bytes_raw_total";
/// Bytes of batches and dictionaries that were sent.
pub const BYTES_WIRE: &str = "telemetry_bytes_wire_total";
/// Entries of a partition that are not acknowledged.
pub const BACKLOG_ENTRIES: &str = "telemetry_backlog_entries";
/// Age of the oldest unacknowledged entry of a partition.
pub const BACKLOG_OLDEST: &str = "telemetry_backlog_oldest_seconds";
/// Entries that a consumer has read and not acknowledged.
pub const PENDING: &str = "telemetry_pending_entries";
/// Unacknowledged entries of all partitions together, for autoscaling.
pub const LAG_ENTRIES: &str = "telemetry_lag_entries";
/// Age of the oldest unacknowledged entry of all partitions.
pub const LAG_SECONDS: &str = "telemetry_lag_seconds";
/// Entries that a consumer group has not acknowledged.
pub const GROUP_LAG_ENTRIES: &str = "telemetry_group_lag_entries";
/// Age of the oldest entry that a consumer group has not acknowledged.
pub const GROUP_LAG_SECONDS: &str = "telemetry_group_lag_seconds";
/// Dead letters that are in the store.
pub const DEAD_LETTERS_KEPT: &str = "telemetry_dead_letters_kept";
/// Time of the last commit of rows of a cluster.
pub const LAST_STORED: &str = "telemetry_last_stored_timestamp_seconds";
/// Batches that became dead letters.
pub const DEAD_LETTERS: &str = "telemetry_dead_letters_total";
/// Entries that can neither be stored nor given up.
pub const HELD_BACK: &str = "telemetry_held_back_entries";
/// Values in the queue that were passed over.
pub const QUEUE_MALFORMED: &str = "telemetry_queue_malformed_total";
/// Duration of publishing a batch.
pub const PUBLISH_SECONDS: &str = "telemetry_publish_seconds";
/// Duration of committing a group of batches.
pub const COMMIT_SECONDS: &str = "telemetry_commit_seconds";
/// Requests that were answered.
pub const HTTP_REQUESTS: &str = "telemetry_http_requests_total";
/// Duration until an answer began.
pub const QUERY_SECONDS: &str = "telemetry_query_seconds";
/// Open connections of clients of the API.
pub const HTTP_CONNECTIONS: &str = "telemetry_http_connections";
/// Connections that were lost and made again.
pub const RECONNECTS: &str = "telemetry_reconnects_total";
/// Time until a certificate expires.
pub const CERTIFICATE_EXPIRY: &str = "telemetry_certificate_expiry_seconds";
/// Whether a watched file could not be read again.
pub const RELOAD_FAILED: &str = "telemetry_reload_failed";
/// Followed files that cannot be read now.
pub const SOURCE_FILES_UNREADABLE: &str = "telemetry_source_files_unreadable";
/// Bytes on the connections to the queue.
pub const WAN_BYTES: &str = "telemetry_wan_bytes_total";
/// Duration of the steps of a probe.
pub const PROBE_SECONDS: &str = "telemetry_probe_seconds";
/// Probes that failed.
pub const PROBE_FAILURES: &str = "telemetry_probe_failures_total";
/// How far the clock of a server is ahead.
pub const CLOCK_AHEAD: &str = "telemetry_clock_ahead_seconds";
/// Version and role of the process.
pub const BUILD_INFO: &str = "telemetry_build_info";
/// Start time of the process.
pub const START_TIME: &str = "telemetry_start_time_seconds";

const fn described(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// Every metric.
pub const METRICS: [Metric; 48] = [
    described(
        LATENCY,
        Histogram,
        Unit::Seconds,
        &["source_cluster", "target_cluster", "component"],
        "Time from closing a batch in the source cluster to its commit in the target cluster. It is a one-way time, so a difference between the clocks of the clusters is part of it.",
    ),
    described(
        CONNECTION,
        Gauge,
        Unit::Count,
        &["cluster", "component"],
        "Whether the connection to the queue works: 1 = yes, 0 = no. component: streamer, collector, api-gateway or probe.",
    ),
    described(
        ROWS_READ,
        Counter,
        Unit::Count,
        &[],
        "Rows that were read from sources, valid or not. When everything has arrived, read = stored + rejected.",
    ),
    described(ROWS_REJECTED, Counter, Unit::Count, &["reason"], "Rows that were rejected, by reason."),
    described(ROWS_PUBLISHED, Counter, Unit::Count, &[], "Rows that the queue has accepted, rejected rows included."),
    described(ROWS_STORED, Counter, Unit::Count, &[], "Samples that were committed to the store."),
    described(ROWS_DUPLICATE, Counter, Unit::Count, &[], "Samples that arrived again and were already stored."),
    described(
        ROWS_EXPIRED,
        Counter,
        Unit::Count,
        &[],
        "Samples that came when samples of their time were not kept any more (store.retention.raw), and were not stored.",
    ),
    described(
        CONFLICTS,
        Counter,
        Unit::Count,
        &[],
        "Samples that were stored beside another value of their series and time; both are kept. `telemetry audit --conflicts` lists them.",
    ),
    described(
        BATCHES,
        Counter,
        Unit::Count,
        &["direction"],
        "Batches, by direction: published (into the queue) or committed (into the store).",
    ),
    described(BYTES_RAW, Counter, Unit::Bytes, &[], "Bytes of input that were read, after decompression."),
    described(BYTES_WIRE, Counter, Unit::Bytes, &[], "Bytes of batches and dictionaries that were sent to the queue."),
    described(BACKLOG_ENTRIES, Gauge, Unit::Count, &["partition"], "Entries of a partition that are not acknowledged yet."),
    described(
        BACKLOG_OLDEST,
        Gauge,
        Unit::Seconds,
        &["partition"],
        "Age of the oldest entry of a partition that is not acknowledged yet.",
    ),
    described(
        PENDING,
        Gauge,
        Unit::Count,
        &["partition"],
        "Entries of a partition that a collector has read and not acknowledged yet.",
    ),
    described(
        LAG_ENTRIES,
        Gauge,
        Unit::Count,
        &[],
        "Entries of all partitions that the group of this collector has not acknowledged yet. All collectors of a group report the same number: use max, not sum.",
    ),
    described(
        LAG_SECONDS,
        Gauge,
        Unit::Seconds,
        &[],
        "Age of the oldest entry of all partitions that the group of this collector has not acknowledged yet; 0 when nothing waits. Use it for autoscaling and alerts.",
    ),
    described(
        GROUP_LAG_ENTRIES,
        Gauge,
        Unit::Count,
        &["group"],
        "Entries that a consumer group has not acknowledged yet, for all groups of the queue. Redis keeps an entry until all groups have acknowledged it; see `telemetry groups list`.",
    ),
    described(
        GROUP_LAG_SECONDS,
        Gauge,
        Unit::Seconds,
        &["group"],
        "Age of the oldest entry that a consumer group has not acknowledged yet; 0 when nothing waits for it, or it was retired.",
    ),
    described(DEAD_LETTERS_KEPT, Gauge, Unit::Count, &[], "Dead letters in the store: neither retried with success nor dropped."),
    described(
        LAST_STORED,
        Gauge,
        Unit::Seconds,
        &["cluster"],
        "Time of the last commit of rows of an edge cluster, by any collector, in seconds since 1970 by the clock of the store.",
    ),
    described(
        DEAD_LETTERS,
        Counter,
        Unit::Count,
        &[],
        "Batches that could not be stored because of their content, and became dead letters.",
    ),
    described(
        HELD_BACK,
        Gauge,
        Unit::Count,
        &[],
        "Entries that stay in the queue because their format is newer than this collector, or because a damaged chunk hides whether they are stored.",
    ),
    described(
        QUEUE_MALFORMED,
        Counter,
        Unit::Count,
        &["key"],
        "Malformed values in Redis that were passed over, each time they were read, by kind of key. The log names each of them once; telemetry check looks for them.",
    ),
    described(PUBLISH_SECONDS, Histogram, Unit::Seconds, &[], "Time from sending a batch to the answer of the queue."),
    described(COMMIT_SECONDS, Histogram, Unit::Seconds, &[], "Duration of committing a group of batches."),
    described(
        STORE_ROWS,
        Gauge,
        Unit::Count,
        &["form"],
        "Rows of samples in the store by form: chunk or slab (as committed), or packed. As far as the store knows without counting them. All collectors report the same: use max, not sum.",
    ),
    described(
        STORE_BYTES,
        Gauge,
        Unit::Bytes,
        &["form"],
        "Bytes of the rows of samples in the store with their indexes, by form: chunk or slab (as committed), or packed. All collectors report the same: use max, not sum.",
    ),
    described(
        STORE_BUDGET,
        Gauge,
        Unit::Bytes,
        &[],
        "What the samples of the store may take with their indexes (store.disk_budget). Not there where no budget is set.",
    ),
    described(
        DAYS_DROPPED,
        Counter,
        Unit::Count,
        &[],
        "Days that this collector has dropped because they were past their time (store.retention): of samples, or of rollups.",
    ),
    described(
        STANDBY_BEHIND,
        Gauge,
        Unit::Seconds,
        &[],
        "How far the server that answers are read from (store.read_url) is behind its primary, at most; 0 where it is the primary, NaN where it does not say.",
    ),
    described(SAMPLES_PACKED, Counter, Unit::Count, &[], "Samples that this collector has packed in the background."),
    described(
        OLDEST_UNPACKED,
        Gauge,
        Unit::Seconds,
        &[],
        "Time since the beginning of the oldest day that has closed hours which are not packed; 0 where there is none, and in a collector that does not maintain the store.",
    ),
    described(
        MAINTENANCE_SECONDS,
        Histogram,
        Unit::Seconds,
        &[],
        "Duration of a round of maintenance: all that was to be packed, pauses included.",
    ),
    described(
        MAINTENANCE_FAILURES,
        Counter,
        Unit::Count,
        &[],
        "What maintenance could not do: damaged rows, locked partitions, a full disk. The log has each of them; the rest is packed, and it is tried again.",
    ),
    described(
        HTTP_REQUESTS,
        Counter,
        Unit::Count,
        &["route", "status"],
        "Requests that were answered, by route (empty: no such route) and HTTP status.",
    ),
    described(
        QUERY_SECONDS,
        Histogram,
        Unit::Seconds,
        &["route"],
        "Time from the head of a request to the beginning of its answer, by route.",
    ),
    described(HTTP_CONNECTIONS, Gauge, Unit::Count, &[], "Open connections of clients of the API."),
    described(
        RECONNECTS,
        Counter,
        Unit::Count,
        &["target"],
        "Connections that were lost and made again, by target: redis or postgres.",
    ),
    described(
        CERTIFICATE_EXPIRY,
        Gauge,
        Unit::Seconds,
        &["target"],
        "Seconds until a certificate in use expires; negative when it has expired. target: http (of this server), postgres-client (presented to PostgreSQL), redis-client (presented to Redis), redis-server (presented by Redis).",
    ),
    described(
        RELOAD_FAILED,
        Gauge,
        Unit::Count,
        &["what"],
        "Whether a changed file could not be read, so that its previous content is still in use: 1 = yes, 0 = no. what, as in the log: tokens, certificates of HTTPS, certificates of PostgreSQL, Redis certificates, contents of redis.password_file (redis.sentinel_password_file, postgres.password_file).",
    ),
    described(
        SOURCE_FILES_UNREADABLE,
        Gauge,
        Unit::Count,
        &[],
        "Followed files that cannot be read now (missing permission, too many open files, I/O error). Reading them is retried every few seconds.",
    ),
    described(
        WAN_BYTES,
        Counter,
        Unit::Bytes,
        &["direction"],
        "Bytes on the connections to Redis, by direction: sent or received. Commands and answers without the overhead of TLS and TCP, which adds a few per cent.",
    ),
    described(
        PROBE_SECONDS,
        Histogram,
        Unit::Seconds,
        &["step", "node"],
        "Duration of a step of a probe of a Redis node: resolve, connect, tls, round_trip (on an open connection; independent of clocks).",
    ),
    described(PROBE_FAILURES, Counter, Unit::Count, &["node"], "Probes of a Redis node that failed."),
    described(
        CLOCK_AHEAD,
        Gauge,
        Unit::Seconds,
        &["node"],
        "How far the clock of a Redis node is ahead of the clock of this process, with an error of half a round trip. One-way latencies contain such differences.",
    ),
    described(
        BUILD_INFO,
        Gauge,
        Unit::Count,
        &["version", "role"],
        "Always 1; the labels are the version and the role of the process.",
    ),
    described(START_TIME, Gauge, Unit::Seconds, &[], "Start time of the process, in seconds since 1970."),
];

/// Counts rows that were read from a source.
pub fn rows_read(rows: u64) {
    counter!(ROWS_READ).increment(rows);
}

/// Counts rows that were rejected.
pub fn rows_rejected(reason: Reason, rows: u64) {
    counter!(ROWS_REJECTED, "reason" => reason.name()).increment(rows);
}

/// Counts rows that the queue has accepted.
pub fn rows_published(rows: u64) {
    counter!(ROWS_PUBLISHED).increment(rows);
}

/// Counts samples that were committed.
pub fn rows_stored(rows: u64) {
    counter!(ROWS_STORED).increment(rows);
}

/// Counts samples that were already stored.
pub fn rows_duplicate(rows: u64) {
    counter!(ROWS_DUPLICATE).increment(rows);
}

/// Counts samples that came when samples of their time were not kept any more.
pub fn rows_expired(rows: u64) {
    counter!(ROWS_EXPIRED).increment(rows);
}

/// Counts samples that were committed beside another value of their series and time.
pub fn conflicts(samples: u64) {
    counter!(CONFLICTS).increment(samples);
}

/// Counts batches that were published or committed.
pub fn batches(direction: Direction, batches: u64) {
    counter!(BATCHES, "direction" => direction.name()).increment(batches);
}

/// Counts bytes of input that were read.
pub fn bytes_raw(bytes: u64) {
    counter!(BYTES_RAW).increment(bytes);
}

/// Counts bytes of batches and dictionaries that were sent.
pub fn bytes_wire(bytes: u64) {
    counter!(BYTES_WIRE).increment(bytes);
}

/// Sets what waits in a partition.
pub fn backlog(partition: Partition, entries: u64, pending: u64, oldest: Duration) {
    let label = partition.to_string();
    gauge!(BACKLOG_ENTRIES, "partition" => label.clone()).set(entries as f64);
    gauge!(PENDING, "partition" => label.clone()).set(pending as f64);
    gauge!(BACKLOG_OLDEST, "partition" => label).set(oldest.as_secs_f64());
}

/// Sets what waits for any consumer group in all partitions.
pub fn group_lag(group: &str, entries: u64, oldest: Duration) {
    let group = GROUPS.bounded(group);
    gauge!(GROUP_LAG_ENTRIES, "group" => group.to_owned()).set(entries as f64);
    gauge!(GROUP_LAG_SECONDS, "group" => group.to_owned()).set(oldest.as_secs_f64());
}

/// Sets what waits for the group of this collector in all partitions.
pub fn lag(entries: u64, oldest: Duration) {
    gauge!(LAG_ENTRIES).set(entries as f64);
    gauge!(LAG_SECONDS).set(oldest.as_secs_f64());
}

/// Sets the number of dead letters in the store.
pub fn dead_letters_kept(letters: u64) {
    gauge!(DEAD_LETTERS_KEPT).set(letters as f64);
}

/// Sets the time of the last commit of rows of a cluster.
pub fn last_stored(cluster: &str, at: TimeMs) {
    // Clusters beyond the limit are left out: if they shared the label `other`, one that stands still would not show.
    if CLUSTERS.bounded(cluster) != cluster {
        return;
    }
    gauge!(LAST_STORED, "cluster" => cluster.to_owned()).set(at.as_millis() as f64 / 1000.0);
}

/// Counts batches that became dead letters.
pub fn dead_letters(batches: u64) {
    counter!(DEAD_LETTERS).increment(batches);
}

/// Sets the number of entries that are held back.
pub fn held_back(entries: usize) {
    gauge!(HELD_BACK).set(entries as f64);
}

/// Sets how many values of a kind of key in the queue were malformed and passed over since the start.
pub fn queue_malformed(key: &'static str, times: u64) {
    counter!(QUEUE_MALFORMED, "key" => key).absolute(times);
}

/// Records how long the queue took to answer a batch.
pub fn publish(took: Duration) {
    histogram!(PUBLISH_SECONDS).record(took.as_secs_f64());
}

/// Records how long the commit of a group took.
pub fn commit(took: Duration) {
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
}

/// Counts an answered request and records its duration; `route` is the pattern of its path.
pub fn http_request(route: &str, status: u16, took: Duration) {
    let labels = [("route", route.to_owned()), ("status", status.to_string())];
    counter!(HTTP_REQUESTS, &labels).increment(1);
    histogram!(QUERY_SECONDS, "route" => route.to_owned()).record(took.as_secs_f64());
}

/// Sets the number of open connections of clients.
pub fn http_connections(open: usize) {
    gauge!(HTTP_CONNECTIONS).set(open as f64);
}

/// Counts a connection that was lost and made again.
pub fn reconnect(target: Target) {
    counter!(RECONNECTS, "target" => target.name()).increment(1);
}

/// Sets when a certificate expires.
pub fn certificate(of: Certificate, ends: SystemTime) {
    let left = match ends.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    };
    gauge!(CERTIFICATE_EXPIRY, "target" => of.name()).set(left);
}

/// Sets whether changed files could not be read.
pub fn reload_failed(what: &'static str, failed: bool) {
    gauge!(RELOAD_FAILED, "what" => what).set(f64::from(u8::from(failed)));
}

/// Sets the number of followed files that cannot be read now.
pub fn source_files_unreadable(files: usize) {
    gauge!(SOURCE_FILES_UNREADABLE).set(files as f64);
}

/// Records how long a step of a probe took.
pub fn probe_step(step: ProbeStep, node: &str, took: Duration) {
    histogram!(PROBE_SECONDS, "step" => step.name(), "node" => node.to_owned()).record(took.as_secs_f64());
}

/// Counts a probe that failed.
pub fn probe_failed(node: &str) {
    counter!(PROBE_FAILURES, "node" => node.to_owned()).increment(1);
}

/// Sets how far the clock of a Redis node is ahead of ours.
pub fn clock_ahead(node: &str, seconds: f64) {
    gauge!(CLOCK_AHEAD, "node" => node.to_owned()).set(seconds);
}

/// Sets the bytes that were sent to and received from Redis since the start.
pub fn wan_bytes(sent: u64, received: u64) {
    counter!(WAN_BYTES, "direction" => "sent").absolute(sent);
    counter!(WAN_BYTES, "direction" => "received").absolute(received);
}

/// Sets whether the connection to the queue works.
pub fn connection(cluster: &str, component: Component, up: bool) {
    gauge!(CONNECTION, "cluster" => cluster.to_owned(), "component" => component.name()).set(f64::from(u8::from(up)));
}

/// Records the time from closing a batch of `source` to its commit in `target`. A difference of the clocks can make it negative; that
/// counts as 0.
pub fn latency(source: &str, target: &str, component: Component, seconds: f64) {
    let labels = [
        ("source_cluster", CLUSTERS.bounded(source).to_owned()),
        ("target_cluster", target.to_owned()),
        ("component", component.name().to_owned()),
    ];
    histogram!(LATENCY, &labels).record(seconds.max(0.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_end_in_total() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert_eq!(metric.kind == Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
