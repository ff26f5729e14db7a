//! `telemetry all`: streamer, collector and server in one process. What is not configured is built in: without REDIS_URL the queue is
//! in the process, without DATABASE_URL the store is in a directory.
//!
//! The end comes in order: the streamer takes nothing new and finishes what it sent, the collector stores what waits, then they end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{certificates, collect, link, serve, stream};
use crate::config::{Config, ConfigError};
use crate::model::Partitions;
use crate::runtime::observe::{self, Component};
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Reader, Store};
use crate::transport::memory::{MemoryTransport, Settings};
use crate::transport::redis::RedisTransport;
use crate::transport::{Consumer, Inspector, Publisher};

/// Which content is which source, beside the store.
const SOURCES: &str = "sources";
/// How often it is looked whether everything that waits is stored, in the end.
const LOOK: Duration = Duration::from_millis(20);

/// The queue from its three sides.
struct Queue {
    publisher: Arc<dyn Publisher>,
    consumer: Arc<dyn Consumer>,
    inspector: Arc<dyn Inspector>,
    name: &'static str,
    /// It ends with the process: what is in it must be stored before.
    ends_with_us: bool,
}

/// The store from its two sides.
struct OpenStore {
    store: Arc<dyn Store>,
    reader: Arc<dyn Reader>,
}

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    // What can be wrong is said before anything begins.
    config.http()?;
    let work = if config.stream.csv.is_empty() { None } else { Some(stream::Work::look(&config).await?) };
    let kept = open_store(&config, &lifecycle)?;
    let Some(queue) = open_queue(&config, &lifecycle).await? else { return Ok(Exit::Done) };

    let store_name = kept.store.kind().name();
    let later = lifecycle.drained_later();
    let collecting = tokio::spawn(collect::run_with(
        config.clone(),
        later.clone(),
        (queue.consumer.clone(), queue.inspector.clone()),
        kept.store,
    ));
    let serving = {
        let (config, lifecycle, inspector) = (config.clone(), lifecycle.clone(), queue.inspector.clone());
        tokio::spawn(async move { serve::run_with(&config, &lifecycle, "reading", kept.reader, Some(inspector)).await })
    };
    let streaming = {
        let names = stream::Names { queue: queue.name, store: store_name };
        tokio::spawn(stream_all(work, config.clone(), lifecycle.clone(), queue.publisher, names))
    };
    let mut collecting = RoleTask::of("the collector", collecting);
    let mut serving = RoleTask::of("the server", serving);
    let mut streaming = RoleTask::of("the streamer", streaming);

    // Until it is told to end, or something that must not end does.
    tokio::select! {
        () = lifecycle.draining().cancelled_owned() => {}
        ended = collecting.ended() => ended?,
        ended = serving.ended() => ended?,
        ended = streaming.failed() => ended?,
    }
    lifecycle.drain();
    let streamed = while_others_work(&mut streaming, &mut collecting, &mut serving).await?;
    if queue.ends_with_us {
        tokio::select! {
            () = all_stored(&*queue.inspector) => {}
            ended = collecting.ended() => ended?,
            failed = serving.failed() => failed?,
        }
    }
    later.drain();
    tokio::try_join!(collecting.ended(), serving.ended())?;
    streamed?;
    Ok(Exit::Done)
}

/// How the streamer ends. It may wait for what the collector stores: a failure of another part ends the wait, and is the outcome.
async fn while_others_work(
    streaming: &mut RoleTask,
    collecting: &mut RoleTask,
    serving: &mut RoleTask,
) -> anyhow::Result<anyhow::Result<()>> {
    tokio::select! {
        streamed = streaming.ended() => Ok(streamed),
        failed = collecting.failed() => failed.map(Ok),
        failed = serving.failed() => failed.map(Ok),
    }
}

/// Streams what there is. Sources that cannot be read keep nobody from reading what is stored: that is said, and the rest goes on.
async fn stream_all(
    work: Option<stream::Work>,
    config: Arc<Config>,
    lifecycle: Lifecycle,
    publisher: Arc<dyn Publisher>,
    names: stream::Names,
) -> anyhow::Result<Exit> {
    let Some(work) = work else { return Ok(Exit::Done) };
    let strict = config.stream.strict;
    match work.run(config, lifecycle.clone(), publisher, names).await {
        Err(error) if strict || lifecycle.draining().is_cancelled() || is_configuration(&error) => Err(error),
        Err(error) => {
            tracing::error!("{error:#}; what was streamed is stored and served");
            Ok(Exit::Done)
        }
        Ok(exit) => Ok(exit),
    }
}

fn is_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<ConfigError>())
}

