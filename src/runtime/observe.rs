//! Every metric there is: name, kind, unit, labels, help; and a typed function to record each.

use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, gauge, histogram};

use super::labels::Values;
use crate::model::{Partition, Reason};

/// Clusters that appear as labels.
static CLUSTERS: Values = Values::new();
/// Consumer groups that appear as labels.
static GROUPS: Values = Values::new();

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets.
    Histogram,
}

impl Kind {
    /// Prometheus' name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric, as the reference and /metrics describe it.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Base unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Source time, or the streamer's clock, to commit.
pub const LATENCY: &str = "cross_cluster_latency_seconds";
/// 1 = connected.
pub const CONNECTION: &str = "message_queue_connection_status";
/// Rows read.
pub const ROWS_READ: &str = "telemetry_rows_read_total";
/// Rows that became no sample.
pub const ROWS_REJECTED: &str = "telemetry_rows_rejected_total";
/// Rows the queue has accepted.
pub const ROWS_PUBLISHED: &str = "telemetry_rows_published_total";
/// Samples committed.
pub const ROWS_STORED: &str = "telemetry_rows_stored_total";
/// Samples that were stored before.
pub const ROWS_DUPLICATE: &str = "telemetry_rows_duplicate_total";
/// Batches.
pub const BATCHES: &str = "telemetry_batches_total";
/// Bytes of input.
pub const BYTES_RAW: &str = "telemetry_bytes_raw_total";
/// Bytes over the wire.
pub const BYTES_WIRE: &str = "telemetry_bytes_wire_total";
/// Entries of the queue that are not acknowledged.
pub const BACKLOG_ENTRIES: &str = "telemetry_backlog_entries";
/// Age of the oldest of them.
pub const BACKLOG_OLDEST: &str = "telemetry_backlog_oldest_seconds";
/// Those a consumer has read.
pub const PENDING: &str = "telemetry_pending_entries";
/// The same for all partitions together: what scaling looks at.
pub const LAG_ENTRIES: &str = "telemetry_lag_entries";
/// Age of the oldest of all of them.
pub const LAG_SECONDS: &str = "telemetry_lag_seconds";
/// Entries that a group has not acknowledged.
pub const GROUP_LAG_ENTRIES: &str = "telemetry_group_lag_entries";
/// Age of the oldest of them.
pub const GROUP_LAG_SECONDS: &str = "telemetry_group_lag_seconds";
/// Dead letters that there are.
pub const DEAD_LETTERS_KEPT: &str = "telemetry_dead_letters_kept";
/// When something of a cluster was stored last.
pub const LAST_STORED: &str = "telemetry_last_stored_timestamp_seconds";
/// Batches buried.
pub const DEAD_LETTERS: &str = "telemetry_dead_letters_total";
/// Entries that can neither be stored nor be given up.
pub const HELD_BACK: &str = "telemetry_held_back_entries";
/// Values in the queue that were passed over.
pub const QUEUE_MALFORMED: &str = "telemetry_queue_malformed_total";
/// Duration of publishing.
pub const PUBLISH_SECONDS: &str = "telemetry_publish_seconds";
/// Duration of committing.
pub const COMMIT_SECONDS: &str = "telemetry_commit_seconds";
/// Requests answered.
pub const HTTP_REQUESTS: &str = "telemetry_http_requests_total";
/// Duration of answering.
pub const QUERY_SECONDS: &str = "telemetry_query_seconds";
/// Connections of clients.
pub const HTTP_CONNECTIONS: &str = "telemetry_http_connections";
/// Connections made again.
pub const RECONNECTS: &str = "telemetry_reconnects_total";
/// How long a certificate is still good.
pub const CERTIFICATE_EXPIRY: &str = "telemetry_certificate_expiry_seconds";
/// Whether a file that changed could not be read again.
pub const RELOAD_FAILED: &str = "telemetry_reload_failed";
/// Followed files that cannot be read now.
pub const SOURCE_FILES_UNREADABLE: &str = "telemetry_source_files_unreadable";
/// Bytes over the line to the queue.
pub const WAN_BYTES: &str = "telemetry_wan_bytes_total";
/// Duration of the parts of the way to the queue.
pub const PROBE_SECONDS: &str = "telemetry_probe_seconds";
/// Probes that did not arrive.
pub const PROBE_FAILURES: &str = "telemetry_probe_failures_total";
/// How far a server's clock is ahead.
pub const CLOCK_AHEAD: &str = "telemetry_clock_ahead_seconds";
/// Version.
pub const BUILD_INFO: &str = "telemetry_build_info";
/// When the process began.
pub const START_TIME: &str = "telemetry_start_time_seconds";

const fn described(name: &'static str, kind: Kind, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind, unit, labels, help }
}

/// Every metric.
pub const METRICS: [Described; 37] = [
    described(
        LATENCY,
        Kind::Histogram,
        Unit::Seconds,
        &["source_cluster", "target_cluster", "component"],
        "Time from closing a batch in the source cluster until it was committed in the target cluster. One-way: the clocks of both clusters are in it.",
    ),
    described(
        CONNECTION,
        Kind::Gauge,
        Unit::Count,
        &["cluster", "component"],
        "Whether the connection to the queue works: 1 yes, 0 no. component: streamer, collector, api-gateway, probe.",
    ),
    described(
        ROWS_READ,
        Kind::Counter,
        Unit::Count,
        &[],
        "Rows read from sources, valid or not. read = stored + rejected once everything has arrived.",
    ),
    described(ROWS_REJECTED, Kind::Counter, Unit::Count, &["reason"], "Rows that became no sample, by reason."),
    described(ROWS_PUBLISHED, Kind::Counter, Unit::Count, &[], "Rows the queue has accepted, rejected ones included."),
    described(ROWS_STORED, Kind::Counter, Unit::Count, &[], "Samples stored, counted once committed."),
    described(ROWS_DUPLICATE, Kind::Counter, Unit::Count, &[], "Samples that arrived again and were found stored before."),
    described(
        BATCHES,
        Kind::Counter,
        Unit::Count,
        &["direction"],
        "Batches, by direction: published (into the queue) or committed (into the store).",
    ),
    described(BYTES_RAW, Kind::Counter, Unit::Bytes, &[], "Bytes of input that were read, after decompression."),
    described(BYTES_WIRE, Kind::Counter, Unit::Bytes, &[], "Bytes of batches and dictionaries that were sent to the queue."),
    described(BACKLOG_ENTRIES, Kind::Gauge, Unit::Count, &["partition"], "Entries of the queue that are not acknowledged yet."),
    described(BACKLOG_OLDEST, Kind::Gauge, Unit::Seconds, &["partition"], "Age of the oldest entry that is not acknowledged."),
    described(PENDING, Kind::Gauge, Unit::Count, &["partition"], "Entries that a collector has read and not acknowledged yet."),
    described(
        LAG_ENTRIES,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Entries that this collector's group has not acknowledged yet, all partitions together. Every collector of a group says the same: take the max, not the sum.",
    ),
    described(
        LAG_SECONDS,
        Kind::Gauge,
        Unit::Seconds,
        &[],
        "Age of the oldest entry that this collector's group has not acknowledged, in whichever partition; 0 when nothing waits. Scale and alert on it.",
    ),
    described(
        GROUP_LAG_ENTRIES,
        Kind::Gauge,
        Unit::Count,
        &["group"],
        "Entries that a consumer group, ours or another, has not acknowledged. What one group does not read is kept for all: telemetry groups list.",
    ),
    described(
        GROUP_LAG_SECONDS,
        Kind::Gauge,
        Unit::Seconds,
        &["group"],
        "Age of the oldest entry that a consumer group has not acknowledged; 0 when nothing waits for it, or it was retired.",
    ),
    described(
        DEAD_LETTERS_KEPT,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Dead letters that are in the store now: not yet retried with success, and not dropped.",
    ),
    described(
        LAST_STORED,
        Kind::Gauge,
        Unit::Seconds,
        &["cluster"],
        "When rows of an edge cluster were committed last, by whichever collector, in seconds since 1970 by the clock of the store.",
    ),
    described(
        DEAD_LETTERS,
        Kind::Counter,
        Unit::Count,
        &[],
        "Batches that could not be stored for a reason of their own and were kept as dead letters.",
    ),
    described(
        HELD_BACK,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Entries that stay in the queue because their format is newer than this collector, or because a damaged chunk hides whether they are stored.",
    ),
    described(QUEUE_MALFORMED, Kind::Counter, Unit::Count, &["key"], "Malformed values in Redis, passed over (see the log)."),
    described(PUBLISH_SECONDS, Kind::Histogram, Unit::Seconds, &[], "Time from sending a batch to the queue's answer."),
    described(COMMIT_SECONDS, Kind::Histogram, Unit::Seconds, &[], "Time of committing a group of batches."),
    described(
        HTTP_REQUESTS,
        Kind::Counter,
        Unit::Count,
        &["route", "status"],
        "Requests that were answered, by route (empty: there is none) and HTTP status.",
    ),
    described(
        QUERY_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["route"],
        "Time from a request's head until its answer began, by route.",
    ),
    described(HTTP_CONNECTIONS, Kind::Gauge, Unit::Count, &[], "Connections of clients of the API that are open."),
    described(
        RECONNECTS,
        Kind::Counter,
        Unit::Count,
        &["target"],
        "Connections that were lost and made again, by target: redis or postgres.",
    ),
    described(
        CERTIFICATE_EXPIRY,
        Kind::Gauge,
        Unit::Seconds,
        &["target"],
        "Seconds until a certificate in use ends, negative when it has ended. target: http (the server's own), postgres-client (shown to PostgreSQL), redis-client (shown to Redis), redis-server (shown by Redis).",
    ),
    described(
        RELOAD_FAILED,
        Kind::Gauge,
        Unit::Count,
        &["what"],
        "Whether a file that takes effect without a restart has a fault, so that what it said before is still in use: 1 yes, 0 no. what, as in the log: tokens, certificates of HTTPS, certificates of PostgreSQL, Redis certificates, contents of redis.password_file (redis.sentinel_password_file, postgres.password_file).",
    ),
    described(
        SOURCE_FILES_UNREADABLE,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Followed files that cannot be read now (a missing right, no more open files, an I/O error). They are tried again every few seconds.",
    ),
    described(
        WAN_BYTES,
        Kind::Counter,
        Unit::Bytes,
        &["direction"],
        "Bytes over the line to Redis, by direction: sent or received. Commands and answers as they are written; TLS and TCP add some per cent.",
    ),
    described(
        PROBE_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["step", "node"],
        "Time of a step of a probe to a node of Redis: resolve, connect, tls, round_trip (on a connection that is there; needs no clocks).",
    ),
    described(PROBE_FAILURES, Kind::Counter, Unit::Count, &["node"], "Probes of a node of Redis that failed."),
    described(
        CLOCK_AHEAD,
        Kind::Gauge,
        Unit::Seconds,
        &["node"],
        "How far the clock of a node of Redis is ahead of ours; half of a round trip is the error. What one-way latencies have to be read with.",
    ),
    described(BUILD_INFO, Kind::Gauge, Unit::Count, &["version", "role"], "Always 1; the labels say what runs."),
    described(START_TIME, Kind::Gauge, Unit::Seconds, &[], "When the process began, in seconds since 1970."),
];

/// Who speaks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// `telemetry stream`.
    Streamer,
    /// `telemetry collect`.
    Collector,
    /// `telemetry serve`.
    ApiGateway,
    /// `telemetry probe`.
    Probe,
}

