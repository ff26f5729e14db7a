//! What a store answers to readers.
//!
//! Lists come from the tables of GPUs and series, never from chunks. Chunks come by series and time, through the index of
//! (series, t_max, t_min). Whatever is decided about samples (order, double times, steps) is decided in `query`, once for every store.

use std::time::Duration;

use async_trait::async_trait;

use super::{Ids, Level, Needs, Result, RolledUp, SourceLedger};
use crate::model::{GpuId, RowRange, SeriesId, SourceId, TimeMs};

/// Which GPUs are meant. What is `None` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuFilter {
    /// Edge cluster.
    pub cluster: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// Namespace of a workload that has used the GPU.
    pub namespace: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// Index in the host.
    pub index: Option<u32>,
}

/// What tells a GPU (or MIG slice) from others where GPUs are listed, in the order of the list: texts by their bytes (UTF-8), no
/// index before all indexes. A board that was moved to another host is listed at both places.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuPlace {
    /// Edge cluster.
    pub cluster: String,
    /// Host.
    pub hostname: String,
    /// Index in the host.
    pub index: Option<u32>,
    /// UUID, may be empty.
    pub uuid: String,
    /// MIG instance, empty for a whole GPU.
    pub mig_instance: String,
}

/// A GPU (or MIG slice) at one place, as it was described last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuSummary {
    /// Where the GPU is.
    pub place: GpuPlace,
    /// The store's ids of the GPU: one for each way it was ever described (a driver upgrade makes a new one), the latest last.
    pub ids: Vec<GpuId>,
    /// `nvidia0`, …
    pub device: String,
    /// Model name.
    pub model: String,
    /// Driver version.
    pub driver_version: String,
    /// PCI bus id.
    pub pci_bus_id: String,
    /// MIG profile.
    pub mig_profile: String,
    /// Time of the oldest sample. GPUs without samples are not listed.
    pub first_seen: TimeMs,
    /// Time of the newest sample.
    pub last_seen: TimeMs,
}

/// A host, with how many GPUs (uuids; where there is none, indexes) it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSummary {
    /// Edge cluster.
    pub cluster: String,
    /// Host.
    pub hostname: String,
    /// GPUs, a board with MIG slices once.
    pub gpus: u64,
    /// Time of the oldest sample.
    pub first_seen: TimeMs,
    /// Time of the newest sample.
    pub last_seen: TimeMs,
}

/// An edge cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSummary {
    /// The cluster's name.
    pub cluster: String,
    /// Hosts.
    pub hosts: u64,
    /// GPUs, a board with MIG slices once.
    pub gpus: u64,
    /// Time of the oldest sample.
    pub first_seen: TimeMs,
    /// Time of the newest sample.
    pub last_seen: TimeMs,
}

/// How much of a list is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Rows at most.
    pub rows: usize,
    /// Bytes of their texts: the row with which they come to this or more is the last one that is read.
    pub bytes: usize,
}

impl Limit {
    /// So many rows, however long their texts are.
    #[must_use]
    pub const fn rows(rows: usize) -> Self {
        Self { rows, bytes: usize::MAX }
    }

    /// Whether nothing comes after what was read within this.
    pub fn is_end<T: Texts>(self, read: &[T]) -> bool {
        read.len() < self.rows && read.iter().map(Texts::text_bytes).sum::<usize>() < self.bytes
    }
}

/// A row whose texts may be long.
pub trait Texts {
    /// Bytes of the row's texts.
    fn text_bytes(&self) -> usize;
}

impl Texts for SourceLedger {
    /// With its sets of rows: a source that was stored in pieces has many ranges.
    fn text_bytes(&self) -> usize {
        let ranges = [&self.covered, &self.dead, &self.dropped].map(|rows| rows.ranges().len()).iter().sum::<usize>();
        self.cluster.len() + self.name.len() + ranges * size_of::<RowRange>()
    }
}

impl Texts for String {
    fn text_bytes(&self) -> usize {
        self.len()
    }
}

impl Texts for GpuPlace {
    fn text_bytes(&self) -> usize {
        self.cluster.len() + self.hostname.len() + self.uuid.len() + self.mig_instance.len()
    }
}

impl Texts for GpuSummary {
    fn text_bytes(&self) -> usize {
        let described = [&self.device, &self.model, &self.driver_version, &self.pci_bus_id, &self.mig_profile];
        self.place.text_bytes() + described.iter().map(|text| text.len()).sum::<usize>()
    }
}

impl Texts for HostSummary {
    fn text_bytes(&self) -> usize {
        self.cluster.len() + self.hostname.len()
    }
}

impl SeriesRow {
    /// The ids of the series and its GPU.
    #[must_use]
    pub fn ids(&self) -> Ids {
        Ids { series: self.id, gpu: self.gpu_id }
    }
}

impl Texts for SeriesRow {
    fn text_bytes(&self) -> usize {
        self.metric.len() + self.namespace.len() + self.pod.len() + self.container.len()
    }
}

/// Which series are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesFilter {
    /// Of these GPUs only ([`GpuSummary::ids`]); `None` = of those of `gpus`.
    pub gpu_ids: Option<Vec<GpuId>>,
    /// Of GPUs like these. Its namespace restricts the series themselves.
    pub gpus: GpuFilter,
    /// Of these metrics only; empty = of all.
    pub metrics: Vec<String>,
    /// Pod.
    pub pod: Option<String>,
    /// Only of GPUs that had samples at this time or later: GPUs that have been silent for long need not be looked through.
    pub seen_since: Option<TimeMs>,
}

