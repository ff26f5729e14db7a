//! Resolves sections as they are written into what the rooms use: URLs are checked, secret files are read.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::units::Listen;
use super::{Config, ConfigError, Http, Postgres, Redis};
use crate::address;
use crate::model::{GroupId, Partitions};
use crate::watched::Secret;

/// Default address of the admin server (/livez, /readyz, /metrics) of roles that run until they are stopped.
const DEFAULT_ADMIN_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

impl Config {
    /// The resolved settings of the queue, for a command that needs it.
    pub fn redis(&self) -> Result<Redis, ConfigError> {
        let section = &self.redis;
        let Some(url) = section.url.clone() else {
            return Err(ConfigError::Missing {
                key: "redis.url",
                how: "set REDIS_URL=redis://host:6379, or url under [redis] in a file passed with --config",
            });
        };
        self.check_url("redis.url", &url, |text| address::redis::validate_url(text).map(|_| ()))?;
        self.check_redis_tls(&url)?;
        Ok(Redis {
            url,
            username: section.username.clone(),
            password: self.password(
                ("redis.password", section.password.as_ref()),
                ("redis.password_file", section.password_file.as_deref()),
                "contents of redis.password_file",
            )?,
            prefix: section.prefix.clone(),
            partitions: Partitions::new(section.partitions).unwrap_or(Partitions::ONE),
            max_backlog: section.max_backlog,
            min_replicas: section.min_replicas,
            lease_ttl: section.lease_ttl,
            connect_timeout: section.connect_timeout,
            command_timeout: section.command_timeout,
            reconnect_min: section.reconnect_min,
            reconnect_max: section.reconnect_max,
            group: GroupId::named(&section.group),
            consumer: section.consumer.clone().unwrap_or_else(|| self.generated_consumer.clone()),
            claim_idle: section.claim_idle,
            block: section.block,
            topology_refresh: section.topology_refresh,
            tls: section.tls.clone(),
            sentinel_username: section.sentinel_username.clone(),
            sentinel_password: self.password(
                ("redis.sentinel_password", section.sentinel_password.as_ref()),
                ("redis.sentinel_password_file", section.sentinel_password_file.as_deref()),
                "contents of redis.sentinel_password_file",
            )?,
        })
    }

    /// The resolved settings of the store, for a command that needs it.
    pub fn postgres(&self) -> Result<Postgres, ConfigError> {
        let Some(url) = self.postgres.url.clone() else {
            return Err(ConfigError::Missing {
                key: "postgres.url",
                how: "set DATABASE_URL=postgres://user@host:5432/database, or url under [postgres] in a file passed with --config",
            });
        };
        self.postgres_at("postgres.url", &url)
    }

    /// The resolved settings of the store that is read from: those of the store, at `store.read_url` where that is set.
    pub fn postgres_to_read(&self) -> Result<Postgres, ConfigError> {
        match &self.store.read_url {
            Some(url) => self.postgres_at("store.read_url", url),
            None => self.postgres(),
        }
    }

    fn postgres_at(&self, key: &str, url: &SecretString) -> Result<Postgres, ConfigError> {
        let section = &self.postgres;
        self.check_url(key, url, |text| address::postgres::validate_url(text).map(|_| ()))?;
        Ok(Postgres {
            url: url.clone(),
            password: self.password(
                ("postgres.password", section.password.as_ref()),
                ("postgres.password_file", section.password_file.as_deref()),
                "contents of postgres.password_file",
            )?,
            pool_size: section.pool_size,
            download_percent: section.download_percent,
            connect_timeout: section.connect_timeout,
            statement_timeout: section.statement_timeout,
            idle_transaction_timeout: section.idle_transaction_timeout,
            series_cache: section.series_cache,
            tls: section.tls.clone(),
        })
    }

    /// The settings of the HTTP server, for a command that has one. Refused where others can reach the address, neither tokens nor
    /// client certificates are configured, and `http.insecure_open` does not allow that.
    pub fn http(&self) -> Result<Http, ConfigError> {
        match self.http.open_to_others() {
            Some(reason) => Err(self.invalid("http.listen", reason)),
            None => Ok(self.http.clone()),
        }
    }

    /// The address of the admin server. Without `admin.listen` it is 127.0.0.1:9464 for a role that runs until it is stopped
    /// (`long_running`); other commands have no admin server.
    #[must_use]
    pub fn admin_listen(&self, long_running: bool) -> Option<SocketAddr> {
        match self.admin.listen {
            Some(Listen::At(address)) => Some(address),
            Some(Listen::Off) => None,
            None => long_running.then_some(DEFAULT_ADMIN_ADDRESS),
        }
    }

    /// Checks everything that can be checked without reaching a server, for `config check`.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.redis.url.is_some() {
            self.redis()?;
        }
        if self.postgres.url.is_some() {
            self.postgres()?;
        }
        if self.store.read_url.is_some() {
            self.postgres_to_read()?;
        }
        self.http().map(|_| ())
    }

    /// An error about the value of a key, with where the value came from.
    #[must_use]
    pub fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::invalid(key, &self.origins, reason)
    }

    fn check_url(&self, key: &str, url: &SecretString, check: fn(&str) -> Result<(), String>) -> Result<(), ConfigError> {
        let text = url.expose_secret();
        // The URL parser drops these characters silently. A secret made with `echo` ends with a line end, which must not become
        // part of a password.
        if text.trim() != text || text.contains(char::is_control) {
            return Err(self.invalid(
                key,
                "must not contain control characters or line ends, or begin or end with a space; a file made with `echo` ends with a \
                 line end, `printf %s` writes none",
            ));
        }
        check(text).map_err(|reason| self.invalid(key, reason))
    }

    /// Refuses certificates where TLS is off: the user believes that the connection is protected, and it is not.
    fn check_redis_tls(&self, url: &SecretString) -> Result<(), ConfigError> {
        let tls = &self.redis.tls;
        let wanted = tls.enabled || address::redis::validate_url(url.expose_secret()).is_ok_and(|endpoint| endpoint.tls);
        let given = [
            ("redis.tls.ca", tls.ca.is_some()),
            ("redis.tls.cert", tls.cert.is_some()),
            ("redis.tls.key", tls.key.is_some()),
            ("redis.tls.server_name", tls.server_name.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given && !wanted) {
            let how = "is set, but TLS is off: use rediss:// in redis.url (REDIS_URL), or set redis.tls.enabled (REDIS_TLS_ENABLED=true)";
            return Err(self.invalid(key, how));
        }
        Ok(())
    }

    /// The password. Of the two keys, the one in the higher layer wins; in the same layer, the file wins over the plain text.
    fn password(
        &self,
        (key, plain): (&str, Option<&SecretString>),
        (file_key, file): (&str, Option<&Path>),
        what: &'static str,
    ) -> Result<Option<Secret>, ConfigError> {
        let plain = plain.cloned().map(Secret::from);
        let Some(path) = file else { return Ok(plain) };
        if plain.is_some() && self.origin(file_key).layer() < self.origin(key).layer() {
            return Ok(plain);
        }
        Secret::file(what, path.to_owned()).map(Some).map_err(|reason| self.invalid(file_key, reason))
    }
}

/// A generated consumer name: host name, process id, random suffix. No two collectors share one, not even after a restart with the
/// same process id.
pub(super) fn consumer_name() -> String {
    let host = gethostname::gethostname()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(64)
        .collect::<String>();
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}
