//! The line to the queue, as every role that has one keeps it: reached in the beginning, watched by a heartbeat.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::retry::Backoff;
use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Certificate, Component, Target};
use crate::transport::TransportError;
use crate::transport::redis::RedisTransport;

/// How often the line is tried. A line that does not answer shows within this and a command's timeout.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// First and longest wait while connecting.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Connects, however long that takes; `None` when the process is to end first. What waiting cannot help is an error at once.
pub(super) async fn connect<T, F>(lifecycle: &Lifecycle, attempt: impl Fn() -> F) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    let mut said = false;
    lifecycle.health().set("redis", Err("not reached yet".into()));
    loop {
        match attempt().await {
            Ok(line) => {
                lifecycle.health().set("redis", Ok(()));
                return Ok(Some(line));
            }
            Err(error) if error.is_transient() => {
                if !said {
                    tracing::warn!(%error, "waiting for Redis");
                }
                said = true;
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

/// Pings for the life of the process: feeds the connection gauge and /readyz.
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
        // It was reached just now.
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

/// Tells the metrics how many malformed values were met in the queue.
pub(super) fn count_malformed(queue: &RedisTransport) {
    for (kind, times) in queue.malformed() {
        observe::queue_malformed(kind.name(), times);
    }
}

/// Between two looks at what the line itself counts.
const MEASURE: Duration = Duration::from_secs(5);

/// Tells the metrics, for the life of the process, what went over the line and how long its certificates are good.
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
                () = tokio::time::sleep(MEASURE) => {}
                () = life.stopping().cancelled_owned() => return Ok(()),
            }
        }
    });
}
