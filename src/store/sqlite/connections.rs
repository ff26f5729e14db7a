//! Connections: one that writes, a few that read. SQLite blocks, so work goes to threads that may; what nobody waits for any more is
//! interrupted.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, InterruptHandle};
use tokio::sync::Semaphore;

use super::error::{Fault, Result};
use super::open;
use crate::store::StoreError;
use crate::store::chunk::Ids;

/// Questions that are answered at the same time.
const READERS: usize = 4;

/// The connection that writes, and what it knows.
pub(super) struct Writer {
    pub(super) connection: Connection,
    /// Ids of series, by key. Emptied whenever a transaction did not end well: what it registered is gone.
    pub(super) series: HashMap<u128, Ids>,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, series: HashMap::new() }
    }
}

/// All connections to one file.
pub(super) struct Connections {
    writer: Arc<Mutex<Writer>>,
    idle: Arc<Mutex<Vec<Connection>>>,
    readers: Arc<Semaphore>,
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
        let done = tokio::task::spawn_blocking(move || {
            let mut writer = lock(&writer);
            let done = work(&mut writer);
            if done.is_err() {
                writer.series.clear();
            }
            done
        });
        self.ended(done.await)
    }

    /// Asks something. When the future is dropped, the statement ends.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> crate::store::Result<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| self.unavailable("it was closed"))?;
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let interrupt = Interrupt::default();
        let running = Arc::clone(&interrupt.0);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // The lock ends with this statement: opening takes a while.
            let free = lock(&idle).pop();
            let connection = match free {
                Some(connection) => connection,
                None => open::reader(&path)?,
            };
            {
                let mut running = lock(&running);
                if running.cancelled {
                    lock(&idle).push(connection);
                    return Err(Fault::Store(StoreError::Unavailable { endpoint: String::new(), reason: "nobody waits".into() }));
                }
                running.handle = Some(connection.get_interrupt_handle());
            }
            let done = work(&connection);
            // From here on nothing interrupts: the connection may already be another's.
            lock(&running).handle = None;
            lock(&idle).push(connection);
            done
        });
        let done = done.await;
        self.ended(done)
    }

    fn ended<T>(&self, done: std::result::Result<Result<T>, tokio::task::JoinError>) -> crate::store::Result<T> {
        match done {
            Ok(done) => done.map_err(|fault| fault.explain(&self.endpoint)),
            Err(error) => Err(self.unavailable(&format!("internal error: {error}"))),
        }
    }

    fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { endpoint: self.endpoint.clone(), reason: reason.to_owned() }
    }
}

/// Interrupts what runs when it is dropped.
#[derive(Default)]
struct Interrupt(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    handle: Option<InterruptHandle>,
    cancelled: bool,
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let mut running = lock(&self.0);
        running.cancelled = true;
        if let Some(handle) = &running.handle {
            handle.interrupt();
        }
    }
}
