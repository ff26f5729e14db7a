//! `[http]`: where the API is served, to whom, and within which bounds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::network::Network;
use super::units;

/// The HTTP server and its limits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Http {
    /// IP:PORT on which the API and the page are served.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// File of bearer tokens, one per line: `sha256:<SHA-256 of the token in hex> <name>`. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// Serve without authentication on an address that others can reach.
    pub insecure_open: bool,
    /// Origins whose pages may read the API (CORS), such as https://grafana.example.com.
    pub cors_origins: Vec<String>,
    /// Certificate chain (PEM) for HTTPS. Needs tls_key_file. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of tls_cert_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// Certificate authority (PEM) of clients. Where it is set, every path needs a client certificate that this authority has signed
    /// (see `authentication` for tokens and certificates together). Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Client certificates that may read the API: a certificate needs a DNS, URI or e-mail name that matches one of these patterns.
    /// `*` stands for any characters (`*.monitoring.example`, `spiffe://example/ns/monitoring/*`). Empty: every certificate of the
    /// authority.
    pub tls_client_names: Vec<String>,
    /// What a client needs where both tokens_file and tls_client_ca_file are set: `all` = a token and a certificate, `any` = one of
    /// them.
    pub authentication: Authentication,
    /// Maximum time until an answer begins.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub request_timeout: Duration,
    /// Maximum time for a client to send the head of a request.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub head_timeout: Duration,
    /// Maximum time that a connection waits for its next request. Set it longer than the idle timeout of a load balancer in front.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub idle_timeout: Duration,
    /// A client that takes nothing of an answer for this time is disconnected.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub stall_timeout: Duration,
    /// Maximum time for requests to finish after the server was told to stop.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub stop_grace: Duration,
    /// Minimum rate at which a client takes an answer, in bytes per second over `stall_timeout`; slower clients are disconnected. 0: no
    /// minimum.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub min_transfer_rate: usize,
    /// Maximum connections at the same time. A few more are accepted for /livez, /readyz and /healthz only.
    pub max_connections: usize,
    /// Maximum connections of one client (address) at the same time; connections of trusted proxies are not counted.
    pub max_connections_per_client: usize,
    /// Networks or addresses of the proxies in front of the server. For requests from them, the client is the last address in
    /// X-Forwarded-For that is not a trusted proxy.
    pub trusted_proxies: Vec<Network>,
    /// Maximum size of a request's head.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_head_bytes: usize,
    /// Maximum size of a request's path and query.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_uri_bytes: usize,
    /// Maximum requests per second of one client (address).
    pub rate: u32,
    /// Number of requests that one client may make at once before `rate` applies.
    pub burst: u32,
    /// Memory for what all requests together hold: series, samples, groups, and answers that their clients have not taken yet (an eighth).
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub query_memory: usize,
    /// Share of `query_memory`, in percent, that the requests of one client (address) may hold together; a single larger request is
    /// answered when no other one of the client is. Further ones wait for it, and then get 503.
    pub query_memory_client_percent: usize,
    /// Maximum time that a request waits for its share of `query_memory`; then the answer is 503.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub query_queue_timeout: Duration,
    /// Maximum rows of a page.
    pub max_page: usize,
    /// Maximum series that one query may read.
    pub max_series: usize,
    /// Maximum steps of one query.
    pub max_steps: u64,
    /// Maximum time range of a query with steps or groups.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_range: Duration,
    /// Maximum values that are held in memory to compute a percentile.
    pub max_percentile_samples: usize,
}

/// What a client must show where tokens and certificates are both configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// A token and a certificate.
    #[default]
    All,
    /// A token or a certificate.
    Any,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            tokens_file: None,
            insecure_open: false,
            cors_origins: Vec::new(),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            tls_client_names: Vec::new(),
            authentication: Authentication::All,
            request_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            min_transfer_rate: 4 << 10,
            max_connections: 512,
            max_connections_per_client: 256,
            trusted_proxies: Vec::new(),
            max_head_bytes: 32 << 10,
            max_uri_bytes: 16 << 10,
            rate: 500,
            burst: 2000,
            query_memory: 256 << 20,
            query_memory_client_percent: 50,
            query_queue_timeout: Duration::from_secs(10),
            max_page: 10_000,
            max_series: 200_000,
            max_steps: 11_000,
            max_range: Duration::from_secs(31_557_600),
            max_percentile_samples: 5_000_000,
        }
    }
}

