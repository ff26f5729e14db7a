//! The store in a directory: SQLite, built in. For `telemetry all` where no PostgreSQL is configured; one process at a time.
//!
//! | file | what |
//! |---|---|
//! | `open`, `schema.sql` | the directory, its lock, the file: what is ours, what is refused |
//! | `connections` | one writer, a few readers; work off the runtime's threads, reads ended when nobody waits for them |
//! | `error` | what SQLite's errors mean |
//! | `chunk` | a chunk as a row of `chunk`, there and back |
//! | `commit`, `series` | the transaction |
//! | `maintain` | small chunks become full ones |
//! | `ledger`, `dead` | sources and what they cover, dead letters |
//! | `read`, `lists` | what readers ask |

mod chunk;
mod commit;
mod connections;
mod dead;
mod error;
mod ledger;
mod lists;
mod maintain;
mod open;
mod read;
mod series;
mod types;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use self::connections::Connections;
use super::maintenance::{FormSize, Maintenance, Verified};
use super::{Buried, Committed, ConflictSpan, DeadLetter, Incoming, Result, SourceLedger, Standing, Store, StoreKind};
use crate::model::SourceId;

/// The store in a directory. Cheap to share behind an `Arc`.
pub struct SqliteStore {
    connections: Arc<Connections>,
    id: String,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("at", &self.connections.endpoint).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a directory, which is made if it is missing, as is the store. Waits for the disk: for the beginning of a
    /// process.
    ///
    /// # Errors
    ///
    /// [`super::StoreError::Refused`]: the directory cannot be used, another process uses it, or the file in it is not ours;
    /// [`super::StoreError::Schema`]: it is of a newer version. Nothing is changed then.
    pub fn open(directory: &Path) -> Result<Self> {
        let (connections, id) = open::open(directory)?;
        Ok(Self { connections: Arc::new(connections), id })
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Sqlite
    }

    async fn migrate(&self) -> Result<()> {
        // Done when it was opened.
        Ok(())
    }

    async fn id(&self) -> Result<String> {
        Ok(self.id.clone())
    }

    async fn commit(&self, group: &[Incoming]) -> Result<Committed> {
        if group.is_empty() {
            return Ok(Committed::default());
        }
        let group = group.to_vec();
        self.connections.write(move |writer| commit::commit(writer, &group, None)).await
    }

    async fn note_failure(&self, entry: &str, reason: &str) -> Result<u32> {
        let (entry, reason) = (entry.to_owned(), reason.to_owned());
        self.connections.write(move |writer| dead::note_failure(writer, &entry, &reason)).await
    }

    async fn forget_failures(&self, entry: &str) -> Result<()> {
        let entry = entry.to_owned();
        self.connections.write(move |writer| dead::forget_failures(writer, &entry)).await
    }

    async fn bury_all(&self, letters: &[(DeadLetter, String)]) -> Result<Buried> {
        let letters = letters.to_vec();
        self.connections.write(move |writer| dead::bury_all(writer, &letters)).await
    }

    async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        self.connections.read(dead::list).await
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>> {
        self.connections.read(move |connection| dead::show(connection, id)).await
    }

    async fn revive(&self, id: i64, incoming: &Incoming) -> Result<Committed> {
        let group = vec![incoming.clone()];
        self.connections.write(move |writer| commit::commit(writer, &group, Some(id))).await
    }

    async fn drop_letter(&self, id: i64) -> Result<bool> {
        self.connections.write(move |writer| dead::drop_letter(writer, id)).await
    }

    async fn ledger(&self) -> Result<Vec<SourceLedger>> {
        self.connections.read(ledger::all).await
    }

    async fn conflict_spans(&self, after: i64, limit: usize) -> Result<Vec<ConflictSpan>> {
        self.connections.read(move |connection| ledger::conflict_spans(connection, after, limit)).await
    }

    async fn standing(&self) -> Result<Standing> {
        self.connections.read(ledger::standing).await
    }

    async fn settled(&self, sources: &[SourceId]) -> Result<Vec<(SourceId, u64)>> {
        let sources = sources.to_vec();
        self.connections.read(move |connection| ledger::settled(connection, &sources)).await
    }

    async fn ping(&self) -> Result<()> {
        self.connections.read(|connection| Ok(connection.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    async fn maintain<'a>(&'a self, urgent: bool) -> Result<Option<Box<dyn Maintenance + 'a>>> {
        // One process at a time has the store, and one task of it maintains it.
        Ok(Some(Box::new(maintain::Maintained::new(Arc::clone(&self.connections), urgent))))
    }

    async fn form_sizes(&self) -> Result<Vec<FormSize>> {
        self.connections.read(maintain::form_sizes).await
    }

    async fn verify(&self) -> Result<Verified> {
        let endpoint = self.connections.endpoint.clone();
        self.connections.read(move |connection| maintain::verify(connection, &endpoint)).await
    }
}
