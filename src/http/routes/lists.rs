//! Clusters, hosts, GPUs, the metric catalogue.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, Uri};

use super::{Answer, Api, answer, params, segment, tagged};
use crate::http::dto::{Cluster, Gpu, Host, List, Metric};
use crate::http::problem::{Problem, ProblemBody};
use crate::model::TimeMs;
use crate::query::{ClusterParam, FilterParams, ListRequest, PageParams};

/// The edge clusters: what is stored of each, and how fresh it is.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "What is stored",
    responses((status = 200, body = List<Cluster>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn clusters(api: Api, uri: Uri) -> Answer {
    params(&uri)?.end().map_err(Problem::from)?;
    let now = TimeMs::now();
    let data: Vec<Cluster> = api.0.clusters().await?.into_iter().map(|cluster| Cluster::of(cluster, now)).collect();
    // No tag: ages are of the moment.
    answer(&api, &List { data, next_cursor: None }).await
}

/// Hosts by cluster and name.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "What is stored", params(ClusterParam, PageParams),
    responses((status = 200, body = List<Host>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn hosts(api: Api, uri: Uri, headers: HeaderMap) -> Answer {
    let request = ListRequest::parse::<ClusterParam>(params(&uri)?, "hosts", &api.0)?;
    let page = api.0.hosts(&request).await?;
    tagged(&api, &headers, &List { data: page.rows.into_iter().map(Host::from).collect(), next_cursor: page.next }).await
}

/// The GPUs of a host, in whichever clusters there is one of this name.
#[utoipa::path(get, path = "/api/v1/hosts/{host}/gpus", tag = "What is stored", params(("host" = String, Path, description = "The host's name"), ClusterParam, PageParams),
    responses((status = 200, body = List<Gpu>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn host_gpus(api: Api, host: Result<Path<String>, PathRejection>, uri: Uri, headers: HeaderMap) -> Answer {
    let host = segment(host)?;
    let mut request = ListRequest::parse::<ClusterParam>(params(&uri)?, "host_gpus", &api.0)?;
    request.filter.hostname = Some(host.replace('\0', "\u{2400}"));
    let page = api.0.gpus(&request).await?;
    if page.rows.is_empty() {
        return Err(Problem::not_found(&format!("no host `{host}`: /api/v1/hosts lists them")));
    }
    tagged(&api, &headers, &List { data: page.rows.into_iter().map(Gpu::from).collect(), next_cursor: page.next }).await
}

/// GPUs by cluster, host, index, uuid and MIG instance.
#[utoipa::path(get, path = "/api/v1/gpus", tag = "What is stored", params(FilterParams, PageParams),
    responses((status = 200, body = List<Gpu>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn gpus(api: Api, uri: Uri, headers: HeaderMap) -> Answer {
    let request = ListRequest::parse::<FilterParams>(params(&uri)?, "gpus", &api.0)?;
    let page = api.0.gpus(&request).await?;
    tagged(&api, &headers, &List { data: page.rows.into_iter().map(Gpu::from).collect(), next_cursor: page.next }).await
}

/// The metric catalogue, and what is stored beside it.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "What is stored",
    responses((status = 200, body = List<Metric>), (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn metrics(api: Api, uri: Uri, headers: HeaderMap) -> Answer {
    params(&uri)?.end().map_err(Problem::from)?;
    let page = api.0.catalogue().await?;
    let data: Vec<Metric> = page.rows.into_iter().map(Metric::from).collect();
    tagged(&api, &headers, &List { data, next_cursor: None }).await
}
