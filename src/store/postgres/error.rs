//! What PostgreSQL's errors mean to us: wait, ask a person, or put the batch aside.
//!
//! Connectivity is never a batch's fault: only SQLSTATE classes 22 and 23 (the data is not acceptable) and 54 (it is too large for
//! a limit of the server) are. Whatever is not known counts as unavailable, so that the batch is tried again, loudly, and not
//! buried for a reason that was not its own.

use std::error::Error as _;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use super::url::Endpoint;
use crate::store::StoreError;

/// A store error with the SQLSTATE it came from, for those who can do something about certain states.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: StoreError,
    pub(super) state: Option<SqlState>,
}

/// Shorthand.
pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Whether doing the same transaction again at once can help: it lost against another one, or a partition went away under it.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.state.as_ref().is_some_and(|state| {
            *state == SqlState::T_R_SERIALIZATION_FAILURE
                || *state == SqlState::T_R_DEADLOCK_DETECTED
                || is_missing_partition(state)
        })
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self { error, state: None }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}

/// No check constraint of ours can fail (chunks are made by us), so this state says that a row has no partition: a day that was
/// known was dropped meanwhile.
fn is_missing_partition(state: &SqlState) -> bool {
    *state == SqlState::CHECK_VIOLATION
}

/// The error and its causes in one line.
fn chain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {}", db.message(), db.code().code());
        for (name, part) in [("detail", db.detail()), ("hint", db.hint()), ("table", db.table()), ("column", db.column())] {
            if let Some(part) = part {
                text.push_str(&format!("; {name}: {part}"));
            }
        }
        text.push(')');
        return text;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What an error of a connection or statement means.
pub(super) fn from_postgres(endpoint: &Endpoint, error: &tokio_postgres::Error) -> Fault {
    let reason = chain(error);
    let at = format!("PostgreSQL at {endpoint}");
    let Some(state) = error.code() else {
        // The client has no kind for this: the server wants a password and we have none.
        let error = if reason.contains("password missing") {
            let reason =
                "it wants a password and none is configured: put it in DATABASE_URL, DB_PASSWORD or DB_PASSWORD_FILE".into();
            StoreError::Refused { endpoint: at, reason }
        } else {
            StoreError::Unavailable { endpoint: at, reason }
        };
        return Fault { error, state: None };
    };
    let code = state.code();
    let refused = |what: &str| StoreError::Refused { endpoint: at.clone(), reason: format!("{reason}: {what}") };
    let error = match code {
        _ if code.starts_with("28") => refused(
            "check the user and the password in DATABASE_URL, DB_PASSWORD or DB_PASSWORD_FILE, and pg_hba.conf on the server",
        ),
        "3D000" => refused("create the database, or correct its name in DATABASE_URL"),
        "42501" => refused(
            "a right is missing: GRANT it to the user of DATABASE_URL, or let the owner of the schema run `telemetry migrate`",
        ),
        "42P01" | "42703" | "42704" | "42883" | "3F000" => {
            StoreError::Schema(format!("{at} does not have the schema this program needs ({reason}): run `telemetry migrate`"))
        }
        _ if is_missing_partition(state) => StoreError::Unavailable { endpoint: at, reason },
        // Not a lack that passes: the batch touches more days than the server can lock at once. Kept, it can be retried.
        "53200" if reason.contains("max_locks_per_transaction") => StoreError::BadBatch(format!(
            "{reason}: it touches more days than PostgreSQL can lock at once; raise max_locks_per_transaction, then `telemetry dead-letters retry`"
        )),
        _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => StoreError::BadBatch(reason),
        _ => StoreError::Unavailable { endpoint: at, reason },
    };
    Fault { error, state: Some(state.clone()) }
}

/// What an error of the pool means.
pub(super) fn from_pool(endpoint: &Endpoint, error: PoolError) -> Fault {
    let reason = match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            return from_postgres(endpoint, &error);
        }
        PoolError::Timeout(TimeoutType::Wait) => "no connection of the pool became free in time (postgres.pool_size)".to_owned(),
        PoolError::Timeout(TimeoutType::Create) => "connecting timed out (postgres.connect_timeout)".to_owned(),
        PoolError::Timeout(TimeoutType::Recycle) => "an idle connection no longer answers".to_owned(),
        other => other.to_string(),
    };
    StoreError::Unavailable { endpoint: format!("PostgreSQL at {endpoint}"), reason }.into()
}
