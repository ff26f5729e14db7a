//! Groups of GPUs over time: first each GPU in a step becomes one value, then those of a group. A GPU has a series for each workload that
//! it had: they are one GPU's samples, or a GPU would count as often as its pods changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops;
use std::sync::Arc;

use super::bucket::Bucket;
use super::range::take_duration;
use super::samples::Run;
use super::slices::{Slices, Wanted};
use super::{Aggregate, GpuFilter, Order, Page, Params, Query, QueryError, Range, Result, cursor, lists, telemetry};
use crate::model::{GpuId, SeriesId};
use crate::store::{GpuSummary, SeriesFilter, SeriesRow};

const GPUS_PAGE: usize = 10_000;
/// Series that are read together, and more where one GPU has more.
const SERIES_AT_ONCE: usize = 500;

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
    /// The step's beginning, ms.
    pub time_ms: i64,
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
    step_ms: Option<i64>,
    agg: Aggregate,
    limit: usize,
    after: Option<(i64, Vec<Option<String>>)>,
    question: Vec<String>,
}

impl AggregateRequest {
    /// `metric` (one, required), `group_by`, `agg`, `step` (default: the whole range), `start_time` (default: an hour before the
    /// end), `end_time` (default: the newest sample's time), filters, `limit`, `cursor`.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse(mut params: Params, query: &Query, now_ms: i64) -> Result<Self> {
        let times = [params.clone().all("start_time"), params.clone().all("end_time")].concat().join(" ");
        let Some(metric) = params.text("metric")? else {
            return Err(QueryError::bad("metric", "is required: the name of one metric, as /api/v1/metrics lists them"));
        };
        let names = "cluster, hostname, gpu, model, namespace, pod";
        let group_by = match params.text("group_by")?.as_deref() {
            None | Some("cluster") => GroupBy::Cluster,
            Some("hostname") => GroupBy::Hostname,
            Some("gpu") => GroupBy::Gpu,
            Some("model") => GroupBy::Model,
            Some("namespace") => GroupBy::Namespace,
            Some("pod") => GroupBy::Pod,
            Some(other) => return Err(QueryError::bad("group_by", format!("`{other}` is none of {names}"))),
        };
        let agg = telemetry::take_agg(&mut params)?.unwrap_or(Aggregate::Avg);
        let step = take_duration(&mut params, "step")?;
        let range = Range::take(&mut params, now_ms)?;
        let filter = lists::filter(&mut params, &["cluster", "hostname", "model", "namespace"])?;
        let mut question = lists::question("aggregate", &filter);
        question.extend([metric.clone(), times, format!("{group_by:?} {agg:?} {step:?}")]);
        let limit = lists::limit(&mut params, query)?;
        let after = cursor::take(&mut params, &lists::refs(&question))?;
        params.end()?;
        let step_ms = step.map(|step| i64::try_from(step.as_millis()).unwrap_or(i64::MAX));
        Ok(Self { metric, filter, group_by, range, step_ms, agg, limit, after, question })
    }
}

/// One GPU as a member of a group (its position among all, in order), with its series there.
struct Member {
    group: u32,
    series: Vec<SeriesId>,
}

/// By step and group: the members' values, and how many samples they came from.
type Groups = BTreeMap<(i64, u32), (Bucket, u64)>;

