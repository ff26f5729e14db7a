//! The commit: samples, rejects and the covered ranges of their sources, in one transaction.
//!
//! Fast path: nothing of the group overlaps with what is covered, so the rows are copied first and the sources locked last, briefly;
//! if an overlap shows under the lock, everything is rolled back and the slow path begins. Slow path: the sources are locked first,
//! and rows at covered positions are written only if the store does not have them. Both use one connection from the first look to
//! the COMMIT, and ask it in every transaction which store this is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::{join, join3};
use rand::Rng;

use super::copy;
use super::error::{PostgresError, Result};
use super::ledger::{self, ChangeColumns, Coverage, GroupSources};
use super::partitions;
use super::pool::Session;
use super::types::range_text;
use super::{PostgresStore, overlap, series};
use crate::batch::Batch;
use crate::model::{FamilyId, GpuId, RowRange, RowSet, SourceId, TimeMs};
use crate::store::chunk::{Part, Spans, day_of};
use crate::store::ledger_change::LedgerChange;
use crate::store::{Committed, Incoming, StoreError};

/// Attempts at a commit that loses against another one.
const ATTEMPTS: u32 = 8;

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Widens the times of GPUs in one statement, in the order of ids, and only where they change: GPUs are shared by every collector.
const UPDATE_GPU_TIMES: &str = "WITH n AS (SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS n (id, oldest, newest)), \
     l AS (SELECT g.id, n.oldest, n.newest FROM gpu g JOIN n ON n.id = g.id \
            WHERE g.first_seen IS NULL OR n.oldest < g.first_seen OR n.newest > g.last_seen \
            ORDER BY g.id FOR NO KEY UPDATE OF g) \
     UPDATE gpu g SET first_seen = least(g.first_seen, l.oldest), last_seen = greatest(g.last_seen, l.newest) FROM l WHERE g.id = l.id";

/// What is entered at the end of a transaction.
#[derive(Default)]
struct Work {
    committed: Committed,
    changes: BTreeMap<SourceId, LedgerChange>,
    spans: Spans,
}

/// Commits a group; with `letter`, the dead letter of that number is removed with it.
pub(super) async fn commit(store: &PostgresStore, group: &[Incoming], letter: Option<i64>) -> crate::store::Result<Committed> {
    if group.is_empty() {
        return Ok(Committed::default());
    }
    let mut attempt = 1;
    loop {
        match try_commit(store, group, letter).await {
            Err(fault) if fault.is_worth_a_retry() && attempt < ATTEMPTS => {
                // Whatever went away under us has to be looked for again.
                store.caches.forget();
                let wait = rand::rng().random_range(1..=10 << attempt);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                attempt += 1;
            }
            result => return result.map_err(StoreError::from),
        }
    }
}

async fn try_commit(store: &PostgresStore, group: &[Incoming], letter: Option<i64>) -> Result<Committed> {
    let session = store.connections.session().await?;
    let wanted = GroupSources::new(group.iter().map(|incoming| &incoming.batch().header));
    // Before anything is registered: not into another store.
    store.check_id(&session).await?;
    let cover = ledger::learn(&session, &wanted).await?;
    ledger::register(&session, &wanted, &cover).await?;
    let ids = series::resolve(&session, &store.caches, group).await?;
    let days: BTreeSet<_> = group.iter().flat_map(|incoming| incoming.batch().time_ms.iter().map(|time| day_of(*time))).collect();
    partitions::ensure(&session, &store.caches, &days).await?;

    let parts: Vec<Part<'_>> =
        group.iter().zip(&ids).map(|(incoming, ids)| Part { batch: incoming.batch(), ids, keep: None }).collect();
    let committed = if letter.is_none() && is_disjoint(group, &cover) {
        match fast(store, &session, &wanted, group, &parts).await? {
            Some(committed) => committed,
            None => slow(store, &session, &wanted, &parts, letter).await?,
        }
    } else {
        slow(store, &session, &wanted, &parts, letter).await?
    };
    session.done();
    Ok(committed)
}

