//! One partition of `sample_chunk` and one of `sample_slab` a UTC day, made when the first sample of that day comes; and one of
//! `sample_packed`, made before its first row.
//!
//! `CREATE TABLE … PARTITION OF` would lock the parent against everybody. A table made apart and attached does not: it takes a lock
//! that neither readers nor writers mind. The CHECK saves ATTACH from reading the table. An advisory lock lets one collector at a
//! time do it; the others find it done.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::Result;
use super::pool::Session;
use super::series::Caches;
use crate::model::TimeMs;
use crate::store::chunk::{Day, day_of};

const LOCK_PARTITIONS: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('telemetry partitions ' || coalesce(current_schema(), ''), 0))";

/// A table that has a partition a day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partitioned(pub(super) &'static str);

/// Chunks.
pub(super) const CHUNKS: Partitioned = Partitioned("sample_chunk");
/// Slabs.
pub(super) const SLABS: Partitioned = Partitioned("sample_slab");
/// Packed rows.
pub(super) const PACKED: Partitioned = Partitioned("sample_packed");

/// How many partitions one transaction makes: each costs the server a few locks until the transaction ends.
const PARTITIONS_PER_TRANSACTION: usize = 64;

/// Makes the partitions of these days that chunks and slabs lack. A schema that is not migrated yet has no slabs.
pub(super) async fn ensure(session: &Session, caches: &Arc<Caches>, days: &BTreeSet<Day>) -> Result<()> {
    let unknown = caches.unknown_days(days.iter().copied());
    if unknown.is_empty() {
        return Ok(());
    }
    let epoch = caches.epoch();
    for some in unknown.chunks(PARTITIONS_PER_TRANSACTION) {
        make(session, CHUNKS, some).await?;
        if is_there(session, SLABS).await? {
            make(session, SLABS, some).await?;
        }
        caches.know_days(epoch, some);
    }
    Ok(())
}

/// Makes those of the partitions of these days that are missing, in one transaction. None is made below the floor: it is raised under the
/// same lock, so what was dropped is not made again.
pub(super) async fn make(session: &Session, table: Partitioned, days: &[Day]) -> Result<()> {
    let missing = missing(session, table, days).await?;
    if missing.is_empty() {
        return Ok(());
    }
    session.batch("BEGIN").await?;
    session.query(LOCK_PARTITIONS, &[]).await?;
    let floor = floor(session).await?;
    for day in self::missing(session, table, &missing).await? {
        if floor.is_none_or(|floor| day_of(floor) <= day) {
            session.batch(&creation(table, day)).await?;
        }
    }
    session.batch("COMMIT").await
}

async fn is_there(session: &Session, table: Partitioned) -> Result<bool> {
    let rows = session.query("SELECT to_regclass($1::text) IS NOT NULL", &[&table.0]).await?;
    Ok(rows.iter().any(|row| row.get(0)))
}

async fn floor(session: &Session) -> Result<Option<TimeMs>> {
    let rows = session.query("SELECT floor FROM store", &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Raises the floor: from when this has returned, no commit that begins writes a sample before it. It never falls.
pub(super) async fn raise_floor(session: &Session, floor: TimeMs) -> Result<()> {
    session.batch("BEGIN").await?;
    session.query(LOCK_PARTITIONS, &[]).await?;
    session.execute("UPDATE store SET floor = $1 WHERE floor IS NULL OR floor < $1", &[&floor]).await?;
    session.batch("COMMIT").await
}

/// The days among these that have no partition.
async fn missing(session: &Session, table: Partitioned, days: &[Day]) -> Result<Vec<Day>> {
    let names: Vec<String> = days.iter().map(|day| name_in(table, *day)).collect();
    let rows = session
        .query(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
              WHERE i.inhparent = $2::text::regclass AND c.relname::text = ANY($1)",
            &[&names, &table.0],
        )
        .await?;
    let there: BTreeSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    Ok(days.iter().zip(&names).filter(|(_, name)| !there.contains(name.as_str())).map(|(day, _)| *day).collect())
}

/// `sample_chunk_YYYYMMDD`.
pub(super) fn name_of(day: Day) -> String {
    name_in(CHUNKS, day)
}

/// The name of the table, and the day.
pub(super) fn name_in(table: Partitioned, day: Day) -> String {
    format!("{}_{}", table.0, date(day).strftime("%Y%m%d"))
}

/// The day of a partition's name (of either form).
pub(super) fn day_of_name(name: &str) -> Option<Day> {
    let (_, date) = name.rsplit_once('_')?;
    let date = jiff::civil::Date::strptime("%Y%m%d", date).ok()?;
    let epoch = jiff::civil::date(1970, 1, 1);
    Some(Day::from((date - epoch).get_days()))
}

fn date(day: Day) -> jiff::civil::Date {
    // Days come from times that were checked to lie between 1990 and 2100, so there is nothing to saturate.
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.saturating_add(jiff::Span::new().days(day.clamp(0, 100_000)))
}

fn creation(table: Partitioned, day: Day) -> String {
    let (name, from, to) = (name_in(table, day), date(day), date(day + 1));
    let Partitioned(table) = table;
    // The arrays of a slab are compressed, whatever would fit into a page without that. LIKE does not take this over.
    let options = if table == SLABS.0 { " WITH (toast_tuple_target = 128)" } else { "" };
    format!(
        "CREATE TABLE {name} (LIKE {table} INCLUDING ALL,
             CONSTRAINT one_day CHECK (t_min >= '{from} 00:00:00+00' AND t_min < '{to} 00:00:00+00')){options};
         ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00');
         ALTER TABLE {name} DROP CONSTRAINT one_day"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MAX_TIME, MIN_TIME};

    #[test]
    fn days_have_their_names() {
        assert_eq!(name_in(PACKED, day_of(MIN_TIME)), "sample_packed_19900101");
        assert_eq!(name_in(SLABS, day_of(MIN_TIME)), "sample_slab_19900101");
        assert_eq!(name_of(day_of(MIN_TIME)), "sample_chunk_19900101");
        assert_eq!(name_of(day_of(MAX_TIME.plus_millis(-1))), "sample_chunk_21001231");
        assert_eq!(name_of(day_of(TimeMs::from_millis(1_709_164_800_000))), "sample_chunk_20240229");
        assert!(creation(CHUNKS, day_of(TimeMs::from_millis(1_709_164_800_000))).contains("TO ('2024-03-01 00:00:00+00')"));
    }
}
