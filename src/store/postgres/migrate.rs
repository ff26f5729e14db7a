//! The schema's migrations: embedded, numbered, checksummed, applied one transaction each under an advisory lock.
//!
//! Programs of several releases use one schema while a fleet is upgraded, or goes back. So each migration states from which version on
//! a program can live with it (`compatible_from`), and a program refuses only what says that it cannot. A migration that takes
//! something away, or writes a form that older programs cannot read, comes a release after the one that can do without.
//!
//! Release 0.1.0 (schema version 2) refuses whatever it finds in `schema_migration` beyond its own. Later migrations are noted in
//! `schema_step`, where it does not look, and in `schema_migration` too only if programs of that release cannot live with them.

use std::time::Duration;

use super::error::Result;
use super::indexes::{self, Index};
use super::pool::Session;
use crate::model::{Digest, Metric, MetricKind, Reason, aliases, catalogue, metric};
use crate::store::StoreError;

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
    /// The oldest schema version whose programs can use the schema once this migration is applied.
    compatible_from: i32,
    /// An index that `sql` replaces, built without holding writers up where there are samples already.
    index: Option<Index>,
}

/// Every migration, in order. An applied one is never edited: add another.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "begin", sql: include_str!("migrations/0001_begin.sql"), compatible_from: 1, index: None },
    Migration {
        version: 2,
        name: "read",
        sql: include_str!("migrations/0002_read.sql"),
        compatible_from: 1,
        index: Some(Index { table: "sample_chunk", name: "sample_chunk_series", columns: "(series_id, t_max, t_min)" }),
    },
    Migration { version: 3, name: "prune", sql: include_str!("migrations/0003_prune.sql"), compatible_from: 2, index: None },
    Migration { version: 4, name: "letters", sql: include_str!("migrations/0004_letters.sql"), compatible_from: 2, index: None },
    Migration {
        version: 5,
        name: "conflicts",
        sql: include_str!("migrations/0005_conflicts.sql"),
        compatible_from: 2,
        index: None,
    },
    Migration { version: 6, name: "packed", sql: include_str!("migrations/0006_packed.sql"), compatible_from: 2, index: None },
    Migration { version: 7, name: "live", sql: include_str!("migrations/0007_live.sql"), compatible_from: 2, index: None },
    Migration {
        version: 8,
        name: "retention",
        sql: include_str!("migrations/0008_retention.sql"),
        compatible_from: 2,
        index: None,
    },
    Migration { version: 9, name: "rollups", sql: include_str!("migrations/0009_rollups.sql"), compatible_from: 2, index: None },
];

/// The last version that release 0.1.0 knows.
const FIRST_RELEASE: i32 = 2;
/// The oldest version that this program can use as it is.
const NEEDED: i32 = 2;

/// How often it is checked whether another program has finished migrating.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The tables of the schema, as rights are checked on them.
pub(super) const TABLES: [&str; 32] = [
    "schema_migration",
    "store",
    "gpu",
    "gpu_block",
    "series",
    "series_set",
    "series_all",
    "metric",
    "metric_list",
    "workload",
    "sample_chunk",
    "sample_slab",
    "sample_packed",
    "sample_conflict",
    "source",
    "source_reject",
    "reject_reason",
    "reject_chunk",
    "dead_letter",
    "dead_letter_same_rows",
    "batch_failure",
    "samples",
    "sample_place",
    "packed_sample",
    "sample_rollup_5m",
    "sample_rollup_1h",
    "metric_kind",
    "rollup_place_5m",
    "rollup_place_1h",
    "samples_5m",
    "samples_1h",
    "rejected_rows",
];

/// The oldest server: multiranges came with it.
pub(super) const OLDEST_SERVER: i32 = 140_000;

/// Held by the session, and not waited for: building an index concurrently waits for every transaction that sees an older state, also for
/// one that would wait for this lock.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('telemetry migrate ' || coalesce(current_schema(), ''), 0))";
const UNLOCK: &str = "SELECT pg_advisory_unlock(hashtextextended('telemetry migrate ' || coalesce(current_schema(), ''), 0))";

