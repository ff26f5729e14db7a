//! The ledger: one row a source, with the rows it covers.
//!
//! Sources are locked in the order of their ids, and before GPUs, by everybody: nobody waits in a circle. A commit locks the sources
//! of the families it touches, and reads what they cover when it has the locks. Two commits to one family always meet at a lock: each
//! registers its source before it locks, so the one that locks later sees, and locks, the other's source too.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures_util::TryStreamExt as _;
use futures_util::future::join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::Result;
use super::pool::Session;
use super::types::{clean, parse_range, row_set};
use crate::batch::Header;
use crate::model::{FamilyId, Reason, RowSet, SourceId, TimeMs};
use crate::store::ledger_change::LedgerChange;
use crate::store::{ConflictSpan, Ids, Limit, SourceLedger, Standing, Texts as _};

/// Selects what the sources of some families cover.
pub(super) const SELECT_COVERED: &str =
    "SELECT id, family, cluster <> '', covered::text FROM source WHERE id = ANY($1) OR family = ANY($2)";
/// [`SELECT_COVERED`] comes after it: whoever waits for a lock does so with a snapshot from before, which may lack a source that was registered,
/// locked and committed to meanwhile.
pub(super) const LOCK_SOURCES: &str = "SELECT id FROM source WHERE id = ANY($1) OR family = ANY($2) ORDER BY id FOR UPDATE";
/// Selects the rows of dead letters. Letters of rows that had one already add none: what is done to the first one settles these rows.
pub(super) const SELECT_DEAD_ROWS: &str = "SELECT source_id, rows::text FROM ONLY dead_letter WHERE source_id = ANY($1)";
pub(super) const ADD_TO_SOURCES: &str = "UPDATE source s \
     SET covered = s.covered + n.rows::int8multirange, valid = s.valid + n.valid, duplicate = s.duplicate + n.duplicate, \
         extra = s.extra + n.extra, first_commit = coalesce(s.first_commit, clock_timestamp()), \
         last_commit = greatest(s.last_commit, clock_timestamp()), newest_sample = greatest(s.newest_sample, n.newest), \
         conflict = s.conflict + n.conflict, expired = s.expired + n.expired \
     FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[], $8::bigint[]) \
          AS n (id, rows, valid, duplicate, extra, newest, conflict, expired) \
     WHERE s.id = n.id RETURNING s.id, s.covered::text, s.dropped::text";
pub(super) const ADD_REJECTS: &str = "INSERT INTO source_reject (source_id, reason, n) \
     SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bigint[]) \
     ON CONFLICT (source_id, reason) DO UPDATE SET n = source_reject.n + excluded.n";

/// The sources of a group and their families.
pub(super) struct GroupSources<'a> {
    headers: BTreeMap<SourceId, &'a Header>,
    pub(super) ids: Vec<SourceId>,
    pub(super) families: Vec<FamilyId>,
}

impl<'a> GroupSources<'a> {
    pub(super) fn new(headers: impl Iterator<Item = &'a Header>) -> Self {
        let headers: BTreeMap<SourceId, &Header> = headers.map(|header| (header.source, header)).collect();
        let families: BTreeSet<FamilyId> = headers.values().map(|header| header.family).collect();
        Self { ids: headers.keys().copied().collect(), families: families.into_iter().collect(), headers }
    }
}

/// A source as the ledger has it.
struct CoveredSource {
    id: SourceId,
    family: FamilyId,
    /// Whether it was registered by a batch (and not for a dead letter, which does not know the family).
    named: bool,
    covered: RowSet,
}

/// The rows that the families of a group cover.
pub(super) struct Coverage {
    members: Vec<CoveredSource>,
}

impl Coverage {
    pub(super) fn read(session: &Session, rows: &[Row]) -> Result<Self> {
        let members = rows
            .iter()
            .map(|row| {
                let covered = row_set(row.get(3)).map_err(|why| session.unexpected(&why))?;
                Ok(CoveredSource { id: row.get(0), family: row.get(1), named: row.get(2), covered })
            })
            .collect::<Result<_>>()?;
        Ok(Self { members })
    }

