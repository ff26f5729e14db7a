//! The commit: samples, rejects and the covered ranges of their sources, in one transaction. A sample (series, time, value) is written
//! once.
//!
//! Fast path: by position nothing of the group is covered, and by time nothing of it meets what is stored. The rows are copied first,
//! and sources and blocks of GPUs locked last, briefly; if it shows under the locks that the group is not that new, everything is rolled back
//! and the slow path begins. Slow path: sources and blocks are locked first, what may be stored already is compared with what is, and
//! the rest is copied. As the ids of chunks are drawn under the locks of their blocks, a sample that is written beside another value of
//! its series and time has the greater id. Both paths use one connection from the first look to the COMMIT, and ask it in every
//! transaction which store this is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::{join, join3};
use rand::Rng;

use super::blocks::{self, BlockState};
use super::copy;
use super::error::{PostgresError, Result};
use super::ledger::{self, ChangeColumns, Coverage, GroupSources};
use super::overlap::Whose;
use super::partitions;
use super::pool::Session;
use super::types::range_text;
use super::{PostgresStore, live, overlap, series};
use crate::model::{BlockId, FamilyId, RowRange, RowSet, SeriesId, SourceId, TimeMs};
use crate::store::chunk::{Day, Part, Spans, day_of};
use crate::store::compare::{Comparison, Conflicts, Outcome, Outcomes, Survey};
use crate::store::ledger_change::LedgerChange;
use crate::store::{Committed, Incoming, StoreError};

/// Attempts at a commit that loses against another one.
const ATTEMPTS: u32 = 8;

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Notes conflicts, for those who want to look at them.
const ADD_CONFLICTS: &str = "INSERT INTO sample_conflict (source_id, series_id, t_min, t_max, n) \
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])";

/// What is entered at the end of a transaction.
#[derive(Default)]
struct Work {
    committed: Committed,
    changes: BTreeMap<SourceId, LedgerChange>,
    conflicts: BTreeMap<(SourceId, SeriesId), Conflicts>,
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
    // Before anything is announced or registered: not in another store.
    let floor = store.check_id(&session).await?.floor;
    let cover = ledger::learn(&session, &wanted).await?;
    ledger::register(&session, &wanted, &cover).await?;
    live::announce(&session, &store.caches).await?;
    let ids = series::resolve(&session, &store.caches, group).await?;
    partitions::ensure(&session, &store.caches, &days_kept(group, floor)).await?;

    let parts: Vec<Part<'_>> =
        group.iter().zip(&ids).map(|(incoming, ids)| Part { batch: incoming.batch(), ids, keep: None }).collect();
    let group = Group { wanted, incoming: group, survey: Survey::new(&parts), parts };
    let is_new = letter.is_none() && is_disjoint(group.incoming, &cover) && {
        let guess = store.marks.guess(&group.survey);
        !overlap::any(&session, &guess, Whose::All).await?
    };
    let committed = match if is_new { fast(store, &session, &group).await? } else { None } {
        Some(committed) => committed,
        None => slow(store, &session, &group, letter).await?,
    };
    session.done();
    Ok(committed)
}

/// The batches of a commit, with what is known of them.
struct Group<'a> {
    wanted: GroupSources<'a>,
    incoming: &'a [Incoming],
    parts: Vec<Part<'a>>,
    survey: Survey,
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

/// The days of a group that are not below the floor.
fn days_kept(group: &[Incoming], floor: Option<TimeMs>) -> BTreeSet<Day> {
    let times = group.iter().flat_map(|incoming| &incoming.batch().time_ms);
    times.filter(|time| floor.is_none_or(|floor| **time >= floor)).map(|time| day_of(*time)).collect()
}

/// Begins the transaction; returns the floor, as it is in it. Where the floor is raised from then on, what the transaction writes below it
/// goes with the partition; and where that is gone, there is no other (see `partitions::make`).
async fn begin(store: &PostgresStore, session: &Session) -> Result<Option<TimeMs>> {
    let (begun, checked) = join(session.batch(BEGIN), store.check_id(session)).await;
    begun?;
    Ok(checked?.floor)
}

/// `None`: something of the group is covered or may be stored, nothing was written.
async fn fast(store: &PostgresStore, session: &Session, group: &Group<'_>) -> Result<Option<Committed>> {
    // What the group itself says twice is seen without the store.
    let comparison = Comparison::new(&group.parts, &group.survey, &[]);
    let floor = begin(store, session).await?;
    let outcomes = comparison.outcomes(&group.parts, floor);
    let work = write(session, group, outcomes, |_| RowSet::new()).await?;
    let token = rand::rng().random();
    let done = finish(session, &group.wanted, &work, token).await?;
    let suspects = store.marks.suspects(&group.survey, &done.before);
    if is_disjoint(group.incoming, &done.cover) && !overlap::any(session, &suspects, Whose::Others).await? {
        store.marks.note(&group.survey, &work.spans, &done.before, token);
        session.batch("COMMIT").await?;
        return Ok(Some(Committed { settled: done.settled, ..work.committed }));
    }
    session.batch("ROLLBACK").await?;
    Ok(None)
}

