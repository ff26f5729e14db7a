//! The server, once a connection is made: version, rights, schema, settings, size, clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Error, Row};

use super::super::error::chain;
use super::super::migrate::{self, Applied, Noted, OLDEST_SERVER};
use super::super::standby::{self, BEHIND};
use super::Use;
use crate::config::Postgres;
use crate::diagnosis::Step;

/// A clock that differs by more makes the latencies wrong that people look at.
const MAX_SKEW_SECONDS: f64 = 1.0;
/// Round trips to compare clocks; the shortest counts.
const CLOCK_ROUND_TRIPS: u32 = 5;

/// A standby that is further behind is worth a warning.
const MAX_BEHIND: Duration = Duration::from_secs(30);

/// Every step that asks the server.
pub(super) async fn look(client: &Client, config: &Postgres, used_for: Use, took: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    // A step that cannot be asked for says so, and the others go on.
    let limit = format!("SET statement_timeout = {}", config.statement_timeout.as_millis().min(i32::MAX as u128));
    if let Err(error) = client.batch_execute(&limit).await {
        return vec![cannot("login", &error)];
    }
    steps.push(login(client, took).await.unwrap_or_else(|error| cannot("login", &error)));
    let server = server(client).await;
    let usable = server.as_ref().is_ok_and(|step| step.outcome != crate::diagnosis::Outcome::Failed);
    steps.push(server.unwrap_or_else(|error| cannot("server", &error)));
    if usable {
        steps.push(match used_for {
            Use::Writing => writable(client).await.unwrap_or_else(|error| cannot("writable", &error)),
            Use::Reading => standby(client).await.unwrap_or_else(|error| cannot("standby", &error)),
        });
        let schema = schema(client, used_for).await;
        steps.extend(schema.unwrap_or_else(|error| vec![cannot("schema", &error)]));
        steps.push(connections(client, config).await.unwrap_or_else(|error| cannot("connections", &error)));
        steps.push(settings(client).await.unwrap_or_else(|error| cannot("settings", &error)));
        steps.push(size(client).await.unwrap_or_else(|error| cannot("size", &error)));
    }
    steps.push(clock(client).await.unwrap_or_else(|error| cannot("clock", &error)));
    steps
}

fn cannot(name: &'static str, error: &Error) -> Step {
    let denied = error.code().is_some_and(|code| code.code() == "42501");
    let todo = if denied { "a permission is missing: GRANT it to the user of DATABASE_URL" } else { "look at the server's log" };
    Step::failed(name, chain(error), todo)
}

async fn login(client: &Client, took: Duration) -> Result<Step, Error> {
    let sql = "SELECT session_user::text, current_database()::text, \
               (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), \
               (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid())";
    let row = client.query_one(sql, &[]).await?;
    let (user, database, encrypted, version): (String, String, Option<bool>, Option<String>) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let how = match (encrypted, version) {
        (Some(true), version) => format!("over {}", version.unwrap_or_else(|| "TLS".to_owned())),
        _ => "without TLS".to_owned(),
    };
    let took = took.as_secs_f64() * 1000.0;
    Ok(Step::ok("login", format!("as {user} to {database} {how}, in {took:.0} ms")))
}

async fn server(client: &Client) -> Result<Step, Error> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding')";
    let row = client.query_one(sql, &[]).await?;
    let (number, version, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    let seen = format!("PostgreSQL {version}, {encoding}");
    Ok(if number < OLDEST_SERVER {
        Step::failed("server", seen, "PostgreSQL 14 or later is needed: upgrade the server")
    } else if encoding != "UTF8" {
        Step::failed("server", seen, "create the database with ENCODING 'UTF8'")
    } else {
        Step::ok("server", seen)
    })
}

async fn writable(client: &Client) -> Result<Step, Error> {
    let row = client.query_one("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'", &[]).await?;
    Ok(match (row.get(0), row.get(1)) {
        (true, _) => Step::failed(
            "writable",
            "this is a standby: it is read only",
            "name the primary in DATABASE_URL, or all servers with target_session_attrs=read-write; `telemetry serve` can do with a standby",
        ),
        (false, true) => Step::failed(
            "writable",
            "transactions are read only here",
            "have default_transaction_read_only switched off for this user and database; `telemetry serve` can do with it",
        ),
        (false, false) => Step::ok("writable", "a primary that takes writes"),
    })
}

/// How far a server that is read from is behind its primary.
async fn standby(client: &Client) -> Result<Step, Error> {
    let row = client.query_one(BEHIND, &[]).await?;
    Ok(match standby::read(&row) {
        None => Step::ok("standby", "a primary: what is read from it is never behind"),
        Some(found) if found.behind.is_some_and(|behind| behind < MAX_BEHIND) => Step::ok("standby", found.describe()),
        Some(found) => Step::warning(
            "standby",
            found.describe(),
            "see pg_stat_replication on the primary, and pg_stat_wal_receiver and the log of the standby: answers are as old",
        ),
    })
}

