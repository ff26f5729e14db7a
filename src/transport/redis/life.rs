//! What the log says of the connection's life: one line when it is lost, one when it is back, however many connections there are.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::transport::TransportError;

/// Whether Redis is reachable, as far as is known.
pub(super) struct Life {
    endpoint: String,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    New,
    Up { since: Instant },
    Down { since: Instant, ever: bool },
}

impl Life {
    pub(super) fn new(endpoint: String) -> Self {
        Self { endpoint, state: Mutex::new(State::New) }
    }

    fn change(&self, change: impl FnOnce(State) -> State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = change(*state);
    }

    /// A connection was made (begun then) and checked.
    pub(super) fn connected(&self, made: Instant) {
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
    pub(super) fn lost(&self, made: Instant, error: &TransportError) {
        self.change(|state| match state {
            State::Up { since } if made >= since => {
                tracing::warn!("lost the connection: {error}");
                State::Down { since: Instant::now(), ever: true }
            }
            _ => state,
        });
    }

    /// A connection could not be made.
    pub(super) fn unreachable(&self, error: &TransportError) {
        self.change(|state| match state {
            State::Down { .. } => state,
            State::New | State::Up { .. } => {
                tracing::warn!("cannot connect: {error}");
                State::Down { since: Instant::now(), ever: matches!(state, State::Up { .. }) }
            }
        });
    }

    /// Whether the last that was heard was good.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Up { .. })
    }
}
