//! Batches that fail for a reason of their own: noted, tried again, and buried as dead letters where people find them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::reader::{Fault, decode};
use super::{Ready, Shared, writer};
use crate::batch;
use crate::model::DictionaryId;
use crate::retry::Backoff;
use crate::runtime::observe;
use crate::store::{DeadLetter, StoreError};
use crate::transport::Delivery;

/// Between two tries.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// A delivery that failed.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) delivery: Delivery,
    pub(super) reason: String,
}

/// What became of a suspect.
enum Verdict {
    /// It is stored, buried, or no longer in the queue.
    Settled,
    /// The process is to end; the delivery stays pending and the next consumer finds it.
    Left,
}

/// Starts the task that looks after suspects, one at a time: they are rare, and the others must not wait for them.
pub(super) fn start(shared: &Arc<Shared>, mut doubted: mpsc::Receiver<Suspect>) {
    let shared = shared.clone();
    shared.lifecycle.clone().spawn("suspects", async move {
        while let Some(suspect) = tokio::select! {
            suspect = doubted.recv() => suspect,
            () = shared.lifecycle.draining().cancelled_owned() => None,
        } {
            let receipt = suspect.delivery.receipt.clone();
            let verdict = judge(&shared, suspect).await?;
            shared.in_hand.remove(&[receipt]);
            if matches!(verdict, Verdict::Left) {
                break;
            }
        }
        Ok(())
    });
}

async fn judge(shared: &Shared, suspect: Suspect) -> anyhow::Result<Verdict> {
    let Suspect { delivery, mut reason } = suspect;
    let receipt = &delivery.receipt;
    // A stream that was flushed and made anew may use an id again: the rows are part of the name.
    let entry = format!("{}/{}/{}/{}", receipt.partition, receipt.entry, delivery.source, delivery.rows);
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    loop {
        if !writer::still_queued(shared, receipt).await {
            tracing::info!(%entry, %reason, "a batch that failed is no longer in Redis; its streamer sends it again");
            return Ok(Verdict::Settled);
        }
        let Some(failures) = writer::with_store(shared, || shared.store.note_failure(&entry, &reason)).await? else {
            return Ok(Verdict::Left);
        };
        if failures >= shared.config.collect.dead_after {
            return bury(shared, &delivery, &entry, reason).await;
        }
        tracing::warn!(%entry, failures, %reason, "a batch failed; it is tried again");
        if !shared.rest(backoff.next()).await {
            return Ok(Verdict::Left);
        }
        match decode(shared, &delivery).await {
            Err(Fault::Batch(why)) => reason = why,
            Err(Fault::Queue(error)) if error.is_transient() => {}
            Err(Fault::Queue(error)) => return Err(error.into()),
            Ok(incoming) => {
                let group = [incoming];
                let committed = writer::with_store(shared, || async {
                    match shared.store.commit(&group).await {
                        Err(StoreError::BadBatch(why)) => Ok(Err(why)),
                        other => other.map(Ok),
                    }
                });
                match committed.await? {
                    None => return Ok(Verdict::Left),
                    Some(Err(why)) => reason = why,
                    Some(Ok(committed)) => {
                        writer::note(shared, &group, &committed);
                        writer::acknowledge(shared, vec![delivery.receipt.clone()], &committed.settled).await;
                        return Ok(Verdict::Settled);
                    }
                }
            }
        }
    }
}

async fn bury(shared: &Shared, delivery: &Delivery, entry: &str, reason: String) -> anyhow::Result<Verdict> {
    let letter = DeadLetter {
        id: 0,
        source: delivery.source,
        rows: delivery.rows,
        reason,
        payload: delivery.payload.clone(),
        dictionaries: named_dictionaries(shared, delivery).await,
        buried_ms: 0,
    };
    let Some(settled) = writer::with_store(shared, || shared.store.bury(&letter, entry)).await? else { return Ok(Verdict::Left) };
    observe::dead_letters(1);
    tracing::error!(
        source = %letter.source, rows = %letter.rows, reason = letter.reason,
        "a batch is now a dead letter; see `telemetry dead-letters list`"
    );
    writer::acknowledge(shared, vec![delivery.receipt.clone()], &[settled]).await;
    Ok(Verdict::Settled)
}

/// Those of the batch's dictionaries that can be found, so that the letter can be retried when the queue has forgotten them.
async fn named_dictionaries(shared: &Shared, delivery: &Delivery) -> Vec<(DictionaryId, bytes::Bytes)> {
    let Ok(batch) = batch::decode(&delivery.payload) else { return Vec::new() };
    let mut found = Vec::new();
    for &digest in &batch.header.dictionaries {
        if let Ok(mut known) = shared.dictionaries.resolve(&*shared.queue, delivery.receipt.partition, &[digest]).await
            && let Some(known) = known.pop()
        {
            found.push((digest, known.bytes));
        }
    }
    found
}

/// The delivery that a ready batch came from, for judging it when the store refuses it.
pub(super) fn suspect(ready: Ready, reason: String) -> Suspect {
    let Ready { receipt, incoming, payload } = ready;
    let batch = incoming.batch();
    Suspect { delivery: Delivery { receipt, source: batch.header.source, rows: batch.rows, payload }, reason }
}
