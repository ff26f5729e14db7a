//! What PostgreSQL's errors mean for a role: wait, ask a person, or put the batch aside.
//!
//! Connectivity is never a batch's fault: only SQLSTATE classes 22 and 23 (the data is not acceptable) and 54 (it is too large for
//! a limit of the server) are. Whatever is not known counts as unavailable, so that the batch is tried again, loudly, and not
//! buried for a reason that was not its own.

use std::error::Error as _;
use std::io;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::SqlState;
use tokio_rustls::rustls::{AlertDescription, Error as TlsError};

use super::rights;
use super::tls::{CA, CERT};
use crate::address::postgres::Endpoint;
use crate::store::StoreError;
use crate::tls::{Remedy, explain, remedy, within};

/// What a login is made with: decides whether a refused one is worth waiting for, and which hint helps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login {
    /// Whether this program shows a client certificate.
    pub(super) certificate: bool,
    /// Whether TLS begins with the first byte (`sslnegotiation=direct`).
    pub(super) direct: bool,
    /// Whether a login was accepted before: a rotation may have reached one side and not yet the other, and waiting can help.
    pub(super) worked: bool,
    /// Whether the password is read from where it can change without a restart.
    pub(super) password_can_change: bool,
}

/// A store error with the SQLSTATE it came from, for those who can do something about certain states.
#[derive(Debug)]
pub(super) struct PostgresError {
    pub(super) error: StoreError,
    pub(super) state: Option<SqlState>,
}

/// The result of a piece of work in PostgreSQL.
pub(super) type Result<T> = std::result::Result<T, PostgresError>;

impl PostgresError {
    /// Whether doing the same transaction again at once can help: it lost against another one, or a partition went away under it.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.state.as_ref().is_some_and(|state| {
            *state == SqlState::T_R_SERIALIZATION_FAILURE
                || *state == SqlState::T_R_DEADLOCK_DETECTED
                || is_missing_partition(state)
        })
    }
}

impl From<StoreError> for PostgresError {
    fn from(error: StoreError) -> Self {
        Self { error, state: None }
    }
}

impl From<PostgresError> for StoreError {
    fn from(failed: PostgresError) -> Self {
        failed.error
    }
}

/// No check constraint of ours can fail (chunks are made by us), so this state says that a row has no partition: a day that was
/// known was dropped meanwhile.
fn is_missing_partition(state: &SqlState) -> bool {
    *state == SqlState::CHECK_VIOLATION
}

/// The error and its causes in one line.
pub(super) fn chain(error: &tokio_postgres::Error) -> String {
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

/// The error of a statement, with what it means for a role.
pub(super) fn from_postgres(endpoint: &Endpoint, error: &tokio_postgres::Error) -> PostgresError {
    let reason = chain(error);
    let at = format!("PostgreSQL at {endpoint}");
    let Some(state) = error.code() else {
        return PostgresError { error: StoreError::Unavailable { endpoint: at, reason }, state: None };
    };
    let code = state.code();
    let refused = |what: &str| StoreError::Refused { endpoint: at.clone(), reason: format!("{reason}: {what}") };
    let error = match code {
        "3D000" => refused("create the database, or correct its name in DATABASE_URL"),
        "42501" => refused(rights::REMEDY),
        "42P01" | "42703" | "42704" | "42883" | "3F000" => {
            StoreError::Schema(format!("{at} does not have the schema this program needs ({reason}): run `telemetry migrate`"))
        }
        _ if is_missing_partition(state) => StoreError::Unavailable { endpoint: at, reason },
        // Not a lack that passes: the batch touches more days than the server can lock at once. Kept, it can be retried.
        "53200" if reason.contains("max_locks_per_transaction") => StoreError::BadBatch(format!(
            "{reason}: the batch touches more days than PostgreSQL can lock at once; raise max_locks_per_transaction, then run \
             `telemetry dead-letters retry`"
        )),
        _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => StoreError::BadBatch(reason),
        _ => StoreError::Unavailable { endpoint: at, reason },
    };
    PostgresError { error, state: Some(state.clone()) }
}

/// The store's error for a connection that is made outside of the pool.
pub(super) fn login_fault(endpoint: &Endpoint, login: Login, error: &tokio_postgres::Error) -> StoreError {
    from_login(endpoint, login, error).error
}

/// The error of connecting, with what it means for a role.
fn from_login(endpoint: &Endpoint, login: Login, error: &tokio_postgres::Error) -> PostgresError {
    let at = format!("PostgreSQL at {endpoint}");
    let (reason, may_change) = match (error.code(), refusal(error)) {
        (Some(state), _) if state.code().starts_with("28") => {
            let may_change = login.password_can_change || login.certificate;
            (format!("{}: {}", chain(error), hint(error, login)), may_change)
        }
        (None, Some(reason)) => (reason, true),
        (None, None) if is_tls(error) => {
            let reason = rustls_error(error).map_or_else(
                || {
                    let direct = if login.direct { "; sslnegotiation=direct needs PostgreSQL 17 or later" } else { "" };
                    format!("the connection broke in the TLS handshake: {}{direct}", chain(error))
                },
                |tls| explain(tls, CA, CERT),
            );
            return StoreError::Unavailable { endpoint: at, reason }.into();
        }
        _ => return from_postgres(endpoint, error),
    };
    let said = if login.worked && may_change {
        StoreError::Unavailable { endpoint: at, reason: format!("{reason} (accepted earlier; retrying)") }
    } else {
        StoreError::Refused { endpoint: at, reason }
    };
    PostgresError { error: said, state: error.code().cloned() }
}

/// What to do about a refused login. Only the server's words tell the causes apart.
fn hint(error: &tokio_postgres::Error, login: Login) -> String {
    let said = error.as_db_error().map_or("", |error| error.message());
    if said.contains("requires a valid client certificate") {
        return format!("the server requires a client certificate: set {CERT} and its key");
    }
    if said.contains("certificate authentication failed") {
        return format!(
            "the common name in {CERT} must be the user of DATABASE_URL, or be mapped to it by pg_ident.conf on the server"
        );
    }
    if said.contains("pg_hba.conf") && said.contains("no encryption") {
        return "the server does not accept this user without TLS: use sslmode=verify-full, or add a line to its pg_hba.conf"
            .to_owned();
    }
    if said.contains("pg_hba.conf") {
        return "add a line for this host, user and database to pg_hba.conf on the server".to_owned();
    }
    let certificate = if login.certificate {
        format!("; with clientcert=verify-full, the common name in {CERT} must be the user")
    } else {
        String::new()
    };
    format!(
        "check the user and the password in DATABASE_URL, DB_PASSWORD or DB_PASSWORD_FILE, and pg_hba.conf on the server{certificate}"
    )
}

/// Whether a person has to put something right before a connection can be made.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(state) => state.code().starts_with("28") || *state == SqlState::INVALID_CATALOG_NAME,
        None => refusal(error).is_some(),
    }
}

