//! How the pipeline is.

use axum::http::Uri;

use super::{Answer, Api, answer, params};
use crate::http::dto::PipelineState;
use crate::http::problem::ProblemBody;
use crate::query::{PipelineParams, PipelineRequest};

/// What waits in the queue, and how far each source is. `limit` and `cursor` are of the list of sources; partitions and clusters come
/// with every page. Without `limit` a page has as many sources as it may.
#[utoipa::path(get, path = "/api/v1/pipeline", tag = "Pipeline", params(PipelineParams),
    responses((status = 200, body = PipelineState), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn pipeline(api: Api, uri: Uri) -> Answer {
    let request = PipelineRequest::parse(params(&uri)?, &api.0)?;
    let (pipeline, _lease) = api.0.pipeline(&request).await?;
    answer(&api, &PipelineState::from(pipeline)).await
}