impl Component {
    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Streamer => "streamer",
            Self::Collector => "collector",
            Self::ApiGateway => "api-gateway",
            Self::Probe => "probe",
        }
    }
}

/// Which way a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the queue.
    Published,
    /// Into the store.
    Committed,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Committed => "committed",
        }
    }
}

/// What connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The queue.
    Redis,
    /// The store.
    Postgres,
}

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// Rows were read from a source.
pub fn rows_read(rows: u64) {
    counter!(ROWS_READ).increment(rows);
}

/// Rows became no sample.
pub fn rows_rejected(reason: Reason, rows: u64) {
    counter!(ROWS_REJECTED, "reason" => reason.name()).increment(rows);
}

/// The queue accepted rows.
pub fn rows_published(rows: u64) {
    counter!(ROWS_PUBLISHED).increment(rows);
}

/// Samples were committed.
pub fn rows_stored(rows: u64) {
    counter!(ROWS_STORED).increment(rows);
}

/// Samples were found stored before.
pub fn rows_duplicate(rows: u64) {
    counter!(ROWS_DUPLICATE).increment(rows);
}

/// Batches were published or committed.
pub fn batches(direction: Direction, batches: u64) {
    counter!(BATCHES, "direction" => direction.name()).increment(batches);
}

/// Bytes of input were read.
pub fn bytes_raw(bytes: u64) {
    counter!(BYTES_RAW).increment(bytes);
}

