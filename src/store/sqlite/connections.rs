//! Connections: one that writes, a few that read. SQLite blocks, so work goes to threads that may; what nobody waits for any more is
//! interrupted.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::error::Result;
use super::open;
use crate::model::{SeriesId, TimeMs};
use crate::store::chunk::Ids;
use crate::store::{SnapshotFor, StoreError};

/// Questions that are answered at the same time.
const READERS: usize = 4;
/// How many of them may be downloads.
const DOWNLOADS: usize = 2;
/// Steps of SQLite's virtual machine between two looks at whether the caller of a read has gone: well under a millisecond.
const STEPS_BETWEEN_CANCEL_CHECKS: i32 = 1000;

/// Ids of series, by key.
pub(super) type SeriesIds = HashMap<u128, Ids>;

/// Up to when series may have samples: too late at worst.
pub(super) type Marks = HashMap<SeriesId, TimeMs>;

/// The connection that writes, with the ids of series that it has looked up, and their marks.
pub(super) struct Writer {
    pub(super) connection: Connection,
    series: SeriesIds,
    pub(super) marks: Marks,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, series: HashMap::new(), marks: Marks::new() }
    }

    /// Runs a piece of work in one transaction, which is rolled back where the work fails or panics. The ids of series are emptied
    /// then: those that the transaction registered are gone.
    pub(super) fn transaction<T>(&mut self, work: impl FnOnce(&Transaction<'_>, &mut SeriesIds) -> Result<T>) -> Result<T> {
        let mut series = std::mem::take(&mut self.series);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction, &mut series)?;
        transaction.commit()?;
        self.series = series;
        Ok(done)
    }
}

/// All connections to one file.
pub(super) struct Connections {
    writer: Arc<Mutex<Writer>>,
    idle: Arc<Mutex<Vec<Connection>>>,
    readers: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    path: PathBuf,
    pub(super) endpoint: String,
    /// Held as long as the store is.
    _lock: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(super) fn new(writer: Writer, path: PathBuf, endpoint: String, lock: File) -> Self {
        Self {
            writer: Arc::new(Mutex::new(writer)),
            idle: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            path,
            endpoint,
            _lock: lock,
        }
    }

    /// Does something with the connection that writes, one after the other. It is done to its end even if nobody waits for it.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> crate::store::Result<T> {
        let writer = Arc::clone(&self.writer);
        let done = tokio::task::spawn_blocking(move || work(&mut lock(&writer)));
        self.ended(done.await)
    }

    /// Reads something. When the future is dropped, the statement that runs ends, and so does every later one of the same work.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> crate::store::Result<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| self.unavailable("it was closed"))?;
        let borrowed =
            Borrowed { connection: None, idle: Arc::clone(&self.idle), path: self.path.clone(), _permits: vec![permit] };
        let (_, done) = borrowed.read(work).await.map_err(|error| self.panicked(&error))?;
        done.map_err(|fault| fault.explain(&self.endpoint))
    }

    /// A connection for a snapshot, as soon as one is free, but not after this time.
    pub(super) async fn borrow_for(&self, purpose: SnapshotFor, until: Instant) -> crate::store::Result<Borrowed> {
        let limits: &[_] = match purpose {
            SnapshotFor::Page => &[&self.readers],
            SnapshotFor::Download => &[&self.downloads, &self.readers],
        };
        let mut permits = Vec::with_capacity(limits.len());
        for limit in limits {
            match tokio::time::timeout_at(until, Arc::clone(limit).acquire_owned()).await {
                Ok(Ok(permit)) => permits.push(permit),
                _ => return Err(StoreError::Busy(format!("{}: other questions use all connections", self.endpoint))),
            }
        }
        Ok(Borrowed { connection: None, idle: Arc::clone(&self.idle), path: self.path.clone(), _permits: permits })
    }

    fn ended<T>(&self, done: std::result::Result<Result<T>, JoinError>) -> crate::store::Result<T> {
        match done {
            Ok(done) => done.map_err(|fault| fault.explain(&self.endpoint)),
            Err(error) => Err(self.panicked(&error)),
        }
    }

    fn panicked(&self, error: &JoinError) -> StoreError {
        self.unavailable(&format!("internal error: {error}"))
    }

    fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { endpoint: self.endpoint.clone(), reason: reason.to_owned() }
    }
}