/// The schema's version, and the rights that its state calls for.
async fn schema(client: &Client, used_for: Use) -> Result<Vec<Step>, Error> {
    let row = client
        .query_one(
            "SELECT current_schema()::text, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
                    to_regclass('schema_migration') IS NOT NULL, current_setting('search_path')",
            &[],
        )
        .await?;
    let (schema, may_create, there, path): (Option<String>, bool, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let Some(schema) = schema else {
        let todo = "create the schema, or GRANT USAGE ON SCHEMA … to the user of DATABASE_URL";
        let seen = format!("no schema of search_path ({path}) is there that this user has permission to use");
        return Ok(vec![Step::failed("schema", seen, todo)]);
    };
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO the user of DATABASE_URL");
    if !there {
        let seen = format!("not made yet in schema {schema}");
        let made =
            Step { todo: "nothing: `telemetry collect` or `telemetry migrate` makes it".to_owned(), ..Step::ok("schema", seen) };
        let rights = if may_create {
            Step::ok("rights", format!("may create in schema {schema}: enough to make it, and to collect"))
        } else {
            Step::failed("rights", format!("permission to create in schema {schema} is missing"), grant)
        };
        return Ok(vec![made, rights]);
    }
    let readable: bool = client.query_one("SELECT has_table_privilege('schema_migration', 'SELECT')", &[]).await?.get(0);
    if !readable {
        let seen = format!("permission to read the tables in schema {schema} is missing");
        let todo = format!(
            "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO the user of DATABASE_URL (to serve; to collect it has to own them)"
        );
        return Ok(vec![Step::failed("rights", seen, todo)]);
    }
    let has_steps: bool = client.query_one(migrate::HAS_STEPS, &[]).await?.get(0);
    let rows = client.query(if has_steps { migrate::NOTED_IN_STEPS } else { migrate::NOTED }, &[]).await?;
    let applied: Vec<Noted> = rows.iter().map(Noted::from).collect();
    let (step, current) = version(&migrate::compare(&applied), &schema);
    Ok(vec![step, rights(client, &schema, may_create, current, used_for).await?])
}

fn version(applied: &Applied, schema: &str) -> (Step, bool) {
    let newest = migrate::newest();
    match applied {
        Applied::Current => {
            (Step::ok("schema", format!("version {newest} in schema {schema}, the one this program knows")), true)
        }
        Applied::Usable(version) => {
            let seen = format!("version {version} in schema {schema}, which this program can use; it knows version {newest}");
            let todo = "nothing: `telemetry collect` or `telemetry migrate` brings it up to date".to_owned();
            (Step { todo, ..Step::ok("schema", seen) }, true)
        }
        Applied::Older(version) => {
            let seen = format!("version {version} in schema {schema}, this program needs {}", migrate::needed());
            (
                Step {
                    todo: "nothing: `telemetry collect` or `telemetry migrate` brings it up to date".to_owned(),
                    ..Step::ok("schema", seen)
                },
                false,
            )
        }
        Applied::Newer(version, name) => (
            Step::failed(
                "schema",
                format!(
                    "version {version} ({name}) in schema {schema}, which programs that know versions up to {newest} cannot use"
                ),
                "upgrade telemetry, or use another database",
            ),
            false,
        ),
        Applied::Changed(version, name) => (
            Step::failed(
                "schema",
                format!("migration {version} ({name}) in schema {schema} was applied with another content"),
                "use the telemetry version that made this schema, or another database",
            ),
            false,
        ),
    }
}

/// What the user may do with the tables that are there. Partitions are attached by an owner only.
async fn rights(client: &Client, schema: &str, may_create: bool, current: bool, used_for: Use) -> Result<Step, Error> {
    let sql = "SELECT bool_and(pg_has_role(c.relowner, 'USAGE')), \
                      bool_and(has_table_privilege(c.oid, 'SELECT')), \
                      bool_and(has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')) \
                        FILTER (WHERE c.relkind <> 'v'), \
                      string_agg(c.relname::text, ', ' ORDER BY c.relname) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')) \
                 FROM pg_class c \
                WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition \
                  AND c.relname = ANY ($2)";
    let quoted: String = client.query_one("SELECT quote_ident($1)", &[&schema]).await?.get(0);
    let row: Row = client.query_one(sql, &[&quoted, &migrate::TABLES.as_slice()]).await?;
    let flag = |at: usize| row.get::<_, Option<bool>>(at).unwrap_or_default();
    let (owns, reads, writes, missing) = (flag(0), flag(1), flag(2), row.get::<_, Option<String>>(3));
    if !reads {
        let seen = format!("permission to read {} is missing", missing.unwrap_or_else(|| "the tables".to_owned()));
        return Ok(Step::failed(
            "rights",
            seen,
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO the user of DATABASE_URL"),
        ));
    }
    Ok(match (owns && may_create, writes) {
        _ if used_for == Use::Reading => Step::ok("rights", "may read: enough to serve"),
        (true, _) => Step::ok("rights", "owns the schema's tables: may migrate, collect and serve"),
        (false, _) if !current => Step::failed(
            "rights",
            "permission to change the schema's tables is missing: they belong to somebody else",
            "let their owner run `telemetry migrate`",
        ),
        (false, true) => Step::warning(
            "rights",
            "may read and write, but permission to add the partition of a new day is missing: the tables belong to somebody else, or creating \
             in the schema is not granted",
            format!(
                "let `telemetry collect` use the owner of the tables, with GRANT CREATE ON SCHEMA {schema}; to serve it is enough"
            ),
        ),
        (false, false) => Step::warning(
            "rights",
            "may read: enough to serve; permission to write is missing",
            "let `telemetry collect` use the owner of the tables",
        ),
    })
}

/// Whether there is room for the connections we may make.
async fn connections(client: &Client, config: &Postgres) -> Result<Step, Error> {
    let sql = "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, \
                      (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'), \
                      (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user), \
                      (SELECT datconnlimit FROM pg_database WHERE datname = current_database())";
    let row = client.query_one(sql, &[]).await?;
    let (room, used): (i32, i32) = (row.get(0), row.get(1));
    let (of_role, of_database): (Option<i32>, Option<i32>) = (row.get(2), row.get(3));
    // One more asks whether the server answers.
    let wanted = i32::try_from(config.pool_size).unwrap_or(i32::MAX).saturating_add(1);
    let seen = format!("{used} of {room} in use, this process takes up to {wanted}");
    let limit = [of_role, of_database].into_iter().flatten().filter(|limit| *limit >= 0).min();
    Ok(match limit {
        Some(limit) if wanted > limit => Step::warning(
            "connections",
            format!("{seen}, and the user or the database is limited to {limit}"),
            "lower postgres.pool_size, or raise the limit (ALTER ROLE, ALTER DATABASE … CONNECTION LIMIT)",
        ),
        _ if used.saturating_add(wanted) > room => {
            Step::warning("connections", seen, "raise max_connections on the server, or lower postgres.pool_size of its clients")
        }
        _ => Step::ok("connections", seen),
    })
}

/// Settings of the server that put data or queries at risk.
async fn settings(client: &Client) -> Result<Step, Error> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), \
                      current_setting('max_locks_per_transaction')::bigint \
                        * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint), \
                      (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('sample_chunk'))";
    let row = client.query_one(sql, &[]).await?;
    let (fsync, pages, commit): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let (locks, days): (i64, i64) = (row.get(3), row.get(4));
    let mut hurts = Vec::new();
    if fsync == "off" {
        hurts.push(("fsync = off: a crash of the server can lose and damage what was committed", "turn it on"));
    }
    if pages == "off" {
        hurts
            .push(("full_page_writes = off: a crash can damage pages", "turn it on unless the file system writes pages at once"));
    }
    // A query over everything takes two locks a day: the partition and its index.
    if days * 2 > locks * 8 / 10 {
        hurts.push((
            "max_locks_per_transaction is low for the number of days that are stored: a query over all of them may fail",
            "raise max_locks_per_transaction on the server",
        ));
    }
    if hurts.is_empty() {
        // Where it is off, we switch it on for ourselves.
        let own = if commit == "off" { " (this program turns it on for itself)" } else { "" };
        return Ok(Step::ok(
            "settings",
            format!(
                "fsync = {fsync}, synchronous_commit = {commit}{own}, {days} {} stored",
                if days == 1 { "day" } else { "days" }
            ),
        ));
    }
    let (seen, todo): (Vec<_>, Vec<_>) = hurts.into_iter().unzip();
    Ok(Step::warning("settings", seen.join("; "), todo.join("; ")))
}

