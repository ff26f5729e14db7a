//! How the pipeline is.

use axum::extract::State;
use axum::http::Uri;

use super::{Answer, Api, answer, params};
use crate::http::dto::PipelineState;
use crate::http::problem::{Problem, ProblemBody};

/// What waits in the queue, and how far each source is.
#[utoipa::path(get, path = "/api/v1/pipeline", tag = "Pipeline",
    responses((status = 200, body = PipelineState), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn pipeline(State(api): State<Api>, uri: Uri) -> Answer {
    params(&uri)?.end().map_err(Problem::from)?;
    answer(&PipelineState::from(api.0.pipeline().await?))
}
