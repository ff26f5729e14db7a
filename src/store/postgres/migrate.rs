//! The schema's migrations: embedded, numbered, checksummed, applied one transaction each under an advisory lock.

use super::error::Result;
use super::pool::Session;
use crate::model::{Digest, Reason};
use crate::store::StoreError;

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

/// Every migration, in order. An applied one is never edited: add another.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "begin", sql: include_str!("migrations/0001_begin.sql") },
    Migration { version: 2, name: "read", sql: include_str!("migrations/0002_read.sql") },
];

/// What is in the schema, for who looks at rights.
pub(super) const TABLES: [&str; 13] = [
    "schema_migration",
    "store",
    "gpu",
    "series",
    "sample_chunk",
    "source",
    "source_reject",
    "reject_reason",
    "reject_chunk",
    "dead_letter",
    "batch_failure",
    "samples",
    "rejected_rows",
];

/// The oldest server: multiranges came with it.
pub(super) const OLDEST_SERVER: i32 = 140_000;

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('telemetry migrate ' || coalesce(current_schema(), ''), 0))";

/// Brings the schema up to date.
pub(super) async fn migrate(session: &Session) -> Result<()> {
    check_server(session).await?;
    loop {
        // A migration may take as long as it needs, and so may waiting for somebody else's.
        session.batch("BEGIN; SET LOCAL statement_timeout = 0").await?;
        session.query(LOCK, &[]).await?;
        if session.query("SELECT 1 WHERE to_regclass('schema_migration') IS NULL", &[]).await?.len() == 1 {
            session
                .batch(
                    "CREATE TABLE schema_migration (version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
                     applied_at timestamptz NOT NULL DEFAULT now())",
                )
                .await?;
        }
        let applied = check_applied(session).await?;
        let Some(next) = MIGRATIONS.get(applied) else {
            name_reasons(session).await?;
            return session.batch("COMMIT").await;
        };
        session.batch(next.sql).await?;
        session
            .execute(
                "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                &[&next.version, &next.name, &Digest::of(next.sql.as_bytes()).to_string()],
            )
            .await?;
        session.batch("COMMIT").await?;
    }
}

/// Version and encoding.
async fn check_server(session: &Session) -> Result<()> {
    let rows = session
        .query(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else { return Err(session.odd("no server version")) };
    let (number, version, encoding): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let endpoint = format!("PostgreSQL at {}", session.endpoint);
    if number < OLDEST_SERVER {
        let reason = format!("its version is {version}; PostgreSQL 14 or later is needed: upgrade the server");
        return Err(StoreError::Refused { endpoint, reason }.into());
    }
    if encoding != "UTF8" {
        let reason = format!("the database's encoding is {encoding}; create it with ENCODING 'UTF8'");
        return Err(StoreError::Refused { endpoint, reason }.into());
    }
    Ok(())
}

/// What was applied, against what this program knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// All of it.
    Current,
    /// Only up to this version.
    Older(i32),
    /// One that is not known here.
    Newer(i32, String),
    /// One of another content.
    Changed(i32, String),
}

/// The version that this program needs.
pub(super) fn newest() -> i32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

/// Compares what was applied (version, name, checksum), in order.
pub(super) fn compare(applied: &[(i32, String, String)]) -> Applied {
    for (i, (version, name, checksum)) in applied.iter().enumerate() {
        let Some(known) = MIGRATIONS.get(i).filter(|known| known.version == *version) else {
            return Applied::Newer(*version, name.clone());
        };
        if Digest::of(known.sql.as_bytes()).to_string() != *checksum {
            return Applied::Changed(*version, name.clone());
        }
    }
    match MIGRATIONS.len().cmp(&applied.len()) {
        std::cmp::Ordering::Greater => Applied::Older(applied.last().map_or(0, |(version, ..)| *version)),
        _ => Applied::Current,
    }
}

/// How many migrations are applied; each must be the one we know.
async fn check_applied(session: &Session) -> Result<usize> {
    let rows = session.query("SELECT version, name, checksum FROM schema_migration ORDER BY version", &[]).await?;
    let applied: Vec<(i32, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let at = &session.endpoint;
    match compare(&applied) {
        Applied::Current | Applied::Older(_) => Ok(applied.len()),
        Applied::Newer(version, name) => Err(StoreError::Version(format!(
            "the schema in PostgreSQL at {at} is at version {version} ({name}), this program knows versions up to {}: upgrade telemetry, or \
             use another database",
            newest()
        ))
        .into()),
        Applied::Changed(version, name) => Err(StoreError::Version(format!(
            "migration {version} ({name}) in PostgreSQL at {at} was applied with another content (checksum {}): use the telemetry version \
             that made this schema, or another database",
            applied.iter().find(|applied| applied.0 == version).map_or("", |applied| &applied.2)
        ))
        .into()),
    }
}

/// Whether the schema is there, and the one this program knows. Changes nothing.
pub(super) async fn check_current(session: &Session) -> Result<()> {
    let applied = check_applied(session).await?;
    if applied < MIGRATIONS.len() {
        return Err(StoreError::Schema(format!(
            "the schema in PostgreSQL at {} is at version {applied}, this program needs {}: start `telemetry collect`, or run `telemetry migrate`",
            session.endpoint,
            MIGRATIONS.len()
        ))
        .into());
    }
    Ok(())
}

/// Keeps the names of the reject reasons up to date.
async fn name_reasons(session: &Session) -> Result<()> {
    let codes: Vec<i16> = Reason::ALL.iter().map(|reason| i16::from(reason.code())).collect();
    let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    session
        .execute(
            "INSERT INTO reject_reason (code, name) SELECT * FROM unnest($1::smallint[], $2::text[]) \
             ON CONFLICT (code) DO UPDATE SET name = excluded.name WHERE reject_reason.name <> excluded.name",
            &[&codes, &names],
        )
        .await?;
    Ok(())
}
