//! Lists of what is stored. They come from the tables of GPUs and series, never from samples.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::{
    ClusterParam, ClusterSummary, FilterParams, GpuFilter, GpuPlace, GpuSummary, HostSummary, Page, PageParams, Params, Query,
    Result, WholeNumber, cursor,
};
use crate::model::{self, MetricKind};

/// A checked question for a page of GPUs or hosts.
#[derive(Clone, Debug)]
pub struct ListRequest<A> {
    /// Which.
    pub filter: GpuFilter,
    /// How many.
    pub limit: usize,
    after: Option<A>,
    question: Vec<String>,
}

impl<A: DeserializeOwned> ListRequest<A> {
    /// The filters of `F`, and a page.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse<F: DeserializeOwned + Into<GpuFilter>>(mut params: Params, list: &'static str, query: &Query) -> Result<Self> {
        let filter = params.take::<F>()?.into();
        let question = question(list, &filter);
        let page: PageParams = params.take()?;
        params.end()?;
        let after = cursor::read_given(page.cursor.as_deref(), &refs(&question))?;
        Ok(Self { filter, limit: limit(&page.limit, query)?, after, question })
    }
}

impl From<FilterParams> for GpuFilter {
    fn from(given: FilterParams) -> Self {
        let FilterParams { cluster, hostname, model, namespace } = given;
        Self { cluster, hostname, model, namespace, ..Self::default() }
    }
}

impl From<ClusterParam> for GpuFilter {
    fn from(given: ClusterParam) -> Self {
        Self { cluster: given.cluster, ..Self::default() }
    }
}

/// What a cursor must agree with.
pub(super) fn question(list: &str, filter: &GpuFilter) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![list.to_owned(), text(&filter.cluster), text(&filter.hostname), text(&filter.model), text(&filter.namespace)]
}

pub(super) fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Rows of a page.
pub(super) fn limit(given: &WholeNumber, query: &Query) -> Result<usize> {
    let most = query.limits.max_page;
    let given = given.within("limit", 1, most as u64)?;
    Ok(given.map_or(query.limits.page.min(most), |limit| usize::try_from(limit).unwrap_or(most)))
}

/// A metric of the catalogue, or one that is stored and not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Its name.
    pub name: String,
    /// Its unit, empty for counts, ratios, states and masks; `None` where it is not known.
    pub unit: Option<&'static str>,
    /// What it says.
    pub description: Option<&'static str>,
    /// How it behaves.
    pub kind: Option<&'static str>,
    /// Whether this store has series of it.
    pub stored: bool,
}

impl CatalogueEntry {
    /// What the catalogue knows of a name.
    #[must_use]
    pub fn of(name: &str, stored: bool) -> Self {
        let known = model::metric(name);
        Self {
            name: name.to_owned(),
            unit: known.map(|m| m.unit),
            description: known.map(|m| m.description),
            kind: known.map(|m| match m.kind {
                MetricKind::Gauge => "gauge",
                MetricKind::Counter => "counter",
            }),
            stored,
        }
    }
}

/// Cuts a list that was asked for with one row more than the page.
pub(super) fn page<T, A: serde::Serialize>(mut rows: Vec<T>, limit: usize, question: &[String], at: impl Fn(&T) -> A) -> Page<T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| cursor::write(&refs(question), at(last)));
    Page { rows, next }
}

impl Query {
    /// The clusters.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn clusters(&self) -> Result<Vec<ClusterSummary>> {
        Ok(self.reader.clusters().await?)
    }

    /// A page of hosts.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn hosts(&self, request: &ListRequest<(String, String)>) -> Result<Page<HostSummary>> {
        let after = request.after.as_ref().map(|(cluster, hostname)| (cluster.as_str(), hostname.as_str()));
        let rows = self.reader.hosts(&request.filter, after, request.limit + 1).await?;
        Ok(page(rows, request.limit, &request.question, |host| (host.cluster.clone(), host.hostname.clone())))
    }

    /// A page of GPUs.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn gpus(&self, request: &ListRequest<Place>) -> Result<Page<GpuSummary>> {
        let after = request.after.clone().map(GpuPlace::from);
        let rows = self.reader.gpus(&request.filter, after.as_ref(), request.limit + 1).await?;
        Ok(page(rows, request.limit, &request.question, |gpu| Place::from(&gpu.place)))
    }

    /// The catalogue, with what this store has beside it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn catalogue(&self) -> Result<Vec<CatalogueEntry>> {
        let mut all: BTreeMap<String, bool> = model::catalogue().iter().map(|m| (m.name.to_owned(), false)).collect();
        all.extend(self.reader.metrics().await?.into_iter().map(|name| (name, true)));
        Ok(all.into_iter().map(|(name, stored)| CatalogueEntry::of(&name, stored)).collect())
    }
}

/// A place as a cursor has it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Place(pub(super) String, pub(super) String, pub(super) Option<u32>, pub(super) String, pub(super) String);

impl From<&GpuPlace> for Place {
    fn from(p: &GpuPlace) -> Self {
        Self(p.cluster.clone(), p.hostname.clone(), p.index, p.uuid.clone(), p.mig_instance.clone())
    }
}

impl From<Place> for GpuPlace {
    fn from(p: Place) -> Self {
        Self { cluster: p.0, hostname: p.1, index: p.2, uuid: p.3, mig_instance: p.4 }
    }
}