/// A series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesRow {
    /// The store's id of the series.
    pub id: SeriesId,
    /// The store's id of the series' GPU.
    pub gpu_id: GpuId,
    /// Metric name.
    pub metric: String,
    /// Namespace, empty where there is none; so are pod and container.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container.
    pub container: String,
}

/// Chunks by their borders: t_max within one range, t_min within another. `from` is included, `before` is not. A chunk that is kept in one
/// row with those of other series has the borders of the row: it may begin later and end earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// t_min ≥ this.
    pub begins_from: TimeMs,
    /// t_min < this.
    pub begins_before: TimeMs,
    /// t_max ≥ this.
    pub ends_from: TimeMs,
    /// t_max < this.
    pub ends_before: TimeMs,
}

/// A chunk, decoded. `times` and `values` have the same length, at least one, times in order (equal ones in the order of their rows).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// The chunk's series.
    pub series: SeriesId,
    /// A later chunk has a greater id.
    pub id: i64,
    /// Times.
    pub times: Vec<TimeMs>,
    /// Values.
    pub values: Vec<f64>,
}

/// From when to when a series has chunks in a range, by their borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The series.
    pub series: SeriesId,
    /// Where the first of them begins.
    pub first: TimeMs,
    /// Where the last of them ends.
    pub last: TimeMs,
}

/// The newest sample of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latest {
    /// The series.
    pub series: SeriesId,
    /// The sample's time.
    pub time: TimeMs,
    /// The sample's value; of two with the same time the later one's.
    pub value: f64,
}

/// How a store is read. Dropping a future ends the work for it on the server, too.
#[async_trait]
pub trait Reader: Send + Sync {
    /// The clusters, by name (in the order of bytes, as all lists are).
    async fn clusters(&self) -> Result<Vec<ClusterSummary>>;

    /// Hosts by (cluster, hostname), those after `after`, within `limit`.
    async fn hosts(&self, filter: &GpuFilter, after: Option<(&str, &str)>, limit: Limit) -> Result<Vec<HostSummary>>;

    /// GPUs by place, those after `after`, within `limit`. Touches no chunk.
    async fn gpus(&self, filter: &GpuFilter, after: Option<&GpuPlace>, limit: Limit) -> Result<Vec<GpuSummary>>;

    /// Series by id, those after `after`, within `limit`.
    async fn series(&self, filter: &SeriesFilter, after: SeriesId, limit: Limit) -> Result<Vec<SeriesRow>>;

    /// The names of the metrics of the store's series, in order, those after `after`, within `limit`.
    async fn metrics(&self, after: &str, limit: Limit) -> Result<Vec<String>>;

    /// Samples as of one moment: of the first question to what is returned. While others hold all that may be held for this, waits
    /// so long for them at most ([`super::StoreError::Busy`]).
    async fn snapshot(&self, purpose: SnapshotFor, patience: Duration) -> Result<Box<dyn Snapshot>>;

    /// Ledgers of sources, in the order of the sources' ids, those after `after`.
    async fn ledger(&self, after: Option<SourceId>, limit: Limit) -> Result<Vec<SourceLedger>>;

    /// A round trip, and whether the schema is there and one we know.
    async fn ready(&self) -> Result<()>;

    /// Whether this is a copy that follows another server, and how far behind it is.
    async fn standby(&self) -> Result<Option<Standby>> {
        Ok(None)
    }
}

/// A server that follows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby {
    /// How far the server is behind, at most; `None` where that is not known.
    pub behind: Option<Duration>,
}

impl Standby {
    /// What the server is, in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self.behind {
            Some(behind) => format!("a standby, {:.1} s behind its primary", behind.as_secs_f64()),
            None => "a standby; it does not say how far it is behind its primary".to_owned(),
        }
    }
}

/// What a snapshot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFor {
    /// An answer that is made within the time of a request.
    Page,
    /// An answer that takes as long as its client does. Such ones leave something to the others.
    Download,
}

/// The samples of a store at one moment, whatever is rewritten meanwhile. It holds a connection until it is dropped. Dropping a future
/// ends the work for it on the server, too; the snapshot is over then, as it is after an error.
#[async_trait]
pub trait Snapshot: Send {
    /// The newest sample of each of these series among the chunks that begin in `[begins_from, begins_before)`; of a chunk its
    /// last sample. Both times are midnights (UTC). Series without are left out. In any order.
    async fn latest(&mut self, series: &[Ids], begins_from: TimeMs, begins_before: TimeMs) -> Result<Vec<Latest>>;

    /// The chunks of these series in a range, in any order; `None` when they have more than `max_samples` samples in all, or too many
    /// others would have to be looked through for them: ask for less, of another snapshot.
    async fn chunks(&mut self, series: &[Ids], range: &ChunkRange, max_samples: usize) -> Result<Option<Vec<Chunk>>>;

    /// From when to when each of these series has chunks in a range (see [`ChunkRange`]); series without are left out. In any order.
    async fn spans(&mut self, series: &[Ids], range: &ChunkRange) -> Result<Vec<Span>>;

    /// What is rolled up of these series from one time to before another, both of which begin a bucket of the level, and what is not.
    async fn rollups(&mut self, series: &[Ids], _level: Level, _needs: Needs, span: (TimeMs, TimeMs)) -> Result<RolledUp> {
        Ok(RolledUp::none(series, span))
    }
}