/// Bytes were sent.
pub fn bytes_wire(bytes: u64) {
    counter!(BYTES_WIRE).increment(bytes);
}

/// What waits in a partition.
pub fn backlog(partition: Partition, entries: u64, pending: u64, oldest: Duration) {
    let label = partition.to_string();
    gauge!(BACKLOG_ENTRIES, "partition" => label.clone()).set(entries as f64);
    gauge!(PENDING, "partition" => label.clone()).set(pending as f64);
    gauge!(BACKLOG_OLDEST, "partition" => label).set(oldest.as_secs_f64());
}

/// What waits for a group, ours or another, in all partitions.
pub fn group_lag(group: &str, entries: u64, oldest: Duration) {
    let group = GROUPS.bounded(group);
    gauge!(GROUP_LAG_ENTRIES, "group" => group.to_owned()).set(entries as f64);
    gauge!(GROUP_LAG_SECONDS, "group" => group.to_owned()).set(oldest.as_secs_f64());
}

/// What waits for our group, in all partitions.
pub fn lag(entries: u64, oldest: Duration) {
    gauge!(LAG_ENTRIES).set(entries as f64);
    gauge!(LAG_SECONDS).set(oldest.as_secs_f64());
}

/// Dead letters that the store has.
pub fn dead_letters_kept(letters: u64) {
    gauge!(DEAD_LETTERS_KEPT).set(letters as f64);
}

