//! Groups of GPUs.

use axum::http::Uri;

use super::{Answer, Api, answer, params};
use crate::http::dto::{Group, List};
use crate::http::problem::ProblemBody;
use crate::model::TimeMs;
use crate::query::{AggregateParams, AggregateRequest, FilterParams, PageParams};

/// One metric of many GPUs, grouped, by step and group.
#[utoipa::path(get, path = "/api/v1/telemetry/aggregate", tag = "Fleet", params(AggregateParams, FilterParams, PageParams),
    responses((status = 200, body = List<Group>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn aggregate(api: Api, uri: Uri) -> Answer {
    let request = AggregateRequest::parse(params(&uri)?, &api.0, TimeMs::now())?;
    let page = api.0.aggregate(&request).await?;
    let data: Vec<Group> = page.rows.into_iter().map(|row| Group::of(row, &request.metric)).collect();
    answer(&api, &List { data, next_cursor: page.next }).await
}
