//! The ledger: one row a source, with the rows it covers. Within the one writer's transactions nobody else changes it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::{Result, SqliteError};
use crate::batch::Header;
use crate::model::{Digest, Reason, RowSet, SourceId, TimeMs};
use crate::store::ledger_change::{LedgerChange, RejectedRows};
use crate::store::text::{clean, parse_range, row_set};
use crate::store::{ConflictSpan, Ids, Limit, SourceLedger, Standing, Texts as _};

pub(super) fn parse_rows(text: Option<&str>) -> Result<RowSet> {
    row_set(text).map_err(SqliteError::Unexpected)
}

pub(super) fn digest(row: &Row<'_>, at: usize) -> Result<Digest> {
    let bytes: Vec<u8> = row.get(at)?;
    Digest::from_slice(&bytes).ok_or_else(|| SqliteError::Unexpected("an id that has not 16 bytes".to_owned()))
}

/// A source's id in a row.
pub(super) fn source(row: &Row<'_>, at: usize) -> Result<SourceId> {
    digest(row, at).map(SourceId::from_digest)
}

/// The rows that a source covers.
pub(super) fn covered(connection: &Connection, source: SourceId) -> Result<RowSet> {
    let covered: String = connection
        .prepare_cached("SELECT covered FROM source WHERE id = ?1")?
        .query_row([&source.to_bytes()[..]], |row| row.get(0))?;
    parse_rows(Some(&covered))
}

/// Makes a row for a source that has none, and names one that was made without a batch.
pub(super) fn register(connection: &Connection, header: &Header) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO source (id, family, cluster, name) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET family = excluded.family, cluster = excluded.cluster, name = excluded.name \
              WHERE cluster = ''",
        )?
        .execute(params![
            &header.source.to_bytes()[..],
            &header.family.to_bytes()[..],
            clean(&header.cluster),
            clean(&header.name)
        ])?;
    Ok(())
}

/// Enters what a commit adds to a source.
pub(super) fn add(connection: &Connection, source: SourceId, change: &LedgerChange, rejected: &[RejectedRows]) -> Result<()> {
    let id = source.to_bytes();
    let mut covered = covered(connection, source)?;
    covered.extend(&change.rows);
    connection
        .prepare_cached(
            "UPDATE source SET covered = ?2, valid = valid + ?3, duplicate = duplicate + ?4, extra = extra + ?5, \
                    first_commit = coalesce(first_commit, ?6), last_commit = max(coalesce(last_commit, ?6), ?6), \
                    newest_sample = max(coalesce(newest_sample, ?7), coalesce(?7, newest_sample)), conflict = conflict + ?8, \
                    expired = expired + ?9 \
              WHERE id = ?1",
        )?
        .execute(params![
            &id[..],
            covered.to_string(),
            change.valid.cast_signed(),
            change.duplicate.cast_signed(),
            change.extra.cast_signed(),
            TimeMs::now(),
            change.newest,
            change.conflict.cast_signed(),
            change.expired.cast_signed()
        ])?;
    let mut count = connection.prepare_cached(
        "INSERT INTO source_reject (source_id, reason, n) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET n = n + excluded.n",
    )?;
    for (reason, n) in &change.rejected {
        count.execute(params![&id[..], reason.code(), n.cast_signed()])?;
    }
    let mut note = connection.prepare_cached("INSERT INTO reject (source_id, row, line, reason) VALUES (?1, ?2, ?3, ?4)")?;
    for rejected in rejected.iter().filter(|rejected| rejected.source == source) {
        for (row, line) in &rejected.rows {
            note.execute(params![&id[..], row.cast_signed(), line.cast_signed(), rejected.reason.code()])?;
        }
    }
    Ok(())
}

/// How far these sources are settled, in the order asked; unknown ones are at 0.
pub(super) fn settled(connection: &Connection, sources: &[SourceId]) -> Result<Vec<(SourceId, u64)>> {
    sources.iter().map(|source| Ok((*source, settled_of(connection, *source)?))).collect()
}

fn settled_of(connection: &Connection, source: SourceId) -> Result<u64> {
    let id = source.to_bytes();
    let found: Option<(String, String)> = connection
        .prepare_cached("SELECT covered, dropped FROM source WHERE id = ?1")?
        .query_row([&id[..]], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (covered, dropped) = found.unwrap_or_default();
    let mut all = RowSet::new();
    for text in [covered, dropped] {
        if !text.is_empty() {
            all.extend(&parse_rows(Some(&text))?);
        }
    }
    all.extend(&dead(connection, source)?);
    Ok(all.ranges().first().filter(|range| range.first == 0).map_or(0, |range| range.end))
}

/// The rows of a source's dead letters.
fn dead(connection: &Connection, source: SourceId) -> Result<RowSet> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT rows FROM dead_letter WHERE source_id = ?1")?;
    let mut rows = statement.query([&source.to_bytes()[..]])?;
    let mut dead = RowSet::new();
    while let Some(row) = rows.next()? {
        dead.insert(parse_range(&row.get::<_, String>(0)?).map_err(SqliteError::Unexpected)?);
    }
    Ok(dead)
}

