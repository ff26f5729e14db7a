//! Groups of waiting batches: committed in one transaction, acknowledged then.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc};

use super::acknowledge::{acknowledge_group, count_committed};
use super::context::{CollectContext, Ready};
use super::held_back::Obstacle;
use super::store_access::{Refusal, try_commit};
use super::suspect::{Failing, failed};
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
            context.in_hand.remove(&receipts);
            Ok(false)
        }
        Some(Ok(committed)) => {
            observe::commit(began.elapsed());
            count_committed(context, &batches, &committed);
            acknowledge_group(context, receipts, &committed.settled).await;
            Ok(true)
        }
        Some(Err(refusal)) => {
            let group: Vec<Ready> = receipts
                .into_iter()
                .zip(rest)
                .zip(batches)
                .map(|((receipt, (payload, memory)), incoming)| Ready { receipt, incoming, payload, memory })
                .collect();
            part(context, group, refusal, failing).await
        }
    }
}

/// One batch of a group cannot be stored: each is committed alone. One that is bad itself is doubted; one that only a damaged chunk
/// stands in the way of is held back, since it may well be good.
async fn part(context: &Arc<CollectContext>, mut group: Vec<Ready>, refusal: Refusal, failing: &Failing) -> anyhow::Result<bool> {
    if group.len() == 1 {
        let ready = group.remove(0);
        match refusal {
            Refusal::BadBatch(reason) => failing.doubt(context, failed(ready, reason)).await,
            Refusal::DamagedChunk(error) => context.held_back.add(ready.receipt, &Obstacle::DamagedChunk(error)),
        }
        return Ok(true);
    }
    for ready in group {
        if !Box::pin(commit(context, vec![ready], failing)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
