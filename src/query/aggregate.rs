//! Groups of GPUs over time: first each GPU in a step becomes one value, then those of a group. A GPU has a series for each workload that
//! it had: they are one GPU's samples, or a GPU would count as often as its pods changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops;
use std::sync::Arc;

use super::bucket::Bucket;
use super::budget::{GROUP_BYTES, Held, Lease, MAX_TEXT_BYTES, bytes_with};
use super::range::parse_step;
use super::samples::Run;
use super::slices::Wanted;
use super::stepped::{Part, RolledRun, Stepped, add_rollups, end_of};
use super::{
    Aggregate, AggregateParams, FilterParams, GpuFilter, Order, Page, PageParams, Params, Query, QueryError, Range, Result,
    cursor, lists, telemetry,
};
use crate::model::{GpuId, IntervalMs, TimeMs};
use crate::store::{GpuSummary, Ids, SeriesFilter, SeriesRow};

/// Bytes of texts of groups that are made before they are counted.
const GROUP_TEXTS_AT_ONCE: usize = 256 << 10;
/// Series that are read together, and more where one GPU has more. The chunks of all of them are held at the same time: with full ones,
/// 13 MiB.
const SERIES_AT_ONCE: usize = 200;

/// What series are grouped by. Hosts, GPUs, namespaces and pods of different clusters are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// `cluster`
    Cluster,
    /// `hostname`
    Hostname,
    /// `gpu`
    Gpu,
    /// `model`
    Model,
    /// `namespace`
    Namespace,
    /// `pod`
    Pod,
}

/// A group: the names of what it is grouped by, with their values; `None` where there is none.
pub type Group = Vec<(&'static str, Option<String>)>;

/// One group in one step.
#[derive(Clone, Debug)]
pub struct AggregateRow {
    /// The step's beginning.
    pub time: TimeMs,
    /// The group.
    pub group: Group,
    /// Its value.
    pub value: f64,
    /// GPUs that had samples.
    pub gpus: u64,
    /// Samples.
    pub samples: u64,
}

/// A checked question for groups.
#[derive(Clone, Debug)]
pub struct AggregateRequest {
    /// The metric.
    pub metric: String,
    filter: GpuFilter,
    group_by: GroupBy,
    range: Range,
    step: Option<IntervalMs>,
    agg: Aggregate,
    limit: usize,
    after: Option<(TimeMs, Vec<Option<String>>)>,
    question: Vec<String>,
}

impl AggregateRequest {
    /// `metric` (one, required), `group_by`, `agg`, `step` (default: the whole range), `start_time` (default: an hour before the
    /// end), `end_time` (default: the newest sample's time), filters, `limit`, `cursor`.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse(mut params: Params, query: &Query, now: TimeMs) -> Result<Self> {
        let given: AggregateParams = params.take()?;
        let filter: GpuFilter = params.take::<FilterParams>()?.into();
        let page: PageParams = params.take()?;
        params.end()?;
        if given.metric.is_empty() {
            return Err(QueryError::bad("metric", "is required: the name of one metric, as /api/v1/metrics lists them"));
        }
        let names = "cluster, hostname, gpu, model, namespace, pod";
        let group_by = match given.group_by.as_deref() {
            None | Some("cluster") => GroupBy::Cluster,
            Some("hostname") => GroupBy::Hostname,
            Some("gpu") => GroupBy::Gpu,
            Some("model") => GroupBy::Model,
            Some("namespace") => GroupBy::Namespace,
            Some("pod") => GroupBy::Pod,
            Some(other) => return Err(QueryError::bad("group_by", format!("`{other}` is none of {names}"))),
        };
        let agg = telemetry::parse_agg(given.agg.as_deref())?.unwrap_or(Aggregate::Avg);
        let step = parse_step(given.step.as_deref())?;
        let range = Range::parse(given.start_time.as_deref(), given.end_time.as_deref(), now)?;
        let text = |time: &Option<String>| time.clone().unwrap_or_default();
        let times = format!("{} {}", text(&given.start_time), text(&given.end_time));
        let metric = given.metric;
        let mut question = lists::question("aggregate", &filter);
        question.extend([metric.clone(), times, format!("{group_by:?} {agg:?} {step:?}")]);
        let limit = lists::limit(&page.limit, query)?;
        let after = cursor::read_given(page.cursor.as_deref(), &lists::refs(&question))?;
        Ok(Self { metric, filter, group_by, range, step, agg, limit, after, question })
    }
}

