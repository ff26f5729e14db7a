//! What is committed is counted, and acknowledged to the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::context::CollectContext;
use crate::batch::{Batch, Header};
use crate::model::{Reason, SourceId, TimeMs};
use crate::retry::Backoff;
use crate::runtime::observe::{self, Component, Direction};
use crate::store::{Committed, Incoming};
use crate::transport::{Receipt, Redelivery};

/// How often an acknowledgement is tried before it is left to redelivery, which finds the rows stored.
const ACKNOWLEDGE_TRIES: u32 = 5;
/// How long a writer waits for acknowledgements before it takes the next group.
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_millis(250);

/// Counts what was committed.
pub(super) fn count_committed(context: &CollectContext, group: &[Incoming], committed: &Committed) {
    observe::rows_stored(committed.stored.values().sum());
    observe::batches(Direction::Committed, group.len() as u64);
    observe::rows_duplicate(committed.duplicate);
    let now = TimeMs::now();
    for incoming in group {
        reject_counts(incoming.batch());
        let header = &incoming.batch().header;
        observe::latency(
            &header.cluster,
            &context.config.cluster,
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
pub(super) async fn acknowledge_group(context: &Arc<CollectContext>, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) {
    let mut by_partition = BTreeMap::<_, Vec<Receipt>>::new();
    for receipt in receipts {
        by_partition.entry(receipt.partition).or_default().push(receipt);
    }
    let mut tasks = Vec::new();
    for receipts in by_partition.into_values() {
        let (context, settled) = (context.clone(), settled.to_vec());
        let (done, waits) = oneshot::channel();
        context.lifecycle.clone().spawn("acknowledge", async move {
            acknowledge(&context, receipts, &settled).await;
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
pub(super) async fn acknowledge(context: &CollectContext, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) {
    let mut by_partition = BTreeMap::<_, Vec<Receipt>>::new();
    for receipt in &receipts {
        by_partition.entry(receipt.partition).or_default().push(receipt.clone());
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for (partition, receipts) in by_partition {
        let partitions = context.queue.partitions();
        let settled: Vec<_> = settled.iter().filter(|(source, _)| source.partition(partitions) == partition).copied().collect();
        let mut failed = false;
        for attempt in 1..=ACKNOWLEDGE_TRIES {
            let Err(error) = context.queue.acknowledge(partition, receipts.clone(), &settled).await else { break };
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
        context.in_hand.remove(&receipts);
        if failed {
            context.queue.let_go(partition, &receipts, Redelivery::AtOnce);
        }
    }
}

/// Whether an entry is still in the queue; `true` also where the queue cannot be asked.
pub(super) async fn still_queued(context: &CollectContext, receipt: &Receipt) -> bool {
    context.queue.contains(receipt).await.unwrap_or(true)
}