/// Whether no batch overlaps with what its family covers, nor with another of the group.
fn is_disjoint(group: &[Incoming], cover: &Coverage) -> bool {
    let mut taken: HashMap<FamilyId, RowSet> = HashMap::new();
    group.iter().all(|incoming| {
        let (header, rows) = (&incoming.batch().header, incoming.batch().rows);
        let taken = taken.entry(header.family).or_default();
        let free = !taken.overlaps(rows) && !cover.of_family(header).overlaps(rows);
        taken.insert(rows);
        free
    })
}

async fn begin(store: &PostgresStore, session: &Session) -> Result<()> {
    let (begun, checked) = join(session.batch(BEGIN), store.check_id(session)).await;
    begun?;
    checked?;
    Ok(())
}

/// `None`: an overlap appeared, nothing was written.
async fn fast(
    store: &PostgresStore,
    session: &Session,
    wanted: &GroupSources<'_>,
    group: &[Incoming],
    parts: &[Part<'_>],
) -> Result<Option<Committed>> {
    let mut work = Work::default();
    let mut rejected = Vec::new();
    for part in parts {
        let batch = part.batch;
        work.changes.entry(batch.header.source).or_default().take_new(batch, &mut rejected);
        count_stored(&mut work.committed, batch, batch.row.len() as u64);
        work.committed.rejected += batch.rejects.len() as u64;
    }
    begin(store, session).await?;
    let (_, spans) = copy::samples(session, parts).await?;
    work.spans = spans;
    copy::rejects(session, &rejected).await?;
    let (cover, committed) = finish(session, wanted, work).await?;
    if is_disjoint(group, &cover) {
        session.batch("COMMIT").await?;
        return Ok(Some(committed));
    }
    session.batch("ROLLBACK").await?;
    Ok(None)
}

async fn slow(
    store: &PostgresStore,
    session: &Session,
    wanted: &GroupSources<'_>,
    parts: &[Part<'_>],
    letter: Option<i64>,
) -> Result<Committed> {
    begin(store, session).await?;
    session.query(ledger::LOCK_SOURCES, &[&wanted.ids, &wanted.families]).await?;
    let cover = ledger::learn(session, wanted).await?;
    if let Some(id) = letter {
        take_letter(session, id, parts).await?;
    }
    let mut work = Work::default();
    // What is covered as the batches of the group go in, by family and by source.
    let mut families: HashMap<FamilyId, RowSet> = HashMap::new();
    let mut sources: HashMap<SourceId, RowSet> = HashMap::new();
    for part in parts {
        let header = &part.batch.header;
        let family = families.entry(header.family).or_default();
        family.extend(&cover.of_family(header));
        let own = sources.entry(header.source).or_insert_with(|| cover.of(header.source));
        write_overlapping(session, part, family, own, &mut work).await?;
        family.insert(part.batch.rows);
        own.insert(part.batch.rows);
    }
    let (_, committed) = finish(session, wanted, work).await?;
    session.batch("COMMIT").await?;
    Ok(committed)
}

/// Writes what the store does not have of a batch. `family` and `own` are covered: by the family, and by the source itself.
async fn write_overlapping(session: &Session, part: &Part<'_>, family: &RowSet, own: &RowSet, work: &mut Work) -> Result<()> {
    let batch = part.batch;
    let covered: Vec<bool> = batch.row.iter().map(|row| family.contains(*row)).collect();
    let stored = overlap::stored(session, part, &covered).await?;
    let change = work.changes.entry(batch.header.source).or_default();
    let mut rejected = Vec::new();
    work.committed.rejected += change.take_overlapping(batch, own, &stored, &mut rejected);
    work.committed.duplicate += stored.iter().filter(|is_stored| **is_stored).count() as u64;

    let keep: Vec<bool> = stored.iter().map(|is_stored| !is_stored).collect();
    let new = Part { batch, ids: part.ids, keep: Some(&keep) };
    // Written at once, so that the next batch of the group is compared with it too.
    let (written, spans) = copy::samples(session, &[new]).await?;
    copy::rejects(session, &rejected).await?;
    count_stored(&mut work.committed, batch, written);
    for (gpu, (oldest, newest)) in spans {
        let span = work.spans.entry(gpu).or_insert((oldest, newest));
        *span = (span.0.min(oldest), span.1.max(newest));
    }
    Ok(())
}

fn count_stored(committed: &mut Committed, batch: &Batch, samples: u64) {
    if samples > 0 {
        *committed.stored.entry(batch.header.cluster.clone()).or_default() += samples;
    }
}

/// Locks the families (again, on the slow path: that costs nothing), enters what was collected in the ledger and at the GPUs, all in
/// one round trip, and says how far the sources are settled. Returned with what was covered
/// before.
async fn finish(session: &Session, wanted: &GroupSources<'_>, work: Work) -> Result<(Coverage, Committed)> {
    let columns = ChangeColumns::new(&work.changes);
    let mut gpus: Vec<GpuId> = work.spans.keys().copied().collect();
    gpus.sort_unstable();
    let oldest: Vec<TimeMs> = gpus.iter().map(|gpu| work.spans[gpu].0).collect();
    let newest: Vec<TimeMs> = gpus.iter().map(|gpu| work.spans[gpu].1).collect();
    // All are prepared before the first is sent, so that they are sent in this order.
    let lock = session.prepare(ledger::LOCK_SOURCES).await?;
    let learn = session.prepare(ledger::SELECT_COVERED).await?;
    let dead = session.prepare(ledger::SELECT_DEAD_ROWS).await?;
    let add = session.prepare(ledger::ADD_TO_SOURCES).await?;
    let add_rejects = session.prepare(ledger::ADD_REJECTS).await?;
    let seen = session.prepare(UPDATE_GPU_TIMES).await?;
    let ((locked, learned, dead), (added, rejects, seen)) = join(
        join3(
            session.query_prepared(&lock, &[&wanted.ids, &wanted.families]),
            session.query_prepared(&learn, &[&wanted.ids, &wanted.families]),
            session.query_prepared(&dead, &[&wanted.ids]),
        ),
        join3(
            session.query_prepared(
                &add,
                &[&columns.ids, &columns.rows, &columns.valid, &columns.duplicate, &columns.extra, &columns.newest],
            ),
            session.query_prepared(&add_rejects, &[&columns.reject_ids, &columns.reasons, &columns.rejected]),
            session.query_prepared(&seen, &[&gpus, &oldest, &newest]),
        ),
    )
    .await;
    // The first error is the cause of those behind it.
    locked?;
    let (learned, dead, added) = (learned?, dead?, added?);
    rejects?;
    seen?;
    if added.len() != columns.ids.len() {
        return Err(session.unavailable("a source vanished while it was committed to".to_owned()));
    }
    let mut committed = work.committed;
    committed.settled = ledger::settled(session, &added, &dead)?;
    Ok((Coverage::read(session, &learned)?, committed))
}

/// Removes the dead letter that the (only) batch was made from.
async fn take_letter(session: &Session, id: i64, parts: &[Part<'_>]) -> Result<()> {
    let bad = |why: String| PostgresError::from(StoreError::BadBatch(why));
    let rows = session.query("DELETE FROM dead_letter WHERE id = $1 RETURNING source_id, rows::text", &[&id]).await?;
    let Some(row) = rows.first() else { return Err(bad(format!("there is no dead letter {id}"))) };
    let source = row.get(0);
    let same = parts.iter().all(|part| {
        let RowRange { first, end } = part.batch.rows;
        part.batch.header.source == source && range_text(RowRange { first, end }) == row.get::<_, &str>(1)
    });
    if same { Ok(()) } else { Err(bad(format!("the batch is not that of dead letter {id}: its source or rows differ"))) }
}
