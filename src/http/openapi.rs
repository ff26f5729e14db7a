//! The API's description: generated from the handlers, shown by Swagger UI, whose files are in the binary.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

use super::assets::{self, Asset, Content, Table};
use super::problem::Problem;

/// The files that build.rs took from Swagger UI's archive.
static SWAGGER_UI: Table = include!(concat!(env!("OUT_DIR"), "/swagger_ui.rs"));

/// Swagger UI sets styles on elements; scripts come from files only.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                                       connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What stands at the head of the description.
#[derive(OpenApi)]
#[openapi(info(
    title = "telemetry",
    description = "GPU telemetry of many clusters. Times are RFC 3339 in UTC. Lists have `limit` and `cursor`; a cursor stays valid while rows arrive. Errors are application/problem+json (RFC 9457) and name the parameter that is wrong.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Head;

/// The description without its paths.
pub(super) fn head() -> utoipa::openapi::OpenApi {
    let mut api = Head::openapi();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    api.components.get_or_insert_default().add_security_scheme("token", bearer);
    // Either works: without a tokens file nothing is asked.
    api.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new("token", Vec::<String>::new())]);
    api
}

/// `/openapi.json` and `/docs`.
pub(super) fn router<S: Clone + Send + Sync + 'static>(api: &utoipa::openapi::OpenApi) -> Router<S> {
    let text: Arc<[u8]> = serde_json::to_vec_pretty(api).unwrap_or_default().into();
    Router::new()
        .route("/openapi.json", get(move || async move { description(text.to_vec()) }))
        .route("/docs", get(|| async { moved("/docs/") }))
        .route("/docs/", get(|headers: HeaderMap| async move { file("/docs/index.html", &headers) }))
        .route("/docs/{*file}", get(|uri: Uri, headers: HeaderMap| async move { file(uri.path(), &headers) }))
}

/// Whether a path is one of these.
pub(super) fn is_documentation(path: &str) -> bool {
    let below = |rest: &str| {
        rest.is_empty() || rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !rest.contains("..")
    };
    path == "/openapi.json" || path == "/docs" || path.strip_prefix("/docs/").is_some_and(below)
}

fn file(path: &str, headers: &HeaderMap) -> Response {
    match assets::find(SWAGGER_UI, path) {
        Some(asset) => assets::answer(asset, headers, CONTENT_SECURITY_POLICY),
        None => Problem::not_found("there is no such file").into_response(),
    }
}

fn moved(to: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response
}

fn description(text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
