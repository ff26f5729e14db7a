//! Requests that a browser makes for a page of somebody else's. Where no token is asked for, whatever reaches the address may read, and
//! a browser reaches what its user reaches: a foreign page must not read through it.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What is refused to browsers.
#[derive(Debug)]
pub(super) struct BrowserPolicy {
    /// Only names of this machine are answered: any other was made to lead here (DNS rebinding).
    pub(super) loopback_names_only: bool,
    /// What other sites' pages ask for is refused.
    pub(super) refuse_cross_site: bool,
    /// Origins whose pages may ask all the same.
    pub(super) origins: Vec<HeaderValue>,
}

impl BrowserPolicy {
    /// Whether a request may be answered. `shows_data`: whether what it asks for is more than the page without data.
    pub(super) fn check(&self, request: &Request, shows_data: bool) -> Result<(), Problem> {
        if self.loopback_names_only && host(request).is_some_and(|host| !is_loopback(host)) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without tokens only localhost, 127.0.0.1 and [::1] are answered as the host: set http.tokens_file, or start with \
                 --insecure-open where another name leads here and everybody who reaches it may read",
            ));
        }
        let headers = request.headers();
        let is = |name: HeaderName, value: &str| headers.get(name).is_some_and(|given| given == value);
        // A link on another site that leads to the page is no request of that site's for data.
        let follows_link = !shows_data && is(SEC_FETCH_MODE, "navigate");
        if self.refuse_cross_site && is(SEC_FETCH_SITE, "cross-site") && !follows_link && !self.is_allowed_origin(headers) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the page of another site asks for this: add its origin to http.cors_origins if it may read",
            ));
        }
        Ok(())
    }

    fn is_allowed_origin(&self, headers: &HeaderMap) -> bool {
        headers.get(ORIGIN).is_some_and(|origin| self.origins.contains(origin))
    }
}

/// The name that was asked, with its port: HTTP/2 has it in the URI.
fn host(request: &Request) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default()),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    name == "localhost" || name.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for name in
            ["localhost", "LOCALHOST:8080", "localhost.", "app.localhost", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080", "[::1]"]
        {
            assert!(is_loopback(name), "{name}");
        }
        for name in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]:80", "evil:80", ":80"]
        {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