/// The GPU (its position among all) and the group of each series.
struct Grouping {
    gpu_of: Vec<Option<usize>>,
    group_of: Vec<Vec<Option<String>>>,
    /// Bytes of the groups' texts that are longer than common.
    bytes: usize,
}

/// One GPU as a member of a group (its position among all, in order), with its series there.
struct Member {
    /// Which of all members: it decides between samples of one time.
    place: u32,
    group: u32,
    series: Vec<Ids>,
}

/// The groups of a page: by step and group the members' values, and how many samples they came from. Those before the page are left
/// out; of those after it, which are greater than all that it has, no more are held than it takes to know that there are some.
#[derive(Default)]
struct Groups {
    rows: BTreeMap<(TimeMs, u32), (Bucket, u64)>,
    /// The first that may be on the page.
    first: (TimeMs, u32),
    max: usize,
}

impl Groups {
    /// The group to add to, if it is on the page.
    fn entry(&mut self, key: (TimeMs, u32)) -> Option<&mut (Bucket, u64)> {
        if key < self.first || self.is_past(key) {
            return None;
        }
        if self.rows.len() >= self.max && !self.rows.contains_key(&key) {
            self.rows.pop_last();
        }
        Some(self.rows.entry(key).or_default())
    }

    /// The last time that may be on the page, for steps of a length.
    fn end(&self, step: Option<IntervalMs>) -> TimeMs {
        match (step, self.rows.last_key_value()) {
            (Some(step), Some(((time, _), _))) if self.rows.len() >= self.max => time.plus(step).minus(IntervalMs::MILLISECOND),
            _ => TimeMs::MAX,
        }
    }

    /// Whether the page is full before this.
    fn is_past(&self, key: (TimeMs, u32)) -> bool {
        self.rows.len() >= self.max && self.rows.last_key_value().is_some_and(|(last, _)| *last < key)
    }
}

