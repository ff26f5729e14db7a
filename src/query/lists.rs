//! Lists of what is stored. They come from the tables of GPUs and series, never from samples.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::budget::{Held, Lease, MAX_TEXT_BYTES, common_row_bytes, row_bytes};
use super::{
    ClusterParam, ClusterSummary, FilterParams, GpuFilter, GpuPlace, GpuSummary, HostSummary, Page, PageParams, Params, Query,
    Result, WholeNumber, cursor,
};
use crate::model::{self, MetricKind, catalogue_name};
use crate::store::{Limit, Texts};

/// Names of metrics that are read at once.
const NAMES_AT_ONCE: usize = 10_000;

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
    Page { rows, next, _lease: None }
}

impl<T> Page<T> {
    /// With the memory that its rows take.
    pub(super) fn holding(self, lease: Lease) -> Self {
        Self { _lease: Some(lease), ..self }
    }
}

/// How many of the rows a page has: all, unless their texts come to more than those of a page may. One it always has.
pub(super) fn fitting(text_bytes: impl IntoIterator<Item = usize>) -> usize {
    let (mut count, mut bytes) = (0, 0_usize);
    for row in text_bytes {
        bytes = bytes.saturating_add(row);
        if bytes > MAX_TEXT_BYTES && count > 0 {
            break;
        }
        count += 1;
    }
    count
}

/// A page that is read a part at a time, no more at once than there is memory for.
struct Gathering<T> {
    limit: usize,
    rows: Vec<T>,
    text_bytes: usize,
    is_complete: bool,
    lease: Lease,
}

impl<T: Texts> Gathering<T> {
    async fn new(query: &Query, limit: usize) -> Result<Self> {
        let lease = query.budget.page().await?;
        Ok(Self { limit, rows: Vec::new(), text_bytes: 0, is_complete: false, lease })
    }

    /// How much to read next; `None` once the page has what it may have, and a row more if there is one.
    async fn next_read(&mut self) -> Result<Option<Limit>> {
        let missing = self.limit.saturating_add(1) - self.rows.len();
        if self.is_complete || missing == 0 || self.text_bytes > MAX_TEXT_BYTES && self.rows.len() > 1 {
            return Ok(None);
        }
        self.lease.hold(Held::Series, row_bytes(&self.rows) + common_row_bytes(missing)).await?;
        Ok(Some(self.lease.next_read(missing)))
    }

    async fn add(&mut self, read: Vec<T>, limit: Limit) -> Result<()> {
        self.is_complete = limit.is_end(&read);
        self.text_bytes += read.iter().map(Texts::text_bytes).sum::<usize>();
        self.rows.extend(read);
        self.lease.hold(Held::Series, row_bytes(&self.rows)).await
    }

    fn page<A: serde::Serialize>(self, question: &[String], at: impl Fn(&T) -> A) -> Page<T> {
        let limit = self.limit.min(fitting(self.rows.iter().map(Texts::text_bytes)));
        page(self.rows, limit, question, at).holding(self.lease)
    }
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
        let mut hosts = Gathering::new(self, request.limit).await?;
        while let Some(limit) = hosts.next_read().await? {
            let given = request.after.as_ref().map(|(cluster, hostname)| (cluster.as_str(), hostname.as_str()));
            let after = hosts.rows.last().map(|host: &HostSummary| (host.cluster.as_str(), host.hostname.as_str())).or(given);
            let read = self.reader.hosts(&request.filter, after, limit).await?;
            hosts.add(read, limit).await?;
        }
        Ok(hosts.page(&request.question, |host| (host.cluster.clone(), host.hostname.clone())))
    }

    /// A page of GPUs.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn gpus(&self, request: &ListRequest<Place>) -> Result<Page<GpuSummary>> {
        let mut gpus = Gathering::new(self, request.limit).await?;
        let given = request.after.clone().map(GpuPlace::from);
        while let Some(limit) = gpus.next_read().await? {
            let after = gpus.rows.last().map(|gpu: &GpuSummary| &gpu.place).or(given.as_ref());
            let read = self.reader.gpus(&request.filter, after, limit).await?;
            gpus.add(read, limit).await?;
        }
        Ok(gpus.page(&request.question, |gpu| Place::from(&gpu.place)))
    }

    /// The catalogue, with what this store has beside it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn catalogue(&self) -> Result<Page<CatalogueEntry>> {
        let mut lease = self.budget.page().await?;
        let mut stored: Vec<String> = Vec::new();
        loop {
            let limit = lease.next_read(NAMES_AT_ONCE);
            let read = self.reader.metrics(stored.last().map_or("", String::as_str), limit).await?;
            let is_complete = limit.is_end(&read);
            stored.extend(read);
            lease.hold(Held::Series, row_bytes(&stored)).await?;
            if is_complete {
                break;
            }
        }
        let mut all: BTreeMap<String, bool> = model::catalogue().iter().map(|m| (m.name.to_owned(), false)).collect();
        all.extend(stored.into_iter().map(|name| (catalogue_name(&name).to_owned(), true)));
        let rows = all.into_iter().map(|(name, stored)| CatalogueEntry::of(&name, stored)).collect();
        Ok(Page { rows, next: None, _lease: Some(lease) })
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
