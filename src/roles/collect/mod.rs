//! `telemetry collect`: queue → store, until stopped.
//!
//! One reader a partition takes deliveries and decodes them, within a budget of memory that all share; a few writers gather what
//! waits into groups, commit each group in one transaction, and acknowledge it then. Nothing is acknowledged that is not committed. A
//! batch that fails for a reason of its own becomes a dead letter, at once or after it was tried again; one in a version of the format
//! that is not known stays in the queue. Neither holds up what is healthy.

mod acknowledge;
mod context;
mod decode;
mod dictionaries;
mod held_back;
mod maintain;
mod memory;
mod reader;
mod store_access;
mod suspect;
mod watch;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::protocol::receipts::{Receipts, Settings};
use crate::roles::{certificates, link};
use crate::runtime::observe::Component;
use crate::runtime::{Exit, Lifecycle};
use crate::store::Store;
use crate::store::postgres::PostgresStore;
use crate::transport::redis::RedisTransport;
use crate::transport::{Consumer, Inspector};

use context::CollectContext;
pub(super) use store_access::{remedy, what_is_other};

/// Decoded batches that wait for a writer, all partitions together.
const READY: usize = 8;

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
        group = %redis.group,
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
    let settings =
        Settings { partitions: queue.partitions(), dead_after: config.collect.dead_after, claim_idle: config.redis.claim_idle };
    let context = Arc::new(CollectContext {
        dictionaries: dictionaries::Cache::default(),
        fetching: dictionaries::Fetching::default(),
        budget: memory::Budget::new(config.collect.max_memory),
        receipts: Mutex::new(Receipts::new(settings)),
        held_back: held_back::HeldBack::default(),
        began: Instant::now(),
        careful: tokio::sync::Mutex::default(),
        to_be_compared: AtomicBool::default(),
        rereading: tokio::sync::Mutex::default(),
        queue,
        inspector,
        store,
        config,
        lifecycle: lifecycle.clone(),
    });
    if !store_access::open_store(&context).await? {
        return Ok(Exit::Done);
    }
    store_access::watch(&context);

    let (ready, waiting) = mpsc::channel(READY);
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    watch::start(&context);
    maintain::start(&context);
    let failing = suspect::Failing::start(&context);
    for partition in context.queue.partitions() {
        reader::start(&context, partition, reader::Outlets { ready: ready.clone(), failing: failing.clone() });
    }
    drop(ready);
    let mut writers = JoinSet::new();
    for _ in 0..context.config.collect.writers {
        writers.spawn(writer::run(context.clone(), waiting.clone(), failing.clone()));
    }
    // Its end is that of the task that buries.
    drop(failing);
    // A writer ends when the readers have ended and everything read is committed, or with what ends the role: whichever it is that
    // fails, and however long the others would go on.
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer ended unexpectedly")??;
    }
    leave(&context).await;
    Ok(Exit::Done)
}

/// Takes this consumer out of the group, so that nobody waits for it; what it left pending keeps it there.
async fn leave(context: &CollectContext) {
    for partition in context.queue.partitions() {
        if let Err(error) = context.queue.leave(partition).await {
            tracing::debug!(%partition, %error, "could not leave the consumer group");
            return;
        }
    }
}
