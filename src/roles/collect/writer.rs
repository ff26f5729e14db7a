//! Groups of waiting batches: committed in one transaction, acknowledged then.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot};

use super::held_back::Obstacle;
use super::suspect::{Failing, failed};
use super::{Ready, Shared, watch};
use crate::batch::{Batch, Header};
use crate::model::{Reason, SourceId, TimeMs};
use crate::retry::Backoff;
use crate::runtime::observe::{self, Component, Direction, Target};
use crate::store::{Committed, Incoming, StoreError};
use crate::transport::Receipt;

/// What /readyz calls what waits for the store to take it.
const STORING: &str = "storing";
/// How often an acknowledgement is tried before it is left to redelivery, which finds the rows stored.
const ACKNOWLEDGE_TRIES: u32 = 5;
/// How long a writer waits for acknowledgements before it takes the next group.
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_millis(250);

/// Commits groups until the readers have ended and nothing waits.
pub(super) async fn run(shared: Arc<Shared>, waiting: Arc<Mutex<mpsc::Receiver<Ready>>>, failing: Failing) -> anyhow::Result<()> {
    while let Some(group) = gather(&shared, &waiting).await {
        if !commit(&shared, group, &failing).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The next group: whatever waits, up to `group_rows`, after a short wait for more.
async fn gather(shared: &Shared, waiting: &Mutex<mpsc::Receiver<Ready>>) -> Option<Vec<Ready>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut rows = first.incoming.batch().rows.len();
    let mut group = vec![first];
    let until = tokio::time::Instant::now() + shared.config.collect.group_wait;
    while rows < shared.config.collect.group_rows as u64 {
        let Ok(Some(next)) = tokio::time::timeout_at(until, waiting.recv()).await else { break };
        rows += next.incoming.batch().rows.len();
        group.push(next);
    }
    Some(group)
}

/// Commits a group; `false` when the process is to end before that could be done (the batches stay pending).
async fn commit(shared: &Arc<Shared>, group: Vec<Ready>, failing: &Failing) -> anyhow::Result<bool> {
    let (mut receipts, mut rest, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    for ready in group {
        receipts.push(ready.receipt);
        rest.push((ready.payload, ready.memory));
        batches.push(ready.incoming);
    }
    let began = Instant::now();
    match try_commit(shared, &batches).await? {
        None => {
            shared.in_hand.remove(&receipts);
            Ok(false)
        }
        Some(Ok(committed)) => {
            observe::commit(began.elapsed());
            note(shared, &batches, &committed);
            acknowledge_group(shared, receipts, &committed.settled).await;
            Ok(true)
        }
        Some(Err(refusal)) => {
            let group: Vec<Ready> = receipts
                .into_iter()
                .zip(rest)
                .zip(batches)
                .map(|((receipt, (payload, memory)), incoming)| Ready { receipt, incoming, payload, memory })
                .collect();
            part(shared, group, refusal, failing).await
        }
    }
}

/// Why the store does not take a group, though it can be reached.
pub(super) enum Refusal {
    /// A batch of the group cannot be stored.
    BadBatch(String),
    /// What is stored already is damaged, so that nobody can say whether a batch is. Names the chunk.
    DamagedChunk(String),
}

/// Commits batches, as soon as the store answers; `None` when the process is to end first.
pub(super) async fn try_commit(shared: &Shared, batches: &[Incoming]) -> anyhow::Result<Option<Result<Committed, Refusal>>> {
    with_store(shared, || async {
        match shared.store.commit(batches).await {
            Err(StoreError::BadBatch(reason)) => Ok(Err(Refusal::BadBatch(reason))),
            Err(StoreError::DamagedChunk(error)) => Ok(Err(Refusal::DamagedChunk(error))),
            other => other.map(Ok),
        }
    })
    .await
}

/// One batch of a group cannot be stored: each is committed alone. One that is bad itself is doubted; one that only a damaged chunk
/// stands in the way of is held back, since it may well be good.
async fn part(shared: &Arc<Shared>, mut group: Vec<Ready>, refusal: Refusal, failing: &Failing) -> anyhow::Result<bool> {
    if group.len() == 1 {
        let ready = group.remove(0);
        match refusal {
            Refusal::BadBatch(reason) => failing.doubt(shared, failed(ready, reason)).await,
            Refusal::DamagedChunk(error) => shared.held_back.add(ready.receipt, &Obstacle::DamagedChunk(error)),
        }
        return Ok(true);
    }
    for ready in group {
        if !Box::pin(commit(shared, vec![ready], failing)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs something on the store until it answers; `None` when the process is to end first.
pub(super) async fn with_store<T, F>(shared: &Shared, attempt: impl Fn() -> F) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Shared::store_backoff();
    let mut away = false;
    loop {
        // A store that was away may come back as another one, or as an older one: that is found out before it is used again.
        let same = if away { watch::same_store(shared).await } else { Ok(()) };
        let error = match same {
            Err(error) => error,
            Ok(()) => match attempt().await {
                Ok(done) => {
                    if away {
                        tracing::info!("{} is back", shared.which.name());
                        observe::reconnect(Target::Postgres);
                        shared.lifecycle.health().set(STORING, Ok(()));
                    }
                    return Ok(Some(done));
                }
                Err(error) => error.into(),
            },
        };
        if !watch::is_transient(&error) {
            return Err(error);
        }
        if !away {
            tracing::warn!("waiting: {error:#}");
        }
        away = true;
        shared.lifecycle.health().set(STORING, Err(format!("waiting: {error:#}")));
        if !shared.rest(backoff.next()).await {
            return Ok(None);
        }
    }
}

/// Counts what was committed.
pub(super) fn note(shared: &Shared, group: &[Incoming], committed: &Committed) {
    observe::rows_stored(committed.stored.values().sum());
    observe::batches(Direction::Committed, group.len() as u64);
    observe::rows_duplicate(committed.duplicate);
    let now = TimeMs::now();
    for incoming in group {
        reject_counts(incoming.batch());
        let header = &incoming.batch().header;
        observe::latency(
            &header.cluster,
            &shared.config.cluster,
            Component::Collector,
            now.millis_since(header.created_ms) as f64 / 1000.0,
        );
    }
}

/// Counts what this collector rejected by its time; what a streamer rejects is counted there.
fn reject_counts(batch: &Batch) {
    for reason in [Reason::TimeInFuture, Reason::TimeTooOld] {
        let rows = batch.rejects.iter().filter(|reject| reject.reason == reason).count();
        if rows > 0 {
            observe::rows_rejected(reason, rows as u64);
            let Header { source, cluster, name, .. } = &batch.header;
            tracing::warn!(%source, cluster, name, rows, %reason, "rows were rejected: collect.max_future, collect.max_past");
        }
    }
}

/// Acknowledges a group, each partition in a task of its own: the node of one may be gone, and neither other partitions nor the next
/// group are to wait for it. A partition whose node is gone delivers nothing more, which bounds the tasks.
pub(super) async fn acknowledge_group(shared: &Arc<Shared>, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) {
    let mut by_partition = std::collections::BTreeMap::<_, Vec<Receipt>>::new();
    for receipt in receipts {
        by_partition.entry(receipt.partition).or_default().push(receipt);
    }
    let mut tasks = Vec::new();
    for receipts in by_partition.into_values() {
        let (shared, settled) = (shared.clone(), settled.to_vec());
        let (done, waits) = oneshot::channel();
        shared.lifecycle.clone().spawn("acknowledge", async move {
            acknowledge(&shared, receipts, &settled).await;
            // The writer may have gone on.
            let _ = done.send(());
            Ok(())
        });
        tasks.push(waits);
    }
    let until = tokio::time::Instant::now() + ACKNOWLEDGE_PATIENCE;
    for task in tasks {
        let _late = tokio::time::timeout_at(until, task).await;
    }
}

/// Acknowledges what is committed. A failure is no loss: what is delivered again is found stored.
pub(super) async fn acknowledge(shared: &Shared, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) {
    let mut by_partition = std::collections::BTreeMap::<_, Vec<Receipt>>::new();
    for receipt in &receipts {
        by_partition.entry(receipt.partition).or_default().push(receipt.clone());
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for (partition, receipts) in by_partition {
        let partitions = shared.queue.partitions();
        let settled: Vec<_> = settled.iter().filter(|(source, _)| source.partition(partitions) == partition).copied().collect();
        let mut failed = false;
        for attempt in 1..=ACKNOWLEDGE_TRIES {
            let Err(error) = shared.queue.acknowledge(partition, receipts.clone(), &settled).await else { break };
            if attempt == ACKNOWLEDGE_TRIES {
                tracing::warn!(
                    %partition,
                    entries = receipts.len(),
                    "stored entries could not be acknowledged; they are read and acknowledged again: {error}"
                );
                failed = true;
                break;
            }
            tracing::debug!(%partition, attempt, %error, "acknowledging to Redis");
            tokio::time::sleep(backoff.next()).await;
        }
        // First: what comes again has the same receipt, and is in hand again.
        shared.in_hand.remove(&receipts);
        if failed {
            shared.queue.redeliver(partition, &receipts);
        }
    }
}

/// Whether an entry is still in the queue; `true` also where the queue cannot be asked.
pub(super) async fn still_queued(shared: &Shared, receipt: &Receipt) -> bool {
    shared.queue.contains(receipt).await.unwrap_or(true)
}
