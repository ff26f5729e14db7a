//! Days that are past their time lose their partitions.
//!
//! `DROP TABLE` of a partition, or a plain DETACH, would lock the parent against everybody. DETACH … CONCURRENTLY does not: from its first
//! half on nobody sees the partition any more but who has a snapshot from before, and its second half waits until those are gone. A
//! partition that is to go is marked by a comment first. So whoever finds what an interrupted program left (a partition that is detached
//! by half, or a table that is not attached any more) knows that it is to go; what an administrator detached is left alone.
//!
//! Nothing is waited for for long: what is in use is left for the next round, and said.

use std::collections::BTreeMap;

use tokio_postgres::error::SqlState;

use super::super::error::{PostgresError, Result};
use super::super::partitions::{self, Partitioned};
use super::super::pool::Session;
use crate::model::TimeMs;
use crate::store::chunk::Day;
use crate::store::maintenance::retention::{Detail, HeldDay};

/// The tables that have a partition a day, and what their rows are. One that is not there has no days.
const TABLES: [(Partitioned, Detail); 5] = [
    (partitions::CHUNKS, Detail::Raw),
    (Partitioned("sample_slab"), Detail::Raw),
    (partitions::PACKED, Detail::Raw),
    (Partitioned("sample_rollup_5m"), Detail::FiveMinutes),
    (Partitioned("sample_rollup_1h"), Detail::Hour),
];

/// The comment on a partition that is to go.
const GOES: &str = "telemetry: past its time, it goes";

/// How long the second half of a DETACH waits, while it has no lock, for those who may see the partition.
const DETACH_TIMEOUT: &str = "2s";
/// How long anything else waits. Less than PostgreSQL's `deadlock_timeout`: who has a snapshot from before must never be the one that is
/// ended.
const LOCK_TIMEOUT: &str = "500ms";
/// How long the floor waits for partitions that are being made.
const FLOOR_TIMEOUT: &str = "5s";

/// A partition, or what was one.
struct Table {
    name: String,
    parent: String,
    attached: bool,
    /// Detached by half.
    pending: bool,
    /// Whether it has the comment.
    goes: bool,
    bytes: u64,
}

/// The partitions of a table, and what is left of those that were to go. Of other tables with such names nothing is known.
const FIND: &str = "SELECT c.relname::text, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false), \
            coalesce(obj_description(c.oid, 'pg_class') = $2, false), coalesce(pg_total_relation_size(c.oid), 0) \
       FROM pg_class parent \
       JOIN pg_class c ON c.relnamespace = parent.relnamespace AND c.relkind = 'r' AND c.relname ~ ('^' || $1 || '_[0-9]{8}$') \
       LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = parent.oid \
      WHERE parent.oid = to_regclass($1::text) \
        AND (i.inhrelid IS NOT NULL OR obj_description(c.oid, 'pg_class') = $2) \
      ORDER BY 1";

async fn find(session: &Session, parent: Partitioned) -> Result<Vec<Table>> {
    let rows = session.query(FIND, &[&parent.0, &GOES]).await?;
    let table = |row: &tokio_postgres::Row| Table {
        name: row.get(0),
        parent: parent.0.to_owned(),
        attached: row.get(1),
        pending: row.get(2),
        goes: row.get(3),
        bytes: row.get::<_, i64>(4).unsigned_abs(),
    };
    Ok(rows.iter().map(table).collect())
}

/// What there is of days.
pub(super) async fn held(session: &Session) -> Result<Vec<HeldDay>> {
    let mut days: BTreeMap<(Day, Detail), HeldDay> = BTreeMap::new();
    for (parent, detail) in TABLES {
        for table in find(session, parent).await? {
            let Some(day) = partitions::day_of_name(&table.name) else { continue };
            let held = days.entry((day, detail)).or_insert(HeldDay { detail, day, bytes: 0, begun: false });
            held.bytes += table.bytes;
            held.begun |= table.goes;
        }
    }
    Ok(days.into_values().collect())
}

/// Raises the floor, and forgets the conflicts that were noted before it.
pub(super) async fn raise_floor(session: &Session, floor: TimeMs) -> Result<()> {
    session.batch(&format!("SET lock_timeout = '{FLOOR_TIMEOUT}'")).await?;
    partitions::raise_floor(session, floor).await?;
    session.execute("DELETE FROM sample_conflict WHERE t_max < $1", &[&floor]).await?;
    Ok(())
}

/// Drops the partitions of a day. Why not all of them are gone, in words.
pub(super) async fn drop_day(session: &Session, held: &HeldDay, lock_timeout_ms: u32) -> Result<Option<String>> {
    let mut left = None;
    for (parent, _) in TABLES.iter().filter(|(_, detail)| *detail == held.detail) {
        let name = partitions::name_in(*parent, held.day);
        for table in find(session, *parent).await?.iter().filter(|table| table.name == name) {
            if table.pending && !table.goes {
                left = left.or(Some(stays(&name, "somebody else detaches it")));
            } else if let Err(failed) = drop_table(session, table).await {
                left = left.or(why(failed, &name)?);
            }
        }
    }
    session.batch(&format!("SET lock_timeout = '{lock_timeout_ms}ms'")).await?;
    Ok(left)
}

async fn drop_table(session: &Session, table: &Table) -> Result<()> {
    let Table { name, parent, .. } = table;
    session.batch(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    if !table.goes {
        session.batch(&format!("COMMENT ON TABLE {name} IS '{GOES}'")).await?;
    }
    // Each of these is a transaction of its own, or more than one.
    if table.pending {
        session.batch(&format!("ALTER TABLE {parent} DETACH PARTITION {name} FINALIZE")).await?;
    } else if table.attached {
        session.batch(&format!("SET lock_timeout = '{DETACH_TIMEOUT}'")).await?;
        session.batch(&format!("ALTER TABLE {parent} DETACH PARTITION {name} CONCURRENTLY")).await?;
        session.batch(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    }
    session.batch(&format!("DROP TABLE {name}")).await
}

/// Why a partition stays for now, in words, where the rest can go on.
fn why(failed: PostgresError, table: &str) -> Result<Option<String>> {
    let reason = match failed.state.as_ref() {
        // Somebody else has dropped it.
        Some(state) if *state == SqlState::UNDEFINED_TABLE => return Ok(None),
        Some(state) if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(state) => {
            "somebody reads it, or a transaction is open that began before".to_owned()
        }
        Some(state)
            if [
                SqlState::INSUFFICIENT_PRIVILEGE,
                SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                SqlState::OBJECT_IN_USE,
            ]
            .contains(state) =>
        {
            failed.error.to_string()
        }
        _ => return Err(failed),
    };
    Ok(Some(stays(table, &reason)))
}

fn stays(table: &str, reason: &str) -> String {
    format!("{table} is past its time (store.retention) and stays for now: {reason}; it goes in a later round")
}