    /// The rows that a source covers.
    pub(super) fn of(&self, source: SourceId) -> RowSet {
        self.members.iter().find(|member| member.id == source).map(|member| member.covered.clone()).unwrap_or_default()
    }

    /// The rows that a source and the others of its family cover.
    pub(super) fn of_family(&self, header: &Header) -> RowSet {
        let family = header.family;
        let mut all = RowSet::new();
        for member in self.members.iter().filter(|member| member.id == header.source || member.family == family) {
            all.extend(&member.covered);
        }
        all
    }
}

/// Learns what is covered, without a lock.
pub(super) async fn learn(session: &Session, wanted: &GroupSources<'_>) -> Result<Coverage> {
    Coverage::read(session, &session.query(SELECT_COVERED, &[&wanted.ids, &wanted.families]).await?)
}

/// Makes rows for the sources that have none, and names those that were made without a batch.
pub(super) async fn register(session: &Session, wanted: &GroupSources<'_>, cover: &Coverage) -> Result<()> {
    let named: BTreeSet<SourceId> = cover.members.iter().filter(|member| member.named).map(|member| member.id).collect();
    let new: Vec<&Header> = wanted.headers.iter().filter(|(id, _)| !named.contains(id)).map(|(_, header)| *header).collect();
    if new.is_empty() {
        return Ok(());
    }
    let ids: Vec<SourceId> = new.iter().map(|header| header.source).collect();
    let families: Vec<FamilyId> = new.iter().map(|header| header.family).collect();
    let clusters: Vec<_> = new.iter().map(|header| clean(&header.cluster)).collect();
    let names: Vec<_> = new.iter().map(|header| clean(&header.name)).collect();
    session
        .execute(
            "INSERT INTO source (id, family, cluster, name) \
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) \
             ON CONFLICT (id) DO UPDATE SET family = excluded.family, cluster = excluded.cluster, name = excluded.name \
             WHERE source.cluster = ''",
            &[&ids, &families, &clusters, &names],
        )
        .await?;
    Ok(())
}

/// The changes of a commit as the parameters of [`ADD_TO_SOURCES`] and [`ADD_REJECTS`].
#[derive(Default)]
pub(super) struct ChangeColumns {
    pub(super) ids: Vec<SourceId>,
    pub(super) rows: Vec<String>,
    pub(super) valid: Vec<i64>,
    pub(super) duplicate: Vec<i64>,
    pub(super) extra: Vec<i64>,
    pub(super) newest: Vec<Option<TimeMs>>,
    pub(super) conflict: Vec<i64>,
    pub(super) expired: Vec<i64>,
    pub(super) reject_ids: Vec<SourceId>,
    pub(super) reasons: Vec<i16>,
    pub(super) rejected: Vec<i64>,
}

impl ChangeColumns {
    pub(super) fn new(changes: &BTreeMap<SourceId, LedgerChange>) -> Self {
        let mut columns = Self::default();
        for (id, change) in changes {
            columns.ids.push(*id);
            columns.rows.push(change.rows.to_string());
            columns.valid.push(change.valid.cast_signed());
            columns.duplicate.push(change.duplicate.cast_signed());
            columns.extra.push(change.extra.cast_signed());
            columns.newest.push(change.newest);
            columns.conflict.push(change.conflict.cast_signed());
            columns.expired.push(change.expired.cast_signed());
            for (reason, n) in &change.rejected {
                columns.reject_ids.push(*id);
                columns.reasons.push(i16::from(reason.code()));
                columns.rejected.push(n.cast_signed());
            }
        }
        columns
    }
}