/// Brings the schema up to date.
pub(super) async fn migrate(session: &Session) -> Result<()> {
    check_server(session).await?;
    check_search_path(session).await?;
    // A migration may take as long as it needs.
    let limit: String = session.query("SELECT current_setting('statement_timeout')", &[]).await?[0].get(0);
    session.batch("SET statement_timeout = 0").await?;
    while !session.query(TRY_LOCK, &[]).await?[0].get::<_, bool>(0) {
        tokio::time::sleep(LOCK_POLL).await;
    }
    let done = migrate_locked(session).await;
    if done.is_ok() {
        // Otherwise the session ends, and the lock with it.
        session.query(UNLOCK, &[]).await?;
        session.batch(&format!("SET statement_timeout = '{limit}'")).await?;
    }
    done
}

async fn migrate_locked(session: &Session) -> Result<()> {
    loop {
        if session.query("SELECT FROM pg_class WHERE oid = to_regclass('schema_migration')", &[]).await?.is_empty() {
            session.batch(SCHEMA_MIGRATION).await?;
        }
        let applied = check_applied(session).await?;
        let Some(next) = MIGRATIONS.iter().find(|migration| migration.version > applied) else {
            name_reasons(session).await?;
            return name_kinds(session).await;
        };
        if let Some(index) = &next.index
            && applied > 0
        {
            indexes::replace(session, index).await?;
            session.batch("BEGIN").await?;
        } else {
            session.batch("BEGIN").await?;
            session.batch(next.sql).await?;
        }
        let checksum = Digest::of(next.sql.as_bytes()).to_string();
        if next.version > FIRST_RELEASE {
            session.batch(SCHEMA_STEP).await?;
            session
                .execute(
                    "INSERT INTO schema_step (version, name, checksum, compatible_from) VALUES ($1, $2, $3, $4)",
                    &[&next.version, &next.name, &checksum, &next.compatible_from],
                )
                .await?;
        }
        if next.version <= FIRST_RELEASE || next.compatible_from > FIRST_RELEASE {
            session
                .execute(
                    "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                    &[&next.version, &next.name, &checksum],
                )
                .await?;
        }
        session.batch("COMMIT").await?;
    }
}

const SCHEMA_MIGRATION: &str = "CREATE TABLE schema_migration (version int PRIMARY KEY, name text NOT NULL, \
     checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";
const SCHEMA_STEP: &str = "CREATE TABLE IF NOT EXISTS schema_step (version int PRIMARY KEY, name text NOT NULL, \
     checksum text NOT NULL, compatible_from int NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// Fails where the search path leads to no schema: tables are made in the first schema of it.
async fn check_search_path(session: &Session) -> Result<()> {
    let rows = session.query("SELECT current_schema() IS NULL, current_setting('search_path')", &[]).await?;
    let Some(row) = rows.first().filter(|row| row.get::<_, bool>(0)) else { return Ok(()) };
    let path: String = row.get(1);
    Err(StoreError::Schema(format!(
        "no schema of the search_path ({path}) is there in PostgreSQL at {}: create one (CREATE SCHEMA name), or correct search_path in \
         DATABASE_URL (options=-csearch_path=…) or of the user (ALTER ROLE … SET search_path)",
        session.endpoint
    ))
    .into())
}

/// Version and encoding.
async fn check_server(session: &Session) -> Result<()> {
    let rows = session
        .query(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else { return Err(session.unexpected("no server version")) };
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

/// A migration as the schema has it.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    version: i32,
    name: String,
    checksum: String,
    /// Not said by what was noted where release 0.1.0 looks.
    compatible_from: Option<i32>,
}

impl From<&tokio_postgres::Row> for Noted {
    fn from(row: &tokio_postgres::Row) -> Self {
        Self { version: row.get(0), name: row.get(1), checksum: row.get(2), compatible_from: row.get(3) }
    }
}

/// The applied migrations, compared with those that this program knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// All of them, and perhaps newer ones that this program can use.
    Current,
    /// Only up to this version, which this program can use.
    Usable(i32),
    /// Only up to this version, which is too old.
    Older(i32),
    /// One that this program neither knows nor can use.
    Newer(i32, String),
    /// One with another content than this program knows.
    Changed(i32, String),
}

/// The version that this program knows.
pub(super) fn newest() -> i32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

/// The oldest version that this program can use.
pub(super) fn needed() -> i32 {
    NEEDED
}

