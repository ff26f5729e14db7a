//! How the pipeline is: what waits in the queue, and how far each source is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::{Page, Params, PipelineParams, Query, Result, cursor, lists};
use crate::model::{Partition, SourceId, TimeMs};
use crate::store::SourceLedger;
use crate::transport::{Inspector, TransportError};

/// Consumers of each group that are listed for a partition.
const CONSUMERS: usize = 32;
/// How long a partition may take to answer. Those that do not, do not hold up the others.
const PARTITION_TIMEOUT: Duration = Duration::from_secs(2);
/// Partitions that are asked at the same time.
const PARTITIONS_AT_ONCE: usize = 128;

/// Queue and sources.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// Partitions; `None` where no queue is configured or none of them answers.
    pub partitions: Option<Vec<PipelinePartition>>,
    /// Why none of them answers.
    pub queue_error: Option<&'static str>,
    /// A page of sources, by cluster, name and id.
    pub sources: Vec<PipelineSource>,
    /// Where the list of sources goes on.
    pub next: Option<String>,
    /// Clusters.
    pub clusters: Vec<PipelineCluster>,
}

/// One partition of the queue.
#[derive(Clone, Debug)]
pub struct PipelinePartition {
    /// Its number.
    pub partition: Partition,
    /// How it is; else why it does not say.
    pub state: std::result::Result<PartitionBacklog, &'static str>,
}

/// What waits in a partition, and who reads it.
#[derive(Clone, Debug, Default)]
pub struct PartitionBacklog {
    /// Batches not yet acknowledged.
    pub entries: u64,
    /// Of those, the ones that a collector has read.
    pub pending: u64,
    /// Age of the oldest of them; `None` when nothing waits.
    pub oldest: Option<Duration>,
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
    /// How long ago it was heard of.
    pub idle: Duration,
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
    /// Rows that the queue has accepted; `None` where its partition does not answer.
    pub published: Option<u64>,
    /// Rows that are stored (now or before).
    pub stored: u64,
    /// Of those, the ones that were there already.
    pub duplicate: u64,
    /// Rejected rows by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Rows in dead letters.
    pub dead: u64,
    /// The last commit; `None` = never.
    pub last_commit: Option<TimeMs>,
    /// Time of the newest sample.
    pub newest_sample: Option<TimeMs>,
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
    /// The last commit; `None` = never.
    pub last_commit: Option<TimeMs>,
    /// Time of the newest sample.
    pub newest_sample: Option<TimeMs>,
    /// Age of the newest sample.
    pub freshness: Option<Duration>,
}

/// A checked question for queue and sources.
#[derive(Clone, Debug)]
pub struct PipelineRequest {
    limit: usize,
    after: Option<SourcePlace>,
}

/// Where a source stands in the list: cluster, name, id.
type SourcePlace = (String, String, String);

fn question() -> Vec<String> {
    vec!["pipeline".to_owned()]
}

impl PipelineRequest {
    /// `limit` and `cursor` of the list of sources.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse(mut params: Params, query: &Query) -> Result<Self> {
        let most = query.limits.max_page;
        let page: PipelineParams = params.take()?;
        params.end()?;
        // As many as there may be: who does not know that the list has pages gets all of what it had before it had them.
        let limit = page.limit.within("limit", 1, most as u64)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(most);
        let after = cursor::read_given(page.cursor.as_deref(), &lists::refs(&question()))?;
        Ok(Self { limit, after })
    }
}

