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
    /// IP:PORT of the API and the page.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// File of bearer tokens: a line for each, `sha256:<hex of the token's SHA-256> <name>`. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// Serve without tokens on an address that others can reach.
    pub insecure_open: bool,
    /// Origins whose pages may read the API (CORS), such as https://grafana.example.com.
    pub cors_origins: Vec<String>,
    /// Certificate chain (PEM) for HTTPS; read again when it changes. Needs tls_key_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// Authority (PEM) of clients; read again when it changes. Where it is set, only clients with a certificate of it are served, to
    /// all paths (see `authentication` for where tokens are set, too).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Which certificates of that authority may read: names that one of its DNS, URI or e-mail names must match, `*` for any
    /// characters (`*.monitoring.example`, `spiffe://example/ns/monitoring/*`). Empty: all of them.
    pub tls_client_names: Vec<String>,
    /// Where both tokens_file and tls_client_ca_file are set: `all` = a client needs a token and a certificate, `any` = one of them.
    pub authentication: Authentication,
    /// How long an answer may take to begin.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub request_timeout: Duration,
    /// How long a client may take to send a request's head.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request. Longer than that of a load balancer in front.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a client may take nothing of an answer before it is cut off.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub stall_timeout: Duration,
    /// How long requests may go on after the server was told to end.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub stop_grace: Duration,
    /// How fast a client must take an answer, in bytes per second over `stall_timeout`; 0: as slowly as it likes.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub min_transfer_rate: usize,
    /// Connections at the same time. A few more are taken for /livez, /readyz and /healthz.
    pub max_connections: usize,
    /// Connections of one client (address) at the same time; those of trusted proxies are not counted.
    pub max_connections_per_client: usize,
    /// Networks or addresses of proxies in front. Behind them a client is who X-Forwarded-For names, read from the right.
    pub trusted_proxies: Vec<Network>,
    /// A request's head at most.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_head_bytes: usize,
    /// A request's path and query at most.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_uri_bytes: usize,
    /// Requests per second of one client (address).
    pub rate: u32,
    /// Requests that one client may make at once before `rate` counts.
    pub burst: u32,
    /// Memory for the samples and groups that all requests hold together.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub query_memory: usize,
    /// How long a request waits for its part of `query_memory` before it is answered with 503.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub query_queue_timeout: Duration,
    /// Rows of a page at most.
    pub max_page: usize,
    /// Series that one question may touch.
    pub max_series: usize,
    /// Steps that one question may have.
    pub max_steps: u64,
    /// Time that a question with steps or groups may span.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub max_range: Duration,
    /// Values that are held to answer for a percentile.
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
            check.at_most(key, value, hour, "hanging clients would hold connections that long");
        }
        check.at_most("http.stop_grace", self.stop_grace, hour, "the end would wait that long for slow clients");
        check.within("http.max_connections", self.max_connections, 1, 100_000, "each is an open file");
        check.at_least("http.max_connections_per_client", self.max_connections_per_client, 1, "no client could connect");
        check.within("http.min_transfer_rate", self.min_transfer_rate, 0, 16 << 20, "clients on slow lines could read nothing");
        check.within("http.query_memory", self.query_memory, 64 << 20, 1 << 40, "a single request may need a quarter of it");
        check.at_most("http.query_queue_timeout", self.query_queue_timeout, hour, "clients would wait that long");
        check.within(
            "http.max_head_bytes",
            self.max_head_bytes,
            8192,
            1 << 20,
            "browsers send some thousand bytes, and each connection may hold as much",
        );
        check.within("http.max_uri_bytes", self.max_uri_bytes, 256, 64 << 10, "filters and cursors need some hundred bytes");
        check.within("http.rate", self.rate, 1, 1_000_000, "no request could ever be answered, or all");
        check.within("http.burst", self.burst, 1, 1_000_000, "no request could ever be answered, or all");
        check.within("http.max_page", self.max_page, 1, 10_000, "a page is held in memory");
        check.within(
            "http.max_series",
            self.max_series,
            1,
            100_000_000,
            "no question could be answered, or memory would run out",
        );
        check.within("http.max_steps", self.max_steps, 1, 1_000_000, "steps of many series are held in memory");
        check.within("http.max_percentile_samples", self.max_percentile_samples, 1, 1 << 30, "they are held in memory");
        check.at_least_duration(
            "http.max_range",
            self.max_range,
            Duration::from_secs(60),
            "no question with steps could be answered",
        );
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            let (set, missing) = if self.tls_cert_file.is_some() { ("cert", "key") } else { ("key", "cert") };
            check.refuse(&format!("http.tls_{set}_file"), format!("is of no use alone: set http.tls_{missing}_file, too"));
        }
        if self.tls_client_ca_file.is_some() && self.tls_cert_file.is_none() {
            let reason = "clients show certificates only over HTTPS: set http.tls_cert_file and http.tls_key_file, too";
            check.refuse("http.tls_client_ca_file", reason.to_owned());
        }
        if !self.tls_client_names.is_empty() && self.tls_client_ca_file.is_none() {
            let reason = "names are those of clients' certificates: set http.tls_client_ca_file, too";
            check.refuse("http.tls_client_names", reason.to_owned());
        }
        if self.tls_client_names.iter().any(|name| name.trim().is_empty()) {
            check.refuse("http.tls_client_names", "an empty name matches no certificate: leave it out".to_owned());
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

    /// Why this may not be served as it is: everybody who reaches the address could read.
    pub(super) fn open_to_others(&self) -> Option<String> {
        let keys = self.tokens_file.is_some() || self.tls_client_ca_file.is_some();
        let guarded = self.listen.ip().is_loopback() || keys || self.insecure_open;
        (!guarded).then(|| {
            format!(
                "{} can be reached by others, and no tokens are configured: set http.tokens_file (TELEMETRY_API_TOKENS_FILE) to a file of \
                 hashed tokens, listen on 127.0.0.1, or say --insecure-open if everybody who reaches it may read",
                self.listen
            )
        })
    }
}
