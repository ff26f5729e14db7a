//! Questions to the store: checked parameters in, answers out. Knows neither HTTP nor a particular store.
//!
//! | file | what |
//! |---|---|
//! | `params`, `typed` | query strings: each parameter checked, what is wrong is named; parameters as the fields of a type |
//! | `parameters` | those types: what requests are read into, and what describes them |
//! | `range` | times and ranges: RFC 3339, `now-5m` |
//! | `cursor` | where a list goes on |
//! | `lists` | clusters, hosts, GPUs, the metric catalogue |
//! | `gpu` | which GPU an id means |
//! | `budget`, `client` | the memory that all answers hold together, and what of it one client may hold |
//! | `slices` | samples of series, a slice of time after the other, in bounded memory |
//! | `samples` | the samples of a slice in one order, or in steps |
//! | `telemetry` | one GPU's samples, as they are or in steps |
//! | `bucket` | what becomes of the samples in a step |
//! | `latest`, `aggregate` | the newest values; groups of series |
//! | `pipeline` | queue and sources |

mod aggregate;
mod bucket;
mod budget;
mod client;
mod cursor;
mod gpu;
mod latest;
mod lists;
mod parameters;
mod params;
mod pipeline;
mod range;
mod samples;
mod slices;
mod stepped;
#[cfg(test)]
mod stub;
mod telemetry;
mod typed;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::aggregate::{AggregateRequest, AggregateRow, GroupBy};
pub use self::bucket::Aggregate;
pub use self::budget::{Lease, Room, SMALL_ANSWER_BYTES};
pub use self::gpu::Gpu;
pub use self::latest::{LatestRequest, LatestRow};
pub use self::lists::{CatalogueEntry, ListRequest, Place};
pub use self::parameters::{
    AggregateParams, ClusterParam, FilterParams, MetricsParam, PageParams, PipelineParams, TelemetryParams, WholeNumber,
};
pub use self::params::Params;
pub use self::pipeline::{
    PartitionBacklog, Pipeline, PipelineCluster, PipelineConsumer, PipelinePartition, PipelineRequest, PipelineSource,
};
pub use self::range::{Range, parse_time_parameter};
pub use self::samples::{Sample, Samples};
pub use self::telemetry::{Order, RowSeries, Telemetry, TelemetryRequest};
pub use crate::store::{ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, SeriesRow};
use crate::store::{Reader, StoreError};
use crate::transport::Inspector;

/// What can be wrong with a question, or with answering it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryError {
    /// A parameter is not what it may be.
    #[error("{name}: {reason}")]
    BadParameter {
        /// Its name.
        name: String,
        /// What is wrong, and what it may be.
        reason: String,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The id is known in several clusters, and none was named.
    #[error("{detail}")]
    Ambiguous {
        /// In words.
        detail: String,
        /// The clusters.
        clusters: Vec<String>,
    },
    /// The store or the queue is away: trying again later can help.
    #[error("{detail}")]
    Unavailable {
        /// What anybody may know: names no host, database or error code.
        brief: &'static str,
        /// What was seen, for the log.
        detail: String,
    },
    /// A snapshot is gone before it was read to its end: another one can be had.
    #[error("{0}")]
    SnapshotLost(String),
    /// Others hold the memory that the answer needs: trying again later can help.
    #[error("others hold the memory that all answers may hold together (http.query_memory)")]
    Busy,
    /// The client's other requests hold its share of that memory: trying again later can help.
    #[error("other requests of this client hold its share of the memory for answers (http.query_memory_client_percent)")]
    ClientBusy,
    /// The store holds what it should not.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        // A schema that is missing comes with the first collector; a password can be mended: the client can only wait.
        let brief = match error {
            StoreError::Unavailable { .. } => "the database is unavailable; try again later",
            StoreError::SnapshotLost { .. } => return Self::SnapshotLost(error.to_string()),
            StoreError::Busy(_) => "other requests use all connections to the database that this one may use; try again later",
            StoreError::Refused { .. } => "the database rejects this server; the reason is in the log of the server",
            StoreError::Schema(_) | StoreError::Version(_) => {
                "the database does not have the schema that this server reads; the remedy is in the log of the server"
            }
            StoreError::DamagedChunk(_) | StoreError::OtherStore { .. } | StoreError::BadBatch(_) => {
                return Self::Internal(error.to_string());
            }
        };
        Self::Unavailable { brief, detail: error.to_string() }
    }
}

impl QueryError {
    fn bad(name: &str, reason: impl Into<String>) -> Self {
        Self::BadParameter { name: name.to_owned(), reason: reason.into() }
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, QueryError>;

/// What bounds an answer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of a page where none is asked for.
    pub page: usize,
    /// Rows of a page at most.
    pub max_page: usize,
    /// Series that one question may touch.
    pub max_series: usize,
    /// Steps that one question may have.
    pub max_steps: u64,
    /// Values that are held to answer for a percentile.
    pub max_percentile_samples: usize,
    /// Time that one question may span.
    pub max_range: Duration,
    /// Bytes that all answers may hold together.
    pub memory: usize,
    /// Hundredths of them that the answers for one client may hold.
    pub client_percent: usize,
    /// How long a question waits for its part of them.
    pub queue_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            page: 100,
            max_page: 10_000,
            max_series: 200_000,
            max_steps: 11_000,
            max_percentile_samples: 5_000_000,
            max_range: Duration::from_secs(31_557_600),
            memory: 256 << 20,
            client_percent: 50,
            queue_timeout: Duration::from_secs(10),
        }
    }
}

/// A page of a list. It ends before it has as many rows as were asked for where their texts are very long.
#[derive(Debug)]
pub struct Page<T> {
    /// Its rows.
    pub rows: Vec<T>,
    /// Where the list goes on; `None` = it does not.
    pub next: Option<String>,
    /// The memory of its rows, until the answer is written.
    _lease: Option<Lease>,
}

/// Answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Query {
    reader: Arc<dyn Reader>,
    queue: Option<Arc<dyn Inspector>>,
    limits: Limits,
    budget: budget::Budget,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Query {
    /// Over a store and, where one is reached, the queue.
    #[must_use]
    pub fn new(reader: Arc<dyn Reader>, queue: Option<Arc<dyn Inspector>>, limits: Limits) -> Self {
        let budget = budget::Budget::new(limits.memory, limits.client_percent, limits.queue_timeout);
        Self { reader, queue, limits, budget }
    }

    /// The same for the requests of one client, whose share of the memory is bounded.
    #[must_use]
    pub fn of_client(&self, client: IpAddr) -> Self {
        Self { budget: self.budget.of_client(client), ..self.clone() }
    }

    /// Room for an answer of so many bytes until its client has taken it. Waits for those that were written before.
    ///
    /// # Errors
    ///
    /// [`QueryError::Busy`]; it is longer than all such answers may be together.
    pub async fn room_for(&self, bytes: usize) -> Result<Room> {
        self.budget.written(bytes).await
    }

    /// What bounds answers.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
