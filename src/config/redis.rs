//! `[redis]`: where the queue is, and how to reach it.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;
use crate::model::{GroupId, Partitions};
use crate::watched::Secret;

/// The queue's address, identity and limits, as [`super::Config::redis`] resolves them: secret files have been read.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://host:port`; never printed with its password.
    pub url: SecretString,
    /// ACL user; overrides the one in the URL.
    pub username: Option<String>,
    /// Password; overrides the one in the URL.
    pub password: Option<Secret>,
    /// Prefix of every key in Redis.
    pub prefix: String,
    /// Number of partitions; stored in Redis at first use.
    pub partitions: Partitions,
    /// Maximum unacknowledged entries of a partition; then publishers wait.
    pub max_backlog: u64,
    /// Replicas that must have received all published entries before a run ends; `None` = 1 where there are replicas, else 0.
    pub min_replicas: Option<u32>,
    /// How long a streamer owns a source without renewing its lease.
    pub lease_ttl: Duration,
    /// Maximum time of a connection attempt.
    pub connect_timeout: Duration,
    /// Maximum time of a command.
    pub command_timeout: Duration,
    /// First wait before reconnecting.
    pub reconnect_min: Duration,
    /// Longest wait before reconnecting.
    pub reconnect_max: Duration,
    /// Name of the consumer group; the first role that needs the group creates it.
    pub group: GroupId,
    /// Name of this consumer; must be unique among the collectors that run.
    pub consumer: String,
    /// Idle time after which the entries of another consumer are claimed.
    pub claim_idle: Duration,
    /// Maximum time that a read waits for new entries.
    pub block: Duration,
    /// Time after which the topology is read again although nothing has failed.
    pub topology_refresh: Duration,
    /// TLS settings; TLS is enabled here or by the URL.
    pub tls: RedisTls,
    /// ACL user for the Sentinels.
    pub sentinel_username: Option<String>,
    /// Password for the Sentinels.
    pub sentinel_password: Option<Secret>,
}

/// The section as it is written in the configuration; [`Redis`] is its resolved form.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RedisSection {
    /// `redis://user:password@host:port`; user and password are optional.
    #[serde(serialize_with = "units::secret::url", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub url: Option<SecretString>,
    /// ACL user; overrides the one in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password; overrides the one in the URL.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub password: Option<SecretString>,
    /// File that contains the password; overrides the one in the URL. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Prefix of every key in Redis.
    pub prefix: String,
    /// Number of partitions of the queue. It is stored in Redis at first use; all roles must use the same number.
    pub partitions: u16,
    /// Maximum unacknowledged entries of a partition; then publishers wait.
    pub max_backlog: u64,
    /// Replicas that must have received all published entries before a run ends. Not set: 1 where there are replicas, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// How long a streamer owns a source without renewing its lease. After this time, another streamer takes over the files of a dead
    /// one.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub lease_ttl: Duration,
    /// Maximum time of a connection attempt.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Maximum time of a command.
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
    /// Name of the consumer group; the first role that needs the group creates it.
    pub group: String,
    /// Name of this consumer; must be unique among the collectors that run. Not set: host name, process id and a random suffix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Idle time after which the entries of another consumer are claimed.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub claim_idle: Duration,
    /// Maximum time that a read waits for new entries.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub block: Duration,
    /// Time after which the topology (the slot map of a cluster, the primary that Sentinels report) is read again although nothing
    /// has failed. An error that indicates a change has it read at once.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub topology_refresh: Duration,
    /// ACL user for the Sentinels, where they require one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_username: Option<String>,
    /// Password for the Sentinels, where they require one.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub sentinel_password: Option<SecretString>,
    /// File that contains the password for the Sentinels. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password_file: Option<PathBuf>,
    /// TLS to Redis.
    pub tls: RedisTls,
}

/// TLS to Redis (1.2 and 1.3). Files are read again when they change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RedisTls {
    /// Use TLS also where the URL is redis://.
    pub enabled: bool,
    /// Certificate authority: PEM text, or the path of a file. Not set: the authorities of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Client certificate: PEM text, or the path of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Client key: PEM text, or the path of a file.
    #[serde(serialize_with = "units::secret::redacted", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "units::secret_schema")]
    pub key: Option<SecretString>,
    /// Name that is verified in the certificate of every node, and sent as SNI, instead of the host name that is connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Do not verify the server's certificate. Anyone on the network path can then pose as the server: use it for experiments only.
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
        check.at_most("redis.lease_ttl", self.lease_ttl, hour, "the files of a dead streamer would wait this long");
        for (key, value) in [("redis.connect_timeout", self.connect_timeout), ("redis.command_timeout", self.command_timeout)] {
            check.at_least_duration(key, value, Duration::from_millis(10), "no answer could arrive in time");
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
        check.at_most("redis.claim_idle", self.claim_idle, hour, "the entries of a dead collector would wait this long");
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
            "Redis would be asked for its topology without a pause",
        );
        check.at_most("redis.topology_refresh", self.topology_refresh, hour, "a node that was added would be found late");
        check.at_most("redis.block", self.block, Duration::from_secs(60), "a dead connection would not be noticed");
    }
}
