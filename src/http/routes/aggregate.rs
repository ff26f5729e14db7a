//! Groups of GPUs.

use axum::extract::State;
use axum::http::Uri;
use utoipa::IntoParams;

use super::lists::{FilterParams, PageParams};
use super::{Answer, Api, answer, params};
use crate::http::dto::{Group, List};
use crate::http::problem::ProblemBody;
use crate::model::now_ms;
use crate::query::AggregateRequest;

/// What is grouped, and how.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `query::Params` reads")]
struct AggregateParams {
    /// One metric.
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    metric: String,
    /// What is grouped by. With namespace and pod, what a GPU measured while it was theirs.
    #[param(pattern = "^(cluster|hostname|gpu|model|namespace|pod)$", default = "cluster")]
    group_by: Option<String>,
    /// How the GPUs of a group become one value. Over time, each GPU becomes one value first: its least, greatest or last for
    /// min, max and last, its mean otherwise (of all its samples, whatever ran on it); so `sum` adds GPUs up, and percentiles are over
    /// GPUs. With `group_by=gpu` percentiles are over samples. `count` gives the number of samples.
    #[param(pattern = "^(avg|min|max|sum|count|last|p50|p95|p99)$", default = "avg")]
    agg: Option<String>,
    /// The length of a step; the whole range where it is not given.
    #[param(max_length = 32, pattern = "^[0-9]+(ms|s|m|h|d)$")]
    step: Option<String>,
    /// The first instant; an hour before the end where it is not given.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    start_time: Option<String>,
    /// The last instant, included; the newest sample's where it is not given.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    end_time: Option<String>,
}

/// One metric of many GPUs, grouped, by step and group.
#[utoipa::path(get, path = "/api/v1/telemetry/aggregate", tag = "Fleet", params(AggregateParams, FilterParams, PageParams),
    responses((status = 200, body = List<Group>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn aggregate(State(api): State<Api>, uri: Uri) -> Answer {
    let request = AggregateRequest::parse(params(&uri)?, &api.0, now_ms())?;
    let page = api.0.aggregate(&request).await?;
    let data: Vec<Group> = page.rows.into_iter().map(|row| Group::of(row, &request.metric)).collect();
    answer(&List { data, next_cursor: page.next })
}
