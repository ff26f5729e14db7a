//! The life of a process: what every task asks whether to go on, and who owns the tasks.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Console, Health, Held, Progress, Pulse};

/// Clones share one life.
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
    /// Why it ends hard, if a signal or the deadline said so.
    hard: Mutex<Option<&'static str>>,
    /// The first failure of a task.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Lifecycle {
    /// A life that only its tasks and [`Lifecycle::drain`], [`Lifecycle::stop`] end: for [`super::run`], and for tests.
    #[must_use]
    pub fn new(console: Console) -> Self {
        let inner = Inner { console, ..Inner::default() };
        let draining = inner.stopping.child_token();
        Self(Arc::new(inner), draining)
    }

    /// The same life with a draining of its own, for what must go on until others have drained: it begins with
    /// [`Lifecycle::drain`] on what is returned, and with the end of everything.
    #[must_use]
    pub fn drained_later(&self) -> Self {
        Self(Arc::clone(&self.0), self.0.stopping.child_token())
    }

    /// Cancelled at the first SIGTERM or SIGINT: finish what is in flight, take nothing new, end.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.1.clone()
    }

    /// Cancelled at the second signal, at the deadline, when a task failed, and when the role's body has ended: end now.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// What /readyz says.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health.clone()
    }

    /// What /livez says: alive = it answers, and is not on its way out after a failure. `Err` is a 503 with that text.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn live(&self) -> Result<&'static str, String> {
        if self.0.stopping.is_cancelled() { Err("stopping\n".to_owned()) } else { Ok("alive\n") }
    }

    /// Asks a part whether it is ready, every `every` and whenever /readyz is asked; no answer within `patience` is a no.
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

    /// What /readyz of the admin server says; `Err` is a 503 with that text.
    ///
    /// # Errors
    ///
    /// What is not ready and why, a line each.
    pub async fn ready(&self) -> Result<&'static str, String> {
        self.ask_all().await;
        self.readiness(self.0.health.not_ready())
    }

    /// What /readyz says where anybody may ask: which parts are not ready, without the reasons.
    ///
    /// # Errors
    ///
    /// What is not ready, a line each.
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
            reasons.insert(0, "draining: finishing what is in flight, then it ends".to_owned());
        }
        if reasons.is_empty() { Ok("ready\n") } else { Err(reasons.join("\n") + "\n") }
    }

    /// What /metrics says. Written on a thread for blocking work, one at a time: a long text holds up no other answer.
    pub async fn metrics_text(&self) -> String {
        let _one = self.0.rendering.lock().await;
        let Some(metrics) = self.0.metrics.get().cloned() else { return String::new() };
        tokio::task::spawn_blocking(move || metrics.render()).await.unwrap_or_default()
    }

    /// Says where metrics are recorded, once.
    pub(super) fn measured_by(&self, metrics: PrometheusHandle) {
        let _ = self.0.metrics.set(metrics);
    }

    /// Holds back what is logged to the terminal, as long as what is returned is there.
    #[must_use]
    pub fn hold_log(&self) -> Held {
        self.0.console.hold()
    }

    /// Starts showing progress on stderr: a bar on a terminal, else a log line every 10 s. `total`: bytes to read, where known.
    #[must_use]
    pub fn progress(&self, total: Option<u64>) -> Progress {
        Progress::start(self, &self.0.console, total)
    }

    /// Runs a task for the life of the process. Its error or panic ends the process with that reason (exit code 1); its end
    /// without an error does not.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let lifecycle = self.clone();
        self.0.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => lifecycle.fail(error.context(name)),
                // The panic hook has said where.
                Err(_) => lifecycle.fail(anyhow::anyhow!("internal error: {name} panicked")),
            }
        });
    }

    /// Begins draining, as the first signal does.
    pub fn drain(&self) {
        self.1.cancel();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.1.cancel();
        self.0.stopping.cancel();
    }

    pub(super) fn stop_hard(&self, reason: &'static str) {
        self.0.hard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.stop();
    }

    pub(super) fn hard_reason(&self) -> Option<&'static str> {
        *self.0.hard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: anyhow::Error) {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
    }

    pub(super) fn take_failure(&self) -> Option<anyhow::Error> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the tasks, at most this long.
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
