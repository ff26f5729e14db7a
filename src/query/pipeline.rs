//! How the pipeline is: what waits in the queue, and how far each source is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::budget::{Held, Lease, MAX_TEXT_BYTES, bytes_with, row_bytes};
use super::{Page, Params, PipelineParams, Query, Result, cursor, lists};
use crate::model::{Partition, SourceId, TimeMs};
use crate::store::{SourceLedger, Standby};
use crate::transport::{Inspector, TransportError};

/// Consumers of each group that are listed for a partition.
const CONSUMERS: usize = 32;
/// How long a partition may take to answer. Those that do not, do not hold up the others.
const PARTITION_TIMEOUT: Duration = Duration::from_secs(2);
/// Partitions that are asked at the same time.
const PARTITIONS_AT_ONCE: usize = 128;
/// Sources whose ledgers are read at once.
const SOURCES_AT_ONCE: usize = 1000;

/// Queue and sources.
#[derive(Debug, Default)]
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
    /// The standby that answers are read from; `None`: they are read from the primary.
    pub standby: Option<Standby>,
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
    /// Of those, the ones that came when samples of their time were not kept any more, and were not stored.
    pub expired: u64,
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
    /// Queue and sources, with the memory that they take. Each partition answers for itself; the store must answer.
    ///
    /// # Errors
    ///
    /// The store's; there is no memory for it.
    pub async fn pipeline(&self, request: &PipelineRequest) -> Result<(Pipeline, Lease)> {
        let mut lease = self.budget.page().await?;
        let Sources { clusters, rows, .. } = self.read_sources(request, &mut lease).await?;
        let limit = request.limit.min(lists::fitting(rows.keys().map(text_bytes)));
        let rows: Vec<_> = rows.into_iter().collect();
        let Page { rows, next, .. } = lists::page(rows, limit, &question(), |(place, _)| place.clone());
        let (mut partitions, mut published) = (None, HashMap::new());
        if let Some(queue) = &self.queue {
            let count = queue.partitions();
            let mut wanted: BTreeMap<Partition, HashSet<SourceId>> = BTreeMap::new();
            for (_, (id, _)) in &rows {
                wanted.entry(id.partition(count)).or_default().insert(*id);
            }
            let ask = |partition| ask(Arc::clone(queue), partition, wanted.get(&partition));
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
        let sources = rows.into_iter().map(|(_, (id, one))| PipelineSource { published: published.get(&id).copied(), ..one });
        let pipeline = Pipeline {
            partitions: partitions.filter(|_| queue_error.is_none()),
            queue_error,
            sources: sources.collect(),
            next,
            clusters: clusters.into_values().collect(),
            standby: self.reader.standby().await?,
        };
        Ok((pipeline, lease))
    }

    /// Reads the ledgers of all sources, some at a time, and keeps what the page shows.
    async fn read_sources(&self, request: &PipelineRequest, lease: &mut Lease) -> Result<Sources> {
        let now = TimeMs::now();
        let (mut sources, mut after) = (Sources::default(), None);
        loop {
            let limit = lease.next_read(SOURCES_AT_ONCE);
            let read = self.reader.ledger(after, limit).await?;
            lease.hold(Held::Series, sources.bytes + row_bytes(&read)).await?;
            let is_end = limit.is_end(&read);
            after = read.last().map(|one| one.source).or(after);
            for one in read {
                sources.add(one, request, now);
            }
            lease.hold(Held::Series, sources.bytes).await?;
            if is_end {
                return Ok(sources);
            }
        }
    }
}

/// What is kept of the ledgers that were read so far.
#[derive(Default)]
struct Sources {
    clusters: BTreeMap<String, PipelineCluster>,
    /// The first ones of the page, and one more, or as many as a page may have by their texts, and one more.
    rows: BTreeMap<SourcePlace, (SourceId, PipelineSource)>,
    texts: usize,
    /// Bytes of all of this.
    bytes: usize,
}

impl Sources {
    fn add(&mut self, ledger: SourceLedger, request: &PipelineRequest, now: TimeMs) {
        if !self.clusters.contains_key(&ledger.cluster) {
            self.bytes += bytes_with(2 * ledger.cluster.len());
            let cluster = PipelineCluster { cluster: ledger.cluster.clone(), ..PipelineCluster::default() };
            self.clusters.insert(ledger.cluster.clone(), cluster);
        }
        if let Some(cluster) = self.clusters.get_mut(&ledger.cluster) {
            cluster.sources += 1;
            cluster.stored += ledger.valid;
            for (reason, n) in &ledger.rejected {
                *cluster.rejected.entry(reason.name()).or_default() += n;
            }
            cluster.last_commit = cluster.last_commit.max(ledger.last_commit);
            cluster.newest_sample = cluster.newest_sample.max(ledger.newest_sample);
            cluster.freshness = cluster.newest_sample.map(|newest| now.since(newest));
        }
        let place = (ledger.cluster.clone(), ledger.name.clone(), ledger.source.to_string());
        if request.after.as_ref().is_some_and(|after| place <= *after) {
            return;
        }
        self.texts += text_bytes(&place);
        self.bytes += source_bytes(&place);
        self.rows.insert(place, (ledger.source, source(ledger)));
        // The last one only says that the list goes on.
        let is_too_long = |rows: &BTreeMap<SourcePlace, _>, texts| {
            let last = rows.last_key_value().map_or(0, |(place, _)| text_bytes(place));
            rows.len() > request.limit + 1 || rows.len() > 2 && texts - last > MAX_TEXT_BYTES
        };
        while is_too_long(&self.rows, self.texts) {
            let Some((place, _)) = self.rows.pop_last() else { break };
            self.texts -= text_bytes(&place);
            self.bytes -= source_bytes(&place);
        }
    }
}