/// When something of a cluster was committed last.
pub fn last_stored(cluster: &str, at_ms: i64) {
    // Of several that share a label none would be seen to stand still.
    if CLUSTERS.bounded(cluster) != cluster {
        return;
    }
    gauge!(LAST_STORED, "cluster" => cluster.to_owned()).set(at_ms as f64 / 1000.0);
}

/// Batches became dead letters.
pub fn dead_letters(batches: u64) {
    counter!(DEAD_LETTERS).increment(batches);
}

/// Entries are held back.
pub fn held_back(entries: usize) {
    gauge!(HELD_BACK).set(entries as f64);
}

/// So many values of a kind of key in the queue were malformed and passed over since the start.
pub fn queue_malformed(key: &'static str, times: u64) {
    counter!(QUEUE_MALFORMED, "key" => key).absolute(times);
}

/// A batch was answered by the queue after this time.
pub fn publish(took: Duration) {
    histogram!(PUBLISH_SECONDS).record(took.as_secs_f64());
}

/// A group was committed in this time.
pub fn commit(took: Duration) {
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
}

/// A request was answered; `route` is the pattern of its path.
pub fn http_request(route: &str, status: u16, took: Duration) {
    let labels = [("route", route.to_owned()), ("status", status.to_string())];
    counter!(HTTP_REQUESTS, &labels).increment(1);
    histogram!(QUERY_SECONDS, "route" => route.to_owned()).record(took.as_secs_f64());
}

/// How many connections of clients are open.
pub fn http_connections(open: usize) {
    gauge!(HTTP_CONNECTIONS).set(open as f64);
}

/// A connection was lost and made again.
pub fn reconnect(target: Target) {
    counter!(RECONNECTS, "target" => target.name()).increment(1);
}

/// A certificate that this process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// To clients of the API.
    Http,
    /// To PostgreSQL.
    PostgresClient,
    /// To Redis.
    RedisClient,
    /// That of Redis, as it was shown last.
    RedisServer,
}

impl Certificate {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::PostgresClient => "postgres-client",
            Self::RedisClient => "redis-client",
            Self::RedisServer => "redis-server",
        }
    }
}

/// When a certificate ends.
pub fn certificate(of: Certificate, ends: SystemTime) {
    let left = match ends.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    };
    gauge!(CERTIFICATE_EXPIRY, "target" => of.name()).set(left);
}

/// Whether files that changed could not be read again.
pub fn reload_failed(what: &'static str, failed: bool) {
    gauge!(RELOAD_FAILED, "what" => what).set(f64::from(u8::from(failed)));
}

/// How many followed files cannot be read now.
pub fn source_files_unreadable(files: usize) {
    gauge!(SOURCE_FILES_UNREADABLE).set(files as f64);
}

/// A part of the way to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// The name.
    Resolve,
    /// TCP.
    Connect,
    /// The TLS handshake.
    Tls,
    /// A command and its answer.
    RoundTrip,
}

impl ProbeStep {
    fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::RoundTrip => "round_trip",
        }
    }
}

/// A part of a probe took this long.
pub fn probe_step(step: ProbeStep, node: &str, took: Duration) {
    histogram!(PROBE_SECONDS, "step" => step.name(), "node" => node.to_owned()).record(took.as_secs_f64());
}

/// A probe did not arrive.
pub fn probe_failed(node: &str) {
    counter!(PROBE_FAILURES, "node" => node.to_owned()).increment(1);
}

/// How far a server's clock is ahead of ours.
pub fn clock_ahead(node: &str, seconds: f64) {
    gauge!(CLOCK_AHEAD, "node" => node.to_owned()).set(seconds);
}

/// Bytes that went over the line to the queue since the start.
pub fn wan_bytes(sent: u64, received: u64) {
    counter!(WAN_BYTES, "direction" => "sent").absolute(sent);
    counter!(WAN_BYTES, "direction" => "received").absolute(received);
}

/// Whether the connection to the queue works.
pub fn connection(cluster: &str, component: Component, up: bool) {
    gauge!(CONNECTION, "cluster" => cluster.to_owned(), "component" => component.name()).set(f64::from(u8::from(up)));
}

/// A batch of `source` was committed in `target` this long after it was closed. Clocks that differ can make it negative: that
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
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
