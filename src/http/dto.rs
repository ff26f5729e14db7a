//! What the API's answers look like.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::TimeMs;
use crate::query::{
    AggregateRow, CatalogueEntry, ClusterSummary, GpuSummary, HostSummary, LatestRow, Pipeline, PipelineCluster, PipelineSource,
};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Give it as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// An edge cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cluster {
    /// Its name.
    pub cluster: String,
    /// The same as `cluster`.
    pub name: String,
    /// Hosts.
    pub hosts: u64,
    /// GPUs; a board with MIG slices once.
    pub gpus: u64,
    /// Time of its oldest sample, whether or not that is still kept.
    pub first_seen: String,
    /// Time of its newest sample.
    pub last_seen: String,
    /// Age of its newest sample.
    pub freshness_seconds: f64,
}

impl Cluster {
    pub(super) fn of(c: ClusterSummary, now: TimeMs) -> Self {
        Self {
            name: c.cluster.clone(),
            cluster: c.cluster,
            hosts: c.hosts,
            gpus: c.gpus,
            first_seen: c.first_seen.to_string(),
            last_seen: c.last_seen.to_string(),
            freshness_seconds: seconds(now.since(c.last_seen)),
        }
    }
}

/// A host.
#[derive(Debug, Serialize, ToSchema)]
pub struct Host {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub hostname: String,
    /// GPUs; a board with MIG slices once.
    pub gpus: u64,
    /// Time of its oldest sample, whether or not that is still kept.
    pub first_seen: String,
    /// Time of its newest sample.
    pub last_seen: String,
}

impl From<HostSummary> for Host {
    fn from(h: HostSummary) -> Self {
        Self {
            cluster: h.cluster,
            hostname: h.hostname,
            gpus: h.gpus,
            first_seen: h.first_seen.to_string(),
            last_seen: h.last_seen.to_string(),
        }
    }
}

/// A GPU (or MIG slice) at one place, as it was described last.
#[derive(Debug, Serialize, ToSchema)]
pub struct Gpu {
    /// UUID; empty where the export has none.
    pub uuid: String,
    /// Index in the host.
    pub gpu_index: Option<u32>,
    /// `nvidia0`, …
    pub device: String,
    /// Model name.
    pub model: String,
    /// Host.
    pub hostname: String,
    /// Edge cluster.
    pub cluster: String,
    /// Driver version.
    pub driver_version: String,
    /// PCI bus id.
    pub pci_bus_id: String,
    /// MIG instance; null for a whole GPU.
    pub mig_instance: Option<String>,
    /// MIG profile; null for a whole GPU.
    pub mig_profile: Option<String>,
    /// Time of its oldest sample, whether or not that is still kept.
    pub first_seen: String,
    /// Time of its newest sample.
    pub last_seen: String,
}

impl From<GpuSummary> for Gpu {
    fn from(g: GpuSummary) -> Self {
        Self {
            uuid: g.place.uuid,
            gpu_index: g.place.index,
            device: g.device,
            model: g.model,
            hostname: g.place.hostname,
            cluster: g.place.cluster,
            driver_version: g.driver_version,
            pci_bus_id: g.pci_bus_id,
            mig_instance: some(g.place.mig_instance),
            mig_profile: some(g.mig_profile),
            first_seen: g.first_seen.to_string(),
            last_seen: g.last_seen.to_string(),
        }
    }
}

/// A GPU with its latest values.
#[derive(Debug, Serialize, ToSchema)]
pub struct GpuDetail {
    /// The GPU.
    #[serde(flatten)]
    pub gpu: Gpu,
    /// The newest value of each of its metrics, by name.
    pub latest: Vec<LatestValue>,
}

/// The newest value of a metric.
#[derive(Debug, Serialize, ToSchema)]
pub struct LatestValue {
    /// Metric name.
    pub metric_name: String,
    /// Unit; null where it is not known.
    pub unit: Option<&'static str>,
    /// When.
    pub timestamp: String,
    /// The value.
    pub value: f64,
    /// Of which MIG slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mig_instance: Option<String>,
    /// Workload, where there is one; so below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl LatestValue {
    pub(super) fn of(mig_instance: String, row: LatestRow) -> Self {
        Self {
            unit: CatalogueEntry::of(&row.series.metric, true).unit,
            metric_name: row.series.metric,
            timestamp: row.time.to_string(),
            value: row.value,
            mig_instance: some(mig_instance),
            namespace: some(row.series.namespace),
            pod: some(row.series.pod),
            container: some(row.series.container),
        }
    }
}

