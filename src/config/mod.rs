//! The configuration: defaults → files → environment → flags.
//!
//! One file per section; a room gets its own section, never the whole configuration. [`load()`] reads and validates, [`keys()`] is the
//! catalogue of keys (from the JSON Schema) behind environment variables, `config show` and the reference.

mod admin;
mod batch;
mod check;
mod collect;
mod data;
mod environment;
mod error;
mod file;
mod http;
mod keys;
mod load;
mod log;
mod network;
mod origin;
mod postgres;
mod probe;
mod redis;
mod resolve;
mod show;
mod shutdown;
mod store;
mod stream;
mod suggest;
mod units;

pub use admin::Admin;
pub use batch::Batch;
pub use collect::Collect;
pub use data::Data;
pub use environment::WELL_KNOWN;
pub use error::ConfigError;
pub use http::{Authentication, Http};
pub use keys::{Key, ValueKind, keys, schema};
pub use load::{Flag, load};
pub use log::{Log, LogFormat};
pub use network::Network;
pub use origin::{Origin, Origins};
pub use postgres::{Postgres, PostgresSection, PostgresTls};
pub use probe::Probe;
pub use redis::{Redis, RedisSection, RedisTls};
pub use shutdown::Shutdown;
pub use store::{Retention, Store, Switch};
pub use stream::{Stream, Until};
pub use units::Listen;

pub use crate::address::postgres::SslMode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shipped file of all defaults, with comments.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Config {
    /// Name of this cluster: the edge cluster for a streamer, the central cluster for a collector.
    pub cluster: String,
    /// Logs.
    pub log: Log,
    /// The admin server.
    pub admin: Admin,
    /// The queue.
    pub redis: RedisSection,
    /// The store.
    pub postgres: PostgresSection,
    /// The streamer's input.
    pub stream: Stream,
    /// Batches.
    pub batch: Batch,
    /// The collector.
    pub collect: Collect,
    /// Maintenance of the store.
    pub store: Store,
    /// The API.
    pub http: Http,
    /// How `telemetry probe` measures.
    pub probe: Probe,
    /// The embedded store and queue of `telemetry all`.
    pub data: Data,
    /// How a role shuts down.
    pub shutdown: Shutdown,
    /// Where each value came from.
    #[serde(skip)]
    #[schemars(skip)]
    origins: Origins,
    /// The consumer name that is used where none is set; it stays the same for the life of the process.
    #[serde(skip, default = "resolve::consumer_name")]
    #[schemars(skip)]
    generated_consumer: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: "default".to_owned(),
            log: Log::default(),
            admin: Admin::default(),
            redis: RedisSection::default(),
            postgres: PostgresSection::default(),
            stream: Stream::default(),
            batch: Batch::default(),
            collect: Collect::default(),
            store: Store::default(),
            http: Http::default(),
            probe: Probe::default(),
            data: Data::default(),
            shutdown: Shutdown::default(),
            origins: Origins::default(),
            generated_consumer: resolve::consumer_name(),
        }
    }
}

impl Config {
    /// Where the value of a key (`redis.url`) came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.of(key)
    }

    fn validate(&self, check: &mut check::Check<'_>) {
        if self.cluster.is_empty()
            || self.cluster.len() > 200
            || self.cluster.trim() != self.cluster
            || self.cluster.contains(char::is_control)
        {
            let reason = "must be 1 to 200 bytes long, without control characters and without leading or trailing spaces";
            check.refuse("cluster", reason.to_owned());
        }
        self.log.validate(check);
        self.redis.validate(check);
        self.postgres.validate(check);
        self.stream.validate(check);
        self.batch.validate(check);
        self.collect.validate(check);
        self.store.validate(check);
        self.http.validate(check);
        self.probe.validate(check);
        self.data.validate(check);
        self.shutdown.validate(check);
    }
}