/// The size of the database. How much room is left is known to the server's system only.
async fn size(client: &Client) -> Result<Step, Error> {
    let sql = "SELECT pg_database_size(current_database()), \
                      (SELECT coalesce(nullif(t.spcname, 'pg_default'), 'the default tablespace')::text FROM pg_database d \
                         JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database())";
    let row = client.query_one(sql, &[]).await?;
    let (bytes, place): (i64, String) = (row.get(0), row.get(1));
    let bytes = bytesize::ByteSize::b(u64::try_from(bytes).unwrap_or_default());
    Ok(Step::ok("size", format!("the database has {bytes} in {place}")))
}

/// The server's clock against ours: from the shortest of a few round trips, half of which is the uncertainty.
async fn clock(client: &Client) -> Result<Step, Error> {
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..CLOCK_ROUND_TRIPS {
        let (before, begun) = (seconds(SystemTime::now()), Instant::now());
        let server: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?.get(0);
        let half = begun.elapsed().as_secs_f64() / 2.0;
        if best.is_none_or(|(least, _)| half < least) {
            best = Some((half, server - (before + half)));
        }
    }
    let (half, ahead) = best.unwrap_or_default();
    let way = if ahead < 0.0 { "behind" } else { "ahead of" };
    let seen = format!("the server's is {:.3} s {way} ours, to within {half:.3} s", ahead.abs());
    Ok(if ahead.abs() - half > MAX_SKEW_SECONDS {
        Step::warning(
            "clock",
            seen,
            "have both synchronised (NTP): latencies are wrong by as much, and times of first and last commit",
        )
    } else {
        Step::ok("clock", seen)
    })
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