/// Reads what was applied. `schema_step` has a row more to say where both have one.
pub(super) const NOTED: &str = "SELECT version, name, checksum, NULL::int FROM schema_migration ORDER BY version";
/// [`NOTED`] for a schema that has the table `schema_step`.
pub(super) const NOTED_IN_STEPS: &str = "SELECT version, name, checksum, compatible_from FROM schema_step \
     UNION ALL SELECT version, name, checksum, NULL FROM schema_migration m \
     WHERE NOT EXISTS (SELECT FROM schema_step s WHERE s.version = m.version) ORDER BY version";
/// Whether [`NOTED_IN_STEPS`] is to be used. A user who was granted rights before the table was made cannot read it, and uses [`NOTED`].
pub(super) const HAS_STEPS: &str = "SELECT coalesce(has_table_privilege(to_regclass('schema_step'), 'SELECT'), false)";

/// Compares what was applied, in order.
pub(super) fn compare(applied: &[Noted]) -> Applied {
    let mut up_to = 0;
    for noted in applied {
        let Some(known) = MIGRATIONS.iter().find(|known| known.version == noted.version) else {
            if noted.compatible_from.is_some_and(|from| from <= newest()) {
                continue;
            }
            return Applied::Newer(noted.version, noted.name.clone());
        };
        if Digest::of(known.sql.as_bytes()).to_string() != noted.checksum {
            return Applied::Changed(noted.version, noted.name.clone());
        }
        let next = MIGRATIONS.iter().find(|migration| migration.version > up_to);
        if next.is_some_and(|next| next.version == known.version) {
            up_to = known.version;
        }
    }
    match up_to {
        version if version == newest() => Applied::Current,
        version if version >= NEEDED => Applied::Usable(version),
        version => Applied::Older(version),
    }
}

/// The newest of our migrations that is applied; each must be the one we know.
async fn check_applied(session: &Session) -> Result<i32> {
    let has_steps = session.query(HAS_STEPS, &[]).await?.first().is_some_and(|row| row.get(0));
    let rows = session.query(if has_steps { NOTED_IN_STEPS } else { NOTED }, &[]).await?;
    let applied: Vec<Noted> = rows.iter().map(Noted::from).collect();
    let at = &session.endpoint;
    match compare(&applied) {
        Applied::Current => Ok(newest()),
        Applied::Usable(version) | Applied::Older(version) => Ok(version),
        Applied::Newer(version, name) => Err(StoreError::Version(format!(
            "the schema in PostgreSQL at {at} is at version {version} ({name}), which programs that know versions up to {} cannot use: \
             upgrade telemetry, or use another database",
            newest()
        ))
        .into()),
        Applied::Changed(version, name) => Err(StoreError::Version(format!(
            "migration {version} ({name}) in PostgreSQL at {at} was applied with another content (checksum {}): use the telemetry version \
             that made this schema, or another database",
            applied.iter().find(|applied| applied.version == version).map_or("", |applied| &applied.checksum)
        ))
        .into()),
    }
}

/// Whether the schema is there, and one that this program can use. Changes nothing.
pub(super) async fn check_current(session: &Session) -> Result<()> {
    let applied = check_applied(session).await?;
    if applied < NEEDED {
        return Err(StoreError::Schema(format!(
            "the schema in PostgreSQL at {} is at version {applied}, this program needs {NEEDED}: start `telemetry collect`, or run `telemetry migrate`",
            session.endpoint,
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

/// Tells views how the metrics behave that this program knows, by each of their names.
async fn name_kinds(session: &Session) -> Result<()> {
    let kind = |metric: &Metric| match metric.kind {
        _ if metric.is_mask() => "mask",
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    let own = catalogue().iter().map(|metric| (metric.name, kind(metric)));
    let further = aliases().filter_map(|(alias, name)| Some((alias, kind(metric(name)?))));
    let (names, kinds): (Vec<&str>, Vec<&str>) = own.chain(further).unzip();
    session
        .execute(
            "INSERT INTO metric_kind (name, kind) SELECT * FROM unnest($1::text[], $2::text[]) \
             ON CONFLICT (name) DO UPDATE SET kind = excluded.kind WHERE metric_kind.kind <> excluded.kind",
            &[&names, &kinds],
        )
        .await?;
    Ok(())
}
