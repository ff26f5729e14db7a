//! What every request passes: its size, who asks, how often, and how long an answer may take. Around it: panics, compression, CORS.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, ETAG, HOST, IF_NONE_MATCH, REFERRER_POLICY, RETRY_AFTER,
    STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tracing::Instrument as _;

use super::auth::{Certificate, Tokens};
use super::browser::BrowserPolicy;
use super::client::{Client, Peer, client};
use super::problem::Problem;
use super::{health, openapi, ui};
use crate::config::{Authentication, Http, Network};
use crate::runtime::observe;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a request id that a client may choose.
const MAX_REQUEST_ID: usize = 64;
/// Of an answer that brings no policy of its own.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Requests after which clients that were not heard of for a while are forgotten.
const FORGET_EVERY: u32 = 4096;

struct Gate {
    tokens: Tokens,
    /// Whether certificates are asked for, too.
    certificates: bool,
    authentication: Authentication,
    browsers: BrowserPolicy,
    trusted_proxies: Vec<Network>,
    rate: DefaultKeyedRateLimiter<IpAddr>,
    asked: AtomicU32,
    max_uri: usize,
    timeout: Duration,
    encrypted: bool,
}

/// Puts the gate before all routes.
///
/// # Errors
///
/// The tokens' file cannot be used, or an origin is none.
pub(super) fn guard(routes: Router, config: &Http) -> Result<Router, String> {
    let per_second = NonZeroU32::new(config.rate).unwrap_or(NonZeroU32::MIN);
    let burst = NonZeroU32::new(config.burst).unwrap_or(NonZeroU32::MIN);
    let origins = config
        .cors_origins
        .iter()
        .map(|origin| origin.parse::<HeaderValue>().map_err(|_| format!("http.cors_origins: `{origin}` is not an origin")));
    let origins = origins.collect::<Result<Vec<_>, _>>()?;
    let keyless = config.tokens_file.is_none();
    let gate = Gate {
        certificates: config.tls_client_ca_file.is_some(),
        authentication: config.authentication,
        browsers: BrowserPolicy {
            loopback_names_only: keyless && config.tls_client_ca_file.is_none() && !config.insecure_open,
            // Browsers show certificates by themselves, tokens not.
            refuse_cross_site: keyless || config.authentication == Authentication::Any,
            origins: origins.clone(),
        },
        trusted_proxies: config.trusted_proxies.clone(),
        tokens: Tokens::load(config.tokens_file.as_deref()).map_err(|error| format!("http.tokens_file: {error}"))?,
        rate: RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst)),
        asked: AtomicU32::new(0),
        max_uri: config.max_uri_bytes,
        timeout: config.request_timeout,
        encrypted: config.tls_cert_file.is_some(),
    };
    let routes = routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::new(gate), pass))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
    if config.cors_origins.is_empty() {
        return Ok(routes);
    }
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([AUTHORIZATION, IF_NONE_MATCH, REQUEST_ID])
        .expose_headers([ETAG, RETRY_AFTER, REQUEST_ID])
        .max_age(Duration::from_secs(3600));
    Ok(routes.layer(cors))
}

async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default(), route);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let answering = async {
        match gate.admit(&request) {
            Err(problem) => problem.into_response(),
            Ok(client) => match tokio::time::timeout(gate.timeout, next.run(of_client(request, client))).await {
                Ok(response) => response,
                Err(_) => Problem::unavailable(&format!(
                    "no answer within {} (http.request_timeout): ask for a shorter range or fewer series, or again later",
                    humantime::format_duration(gate.timeout)
                ))
                .into_response(),
            },
        }
    };
    let mut response = answering.instrument(span.clone()).await;
    let (status, took) = (response.status(), began.elapsed());
    span.in_scope(|| tracing::debug!(status = status.as_u16(), ?took, "answered"));
    observe::http_request(&route, status.as_u16(), took);
    gate.harden(response.headers_mut());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn of_client(mut request: Request, client: Client) -> Request {
    request.extensions_mut().insert(client);
    request
}

