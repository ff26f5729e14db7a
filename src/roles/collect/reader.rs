//! One partition: deliveries are read and decoded.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::dictionaries::Lack;
use super::suspect::Suspect;
use super::{Ready, Shared};
use crate::batch;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::store::Incoming;
use crate::transport::{Delivery, TransportError};

/// Starts the partition's reader.
pub(super) fn start(shared: &Arc<Shared>, partition: Partition, ready: mpsc::Sender<Ready>, suspects: mpsc::Sender<Suspect>) {
    let shared = shared.clone();
    shared.lifecycle.clone().spawn("reader", async move {
        let redis = &shared.config.redis;
        let mut backoff = Backoff::new(redis.reconnect_min, redis.reconnect_max);
        let draining = shared.lifecycle.draining();
        loop {
            let deliveries = tokio::select! {
                () = draining.cancelled() => return Ok(()),
                deliveries = shared.queue.receive(partition, shared.config.collect.max_deliveries) => deliveries,
            };
            match deliveries {
                Ok(deliveries) => {
                    backoff.reset();
                    // All of them at once: while the first waits for a writer, nobody is to claim the last.
                    shared.in_hand.add(deliveries.iter().map(|delivery| &delivery.receipt));
                    for delivery in deliveries {
                        if !pass(&shared, delivery, &ready, &suspects).await? {
                            return Ok(());
                        }
                    }
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%partition, %error, "reading from Redis");
                    if !shared.rest(backoff.next()).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
}

/// Decodes a delivery and hands it on; `false` when the process is to end.
async fn pass(
    shared: &Shared,
    delivery: Delivery,
    ready: &mpsc::Sender<Ready>,
    suspects: &mpsc::Sender<Suspect>,
) -> Result<bool, TransportError> {
    let mut backoff = Backoff::new(std::time::Duration::from_millis(100), std::time::Duration::from_secs(2));
    loop {
        match decode(shared, &delivery).await {
            Ok(incoming) => {
                let Delivery { receipt, payload, .. } = delivery;
                return Ok(ready.send(Ready { receipt, incoming, payload }).await.is_ok());
            }
            Err(Fault::Queue(error)) if error.is_transient() => {
                if !shared.rest(backoff.next()).await {
                    return Ok(false);
                }
            }
            Err(Fault::Queue(error)) => return Err(error),
            Err(Fault::Batch(reason)) => return Ok(suspects.send(Suspect { delivery, reason }).await.is_ok()),
        }
    }
}

/// Why a delivery did not become a batch.
pub(super) enum Fault {
    /// The queue could not be asked.
    Queue(TransportError),
    /// The batch itself.
    Batch(String),
}

/// Decodes a delivery with its dictionaries.
pub(super) async fn decode(shared: &Shared, delivery: &Delivery) -> Result<Incoming, Fault> {
    let batch = batch::decode(&delivery.payload).map_err(|e| Fault::Batch(e.to_string()))?;
    if batch.header.source != delivery.source || batch.rows != delivery.rows {
        let (source, rows) = (batch.header.source, batch.rows);
        return Err(Fault::Batch(format!(
            "the entry says rows {} of source {}, its batch says rows {rows} of source {source}",
            delivery.rows, delivery.source
        )));
    }
    let known = shared.dictionaries.resolve(&*shared.queue, delivery.receipt.partition, &batch.header.dictionaries).await;
    let known = known.map_err(|lack| match lack {
        Lack::Queue(error) => Fault::Queue(error),
        Lack::Missing(digest) => Fault::Batch(format!("its dictionary {digest} is not in the queue")),
        Lack::Damaged(error) => Fault::Batch(error.to_string()),
    })?;
    let dictionaries: Vec<_> = known.into_iter().map(|k| k.dictionary).collect();
    Incoming::new(batch, dictionaries).map_err(|e| Fault::Batch(e.to_string()))
}
