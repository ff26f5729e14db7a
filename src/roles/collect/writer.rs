//! Groups of waiting batches: committed in one transaction, acknowledged then.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc};

use super::acknowledge::{acknowledge_group, count_committed};
use super::context::{CollectContext, Ready};
use super::decode::lost;
use super::held_back::Obstacle;
use super::store_access::{Refusal, try_commit};
use super::suspect::{Failing, failed};
use crate::protocol::receipts::{Refused, Step};
use crate::runtime::observe;

/// Commits groups until the readers have ended and nothing waits.
pub(super) async fn run(
    context: Arc<CollectContext>,
    waiting: Arc<Mutex<mpsc::Receiver<Ready>>>,
    failing: Failing,
) -> anyhow::Result<()> {
    while let Some(group) = gather(&context, &waiting).await {
        if !commit(&context, group, &failing).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The next group: whatever waits, up to `group_rows`, after a short wait for more.
async fn gather(context: &CollectContext, waiting: &Mutex<mpsc::Receiver<Ready>>) -> Option<Vec<Ready>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut rows = first.incoming.batch().rows.len();
    let mut group = vec![first];
    let until = tokio::time::Instant::now() + context.config.collect.group_wait;
    while rows < context.config.collect.group_rows as u64 {
        let Ok(Some(next)) = tokio::time::timeout_at(until, waiting.recv()).await else { break };
        rows += next.incoming.batch().rows.len();
        group.push(next);
    }
    Some(group)
}

/// Commits a group; `false` when the process is to end before that could be done (the batches stay pending).
async fn commit(context: &Arc<CollectContext>, group: Vec<Ready>, failing: &Failing) -> anyhow::Result<bool> {
    let (mut receipts, mut rest, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    for ready in group {
        receipts.push(ready.receipt);
        rest.push((ready.payload, ready.memory));
        batches.push(ready.incoming);
    }
    let began = Instant::now();
    match try_commit(context, &batches).await? {
        None => {
            context.receipts().abandoned(&receipts);
            Ok(false)
        }
        Some(Ok(committed)) => {
            observe::commit(began.elapsed());
            count_committed(context, &batches, &committed);
            let acknowledgements = context.receipts().committed(&receipts, &committed.settled);
            acknowledge_group(context, acknowledgements).await;
            Ok(true)
        }
        Some(Err(refusal)) => {
            let refused = context.receipts().refused(&receipts, refusal.kind());
            let group: Vec<Ready> = receipts
                .into_iter()
                .zip(rest)
                .zip(batches)
                .map(|((receipt, (payload, memory)), incoming)| Ready { receipt, incoming, payload, memory })
                .collect();
            go_on(context, group, refused, refusal, failing).await
        }
    }
}

/// Goes on with a group that the store does not take; `false` when the process is to end before each could be committed alone.
async fn go_on(
    context: &Arc<CollectContext>,
    mut group: Vec<Ready>,
    refused: Refused,
    refusal: Refusal,
    failing: &Failing,
) -> anyhow::Result<bool> {
    match (refused, refusal) {
        (Refused::Parted, _) => {
            for ready in group {
                if !Box::pin(commit(context, vec![ready], failing)).await? {
                    return Ok(false);
                }
            }
        }
        (Refused::One(Step::HoldBack), Refusal::DamagedChunk(error)) => {
            context.hold_back(&group.remove(0).receipt, &Obstacle::DamagedChunk(error));
        }
        (Refused::One(step), Refusal::BadBatch(reason)) => failing.doubt(context, failed(group.remove(0), reason), step)?,
        (Refused::One(step), Refusal::DamagedChunk(_)) => return Err(lost(step)),
    }
    Ok(true)
}
