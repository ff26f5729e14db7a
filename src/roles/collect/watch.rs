//! What goes on beside the rows: reaching the store, whether it is the one we know, gauges, claims kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

use super::Shared;
use crate::runtime::observe;
use crate::store::StoreError;
use crate::transport::TransportError;

const GAUGES: Duration = Duration::from_secs(2);

/// Brings the schema up to date and makes sure that the store is the one this group commits to; `false` when the process is to
/// end first.
pub(super) async fn open_store(shared: &Shared) -> anyhow::Result<bool> {
    let mut backoff = Shared::store_backoff();
    let mut said = false;
    loop {
        let opened = match shared.store.migrate().await {
            Ok(()) => same_store(shared).await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = opened else { return Ok(true) };
        if !is_transient(&error) {
            return Err(error);
        }
        if !said {
            tracing::warn!("waiting: {error:#}");
        }
        said = true;
        shared.lifecycle.health().set(shared.store_name, Err(error.to_string()));
        if !shared.rest(backoff.next()).await {
            return Ok(false);
        }
    }
}

/// Whether waiting can help.
pub(super) fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient)
        || error.downcast_ref::<TransportError>().is_some_and(TransportError::is_transient)
}

/// Fails where the store is another one than this group has committed to, or an older state of it: then rows that the queue has
/// let go would be missing for ever.
pub(super) async fn same_store(shared: &Shared) -> anyhow::Result<()> {
    let id = shared.store.id().await?;
    let marked = shared.queue.mark_store(&id).await?;
    let remedy = "To send everything again into this one, run `telemetry replay --all` and (for files that were read to their end) the \
                  streamers again; what is stored stays single. Else point DATABASE_URL at the former one.";
    if marked != id {
        bail!("this PostgreSQL is another store ({id}) than the one that was committed to so far ({marked}). {remedy}");
    }
    for partition in 0..shared.inspector.partitions() {
        let states = match shared.inspector.sources(partition).await {
            Ok(states) => states,
            // A node of a cluster that is away keeps nobody from the partitions of the others.
            Err(error) if error.is_transient() => continue,
            Err(error) => return Err(error.into()),
        };
        let states: Vec<_> = states.into_iter().filter(|s| s.committed > 0).collect();
        let ids: Vec<_> = states.iter().map(|s| s.source).collect();
        let settled: HashMap<_, _> = shared.store.settled(&ids).await?.into_iter().collect();
        for state in states {
            let has = settled.get(&state.source).copied().unwrap_or(0);
            if has < state.committed {
                bail!(
                    "this PostgreSQL is older than what was committed (a restored backup, or a failover that lost commits?): of source {} rows \
                     up to {} were committed, it has them up to {has}. {remedy}",
                    state.source,
                    state.committed
                );
            }
        }
    }
    Ok(())
}

/// Starts gauges, and keeps claims.
pub(super) fn start(shared: &Arc<Shared>) {
    let lifecycle = &shared.lifecycle;
    let s = shared.clone();
    lifecycle.spawn("gauges", async move {
        loop {
            for partition in 0..s.queue.partitions() {
                if let Ok(backlog) = s.queue.backlog(partition).await {
                    observe::backlog(partition, backlog.entries, backlog.pending, Duration::from_millis(backlog.oldest_ms));
                }
            }
            if !s.rest(GAUGES).await {
                return Ok(());
            }
        }
    });
    let s = shared.clone();
    lifecycle.spawn("claims", async move {
        let every = s.config.redis.claim_idle / 3;
        // Until the very end: what is in hand while draining must not be claimed by others either.
        while !s.lifecycle.stopping().is_cancelled() {
            for partition in 0..s.queue.partitions() {
                let held = s.in_hand.of(partition);
                if !held.is_empty()
                    && let Err(error) = s.queue.keep(partition, &held).await
                {
                    tracing::debug!(partition, %error, "keeping claims in Redis");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = s.lifecycle.stopping().cancelled_owned() => {}
            }
        }
        Ok(())
    });
}
