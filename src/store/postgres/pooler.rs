//! Whether a connection pooler between us and the server hands server processes from client to client.
//!
//! PgBouncer with `pool_mode = transaction` (or `statement`) does. Statements that one client prepares by name are then executed by
//! another, and settings of a session are another's: what is stored and answered is left to chance. In session mode a connection has its
//! server process for itself, as without a pooler.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
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
/// A pooler that has one server process lets the second connection wait for the first: at least this long, and longer where the line is.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many round trips one may take.
const ROUND_TRIPS: u32 = 4;
/// How often one thing must be seen that a server that is restarted or stalled shows as well.
const TIMES: u32 = 2;

/// Why it is not known whether a pooler is between.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// The server does not answer, or answers with an error.
    #[error(transparent)]
    Failed(#[from] Error),
    /// There is no answer in time.
    #[error("no answer in time")]
    Late,
}

/// Whether two connections share a server process, or one connection has several.
pub(super) async fn is_between(connector: &Connector) -> Result<bool, Unknown> {
    let limit = connector.timeout().max(PATIENCE);
    let (first, _first_driver) = within(limit, connector.connect_any()).await?;
    let (mut second, mut _second_driver) = within(limit, connector.connect_any()).await?;
    let (mut refused, mut waited, mut looked) = (0, 0, 0);
    while looked < TRIES {
        let begun = Instant::now();
        let before = within(limit, process(&first)).await?;
        let patience = PATIENCE.max(begun.elapsed() * ROUND_TRIPS);
        // In a transaction the second connection keeps its process, whatever the mode.
        match within(limit, second.simple_query("BEGIN")).await {
            Ok(_) => {}
            // Statement mode knows no transactions, and ends the connection. PgBouncer says the same of a server that it has lost.
            Err(Unknown::Failed(error)) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => {
                refused += 1;
                if refused == TIMES {
                    return Ok(true);
                }
                (second, _second_driver) = within(limit, connector.connect_any()).await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        let other = within(limit, process(&second)).await?;
        let after = tokio::time::timeout(patience, process(&first)).await;
        within(limit, second.simple_query("ROLLBACK")).await?;
        let Ok(after) = after else {
            // A server that stalls lets it wait as well. One process for both answers as soon as the second has given it back, each time.
            within(limit, process(&first)).await?;
            waited += 1;
            if waited == TIMES {
                return Ok(true);
            }
            continue;
        };
        let after = after?;
        if other == before || other == after || before != after {
            return Ok(true);
        }
        looked += 1;
    }
    Ok(false)
}

/// The answer to something, if it comes in time.
async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Unknown> {
    Ok(tokio::time::timeout(limit, asked).await.map_err(|_| Unknown::Late)??)
}

async fn process(client: &Client) -> Result<Vec<Option<String>>, Error> {
    let messages = client.simple_query(PROCESS).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}
