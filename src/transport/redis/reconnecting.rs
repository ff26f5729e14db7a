//! A connection (or what is learnt over one) that is made when it is needed, and again when it is no longer good.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::time::{Duration, Instant, timeout};

use crate::retry::Backoff;
use crate::transport::{Result, TransportError};

/// Holds at most one value. It is made by one attempt at a time, which every caller who needs it drives: no task is behind it, and
/// a caller who stops waiting (or never looks at the answer) holds up no other, as one would with a lock.
pub(super) struct Reconnecting<T> {
    state: Mutex<State<T>>,
    patience: Duration,
}

struct State<T> {
    current: Option<Arc<T>>,
    attempt: Option<Attempt<T>>,
    failed: Option<Failure>,
    backoff: Backoff,
}

struct Attempt<T> {
    begun: Instant,
    outcome: Shared<BoxFuture<'static, Result<Arc<T>>>>,
}

struct Failure {
    at: Instant,
    not_before: Instant,
    error: TransportError,
}

impl<T: 'static> Reconnecting<T> {
    /// Holds nothing yet. `patience`: how long a caller waits at most; the backoff lies between attempts.
    pub(super) fn new(patience: Duration, backoff: Backoff) -> Self {
        Self { state: Mutex::new(State { current: None, attempt: None, failed: None, backoff }), patience }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, good or not.
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.state().current.clone()
    }

    /// Drops the value, if it still is this one.
    pub(super) fn discard(&self, this: &Arc<T>) {
        let mut state = self.state();
        if state.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, this)) {
            state.current = None;
        }
    }

    /// The value if it is good, else a new one of `make`, which is given the old one. An attempt that failed since `begun`, when the caller began to
    /// wait, is the answer.
    pub(super) async fn get(
        &self,
        begun: Instant,
        good: impl Fn(&T) -> bool,
        make: impl FnOnce(Option<&Arc<T>>) -> BoxFuture<'static, Result<Arc<T>>>,
        late: impl FnOnce() -> TransportError,
    ) -> Result<Arc<T>> {
        let outcome = {
            let mut state = self.state();
            if let Some(current) = state.current.as_ref().filter(|c| good(c)) {
                return Ok(current.clone());
            }
            if let Some(failure) = state.failed.as_ref().filter(|f| f.at >= begun) {
                return Err(failure.error.clone());
            }
            // An attempt that nobody drove to its end has run out of time without being looked at.
            match state.attempt.as_ref().filter(|a| a.begun.elapsed() < self.patience) {
                Some(attempt) => attempt.outcome.clone(),
                None => {
                    let not_before = state.failed.as_ref().map(|f| f.not_before);
                    let make = make(state.current.as_ref());
                    let outcome = async move {
                        if let Some(not_before) = not_before {
                            tokio::time::sleep_until(not_before).await;
                        }
                        make.await
                    };
                    let outcome = outcome.boxed().shared();
                    state.attempt = Some(Attempt { begun: Instant::now(), outcome: outcome.clone() });
                    outcome
                }
            }
        };
        let Ok(result) = timeout(self.patience, outcome.clone()).await else {
            return Err(self.state().failed.as_ref().map_or_else(late, |f| f.error.clone()));
        };
        let mut state = self.state();
        if state.attempt.as_ref().is_some_and(|a| a.outcome.ptr_eq(&outcome)) {
            state.attempt = None;
            match &result {
                Ok(made) => {
                    state.current = Some(made.clone());
                    state.failed = None;
                    state.backoff.reset();
                }
                Err(error) => {
                    let now = Instant::now();
                    let not_before = now + state.backoff.next();
                    state.failed = Some(Failure { at: now, not_before, error: error.clone() });
                }
            }
        }
        result
    }
}
