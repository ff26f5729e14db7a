//! One partition: deliveries are read, decoded, and handed on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::decode::{self, Failure};
use super::held_back::Obstacle;
use super::suspect::{Failed, Failing};
use super::{Ready, Shared};
use crate::model::Partition;
use crate::retry::Backoff;
use crate::transport::Delivery;

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
pub(super) fn start(shared: &Arc<Shared>, partition: Partition, outlets: Outlets) {
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
                    // All of them from now on: the last may have to wait for the first.
                    for delivery in &deliveries {
                        shared.in_hand.add(&delivery.receipt);
                    }
                    for delivery in deliveries {
                        if !hand_on(&shared, delivery, &outlets).await? {
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

/// Decodes a delivery and hands it on; `false` when the process is to end. Only what is healthy is waited for: what failed goes to
/// tasks of its own, and a queue of those that is full is no reason to wait.
async fn hand_on(shared: &Arc<Shared>, delivery: Delivery, outlets: &Outlets) -> anyhow::Result<bool> {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    loop {
        match decode::decode(shared, &delivery).await {
            Ok(ready) => return Ok(outlets.ready.send(ready).await.is_ok()),
            Err(Failure::Queue(error)) if error.is_transient() => {
                if !shared.rest(backoff.next()).await {
                    return Ok(false);
                }
            }
            Err(Failure::Queue(error)) => return Err(error.into()),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Ending) => return Ok(false),
            Err(Failure::UnknownVersion(error)) => {
                shared.held_back.add(delivery.receipt, &Obstacle::UnknownVersion(error));
                return Ok(true);
            }
            Err(Failure::Incurable(fault)) => return Ok(outlets.failing.bury(Failed { delivery, fault }).await),
            Err(Failure::Doubtful(fault)) => {
                outlets.failing.doubt(shared, Failed { delivery, fault }).await;
                return Ok(true);
            }
        }
    }
}
