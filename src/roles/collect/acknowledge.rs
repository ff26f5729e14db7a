//! What is committed is counted, and acknowledged to the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::context::CollectContext;
use crate::batch::{Batch, Header};
use crate::model::{Reason, TimeMs};
use crate::protocol::receipts::{Acknowledgement, Unacknowledged};
use crate::retry::drawn;
use crate::runtime::observe::{self, Component, Direction};
use crate::store::{Committed, Incoming};

/// How long a writer waits for acknowledgements before it takes the next group.
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_millis(250);

/// Counts what was committed.
pub(super) fn count_committed(context: &CollectContext, group: &[Incoming], committed: &Committed) {
    observe::rows_stored(committed.stored.values().sum());
    observe::batches(Direction::Committed, group.len() as u64);
    observe::rows_duplicate(committed.duplicate);
    observe::rows_expired(committed.expired);
    observe::conflicts(committed.conflict);
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
pub(super) async fn acknowledge_group(context: &Arc<CollectContext>, acknowledgements: Vec<Acknowledgement<String>>) {
    let mut tasks = Vec::new();
    for acknowledgement in acknowledgements {
        let context = context.clone();
        let (done, waits) = oneshot::channel();
        context.lifecycle.clone().spawn("acknowledge", async move {
            acknowledge(&context, acknowledgement).await;
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

/// Acknowledges what is stored. A failure is no loss: what is delivered again is found stored.
pub(super) async fn acknowledge(context: &CollectContext, mut acknowledgement: Acknowledgement<String>) {
    loop {
        let Acknowledgement { partition, receipts, settled, .. } = &acknowledgement;
        let Err(error) = context.queue.acknowledge(*partition, receipts.clone(), settled).await else {
            context.receipts().acknowledged(&acknowledgement);
            return;
        };
        let next = context.receipts().not_acknowledged(&mut acknowledgement);
        let Acknowledgement { partition, receipts, .. } = &acknowledgement;
        match next {
            Unacknowledged::Again(rest) => {
                tracing::debug!(%partition, attempt = acknowledgement.failures(), %error, "acknowledging to Redis");
                tokio::time::sleep(drawn(rest)).await;
            }
            Unacknowledged::LetGo(redelivery) => {
                tracing::warn!(
                    %partition,
                    entries = receipts.len(),
                    "stored entries could not be acknowledged; they are read and acknowledged again: {error}"
                );
                context.queue.let_go(*partition, receipts, redelivery);
                return;
            }
        }
    }
}
