//! `telemetry serve`: serves the content of the store over HTTP, until stopped. Redis is optional; where it is configured, the API
//! shows the state of the queue.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;

use super::certificates;
use crate::config::{Config, ConfigError, Http};
use crate::http::{self, Api, Server};
use crate::model::{Partition, Partitions, RowRange, SourceId};
use crate::query::{Limits, Query};
use crate::retry::Backoff;
use crate::runtime::observe::{self, Certificate, Component};
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{Reader, Standby, StoreError, StoreKind};
use crate::transport::redis::RedisTransport;
use crate::transport::{Backlog, Consumer, Inspector, PartitionState, SourceState, TransportError};

/// How often store and queue are checked. A server that is away shows after this time and the timeout of an attempt.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Timeout of an attempt.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    let store = Arc::new(PostgresStore::connect(&super::postgres_to_read(&config)?)?);
    certificates::watch_store(&lifecycle, &store);
    if config.store.read_url.is_some() {
        tracing::info!(endpoint = %store.endpoint(), "reading from store.read_url");
    }
    let store: Arc<dyn Reader> = store;
    // A refusal ends the role at once; a store that is away is waited for.
    if let Ok(Err(refused @ StoreError::Refused { .. })) = tokio::time::timeout(PATIENCE, store.ready()).await {
        return Err(refused.into());
    }
    let queue = match config.redis.url {
        Some(_) => Some(watch_queue(&config, &lifecycle)?),
        None => None,
    };
    run_with(&config, &lifecycle, StoreKind::Postgres.health_check(), store, queue).await
}

/// Serves the content of `store`. `name` is the name of the store in /readyz.
pub(super) async fn run_with(
    config: &Config,
    lifecycle: &Lifecycle,
    name: &'static str,
    store: Arc<dyn Reader>,
    queue: Option<Arc<dyn Inspector>>,
) -> anyhow::Result<Exit> {
    let settings = config.http()?;
    let query = Query::new(Arc::clone(&store), queue, limits(&settings));
    let router = http::router(Api::new(query), &settings, lifecycle).map_err(ConfigError::usage)?;
    let server = Server::bind(&settings)
        .await
        .map_err(|error| ConfigError::usage(format!("http.listen ({}): {error}", config.origin("http.listen"))))?;
    let scheme = if server.is_encrypted() { "https" } else { "http" };
    tracing::info!(
        url = format!("{scheme}://{}", server.address()),
        tokens = settings.tokens_file.is_some(),
        client_certificates = settings.tls_client_ca_file.is_some(),
        "serving the API and the page; /docs describes the API"
    );
    if let Some(ends) = server.certificate() {
        certificates::watch(lifecycle, Certificate::Http, move || Some(ends()));
    }
    let keys = settings.tokens_file.is_some() || settings.tls_client_ca_file.is_some();
    if settings.insecure_open && !keys && !settings.listen.ip().is_loopback() {
        tracing::warn!(address = %server.address(), "the API is open to everyone who can reach this address (http.insecure_open)");
    }
    let health = lifecycle.health();
    lifecycle.watch(name, HEARTBEAT, PATIENCE, move || {
        let (store, health) = (Arc::clone(&store), health.clone());
        async move {
            store.ready().await.map_err(|error| error.to_string())?;
            let standby = store.standby().await.map_err(|error| error.to_string())?;
            observe::standby_behind(standby.map_or(Some(Duration::ZERO), |standby| standby.behind));
            health.note(name, standby.map(Standby::describe));
            Ok(())
        }
    });
    server.run(router, lifecycle).await;
    Ok(Exit::Done)
}

fn limits(config: &Http) -> Limits {
    Limits {
        max_page: config.max_page,
        max_series: config.max_series,
        max_steps: config.max_steps,
        max_percentile_samples: config.max_percentile_samples,
        max_range: config.max_range,
        memory: config.query_memory,
        client_percent: config.query_memory_client_percent,
        queue_timeout: config.query_queue_timeout,
        ..Limits::default()
    }
}

/// The queue, connected in the background. Until then, questions to it get the error of the last attempt.
struct LazyQueue {
    partitions: Partitions,
    queue: ArcSwapOption<RedisTransport>,
    why: ArcSwapOption<TransportError>,
}

impl LazyQueue {
    fn get(&self) -> Result<Arc<RedisTransport>, TransportError> {
        self.queue.load_full().ok_or_else(|| match self.why.load_full() {
            Some(error) => (*error).clone(),
            None => TransportError::Unavailable { endpoint: "redis.url".to_owned(), reason: "not reached yet".to_owned() },
        })
    }
}

#[async_trait]
impl Inspector for LazyQueue {
    fn partitions(&self) -> Partitions {
        self.queue.load().as_ref().map_or(self.partitions, |queue| Inspector::partitions(&**queue))
    }

    async fn sources(&self, partition: Partition) -> crate::transport::Result<Vec<SourceState>> {
        self.get()?.sources(partition).await
    }

    async fn queued(&self, partition: Partition) -> crate::transport::Result<Vec<(SourceId, RowRange)>> {
        self.get()?.queued(partition).await
    }

    async fn reset(&self, source: Option<SourceId>) -> crate::transport::Result<u64> {
        self.get()?.reset(source).await
    }

    async fn backlog(&self, partition: Partition) -> crate::transport::Result<Backlog> {
        Inspector::backlog(&*self.get()?, partition).await
    }

    async fn look(&self, partition: Partition, consumers: usize) -> crate::transport::Result<PartitionState> {
        self.get()?.look(partition, consumers).await
    }
}

/// Connects to the queue and watches the connection, for the life of the process; feeds the connection gauge and `/api/v1/pipeline`.
pub(super) fn watch_queue(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<Arc<dyn Inspector>> {
    let redis = config.redis().context("REDIS_URL is set, but cannot be used")?;
    let lazy = Arc::new(LazyQueue { partitions: redis.partitions, queue: ArcSwapOption::empty(), why: ArcSwapOption::empty() });
    let (life, cluster, shared) = (lifecycle.clone(), config.cluster.clone(), Arc::clone(&lazy));
    observe::connection(&cluster, Component::ApiGateway, false);
    lifecycle.spawn("queue watch", async move {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let stopping = life.stopping();
        loop {
            let (up, wait) = match shared.queue.load_full() {
                Some(queue) => (Consumer::ping(&*queue).await.is_ok(), HEARTBEAT),
                None => match RedisTransport::connect(&redis).await {
                    Ok(queue) => {
                        shared.queue.store(Some(queue));
                        (true, HEARTBEAT)
                    }
                    Err(error) => {
                        shared.why.store(Some(Arc::new(error)));
                        (false, backoff.next())
                    }
                },
            };
            observe::connection(&cluster, Component::ApiGateway, up);
            if let Some(queue) = shared.queue.load_full() {
                super::link::count_malformed(&queue);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    });
    Ok(lazy)
}
