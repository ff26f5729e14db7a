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

/// The oldest server: multiranges came with it.
const OLDEST_SERVER: i32 = 140_000;

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

/// How many migrations are applied; each must be the one we know.
async fn check_applied(session: &Session) -> Result<usize> {
    let rows = session.query("SELECT version, name, checksum FROM schema_migration ORDER BY version", &[]).await?;
    for (i, row) in rows.iter().enumerate() {
        let (version, name, checksum): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let at = &session.endpoint;
        let Some(known) = MIGRATIONS.get(i).filter(|known| known.version == version) else {
            let newest = MIGRATIONS.last().map_or(0, |m| m.version);
            return Err(StoreError::Schema(format!(
                "the schema in PostgreSQL at {at} is at version {version} ({name}), this program knows versions up to {newest}: \
                 upgrade telemetry, or use another database"
            ))
            .into());
        };
        let ours = Digest::of(known.sql.as_bytes()).to_string();
        if ours != checksum {
            return Err(StoreError::Schema(format!(
                "migration {version} ({name}) in PostgreSQL at {at} was applied with another content (checksum {checksum}, this program's \
                 is {ours}): use the telemetry version that made this schema, or another database"
            ))
            .into());
        }
    }
    Ok(rows.len())
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
