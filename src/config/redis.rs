//! `[redis]`: where the queue is and how to reach it.

use std::time::Duration;

use secrecy::SecretString;

/// The queue's address, identity and limits. Resolved: no secret files left to read.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://host:port`; never printed with its password.
    pub url: SecretString,
    /// ACL user; overrides the URL's.
    pub username: Option<String>,
    /// Password; overrides the URL's.
    pub password: Option<SecretString>,
    /// Prefix of every key.
    pub prefix: String,
    /// Partitions; kept in Redis at first use.
    pub partitions: u16,
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
}
