//! The status of each server, for the log: one line when a server is lost and one when it is back, however many connections there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::address::redis::Address;
use crate::transport::TransportError;

/// The status of every server that was connected to.
#[derive(Default)]
pub(super) struct ServerStatusLog {
    by_server: Mutex<HashMap<Address, Arc<ServerStatus>>>,
    ever: AtomicBool,
}

impl ServerStatusLog {
    fn of(&self, server: &Address) -> Arc<ServerStatus> {
        let mut statuses = self.by_server.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(statuses.entry(server.clone()).or_insert_with(|| Arc::new(ServerStatus::new(server.to_string()))))
    }

    /// A connection was made (begun then) and checked.
    pub(super) fn connected(&self, server: &Address, made: Instant) {
        self.ever.store(true, Ordering::Relaxed);
        self.of(server).connected(made);
    }

    /// A connection that was made then is lost.
    pub(super) fn lost(&self, server: &Address, made: Instant, error: &TransportError) {
        self.of(server).lost(made, error);
    }

    /// A connection could not be made.
    pub(super) fn unreachable(&self, server: &Address, error: &TransportError) {
        self.of(server).unreachable(error);
    }

    /// Forgets servers that are no longer in use.
    pub(super) fn retain(&self, used: impl Fn(&Address) -> bool) {
        self.by_server.lock().unwrap_or_else(PoisonError::into_inner).retain(|server, _| used(server));
    }

    /// Whether there ever was a connection.
    pub(super) fn ever_up(&self) -> bool {
        self.ever.load(Ordering::Relaxed)
    }

    /// Whether the last attempt or answer of each server was good, and there was one.
    pub(super) fn are_up(&self) -> bool {
        let statuses = self.by_server.lock().unwrap_or_else(PoisonError::into_inner);
        !statuses.is_empty() && statuses.values().all(|status| status.is_up())
    }
}

/// Whether a server is reachable, as far as is known.
struct ServerStatus {
    endpoint: String,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    New,
    Up { since: Instant },
    Down { since: Instant, ever: bool },
}

impl ServerStatus {
    fn new(endpoint: String) -> Self {
        Self { endpoint, state: Mutex::new(State::New) }
    }

    fn change(&self, change: impl FnOnce(State) -> State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = change(*state);
    }

    /// A connection was made (begun then) and checked.
    fn connected(&self, made: Instant) {
        let endpoint = &self.endpoint;
        self.change(|state| match state {
            State::Up { .. } => state,
            State::New | State::Down { ever: false, .. } => {
                tracing::info!("connected to Redis at {endpoint}");
                State::Up { since: made }
            }
            State::Down { since, .. } => {
                let after = since.elapsed().as_secs_f64();
                tracing::info!("reconnected to Redis at {endpoint} after {after:.1} s");
                State::Up { since: made }
            }
        });
    }

    /// A connection that was made then is lost. Those that are older than the last reconnection were lost with the others.
    fn lost(&self, made: Instant, error: &TransportError) {
        self.change(|state| match state {
            State::Up { since } if made >= since => {
                tracing::warn!("lost the connection: {error}");
                State::Down { since: Instant::now(), ever: true }
            }
            _ => state,
        });
    }

    /// A connection could not be made.
    fn unreachable(&self, error: &TransportError) {
        self.change(|state| match state {
            State::Down { .. } => state,
            State::New | State::Up { .. } => {
                tracing::warn!("cannot connect: {error}");
                State::Down { since: Instant::now(), ever: matches!(state, State::Up { .. }) }
            }
        });
    }

    /// Whether the last attempt or answer was good.
    fn is_up(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Up { .. })
    }
}