impl Query {
    /// A page of groups, by time and group.
    ///
    /// # Errors
    ///
    /// Too many steps, too long a range, too many values for a percentile, the store's.
    pub async fn aggregate(&self, request: &AggregateRequest) -> Result<Page<AggregateRow>> {
        let mut lease = self.budget.page().await?;
        let gpus = self.all_gpus(&request.filter, usize::MAX, &mut lease).await?;
        let last = gpus.iter().map(|gpu| gpu.last_seen).max();
        let Some(last) = last else { return Ok(Page { rows: Vec::new(), next: None, _lease: None }) };
        let to = request.range.to.unwrap_or(last).min(last);
        let from = request.range.from.unwrap_or(to.minus(IntervalMs::HOUR).plus(IntervalMs::MILLISECOND));
        if from > to {
            return Ok(Page { rows: Vec::new(), next: None, _lease: None });
        }
        self.check_steps(from, to, request.step)?;
        let filter = SeriesFilter {
            gpus: request.filter.clone(),
            metrics: vec![request.metric.clone()],
            seen_since: Some(from),
            ..SeriesFilter::default()
        };
        let series = self.all_series(&filter, &mut lease).await?;
        let Grouping { gpu_of, group_of, bytes } = self.groups(request.group_by, &gpus, &series, &mut lease).await?;
        let known: BTreeSet<&Vec<Option<String>>> = group_of.iter().collect();
        let known: Vec<_> = known.into_iter().collect();
        let place = |group| known.binary_search(&group).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        let mut members: BTreeMap<(u32, Option<usize>), Vec<Ids>> = BTreeMap::new();
        for ((series, gpu), group) in series.iter().zip(gpu_of).zip(&group_of) {
            members.entry((place(group), gpu)).or_default().push(series.ids());
        }
        let members = members.into_iter().zip(0..).map(|(((group, _), series), place)| Member { place, group, series });
        let members: Vec<Member> = members.collect();
        let mut groups = Groups { rows: BTreeMap::new(), first: (TimeMs::MIN, 0), max: request.limit + 1 };
        // Nothing lies after the last sample: there, buckets need not be cut.
        let (mut from, to) = (from, end_of(request.range.to, last));
        if let Some((time, group)) = &request.after {
            groups.first = (*time, u32::try_from(known.partition_point(|one| *one <= group)).unwrap_or(u32::MAX));
            if request.step.is_some() {
                from = from.max(*time);
            }
        }
        let mut reading = Reading { lease, group_bytes: bytes, width: None };
        for some in together(&members) {
            self.add_members(request, some, (from, to), &mut reading, &mut groups).await?;
        }
        let names = names(request.group_by);
        let (mut rows, mut texts): (Vec<AggregateRow>, usize) = (Vec::new(), 0);
        for ((time, place), (mut bucket, samples)) in groups.rows {
            let group = known[place as usize];
            if texts > MAX_TEXT_BYTES && rows.len() > 1 {
                break;
            }
            texts += text_bytes(group);
            let value = if request.agg == Aggregate::Count { samples as f64 } else { bucket.value(request.agg) };
            rows.push(AggregateRow {
                time,
                group: names.iter().copied().zip(group.iter().cloned()).collect(),
                value,
                gpus: bucket.n,
                samples,
            });
        }
        let texts = rows.iter().map(|row| row.group.iter().filter_map(|(_, value)| value.as_ref()).map(String::len).sum());
        let limit = request.limit.min(lists::fitting(texts));
        let at = |row: &AggregateRow| (row.time, row.group.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>());
        Ok(lists::page(rows, limit, &request.question, at).holding(reading.lease))
    }

    /// The group of each series.
    async fn groups(&self, by: GroupBy, gpus: &[GpuSummary], series: &[SeriesRow], lease: &mut Lease) -> Result<Grouping> {
        // Which of the GPUs a description is of.
        let numbers: HashMap<GpuId, usize> =
            gpus.iter().zip(0..).flat_map(|(gpu, at)| gpu.ids.iter().map(move |id| (*id, at))).collect();
        let mut all = Grouping { gpu_of: Vec::new(), group_of: Vec::new(), bytes: 0 };
        let mut held = 0;
        for one in series {
            let gpu = numbers.get(&one.gpu_id).copied();
            let group = group(by, one, gpu.map(|at| &gpus[at]));
            // Those of a common length are counted with the series.
            all.bytes += bytes_with(text_bytes(&group)) - bytes_with(0);
            all.gpu_of.push(gpu);
            all.group_of.push(group);
            if all.bytes > held + GROUP_TEXTS_AT_ONCE {
                lease.hold(Held::Groups, all.bytes).await?;
                held = all.bytes;
            }
        }
        Ok(all)
    }

