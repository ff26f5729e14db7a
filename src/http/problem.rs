//! What went wrong, as RFC 9457 has it: `application/problem+json`.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which it is worth asking again when the database is away.
const AGAIN_AFTER: u32 = 2;

/// The document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
    /// The parameter that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter: Option<String>,
    /// The clusters among which to choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub clusters: Option<Vec<String>>,
}

/// A problem, with its headers.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    retry_after: Option<u32>,
    body: Box<ProblemBody>,
}

impl Problem {
    /// A problem of any status.
    #[must_use]
    pub fn new(status: StatusCode, detail: &str) -> Self {
        let title = status.canonical_reason().unwrap_or("Problem");
        let body = Box::new(ProblemBody {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: detail.to_owned(),
            parameter: None,
            clusters: None,
        });
        Self { status, retry_after: None, body }
    }

    /// 400: a parameter is wrong.
    #[must_use]
    pub fn bad_parameter(name: &str, reason: &str) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, &format!("{name}: {reason}"));
        problem.body.parameter = Some(name.to_owned());
        problem
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 409: it is in several clusters.
    #[must_use]
    pub fn conflict(detail: &str, clusters: Vec<String>) -> Self {
        let mut problem = Self::new(StatusCode::CONFLICT, detail);
        problem.body.clusters = Some(clusters);
        problem
    }

    /// 406.
    #[must_use]
    pub fn not_acceptable(detail: &str) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, detail)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 429.
    #[must_use]
    pub fn too_many(detail: &str, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after.max(1)), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// 503: the database, or we, cannot answer at present.
    #[must_use]
    pub fn unavailable(detail: &str) -> Self {
        Self { retry_after: Some(AGAIN_AFTER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 500. What is inside stays in the log.
    #[must_use]
    pub fn internal(detail: &str) -> Self {
        tracing::error!(detail, "a request could not be answered");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "an internal error: the log of `telemetry serve` says more")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let text = serde_json::to_vec(&self.body).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"telemetry\""));
        }
        response
    }
}
