//! Connections that were made to ask, and may be used.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Conn;
use crate::address::redis::Address;

/// How long one is kept for somebody who needs it.
const KEPT: Duration = Duration::from_secs(3);

/// Those nobody uses yet. They know what all connections share, and that knows them: whoever owns it all clears them in the end.
#[derive(Default)]
pub(super) struct Spares(Mutex<Vec<(Instant, Conn)>>);

impl Spares {
    /// Keeps a connection for a moment.
    pub(super) fn put(&self, conn: Conn) {
        self.young().push((Instant::now(), conn));
    }

    /// One to this server that is not known to be broken.
    pub(super) fn take(&self, server: &Address) -> Option<Conn> {
        let mut spares = self.young();
        let at = spares.iter().position(|(_, conn)| conn.address() == server && conn.is_alive())?;
        Some(spares.swap_remove(at).1)
    }

    /// Ends those that nobody came for.
    pub(super) fn prune(&self) {
        drop(self.young());
    }

    /// Ends them all.
    pub(super) fn clear(&self) {
        self.young().clear();
    }

    fn young(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Conn)>> {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|(kept, _)| kept.elapsed() < KEPT);
        spares
    }
}