impl Query {
    /// A page of groups, by time and group.
    ///
    /// # Errors
    ///
    /// Too many steps, too long a range, too many values for a percentile, the store's.
    pub async fn aggregate(&self, request: &AggregateRequest) -> Result<Page<AggregateRow>> {
        let gpus = self.all_gpus(&request.filter).await?;
        let last = gpus.iter().map(|gpu| gpu.last_seen_ms).max();
        let Some(last) = last else { return Ok(Page { rows: Vec::new(), next: None }) };
        let to = request.range.to_ms.unwrap_or(last).min(last);
        let from = request.range.from_ms.unwrap_or(to.saturating_sub(3_600_000 - 1));
        if from > to {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        self.check_steps(from, to, request.step_ms.unwrap_or(i64::MAX))?;
        // Which of the GPUs a description is of.
        let numbers: HashMap<GpuId, usize> =
            gpus.iter().zip(0..).flat_map(|(gpu, at)| gpu.ids.iter().map(move |id| (*id, at))).collect();
        let gpu_of = |series: &SeriesRow| numbers.get(&series.gpu_id).copied();
        let filter = SeriesFilter {
            gpus: request.filter.clone(),
            metrics: vec![request.metric.clone()],
            seen_since_ms: Some(from),
            ..SeriesFilter::default()
        };
        let series = self.all_series(&filter).await?;
        let group_of: Vec<_> = series.iter().map(|s| group(request.group_by, s, gpu_of(s).map(|at| &gpus[at]))).collect();
        let known: BTreeSet<&Vec<Option<String>>> = group_of.iter().collect();
        let known: Vec<_> = known.into_iter().collect();
        let place = |group| known.binary_search(&group).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        let mut members: BTreeMap<(u32, Option<usize>), Vec<SeriesId>> = BTreeMap::new();
        for (series, group) in series.iter().zip(&group_of) {
            members.entry((place(group), gpu_of(series))).or_default().push(series.id);
        }
        let members: Vec<Member> = members.into_iter().map(|((group, _), series)| Member { group, series }).collect();
        let (mut groups, mut width) = (Groups::new(), None);
        for some in together(&members) {
            self.add_members(request, some, (from, to), &mut width, &mut groups).await?;
        }
        let names = names(request.group_by);
        let mut rows = Vec::new();
        for ((time_ms, place), (mut bucket, samples)) in groups {
            let group = known[place as usize];
            if request.after.as_ref().is_some_and(|after| (time_ms, group) <= (after.0, &after.1)) {
                continue;
            }
            if rows.len() > request.limit {
                break;
            }
            let value = if request.agg == Aggregate::Count { samples as f64 } else { bucket.value(request.agg) };
            rows.push(AggregateRow {
                time_ms,
                group: names.iter().copied().zip(group.iter().cloned()).collect(),
                value,
                gpus: bucket.n,
                samples,
            });
        }
        let at = |row: &AggregateRow| (row.time_ms, row.group.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>());
        Ok(lists::page(rows, request.limit, &request.question, at))
    }

    async fn all_gpus(&self, filter: &GpuFilter) -> Result<Vec<GpuSummary>> {
        let mut all: Vec<GpuSummary> = Vec::new();
        loop {
            let after = all.last().map(|gpu| gpu.place.clone());
            let some = self.reader.gpus(filter, after.as_ref(), GPUS_PAGE).await?;
            let done = some.len() < GPUS_PAGE;
            all.extend(some);
            if done {
                return Ok(all);
            }
        }
    }

    async fn add_members(
        &self,
        request: &AggregateRequest,
        members: &[Member],
        (from, to): (i64, i64),
        width: &mut Option<i64>,
        groups: &mut Groups,
    ) -> Result<()> {
        // Over time each GPU becomes one value; over a group `agg` is meant. A sum or a count of samples would follow how often
        // somebody looked. One GPU alone has a percentile only over time.
        let over_time = match request.agg {
            Aggregate::Min | Aggregate::Max | Aggregate::Last => request.agg,
            Aggregate::Percentile(_) if request.group_by == GroupBy::Gpu => request.agg,
            Aggregate::Avg | Aggregate::Sum | Aggregate::Count | Aggregate::Percentile(_) => Aggregate::Avg,
        };
        let complete = |groups: &mut Groups, step: i64, member: u32, mut bucket: Bucket| {
            let entry = groups.entry((step, members[member as usize].group)).or_default();
            entry.0.add(request.agg, bucket.last_ms(), bucket.value(over_time));
            entry.1 += bucket.n;
        };
        let member_of: Vec<u32> =
            members.iter().zip(0..).flat_map(|(member, at)| member.series.iter().map(move |_| at)).collect();
        let wanted = Wanted {
            series: members.iter().flat_map(|member| member.series.iter().copied()).collect(),
            live: members.len(),
            range: (from, to),
            order: Order::Asc,
            hint: None,
            width: *width,
        };
        let mut slices = Slices::new(Arc::clone(&self.reader), wanted);
        // Steps that more than one slice, or more than one series of a member, has samples of.
        let mut open: BTreeMap<(i64, u32), Bucket> = BTreeMap::new();
        loop {
            let slice = slices.next().await?;
            let (begin, before) = slice.as_ref().map_or((i64::MAX, i64::MAX), |slice| (slice.from, slice.before));
            for run in slice.iter().flat_map(|slice| &slice.runs) {
                for (step, range) in parts(run, request.step_ms, from) {
                    let (step, member) = (step, member_of[run.series as usize]);
                    let samples = run.times[range.clone()].iter().zip(&run.values[range]);
                    let alone = members[member as usize].series.len() == 1;
                    if alone && request.step_ms.is_some_and(|ms| step >= begin && step.saturating_add(ms) <= before) {
                        let mut bucket = Bucket::default();
                        samples.for_each(|(time_ms, value)| bucket.add(over_time, *time_ms, *value));
                        complete(groups, step, member, bucket);
                    } else {
                        let bucket = open.entry((step, member)).or_default();
                        samples.for_each(|(time_ms, value)| bucket.add(over_time, *time_ms, *value));
                    }
                }
            }
            // Steps are aligned: what begins before the step of `before` is complete.
            let border = match (slice.is_some(), request.step_ms) {
                (false, _) => i64::MAX,
                (true, None) => i64::MIN,
                (true, Some(ms)) => before.div_euclid(ms) * ms,
            };
            let rest = open.split_off(&(border, 0));
            for ((step, member), bucket) in std::mem::replace(&mut open, rest) {
                complete(groups, step, member, bucket);
            }
            let held: usize = match request.agg {
                Aggregate::Percentile(_) => groups.values().map(|g| &g.0).chain(open.values()).map(Bucket::held).sum(),
                _ => 0,
            };
            if held > self.limits.max_percentile_samples || groups.len() > 50 * self.limits.max_page {
                return Err(QueryError::bad(
                    "step",
                    "gives too many groups and steps: take a longer step, a coarser group_by, or a shorter range",
                ));
            }
            if slice.is_none() {
                *width = Some(slices.width());
                return Ok(());
            }
        }
    }
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
fn parts(run: &Run, step_ms: Option<i64>, from: i64) -> Vec<(i64, ops::Range<usize>)> {
    step_ms.map_or_else(|| vec![(from, 0..run.times.len())], |ms| run.steps(ms).collect())
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