/// The newest value of a metric of a GPU.
#[derive(Debug, Serialize, ToSchema)]
pub struct Latest {
    /// Edge cluster.
    pub cluster: String,
    /// Host.
    pub hostname: String,
    /// Index in the host.
    pub gpu_index: Option<u32>,
    /// UUID.
    pub uuid: String,
    /// The value.
    #[serde(flatten)]
    pub value: LatestValue,
}

impl From<LatestRow> for Latest {
    fn from(row: LatestRow) -> Self {
        let place = std::sync::Arc::clone(&row.place);
        Self {
            cluster: place.cluster.clone(),
            hostname: place.hostname.clone(),
            gpu_index: place.index,
            uuid: place.uuid.clone(),
            value: LatestValue::of(place.mig_instance.clone(), row),
        }
    }
}

/// A metric.
#[derive(Debug, Serialize, ToSchema)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Unit, empty for counts, ratios, states and masks; null where it is not known.
    pub unit: Option<&'static str>,
    /// What it says; null where it is not known.
    pub description: Option<&'static str>,
    /// gauge or counter; null where it is not known.
    pub kind: Option<&'static str>,
    /// Whether there are series of it here.
    pub stored: bool,
}

impl From<CatalogueEntry> for Metric {
    fn from(m: CatalogueEntry) -> Self {
        Self { name: m.name, unit: m.unit, description: m.description, kind: m.kind, stored: m.stored }
    }
}

/// One sample, or one step of a series. Written by hand in `rows`: this is its description.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    /// When; of a step its beginning.
    pub timestamp: String,
    /// Metric name.
    pub metric_name: String,
    /// The value; null where it is a sum that is greater than a 64-bit floating-point number can be (an overflow). No other aggregate
    /// overflows.
    #[schema(required)]
    pub value: Option<f64>,
    /// Workload, where there is one; so below.
    #[schema(nullable = false)]
    pub namespace: Option<String>,
    /// Pod.
    #[schema(nullable = false)]
    pub pod: Option<String>,
    /// Container.
    #[schema(nullable = false)]
    pub container: Option<String>,
    /// MIG slice, where the sample is of one.
    #[schema(nullable = false)]
    pub mig_instance: Option<String>,
}

/// One group in one step. Beside these it has the names it is grouped by.
#[derive(Debug, Serialize, ToSchema)]
pub struct Group {
    /// The step's beginning.
    pub timestamp: String,
    /// Metric name.
    pub metric_name: String,
    /// The group's value; null where it is a sum that is greater than a 64-bit floating-point number can be (an overflow). No other
    /// aggregate overflows.
    #[schema(required)]
    pub value: Option<f64>,
    /// GPUs that had samples.
    pub gpus: u64,
    /// Samples.
    pub samples: u64,
    /// The names it is grouped by: cluster, hostname, gpu_index, uuid, model, namespace, pod.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub group: serde_json::Map<String, serde_json::Value>,
}

impl Group {
    pub(super) fn of(row: AggregateRow, metric: &str) -> Self {
        let named = row.group.into_iter().map(|(name, value)| {
            let number = value.as_deref().filter(|_| name == "gpu_index").and_then(|text| text.trim().parse::<u32>().ok());
            (name.to_owned(), number.map_or_else(|| value.into(), Into::into))
        });
        Self {
            timestamp: row.time.to_string(),
            metric_name: metric.to_owned(),
            value: Some(row.value).filter(|value| value.is_finite()),
            gpus: row.gpus,
            samples: row.samples,
            group: named.collect(),
        }
    }
}

/// Queue and sources.
#[derive(Debug, Serialize, ToSchema)]
pub struct PipelineState {
    /// The queue's partitions; null where no queue is configured, or none of them answers.
    pub partitions: Option<Vec<Partition>>,
    /// Why none of them answers.
    pub queue_error: Option<&'static str>,
    /// The sources, by cluster, name and id.
    pub sources: Vec<Source>,
    /// Give it as `cursor` for the next page of sources; null on the last one.
    pub next_cursor: Option<String>,
    /// What they come to in each cluster.
    pub clusters: Vec<SourceCluster>,
    /// The standby that this and all answers are read from; null where they are read from the primary.
    pub standby: Option<Standby>,
}

