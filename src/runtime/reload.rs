//! Files that take effect without a restart, looked at for the life of the process: also where nobody asks for what they say.

use std::collections::BTreeSet;

use super::{Lifecycle, observe};
use crate::watched::{self, POLL_INTERVAL};

/// Looks at all of them now and then; what is wrong is in the log, and in a metric.
pub(super) fn watch(lifecycle: &Lifecycle) {
    let stopping = lifecycle.stopping();
    lifecycle.spawn("reload", async move {
        let mut known = BTreeSet::<&str>::new();
        while tokio::time::timeout(POLL_INTERVAL, stopping.cancelled()).await.is_err() {
            // A directory on another machine may take its time.
            let failed = tokio::task::spawn_blocking(watched::look_at_all).await?;
            for (what, failed) in &failed {
                observe::reload_failed(what, *failed);
            }
            // What is no longer used has no fault.
            for gone in known.iter().filter(|what| !failed.contains_key(*what)) {
                observe::reload_failed(gone, false);
            }
            known = failed.into_keys().collect();
        }
        Ok(())
    });
}
