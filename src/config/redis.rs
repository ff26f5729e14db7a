//! `[redis]`: where the queue is and how to reach it.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;
use crate::model::Partitions;
use crate::watched::Secret;

/// The queue's address, identity and limits. Resolved by [`super::Config::redis`]: no secret files left to read.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://host:port`; never printed with its password.
    pub url: SecretString,
    /// ACL user; overrides the URL's.
    pub username: Option<String>,
    /// Password; overrides the URL's.
    pub password: Option<Secret>,
    /// Prefix of every key.
    pub prefix: String,
    /// Partitions; kept in Redis at first use.
    pub partitions: Partitions,
    /// Entries a partition may hold unacknowledged before publishers wait.
    pub max_backlog: u64,
    /// Replicas that must have what was published before a run ends; `None` = 1 where there are replicas, else 0.
    pub min_replicas: Option<u32>,
    /// How long a streamer owns a source without renewing.
    pub lease_ttl: Duration,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a command may take.
    pub command_timeout: Duration,
    /// First wait before reconnecting.
    pub reconnect_min: Duration,
    /// Longest wait before reconnecting.
    pub reconnect_max: Duration,
    /// The consumer group (made by whoever comes first).
    pub group: String,
    /// This consumer's name; must differ between collectors that run at once.
    pub consumer: String,
    /// After what idle time another consumer's entries are claimed.
    pub claim_idle: Duration,
    /// How long a read waits for new entries.
    pub block: Duration,
    /// After what time the map of a cluster is looked at again without a reason.
    pub topology_refresh: Duration,
    /// TLS: switched on here or by the URL.
    pub tls: RedisTls,
    /// The user for sentinels.
    pub sentinel_username: Option<String>,
    /// The password for sentinels.
    pub sentinel_password: Option<Secret>,
}

/// The section as it is written; [`Redis`] is what comes of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RedisSection {
    /// `redis://user:password@host:port`; user and password are optional.
    #[serde(serialize_with = "units::secret::url", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub url: Option<SecretString>,
    /// ACL user; overrides the URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password; overrides the URL's.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub password: Option<SecretString>,
    /// File that holds the password; overrides the URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Prefix of every key.
    pub prefix: String,
    /// Partitions of the queue; kept in Redis at first use, and everybody must have the same.
    pub partitions: u16,
    /// Entries a partition may hold unacknowledged before publishers wait.
    pub max_backlog: u64,
    /// Replicas that must have what was published before a run ends. Not set: 1 where there are replicas, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// How long a streamer owns a source without renewing: after this time another one takes a dead streamer's files over.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub lease_ttl: Duration,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub connect_timeout: Duration,
    /// How long a command may take.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub command_timeout: Duration,
    /// First wait before reconnecting.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub reconnect_min: Duration,
    /// Longest wait before reconnecting.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub reconnect_max: Duration,
    /// The consumer group; made by whoever comes first.
    pub group: String,
    /// This consumer's name; must differ between collectors that run at once. Not set: host name, process id and a random suffix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// After what idle time another consumer's entries are claimed.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub claim_idle: Duration,
    /// How long a read waits for new entries.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub block: Duration,
    /// After what time the map of a cluster (or the server that sentinels name) is looked at again without a reason. Every error
    /// that speaks of it has it looked at at once.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub topology_refresh: Duration,
    /// ACL user for sentinels, where they want one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_username: Option<String>,
    /// Password for sentinels, where they want one.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub sentinel_password: Option<SecretString>,
    /// File that holds the password for sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password_file: Option<PathBuf>,
    /// TLS to Redis.
    pub tls: RedisTls,
}

/// TLS to Redis: 1.2 and 1.3. Files are read again when they change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RedisTls {
    /// Force TLS even for redis://.
    pub enabled: bool,
    /// Certificate authority: PEM text, or a path to it. Not set: the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Client certificate: PEM text, or a path to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Client key: PEM text, or a path to it.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub key: Option<SecretString>,
    /// Name to verify in the server's certificate (and to ask for, SNI) instead of the host it is reached by; of every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Do not verify the server's certificate: anybody on the way can be the server. For trying things out.
    pub insecure_skip_verify: bool,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password: None,
            password_file: None,
            prefix: "telemetry".to_owned(),
            partitions: 8,
            max_backlog: 20_000,
            min_replicas: None,
            lease_ttl: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(3),
            command_timeout: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            group: "collectors".to_owned(),
            consumer: None,
            claim_idle: Duration::from_secs(10),
            block: Duration::from_millis(1500),
            topology_refresh: Duration::from_secs(30),
            sentinel_username: None,
            sentinel_password: None,
            sentinel_password_file: None,
            tls: RedisTls::default(),
        }
    }
}

impl RedisSection {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let hour = Duration::from_secs(3600);
        check.word("redis.prefix", &self.prefix);
        check.word("redis.group", &self.group);
        if let Some(consumer) = &self.consumer {
            check.word("redis.consumer", consumer);
        }
        check.within("redis.partitions", self.partitions, 1, 1024, "each partition has a connection of its own");
        check.at_least("redis.max_backlog", self.max_backlog, 1, "nothing could ever be published");
        check.within("redis.min_replicas", self.min_replicas.unwrap_or_default(), 0, 100, "no run could ever end");
        check.at_least_duration(
            "redis.lease_ttl",
            self.lease_ttl,
            Duration::from_millis(500),
            "a lease would end before it is renewed",
        );
        check.at_most("redis.lease_ttl", self.lease_ttl, hour, "a dead streamer's files would lie that long");
        for (key, value) in [("redis.connect_timeout", self.connect_timeout), ("redis.command_timeout", self.command_timeout)] {
            check.at_least_duration(key, value, Duration::from_millis(10), "no answer could come in time");
            check.at_most(key, value, Duration::from_secs(300), "a dead server would not be noticed");
        }
        check.positive("redis.reconnect_min", self.reconnect_min, "a server that is away would be asked without a pause");
        check.at_most("redis.reconnect_max", self.reconnect_max, hour, "a server that is back would not be noticed");
        if self.reconnect_min > self.reconnect_max {
            check.refuse("redis.reconnect_min", "is longer than redis.reconnect_max".to_owned());
        }
        check.at_least_duration(
            "redis.claim_idle",
            self.claim_idle,
            Duration::from_millis(100),
            "healthy consumers would lose their entries",
        );
        check.at_most("redis.claim_idle", self.claim_idle, hour, "a dead collector's entries would lie that long");
        check.at_least_duration(
            "redis.block",
            self.block,
            Duration::from_millis(10),
            "an empty queue would be asked without a pause",
        );
        check.at_least_duration(
            "redis.topology_refresh",
            self.topology_refresh,
            Duration::from_secs(1),
            "Redis would be asked for its map all the time",
        );
        check.at_most("redis.topology_refresh", self.topology_refresh, hour, "a node that was added would be found late");
        check.at_most("redis.block", self.block, Duration::from_secs(60), "a dead connection would not be noticed");
    }
}
