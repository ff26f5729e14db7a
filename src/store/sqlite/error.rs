//! What SQLite says, in our words.

use rusqlite::ErrorCode;

use crate::store::StoreError;
use crate::store::chunk::Damaged;

/// What went wrong in a piece of work.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's own.
    Sqlite(rusqlite::Error),
    /// Already in our words.
    Store(StoreError),
    /// A chunk is damaged.
    Damaged(Damaged),
    /// The file holds what this program did not write.
    Odd(String),
}

/// Shorthand.
pub(super) type Result<T> = std::result::Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// In our words; `endpoint` says where.
    pub(super) fn explain(self, endpoint: &str) -> StoreError {
        let endpoint = endpoint.to_owned();
        match self {
            Self::Store(error) => error,
            Self::Damaged(chunk) => StoreError::DamagedChunk(chunk.explain(&endpoint)),
            Self::Odd(what) => StoreError::Schema(format!("{endpoint} holds what this program did not write: {what}")),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Schema(format!(
                    "{endpoint} is damaged ({error}): restore telemetry.sqlite from a backup, or give another --data-dir"
                )),
                Some(ErrorCode::DiskFull) => {
                    StoreError::Unavailable { endpoint, reason: "the disk is full: make room, and it goes on".to_owned() }
                }
                _ => StoreError::Unavailable { endpoint, reason: error.to_string() },
            },
        }
    }
}
