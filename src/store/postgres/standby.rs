//! Standbys: servers that follow another one, and are read from.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::error::PostgresError;
use super::pool::Session;
use crate::store::{Standby, StoreError};

/// Whether this server follows another one, and how many seconds it is behind at most.
///
/// Where everything is replayed that was received, it is behind by what is still on the line: by nothing as long as its primary is heard of.
/// That is once in 30 s at least; beyond a minute, what it has is as old as the silence. Without a connection to its primary it is as old as
/// the last commit that was replayed, which is not known where there was none since the standby began. A user who may not see more than that there is a connection (pg_monitor may) is told nothing of silence.
pub(super) const BEHIND: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN NOT pg_is_in_recovery() THEN NULL \
         WHEN w.pid IS NULL OR pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn() \
         THEN extract(epoch FROM greatest(clock_timestamp() - pg_last_xact_replay_timestamp(), \
                CASE WHEN pg_last_xact_replay_timestamp() IS NOT NULL THEN interval '0' END))::float8 \
         WHEN clock_timestamp() - w.last_msg_receipt_time > interval '1 minute' \
         THEN extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time)::float8 \
         ELSE 0 END \
    FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver w ON true";

/// A row of [`BEHIND`]; `None`: this server follows no other.
pub(super) fn read(row: &Row) -> Option<Standby> {
    let behind = row.get::<_, Option<f64>>(1).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    row.get::<_, bool>(0).then_some(Standby { behind })
}

/// The error of a question to a snapshot, where that is gone: a standby ends questions, and transactions, that need rows which its primary
/// has removed (SQLSTATE 40001, 40P01, 57P01), and a connection may be lost. `is_begun`: whether there was a snapshot.
pub(super) fn lost(session: &Session, error: PostgresError, is_begun: bool) -> PostgresError {
    let ended = |state: &SqlState| {
        [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state)
            || is_begun && *state == SqlState::ADMIN_SHUTDOWN
    };
    // Without a state: the line broke. The server's last words may have come before the question.
    let is_lost = error.state.as_ref().map_or(is_begun, ended);
    match error.error {
        StoreError::Unavailable { reason, .. } if is_lost => {
            let endpoint = format!("PostgreSQL at {}", session.endpoint);
            PostgresError { error: StoreError::SnapshotLost { endpoint, reason }, state: error.state }
        }
        other => PostgresError { error: other, state: error.state },
    }
}
