//! The newest values.

use axum::http::Uri;

use super::{Answer, Api, answer, params};
use crate::http::dto::{Latest, List};
use crate::http::problem::ProblemBody;
use crate::query::{FilterParams, LatestRequest, MetricsParam, PageParams};

/// The newest value of each metric of each GPU, by GPU and metric.
#[utoipa::path(get, path = "/api/v1/telemetry/latest", tag = "Fleet", params(MetricsParam, FilterParams, PageParams),
    responses((status = 200, body = List<Latest>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn latest(api: Api, uri: Uri) -> Answer {
    let request = LatestRequest::parse(params(&uri)?, &api.0)?;
    let page = api.0.latest(&request).await?;
    answer(&api, &List { data: page.rows.into_iter().map(Latest::from).collect(), next_cursor: page.next }).await
}