impl Http {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let hour = Duration::from_secs(3600);
        for (key, value) in [
            ("http.request_timeout", self.request_timeout),
            ("http.head_timeout", self.head_timeout),
            ("http.idle_timeout", self.idle_timeout),
            ("http.stall_timeout", self.stall_timeout),
        ] {
            check.at_least_duration(key, value, Duration::from_millis(100), "no request could be answered in time");
            check.at_most(key, value, hour, "hanging clients would hold connections for this time");
        }
        check.at_most(
            "http.stop_grace",
            self.stop_grace,
            hour,
            "the server would wait this long for slow clients before it stops",
        );
        check.within("http.max_connections", self.max_connections, 1, 100_000, "each connection is an open file");
        check.at_least("http.max_connections_per_client", self.max_connections_per_client, 1, "no client could connect");
        check.within(
            "http.min_transfer_rate",
            self.min_transfer_rate,
            0,
            16 << 20,
            "clients on slow lines could not read answers",
        );
        check.within("http.query_memory", self.query_memory, 64 << 20, 1 << 40, "a single request may need a quarter of it");
        let share = "100 lets one client hold all of http.query_memory, and 0 would refuse every request";
        check.within("http.query_memory_client_percent", self.query_memory_client_percent, 1, 100, share);
        check.at_most("http.query_queue_timeout", self.query_queue_timeout, hour, "clients would wait this long for a 503");
        check.within(
            "http.max_head_bytes",
            self.max_head_bytes,
            8192,
            1 << 20,
            "browsers send a few thousand bytes, and each connection may hold a head in memory",
        );
        check.within("http.max_uri_bytes", self.max_uri_bytes, 256, 64 << 10, "filters and cursors need a few hundred bytes");
        check.within("http.rate", self.rate, 1, 1_000_000, "0 would refuse every request, and a greater rate limits nothing");
        check.within("http.burst", self.burst, 1, 1_000_000, "0 would refuse every request, and a greater burst limits nothing");
        check.within("http.max_page", self.max_page, 1, 10_000, "a page is held in memory");
        check.within(
            "http.max_series",
            self.max_series,
            1,
            100_000_000,
            "0 would refuse every query, and more series do not fit into memory",
        );
        check.within("http.max_steps", self.max_steps, 1, 1_000_000, "steps of many series are held in memory");
        check.within("http.max_percentile_samples", self.max_percentile_samples, 1, 1 << 30, "the values are held in memory");
        check.at_least_duration(
            "http.max_range",
            self.max_range,
            Duration::from_secs(60),
            "no query with steps could be answered",
        );
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            let (set, missing) = if self.tls_cert_file.is_some() { ("cert", "key") } else { ("key", "cert") };
            check.refuse(&format!("http.tls_{set}_file"), format!("is not enough: HTTPS also needs http.tls_{missing}_file"));
        }
        if self.tls_client_ca_file.is_some() && self.tls_cert_file.is_none() {
            let reason =
                "needs HTTPS, because only there clients present certificates: also set http.tls_cert_file and http.tls_key_file";
            check.refuse("http.tls_client_ca_file", reason.to_owned());
        }
        if !self.tls_client_names.is_empty() && self.tls_client_ca_file.is_none() {
            let reason = "needs client certificates, whose names it restricts: also set http.tls_client_ca_file";
            check.refuse("http.tls_client_names", reason.to_owned());
        }
        if self.tls_client_names.iter().any(|name| name.trim().is_empty()) {
            check.refuse("http.tls_client_names", "has an empty name, which matches no certificate: remove it".to_owned());
        }
        for origin in &self.cors_origins {
            let plain = url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !plain {
                check.refuse(
                    "http.cors_origins",
                    format!("`{origin}` is not an origin: write https://host or https://host:port, without a path"),
                );
            }
        }
    }

    /// Why the server may not start: anyone who reaches the address could read, and that is not allowed. `None` where it may.
    pub(super) fn open_to_others(&self) -> Option<String> {
        let keys = self.tokens_file.is_some() || self.tls_client_ca_file.is_some();
        let guarded = self.listen.ip().is_loopback() || keys || self.insecure_open;
        (!guarded).then(|| {
            format!(
                "{} can be reached by others, and no tokens are configured: set http.tokens_file (TELEMETRY_API_TOKENS_FILE) to a file of \
                 hashed tokens, listen on 127.0.0.1, or pass --insecure-open if anyone who can reach it may read",
                self.listen
            )
        })
    }
}
