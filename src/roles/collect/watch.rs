//! What goes on beside the rows: gauges, claims that are kept, entries that are let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::context::CollectContext;
use super::held_back;
use super::store_access::{is_transient, keep_mark};
use crate::model::Partition;
use crate::protocol::receipts::LetGo;
use crate::runtime::observe;
use crate::transport::{Backlog, PartitionState};

/// Receipts that are kept with one command.
const KEPT_AT_ONCE: usize = 1000;
/// Between two looks at the queue.
const GAUGES: Duration = Duration::from_secs(2);
/// Between two looks at what the store says of itself.
const STANDING: Duration = Duration::from_secs(15);

/// Starts gauges, and keeps claims.
pub(super) fn start(context: &Arc<CollectContext>) {
    let lifecycle = &context.lifecycle;
    let s = context.clone();
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
    let s = context.clone();
    lifecycle.spawn("standing", async move {
        loop {
            match s.store.standing().await {
                Ok(standing) => {
                    observe::dead_letters_kept(standing.dead_letters);
                    for (cluster, at) in &standing.last_commit {
                        observe::last_stored(cluster, *at);
                    }
                    // Where nothing is to be stored, nobody else finds out.
                    match keep_mark(&s).await {
                        Err(error) if !is_transient(&error) => return Err(error),
                        Err(error) => {
                            tracing::debug!(%error, "comparing the store with what was committed");
                            s.to_be_compared.store(true, Ordering::Relaxed);
                        }
                        Ok(()) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "asking the store for what gauges say");
                    s.to_be_compared.store(true, Ordering::Relaxed);
                }
            }
            if !s.rest(STANDING).await {
                return Ok(());
            }
        }
    });
    let s = context.clone();
    lifecycle.spawn("held back", async move {
        let every = held_back::EVERY.min(s.receipts().settings().patience());
        while s.rest(every).await {
            let (due, held_back) = {
                let mut receipts = s.receipts();
                (receipts.due(s.began.elapsed()), receipts.held_back())
            };
            observe::held_back(held_back);
            for LetGo { partition, receipts, redelivery } in due {
                s.queue.let_go(partition, &receipts, redelivery);
            }
        }
        Ok(())
    });
    let s = context.clone();
    lifecycle.spawn("claims", async move {
        let every = s.receipts().settings().keep_every();
        // Until the very end: what is in hand while draining must not be claimed by others either.
        while !s.lifecycle.stopping().is_cancelled() {
            for partition in s.queue.partitions() {
                let kept = s.receipts().in_hand(partition);
                for some in kept.chunks(KEPT_AT_ONCE) {
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
async fn look(context: &CollectContext, queue: &mut [PartitionState]) {
    let ask = async |partition: Partition, seen: &mut PartitionState| {
        if let Ok(state) = context.inspector.look(partition, 0).await {
            let Backlog { entries, pending, oldest_ms } = state.backlog;
            observe::backlog(partition, entries, pending, Duration::from_millis(oldest_ms));
            *seen = state;
        }
    };
    join_all(context.queue.partitions().iter().zip(queue).map(|(partition, seen)| ask(partition, seen))).await;
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
            add(groups.entry(group.name.to_string()).or_default(), &group.backlog);
        }
    }
    observe::lag(all.entries, Duration::from_millis(all.oldest_ms));
    for (name, lag) in groups {
        observe::group_lag(name, lag.entries, Duration::from_millis(lag.oldest_ms));
    }
}