/// The configured store, else one in the data directory.
fn open_store(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<OpenStore> {
    if config.postgres.url.is_some() {
        let store = Arc::new(PostgresStore::connect(&super::postgres(config)?)?);
        certificates::watch_store(lifecycle, &store);
        return Ok(OpenStore { store: store.clone(), reader: store });
    }
    let directory = &config.data.dir;
    let store = Arc::new(SqliteStore::open(directory)?);
    tracing::info!(directory = %directory.display(), "DATABASE_URL is not set: rows are kept in this directory");
    Ok(OpenStore { store: store.clone(), reader: store })
}

/// The configured queue, else one in the process; `None` when the process is to end first.
async fn open_queue(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<Option<Queue>> {
    if config.redis.url.is_some() {
        let redis = config.redis()?;
        let Some(queue) = link::connect(lifecycle, || RedisTransport::connect(&redis)).await? else { return Ok(None) };
        for component in [Component::Streamer, Component::Collector, Component::ApiGateway] {
            let line = queue.clone();
            link::heartbeat(lifecycle, &config.cluster, component, move || {
                let line = line.clone();
                async move { Consumer::ping(&*line).await }
            });
        }
        let (publisher, consumer, inspector) = (queue.clone(), queue.clone(), queue);
        return Ok(Some(Queue { publisher, consumer, inspector, name: "Redis", ends_with_us: false }));
    }
    let section = &config.redis;
    let settings = Settings {
        partitions: Partitions::new(section.partitions).unwrap_or(Partitions::ONE),
        max_backlog: section.max_backlog,
        max_bytes: config.data.queue_bytes,
        lease_ttl: section.lease_ttl,
        claim_idle: section.claim_idle,
        block: section.block,
        consumer: "all".to_owned(),
    };
    let sources = registry(config)?;
    let queue = MemoryTransport::open(settings, Some(&sources))
        .map_err(|error| ConfigError::usage(format!("data.dir ({}): {error}", config.origin("data.dir"))))?;
    observe::connection(&config.cluster, Component::Streamer, true);
    observe::connection(&config.cluster, Component::Collector, true);
    let (publisher, consumer, inspector) = (queue.clone(), queue.clone(), queue);
    Ok(Some(Queue { publisher, consumer, inspector, name: "the queue", ends_with_us: true }))
}

/// Where sources are remembered. With PostgreSQL nobody else has made the directory.
fn registry(config: &Config) -> anyhow::Result<std::path::PathBuf> {
    let directory: &Path = &config.data.dir;
    std::fs::create_dir_all(directory)
        .map_err(|error| {
            ConfigError::usage(format!(
                "data.dir ({}): {} cannot be made: {error}",
                config.origin("data.dir"),
                directory.display()
            ))
        })
        .context("it says which files are known, and is needed without REDIS_URL")?;
    Ok(directory.join(SOURCES))
}

/// Waits until nothing is in the queue that is not stored.
async fn all_stored(queue: &dyn Inspector) {
    loop {
        let mut waiting = 0;
        for partition in queue.partitions() {
            // What cannot be asked is not empty.
            waiting += queue.backlog(partition).await.map_or(1, |backlog| backlog.entries);
        }
        if waiting == 0 {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A part of the process, and how it ended.
struct RoleTask {
    name: &'static str,
    task: Option<tokio::task::JoinHandle<anyhow::Result<Exit>>>,
}

impl RoleTask {
    fn of(name: &'static str, task: tokio::task::JoinHandle<anyhow::Result<Exit>>) -> Self {
        Self { name, task: Some(task) }
    }

    /// Waits for its end. It ended before: at once.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended.with_context(|| format!("internal error: {} panicked", self.name))?.map(|_| ())
    }

    /// Waits for it to fail; that it ends well is no reason to return.
    async fn failed(&mut self) -> anyhow::Result<()> {
        self.ended().await?;
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(body: impl Future<Output = anyhow::Result<Exit>> + Send + 'static) -> RoleTask {
        RoleTask::of("a part", tokio::spawn(body))
    }

    #[tokio::test]
    async fn a_collector_that_fails_is_seen_while_the_streamer_waits_for_it() {
        let mut waiting = part(std::future::pending());
        let mut failing = part(async { anyhow::bail!("permission denied") });
        let mut done = part(async { Ok(Exit::Done) });
        let error = while_others_work(&mut waiting, &mut failing, &mut done).await.expect_err("the collector failed");
        assert_eq!(error.to_string(), "permission denied");
        let mut failing = part(async { anyhow::bail!("no port") });
        let mut waiting_too = part(std::future::pending());
        assert!(while_others_work(&mut waiting, &mut waiting_too, &mut failing).await.is_err());
    }
}
