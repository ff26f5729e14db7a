//! What goes on beside the rows: reaching the store, whether it is the one we know, gauges, claims kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;

use super::Shared;
use super::held_back::HeldBack;
use crate::model::Partition;
use crate::runtime::observe;
use crate::store::StoreError;
use crate::transport::{Backlog, PartitionState, TransportError};

/// Between two questions to the store whether it answers, and how long an answer may take.
const PING: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// Receipts that are kept with one command.
const KEPT_AT_ONCE: usize = 1000;
/// Between two looks at the queue.
const GAUGES: Duration = Duration::from_secs(2);
/// Between two looks at what the store says of itself.
const STANDING: Duration = Duration::from_secs(15);

/// Brings the schema up to date and makes sure that the store is the one this group commits to; `false` when the process is to
/// end first.
pub(super) async fn open_store(shared: &Shared) -> anyhow::Result<bool> {
    let mut backoff = Shared::store_backoff();
    let mut said = false;
    loop {
        let opened = async {
            shared.store.migrate().await?;
            shared.store.check_rights().await?;
            same_store(shared).await
        };
        let opened = opened.await;
        let Err(error) = opened else { return Ok(true) };
        if !is_transient(&error) {
            return Err(error);
        }
        if !said {
            tracing::warn!("waiting: {error:#}");
        }
        said = true;
        shared.lifecycle.health().set(shared.store.kind().health_check(), Err(error.to_string()));
        if !shared.rest(backoff.next()).await {
            return Ok(false);
        }
    }
}

/// Asks the store whether it answers, now and then and whenever /readyz is asked.
pub(super) fn store(shared: &Shared) {
    let store = shared.store.clone();
    shared.lifecycle.watch(shared.store.kind().health_check(), PING, PATIENCE, move || {
        let store = store.clone();
        async move { store.ping().await.map_err(|error| error.to_string()) }
    });
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
    let name = shared.store.kind().name();
    let remedy = format!(
        "To send everything again into this one, run `telemetry replay --all` and (for files that were read to their end) the \
         streamers again; what is stored stays single. Else {}.",
        shared.store.kind().way_back()
    );
    if marked != id {
        bail!("this {name} is another store ({id}) than the one that was committed to so far ({marked}). {remedy}");
    }
    for partition in shared.inspector.partitions() {
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
                    "this {name} is older than what was committed (a restored backup, or a failover that lost commits?): of source {} rows \
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
        let mut queue = vec![PartitionState::default(); usize::from(s.queue.partitions().count())];
        let mut groups = BTreeMap::new();
        loop {
            look(&s, &mut queue).await;
            observe_lag(&queue, &mut groups);
            if !s.rest(GAUGES).await {
                return Ok(());
            }
        }
    });
    let s = shared.clone();
    lifecycle.spawn("standing", async move {
        loop {
            match s.store.standing().await {
                Ok(standing) => {
                    observe::dead_letters_kept(standing.dead_letters);
                    for (cluster, at) in &standing.last_commit {
                        observe::last_stored(cluster, *at);
                    }
                }
                Err(error) => tracing::debug!(%error, "asking the store for what gauges say"),
            }
            if !s.rest(STANDING).await {
                return Ok(());
            }
        }
    });
    let s = shared.clone();
    lifecycle.spawn("held back", async move {
        HeldBack::keep_up(&s).await;
        Ok(())
    });
    let s = shared.clone();
    lifecycle.spawn("claims", async move {
        let every = s.config.redis.claim_idle / 3;
        // Until the very end: what is in hand while draining must not be claimed by others either.
        while !s.lifecycle.stopping().is_cancelled() {
            for partition in s.queue.partitions() {
                for some in s.in_hand.of(partition).chunks(KEPT_AT_ONCE) {
                    if let Err(error) = s.queue.keep(partition, some).await {
                        tracing::debug!(%partition, %error, "keeping claims in Redis");
                        break;
                    }
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

/// Looks at all partitions at once: one that does not answer holds up no other, and stays as it was seen last.
async fn look(shared: &Shared, queue: &mut [PartitionState]) {
    let ask = async |partition: Partition, seen: &mut PartitionState| {
        if let Ok(state) = shared.inspector.look(partition, 0).await {
            let Backlog { entries, pending, oldest_ms } = state.backlog;
            observe::backlog(partition, entries, pending, Duration::from_millis(oldest_ms));
            *seen = state;
        }
    };
    join_all(shared.queue.partitions().iter().zip(queue).map(|(partition, seen)| ask(partition, seen))).await;
}

/// What the partitions come to. A group that is no longer there has nothing waiting.
fn observe_lag(queue: &[PartitionState], groups: &mut BTreeMap<String, Backlog>) {
    let add = |to: &mut Backlog, more: &Backlog| {
        to.entries += more.entries;
        to.oldest_ms = to.oldest_ms.max(more.oldest_ms);
    };
    let mut all = Backlog::default();
    groups.values_mut().for_each(|group| *group = Backlog::default());
    for partition in queue {
        add(&mut all, &partition.backlog);
        for group in &partition.groups {
            add(groups.entry(group.name.clone()).or_default(), &group.backlog);
        }
    }
    observe::lag(all.entries, Duration::from_millis(all.oldest_ms));
    for (name, lag) in groups {
        observe::group_lag(name, lag.entries, Duration::from_millis(lag.oldest_ms));
    }
}
