//! The connection of a role to Redis: connecting at the start, a heartbeat, and metrics.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::retry::Backoff;
use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Certificate, Component, Target};
use crate::transport::TransportError;
use crate::transport::redis::RedisTransport;

/// Interval of the heartbeat. A lost connection shows after this time and the timeout of a command.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// First and longest wait between attempts to connect.
const CONNECT_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Connects, and retries while errors are transient; `None` when the process is told to end before. Any other error is returned at
/// once.
pub(super) async fn connect<T, F>(lifecycle: &Lifecycle, attempt: impl Fn() -> F) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let mut backoff = Backoff::new(CONNECT_BACKOFF.0, CONNECT_BACKOFF.1);
    let mut reported = false;
    lifecycle.health().set("redis", Err("not reached yet".into()));
    loop {
        match attempt().await {
            Ok(line) => {
                lifecycle.health().set("redis", Ok(()));
                return Ok(Some(line));
            }
            Err(error) if error.is_transient() => {
                if !reported {
                    tracing::warn!(%error, "waiting for Redis");
                }
                reported = true;
                lifecycle.health().set("redis", Err(error.to_string()));
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    () = lifecycle.draining().cancelled_owned() => return Ok(None),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Pings Redis for the life of the process, and records the result in the connection gauge and in /readyz.
pub(super) fn heartbeat<F>(
    lifecycle: &Lifecycle,
    cluster: &str,
    component: Component,
    ping: impl Fn() -> F + Send + Sync + 'static,
) where
    F: Future<Output = Result<Duration, TransportError>> + Send,
{
    observe::connection(cluster, component, true);
    let (life, cluster) = (lifecycle.clone(), cluster.to_owned());
    lifecycle.spawn("heartbeat", async move {
        // The connection has just been made.
        let mut up = true;
        loop {
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = life.stopping().cancelled_owned() => return Ok(()),
            }
            let answer = ping().await;
            if answer.is_ok() && !up {
                observe::reconnect(Target::Redis);
            }
            up = answer.is_ok();
            observe::connection(&cluster, component, up);
            life.health().set("redis", answer.map(|_| ()).map_err(|e| e.to_string()));
        }
    });
}

/// Records how many malformed values were read in the queue.
pub(super) fn count_malformed(queue: &RedisTransport) {
    for (kind, times) in queue.malformed() {
        observe::queue_malformed(kind.name(), times);
    }
}

/// How often traffic and certificates are recorded.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Records the traffic of the connections and the expiry of their certificates as metrics, for the life of the process.
pub(super) fn measure(lifecycle: &Lifecycle, queue: &Arc<RedisTransport>) {
    let (life, queue) = (lifecycle.clone(), Arc::clone(queue));
    lifecycle.spawn("line metrics", async move {
        loop {
            let (sent, received) = queue.traffic();
            observe::wan_bytes(sent, received);
            count_malformed(&queue);
            let (ours, theirs) = queue.certificates();
            for (of, ends) in [(Certificate::RedisClient, ours), (Certificate::RedisServer, theirs)] {
                if let Some(ends) = ends {
                    observe::certificate(of, ends);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(MEASURE_INTERVAL) => {}
                () = life.stopping().cancelled_owned() => return Ok(()),
            }
        }
    });
}
