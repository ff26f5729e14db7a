//! What a collector's user must be allowed to do, looked at before the first commit; and what those may who only read by SQL.

use super::error::Result;
use super::migrate;
use super::pool::Session;
use crate::address::postgres::Endpoint;
use crate::store::StoreError;

/// What to do where a right turns out to be missing: which rights those are that each role needs.
pub(super) const REMEDY: &str = "give the user of DATABASE_URL what it needs: `serve` reads (GRANT USAGE ON SCHEMA, GRANT SELECT ON ALL \
     TABLES IN SCHEMA); `collect` also writes (GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA) and makes a partition for \
     every new day (GRANT CREATE ON SCHEMA, and membership in the role that owns the table sample_chunk); `telemetry check` shows what is \
     missing";

/// The tables that it may not read and write, those that it may not attach partitions to (an owner may), and whether it may make tables.
const RIGHTS: &str = "SELECT string_agg(c.relname::text, ', ' ORDER BY c.relname) FILTER (WHERE c.relkind <> 'v' AND NOT ( \
            has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))), \
        string_agg(c.relname::text, ', ' ORDER BY c.relname) FILTER (WHERE c.relkind = 'p' AND NOT pg_has_role(c.relowner, 'USAGE')), \
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
        coalesce(quote_ident(current_schema()), '?'), quote_ident(current_user) \
   FROM pg_class c \
  WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v') AND c.relname = ANY ($1)";

/// Fails where a right is missing that a collector needs; says which, and how to give it.
pub(super) async fn check(session: &Session, endpoint: &Endpoint) -> Result<()> {
    let rows = session.query(RIGHTS, &[&migrate::TABLES.as_slice()]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (unwritable, others, may_create): (Option<String>, Option<String>, bool) = (row.get(0), row.get(1), row.get(2));
    let (schema, user): (String, String) = (row.get(3), row.get(4));
    let reason = match (unwritable, others) {
        (Some(tables), _) => format!(
            "permission to read and write {tables} is missing for the user {user}: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES \
             IN SCHEMA {schema} TO {user}, or let collectors use the owner of the tables"
        ),
        (None, Some(tables)) => format!(
            "the user {user} does not own {tables}, and of such a table only its owner can add the partition of a new day: let \
             collectors use the owner (GRANT owner TO {user} is enough)"
        ),
        (None, None) if !may_create => format!(
            "permission to create tables in schema {schema} is missing, and every new day needs a partition: GRANT CREATE ON SCHEMA \
             {schema} TO {user}"
        ),
        (None, None) => return Ok(()),
    };
    Err(StoreError::Refused { endpoint: format!("PostgreSQL at {endpoint}"), reason }.into())
}

/// What a reader by SQL may use: views, which read the tables with the rights of their owner, and functions that read nothing but these
/// views. (Had a function its owner's rights, it could not be unfolded, and would read every day.)
const READABLE: [&str; 10] = [
    "samples",
    "sample_place",
    "series_all",
    "rejected_rows",
    "samples_5m",
    "samples_1h",
    "rollup_place_5m",
    "rollup_place_1h",
    "unrolled_place_5m",
    "unrolled_place_1h",
];
const CALLABLE: [&str; 9] = [
    "samples_between(timestamptz, timestamptz)",
    "samples_5m_between(timestamptz, timestamptz)",
    "samples_1h_between(timestamptz, timestamptz)",
    "float8_of_bits(bigint)",
    "float8_of_sum(numeric)",
    "hour_of_day(timestamptz)",
    "hour_at(timestamptz)",
    "day_of(timestamptz)",
    "rollup_columns(varbit, varbit, int, int, bigint, timestamptz)",
];

/// Lets a role read samples by SQL, and nothing else.
pub(super) async fn grant_read(session: &Session, role: &str) -> Result<()> {
    let rows = session
        .query("SELECT quote_ident(rolname), quote_ident(current_schema()) FROM pg_roles WHERE rolname = $1::text", &[&role])
        .await?;
    let Some(row) = rows.first() else {
        let reason = format!(
            "there is no role {role}, which --grant-read names: create it first (CREATE ROLE \"{role}\" LOGIN PASSWORD '…')"
        );
        return Err(StoreError::Refused { endpoint: format!("PostgreSQL at {}", session.endpoint), reason }.into());
    };
    let (role, schema): (String, String) = (row.get(0), row.get(1));
    let views = READABLE.map(|view| format!("{schema}.{view}")).join(", ");
    let functions = CALLABLE.map(|function| format!("{schema}.{function}")).join(", ");
    session
        .batch(&format!(
            "BEGIN; GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {views} TO {role}; \
             GRANT EXECUTE ON FUNCTION {functions} TO {role}; COMMIT"
        ))
        .await
}