    async fn add_members(
        &self,
        request: &AggregateRequest,
        members: &[Member],
        (from, to): (TimeMs, TimeMs),
        reading: &mut Reading,
        groups: &mut Groups,
    ) -> Result<()> {
        // Over time each GPU becomes one value; over a group `agg` is meant. A sum or a count of samples would follow how often
        // somebody looked. One GPU alone has a percentile only over time.
        let over_time = match request.agg {
            Aggregate::Min | Aggregate::Max | Aggregate::Last => request.agg,
            Aggregate::Percentile(_) if request.group_by == GroupBy::Gpu => request.agg,
            Aggregate::Avg | Aggregate::Sum | Aggregate::Count | Aggregate::Percentile(_) => Aggregate::Avg,
        };
        let member_of: Vec<u32> =
            members.iter().zip(0..).flat_map(|(member, at)| member.series.iter().map(move |_| at)).collect();
        let wanted = Wanted {
            series: members.iter().flat_map(|member| member.series.iter().copied()).collect(),
            live: members.len(),
            range: (from, to.min(groups.end(request.step))),
            order: Order::Asc,
            hint: None,
            width: reading.width,
        };
        let mut source = Stepped::new(Arc::clone(&self.reader), wanted, request.step, over_time);
        let complete = |groups: &mut Groups, step: TimeMs, member: u32, bucket: &mut Bucket| {
            let Member { group, place, .. } = members[member as usize];
            if let Some(entry) = groups.entry((step, group)) {
                entry.0.add(request.agg, bucket.last_time(), place, bucket.value(over_time));
                entry.1 += bucket.n;
            }
        };
        // Steps that more than one part has samples of.
        let mut open: BTreeMap<(TimeMs, u32), Bucket> = BTreeMap::new();
        let mut buckets = Buckets::default();
        loop {
            let part = source.next(&mut reading.lease).await?;
            let before = part.as_ref().map_or(TimeMs::MAX, |part| part.before);
            for (member, some) in part.iter().flat_map(|part| by_member(part, &member_of)) {
                buckets.clear();
                some.add_to(request.step, from, over_time, |step, is_within, fill| {
                    fill(if is_within { buckets.at(step) } else { open.entry((step, member)).or_default() });
                });
                // Members complete a step in their order, however their samples come.
                for (step, bucket) in buckets.all() {
                    complete(groups, *step, member, bucket);
                }
            }
            // Steps are aligned: what begins before the step of `before` is complete.
            let border = match (part.is_some(), request.step) {
                (false, _) => TimeMs::MAX,
                (true, None) => TimeMs::MIN,
                (true, Some(step)) => before.floor_to(step),
            };
            let rest = open.split_off(&(border, 0));
            for ((step, member), mut bucket) in std::mem::replace(&mut open, rest) {
                complete(groups, step, member, &mut bucket);
            }
            let all = || groups.rows.values().map(|group| &group.0).chain(open.values());
            let held: usize = if matches!(request.agg, Aggregate::Percentile(_)) { all().map(Bucket::held).sum() } else { 0 };
            if held > self.limits.max_percentile_samples {
                return Err(QueryError::bad(
                    "step",
                    "needs too many values for percentiles (http.max_percentile_samples): take a shorter step, a finer group_by, or a \
                     shorter range",
                ));
            }
            // Lists of values grow by doubling.
            let bytes = (groups.rows.len() + open.len()) * GROUP_BYTES + held * 16 + reading.group_bytes;
            source.hold(&mut reading.lease, Held::Groups, bytes).await?;
            // What is still to come lies after the page.
            let full = request.step.is_some() && groups.is_past((border, 0));
            if part.is_none() || full {
                reading.width = source.width();
                return Ok(());
            }
        }
    }
}

/// Buckets of one member, by step.
#[derive(Default)]
struct Buckets(Vec<(TimeMs, Bucket)>);

impl Buckets {
    fn clear(&mut self) {
        self.0.clear();
    }

    /// The bucket of a step. Steps mostly come in order.
    fn at(&mut self, step: TimeMs) -> &mut Bucket {
        let at = match self.0.last() {
            Some((last, _)) if *last == step => self.0.len() - 1,
            Some((last, _)) if *last > step => match self.0.binary_search_by_key(&step, |(step, _)| *step) {
                Ok(at) => at,
                Err(at) => {
                    self.0.insert(at, (step, Bucket::default()));
                    at
                }
            },
            _ => {
                self.0.push((step, Bucket::default()));
                self.0.len() - 1
            }
        };
        &mut self.0[at].1
    }

    fn all(&mut self) -> impl Iterator<Item = &mut (TimeMs, Bucket)> {
        self.0.iter_mut()
    }
}

/// What a part has of one member.
struct OfMember<'a> {
    part: &'a Part,
    runs: &'a [Run],
    rolled: &'a [RolledRun],
}