impl Gate {
    /// Who asks, where the request may be answered: what is cheap to refuse is refused first.
    fn admit(&self, request: &Request) -> Result<Client, Problem> {
        let uri = request.uri();
        let length = uri.path_and_query().map_or(0, |both| both.as_str().len());
        if length > self.max_uri {
            let detail = format!("path and query have {length} bytes, at most {} are read (http.max_uri_bytes)", self.max_uri);
            return Err(Problem::new(StatusCode::URI_TOO_LONG, &detail));
        }
        // HTTP/2 has :authority instead.
        if request.version() == Version::HTTP_11 && request.headers().get_all(HOST).iter().count() != 1 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "HTTP/1.1 needs one Host header"));
        }
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.0);
        let client = client(peer, request.headers(), &self.trusted_proxies);
        let counted = Client(network(client));
        if health::is_probe(uri.path()) {
            return Self::without_body(request).map(|()| counted);
        }
        self.limit(counted)?;
        let shows_data = !is_public(uri.path());
        self.browsers.check(request, shows_data)?;
        if shows_data {
            self.authenticate(request, client)?;
        }
        Self::without_body(request).map(|()| counted)
    }

    fn authenticate(&self, request: &Request, client: IpAddr) -> Result<(), Problem> {
        let certificate = request.extensions().get::<Certificate>().copied().unwrap_or_default();
        let tokens_too = self.tokens.are_needed();
        if self.certificates && tokens_too && self.authentication == Authentication::Any {
            return if certificate == Certificate::Accepted { Ok(()) } else { self.tokens.check(request.headers(), client) };
        }
        if self.certificates && certificate != Certificate::Accepted {
            let detail =
                "no name of the certificate is allowed to read here: ask the operator of this server (http.tls_client_names)";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        self.tokens.check(request.headers(), client)
    }

    fn without_body(request: &Request) -> Result<(), Problem> {
        let body = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0")
            || request.headers().contains_key(TRANSFER_ENCODING);
        if body && (request.method() == Method::GET || request.method() == Method::HEAD) {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "requests have no body here"));
        }
        Ok(())
    }

    fn limit(&self, Client(client): Client) -> Result<(), Problem> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.rate.retain_recent();
        }
        self.rate.check_key(&client).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            Problem::too_many(
                "too many requests of this client (http.rate, http.burst)",
                u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1),
            )
        })
    }

    fn harden(&self, headers: &mut HeaderMap) {
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(NOTHING);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if self.encrypted {
            headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
    }
}

/// What is shown to whoever asks, tokens or not: the page without data, the API's description, whether we live.
fn is_public(path: &str) -> bool {
    health::is_probe(path) || openapi::is_documentation(path) || ui::asset(path).is_some()
}

/// Of IPv6 the network: one client has as many addresses in it as it likes.
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

/// The client's own where it can be written into a log as it is, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b))
    });
    given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&format!("{:016x}", rand::random::<u64>())).unwrap_or(HeaderValue::from_static("none"))
    })
}

// The panic hook has said where.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Problem::internal("a handler panicked").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shows_no_data_is_public() {
        for path in ["/", "/docs", "/docs/", "/docs/index.html", "/openapi.json", "/livez", "/readyz", "/healthz"] {
            assert!(is_public(path), "{path}");
        }
        for path in [
            "",
            "//",
            "/metrics",
            "/api/v1/gpus",
            "/docs/../api/v1/gpus",
            "/docs/..%2fapi",
            "/docsx",
            "/livez/",
            "/openapi.json/x",
        ] {
            assert!(!is_public(path), "{path}");
        }
    }

    #[test]
    fn request_ids_are_kept_where_they_do_no_harm() {
        let with = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(id));
            request_id(&headers)
        };
        assert_eq!(with("abc-1.2_3:4"), "abc-1.2_3:4");
        for harmful in ["", "a b", "<x>", "0123456789012345678901234567890123456789012345678901234567890123x"] {
            assert_ne!(with(harmful), harmful);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_client_of_ipv6_is_a_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::5"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::5"), of("2001:db8:0:2::5"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }
}