impl Query {
    /// Queue and sources. Each partition answers for itself; the store must answer.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn pipeline(&self, request: &PipelineRequest) -> Result<Pipeline> {
        let ledger = self.reader.ledger().await?;
        let now = TimeMs::now();
        let clusters = clusters(&ledger, now);
        let place = |one: &SourceLedger| (one.cluster.clone(), one.name.clone(), one.source.to_string());
        let mut places: Vec<(SourcePlace, SourceLedger)> = ledger.into_iter().map(|one| (place(&one), one)).collect();
        places.retain(|(place, _)| request.after.as_ref().is_none_or(|after| place > after));
        places.sort_by(|(one, _), (other, _)| one.cmp(other));
        places.truncate(request.limit + 1);
        let limit = request.limit.min(lists::fitting(places.iter().map(|(_, one)| one.cluster.len() + one.name.len())));
        let Page { rows, next, .. } = lists::page(places, limit, &question(), |(place, _)| place.clone());
        let (mut partitions, mut published) = (None, HashMap::new());
        if let Some(queue) = &self.queue {
            let count = queue.partitions();
            let wanted: BTreeSet<Partition> = rows.iter().map(|(_, one)| one.source.partition(count)).collect();
            let ask = |partition| ask(Arc::clone(queue), partition, wanted.contains(&partition));
            let answers: Vec<_> = stream::iter(count).map(ask).buffered(PARTITIONS_AT_ONCE).collect().await;
            let mut list = Vec::with_capacity(answers.len());
            for (partition, answer) in answers {
                published.extend(answer.sources);
                list.push(PipelinePartition { partition, state: answer.state });
            }
            partitions = Some(list);
        }
        // One that answers is enough to tell them apart.
        let queue_error = match &partitions {
            Some(list) if list.iter().all(|one| one.state.is_err()) => {
                list.iter().find_map(|one| one.state.as_ref().err().copied())
            }
            _ => None,
        };
        let sources = rows.into_iter().map(|(_, ledger)| source(ledger, &published)).collect();
        Ok(Pipeline { partitions: partitions.filter(|_| queue_error.is_none()), queue_error, sources, next, clusters })
    }
}

fn clusters(ledger: &[SourceLedger], now: TimeMs) -> Vec<PipelineCluster> {
    let mut clusters: BTreeMap<&str, PipelineCluster> = BTreeMap::new();
    for one in ledger {
        let cluster = clusters
            .entry(&one.cluster)
            .or_insert_with(|| PipelineCluster { cluster: one.cluster.clone(), ..PipelineCluster::default() });
        cluster.sources += 1;
        cluster.stored += one.valid;
        for (reason, n) in &one.rejected {
            *cluster.rejected.entry(reason.name()).or_default() += n;
        }
        cluster.last_commit = cluster.last_commit.max(one.last_commit);
        cluster.newest_sample = cluster.newest_sample.max(one.newest_sample);
        cluster.freshness = cluster.newest_sample.map(|newest| now.since(newest));
    }
    clusters.into_values().collect()
}

fn source(ledger: SourceLedger, published: &HashMap<SourceId, u64>) -> PipelineSource {
    PipelineSource {
        source: ledger.source.to_string(),
        published: published.get(&ledger.source).copied(),
        stored: ledger.valid,
        duplicate: ledger.duplicate,
        rejected: ledger.rejected.iter().map(|(reason, n)| (reason.name(), *n)).collect(),
        dead: ledger.dead.minus(&ledger.covered).len(),
        last_commit: ledger.last_commit,
        newest_sample: ledger.newest_sample,
        cluster: ledger.cluster,
        name: ledger.name,
    }
}

/// What a partition says: how it is, and how many rows of its sources it has accepted.
struct PartitionAnswer {
    state: std::result::Result<PartitionBacklog, &'static str>,
    sources: Vec<(SourceId, u64)>,
}