/// Whether an error is one of TLS. The client has no other way to say so than its text.
pub(super) fn is_tls(error: &tokio_postgres::Error) -> bool {
    rustls_error(error).is_some() || error.to_string() == "error performing TLS handshake"
}

/// The reason and remedy of an error without an SQLSTATE, where waiting cannot help.
fn refusal(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(tls) = rustls_error(error) {
        let passes = match tls {
            TlsError::InvalidCertificate(_) => remedy(tls) == Remedy::Wait,
            TlsError::AlertReceived(alert) => matches!(alert, AlertDescription::InternalError | AlertDescription::CloseNotify),
            TlsError::PeerIncompatible(_) | TlsError::InvalidMessage(_) => false,
            _ => true,
        };
        return (!passes).then(|| explain(tls, CA, CERT));
    }
    // The client has no kinds for these, only texts.
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    match (error.to_string().as_str(), cause.as_str()) {
        ("error performing TLS handshake", "server does not support TLS") => Some(
            "the server has no TLS, and sslmode asks for it: turn it on there (ssl = on, with a certificate), or use sslmode=prefer \
             where the network is protected by other means"
                .to_owned(),
        ),
        ("invalid configuration", "password missing") => Some(
            "the server asks for a password and none is configured: set it in DATABASE_URL, DB_PASSWORD or DB_PASSWORD_FILE".to_owned(),
        ),
        ("authentication error", "server did not use channel binding") => Some(
            "channel_binding=require, and the server did not offer it: it needs TLS (sslmode=require or stricter) and a password stored as \
             scram-sha-256"
                .to_owned(),
        ),
        ("authentication error", cause) => {
            Some(format!("the server asks for a kind of password check that is not supported ({cause}): use scram-sha-256"))
        }
        ("error performing TLS handshake", _) if is_bad_name(error) => {
            Some(format!("the host of DATABASE_URL is not a name that a certificate can contain: {cause}"))
        }
        _ => None,
    }
}

fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref::<io::Error>())
}

fn is_bad_name(error: &tokio_postgres::Error) -> bool {
    io_error(error).is_some_and(|error| error.kind() == io::ErrorKind::InvalidInput)
}

fn rustls_error(error: &tokio_postgres::Error) -> Option<&TlsError> {
    io_error(error).and_then(within)
}

/// The line was cut, without a word from the server.
pub(super) fn was_cut_off(error: &tokio_postgres::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let cut = |error: &io::Error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
    error.is_closed() || io_error(error).is_some_and(cut)
}

/// The error of the pool, with what it means for a role.
pub(super) fn from_pool(endpoint: &Endpoint, login: Login, error: PoolError) -> PostgresError {
    let reason = match error {
        PoolError::Backend(error) => return from_login(endpoint, login, &error),
        PoolError::PostCreateHook(HookError::Backend(error)) => return from_postgres(endpoint, &error),
        PoolError::Timeout(TimeoutType::Wait) => {
            let reason = "no connection of the pool became free in time (postgres.pool_size)";
            return StoreError::Busy(format!("PostgreSQL at {endpoint}: {reason}")).into();
        }
        PoolError::Timeout(TimeoutType::Create) => "connecting timed out (postgres.connect_timeout)".to_owned(),
        PoolError::Timeout(TimeoutType::Recycle) => "an idle connection no longer answers".to_owned(),
        other => other.to_string(),
    };
    StoreError::Unavailable { endpoint: format!("PostgreSQL at {endpoint}"), reason }.into()
}
