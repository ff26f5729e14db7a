//! The directory, its lock, and the file in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::connections::{Connections, Writer};
use super::dead;
use super::error::SqliteError;
use crate::model::TimeMs;
use crate::store::{Result, StoreError};

/// "GPUt": says in the file's head whose it is.
const APPLICATION: u32 = 0x4750_5574;
/// The schema of this program.
const VERSION: u32 = 1;
const SCHEMA: &str = include_str!("schema.sql");
const FILE: &str = "telemetry.sqlite";
const LOCK: &str = "telemetry.lock";
/// Where a SQLite file's head has its user version and application id (big-endian).
const USER_VERSION_AT: usize = 60;
const APPLICATION_AT: usize = 68;
const HEAD: usize = 100;

/// Opens (or makes) the store; the connections, and its id.
pub(super) fn open(directory: &Path) -> Result<(Connections, String)> {
    let endpoint = format!("SQLite in {}", directory.display());
    let refused = |reason: String| StoreError::Refused { endpoint: endpoint.clone(), reason };
    fs::create_dir_all(directory)
        .map_err(|error| refused(format!("the directory cannot be made: {error}; give another one with --data-dir")))?;
    let path = directory.join(FILE);
    // Before anything is written.
    look_at(&path).map_err(|fault| match fault {
        Unusable::NotOurs(reason) => refused(reason),
        Unusable::Newer(version) => StoreError::Version(format!(
            "{endpoint} has a schema of version {version}, and this program knows versions up to {VERSION}: upgrade telemetry, or give another --data-dir"
        )),
    })?;
    let lock = lock(directory).map_err(refused)?;
    let explain = |fault: SqliteError| match fault {
        SqliteError::Sqlite(error) if is_forbidden(&error) => {
            StoreError::Refused { endpoint: endpoint.clone(), reason: format!("{FILE} cannot be written: {error}") }
        }
        fault => fault.explain(&endpoint),
    };
    let connection = Connection::open(&path).map_err(|error| explain(error.into()))?;
    let id = prepare(&connection).map_err(explain)?;
    let connections = Connections::new(Writer::new(connection), path, endpoint.clone(), lock);
    Ok((connections, id))
}

fn is_forbidden(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    matches!(error.sqlite_error_code(), Some(CannotOpen | PermissionDenied | ReadOnly))
}

/// Why a file cannot be used.
enum Unusable {
    /// It is not one of this program, or cannot be read; says so.
    NotOurs(String),
    /// Its schema has this version, which a later program made.
    Newer(u32),
}

/// Looks at the file's head without touching it.
fn look_at(path: &Path) -> std::result::Result<(), Unusable> {
    let mut head = Vec::new();
    match File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Unusable::NotOurs(format!("{FILE} cannot be read: {error}"))),
        // Made and killed before anything was written.
        Ok(0) => return Ok(()),
        Ok(_) => {}
    }
    let number = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    if !head.starts_with(b"SQLite format 3\0") || number(APPLICATION_AT) != APPLICATION {
        return Err(Unusable::NotOurs(format!("{FILE} in it is not telemetry's: give another directory with --data-dir")));
    }
    let version = number(USER_VERSION_AT);
    if version > VERSION { Err(Unusable::Newer(version)) } else { Ok(()) }
}

/// Locks the directory for one process. The lock ends with the process, however that ends.
fn lock(directory: &Path) -> std::result::Result<File, String> {
    let path = directory.join(LOCK);
    let failed =
        |error: std::io::Error| format!("{LOCK} in it cannot be written: {error}; give another directory with --data-dir");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "another process".to_owned() } else { format!("process {}", holder.trim()) };
            return Err(format!("{holder} uses it: end that one first, or give another directory with --data-dir"));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // For people: whose it is.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Settings of the writing connection, and the schema. Returns the store's id.
fn prepare(connection: &Connection) -> super::error::Result<String> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        // In the file's head before the write-ahead log begins: an interrupted beginning is still known as ours.
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        connection.execute_batch(&format!("BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; {SCHEMA}"))?;
        connection.execute("INSERT INTO store (one, id, created_ms) VALUES (1, ?1, ?2)", (&id, TimeMs::now()))?;
        connection.execute_batch(&format!("PRAGMA user_version = {VERSION}; COMMIT"))?;
    }
    renew_letters(connection)?;
    add_conflicts(connection)?;
    add_floor(connection)?;
    // FULL: what is committed is acknowledged to the queue, so it must outlive the machine.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -32768; \
         PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection.query_row("SELECT id FROM store", [], |row| row.get(0))?)
}

/// Brings the table of dead letters up to date, and the letters that release 0.1.0 has kept in it.
fn renew_letters(connection: &Connection) -> super::error::Result<()> {
    // Dropping the former table would take the dictionaries of its letters along.
    connection.execute_batch("PRAGMA foreign_keys = OFF")?;
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if !transaction.column_exists(None, "dead_letter", "payload_digest")? {
        transaction.execute_batch(include_str!("letters.sql"))?;
    }
    let mut without = transaction.prepare("SELECT id FROM dead_letter WHERE payload_digest IS NULL")?;
    let ids: Vec<i64> = without.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    drop(without);
    for id in ids {
        let payload: Vec<u8> = transaction.query_row("SELECT payload FROM dead_letter WHERE id = ?1", [id], |row| row.get(0))?;
        // Where the same letter is kept twice, one is enough for knowing it.
        transaction.execute(
            "UPDATE OR IGNORE dead_letter SET payload_digest = ?2 WHERE id = ?1",
            (id, &dead::payload_digest(&payload)[..]),
        )?;
    }
    Ok(transaction.commit()?)
}

/// Makes the place where conflicts are noted, which release 0.1.0 does not know and does not mind.
fn add_conflicts(connection: &Connection) -> super::error::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if !transaction.column_exists(None, "source", "conflict")? {
        transaction.execute_batch("ALTER TABLE source ADD COLUMN conflict INTEGER NOT NULL DEFAULT 0")?;
    }
    if !transaction.table_exists(None, "conflict")? {
        transaction.execute_batch(include_str!("conflicts.sql"))?;
    }
    Ok(transaction.commit()?)
}

/// Makes the places of the floor and of what is expired, which release 0.1.0 does not know and does not mind.
fn add_floor(connection: &Connection) -> super::error::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if !transaction.column_exists(None, "store", "floor_ms")? {
        transaction.execute_batch("ALTER TABLE store ADD COLUMN floor_ms INTEGER")?;
    }
    if !transaction.column_exists(None, "source", "expired")? {
        transaction.execute_batch("ALTER TABLE source ADD COLUMN expired INTEGER NOT NULL DEFAULT 0")?;
    }
    Ok(transaction.commit()?)
}

/// A connection that reads.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA mmap_size = 268435456")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
