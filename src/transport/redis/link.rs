//! One connection to the server that has a partition, made when first needed and again when it is lost.

use std::sync::Arc;

use futures_util::future::FutureExt;
use tokio::time::Instant;

use super::client::Conn;
use super::reconnecting::Reconnecting;
use super::shared::Shared;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::transport::Result;

/// Holds the connection to the server of a partition, if there is one.
pub(super) struct Link {
    shared: Arc<Shared>,
    partition: Partition,
    conn: Reconnecting<Conn>,
}

impl Link {
    pub(super) fn new(shared: &Arc<Shared>, partition: Partition) -> Self {
        let config = &shared.config;
        let backoff = Backoff::new(config.reconnect_min, config.reconnect_max);
        let patience = config.command_timeout + config.connect_timeout * 2;
        Self { shared: shared.clone(), partition, conn: Reconnecting::new(patience, backoff) }
    }

    /// The connection, if there is one that is good. One that is not ends here: it may be that nobody needs another one.
    pub(super) fn current(&self) -> Option<Arc<Conn>> {
        let conn = self.conn.current()?;
        if conn.is_alive() {
            return Some(conn);
        }
        self.conn.discard(&conn);
        None
    }

    /// Ends the connection, if the link still holds this one.
    pub(super) fn discard(&self, conn: &Arc<Conn>) {
        self.conn.discard(conn);
    }

    /// The connection, made if need be. Takes no longer than a command and a connection attempt may take; fails with what the
    /// attempt failed with.
    pub(super) async fn get(&self) -> Result<Arc<Conn>> {
        self.get_since(Instant::now()).await
    }

    /// As [`Link::get`], for a caller that has been waiting since then: an attempt that failed meanwhile is its answer.
    pub(super) async fn get_since(&self, begun: Instant) -> Result<Arc<Conn>> {
        let (shared, partition) = (self.shared.clone(), self.partition);
        let open = |_: Option<&Arc<Conn>>| async move { Conn::open(&shared, partition).await.map(Arc::new) }.boxed();
        let late = || self.shared.unavailable("connecting did not finish within the timeout");
        self.conn.get(begun, Conn::is_alive, open, late).await
    }
}
