//! The newest value of each metric of GPUs.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::budget::{Held, Lease, MAX_TEXT_BYTES, row_bytes};
use super::slices::{LOST_PAUSE, SNAPSHOTS_LOST};
use super::{
    FilterParams, Gpu, GpuFilter, GpuPlace, GpuSummary, MetricsParam, Page, PageParams, Params, Place, Query, QueryError, Result,
    cursor, lists, telemetry,
};
use crate::model::{GpuId, IntervalMs, SeriesId, TimeMs};
use crate::store::{Ids, Limit, SeriesFilter, SeriesRow, Texts};

/// How many days before the day of the newest sample of all each search begins: first where the newest of a series is likely to be.
const REACHES: [u32; 5] = [0, 1, 7, 60, 40_000];
/// GPUs that are looked at together.
const GPUS_AT_ONCE: usize = 500;
/// Bytes of their texts.
const GPU_TEXTS_AT_ONCE: usize = 256 << 10;
/// Series that are asked for together.
const SERIES_AT_ONCE: usize = 5000;

/// The newest value of a metric of a GPU, whichever workload it belonged to.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestRow {
    /// The GPU's place.
    pub place: Arc<GpuPlace>,
    /// The sample's time.
    pub time: TimeMs,
    /// The sample's value.
    pub value: f64,
    /// Its series.
    pub series: SeriesRow,
}

impl Texts for LatestRow {
    fn text_bytes(&self) -> usize {
        self.place.text_bytes() + self.series.text_bytes()
    }
}

/// The rows of a page, and one more if there is one.
struct Rows {
    limit: usize,
    rows: Vec<LatestRow>,
    text_bytes: usize,
}

impl Rows {
    fn is_full(&self) -> bool {
        self.rows.len() > self.limit || self.text_bytes > MAX_TEXT_BYTES && self.rows.len() > 1
    }

    fn add(&mut self, row: LatestRow) {
        self.text_bytes += row.text_bytes();
        self.rows.push(row);
    }
}

/// A checked question for newest values.
#[derive(Clone, Debug)]
pub struct LatestRequest {
    filter: GpuFilter,
    metrics: Vec<String>,
    limit: usize,
    after: Option<(Place, String)>,
    question: Vec<String>,
}

impl LatestRequest {
    /// `metric`, `cluster`, `hostname`, `model`, `namespace`, `limit`, `cursor`.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse(mut params: Params, query: &Query) -> Result<Self> {
        let metrics = telemetry::metric_names(&params.take::<MetricsParam>()?.metric);
        let filter: GpuFilter = params.take::<FilterParams>()?.into();
        let page: PageParams = params.take()?;
        params.end()?;
        let mut question = lists::question("latest", &filter);
        question.push(metrics.join(","));
        let limit = lists::limit(&page.limit, query)?;
        let after = cursor::read_given(page.cursor.as_deref(), &lists::refs(&question))?;
        Ok(Self { filter, metrics, limit, after, question })
    }
}

