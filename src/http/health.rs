//! /livez, /readyz, /healthz and /metrics on the API's own address. /readyz names the parts that are not ready; why they are not, only
//! the admin server says.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::runtime::Lifecycle;

/// Whether a path is asked by whoever looks after the process.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz")
}

pub(super) fn router<S: Clone + Send + Sync + 'static>(lifecycle: &Lifecycle) -> Router<S> {
    let (live, ready, health, metrics) = (lifecycle.clone(), lifecycle.clone(), lifecycle.clone(), lifecycle.clone());
    let state = |state: Result<&'static str, String>| match state {
        Ok(text) => text_with(StatusCode::OK, text.to_owned(), "text/plain; charset=utf-8"),
        Err(text) => text_with(StatusCode::SERVICE_UNAVAILABLE, text, "text/plain; charset=utf-8"),
    };
    Router::new()
        .route("/livez", get(move || async move { state(live.live()) }))
        .route("/readyz", get(move || async move { state(ready.ready_in_brief().await) }))
        .route("/healthz", get(move || async move { state(health.ready_in_brief().await) }))
        .route(
            "/metrics",
            get(move || async move {
                text_with(StatusCode::OK, metrics.metrics_text().await, "text/plain; version=0.0.4; charset=utf-8")
            }),
        )
}

fn text_with(status: StatusCode, text: String, media_type: &'static str) -> Response {
    (status, [(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-store")], text).into_response()
}
