//! Whether a connection pooler between us and the server hands server processes from client to client.
//!
//! PgBouncer with `pool_mode = transaction` (or `statement`) does. Statements that one client prepares by name are then executed by
//! another, and settings of a session are another's: what is stored and answered is left to chance. In session mode a connection has its
//! server process for itself, as without a pooler.

use std::time::Duration;

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::connect::Connector;

/// The finding, in words.
pub(super) const FOUND: &str = "a connection pooler in transaction or statement mode is between this program and PostgreSQL: \
     connections share server processes, and prepared statements get mixed up";
/// What to do about it.
pub(super) const REMEDY: &str = "set pool_mode = session for this database in the pooler (PgBouncer: [databases] … pool_mode=session), or connect to PostgreSQL itself";

/// Asks which server process answers. Another server may have one of the same number.
const PROCESS: &str = "SELECT pg_backend_pid(), inet_server_addr(), inet_server_port(), pg_postmaster_start_time()";
/// A pooler gives out the process that became free last, or takes turns; other clients may come between.
const TRIES: u32 = 3;
/// A pooler that has one server process lets the second connection wait for the first.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether two connections share a server process, or one connection has several.
pub(super) async fn is_between(connector: &Connector) -> Result<bool, Error> {
    let (first, _first_driver) = connector.connect_any().await?;
    let (second, _second_driver) = connector.connect_any().await?;
    for _ in 0..TRIES {
        let before = process(&first).await?;
        // In a transaction the second connection keeps its process, whatever the mode.
        if second.simple_query("BEGIN").await.is_err() {
            // Statement mode knows no transactions.
            return Ok(true);
        }
        let other = process(&second).await?;
        let Ok(after) = tokio::time::timeout(PATIENCE, process(&first)).await else { return Ok(true) };
        let after = after?;
        second.simple_query("ROLLBACK").await?;
        if other == before || other == after || before != after {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn process(client: &Client) -> Result<Vec<Option<String>>, Error> {
    let messages = client.simple_query(PROCESS).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}