impl Query {
    /// A page of newest values, by GPU and metric.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn latest(&self, request: &LatestRequest) -> Result<Page<LatestRow>> {
        let mut lease = self.budget.page().await?;
        let mut rows = Rows { limit: request.limit, rows: Vec::new(), text_bytes: 0 };
        let mut after: Option<GpuPlace> = None;
        if let Some((place, metric)) = &request.after {
            // The GPU of the cursor may have more metrics.
            let place = GpuPlace::from(place.clone());
            let at = GpuFilter {
                cluster: Some(place.cluster.clone()),
                hostname: Some(place.hostname.clone()),
                uuid: Some(place.uuid.clone()).filter(|uuid| !uuid.is_empty()),
                index: place.index,
                ..request.filter.clone()
            };
            let mut same = self.all_gpus(&at, GPUS_AT_ONCE, &mut lease).await?;
            same.retain(|gpu| gpu.place == place);
            self.add_latest(&same, request, Some(metric), &mut rows, &mut lease).await?;
            after = Some(place);
        }
        while !rows.is_full() {
            let limit = Limit { rows: GPUS_AT_ONCE.min(request.limit + 1), bytes: GPU_TEXTS_AT_ONCE };
            let some = self.reader.gpus(&request.filter, after.as_ref(), limit).await?;
            let Some(last) = some.last() else { break };
            after = Some(last.place.clone());
            self.add_latest(&some, request, None, &mut rows, &mut lease).await?;
        }
        let limit = request.limit.min(lists::fitting(rows.rows.iter().map(Texts::text_bytes)));
        let at = |row: &LatestRow| (Place::from(&*row.place), row.series.metric.clone());
        Ok(lists::page(rows.rows, limit, &request.question, at).holding(lease))
    }

    /// The newest value of each metric of one GPU; of slices each, by metric and slice.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn latest_of_gpu(&self, gpu: &Gpu) -> Result<Page<(String, LatestRow)>> {
        let mut lease = self.budget.page().await?;
        let series = self.series_of(gpu, Vec::new(), &mut lease).await?;
        let key = |s: &SeriesRow| (s.metric.clone(), gpu.ids.get(&s.gpu_id).cloned().unwrap_or_default());
        let newest = self.newest(series, gpu.span, key, &lease).await?;
        let place = Arc::new(gpu.summary.place.clone());
        let row = |((_, mig), (series, time, value))| (mig, LatestRow { place: Arc::clone(&place), time, value, series });
        Ok(Page { rows: newest.into_iter().map(row).collect(), next: None, _lease: Some(lease) })
    }

    /// Adds the rows of these GPUs; of one that has given some before, those of later metrics.
    async fn add_latest(
        &self,
        gpus: &[GpuSummary],
        request: &LatestRequest,
        after: Option<&String>,
        rows: &mut Rows,
        lease: &mut Lease,
    ) -> Result<()> {
        if gpus.is_empty() {
            return Ok(());
        }
        lease.hold(Held::Gpus, row_bytes(gpus)).await?;
        let places: HashMap<GpuId, usize> =
            gpus.iter().enumerate().flat_map(|(at, gpu)| gpu.ids.iter().map(move |id| (*id, at))).collect();
        let filter = SeriesFilter {
            gpu_ids: Some(places.keys().copied().collect()),
            gpus: GpuFilter { namespace: request.filter.namespace.clone(), ..GpuFilter::default() },
            metrics: request.metrics.clone(),
            ..SeriesFilter::default()
        };
        let series = self.all_series(&filter, lease).await?;
        let span = gpus.iter().fold((TimeMs::MAX, TimeMs::MIN), |s, gpu| (s.0.min(gpu.first_seen), s.1.max(gpu.last_seen)));
        let key = |s: &SeriesRow| (places.get(&s.gpu_id).copied().unwrap_or(0), s.metric.clone());
        let newest = self.newest(series, span, key, lease).await?;
        let places: Vec<Arc<GpuPlace>> = gpus.iter().map(|gpu| Arc::new(gpu.place.clone())).collect();
        for ((at, metric), (series, time, value)) in newest {
            if rows.is_full() {
                break;
            }
            if after.is_none_or(|after| metric > *after) {
                rows.add(LatestRow { place: Arc::clone(&places[at]), time, value, series });
            }
        }
        lease.hold(Held::Groups, row_bytes(&rows.rows)).await
    }

    /// The newest sample among the series of each key. Work that grows with the number of series is done a bounded part at a time:
    /// other questions are answered in between.
    async fn newest<K: Clone + Eq + Hash + Ord>(
        &self,
        series: Vec<SeriesRow>,
        span: (TimeMs, TimeMs),
        key: impl Fn(&SeriesRow) -> K,
        lease: &Lease,
    ) -> Result<BTreeMap<K, (SeriesRow, TimeMs, f64)>> {
        let mut groups: HashMap<K, usize> = HashMap::new();
        let mut group_of = Vec::with_capacity(series.len());
        let mut row_of_id = HashMap::with_capacity(series.len());
        for (row, one) in series.iter().enumerate() {
            let next = groups.len();
            group_of.push(*groups.entry(key(one)).or_insert(next));
            row_of_id.insert(one.id, row);
            if row % SERIES_AT_ONCE == SERIES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        // By group: time, id of the series (of two with the same time the later series counts), its row, value.
        let mut newest: Vec<Option<(TimeMs, SeriesId, usize, f64)>> = vec![None; groups.len()];
        let mut pending: Vec<usize> = (0..series.len()).collect();
        let last_day = span.1.floor_to(IntervalMs::DAY);
        let mut before = TimeMs::MAX;
        let (mut snapshot, mut lost) = (lease.snapshot(&*self.reader).await?, 0);
        for reach in REACHES {
            let from = if reach == 0 { last_day } else { last_day.minus(IntervalMs::DAY.times(reach)) };
            for rows in pending.chunks(SERIES_AT_ONCE) {
                let ids: Vec<Ids> = rows.iter().map(|row| series[*row].ids()).collect();
                let found = loop {
                    match snapshot.latest(&ids, from, before).await.map_err(QueryError::from) {
                        // A chunk stays within its day, so another snapshot goes on where this one ended.
                        Err(QueryError::SnapshotLost(reason)) if lost < SNAPSHOTS_LOST => {
                            tracing::debug!(reason, "a snapshot is lost: newest samples are read from another one");
                            lost += 1;
                            drop(snapshot);
                            tokio::time::sleep(LOST_PAUSE * lost).await;
                            snapshot = lease.snapshot(&*self.reader).await?;
                        }
                        done => break done?,
                    }
                };
                for latest in found {
                    let Some(row) = row_of_id.get(&latest.series).copied() else { continue };
                    let group = &mut newest[group_of[row]];
                    if group.is_none_or(|(time, id, ..)| (latest.time, latest.series) >= (time, id)) {
                        *group = Some((latest.time, latest.series, row, latest.value));
                    }
                }
                tokio::task::yield_now().await;
            }
            before = from;
            // What has a newer sample already need not be looked for further back.
            pending.retain(|row| newest[group_of[*row]].is_none());
            if pending.is_empty() || before <= span.0 {
                break;
            }
        }
        let found =
            |(key, group): (K, usize)| newest[group].map(|(time, _, row, value)| (key, (series[row].clone(), time, value)));
        Ok(groups.into_iter().filter_map(found).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::query::Limits;
    use crate::query::stub::Stub;

    /// 200,000 series: others are answered in between, and each key has its newest sample.
    #[tokio::test]
    async fn other_questions_are_answered_while_many_series_are_looked_through() {
        let row = |id: i64| SeriesRow {
            id: SeriesId::from_store(id),
            gpu_id: GpuId::from_store(id % 1000),
            metric: "W".to_owned(),
            ..SeriesRow::default()
        };
        let series: Vec<SeriesRow> = (1..=200_000).map(row).collect();
        let query = Query::new(Arc::new(Stub::default()), None, Limits::default());
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let (lease, span) = (query.budget.page().await.unwrap(), (TimeMs::EPOCH, TimeMs::EPOCH.plus(IntervalMs::DAY)));
        let newest = query.newest(series, span, |s| s.gpu_id, &lease).await.unwrap();
        other.abort();
        assert_eq!(newest.len(), 1000);
        // The stub's newest sample of a series has its id as time and value.
        assert!(newest.iter().all(|(gpu, (row, time, value))| {
            let last = if gpu.to_store() == 0 { 200_000 } else { 199_000 + gpu.to_store() };
            (row.id.to_store(), time.as_millis(), *value) == (last, last, last as f64)
        }));
        assert!(turns.load(Ordering::Relaxed) >= 40, "{turns:?} turns for others");
    }

    /// 4 GPUs with 30 metrics each, whose pods have names of 40 kB.
    #[tokio::test]
    async fn a_page_ends_where_its_texts_are_very_long() {
        let mut stub = Stub::default();
        for n in 0..4 {
            let id = GpuId::from_store(n + 1);
            let place = GpuPlace { cluster: "lab".to_owned(), hostname: format!("{n:02}"), ..GpuPlace::default() };
            stub.gpus.push(GpuSummary { place, ids: vec![id], ..GpuSummary::default() });
            let row = |m: i64| SeriesRow {
                id: SeriesId::from_store(n * 30 + m + 1),
                gpu_id: id,
                metric: format!("M{m:02}"),
                pod: "x".repeat(40_000),
                ..SeriesRow::default()
            };
            stub.series.extend((0..30).map(row));
        }
        let series = stub.series.clone();
        let query = Query::new(Arc::new(stub), None, Limits::default());
        let (mut found, mut text) = (Vec::new(), "limit=10000".to_owned());
        loop {
            let request = LatestRequest::parse(Params::parse(Some(&text)).unwrap(), &query).unwrap();
            let page = query.latest(&request).await.unwrap();
            assert!(
                page.rows.iter().map(Texts::text_bytes).sum::<usize>() <= MAX_TEXT_BYTES
                    && (page.next.is_none() || page.rows.len() > 90)
            );
            found.extend(page.rows.into_iter().map(|row| (row.place.hostname.clone(), row.series.metric)));
            let Some(next) = page.next else { break };
            text = format!("limit=10000&cursor={next}");
        }
        let all: Vec<_> = series.into_iter().map(|one| (format!("{:02}", one.gpu_id.to_store() - 1), one.metric)).collect();
        assert_eq!(found, all);
    }
}
