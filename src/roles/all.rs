//! `telemetry all`: streamer, collector and server in one process. Without REDIS_URL the queue is inside the process; without
//! DATABASE_URL the store is in a directory.
//!
//! The shutdown is ordered: the streamer stops reading and finishes what it has sent, the collector stores what waits, then all end.

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

/// Name of the file in the data directory that remembers which content is which source.
const SOURCES: &str = "sources";
/// What /readyz calls what is streamed.
const INPUT: &str = "input";
/// How often the shutdown checks whether the queue is empty.
const DRAINED_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The queue, through its three interfaces.
struct Queue {
    publisher: Arc<dyn Publisher>,
    consumer: Arc<dyn Consumer>,
    inspector: Arc<dyn Inspector>,
    name: &'static str,
    /// Whether the queue is lost when the process ends, so that its content must be stored before.
    ends_with_us: bool,
}

/// The store, through its two interfaces.
struct OpenStore {
    store: Arc<dyn Store>,
    reader: Arc<dyn Reader>,
}

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    // Configuration errors are reported before anything starts.
    config.http()?;
    let work = if config.stream.csv.is_empty() {
        tracing::warn!("nothing to stream (--csv is not given): only what is stored already is served");
        None
    } else {
        Some(stream::Work::look(&config).await?)
    };
    let opened = open_store(&config, &lifecycle)?;
    let Some(queue) = open_queue(&config, &lifecycle).await? else { return Ok(Exit::Done) };

    let store_name = opened.store.kind().name();
    let later = lifecycle.drained_later();
    let collecting = tokio::spawn(collect::run_with(
        config.clone(),
        later.clone(),
        (queue.consumer.clone(), queue.inspector.clone()),
        opened.store,
    ));
    let serving = {
        let (config, lifecycle, inspector) = (config.clone(), lifecycle.clone(), queue.inspector.clone());
        tokio::spawn(async move { serve::run_with(&config, &lifecycle, "reading", opened.reader, Some(inspector)).await })
    };
    let streaming = {
        let names = stream::Names { queue: queue.name, store: store_name };
        tokio::spawn(stream_all(work, config.clone(), lifecycle.clone(), queue.publisher, names))
    };
    let mut collecting = RoleTask::of("the collector", collecting);
    let mut serving = RoleTask::of("the server", serving);
    let mut streaming = RoleTask::of("the streamer", streaming);

    // Runs until it is told to drain, or until a part ends that must not end.
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
    streamed
}

/// Waits for the streamer, and returns its result. The streamer may itself wait for the collector, so a failure of another part ends
/// the wait and is returned instead.
async fn while_others_work(
    streaming: &mut RoleTask,
    collecting: &mut RoleTask,
    serving: &mut RoleTask,
) -> anyhow::Result<anyhow::Result<Exit>> {
    tokio::select! {
        streamed = streaming.exit() => Ok(streamed),
        failed = collecting.failed() => failed.map(|()| Ok(Exit::Done)),
        failed = serving.failed() => failed.map(|()| Ok(Exit::Done)),
    }
}

/// Streams the input, if there is any. An error of a source is logged, /readyz has it until the end, and the exit code is 1; what is stored
/// can still be queried.
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
            tracing::error!("{error:#}; rows that were already streamed are stored and served");
            lifecycle.health().set(INPUT, Err(format!("{error:#}; the log names the file and the reason")));
            Ok(Exit::Failed)
        }
        // What was interrupted goes on when it is started again.
        Ok(_) => Ok(Exit::Done),
    }
}

fn is_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<ConfigError>())
}

/// Opens the configured store, else one in the data directory.
fn open_store(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<OpenStore> {
    if config.postgres.url.is_some() {
        let store = Arc::new(PostgresStore::connect(&super::postgres(config)?)?);
        certificates::watch_store(lifecycle, &store);
        let reader = match config.store.read_url {
            Some(_) => Arc::new(PostgresStore::connect(&super::postgres_to_read(config)?)?),
            None => store.clone(),
        };
        return Ok(OpenStore { store, reader });
    }
    let directory = &config.data.dir;
    let store = Arc::new(SqliteStore::open(directory)?);
    tracing::info!(directory = %directory.display(), "DATABASE_URL is not set: rows are stored in this directory");
    Ok(OpenStore { store: store.clone(), reader: store })
}

/// Opens the configured queue, else one inside the process; `None` when the process is told to end before.
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

/// The file that remembers sources. Creates its directory, which the embedded store does not do where PostgreSQL is used.
fn registry(config: &Config) -> anyhow::Result<std::path::PathBuf> {
    let directory: &Path = &config.data.dir;
    std::fs::create_dir_all(directory)
        .map_err(|error| {
            ConfigError::usage(format!(
                "data.dir ({}): {} cannot be created: {error}",
                config.origin("data.dir"),
                directory.display()
            ))
        })
        .context("without REDIS_URL, a directory is needed to remember sources")?;
    Ok(directory.join(SOURCES))
}

/// Waits until everything in the queue is stored.
async fn all_stored(queue: &dyn Inspector) {
    loop {
        let mut waiting = 0;
        for partition in queue.partitions() {
            // A partition that does not answer counts as not empty.
            waiting += queue.backlog(partition).await.map_or(1, |backlog| backlog.entries);
        }
        if waiting == 0 {
            return;
        }
        tokio::time::sleep(DRAINED_POLL_INTERVAL).await;
    }
}

/// The task of one role in this process.
struct RoleTask {
    name: &'static str,
    task: Option<tokio::task::JoinHandle<anyhow::Result<Exit>>>,
    exit: Exit,
}

impl RoleTask {
    fn of(name: &'static str, task: tokio::task::JoinHandle<anyhow::Result<Exit>>) -> Self {
        Self { name, task: Some(task), exit: Exit::Done }
    }

    /// Waits until the task ends; returns at once if its end was awaited before.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        self.exit = ended.with_context(|| format!("internal error: {} panicked", self.name))??;
        Ok(())
    }

    /// Waits until the task ends, and says how it ended.
    async fn exit(&mut self) -> anyhow::Result<Exit> {
        self.ended().await?;
        Ok(self.exit)
    }

    /// Waits until the task fails; never returns if it ends without an error.
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