/// What a part has, by member. Series are in the order of their members.
fn by_member<'a>(part: &'a Part, member_of: &'a [u32]) -> impl Iterator<Item = (u32, OfMember<'a>)> {
    let (mut runs, mut rolled) = (part.runs.as_slice(), part.rolled.as_slice());
    std::iter::from_fn(move || {
        let of_run = |run: &Run| member_of[run.series as usize];
        let of_rolled = |run: &RolledRun| member_of[run.series as usize];
        let member = runs.first().map(of_run).into_iter().chain(rolled.first().map(of_rolled)).min()?;
        let (mine, others) = runs.split_at(runs.partition_point(|run| of_run(run) == member));
        let (mine_rolled, others_rolled) = rolled.split_at(rolled.partition_point(|run| of_rolled(run) == member));
        (runs, rolled) = (others, others_rolled);
        Some((member, OfMember { part, runs: mine, rolled: mine_rolled }))
    })
}

impl OfMember<'_> {
    /// Gives each step, whether all that the step has is here, and what fills its bucket.
    fn add_to(
        &self,
        step: Option<IntervalMs>,
        from: TimeMs,
        agg: Aggregate,
        mut add: impl FnMut(TimeMs, bool, &dyn Fn(&mut Bucket)),
    ) {
        let part = self.part;
        let is_within =
            |begin: TimeMs| part.is_whole && step.is_some_and(|length| begin >= part.from && begin.plus(length) <= part.before);
        for run in self.rolled {
            let of = |begin: TimeMs| step.map_or(from, |step| begin.floor_to(step));
            add_rollups(run, of, |begin, fill| add(begin, is_within(begin), fill));
        }
        for run in self.runs {
            for (begin, range) in parts(run, step, from) {
                add(begin, is_within(begin), &|bucket| {
                    for (time, value) in run.times[range.clone()].iter().zip(&run.values[range.clone()]) {
                        bucket.add(agg, *time, run.series, *value);
                    }
                });
            }
        }
    }
}

/// What goes on from one part of the members to the next.
struct Reading {
    lease: Lease,
    /// What series are grouped by.
    group_bytes: usize,
    /// The width of the last slice.
    width: Option<IntervalMs>,
}

/// Members to be read together: the series of one are never parted.
fn together(members: &[Member]) -> impl Iterator<Item = &[Member]> {
    let mut count = 0;
    members.chunk_by(move |before, next| {
        count = if count == 0 { before.series.len() } else { count } + next.series.len();
        if count > SERIES_AT_ONCE {
            count = 0;
        }
        count > 0
    })
}

/// The steps of a run; without steps, all of it as one that begins at `from`.
fn parts(run: &Run, step: Option<IntervalMs>, from: TimeMs) -> Vec<(TimeMs, ops::Range<usize>)> {
    step.map_or_else(|| vec![(from, 0..run.times.len())], |step| run.steps(step).collect())
}

fn names(by: GroupBy) -> &'static [&'static str] {
    match by {
        GroupBy::Cluster => &["cluster"],
        GroupBy::Hostname => &["cluster", "hostname"],
        GroupBy::Gpu => &["cluster", "hostname", "gpu_index", "uuid"],
        GroupBy::Model => &["model"],
        GroupBy::Namespace => &["cluster", "namespace"],
        GroupBy::Pod => &["cluster", "namespace", "pod"],
    }
}

fn text_bytes(group: &[Option<String>]) -> usize {
    group.iter().flatten().map(String::len).sum()
}

