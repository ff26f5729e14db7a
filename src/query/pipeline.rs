//! How the pipeline is: what waits in the queue, and how far each source is.

use std::collections::{BTreeMap, HashMap};

use super::{Query, Result};
use crate::model::{Partition, SourceId, now_ms};

/// Consumers of each group that are listed for a partition.
const CONSUMERS: usize = 32;

/// Queue and sources.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// Partitions; `None` where no queue is configured or it does not answer.
    pub partitions: Option<Vec<PipelinePartition>>,
    /// Why there are none.
    pub queue_error: Option<String>,
    /// Sources.
    pub sources: Vec<PipelineSource>,
    /// Clusters.
    pub clusters: Vec<PipelineCluster>,
}

/// One partition of the queue.
#[derive(Clone, Debug)]
pub struct PipelinePartition {
    /// Its number.
    pub partition: Partition,
    /// Batches not yet acknowledged.
    pub backlog: u64,
    /// Of those, the ones that a collector has read.
    pub pending: u64,
    /// Age of the oldest, ms; `None` when nothing waits.
    pub oldest_ms: Option<u64>,
    /// Consumers of each group that were heard of last.
    pub consumers: Vec<PipelineConsumer>,
}

/// Who reads a partition.
#[derive(Clone, Debug)]
pub struct PipelineConsumer {
    /// Its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Batches that it has read and not acknowledged.
    pub pending: u64,
    /// How long ago it was heard of, ms.
    pub idle_ms: u64,
}

/// One source.
#[derive(Clone, Debug)]
pub struct PipelineSource {
    /// Its id.
    pub source: String,
    /// Its cluster.
    pub cluster: String,
    /// Its name for people.
    pub name: String,
    /// Rows that the queue has accepted; `None` where the queue does not say.
    pub published: Option<u64>,
    /// Rows that are stored (now or before).
    pub stored: u64,
    /// Of those, the ones that were there already.
    pub duplicate: u64,
    /// Rejected rows by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Rows in dead letters.
    pub dead: u64,
    /// Last commit, ms.
    pub last_commit_ms: i64,
    /// Time of the newest sample, ms.
    pub newest_sample_ms: Option<i64>,
}

/// What the sources of a cluster come to.
#[derive(Clone, Debug, Default)]
pub struct PipelineCluster {
    /// Its name.
    pub cluster: String,
    /// Sources.
    pub sources: u64,
    /// Rows stored.
    pub stored: u64,
    /// Rows rejected, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Last commit, ms.
    pub last_commit_ms: i64,
    /// Time of the newest sample, ms.
    pub newest_sample_ms: Option<i64>,
    /// How old that is, ms.
    pub freshness_ms: Option<i64>,
}

impl Query {
    /// Queue and sources. A queue that does not answer is said; the store must.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn pipeline(&self) -> Result<Pipeline> {
        let (partitions, published, queue_error) = match self.queue_state().await {
            Ok((partitions, published)) => (partitions, published, None),
            Err(error) => (None, HashMap::new(), Some(error.to_string())),
        };
        let now = now_ms();
        let mut clusters: BTreeMap<String, PipelineCluster> = BTreeMap::new();
        let mut sources = Vec::new();
        for ledger in self.reader.ledger().await? {
            let rejected: BTreeMap<&'static str, u64> = ledger.rejected.iter().map(|(reason, n)| (reason.name(), *n)).collect();
            let cluster = clusters
                .entry(ledger.cluster.clone())
                .or_insert_with(|| PipelineCluster { cluster: ledger.cluster.clone(), ..PipelineCluster::default() });
            cluster.sources += 1;
            cluster.stored += ledger.valid;
            for (reason, n) in &rejected {
                *cluster.rejected.entry(reason).or_default() += n;
            }
            cluster.last_commit_ms = cluster.last_commit_ms.max(ledger.last_commit_ms);
            cluster.newest_sample_ms = cluster.newest_sample_ms.max(ledger.newest_sample_ms);
            cluster.freshness_ms = cluster.newest_sample_ms.map(|newest| now - newest);
            sources.push(PipelineSource {
                source: ledger.source.to_string(),
                cluster: ledger.cluster,
                name: ledger.name,
                published: published.get(&ledger.source).copied(),
                stored: ledger.valid,
                duplicate: ledger.duplicate,
                rejected,
                dead: ledger.dead.minus(&ledger.covered).len(),
                last_commit_ms: ledger.last_commit_ms,
                newest_sample_ms: ledger.newest_sample_ms,
            });
        }
        Ok(Pipeline { partitions, queue_error, sources, clusters: clusters.into_values().collect() })
    }

    async fn queue_state(&self) -> Result<(Option<Vec<PipelinePartition>>, HashMap<SourceId, u64>)> {
        let Some(queue) = &self.queue else { return Ok((None, HashMap::new())) };
        let (mut partitions, mut published) = (Vec::new(), HashMap::new());
        for partition in queue.partitions() {
            let state = queue.look(partition, CONSUMERS).await?;
            let (backlog, mut consumers) = (state.backlog, Vec::new());
            for group in state.groups {
                consumers.extend(group.latest.into_iter().map(|one| PipelineConsumer {
                    group: group.name.clone(),
                    name: one.name,
                    pending: one.pending,
                    idle_ms: one.idle_ms,
                }));
            }
            partitions.push(PipelinePartition {
                partition,
                backlog: backlog.entries,
                pending: backlog.pending,
                oldest_ms: (backlog.entries > 0).then_some(backlog.oldest_ms),
                consumers,
            });
            published.extend(queue.sources(partition).await?.into_iter().map(|s| (s.source, s.position.map_or(0, |p| p.row))));
        }
        Ok((Some(partitions), published))
    }
}
