//! Reaching the store: whether it is the one that this group commits to, and waiting for one that is away.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::anyhow;

use super::context::CollectContext;
use crate::model::{Partition, SourceId};
use crate::protocol::receipts::{self, Comparison, Marked, OtherStore, StoreAttempts};
use crate::retry::drawn;
use crate::runtime::observe::{self, Target};
use crate::store::{Committed, Incoming, StoreError, StoreKind};
use crate::transport::TransportError;

/// Between two questions to the store whether it answers, and how long an answer may take.
const PING: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// Sources whose committed rows are written anew with one command.
const WRITTEN_AT_ONCE: usize = 512;
/// What /readyz calls what waits for the store to take it.
const STORING: &str = "storing";

/// Brings the schema up to date and makes sure that the store is the one this group commits to; `false` when the process is to
/// end first.
pub(super) async fn open_store(context: &CollectContext) -> anyhow::Result<bool> {
    let mut attempts = StoreAttempts::default();
    loop {
        let opened = async {
            context.store.migrate().await?;
            context.store.check_rights().await?;
            same_store(context).await
        };
        let opened = opened.await;
        let Err(error) = opened else { return Ok(true) };
        if !is_transient(&error) {
            return Err(error);
        }
        if !attempts.was_away() {
            tracing::warn!("waiting: {error:#}");
        }
        context.lifecycle.health().set(context.store.kind().health_check(), Err(error.to_string()));
        if !context.rest(drawn(attempts.away())).await {
            return Ok(false);
        }
    }
}

/// Asks the store whether it answers, now and then and whenever /readyz is asked.
pub(super) fn watch(context: &CollectContext) {
    let store = context.store.clone();
    context.lifecycle.watch(context.store.kind().health_check(), PING, PATIENCE, move || {
        let store = store.clone();
        async move { store.ping().await.map_err(|error| error.to_string()) }
    });
}

/// Whether waiting can help.
pub(super) fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient)
        || error.downcast_ref::<TransportError>().is_some_and(TransportError::is_transient)
        || error.is::<SetBack>()
}

