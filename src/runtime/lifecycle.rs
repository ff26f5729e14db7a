//! The lifecycle of a process: when it drains and stops, its tasks, and its health.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Console, Health, HeldLog, Progress, Pulse};

/// The lifecycle of a process. Clones share it.
#[derive(Clone, Default)]
pub struct Lifecycle(Arc<Inner>, CancellationToken);

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle").field("health", &self.0.health).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    stopping: CancellationToken,
    tasks: TaskTracker,
    health: Health,
    console: Console,
    metrics: OnceLock<PrometheusHandle>,
    rendering: tokio::sync::Mutex<()>,
    pulses: Mutex<Vec<Arc<Pulse>>>,
    /// Why the shutdown is forced: a second signal, or the deadline.
    forced: Mutex<Option<&'static str>>,
    /// The first failure of a task.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Lifecycle {
    /// A lifecycle that no signal ends, only its tasks, [`Lifecycle::drain`] and [`Lifecycle::stop`]: for [`super::run`] and tests.
    #[must_use]
    pub fn new(console: Console) -> Self {
        let inner = Inner { console, ..Inner::default() };
        let draining = inner.stopping.child_token();
        Self(Arc::new(inner), draining)
    }

    /// The same lifecycle with its own draining, for a part that must go on until others have drained. It drains when
    /// [`Lifecycle::drain`] is called on the returned value, and when the process stops.
    #[must_use]
    pub fn drained_later(&self) -> Self {
        Self(Arc::clone(&self.0), self.0.stopping.child_token())
    }

    /// Cancelled at the first SIGTERM or SIGINT: finish work in flight, accept nothing new, end.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.1.clone()
    }

    /// Cancelled at the second signal, at the deadline, when a task failed, and when the role's body has ended: end now.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// The readiness of the role's parts.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health.clone()
    }

    /// The content of /livez: alive, unless the process is stopping. `Err` is a 503 with that text.
    ///
    /// # Errors
    ///
    /// Why the process is not alive.
    pub fn live(&self) -> Result<&'static str, String> {
        if self.0.stopping.is_cancelled() { Err("stopping\n".to_owned()) } else { Ok("alive\n") }
    }

    /// Checks whether a part is ready, at the interval `every` and at each request of /readyz. No answer within `patience` counts as
    /// not ready.
    pub fn watch<F>(
        &self,
        component: &'static str,
        every: Duration,
        patience: Duration,
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let pulse = Arc::new(Pulse::new(component, patience, Box::new(move || Box::pin(ask())), self.health()));
        self.0.pulses.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pulse));
        let stopping = self.stopping();
        self.spawn(component, async move {
            loop {
                pulse.beat().await;
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = stopping.cancelled() => return Ok(()),
                }
            }
        });
    }

    /// The content of /readyz on the admin server, with what is to be known of parts that are ready. `Err` is a 503 with that text.
    ///
    /// # Errors
    ///
    /// The parts that are not ready and why, one per line.
    pub async fn ready(&self) -> Result<String, String> {
        self.ask_all().await;
        let ready = self.readiness(self.0.health.not_ready())?;
        Ok(self.0.health.notes().into_iter().fold(ready.to_owned(), |text, note| text + &note + "\n"))
    }

    /// The content of /readyz on a public address: the parts that are not ready, without the reasons.
    ///
    /// # Errors
    ///
    /// The parts that are not ready, one per line.
    pub async fn ready_in_brief(&self) -> Result<&'static str, String> {
        self.ask_all().await;
        self.readiness(self.0.health.not_ready_in_brief())
    }

    async fn ask_all(&self) {
        let pulses = self.0.pulses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        futures_util::future::join_all(pulses.iter().map(|pulse| pulse.beat())).await;
    }

    fn readiness(&self, mut reasons: Vec<String>) -> Result<&'static str, String> {
        if self.1.is_cancelled() {
            reasons.insert(0, "draining: finishing work in flight before it ends".to_owned());
        }
        if reasons.is_empty() { Ok("ready\n") } else { Err(reasons.join("\n") + "\n") }
    }

    /// The content of /metrics. It is rendered on a blocking thread, one rendering at a time, so that a long text delays no other
    /// answer.
    pub async fn metrics_text(&self) -> String {
        let _one = self.0.rendering.lock().await;
        let Some(metrics) = self.0.metrics.get().cloned() else { return String::new() };
        tokio::task::spawn_blocking(move || metrics.render()).await.unwrap_or_default()
    }

    /// Sets the recorder whose metrics /metrics shows; only the first call counts.
    pub(super) fn set_metrics(&self, metrics: PrometheusHandle) {
        let _ = self.0.metrics.set(metrics);
    }

    /// Holds back log lines to the terminal until the returned value is dropped.
    #[must_use]
    pub fn hold_log(&self) -> HeldLog {
        self.0.console.hold()
    }

    /// Starts to show progress on stderr: a bar on a terminal, else a log line every 10 s. `total`: bytes to read, where known.
    #[must_use]
    pub fn progress(&self, total: Option<u64>) -> Progress {
        Progress::start(self, &self.0.console, total)
    }

    /// Runs a task for the life of the process. If it fails or panics, the process ends with that reason (exit code 1); if it ends
    /// without an error, the process goes on.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let lifecycle = self.clone();
        self.0.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => lifecycle.fail(error.context(name)),
                // The panic hook has logged the place.
                Err(_) => lifecycle.fail(anyhow::anyhow!("internal error: {name} panicked")),
            }
        });
    }

    /// Begins to drain, as the first signal does.
    pub fn drain(&self) {
        self.1.cancel();
    }

    /// Stops everything now.
    pub fn stop(&self) {
        self.1.cancel();
        self.0.stopping.cancel();
    }

    /// Stops everything now, as a second signal or the deadline does; the first reason is kept.
    pub(super) fn force_stop(&self, reason: &'static str) {
        self.0.forced.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.stop();
    }

    /// Why the shutdown was forced; `None` where it was not.
    pub(super) fn forced_because(&self) -> Option<&'static str> {
        *self.0.forced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: anyhow::Error) {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
    }

    pub(super) fn take_failure(&self) -> Option<anyhow::Error> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until the tasks have ended, for at most this time.
    pub(super) async fn join(&self, at_most: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(at_most, self.0.tasks.wait()).await.is_err() {
            tracing::debug!(tasks = self.0.tasks.len(), "tasks were left running at the end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_stops_the_others_and_is_kept() {
        let life = Lifecycle::new(Console::default());
        let stopping = life.stopping();
        life.spawn("waiter", async move {
            stopping.cancelled().await;
            anyhow::bail!("a later one")
        });
        life.spawn("writer", async { anyhow::bail!("disk full") });
        life.stopping().cancelled().await;
        life.join(Duration::from_secs(30)).await;
        assert!(life.draining().is_cancelled());
        let failure = life.take_failure().expect("the writer failed");
        assert_eq!(format!("{failure:#}"), "writer: disk full");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let life = Lifecycle::new(Console::default());
        life.spawn("reader", async { panic!("boom") });
        life.stopping().cancelled().await;
        life.join(Duration::from_secs(30)).await;
        assert_eq!(life.take_failure().expect("it panicked").to_string(), "internal error: reader panicked");
    }

    #[tokio::test]
    async fn what_drains_later_drains_when_it_is_told_or_when_all_ends() {
        let life = Lifecycle::new(Console::default());
        let (one, two) = (life.drained_later(), life.drained_later());
        life.drain();
        assert!(life.draining().is_cancelled() && !one.draining().is_cancelled());
        one.drain();
        assert!(one.draining().is_cancelled() && !two.draining().is_cancelled() && !life.stopping().is_cancelled());
        life.stop();
        assert!(two.draining().is_cancelled() && two.stopping().is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_ends_well_stops_nobody() {
        let life = Lifecycle::new(Console::default());
        life.spawn("one", async { Ok(()) });
        life.join(Duration::from_secs(30)).await;
        assert!(!life.draining().is_cancelled() && life.take_failure().is_none());
    }
}