async fn ask(queue: Arc<dyn Inspector>, partition: Partition, with_sources: bool) -> (Partition, PartitionAnswer) {
    let asked = async {
        let sources = async { if with_sources { queue.sources(partition).await } else { Ok(Vec::new()) } };
        tokio::try_join!(queue.look(partition, CONSUMERS), sources)
    };
    let answer = match tokio::time::timeout(PARTITION_TIMEOUT, asked).await {
        Err(_) => Err("no answer in time"),
        Ok(Err(error)) => {
            tracing::debug!(partition = partition.number(), %error, "a partition does not say how it is");
            Err(brief(&error))
        }
        Ok(Ok(answer)) => Ok(answer),
    };
    let answer = match answer {
        Err(reason) => PartitionAnswer { state: Err(reason), sources: Vec::new() },
        Ok((state, sources)) => {
            let (backlog, mut consumers) = (state.backlog, Vec::new());
            for group in state.groups {
                consumers.extend(group.latest.into_iter().map(|one| PipelineConsumer {
                    group: group.name.to_string(),
                    name: one.name,
                    pending: one.pending,
                    idle: Duration::from_millis(one.idle_ms),
                }));
            }
            let state = PartitionBacklog {
                entries: backlog.entries,
                pending: backlog.pending,
                oldest: (backlog.entries > 0).then_some(Duration::from_millis(backlog.oldest_ms)),
                consumers,
            };
            let sources = sources.into_iter().map(|s| (s.source, s.position.map_or(0, |p| p.row))).collect();
            PartitionAnswer { state: Ok(state), sources }
        }
    };
    (partition, answer)
}

/// What anybody may know of an error of the queue: no host, no name.
fn brief(error: &TransportError) -> &'static str {
    match error {
        TransportError::Unavailable { .. } => "Redis is unavailable",
        TransportError::Full { .. } => "Redis is full",
        TransportError::Refused { .. } => "Redis rejects this server: telemetry check says why",
        TransportError::Mismatch(_) => "the queue was made with other settings: telemetry check says which",
        TransportError::Local(_) => "the queue cannot keep its file",
        TransportError::Corrupt(_) | TransportError::Blocked { .. } => {
            "the queue holds something that it should not: telemetry check says what"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, Partitions};
    use crate::query::Limits;
    use crate::query::stub::{Stub, StubQueue};

    fn query(sources: u8, away: Vec<u16>, silent: Option<u16>) -> Query {
        let ledger = (0..sources)
            .map(|n| SourceLedger {
                cluster: format!("edge-{}", n % 2),
                ..SourceLedger::empty(SourceId::from_digest(Digest::of(&[n])))
            })
            .collect();
        let queue = StubQueue { partitions: Partitions::new(4).unwrap(), away, silent };
        Query::new(Arc::new(Stub { ledger, ..Stub::default() }), Some(Arc::new(queue)), Limits::default())
    }

    fn request(query: &Query, text: &str) -> PipelineRequest {
        PipelineRequest::parse(Params::parse(Some(text)).unwrap(), query).unwrap()
    }

    #[tokio::test]
    async fn each_partition_answers_for_itself() {
        let query = query(9, vec![2], Some(3));
        let pipeline = query.pipeline(&request(&query, "")).await.unwrap();
        let states: Vec<_> = pipeline.partitions.unwrap().into_iter().map(|one| one.state.err()).collect();
        assert_eq!(states, [None, None, Some("Redis is unavailable"), Some("no answer in time")]);
        assert_eq!((pipeline.queue_error, pipeline.sources.len()), (None, 9));
    }

    #[tokio::test]
    async fn where_no_partition_answers_it_is_said_once() {
        let query = query(1, vec![0, 1, 2, 3], None);
        let pipeline = query.pipeline(&request(&query, "")).await.unwrap();
        assert!(pipeline.partitions.is_none());
        assert_eq!(pipeline.queue_error, Some("Redis is unavailable"));
    }

    #[tokio::test]
    async fn sources_have_pages_and_never_is_not_1970() {
        let query = query(9, Vec::new(), None);
        let (mut seen, mut text) = (BTreeSet::new(), "limit=4".to_owned());
        loop {
            let pipeline = query.pipeline(&request(&query, &text)).await.unwrap();
            assert!(pipeline.sources.len() <= 4);
            assert_eq!(pipeline.clusters.iter().map(|one| one.sources).sum::<u64>(), 9, "of all, whatever the page");
            assert!(pipeline.clusters.iter().all(|one| one.last_commit.is_none()));
            assert!(pipeline.sources.iter().all(|one| one.last_commit.is_none()));
            seen.extend(pipeline.sources.into_iter().map(|one| one.source));
            let Some(next) = pipeline.next else { break };
            text = format!("limit=4&cursor={next}");
        }
        assert_eq!(seen.len(), 9);
    }
}
