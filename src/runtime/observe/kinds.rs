//! Kinds of things that metrics tell apart: the values of their labels.

/// The role that reports on its connection to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// `telemetry stream`.
    Streamer,
    /// `telemetry collect`.
    Collector,
    /// `telemetry serve`.
    ApiGateway,
    /// `telemetry probe`.
    Probe,
}

impl Component {
    /// The value of the label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Streamer => "streamer",
            Self::Collector => "collector",
            Self::ApiGateway => "api-gateway",
            Self::Probe => "probe",
        }
    }
}

/// Where a batch was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the queue.
    Published,
    /// Into the store.
    Committed,
}

impl Direction {
    pub(in crate::runtime) fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Committed => "committed",
        }
    }
}

/// The server of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The queue.
    Redis,
    /// The store.
    Postgres,
}

impl Target {
    pub(in crate::runtime) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// A certificate that this process presents or sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// The certificate that is presented to clients of the API.
    Http,
    /// The certificate that is presented to PostgreSQL.
    PostgresClient,
    /// The certificate that is presented to Redis.
    RedisClient,
    /// The certificate that Redis presented at the last handshake.
    RedisServer,
}

impl Certificate {
    pub(in crate::runtime) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::PostgresClient => "postgres-client",
            Self::RedisClient => "redis-client",
            Self::RedisServer => "redis-server",
        }
    }
}

/// A step of a probe of a Redis node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Resolving the host name.
    Resolve,
    /// Connecting by TCP.
    Connect,
    /// The TLS handshake.
    Tls,
    /// A command and its answer on an open connection.
    RoundTrip,
}

impl ProbeStep {
    pub(in crate::runtime) fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::RoundTrip => "round_trip",
        }
    }
}