/// How far each source is settled: where the first range from row 0 of covered, dropped and dead ends. `rows` are (id, covered,
/// dropped), `dead` are (id, rows).
pub(super) fn settled(session: &Session, rows: &[Row], dead: &[Row]) -> Result<Vec<(SourceId, u64)>> {
    let mut sets: BTreeMap<SourceId, RowSet> = BTreeMap::new();
    for row in rows {
        let set = sets.entry(row.get(0)).or_default();
        for column in [1, 2] {
            set.extend(&row_set(row.get(column)).map_err(|why| session.unexpected(&why))?);
        }
    }
    for row in dead {
        let range = parse_range(row.get(1)).map_err(|why| session.unexpected(&why))?;
        sets.entry(row.get(0)).or_default().insert(range);
    }
    Ok(sets.into_iter().map(|(id, set)| (id, set.ranges().first().filter(|r| r.first == 0).map_or(0, |r| r.end))).collect())
}

/// How far these sources are settled, in the order asked; unknown ones are at 0.
pub(super) async fn settled_of(session: &Session, sources: &[SourceId]) -> Result<Vec<(SourceId, u64)>> {
    let (of_sources, of_dead) = (
        session.prepare("SELECT id, covered::text, dropped::text FROM source WHERE id = ANY($1)").await?,
        session.prepare(SELECT_DEAD_ROWS).await?,
    );
    // Dead letters first: one that is revived between the two is then counted in both, not in neither.
    let (dead, rows) =
        join(session.query_prepared(&of_dead, &[&sources]), session.query_prepared(&of_sources, &[&sources])).await;
    let known: BTreeMap<SourceId, u64> = settled(session, &rows?, &dead?)?.into_iter().collect();
    Ok(sources.iter().map(|source| (*source, known.get(source).copied().unwrap_or(0))).collect())
}

/// What the gauges say. Sources that were made for a dead letter alone have no cluster, and no commit.
pub(super) async fn standing(session: &Session) -> Result<Standing> {
    let rows = session
        .query(
            "SELECT NULL, NULL, (SELECT count(*) FROM dead_letter) UNION ALL \
             SELECT cluster, max(last_commit), NULL FROM source WHERE last_commit IS NOT NULL GROUP BY cluster",
            &[],
        )
        .await?;
    let mut standing = Standing::default();
    for row in &rows {
        match row.get::<_, Option<i64>>(2) {
            Some(letters) => standing.dead_letters = letters.cast_unsigned(),
            None => {
                standing.last_commit.insert(row.get(0), row.get(1));
            }
        }
    }
    Ok(standing)
}

/// What [`one`] reads of `source` as `s`. A schema that was not migrated yet has no columns `conflict` and `expired`: the names are then
/// those of [`NONE_YET`].
const LEDGER_COLUMNS: &str = "s.id, s.cluster, s.name, s.covered::text, s.dropped::text, \
     (SELECT range_agg(d.rows)::text FROM ONLY dead_letter d WHERE d.source_id = s.id), \
     s.valid, s.duplicate, r.reasons, r.counts, s.first_commit, s.last_commit, s.newest_sample, \
     (SELECT conflict FROM source c WHERE c.id = s.id), (SELECT expired FROM source c WHERE c.id = s.id)";
/// What stands for columns of a source where there are none yet.
const NONE_YET: &str = "CROSS JOIN (SELECT 0::bigint AS conflict, 0::bigint AS expired) AS none";

/// The ledger of every source, as of one moment.
pub(super) async fn all(session: &Session) -> Result<Vec<SourceLedger>> {
    let sql = format!(
        "WITH rejected AS (SELECT source_id, array_agg(reason) AS reasons, array_agg(n) AS counts FROM source_reject GROUP BY source_id) \
         SELECT {LEDGER_COLUMNS} FROM source s LEFT JOIN rejected r ON r.source_id = s.id {NONE_YET} ORDER BY s.cluster, s.name, s.id"
    );
    session.query(&sql, &[]).await?.iter().map(|row| one(session, row)).collect()
}

