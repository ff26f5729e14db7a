//! Records when the certificates that a role presents expire, as a metric, for the life of the process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Certificate};
use crate::store::postgres::PostgresStore;

/// How often the expiry of a certificate is recorded.
const RECORD_INTERVAL: Duration = Duration::from_secs(5);

/// Records when a certificate expires, as long as `ends` returns a time.
pub(super) fn watch(lifecycle: &Lifecycle, of: Certificate, ends: impl Fn() -> Option<SystemTime> + Send + Sync + 'static) {
    let stopping = lifecycle.stopping();
    lifecycle.spawn("certificates", async move {
        while let Some(ends) = ends() {
            observe::certificate(of, ends);
            if tokio::time::timeout(RECORD_INTERVAL, stopping.cancelled()).await.is_ok() {
                break;
            }
        }
        Ok(())
    });
}

/// Records when the certificate that is presented to PostgreSQL expires. Connections that use a replaced certificate are renewed, so
/// that none still uses it when it expires.
pub(super) fn watch_store(lifecycle: &Lifecycle, store: &Arc<PostgresStore>) {
    let store = Arc::clone(store);
    watch(lifecycle, Certificate::PostgresClient, move || {
        store.renew();
        store.certificate_ends()
    });
}