/// What the gauges say. Sources that were made for a dead letter alone have no cluster, and no commit.
pub(super) fn standing(connection: &Connection) -> Result<Standing> {
    let letters: i64 = connection.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get(0))?;
    let mut standing = Standing { dead_letters: letters.cast_unsigned(), ..Standing::default() };
    let mut statement = connection
        .prepare_cached("SELECT cluster, max(last_commit) FROM source WHERE last_commit IS NOT NULL GROUP BY cluster")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        standing.last_commit.insert(row.get(0)?, row.get(1)?);
    }
    Ok(standing)
}

const LEDGER_COLUMNS: &str =
    "id, cluster, name, covered, dropped, valid, duplicate, first_commit, last_commit, newest_sample, conflict, expired";

/// The ledger of every source, as of one moment.
pub(super) fn all(connection: &Connection) -> Result<Vec<SourceLedger>> {
    let moment = connection.unchecked_transaction()?;
    let mut statement = moment.prepare_cached(&format!("SELECT {LEDGER_COLUMNS} FROM source ORDER BY cluster, name, id"))?;
    let mut rows = statement.query([])?;
    let mut ledger = Vec::new();
    while let Some(row) = rows.next()? {
        ledger.push(one(&moment, row)?);
    }
    Ok(ledger)
}

/// Some ledgers, by id, until their texts come to the limit.
pub(super) fn some(connection: &Connection, after: Option<SourceId>, limit: Limit) -> Result<Vec<SourceLedger>> {
    let moment = connection.unchecked_transaction()?;
    let sql = format!("SELECT {LEDGER_COLUMNS} FROM source WHERE ?1 IS NULL OR id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = moment.prepare_cached(&sql)?;
    let most = i64::try_from(limit.rows).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![after.map(|id| id.to_bytes().to_vec()), most])?;
    let (mut ledger, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let one = one(&moment, row)?;
        bytes += one.text_bytes();
        ledger.push(one);
        if bytes >= limit.bytes {
            break;
        }
    }
    Ok(ledger)
}

fn one(connection: &Connection, row: &Row<'_>) -> Result<SourceLedger> {
    let source = source(row, 0)?;
    let (covered, dropped) = (parse_rows(Some(&row.get::<_, String>(3)?))?, parse_rows(Some(&row.get::<_, String>(4)?))?);
    Ok(SourceLedger {
        source,
        cluster: row.get(1)?,
        name: row.get(2)?,
        dead: dead(connection, source)?.minus(&covered).minus(&dropped),
        dropped: dropped.minus(&covered),
        covered,
        valid: row.get::<_, i64>(5)?.cast_unsigned(),
        duplicate: row.get::<_, i64>(6)?.cast_unsigned(),
        rejected: rejected(connection, source)?,
        first_commit: row.get(7)?,
        last_commit: row.get(8)?,
        newest_sample: row.get(9)?,
        conflict: row.get::<_, i64>(10)?.cast_unsigned(),
        expired: row.get::<_, i64>(11)?.cast_unsigned(),
    })
}

fn rejected(connection: &Connection, source: SourceId) -> Result<BTreeMap<Reason, u64>> {
    let mut statement = connection.prepare_cached("SELECT reason, n FROM source_reject WHERE source_id = ?1")?;
    let mut rows = statement.query([&source.to_bytes()[..]])?;
    let mut rejected = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let code: i64 = row.get(0)?;
        let reason = u8::try_from(code).ok().and_then(Reason::from_code);
        let reason = reason.ok_or_else(|| SqliteError::Unexpected(format!("the reject reason {code}")))?;
        rejected.insert(reason, row.get::<_, i64>(1)?.cast_unsigned());
    }
    Ok(rejected)
}

/// Where conflicts are.
pub(super) fn conflict_spans(connection: &Connection, after: i64, limit: usize) -> Result<Vec<ConflictSpan>> {
    let mut statement = connection.prepare_cached(
        "SELECT c.id, c.series_id, c.t_min, c.t_max, g.cluster, g.hostname, g.uuid, g.gpu_index, s.metric, s.gpu_id \
           FROM conflict c JOIN series s ON s.id = c.series_id JOIN gpu g ON g.id = s.gpu_id \
          WHERE c.id > ?1 ORDER BY c.id LIMIT ?2",
    )?;
    let spans = statement.query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(ConflictSpan {
            id: row.get(0)?,
            ids: Ids { series: row.get(1)?, gpu: row.get(9)? },
            first: row.get(2)?,
            last: row.get(3)?,
            cluster: row.get(4)?,
            hostname: row.get(5)?,
            gpu: row.get(6)?,
            gpu_index: row.get(7)?,
            metric: row.get(8)?,
        })
    })?;
    Ok(spans.collect::<rusqlite::Result<_>>()?)
}
