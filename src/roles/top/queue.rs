//! Reads the state of the queue from Redis: what waits in each partition, for which group, and the progress of each source.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use super::Connection;
use crate::model::{GroupId, Partition, Partitions, SourceId};
use crate::roles::groups::MAX_CONSUMERS;
use crate::transport::redis::{Node, RedisTransport};
use crate::transport::{Inspector, PartitionState, SourceState, TransportError};

/// Number of rates that are kept for the curve.
const HISTORY: usize = 120;

/// The state of a source in the queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QueuedSource {
    /// Rows that the queue has accepted.
    pub(super) published: u64,
    /// The row up to which, from 0, everything is stored.
    pub(super) committed: u64,
    pub(super) partition: Partition,
    /// Rows published per second.
    pub(super) rate: Option<f64>,
    /// Rows committed per second.
    committed_rate: Option<f64>,
    at: Instant,
    round: u64,
}

/// The last known state of a partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PartitionSeen {
    /// Address of the server that holds the partition; empty before the first answer.
    pub(super) address: String,
    /// The last answer; `None` before the first one.
    pub(super) state: Option<PartitionState>,
    /// Why the last read failed.
    pub(super) error: Option<String>,
    /// Batches published per second.
    pub(super) rate: Option<f64>,
    /// Time of the last answer.
    pub(super) at: Option<Instant>,
}

/// The last known state of a Redis server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeSeen {
    pub(super) connection: Connection,
    /// The last answer; `None` before the first one.
    pub(super) node: Option<Node>,
    pub(super) partitions: Vec<Partition>,
}

/// The last known state of the queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QueueSeen {
    /// Name of the group of this configuration.
    pub(super) group: GroupId,
    pub(super) count: Partitions,
    pub(super) partitions: Vec<PartitionSeen>,
    /// The servers, by address.
    pub(super) nodes: BTreeMap<String, NodeSeen>,
    pub(super) sources: HashMap<SourceId, QueuedSource>,
    /// Whether every source has been read once.
    pub(super) complete: bool,
    /// Rows published per second, all sources together.
    pub(super) published: Option<f64>,
    /// Rows committed per second, all sources together.
    pub(super) committed: Option<f64>,
    /// The last rates of published rows per second.
    pub(super) history: Vec<u64>,
}

#[cfg(test)]
impl QueuedSource {
    /// A source for tests.
    pub(super) fn fixed(published: u64, rate: f64, at: Instant) -> Self {
        Self { published, committed: 0, partition: Partition::FIRST, rate: Some(rate), committed_rate: None, at, round: 0 }
    }
}

impl QueueSeen {
    /// Whether any partition answered the last read.
    pub(super) fn answers(&self) -> bool {
        self.partitions.iter().any(|partition| partition.error.is_none())
    }
}

/// Reads the state of the queue, and keeps it for the rates.
pub(super) struct QueueLooker {
    queue: Arc<RedisTransport>,
    /// The round through the sources of each partition.
    rounds: Vec<Round>,
    seen: QueueSeen,
}

/// A round through the sources of a partition: each look reads one page.
#[derive(Clone, Default)]
struct Round {
    /// Cursor of the next page; empty at the end of a round.
    cursor: String,
    number: u64,
    /// When the previous round began: a source that it did not contain is newer.
    before: Option<Instant>,
    began: Option<Instant>,
}

/// The answer of one partition, or the error and the address of the partition.
type Answer = Result<(PartitionState, Node, Vec<SourceState>, String), (TransportError, Option<String>)>;

impl QueueLooker {
    pub(super) fn new(queue: Arc<RedisTransport>) -> Self {
        let count = Inspector::partitions(&*queue);
        let partitions = usize::from(count.count());
        let seen = QueueSeen {
            group: queue.group().to_owned(),
            count,
            partitions: vec![PartitionSeen::default(); partitions],
            nodes: BTreeMap::new(),
            sources: HashMap::new(),
            complete: false,
            published: None,
            committed: None,
            history: Vec::new(),
        };
        Self { queue, rounds: vec![Round::default(); partitions], seen }
    }

    /// The last known state.
    pub(super) fn seen(&self) -> QueueSeen {
        self.seen.clone()
    }

    /// Reads until every source has been read again.
    pub(super) async fn look_whole(&mut self) {
        let done = |looker: &Self| looker.rounds.iter().all(|round| round.cursor.is_empty());
        self.look().await;
        while !done(self) && self.seen.answers() {
            self.look().await;
        }
    }