/// Some ledgers, by id, until their texts come to the limit; the rest is left unread, and the session is not used again.
pub(super) async fn some(session: Session, after: Option<SourceId>, limit: Limit) -> Result<Vec<SourceLedger>> {
    let sql = format!(
        "SELECT {LEDGER_COLUMNS} FROM source s \
           LEFT JOIN LATERAL (SELECT array_agg(reason) AS reasons, array_agg(n) AS counts FROM source_reject WHERE source_id = s.id) r ON true {NONE_YET} \
          WHERE $1::uuid IS NULL OR s.id > $1 ORDER BY s.id LIMIT $2"
    );
    let statement = session.prepare(&sql).await?;
    let most = i64::try_from(limit.rows).unwrap_or(i64::MAX);
    let values: [&(dyn ToSql + Sync); 2] = [&after, &most];
    let rows = session.within(session.raw().query_raw(&statement, values)).await?;
    let mut rows = pin!(rows);
    let (mut read, mut bytes) = (Vec::new(), 0);
    while let Some(row) = session.within(rows.try_next()).await? {
        let ledger = one(&session, &row)?;
        bytes += ledger.text_bytes();
        read.push(ledger);
        if bytes >= limit.bytes {
            return Ok(read);
        }
    }
    session.done();
    Ok(read)
}

fn one(session: &Session, row: &Row) -> Result<SourceLedger> {
    let set = |column: usize| row_set(row.get(column)).map_err(|why| session.unexpected(&why));
    let (covered, dropped, dead) = (set(3)?, set(4)?, set(5)?);
    let reasons: Vec<i16> = row.get::<_, Option<_>>(8).unwrap_or_default();
    let counts: Vec<i64> = row.get::<_, Option<_>>(9).unwrap_or_default();
    let rejected = reasons
        .into_iter()
        .zip(counts)
        .map(|(code, n)| {
            let reason = u8::try_from(code).ok().and_then(Reason::from_code);
            Ok((reason.ok_or_else(|| session.unexpected(&format!("the reject reason {code}")))?, n.cast_unsigned()))
        })
        .collect::<Result<_>>()?;
    Ok(SourceLedger {
        source: row.get(0),
        cluster: row.get(1),
        name: row.get(2),
        dead: dead.minus(&covered).minus(&dropped),
        dropped: dropped.minus(&covered),
        covered,
        valid: row.get::<_, i64>(6).cast_unsigned(),
        duplicate: row.get::<_, i64>(7).cast_unsigned(),
        rejected,
        first_commit: row.get(10),
        last_commit: row.get(11),
        newest_sample: row.get(12),
        conflict: row.get::<_, i64>(13).cast_unsigned(),
        expired: row.get::<_, i64>(14).cast_unsigned(),
    })
}

/// Selects some conflicts, each with its series, whichever form that is registered in.
const SELECT_CONFLICTS: &str = "SELECT c.id, c.series_id, c.t_min, c.t_max, g.cluster, g.hostname, g.uuid, g.gpu_index, s.metric, s.gpu_id \
     FROM (SELECT * FROM sample_conflict WHERE id > $1 ORDER BY id LIMIT $2) c \
    CROSS JOIN LATERAL ( \
          SELECT metric, gpu_id FROM series WHERE id = c.series_id \
           UNION ALL \
          SELECT m.name, t.gpu_id FROM series_set t JOIN metric_list l ON l.id = t.list_id \
            JOIN metric m ON m.id = l.metrics[(c.series_id & 63) + 1] WHERE t.id = c.series_id >> 6) s \
     JOIN gpu g ON g.id = s.gpu_id ORDER BY c.id";

/// Where conflicts are. A schema that was not migrated yet has none to list.
pub(super) async fn conflict_spans(session: &Session, after: i64, limit: usize) -> Result<Vec<ConflictSpan>> {
    if session.query("SELECT FROM pg_class WHERE oid = to_regclass('series_set')", &[]).await?.is_empty() {
        return Ok(Vec::new());
    }
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = session.query(SELECT_CONFLICTS, &[&after, &most]).await?;
    let span = |row: &Row| ConflictSpan {
        id: row.get(0),
        ids: Ids { series: row.get(1), gpu: row.get(9) },
        first: row.get(2),
        last: row.get(3),
        cluster: row.get(4),
        hostname: row.get(5),
        gpu: row.get(6),
        gpu_index: row.get::<_, Option<i32>>(7).and_then(|index| u32::try_from(index).ok()),
        metric: row.get(8),
    };
    Ok(rows.iter().map(span).collect())
}
