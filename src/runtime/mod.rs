//! One bootstrap for every role: logs, metrics, admin server, signals, two-phase shutdown, tasks.
//!
//! [`run`] starts a role's body with a [`Lifecycle`]. The first SIGTERM or SIGINT drains (`lifecycle.draining()`); a second one or
//! `shutdown.deadline` forces the shutdown (`lifecycle.stopping()`). If a task that was spawned through the lifecycle fails or panics,
//! the process ends with that reason.

mod admin;
mod exit;
mod health;
mod labels;
mod lifecycle;
mod logging;
mod metric;
pub mod observe;
mod progress;
mod pulse;
mod recorder;
mod reload;
mod signals;

pub use exit::{Exit, exit_code, print_error, report};
pub use health::Health;
pub use lifecycle::Lifecycle;
pub use logging::{Console, HeldLog};
pub use progress::Progress;
pub use pulse::Pulse;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::Config;

/// Maximum time for the body and the tasks to end after a forced shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a role: sets up everything around its body. The body gets the lifecycle, and returns how the process ends.
///
/// `admin`: the address of the admin server, see [`Config::admin_listen`].
pub fn run<F, Fut>(config: &Arc<Config>, role: &'static str, admin: Option<SocketAddr>, body: F) -> anyhow::Result<Exit>
where
    F: FnOnce(Lifecycle) -> Fut,
    Fut: Future<Output = anyhow::Result<Exit>> + Send + 'static,
{
    let console = Console::default();
    logging::init(&config.log, console.clone())?;
    let metrics = recorder::install(role)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("telemetry")
        .build()
        .context("the runtime's threads cannot be started")?;
    let result = runtime.block_on(async {
        let lifecycle = Lifecycle::new(console);
        recorder::keep_up(&lifecycle, metrics.clone());
        lifecycle.set_metrics(metrics);
        reload::watch(&lifecycle);
        signals::watch(&lifecycle, config.shutdown.deadline).context("signals cannot be watched")?;
        if let Some(address) = admin {
            admin::serve(&lifecycle, address, config.origin("admin.listen")).await?;
        }
        tracing::info!(role, cluster = config.cluster, version = env!("CARGO_PKG_VERSION"), "started");
        supervise(&lifecycle, tokio::spawn(body(lifecycle.clone()))).await
    });
    // Blocking reads (a terminal's stdin) cannot be cancelled; they must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// Waits for the body, the failure of a task, or a forced shutdown, whichever comes first.
async fn supervise(lifecycle: &Lifecycle, mut body: tokio::task::JoinHandle<anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let stopping = lifecycle.stopping();
    let ended = tokio::select! {
        biased;
        ended = &mut body => Some(ended),
        () = stopping.cancelled() => tokio::time::timeout(GRACE, &mut body).await.ok(),
    };
    let forced = lifecycle.forced_because();
    lifecycle.stop();
    lifecycle.join(GRACE).await;
    if let Some(failure) = lifecycle.take_failure() {
        return Err(failure);
    }
    let result = match ended {
        Some(Ok(result)) => result,
        // The panic hook has logged the place.
        Some(Err(_)) => Err(anyhow::anyhow!("internal error: the role panicked")),
        None => Ok(Exit::Stopped),
    };
    match (result, forced) {
        (Ok(_), Some(reason)) => {
            tracing::warn!(reason, "forced shutdown: work in flight was abandoned; accepted rows are safe");
            Ok(Exit::Stopped)
        }
        (result, _) => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Lifecycle {
        Lifecycle::new(Console::default())
    }

    #[tokio::test]
    async fn a_body_that_drains_is_done() {
        let life = life();
        let draining = life.draining();
        let body = tokio::spawn(async move {
            draining.cancelled().await;
            Ok(Exit::Done)
        });
        life.drain();
        assert_eq!(supervise(&life, body).await.expect("it ended well"), Exit::Done);
        assert!(life.stopping().is_cancelled(), "tasks are told that it is over");
    }

    #[tokio::test]
    async fn a_body_whose_shutdown_was_forced_is_not_done() {
        let life = life();
        let stopping = life.stopping();
        let body = tokio::spawn(async move {
            stopping.cancelled().await;
            Ok(Exit::Done)
        });
        life.force_stop("a second signal");
        assert_eq!(supervise(&life, body).await.expect("no error"), Exit::Stopped);
    }

    #[tokio::test]
    async fn a_task_s_failure_ends_the_body_with_its_reason() {
        let life = life();
        life.spawn("writer", async { anyhow::bail!("disk full") });
        let stopping = life.stopping();
        let body = tokio::spawn(async move {
            stopping.cancelled().await;
            Ok(Exit::Done)
        });
        let error = supervise(&life, body).await.expect_err("the writer failed");
        assert_eq!(format!("{error:#}"), "writer: disk full");
    }

    #[tokio::test]
    async fn a_body_that_panics_is_an_error() {
        let life = life();
        let body = tokio::spawn(async { panic!("boom") });
        let error = supervise(&life, body).await.expect_err("it panicked");
        assert!(error.to_string().contains("internal error"), "{error}");
    }
}