async fn slow(store: &PostgresStore, session: &Session, group: &Group<'_>, letter: Option<i64>) -> Result<Committed> {
    let Group { wanted, parts, survey, .. } = group;
    let floor = begin(store, session).await?;
    session.query(ledger::LOCK_SOURCES, &[&wanted.ids, &wanted.families]).await?;
    let cover = ledger::learn(session, wanted).await?;
    if let Some(id) = letter {
        take_letter(session, id, parts).await?;
    }
    let locked = session.query(blocks::LOCK, &[&survey.blocks()]).await?;
    let suspects = store.marks.suspects(survey, &blocks::states(&locked));
    let mut comparison = Comparison::new(parts, survey, &suspects);
    overlap::compare(session, &suspects, &mut comparison).await?;
    let work = write(session, group, comparison.outcomes(parts, floor), |source| cover.of(source)).await?;
    let token = rand::rng().random();
    let done = finish(session, wanted, &work, token).await?;
    store.marks.note(survey, &work.spans, &done.before, token);
    session.batch("COMMIT").await?;
    Ok(Committed { settled: done.settled, ..work.committed })
}

/// Writes what is new of a group. `cover` says what a source covers before.
async fn write(session: &Session, group: &Group<'_>, outcomes: Outcomes, cover: impl Fn(SourceId) -> RowSet) -> Result<Work> {
    let mut work = Work { conflicts: outcomes.conflicts, ..Work::default() };
    let (mut rejected, mut sources) = (Vec::new(), HashMap::new());
    for (part, outcome) in group.parts.iter().zip(&outcomes.parts) {
        let (batch, source) = (part.batch, part.batch.header.source);
        // What is covered as the batches of the group go in.
        let own: &mut RowSet = sources.entry(source).or_insert_with(|| cover(source));
        work.committed.rejected += work.changes.entry(source).or_default().take(batch, own, outcome, &mut rejected);
        own.insert(batch.rows);
        outcome.count(batch, &mut work.committed);
    }
    work.committed.expired = work.changes.values().map(|change| change.expired).sum();
    let kept: Vec<Option<Vec<bool>>> = outcomes.parts.iter().map(Outcome::kept).collect();
    let parts: Vec<Part<'_>> =
        group.parts.iter().zip(&kept).map(|(part, keep)| Part { keep: keep.as_deref(), ..*part }).collect();
    (_, work.spans) = copy::samples(session, &parts).await?;
    copy::rejects(session, &rejected).await?;
    Ok(work)
}

/// What [`finish`] has learned.
struct Finished {
    /// What was covered before.
    cover: Coverage,
    /// What the rows of the blocks that were written to said before.
    before: HashMap<BlockId, BlockState>,
    settled: Vec<(SourceId, u64)>,
}

/// Locks sources and blocks (again, on the slow path: that costs nothing), enters what was collected in the ledger and at the blocks, all
/// in one round trip, and says how far the sources are settled.
async fn finish(session: &Session, wanted: &GroupSources<'_>, work: &Work, token: i64) -> Result<Finished> {
    let columns = ChangeColumns::new(&work.changes);
    let changes = blocks::Changes::new(&work.spans);
    // All are prepared before the first is sent, so that they are sent in this order.
    let lock = session.prepare(ledger::LOCK_SOURCES).await?;
    let learn = session.prepare(ledger::SELECT_COVERED).await?;
    let dead = session.prepare(ledger::SELECT_DEAD_ROWS).await?;
    let add = session.prepare(ledger::ADD_TO_SOURCES).await?;
    let add_rejects = session.prepare(ledger::ADD_REJECTS).await?;
    let update = session.prepare(&blocks::UPDATE).await?;
    let ((locked, learned, dead), (added, rejects, before)) = join(
        join3(
            session.query_prepared(&lock, &[&wanted.ids, &wanted.families]),
            session.query_prepared(&learn, &[&wanted.ids, &wanted.families]),
            session.query_prepared(&dead, &[&wanted.ids]),
        ),
        join3(
            session.query_prepared(
                &add,
                &[
                    &columns.ids,
                    &columns.rows,
                    &columns.valid,
                    &columns.duplicate,
                    &columns.extra,
                    &columns.newest,
                    &columns.conflict,
                    &columns.expired,
                ],
            ),
            session.query_prepared(&add_rejects, &[&columns.reject_ids, &columns.reasons, &columns.rejected]),
            session.query_prepared(&update, &[&changes.ids, &changes.oldest, &changes.newest, &token]),
        ),
    )
    .await;
    // The first error is the cause of those behind it.
    locked?;
    let (learned, dead, added) = (learned?, dead?, added?);
    rejects?;
    let before = blocks::states(&before?);
    if added.len() != columns.ids.len() {
        return Err(session.unavailable("a source vanished while it was committed to".to_owned()));
    }
    if before.len() != changes.ids.len() {
        return Err(session.unavailable("a block of GPUs vanished while it was committed to".to_owned()));
    }
    add_conflicts(session, work).await?;
    let settled = ledger::settled(session, &added, &dead)?;
    Ok(Finished { cover: Coverage::read(session, &learned)?, before, settled })
}

async fn add_conflicts(session: &Session, work: &Work) -> Result<()> {
    if work.conflicts.is_empty() {
        return Ok(());
    }
    let (sources, series): (Vec<SourceId>, Vec<SeriesId>) = work.conflicts.keys().copied().unzip();
    let first: Vec<TimeMs> = work.conflicts.values().map(|conflicts| conflicts.first).collect();
    let last: Vec<TimeMs> = work.conflicts.values().map(|conflicts| conflicts.last).collect();
    let n: Vec<i64> = work.conflicts.values().map(|conflicts| conflicts.n.cast_signed()).collect();
    session.execute(ADD_CONFLICTS, &[&sources, &series, &first, &last, &n]).await?;
    Ok(())
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
