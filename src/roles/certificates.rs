//! The certificates that a role shows: how long they are still good, as a metric, for the life of the process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Certificate};
use crate::store::postgres::PostgresStore;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);

/// Looks when a certificate ends, as long as one is shown at all.
pub(super) fn watch(lifecycle: &Lifecycle, of: Certificate, ends: impl Fn() -> Option<SystemTime> + Send + Sync + 'static) {
    let stopping = lifecycle.stopping();
    lifecycle.spawn("certificates", async move {
        while let Some(ends) = ends() {
            observe::certificate(of, ends);
            if tokio::time::timeout(LOOK, stopping.cancelled()).await.is_ok() {
                break;
            }
        }
        Ok(())
    });
}

/// The one that is shown to PostgreSQL. Connections that were made with one that has been replaced are renewed, so that none is left
/// with it when it ends.
pub(super) fn watch_store(lifecycle: &Lifecycle, store: &Arc<PostgresStore>) {
    let store = Arc::clone(store);
    watch(lifecycle, Certificate::PostgresClient, move || {
        store.renew();
        store.certificate_ends()
    });
}
