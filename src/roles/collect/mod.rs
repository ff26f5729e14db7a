//! `telemetry collect`: queue → store, until stopped.
//!
//! One reader a partition takes deliveries and decodes them, within a budget of memory that all share; a few writers gather what
//! waits into groups, commit each group in one transaction, and acknowledge it then. Nothing is acknowledged that is not committed. A
//! batch that fails for a reason of its own becomes a dead letter, at once or after it was tried again; one in a version of the format
//! that is not known stays in the queue. Neither holds up what is healthy.

mod decode;
mod dictionaries;
mod held_back;
mod memory;
mod reader;
mod suspect;
mod watch;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::roles::{certificates, link};
use crate::runtime::observe::Component;
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{Incoming, Store};
use crate::transport::redis::RedisTransport;
use crate::transport::{Consumer, Inspector, Receipt};

/// Decoded batches that wait for a writer, all partitions together.
const READY: usize = 8;
/// First and longest wait between attempts at a store that is away.
const STORE_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A decoded batch on its way to a writer.
#[derive(Debug)]
struct Ready {
    receipt: Receipt,
    incoming: Incoming,
    payload: bytes::Bytes,
    /// What it has of the budget of memory, until it is stored.
    memory: Vec<memory::Share>,
}

/// What readers and writers share.
struct Shared {
    config: Arc<Config>,
    lifecycle: Lifecycle,
    queue: Arc<dyn Consumer>,
    inspector: Arc<dyn Inspector>,
    store: Arc<dyn Store>,
    dictionaries: dictionaries::Cache,
    budget: memory::Budget,
    in_hand: InHand,
    held_back: held_back::HeldBack,
    /// Held while something is decoded that was delivered before.
    careful: tokio::sync::Mutex<()>,
}

/// The receipts of what this process works on, by partition and entry, so that their idle time can be kept low.
#[derive(Default)]
struct InHand(Mutex<HashMap<Partition, BTreeMap<String, Receipt>>>);

impl InHand {
    fn add(&self, receipt: &Receipt) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(receipt.partition).or_default().insert(receipt.entry.clone(), receipt.clone());
    }

    fn remove(&self, receipts: &[Receipt]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for receipt in receipts {
            if let Some(entries) = held.get_mut(&receipt.partition)
                // It may have been delivered again, over another connection.
                && entries.get(&receipt.entry) == Some(receipt)
            {
                entries.remove(&receipt.entry);
            }
        }
    }

    fn of(&self, partition: Partition) -> Vec<Receipt> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&partition).map(|entries| entries.values().cloned().collect()).unwrap_or_default()
    }
}

impl Shared {
    /// Sleeps, or gives up where the process is to end: `false`.
    async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.lifecycle.draining().cancelled_owned() => false,
        }
    }

    /// Lets entries go unacknowledged: they stay in the queue, and come again later.
    async fn put_back(&self, receipts: Vec<Receipt>) {
        self.in_hand.remove(&receipts);
        let mut by_partition: BTreeMap<Partition, Vec<Receipt>> = BTreeMap::new();
        for receipt in receipts {
            by_partition.entry(receipt.partition).or_default().push(receipt);
        }
        for (partition, receipts) in by_partition {
            // Without a connection nothing is held: a new one reads everything again.
            if let Err(error) = self.queue.put_back(partition, &receipts).await {
                tracing::debug!(%partition, %error, "putting entries back");
            }
        }
    }

    fn store_backoff() -> Backoff {
        Backoff::new(STORE_WAIT.0, STORE_WAIT.1)
    }
}

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    let store = Arc::new(PostgresStore::connect(&super::postgres(&config)?)?);
    certificates::watch_store(&lifecycle, &store);
    let redis = config.redis()?;
    lifecycle.health().set(Store::kind(&*store).health_check(), Err("not reached yet".into()));
    let Some(queue) = link::connect(&lifecycle, || RedisTransport::connect(&redis)).await? else { return Ok(Exit::Done) };
    let line = queue.clone();
    link::heartbeat(&lifecycle, &config.cluster, Component::Collector, move || {
        let line = line.clone();
        async move { Consumer::ping(&*line).await }
    });
    link::measure(&lifecycle, &queue);
    tracing::info!(
        partitions = %Consumer::partitions(&*queue),
        group = redis.group,
        consumer = redis.consumer,
        "collecting from Redis"
    );
    run_with(config, lifecycle, (queue.clone(), queue), store).await
}

/// Collects from a queue (two views of it) into a store.
pub(super) async fn run_with(
    config: Arc<Config>,
    lifecycle: Lifecycle,
    (queue, inspector): (Arc<dyn Consumer>, Arc<dyn Inspector>),
    store: Arc<dyn Store>,
) -> anyhow::Result<Exit> {
    lifecycle.health().set(store.kind().health_check(), Err("not reached yet".into()));
    let shared = Arc::new(Shared {
        dictionaries: dictionaries::Cache::default(),
        budget: memory::Budget::new(config.collect.max_memory),
        in_hand: InHand::default(),
        held_back: held_back::HeldBack::default(),
        careful: tokio::sync::Mutex::default(),
        queue,
        inspector,
        store,
        config,
        lifecycle: lifecycle.clone(),
    });
    if !watch::open_store(&shared).await? {
        return Ok(Exit::Done);
    }
    watch::store(&shared);

    let (ready, waiting) = mpsc::channel(READY);
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    watch::start(&shared);
    let failing = suspect::Failing::start(&shared);
    for partition in shared.queue.partitions() {
        reader::start(&shared, partition, reader::Outlets { ready: ready.clone(), failing: failing.clone() });
    }
    drop(ready);
    let mut writers = JoinSet::new();
    for _ in 0..shared.config.collect.writers {
        writers.spawn(writer::run(shared.clone(), waiting.clone(), failing.clone()));
    }
    // Its end is that of the task that buries.
    drop(failing);
    // A writer ends when the readers have ended and everything read is committed, or with what ends the role: whichever it is that
    // fails, and however long the others would go on.
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer ended unexpectedly")??;
    }
    leave(&shared).await;
    Ok(Exit::Done)
}

/// Takes this consumer out of the group, so that nobody waits for it; what it left pending keeps it there.
async fn leave(shared: &Shared) {
    for partition in shared.queue.partitions() {
        if let Err(error) = shared.queue.leave(partition).await {
            tracing::debug!(%partition, %error, "could not leave the consumer group");
            return;
        }
    }
}
