//! Which GPU an id means: a uuid, or host:index.

use std::collections::BTreeMap;

use super::budget::{Held, Lease, row_bytes};
use super::{CatalogueEntry, GpuFilter, GpuSummary, Page, Query, QueryError, Result};
use crate::model::{GpuId, SeriesId, TimeMs, catalogue_name, names_of};
use crate::store::{SeriesFilter, SeriesRow};

/// Rows that one id may have in the table of GPUs: descriptions of one board over its life, its slices.
const MAX_DESCRIPTIONS: usize = 10_000;
/// GPUs that are asked for at once.
const GPUS_PAGE: usize = 10_000;
/// Series that are asked for at once.
const SERIES_PAGE: usize = 10_000;

/// One GPU of one cluster: every place and slice that its id names.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// As it was seen last.
    pub summary: GpuSummary,
    /// The times of the oldest and the newest sample of all its places.
    pub span: (TimeMs, TimeMs),
    /// All ids of it in the store, with the MIG instance each stands for.
    pub ids: BTreeMap<GpuId, String>,
}

impl Query {
    /// Finds the GPU that `id` names: a uuid, else host:index (of several that were there, the one seen last).
    ///
    /// # Errors
    ///
    /// [`QueryError::NotFound`], [`QueryError::Ambiguous`], the store's.
    pub async fn gpu(&self, id: &str, cluster: Option<&str>) -> Result<Gpu> {
        if id.len() > 1024 || id.contains(char::is_control) {
            return Err(QueryError::NotFound("there is no GPU of such a name".to_owned()));
        }
        let mut lease = self.budget.page().await?;
        let cluster = cluster.map(str::to_owned);
        let by_uuid = GpuFilter { cluster: cluster.clone(), uuid: Some(id.to_owned()), ..GpuFilter::default() };
        let mut found = self.all_gpus(&by_uuid, MAX_DESCRIPTIONS, &mut lease).await?;
        if found.is_empty()
            && let Some((host, index)) = id.rsplit_once(':')
            && let Some(index) = index.parse::<u32>().ok().filter(|n| n.to_string() == index)
        {
            let by_index = GpuFilter {
                cluster: cluster.clone(),
                hostname: Some(host.to_owned()),
                index: Some(index),
                ..GpuFilter::default()
            };
            found = self.all_gpus(&by_index, MAX_DESCRIPTIONS, &mut lease).await?;
        }
        let mut clusters: Vec<String> = found.iter().map(|gpu| gpu.place.cluster.clone()).collect();
        clusters.dedup();
        if clusters.len() > 1 {
            let detail = format!("`{id}` is known in {} clusters: say which one with cluster=", clusters.len());
            return Err(QueryError::Ambiguous { detail, clusters });
        }
        let Some(latest) = found.iter().max_by_key(|gpu| gpu.last_seen).cloned() else {
            let place = cluster.map(|name| format!(" in cluster `{name}`")).unwrap_or_default();
            return Err(QueryError::NotFound(format!(
                "no GPU `{id}`{place}: give its uuid, or host:index, as /api/v1/gpus lists them"
            )));
        };
        // By host:index several boards may have been there.
        found.retain(|gpu| gpu.place.uuid == latest.place.uuid);
        let first = found.iter().map(|gpu| gpu.first_seen).min().unwrap_or(latest.first_seen);
        let ids = found.iter().flat_map(|gpu| gpu.ids.iter().map(|id| (*id, gpu.place.mig_instance.clone()))).collect();
        Ok(Gpu { span: (first, latest.last_seen), ids, summary: latest })
    }

    /// Every GPU that a filter finds, `max` at most, by place.
    pub(super) async fn all_gpus(&self, filter: &GpuFilter, max: usize, lease: &mut Lease) -> Result<Vec<GpuSummary>> {
        let (mut all, mut bytes): (Vec<GpuSummary>, usize) = (Vec::new(), 0);
        loop {
            let limit = lease.next_read(GPUS_PAGE.min(max - all.len()));
            let some = self.reader.gpus(filter, all.last().map(|gpu| &gpu.place), limit).await?;
            let done = limit.is_end(&some);
            bytes += row_bytes(&some);
            all.extend(some);
            lease.hold(Held::Gpus, bytes).await?;
            if done || all.len() == max {
                return Ok(all);
            }
        }
    }

    /// Every series that a filter finds, by id. Their metrics may be asked for by any of their names, and have the name that was asked for; else
    /// the catalogue's.
    pub(super) async fn all_series(&self, filter: &SeriesFilter, lease: &mut Lease) -> Result<Vec<SeriesRow>> {
        let (mut all, mut bytes): (Vec<SeriesRow>, usize) = (Vec::new(), 0);
        let asked = &filter.metrics;
        let filter = &SeriesFilter { metrics: every_name(asked), ..filter.clone() };
        loop {
            let after = all.last().map_or(SeriesId::default(), |last| last.id);
            let limit = lease.next_read(SERIES_PAGE);
            let mut some = self.reader.series(filter, after, limit).await?;
            let done = limit.is_end(&some);
            some.iter_mut().for_each(|series| say_as_asked(asked, &mut series.metric));
            bytes += row_bytes(&some);
            all.extend(some);
            lease.hold(Held::Series, bytes).await?;
            if all.len() > self.limits.max_series {
                let reason = format!(
                    "more than {} series (http.max_series) are meant: name fewer metrics, or one cluster or host",
                    self.limits.max_series
                );
                return Err(QueryError::bad("metric", reason));
            }
            if done {
                return Ok(all);
            }
        }
    }

    /// The series of a GPU.
    pub(super) async fn series_of(&self, gpu: &Gpu, metrics: Vec<String>, lease: &mut Lease) -> Result<Vec<SeriesRow>> {
        let filter = SeriesFilter { gpu_ids: Some(gpu.ids.keys().copied().collect()), metrics, ..SeriesFilter::default() };
        self.all_series(&filter, lease).await
    }

    /// The metrics that a GPU has, by name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn metrics_of(&self, gpu: &Gpu) -> Result<Page<CatalogueEntry>> {
        let mut lease = self.budget.page().await?;
        let mut names: Vec<String> =
            self.series_of(gpu, Vec::new(), &mut lease).await?.into_iter().map(|series| series.metric).collect();
        names.sort_unstable();
        names.dedup();
        let rows = names.iter().map(|name| CatalogueEntry::of(name, true)).collect();
        Ok(Page { rows, next: None, _lease: Some(lease) })
    }
}

/// The names by which a store may have these metrics.
fn every_name(asked: &[String]) -> Vec<String> {
    let mut names: Vec<String> = asked.to_vec();
    names.extend(asked.iter().flat_map(|name| names_of(name)).map(|name| (*name).to_owned()));
    names.sort_unstable();
    names.dedup();
    names
}

/// Gives a metric the name by which it was asked for, or the catalogue's.
fn say_as_asked(asked: &[String], metric: &mut String) {
    let name = catalogue_name(metric);
    let said = asked.iter().find(|asked| catalogue_name(asked) == name).map_or(name, String::as_str);
    if said != metric {
        *metric = said.to_owned();
    }
}