    /// Reads every partition, and the next page of its sources.
    pub(super) async fn look(&mut self) {
        let ask = |(partition, round): (Partition, &Round)| {
            let (queue, mut cursor) = (self.queue.clone(), round.cursor.clone());
            async move {
                let looked = async {
                    let state = queue.look(partition, MAX_CONSUMERS).await?;
                    let node = queue.node(partition).await?;
                    let sources = queue.some_sources(partition, &mut cursor).await?;
                    Ok((state, node, sources))
                };
                match looked.await {
                    Ok((state, node, sources)) => Ok((state, node, sources, cursor)),
                    // The other nodes of a cluster know the address of one that is away.
                    Err(error) => Err((error, queue.address(partition).await)),
                }
            }
        };
        let said: Vec<Answer> = join_all(self.seen.count.iter().zip(&self.rounds).map(ask)).await;
        let now = Instant::now();
        let mut nodes: BTreeMap<String, (Result<Node, String>, Vec<Partition>)> = BTreeMap::new();
        for (partition, said) in self.seen.count.iter().zip(said) {
            let place = &mut self.seen.partitions[partition.index()];
            let said = match said {
                Ok((state, node, sources, cursor)) => {
                    place.see(state, &node, now);
                    Ok((node, sources, cursor))
                }
                Err((error, address)) => {
                    place.address = address.unwrap_or_else(|| std::mem::take(&mut place.address));
                    Err(reason(error))
                }
            };
            place.error = said.as_ref().err().cloned();
            let address = if place.address.is_empty() { self.queue.endpoint().to_owned() } else { place.address.clone() };
            let node = match said {
                Ok((node, sources, cursor)) => {
                    self.take(partition, sources, cursor, now);
                    Ok(node)
                }
                Err(why) => Err(why),
            };
            let (known, partitions) = nodes.entry(address).or_insert_with(|| (node.clone(), Vec::new()));
            partitions.push(partition);
            // If one of its partitions answers, the server does.
            if node.is_ok() {
                *known = node;
            }
        }
        self.see_nodes(nodes, now);
        self.sum();
    }

    /// Takes a page of sources. The rate of a source is the difference to its previous read, however long ago that was.
    fn take(&mut self, partition: Partition, sources: Vec<SourceState>, cursor: String, now: Instant) {
        let round = &mut self.rounds[partition.index()];
        round.began.get_or_insert(now);
        let known = &mut self.seen.sources;
        for source in sources {
            let published = source.position.map_or(0, |position| position.row);
            let (old, since) = match known.get(&source.source) {
                Some(before) => ((before.published, before.committed), Some(before.at)),
                None => ((0, 0), round.before),
            };
            let per_second = |new: u64, old: u64| {
                let passed = now.duration_since(since?).as_secs_f64();
                // A source that was set back has no rate.
                (new >= old && passed > 0.0).then(|| (new - old) as f64 / passed)
            };
            let seen = QueuedSource {
                published,
                committed: source.committed,
                partition,
                rate: per_second(published, old.0),
                committed_rate: per_second(source.committed, old.1),
                at: now,
                round: round.number,
            };
            known.insert(source.source, seen);
        }
        if cursor.is_empty() {
            known.retain(|_, source| source.partition != partition || source.round == round.number);
            *round = Round { cursor, number: round.number + 1, before: round.began, began: None };
        } else {
            round.cursor = cursor;
        }
    }

    fn see_nodes(&mut self, said: BTreeMap<String, (Result<Node, String>, Vec<Partition>)>, now: Instant) {
        let mut before = std::mem::take(&mut self.seen.nodes);
        for (address, (node, partitions)) in said {
            let mut seen = before.remove(&address).unwrap_or_else(|| NodeSeen {
                connection: Connection::new(now),
                node: None,
                partitions: Vec::new(),
            });
            seen.partitions = partitions;
            match node {
                Ok(node) => {
                    seen.connection.note(Ok(node.round_trip), now);
                    seen.node = Some(node);
                }
                Err(why) => seen.connection.note(Err(why), now),
            }
            self.seen.nodes.insert(address, seen);
        }
    }

    fn sum(&mut self) {
        let seen = &mut self.seen;
        seen.complete = self.rounds.iter().all(|round| round.number > 0);
        let sum = |rate: fn(&QueuedSource) -> Option<f64>| {
            let rates: Vec<f64> = seen.sources.values().filter_map(rate).collect();
            (!rates.is_empty() || seen.sources.is_empty()).then(|| rates.iter().sum::<f64>())
        };
        (seen.published, seen.committed) =
            if seen.answers() { (sum(|s| s.rate), sum(|s| s.committed_rate)) } else { (None, None) };
        if seen.history.len() == HISTORY {
            seen.history.remove(0);
        }
        seen.history.push(seen.published.unwrap_or(0.0).round() as u64);
    }
}

impl PartitionSeen {
    fn see(&mut self, state: PartitionState, node: &Node, now: Instant) {
        let before = self.state.as_ref().and_then(|state| state.added).zip(self.at);
        self.rate = before.zip(state.added).and_then(|((old, at), new)| {
            let passed = now.duration_since(at).as_secs_f64();
            (new >= old && passed > 0.0).then(|| (new - old) as f64 / passed)
        });
        self.address.clone_from(&node.address);
        self.state = Some(state);
        self.at = Some(now);
    }
}

/// Why a partition did not answer, without the address, which is shown beside it.
fn reason(error: TransportError) -> String {
    match error {
        TransportError::Unavailable { reason, .. }
        | TransportError::Refused { reason, .. }
        | TransportError::Blocked { reason, .. } => reason,
        other => other.to_string(),
    }
}