/// A database server that follows another one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Standby {
    /// How far the answers are behind, at most; null where that is not known.
    pub behind_seconds: Option<f64>,
}

/// A partition of the queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct Partition {
    /// Its number.
    pub partition: u16,
    /// Why it does not say how it is; only there where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<&'static str>,
    /// Batches not yet acknowledged; null where it does not say.
    pub backlog: Option<u64>,
    /// Of those, the ones that a collector has read; null where it does not say.
    pub pending: Option<u64>,
    /// Age of the oldest; null when nothing waits.
    pub oldest_age_seconds: Option<f64>,
    /// Who reads it: of each consumer group those that were heard of last.
    pub consumers: Vec<Consumer>,
}

/// A consumer of a partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct Consumer {
    /// Its consumer group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Batches that it has read and not acknowledged.
    pub pending: u64,
    /// How long ago it was heard of.
    pub idle_seconds: f64,
}

/// A source.
#[derive(Debug, Serialize, ToSchema)]
pub struct Source {
    /// Its id.
    pub source: String,
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Rows that the queue has accepted; null where its partition does not say.
    pub published: Option<u64>,
    /// Rows stored, now or before.
    pub stored: u64,
    /// Of those, the ones that were there already.
    pub duplicate: u64,
    /// Of those, the ones that came when samples of their time were not kept any more, and were not stored.
    pub expired: u64,
    /// Rows in dead letters.
    pub dead: u64,
    /// Rejected rows by reason.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub rejected: std::collections::BTreeMap<&'static str, u64>,
    /// Last commit; null where there was none.
    pub last_commit: Option<String>,
    /// Time of the newest sample.
    pub newest_sample: Option<String>,
}

/// The sources of a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceCluster {
    /// Its name.
    pub cluster: String,
    /// Sources.
    pub sources: u64,
    /// Rows stored.
    pub stored: u64,
    /// Rejected rows by reason.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub rejected: std::collections::BTreeMap<&'static str, u64>,
    /// Last commit; null where there was none.
    pub last_commit: Option<String>,
    /// Time of the newest sample.
    pub newest_sample: Option<String>,
    /// Age of the newest sample.
    pub freshness_seconds: Option<f64>,
}

impl From<Pipeline> for PipelineState {
    fn from(p: Pipeline) -> Self {
        let consumer = |c: crate::query::PipelineConsumer| Consumer {
            group: c.group,
            name: c.name,
            pending: c.pending,
            idle_seconds: seconds(c.idle),
        };
        let partition = |p: crate::query::PipelinePartition| {
            let error = p.state.as_ref().err().copied();
            let backlog = p.state.ok();
            Partition {
                partition: p.partition.number(),
                error,
                backlog: backlog.as_ref().map(|b| b.entries),
                pending: backlog.as_ref().map(|b| b.pending),
                oldest_age_seconds: backlog.as_ref().and_then(|b| b.oldest).map(seconds),
                consumers: backlog.into_iter().flat_map(|b| b.consumers).map(consumer).collect(),
            }
        };
        Self {
            partitions: p.partitions.map(|some| some.into_iter().map(partition).collect()),
            queue_error: p.queue_error,
            sources: p.sources.into_iter().map(Source::from).collect(),
            next_cursor: p.next,
            clusters: p.clusters.into_iter().map(SourceCluster::from).collect(),
            standby: p.standby.map(|standby| Standby { behind_seconds: standby.behind.map(seconds) }),
        }
    }
}

impl From<PipelineSource> for Source {
    fn from(s: PipelineSource) -> Self {
        Self {
            source: s.source,
            cluster: s.cluster,
            name: s.name,
            published: s.published,
            stored: s.stored,
            duplicate: s.duplicate,
            expired: s.expired,
            dead: s.dead,
            rejected: s.rejected,
            last_commit: s.last_commit.map(|time| time.to_string()),
            newest_sample: s.newest_sample.map(|time| time.to_string()),
        }
    }
}

impl From<PipelineCluster> for SourceCluster {
    fn from(c: PipelineCluster) -> Self {
        Self {
            cluster: c.cluster,
            sources: c.sources,
            stored: c.stored,
            rejected: c.rejected,
            last_commit: c.last_commit.map(|time| time.to_string()),
            newest_sample: c.newest_sample.map(|time| time.to_string()),
            freshness_seconds: c.freshness.map(seconds),
        }
    }
}

/// A duration in seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
