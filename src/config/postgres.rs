//! `[postgres]`: where the store is, and how to reach it.

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
    /// Password; overrides the one in the URL.
    pub password: Option<Secret>,
    /// TLS settings, in addition to those in the URL.
    pub tls: PostgresTls,
    /// Maximum connections of this process.
    pub pool_size: usize,
    /// Hundredths of them that downloads may hold at the same time.
    pub download_percent: usize,
    /// Maximum time of a connection attempt.
    pub connect_timeout: Duration,
    /// Maximum time of one statement.
    pub statement_timeout: Duration,
    /// Time after which PostgreSQL ends a transaction whose collector is silent (`idle_in_transaction_session_timeout`).
    pub idle_transaction_timeout: Duration,
    /// Maximum series ids that are cached.
    pub series_cache: usize,
}

/// The section as it is written in the configuration; [`Postgres`] is its resolved form.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct PostgresSection {
    /// `postgres://user@host:port/database`; takes libpq's sslmode, sslrootcert, sslcert, sslkey, sslnegotiation and channel_binding.
    #[serde(serialize_with = "units::secret::url", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub url: Option<SecretString>,
    /// Password; overrides the one in the URL.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub password: Option<SecretString>,
    /// File that contains the password; overrides the one in the URL. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Maximum connections of this process to PostgreSQL.
    pub pool_size: usize,
    /// Share of `pool_size`, in percent, that downloads (NDJSON, CSV) may hold at the same time, at least one. Further downloads take
    /// turns with them, and get 503 after `http.query_queue_timeout`.
    pub download_percent: usize,
    /// Maximum time of a connection attempt.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Maximum time of one statement.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub statement_timeout: Duration,
    /// Time after which PostgreSQL ends the transaction of a silent collector and frees its locks.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub idle_transaction_timeout: Duration,
    /// Maximum series ids that are cached; others are looked up in the database.
    pub series_cache: usize,
    /// TLS settings that are not in the URL.
    pub tls: PostgresTls,
}

/// TLS to PostgreSQL. The URL can have the same settings, as in libpq (sslmode, sslrootcert, sslcert, sslkey); a setting that is in
/// both must have the same value.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct PostgresTls {
    /// How TLS is used, as libpq's sslmode. Not set here and in the URL: verify-full where `ca` is set, else prefer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<SslMode>,
    /// Certificate authority of the server (sslrootcert): PEM text, or the path of a file. `system`: the authorities of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Client certificate (sslcert): PEM text, or the path of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Client key (sslkey): PEM text, or the path of a file.
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
            download_percent: 50,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
            idle_transaction_timeout: Duration::from_secs(15),
            series_cache: 1_000_000,
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
            "at least one connection is needed, and PostgreSQL accepts max_connections of all clients together",
        );
        check.within(
            "postgres.download_percent",
            self.download_percent,
            1,
            100,
            "100 lets downloads hold every connection, and 0 would refuse each of them",
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
            "no statement could finish in time",
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
            "a frozen collector would hold its locks for this time",
        );
        check.within(
            "postgres.series_cache",
            self.series_cache,
            1,
            100_000_000,
            "without a cache, each batch looks up every series in the database",
        );
    }
}