fn group(by: GroupBy, series: &SeriesRow, gpu: Option<&GpuSummary>) -> Vec<Option<String>> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let Some(gpu) = gpu else { return vec![None; names(by).len()] };
    let cluster = some(&gpu.place.cluster);
    match by {
        GroupBy::Cluster => vec![cluster],
        GroupBy::Hostname => vec![cluster, some(&gpu.place.hostname)],
        GroupBy::Gpu => {
            vec![cluster, some(&gpu.place.hostname), gpu.place.index.map(|index| format!("{index:>4}")), some(&gpu.place.uuid)]
        }
        GroupBy::Model => vec![some(&gpu.model)],
        GroupBy::Namespace => vec![cluster, some(&series.namespace)],
        GroupBy::Pod => vec![cluster, some(&series.namespace), some(&series.pod)],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{GpuId, SeriesId};
    use crate::query::Limits;
    use crate::query::stub::Stub;
    use crate::store::{Chunk, GpuPlace};

    const BEGIN: TimeMs = TimeMs::from_millis(1_735_689_600_000);

    /// Some GPUs of some hosts, with a sample each now and then.
    fn store() -> impl Strategy<Value = Stub> {
        let times = prop::collection::btree_set(0i64..600, 1..30);
        prop::collection::vec((0u32..4, times), 1..12).prop_map(|gpus| {
            let mut store = Stub::default();
            for (at, (host, times)) in (1i64..).zip(gpus) {
                let (id, series) = (GpuId::from_store(at), SeriesId::from_store(at));
                let uuid = format!("GPU-{at}");
                let place = GpuPlace { cluster: "lab".to_owned(), hostname: format!("h{host}"), uuid, ..GpuPlace::default() };
                // Over days: a page ends in the middle of what is read.
                let times: Vec<TimeMs> = times.into_iter().map(|slot| BEGIN.plus_millis(slot * 600_000)).collect();
                store.gpus.push(GpuSummary {
                    place,
                    ids: vec![id],
                    last_seen: BEGIN.plus_millis(360_000_000),
                    ..GpuSummary::default()
                });
                store.series.push(SeriesRow { id: series, gpu_id: id, metric: "W".to_owned(), ..SeriesRow::default() });
                // A chunk lies within one UTC day.
                for times in times.chunk_by(|one, other| one.floor_to(IntervalMs::DAY) == other.floor_to(IntervalMs::DAY)) {
                    let values = times.iter().map(|time| (time.as_millis() / 1000 % 1000 + at) as f64).collect();
                    store.chunks.push(Chunk { series, id: at, times: times.to_vec(), values });
                }
            }
            store.gpus.sort_by(|one, other| one.place.cmp(&other.place));
            store
        })
    }

    async fn pages(query: &Query, text: &str, limit: usize) -> Vec<(TimeMs, Group, f64, u64, u64)> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let params =
                Params::parse(Some(&format!("metric=W&start_time=2025-01-01T00:00:00Z&{text}&limit={limit}{cursor}"))).unwrap();
            let page = query.aggregate(&AggregateRequest::parse(params, query, TimeMs::EPOCH).unwrap()).await.unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows.into_iter().map(|row| (row.time, row.group, row.value, row.gpus, row.samples)));
            let Some(next) = page.next else { return rows };
            cursor = format!("&cursor={next}");
        }
    }

    proptest! {
        /// `limit` bounds what is held, and changes nothing of the answer.
        #[test]
        fn pages_are_the_whole(store in store(), limit in 1usize..20, step in 40u32..9000, by in 0usize..3, agg in 0usize..3) {
            let (by, agg) = (["cluster", "hostname", "gpu"][by], ["sum", "count", "p50"][agg]);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let query = Query::new(Arc::new(store), None, Limits::default());
                for step in [format!("&step={step}s"), String::new()] {
                    let text = format!("group_by={by}&agg={agg}{step}");
                    assert_eq!(pages(&query, &text, limit).await, pages(&query, &text, 10_000).await, "{text}");
                }
            });
        }
    }

    #[test]
    fn a_page_holds_no_more_groups_than_it_shows() {
        let at = TimeMs::from_millis;
        let mut groups = Groups { rows: BTreeMap::new(), first: (at(5), 1), max: 3 };
        for time in (0..1000).rev().chain(0..1000) {
            if let Some(entry) = groups.entry((at(time), 1)) {
                entry.1 += 1;
            }
            assert!(groups.rows.len() <= 3);
        }
        assert_eq!(groups.rows.keys().copied().collect::<Vec<_>>(), [(at(5), 1), (at(6), 1), (at(7), 1)]);
        assert!(groups.rows.values().all(|(_, samples)| *samples == 2), "each has all that belongs to it");
        assert!(groups.is_past((at(8), 0)) && !groups.is_past((at(7), 1)));
    }
}