fn text_bytes((cluster, name, _): &SourcePlace) -> usize {
    cluster.len() + name.len()
}

/// Bytes of a source that is kept: its texts are in its place, too.
fn source_bytes(place: &SourcePlace) -> usize {
    bytes_with(2 * text_bytes(place))
}

/// A source without what the queue says of it.
fn source(ledger: SourceLedger) -> PipelineSource {
    PipelineSource {
        source: ledger.source.to_string(),
        published: None,
        stored: ledger.valid,
        duplicate: ledger.duplicate,
        expired: ledger.expired,
        rejected: ledger.rejected.iter().map(|(reason, n)| (reason.name(), *n)).collect(),
        dead: ledger.dead.minus(&ledger.covered).len(),
        last_commit: ledger.last_commit,
        newest_sample: ledger.newest_sample,
        cluster: ledger.cluster,
        name: ledger.name,
    }
}

/// What a partition says: how it is, and how many rows of the sources of the page it has accepted.
struct PartitionAnswer {
    state: std::result::Result<PartitionBacklog, &'static str>,
    sources: Vec<(SourceId, u64)>,
}

async fn ask(
    queue: Arc<dyn Inspector>,
    partition: Partition,
    wanted: Option<&HashSet<SourceId>>,
) -> (Partition, PartitionAnswer) {
    let asked = async {
        let sources = async { if wanted.is_some() { queue.sources(partition).await } else { Ok(Vec::new()) } };
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
            let is_wanted = |source: &SourceId| wanted.is_some_and(|wanted| wanted.contains(source));
            let sources = sources.into_iter().filter(|s| is_wanted(&s.source));
            let sources = sources.map(|s| (s.source, s.position.map_or(0, |p| p.row))).collect();
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{Digest, Partitions};
    use crate::query::Limits;
    use crate::query::stub::{Stub, StubQueue};

    fn query(sources: u32, away: Vec<u16>, silent: Option<u16>) -> Query {
        let ledger = (0..sources)
            .map(|n| SourceLedger {
                cluster: format!("edge-{}", n % 2),
                ..SourceLedger::empty(SourceId::from_digest(Digest::of(&n.to_be_bytes())))
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
        let (pipeline, _) = query.pipeline(&request(&query, "")).await.unwrap();
        let states: Vec<_> = pipeline.partitions.unwrap().into_iter().map(|one| one.state.err()).collect();
        assert_eq!(states, [None, None, Some("Redis is unavailable"), Some("no answer in time")]);
        assert_eq!((pipeline.queue_error, pipeline.sources.len()), (None, 9));
    }

    #[tokio::test]
    async fn where_no_partition_answers_it_is_said_once() {
        let query = query(1, vec![0, 1, 2, 3], None);
        let (pipeline, _) = query.pipeline(&request(&query, "")).await.unwrap();
        assert!(pipeline.partitions.is_none());
        assert_eq!(pipeline.queue_error, Some("Redis is unavailable"));
    }

    #[tokio::test]
    async fn sources_have_pages_and_never_is_not_1970() {
        let query = query(9, Vec::new(), None);
        let (mut seen, mut text) = (BTreeSet::new(), "limit=4".to_owned());
        loop {
            let (pipeline, _) = query.pipeline(&request(&query, &text)).await.unwrap();
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

    #[tokio::test]
    async fn the_ledger_is_read_within_the_memory_for_answers() {
        let sources = |query: &Query| {
            let (query, request) = (query.clone(), request(query, "limit=10000"));
            async move { query.pipeline(&request).await.map(|(pipeline, lease)| (pipeline.sources.len(), pipeline.next, lease)) }
        };
        let limits = Limits { memory: 64 << 20, queue_timeout: Duration::from_millis(20), ..Limits::default() };
        let ledger = |cluster: &str, count: u32| -> Vec<_> {
            (0..count)
                .map(|n| SourceLedger {
                    cluster: cluster.to_owned(),
                    ..SourceLedger::empty(SourceId::from_digest(Digest::of(&n.to_be_bytes())))
                })
                .collect()
        };
        let query = Query::new(Arc::new(Stub { ledger: ledger("edge", 9000), ..Stub::default() }), None, limits);
        let (count, next, lease) = sources(&query).await.unwrap();
        assert_eq!((count, next), (9000, None));
        // As long as answers of this size are held, further ones wait for them.
        let mut held = vec![lease];
        while held.len() < 100 {
            let Ok((.., lease)) = sources(&query).await else { break };
            held.push(lease);
        }
        assert!(held.len() < 16, "{} answers of 4 MiB and more in 64 MiB", held.len());
        held.clear();
        sources(&query).await.unwrap();

        let query = Query::new(Arc::new(Stub { ledger: ledger(&"x".repeat(1 << 16), 90), ..Stub::default() }), None, limits);
        let (count, next, _) = sources(&query).await.unwrap();
        assert!((32..=64).contains(&count) && next.is_some(), "a page ends where its texts are long: {count}");
    }
}
