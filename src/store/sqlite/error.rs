//! What SQLite's errors mean.

use rusqlite::ErrorCode;

use crate::store::StoreError;
use crate::store::chunk::Damaged;

/// What went wrong in a piece of work in SQLite.
#[derive(Debug)]
pub(super) enum SqliteError {
    /// An error of SQLite itself.
    Sqlite(rusqlite::Error),
    /// An error that is already one of the store.
    Store(StoreError),
    /// A chunk is damaged.
    Damaged(Damaged),
    /// The file holds what this program did not write.
    Unexpected(String),
}

/// The result of a piece of work in SQLite.
pub(super) type Result<T> = std::result::Result<T, SqliteError>;

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for SqliteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl SqliteError {
    /// The store's error; `endpoint` says where.
    pub(super) fn explain(self, endpoint: &str) -> StoreError {
        let endpoint = endpoint.to_owned();
        match self {
            Self::Store(error) => error,
            Self::Damaged(chunk) => StoreError::DamagedChunk(chunk.explain(&endpoint)),
            Self::Unexpected(what) => StoreError::Schema(format!(
                "{endpoint} holds something that this program did not write: {what}. Restore telemetry.sqlite from a backup, or give another --data-dir"
            )),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Schema(format!(
                    "{endpoint} is damaged ({error}): restore telemetry.sqlite from a backup, or give another --data-dir"
                )),
                Some(ErrorCode::DiskFull) => StoreError::Unavailable {
                    endpoint,
                    reason: "the disk is full: make room, and work goes on by itself".to_owned(),
                },
                _ => StoreError::Unavailable { endpoint, reason: error.to_string() },
            },
        }
    }
}
