//! The page's files as answers: with tags, kept by browsers as long as they may be.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use super::routes::is_known;
use super::ui;

/// The file of the page that a path names, else a problem.
pub(super) async fn file(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let readable = method == Method::GET || method == Method::HEAD;
    let Some(asset) = ui::asset(uri.path()).filter(|_| readable) else {
        return Problem::not_found("there is no such path: /docs shows those there are").into_response();
    };
    let mut response = if is_known(&headers, asset.etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::from(asset.bytes))
    };
    let cache = if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    for (name, value) in [
        (CONTENT_TYPE, asset.content_type),
        (ETAG, asset.etag),
        (CACHE_CONTROL, cache),
        (CONTENT_SECURITY_POLICY, ui::CONTENT_SECURITY_POLICY),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
