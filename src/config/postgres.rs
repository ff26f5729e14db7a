//! `[postgres]`: where the store is and how to reach it.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;
use crate::address::postgres::SslMode;
use crate::watched::Secret;

/// The store's address and limits. Resolved by [`super::Config::postgres`].
#[derive(Clone, Debug)]
pub struct Postgres {
    /// `postgres://user@host:port/database`; never printed with its password.
    pub url: SecretString,
    /// Password; overrides the URL's.
    pub password: Option<Secret>,
    /// TLS, beside what the URL says of it.
    pub tls: PostgresTls,
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

/// The section as it is written; [`Postgres`] is what comes of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct PostgresSection {
    /// `postgres://user@host:port/database`, with sslmode, sslrootcert, sslcert, sslkey, sslnegotiation and channel_binding as libpq
    /// knows them.
    #[serde(serialize_with = "units::secret::url", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub url: Option<SecretString>,
    /// Password; overrides the URL's.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub password: Option<SecretString>,
    /// File that holds the password; overrides the URL's. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Connections at most.
    pub pool_size: usize,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub connect_timeout: Duration,
    /// How long one statement may take.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub statement_timeout: Duration,
    /// After what time PostgreSQL ends a transaction whose collector is silent, and frees its locks.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub idle_transaction_timeout: Duration,
    /// Series ids that are cached; others are looked up again.
    pub series_cache: usize,
    /// TLS to PostgreSQL, where the URL does not say it.
    pub tls: PostgresTls,
}

/// TLS to PostgreSQL. The same can stand in the URL, as libpq knows it (sslmode, sslrootcert, sslcert, sslkey); what stands in both
/// must be the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct PostgresTls {
    /// As libpq's sslmode. Not set, and no sslmode in the URL: verify-full where `ca` is set, else prefer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<SslMode>,
    /// Certificate authority of the server (sslrootcert): PEM text, or a path to it. `system`: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Client certificate (sslcert): PEM text, or a path to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Client key (sslkey): PEM text, or a path to it.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub key: Option<SecretString>,
}

impl Default for PostgresSection {
    fn default() -> Self {
        Self {
            url: None,
            password: None,
            password_file: None,
            pool_size: 6,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
            idle_transaction_timeout: Duration::from_secs(15),
            series_cache: 200_000,
            tls: PostgresTls::default(),
        }
    }
}

impl PostgresSection {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let day = Duration::from_secs(86_400);
        check.within(
            "postgres.pool_size",
            self.pool_size,
            1,
            1000,
            "each is a connection, and PostgreSQL has max_connections of them",
        );
        check.positive("postgres.connect_timeout", self.connect_timeout, "no connection could be made in time");
        check.at_most(
            "postgres.connect_timeout",
            self.connect_timeout,
            Duration::from_secs(300),
            "a dead server would not be noticed",
        );
        check.at_least_duration(
            "postgres.statement_timeout",
            self.statement_timeout,
            Duration::from_millis(100),
            "no statement could end in time",
        );
        check.at_most("postgres.statement_timeout", self.statement_timeout, day, "a hanging server would not be noticed");
        check.at_least_duration(
            "postgres.idle_transaction_timeout",
            self.idle_transaction_timeout,
            Duration::from_secs(1),
            "healthy transactions would be ended",
        );
        check.at_most(
            "postgres.idle_transaction_timeout",
            self.idle_transaction_timeout,
            day,
            "a frozen collector would hold its locks that long",
        );
        check.within("postgres.series_cache", self.series_cache, 1, 100_000_000, "each batch would look up every series again");
    }
}
