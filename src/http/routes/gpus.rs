//! One GPU.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, Uri};

use super::{Answer, Api, answer, params, segment, tagged};
use crate::http::dto::{Gpu, GpuDetail, LatestValue, List, Metric};
use crate::http::problem::{Problem, ProblemBody};
use crate::query::ClusterParam;

/// A GPU with the newest value of each of its metrics.
#[utoipa::path(get, path = "/api/v1/gpus/{id}", tag = "One GPU", params(("id" = String, Path, description = "uuid, or host:index"), ClusterParam),
    responses((status = 200, body = GpuDetail), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn gpu(api: Api, id: Result<Path<String>, PathRejection>, uri: Uri) -> Answer {
    let id = segment(id)?;
    let mut params = params(&uri)?;
    let cluster = params.take::<ClusterParam>()?.cluster;
    params.end().map_err(Problem::from)?;
    let gpu = api.0.gpu(&id, cluster.as_deref()).await?;
    let page = api.0.latest_of_gpu(&gpu).await?;
    let latest = page.rows.into_iter().map(|(mig, row)| LatestValue::of(mig, row)).collect();
    let mut shown = Gpu::from(gpu.summary);
    shown.first_seen = gpu.span.0.to_string();
    answer(&api, &GpuDetail { gpu: shown, latest }).await
}

/// The metrics that a GPU has.
#[utoipa::path(get, path = "/api/v1/gpus/{id}/metrics", tag = "One GPU", params(("id" = String, Path, description = "uuid, or host:index"), ClusterParam),
    responses((status = 200, body = List<Metric>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn gpu_metrics(api: Api, id: Result<Path<String>, PathRejection>, uri: Uri, headers: HeaderMap) -> Answer {
    let id = segment(id)?;
    let mut params = params(&uri)?;
    let cluster = params.take::<ClusterParam>()?.cluster;
    params.end().map_err(Problem::from)?;
    let gpu = api.0.gpu(&id, cluster.as_deref()).await?;
    let page = api.0.metrics_of(&gpu).await?;
    let data: Vec<Metric> = page.rows.into_iter().map(Metric::from).collect();
    tagged(&api, &headers, &List { data, next_cursor: None }).await
}
