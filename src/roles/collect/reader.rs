//! One partition: deliveries are read, decoded, and handed on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, mpsc};

use super::context::{CollectContext, Ready};
use super::decode::{self, DecodeFailure};
use super::held_back::Obstacle;
use super::suspect::{Failed, Failing};
use crate::model::Partition;
use crate::retry::Backoff;
use crate::transport::{Delivery, TransportError};

/// Between two tries to reach the queue for a delivery's dictionaries.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where a reader's deliveries go.
#[derive(Clone)]
pub(super) struct Outlets {
    /// To the writers.
    pub(super) ready: mpsc::Sender<Ready>,
    /// To those who look after what failed.
    pub(super) failing: Failing,
}

/// Starts the partition's reader.
pub(super) fn start(context: &Arc<CollectContext>, partition: Partition, outlets: Outlets) {
    let context = context.clone();
    context.lifecycle.clone().spawn("reader", async move {
        let redis = &context.config.redis;
        let mut backoff = Backoff::new(redis.reconnect_min, redis.reconnect_max);
        let draining = context.lifecycle.draining();
        loop {
            let deliveries = tokio::select! {
                () = draining.cancelled() => return Ok(()),
                deliveries = context.queue.receive(partition, context.config.collect.max_deliveries) => deliveries,
            };
            match deliveries {
                Ok(deliveries) => {
                    backoff.reset();
                    // All of them from now on: the last may have to wait for the first.
                    for delivery in &deliveries {
                        context.in_hand.add(&delivery.receipt);
                    }
                    for delivery in deliveries {
                        if !hand_on(&context, delivery, &outlets).await? {
                            return Ok(());
                        }
                    }
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%partition, %error, "reading from Redis");
                    if !context.rest(backoff.next()).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
}

/// A delivery with its payload.
enum Whole<'a> {
    /// It is here; large ones hold their turn.
    Here(Delivery, Option<MutexGuard<'a, ()>>),
    /// It is somebody else's by now.
    Gone,
    /// The process is to end.
    Ending,
}

/// Fetches the payload of a delivery that came without it, one at a time of all partitions.
async fn fetch_withheld<'a>(context: &'a CollectContext, delivery: &Delivery) -> Result<Whole<'a>, TransportError> {
    if delivery.withheld.is_none() {
        return Ok(Whole::Here(delivery.clone(), None));
    }
    let turn = tokio::select! {
        turn = context.rereading.lock() => turn,
        () = context.lifecycle.draining().cancelled_owned() => return Ok(Whole::Ending),
    };
    Ok(match context.queue.payload(&delivery.receipt).await? {
        Some(payload) => Whole::Here(Delivery { payload, withheld: None, ..delivery.clone() }, Some(turn)),
        None => Whole::Gone,
    })
}

/// Decodes a delivery and hands it on; `false` when the process is to end. Only what is healthy is waited for: what failed goes to
/// tasks of its own, and a queue of those that is full is no reason to wait.
async fn hand_on(context: &Arc<CollectContext>, delivery: Delivery, outlets: &Outlets) -> anyhow::Result<bool> {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    loop {
        let (delivery, turn) = match fetch_withheld(context, &delivery).await {
            Ok(Whole::Here(delivery, turn)) => (delivery, turn),
            Ok(Whole::Gone) => {
                context.in_hand.remove(&[delivery.receipt]);
                return Ok(true);
            }
            Ok(Whole::Ending) => return Ok(false),
            Err(error) if error.is_transient() => {
                tracing::debug!(partition = %delivery.receipt.partition, %error, "fetching a large payload from Redis");
                if !context.rest(backoff.next()).await {
                    return Ok(false);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match decode::decode(context, &delivery).await {
            Ok(ready) => return Ok(outlets.ready.send(ready).await.is_ok()),
            Err(DecodeFailure::Queue(error)) if error.is_transient() => {
                // Others have their turn meanwhile.
                drop((delivery, turn));
                if !context.rest(backoff.next()).await {
                    return Ok(false);
                }
            }
            Err(DecodeFailure::Queue(error)) => return Err(error.into()),
            Err(DecodeFailure::Store(error)) => return Err(error),
            Err(DecodeFailure::Ending) => return Ok(false),
            Err(DecodeFailure::UnknownVersion(error)) => {
                context.held_back.add(delivery.receipt, &Obstacle::UnknownVersion(error));
                return Ok(true);
            }
            Err(DecodeFailure::Incurable(fault)) => return Ok(outlets.failing.bury(Failed { delivery, fault }).await),
            Err(DecodeFailure::Doubtful(fault)) => {
                outlets.failing.doubt(context, Failed { delivery, fault }).await;
                return Ok(true);
            }
        }
    }
}
