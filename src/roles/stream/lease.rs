//! [`HeldLease`]: a source that is ours for a time.

use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use super::context::StreamContext;
use super::identify::Identified;

/// A lease that is renewed until it is given back.
pub(super) struct HeldLease<'a> {
    context: &'a StreamContext,
    identified: Identified,
    renewing: JoinHandle<()>,
}

impl<'a> HeldLease<'a> {
    pub(super) fn start(context: &'a StreamContext, identified: Identified) -> Self {
        context.leases_held.fetch_add(1, Ordering::Relaxed);
        let (publisher, owner) = (context.publisher.clone(), context.owner.clone());
        let every = context.lease_ttl / 3;
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                // A lease that was lost is no harm: positions keep two owners from sending a row twice.
                if let Err(error) = publisher.lease(identified.source, &owner).await {
                    tracing::debug!(%error, "renewing a lease in Redis");
                }
            }
        });
        Self { context, identified, renewing }
    }

    pub(super) fn give_back(self) -> impl Future<Output = ()> + Send + 'static {
        self.renewing.abort();
        let (publisher, owner, source) = (self.context.publisher.clone(), self.context.owner.clone(), self.identified.source);
        async move {
            if let Err(error) = publisher.release(source, &owner).await {
                tracing::debug!(%error, "giving a lease back to Redis");
            }
        }
    }
}

impl Drop for HeldLease<'_> {
    fn drop(&mut self) {
        self.renewing.abort();
        self.context.leases_held.fetch_sub(1, Ordering::Relaxed);
    }
}
