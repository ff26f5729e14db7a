//! `[postgres]`: where the store is and how to reach it.

use std::time::Duration;

use secrecy::SecretString;

/// The store's address and limits.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// `postgres://user@host:port/database`; never printed with its password.
    pub url: SecretString,
    /// Password; overrides the URL's.
    pub password: Option<SecretString>,
    /// Connections at most.
    pub pool_size: usize,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// After what time PostgreSQL ends a transaction whose collector is silent (`idle_in_transaction_session_timeout`).
    pub idle_transaction_timeout: Duration,
    /// How many series ids are cached.
    pub series_cache: usize,
}