/// Everything was set back while the store was compared: which one it is is to be asked again.
#[derive(Debug, thiserror::Error)]
#[error("everything was set back (telemetry replay --all) while {0} was compared with the queue; it is compared anew")]
struct SetBack(&'static str);

/// Fails where the store is another one than this group has committed to, or an older state of it: then rows that the queue has let
/// go would be missing for ever. Where the queue knows less than the store has (what it was told is lost or malformed), it is told again:
/// whoever waits for a source that was stored long ago would wait for ever.
pub(super) async fn same_store(context: &CollectContext) -> anyhow::Result<()> {
    compare_store(context, true).await
}

/// Looks whether the queue still has the mark of this store: one that was emptied has it no more, and would take that of another store.
/// Partitions that lost it get it again.
pub(super) async fn keep_mark(context: &CollectContext) -> anyhow::Result<()> {
    compare_store(context, context.to_be_compared.load(Ordering::Relaxed)).await
}

/// In the order that [`Comparison`] asks for.
async fn compare_store(context: &CollectContext, sources: bool) -> anyhow::Result<()> {
    let refused = |other: OtherStore| refused(context, &other);
    let mut comparison = Comparison::begin(context.queue.store_marks().await?, sources);
    // Who does not compare what it has must not pass over that it may have less.
    let id = if comparison.compares_sources() { context.store.id().await? } else { context.store.id_if_unchanged().await? };
    comparison.store_is(&id).map_err(refused)?;
    if comparison.compares_sources() {
        for partition in context.inspector.partitions() {
            let states = match context.inspector.sources(partition).await {
                Ok(states) => states,
                // A node of a cluster that is away keeps nobody from the partitions of the others: its own are compared later.
                Err(error) if error.is_transient() => {
                    comparison.passed_over();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let committed: Vec<_> = states.into_iter().map(|state| (state.source, state.committed)).collect();
            let ids: Vec<_> = committed.iter().map(|(source, _)| *source).collect();
            comparison.sources(partition, &committed, &context.store.settled(&ids).await?).map_err(refused)?;
        }
    }
    let answers = if comparison.looks_again() {
        let marks = context.queue.store_marks().await?;
        marks.into_iter().filter_map(|(partition, mark)| Some((partition, mark?))).collect()
    } else {
        context.queue.mark_store(&id, &comparison.to_mark()).await?
    };
    match comparison.marked(&id, &answers).map_err(refused)? {
        Marked::SetBack => return Err(SetBack(context.store.kind().name()).into()),
        Marked::Stands => {}
    }
    for (partition, behind) in comparison.behind() {
        tell_committed(context, *partition, behind).await?;
    }
    if comparison.compares_sources() {
        context.to_be_compared.store(!comparison.is_complete(), Ordering::Relaxed);
    }
    Ok(())
}

fn refused(context: &CollectContext, other: &OtherStore) -> anyhow::Error {
    let kind = context.store.kind();
    anyhow!("{}. {}", what_is_other(kind, other), remedy(kind))
}

/// Tells the queue how far sources are stored.
async fn tell_committed(context: &CollectContext, partition: Partition, settled: &[(SourceId, u64)]) -> anyhow::Result<()> {
    for some in settled.chunks(WRITTEN_AT_ONCE) {
        tracing::info!(%partition, sources = some.len(), "telling the queue again how far sources are stored");
        match context.queue.acknowledge(partition, Vec::new(), some).await {
            Ok(_) => {}
            // As above; the next acknowledgement of each source tells it, too.
            Err(error) if error.is_transient() => {
                tracing::debug!(%partition, %error, "telling the queue how far sources are stored");
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What to do where a store is not the one that was committed to.
pub(in crate::roles) fn remedy(kind: StoreKind) -> String {
    format!(
        "To send everything again into this one, run `telemetry replay --all` and (for files that were read to their end) the \
         streamers again; what is stored stays single. Else {}.",
        kind.way_back()
    )
}

/// In what a store is not the one that was committed to, for people.
pub(in crate::roles) fn what_is_other(kind: StoreKind, other: &OtherStore) -> String {
    let name = kind.name();
    match other {
        OtherStore::Another { store, marked } => {
            format!("this {name} is another store ({store}) than the one that was committed to so far ({marked})")
        }
        OtherStore::Older { source, committed, settled } => format!(
            "this {name} is older than what was committed (a restored backup, or a failover that lost commits?): of source {source} rows \
             up to {committed} were committed, it has them up to {settled}"
        ),
    }
}

/// Runs something on the store until it answers; `None` when the process is to end first.
pub(super) async fn with_store<T, F>(context: &CollectContext, attempt: impl Fn() -> F) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    Ok(attempt_on_store(context, attempt).await?.map(|(done, _)| done))
}

/// Notes in the store that an entry failed; how often it has, for certain. A note whose answer was lost is made again, and is one.
pub(super) async fn note_failure(context: &CollectContext, entry: &str, reason: &str) -> anyhow::Result<Option<u32>> {
    let noted = attempt_on_store(context, || context.store.note_failure(entry, reason)).await?;
    Ok(noted.map(|(failures, attempts)| attempts.certain(failures)))
}

/// As [`with_store`], and tells how often that took.
async fn attempt_on_store<T, F>(context: &CollectContext, attempt: impl Fn() -> F) -> anyhow::Result<Option<(T, StoreAttempts)>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut attempts = StoreAttempts::default();
    loop {
        let same = if attempts.must_compare() { same_store(context).await } else { Ok(()) };
        let error = match same {
            Err(error) => error,
            Ok(()) => match attempt().await {
                Ok(done) => {
                    if attempts.was_away() {
                        tracing::info!("{} is back", context.store.kind().name());
                        observe::reconnect(Target::Postgres);
                        context.lifecycle.health().set(STORING, Ok(()));
                    }
                    return Ok(Some((done, attempts)));
                }
                Err(error) => error.into(),
            },
        };
        if !is_transient(&error) {
            return Err(error);
        }
        if !attempts.was_away() {
            tracing::warn!("waiting: {error:#}");
        }
        context.lifecycle.health().set(STORING, Err(format!("waiting: {error:#}")));
        if !context.rest(drawn(attempts.away())).await {
            return Ok(None);
        }
    }
}

/// Why the store does not take a group, though it can be reached.
pub(super) enum Refusal {
    /// A batch of the group cannot be stored.
    BadBatch(String),
    /// What is stored already is damaged, so that nobody can say whether a batch is. Names the chunk.
    DamagedChunk(String),
}

impl Refusal {
    /// Which one it is, without the words.
    pub(super) fn kind(&self) -> receipts::Refusal {
        match self {
            Self::BadBatch(_) => receipts::Refusal::BadBatch,
            Self::DamagedChunk(_) => receipts::Refusal::DamagedChunk,
        }
    }
}

/// Commits batches, as soon as the store answers; `None` when the process is to end first.
pub(super) async fn try_commit(
    context: &CollectContext,
    batches: &[Incoming],
) -> anyhow::Result<Option<Result<Committed, Refusal>>> {
    with_store(context, || async {
        match context.store.commit(batches).await {
            Err(StoreError::BadBatch(reason)) => Ok(Err(Refusal::BadBatch(reason))),
            Err(StoreError::DamagedChunk(error)) => Ok(Err(Refusal::DamagedChunk(error))),
            other => other.map(Ok),
        }
    })
    .await
}
