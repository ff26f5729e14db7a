//! The API: one file a resource. Here is what they share, and the table of them.

mod aggregate;
mod gpus;
mod latest;
mod lists;
mod pipeline;
mod telemetry;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::client::Client;
use super::problem::Problem;
use crate::model::Digest;
use crate::query::{Params, Query, QueryError, Room, SMALL_ANSWER_BYTES};

/// What handlers share.
#[derive(Clone, Debug)]
pub struct Api(pub(super) Arc<Query>);

/// The API as the client of a request uses it.
impl FromRequestParts<Self> for Api {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Self) -> Result<Self, Infallible> {
        let client = parts.extensions.get::<Client>();
        Ok(client.map_or_else(|| api.clone(), |client| Self(Arc::new(api.0.of_client(client.0)))))
    }
}

impl Api {
    /// Over what answers questions.
    #[must_use]
    pub fn new(query: Query) -> Self {
        Self(Arc::new(query))
    }
}

/// A handler's end.
pub(super) type Answer = Result<Response, Problem>;

/// The routes below `/api/v1`, with their description.
pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(lists::clusters))
        .routes(routes!(lists::hosts))
        .routes(routes!(lists::host_gpus))
        .routes(routes!(lists::gpus))
        .routes(routes!(lists::metrics))
        .routes(routes!(gpus::gpu))
        .routes(routes!(gpus::gpu_metrics))
        .routes(routes!(telemetry::gpu_telemetry))
        .routes(routes!(latest::latest))
        .routes(routes!(aggregate::aggregate))
        .routes(routes!(pipeline::pipeline))
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::BadParameter { name, reason } => Self::bad_parameter(&name, &reason),
            QueryError::NotFound(detail) => Self::not_found(&detail),
            QueryError::Ambiguous { detail, clusters } => Self::conflict(&detail, clusters),
            QueryError::Unavailable { brief, detail } => {
                tracing::debug!(detail, "a request was answered with 503");
                Self::unavailable(brief)
            }
            QueryError::SnapshotLost(detail) => {
                tracing::debug!(detail, "a request was answered with 503");
                Self::unavailable(
                    "the samples that were being read are gone from the database that is read, or its connection was lost: try again",
                )
            }
            QueryError::Busy => {
                Self::unavailable("other requests hold the memory that this one needs (http.query_memory): try again later")
            }
            QueryError::ClientBusy => Self::unavailable(
                "other requests of this client hold its share of the memory for answers (http.query_memory, \
                 http.query_memory_client_percent): take their answers, or try again later",
            ),
            QueryError::Internal(detail) => Self::internal(&detail),
        }
    }
}

fn params(uri: &axum::http::Uri) -> Result<Params, Problem> {
    Ok(Params::parse(uri.query())?)
}

/// A path's segment, decoded; what is no text is no name of anything.
fn segment(decoded: Result<axum::extract::Path<String>, axum::extract::rejection::PathRejection>) -> Result<String, Problem> {
    decoded.map(|axum::extract::Path(text)| text).map_err(|_| Problem::bad_parameter("path", "is not UTF-8 in percent-encoding"))
}

/// Whether the client has what the tag stands for.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim() == "*" || known.trim().trim_start_matches("W/") == tag.trim_start_matches("W/"))
}

/// JSON that is asked for again and again: with a tag, so that it need not be sent again.
async fn tagged<T: Serialize + Sync>(api: &Api, headers: &HeaderMap, body: &T) -> Answer {
    let text = written(api, body).await?;
    let tag = format!("W/\"{}\"", Digest::of(&text));
    let mut response = if is_known(headers, &tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        typed(Body::from(text), JSON)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

const JSON: &str = "application/json";

fn typed(body: Body, media_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

async fn answer<T: Serialize + Sync>(api: &Api, body: &T) -> Answer {
    Ok(typed(Body::from(written(api, body).await?), JSON))
}

/// An answer as JSON, in its part of the memory for answers: its length is found out before it is written.
async fn written<T: Serialize + Sync>(api: &Api, body: &T) -> Result<Bytes, Problem> {
    let unwritable = |error| Problem::internal(&format!("an answer cannot be written as JSON: {error}"));
    let mut small = Small::default();
    serde_json::to_writer(&mut small, body).map_err(unwritable)?;
    if small.length == small.text.len() {
        return Ok(small.text.into());
    }
    let room = api.0.room_for(small.length).await?;
    let mut text = small.text;
    text.clear();
    text.reserve_exact(small.length);
    serde_json::to_writer(&mut text, body).map_err(unwritable)?;
    Ok(held(text, room))
}

/// What is written, with its room: that is given back when the last byte has been sent, or given up.
fn held(text: impl AsRef<[u8]> + Send + 'static, room: Room) -> Bytes {
    Bytes::from_owner(Held { text, _room: room })
}

struct Held<T> {
    text: T,
    _room: Room,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// Keeps what is small, and finds out how long the rest is.
#[derive(Default)]
struct Small {
    text: Vec<u8>,
    length: usize,
}

impl io::Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length == self.text.len() && self.length + bytes.len() <= SMALL_ANSWER_BYTES {
            self.text.extend_from_slice(bytes);
        }
        self.length += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
