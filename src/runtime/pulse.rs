//! Readiness checks of one part of a role: at an interval, and at each request of /readyz.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Health;

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Ask = Box<dyn Fn() -> Answer + Send + Sync>;

/// Checks one part, one check at a time. Concurrent callers share the result of the next check, never an older one.
pub struct Pulse {
    component: &'static str,
    patience: Duration,
    ask: Ask,
    health: Health,
    /// When the last check began, and whether its result was good.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Pulse {
    pub(super) fn new(component: &'static str, patience: Duration, ask: Ask, health: Health) -> Self {
        health.set(component, Err("not reached yet".to_owned()));
        Self { component, patience, ask, health, last: Mutex::new(None) }
    }

    /// Checks the part, and records the result in [`Health`].
    pub async fn beat(&self) {
        let called = Instant::now();
        let mut last = self.last.lock().await;
        if last.is_some_and(|(began, _)| began >= called) {
            return;
        }
        let began = Instant::now();
        let state = match tokio::time::timeout(self.patience, (self.ask)()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(self.patience))),
        };
        match (&state, last.map(|(_, good)| good)) {
            (Ok(()), Some(false)) => tracing::info!("{} answers again", self.component),
            (Err(error), None | Some(true)) => tracing::warn!(error, "{} does not answer", self.component),
            _ => {}
        }
        *last = Some((began, state.is_ok()));
        self.health.set(self.component, state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_the_next_answer_and_never_an_older_one() {
        let (asked, health) = (Arc::new(AtomicU32::new(0)), Health::default());
        let count = Arc::clone(&asked);
        let ask: Ask = Box::new(move || {
            let n = count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tokio::task::yield_now().await;
                if n == 0 { Err("away".to_owned()) } else { Ok(()) }
            })
        });
        let pulse = Pulse::new("store", Duration::from_secs(5), ask, health.clone());
        assert_eq!(health.not_ready(), ["store: not reached yet"]);
        pulse.beat().await;
        assert_eq!(health.not_ready(), ["store: away"]);
        futures_util::future::join_all((0..100).map(|_| pulse.beat())).await;
        assert!(health.not_ready().is_empty());
        assert!(asked.load(Ordering::SeqCst) <= 3, "100 concurrent callers share answers");
    }

    #[tokio::test]
    async fn silence_is_an_answer() {
        let health = Health::default();
        let pulse = Pulse::new("store", Duration::from_millis(1), Box::new(|| Box::pin(std::future::pending())), health.clone());
        pulse.beat().await;
        assert_eq!(health.not_ready(), ["store: no answer within 1ms"]);
    }
}
