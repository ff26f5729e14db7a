//! Checks files that take effect without a restart, for the life of the process, also while nothing uses their content.

use std::collections::BTreeSet;

use super::{Lifecycle, observe};
use crate::watched::{self, POLL_INTERVAL};

/// Checks all watched files at an interval; errors go to the log and into a metric.
pub(super) fn watch(lifecycle: &Lifecycle) {
    let stopping = lifecycle.stopping();
    lifecycle.spawn("reload", async move {
        let mut known = BTreeSet::<&str>::new();
        while tokio::time::timeout(POLL_INTERVAL, stopping.cancelled()).await.is_err() {
            // A network file system may be slow.
            let failed = tokio::task::spawn_blocking(watched::check_all).await?;
            for (what, failed) in &failed {
                observe::reload_failed(what, *failed);
            }
            // Files that are no longer used have no error.
            for gone in known.iter().filter(|what| !failed.contains_key(*what)) {
                observe::reload_failed(gone, false);
            }
            known = failed.into_keys().collect();
        }
        Ok(())
    });
}
