//! One partition: deliveries are read, decoded, and handed on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{MutexGuard, mpsc};

use super::context::{CollectContext, Ready};
use super::decode::{self, DecodeFailure};
use super::held_back::Obstacle;
use super::suspect::{Failed, Failing};
use crate::model::Partition;
use crate::protocol::receipts::{Arrival, Event, Step};
use crate::retry::{Backoff, drawn};
use crate::transport::{Delivery, TransportError};

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
                    context.receipts().delivered(deliveries.iter().map(arrival));
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

/// What counts of a delivery.
fn arrival(delivery: &Delivery) -> Arrival<String> {
    let withheld = delivery.withheld.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Arrival {
        receipt: delivery.receipt.clone(),
        bytes: withheld.unwrap_or(delivery.payload.len()),
        redelivered: delivery.redelivered,
        oversize: delivery.oversize.is_some(),
        withheld: withheld.is_some(),
    }
}

/// Fetches the payload of a delivery that came without it, one at a time of all partitions: who has it holds the turn.
async fn fetch<'a>(
    context: &'a CollectContext,
    delivery: &mut Delivery,
) -> Result<(Event, Option<MutexGuard<'a, ()>>), TransportError> {
    let turn = tokio::select! {
        turn = context.rereading.lock() => turn,
        () = context.lifecycle.draining().cancelled_owned() => return Ok((Event::Interrupted, None)),
    };
    match context.queue.payload(delivery).await {
        Ok(Some(payload)) => {
            (delivery.payload, delivery.withheld) = (payload, None);
            Ok((Event::Fetched, Some(turn)))
        }
        // It is somebody else's by now.
        Ok(None) => Ok((Event::Asked(Some(false)), None)),
        Err(error) if error.is_transient() => {
            tracing::debug!(partition = %delivery.receipt.partition, %error, "fetching a large payload from Redis");
            Ok((Event::QueueAway, None))
        }
        Err(error) => Err(error),
    }
}

/// Decodes a delivery and hands it on; `false` when the process is to end. Only what is healthy is waited for: what failed goes to
/// tasks of its own, and a queue of those that is full is no reason to wait.
async fn hand_on(context: &Arc<CollectContext>, mut delivery: Delivery, outlets: &Outlets) -> anyhow::Result<bool> {
    let (withheld, mut turn) = (delivery.withheld, None);
    let mut step = context.happened(&delivery.receipt, Event::TakenUp);
    loop {
        let (next, decoded) = decode::decode(context, &delivery, step).await?;
        match (next, decoded) {
            (Step::Offer, Some(Ok(ready))) => return Ok(outlets.ready.send(ready).await.is_ok()),
            (Step::FetchPayload, _) => {
                let event;
                (event, turn) = fetch(context, &mut delivery).await?;
                step = context.happened(&delivery.receipt, event);
            }
            (Step::Rest(rest), _) => {
                // Others have their turn meanwhile.
                if turn.take().is_some() {
                    (delivery.payload, delivery.withheld) = (Bytes::new(), withheld);
                }
                let event = if context.rest(drawn(rest)).await { Event::Rested } else { Event::Interrupted };
                step = context.happened(&delivery.receipt, event);
            }
            (Step::HoldBack, Some(Err(DecodeFailure::UnknownVersion(error)))) => {
                context.hold_back(&delivery.receipt, &Obstacle::UnknownVersion(error));
                return Ok(true);
            }
            (Step::Bury(grounds), decoded) => {
                let found = decoded.and_then(Result::err).and_then(DecodeFailure::fault);
                let fault = decode::fault_of(&delivery, grounds, found)?;
                return Ok(outlets.failing.bury(context, Failed { delivery, fault }).await);
            }
            (next @ (Step::Judge | Step::LetGo(_)), Some(Err(DecodeFailure::Doubtful(fault)))) => {
                outlets.failing.doubt(context, Failed { delivery, fault }, next)?;
                return Ok(true);
            }
            (Step::Fail, Some(Err(DecodeFailure::Queue(error)))) => return Err(error.into()),
            (Step::Gone, _) => return Ok(true),
            // The process is to end.
            (Step::Nothing, _) => return Ok(false),
            (next, _) => return Err(decode::lost(next)),
        }
    }
}