/// A connection that reads, for one who asks. It is back among the idle ones when this is dropped, outside of any transaction.
pub(super) struct Borrowed {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    path: PathBuf,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Borrowed {
    /// Reads something on a thread that may wait. When the future is dropped, the statement that runs ends, and so does every later one
    /// of the same work; the connection goes back then, too.
    pub(super) async fn read<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<(Self, Result<T>), JoinError> {
        let cancel_on_drop = CancelOnDrop::default();
        let cancelled = Arc::clone(&cancel_on_drop.0);
        tokio::task::spawn_blocking(move || {
            let done = self.connect().and_then(|connection| {
                // Not SQLite's interrupt: that ends only what runs at that moment, and is lost between two statements.
                connection.progress_handler(STEPS_BETWEEN_CANCEL_CHECKS, Some(move || cancelled.load(Ordering::Relaxed)))?;
                let done = work(connection);
                connection.progress_handler(0, None::<fn() -> bool>)?;
                done
            });
            (self, done)
        })
        .await
    }

    fn connect(&mut self) -> Result<&Connection> {
        if self.connection.is_none() {
            // The lock ends with this statement: opening takes a while.
            let free = lock(&self.idle).pop();
            self.connection = match free {
                Some(connection) => Some(connection),
                None => Some(open::reader(&self.path)?),
            };
        }
        Ok(self.connection.as_ref().expect("it was put there"))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // To end a transaction that reads takes no I/O. One that cannot be ended ends with its connection.
            if connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok() {
                lock(&self.idle).push(connection);
            }
        }
    }
}

/// Says to a read that its caller has gone: set when it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn connections(directory: &tempfile::TempDir) -> Connections {
        open::open(directory.path()).expect("a store").0
    }

    fn add_row(transaction: &Connection) -> Result<()> {
        transaction.execute("INSERT INTO batch_failure (entry, failures, last_reason, last_ms) VALUES ('1-1', 1, '', 0)", [])?;
        Ok(())
    }

    #[tokio::test]
    async fn after_a_panic_in_a_transaction_nothing_of_it_is_there_and_writing_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let connections = connections(&directory);
        let broken = connections.write(|writer| {
            writer.transaction(|transaction, series| -> Result<()> {
                add_row(transaction)?;
                series.insert(1, Ids { series: SeriesId::from_store(1), gpu: crate::model::GpuId::from_store(1) });
                panic!("a fault in the commit")
            })
        });
        assert!(broken.await.expect_err("it panicked").to_string().contains("internal error"));
        let known = connections.write(|writer| {
            writer.transaction(|transaction, series| {
                // Were it there, its key would collide.
                add_row(transaction)?;
                Ok(series.len())
            })
        });
        assert_eq!(known.await.expect("writing goes on"), 0, "ids that were rolled back are forgotten");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_caller_that_goes_before_the_first_statement_ends_it_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let connections = connections(&directory);
        let (began, mut has_began) = tokio::sync::mpsc::channel(1);
        let (go_on, may_go_on) = mpsc::channel();
        let (tell, ending) = tokio::sync::oneshot::channel();
        let read = connections.read(move |connection| {
            began.blocking_send(()).expect("the test waits");
            may_go_on.recv_timeout(Duration::from_secs(30)).expect("the test says so");
            let endless =
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) SELECT count(*) FROM n";
            let counted = connection.query_row(endless, [], |row| row.get::<_, i64>(0));
            tell.send(counted.map_err(|error| error.sqlite_error_code())).expect("the test waits");
            Ok(())
        });
        tokio::select! {
            _ = read => panic!("it cannot have ended"),
            _ = has_began.recv() => {}
        }
        go_on.send(()).expect("it waits");
        assert_eq!(ending.await.expect("an answer"), Err(Some(rusqlite::ErrorCode::OperationInterrupted)));
        assert_eq!(
            connections.read(|c| Ok(c.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?)).await.expect("the next"),
            1
        );
    }
}
