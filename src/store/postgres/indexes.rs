//! Replacing an index of a partitioned table that is full of rows and in use.
//!
//! `CREATE INDEX` on it would keep writers out until it is done. Instead each partition gets its index by itself, concurrently, outside
//! of any transaction. What was built stays when this is interrupted, and is found the next time.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::error::Result;
use super::pool::Session;

/// How long writers may be held up by one attempt.
const LOCK_WAIT_MS: u32 = 100;
/// How long writers go on undisturbed between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(400);

/// An index of a partitioned table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) columns: &'static str,
}

/// Puts an index in the place of the one that has its name.
pub(super) async fn replace(session: &Session, index: &Index) -> Result<()> {
    let Index { table, name, columns } = index;
    let next = format!("{name}_next");
    if session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&next]).await?.is_empty() {
        let there = session
            .query("SELECT FROM pg_index WHERE indexrelid = to_regclass($1::text) AND indisvalid AND pg_get_indexdef(indexrelid) LIKE '%' || $2::text", &[name, columns])
            .await?;
        if !there.is_empty() {
            // An earlier attempt came to its end, and was interrupted before that was noted.
            return Ok(());
        }
        // Partitions that are attached from now on get it with their others.
        between_writers(session, &format!("CREATE INDEX {next} ON ONLY {table} {columns}")).await?;
    }
    let partitions = session
        .query(
            "SELECT p.relname::text FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid \
              WHERE i.inhparent = $1::text::regclass AND NOT EXISTS ( \
                    SELECT FROM pg_index x JOIN pg_inherits a ON a.inhrelid = x.indexrelid \
                     WHERE x.indrelid = p.oid AND a.inhparent = $2::text::regclass) \
              ORDER BY 1",
            &[table, &next],
        )
        .await?;
    for partition in partitions.iter().map(|row| row.get::<_, String>(0)) {
        let own = format!("{partition}_{next}");
        // One that was interrupted is there and not valid.
        let broken =
            session.query("SELECT FROM pg_index WHERE indexrelid = to_regclass($1::text) AND NOT indisvalid", &[&own]).await?;
        if !broken.is_empty() {
            session.batch(&format!("DROP INDEX CONCURRENTLY {own}")).await?;
        }
        session.batch(&format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {own} ON {partition} {columns}")).await?;
        between_writers(session, &format!("ALTER INDEX {next} ATTACH PARTITION {own}")).await?;
    }
    between_writers(session, &format!("DROP INDEX IF EXISTS {name}; ALTER INDEX {next} RENAME TO {name}")).await
}

/// Runs statements that take a moment, but need a lock that writers mind. Whoever waits for such a lock holds up all that come after
/// him: it is asked for again and again instead, and had when nobody is in the way.
async fn between_writers(session: &Session, sql: &str) -> Result<()> {
    loop {
        match session.batch(&format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'; {sql}; COMMIT")).await {
            Err(fault) if fault.state == Some(SqlState::LOCK_NOT_AVAILABLE) => {
                session.batch("ROLLBACK").await?;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            done => return done,
        }
    }
}
