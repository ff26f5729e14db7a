//! One GPU's samples: as they are, or in steps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::bucket::{Bucket, NAMES};
use super::budget::{GROUP_BYTES, Held, Lease};
use super::range::parse_step;
use super::slices::{Slices, Wanted};
use super::stepped::{Part, Stepped, add_rollups, end_of};
use super::{
    Aggregate, ClusterParam, Gpu, Page, Params, Query, QueryError, Range, Result, Sample, Samples, SeriesRow, TelemetryParams,
    cursor, lists,
};
use crate::model::{IntervalMs, SeriesId, TimeMs};
use crate::store::Texts as _;

/// Bytes of a row of JSON without its texts, roughly.
const ROW_TEXT_BYTES: usize = 112;

/// Which end comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// A checked question for a GPU's samples.
#[derive(Clone, Debug)]
pub struct TelemetryRequest {
    /// Cluster, where it was named.
    pub cluster: Option<String>,
    /// From and to.
    pub range: Range,
    /// Metrics; empty = all.
    pub metrics: Vec<String>,
    /// Which end comes first.
    pub order: Order,
    /// Rows at most, where it was said.
    pub limit: Option<usize>,
    /// The length of a step, and what is made of the samples in one.
    pub step: Option<(IntervalMs, Aggregate)>,
    after: Option<(TimeMs, SeriesId)>,
    question: Vec<String>,
}

/// The names in `metric=A&metric=B` or `metric=A,B`.
pub(super) fn metric_names(given: &[String]) -> Vec<String> {
    let names = given.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `agg`, where it is given.
pub(super) fn parse_agg(text: Option<&str>) -> Result<Option<Aggregate>> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|()| QueryError::bad("agg", format!("`{text}` is none of {NAMES}")))
}

impl TelemetryRequest {
    /// The parameters of a GPU's telemetry.
    ///
    /// # Errors
    ///
    /// A parameter is wrong or unknown.
    pub fn parse(mut params: Params, id: &str, query: &Query, now: TimeMs) -> Result<Self> {
        let ClusterParam { cluster } = params.take()?;
        let given: TelemetryParams = params.take()?;
        params.end()?;
        let range = Range::parse(given.start_time.as_deref(), given.end_time.as_deref(), now)?;
        let metrics = metric_names(&given.metric);
        let order = match given.order.as_deref() {
            None | Some("asc") => Order::Asc,
            Some("desc") => Order::Desc,
            Some(other) => return Err(QueryError::bad("order", format!("`{other}` is neither asc nor desc"))),
        };
        let limit = given.limit.within("limit", 1, query.limits.max_page as u64)?.and_then(|limit| usize::try_from(limit).ok());
        let step = parse_step(given.step.as_deref())?;
        let agg = parse_agg(given.agg.as_deref())?;
        if agg.is_some() && step.is_none() {
            return Err(QueryError::bad("agg", "needs a step: add step=1m"));
        }
        let text = |time: &Option<String>| time.clone().unwrap_or_default();
        let question = vec![
            "telemetry".to_owned(),
            id.to_owned(),
            cluster.clone().unwrap_or_default(),
            format!("{} {}", text(&given.start_time), text(&given.end_time)),
            metrics.join(","),
            format!("{order:?} {step:?} {agg:?}"),
        ];
        let after = cursor::read_given(given.cursor.as_deref(), &lists::refs(&question))?;
        let step = step.map(|step| (step, agg.unwrap_or(Aggregate::Avg)));
        Ok(Self { cluster, range, metrics, order, limit, step, after, question })
    }
}

/// What a row says of its series.
#[derive(Clone, Debug)]
pub struct RowSeries {
    /// The series; of several that only differ in how their GPU was described, the first.
    pub row: SeriesRow,
    /// MIG instance, empty for a whole GPU.
    pub mig_instance: String,
}

/// The samples of a GPU, block by block.
pub struct Telemetry {
    source: Option<Source>,
    series: Arc<[RowSeries]>,
    order: Order,
    after: Option<(TimeMs, SeriesId)>,
    lease: Lease,
}

/// What is still to be read.
enum Source {
    Samples(Box<Slices>),
    Steps(Box<(Stepped, Steps)>),
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("series", &self.series.len()).finish_non_exhaustive()
    }
}

struct Steps {
    length: IntervalMs,
    agg: Aggregate,
    /// The group of each series: the position of its first member.
    groups: Vec<u32>,
    open: BTreeMap<(TimeMs, u32), Bucket>,
    max_held: usize,
}

impl Query {
    /// Begins to read a GPU's samples, to be sent while they are read.
    ///
    /// # Errors
    ///
    /// Too many steps, too long a range, too much memory, the store's.
    pub async fn telemetry(&self, gpu: &Gpu, request: &TelemetryRequest) -> Result<Telemetry> {
        self.telemetry_within(gpu, request, self.budget.download().await?).await
    }

    async fn telemetry_within(&self, gpu: &Gpu, request: &TelemetryRequest, mut lease: Lease) -> Result<Telemetry> {
        let rows = self.series_of(gpu, request.metrics.clone(), &mut lease).await?;
        let slices_bytes = rows.iter().filter_map(|row| gpu.ids.get(&row.gpu_id)).map(String::len).sum();
        lease.hold(Held::Gpus, slices_bytes).await?;
        let series: Arc<[RowSeries]> = rows
            .into_iter()
            .map(|row| RowSeries { mig_instance: gpu.ids.get(&row.gpu_id).cloned().unwrap_or_default(), row })
            .collect();
        let mut telemetry = Telemetry { source: None, order: request.order, after: request.after, series, lease };
        let Some((mut from, mut to)) = request.range.within(gpu.span.0, gpu.span.1) else { return Ok(telemetry) };
        let step = request.step.map(|(step, _)| step);
        if step.is_some() {
            self.check_steps(from, to, step)?;
            // Nothing lies before or after what the GPU has: there, buckets need not be cut.
            let begin = gpu.span.0.floor_to(IntervalMs::HOUR);
            from = request.range.from.map_or(begin, |from| from.max(begin));
            to = end_of(request.range.to, gpu.span.1);
        }
        if let Some((time, _)) = request.after {
            match request.order {
                Order::Asc => from = from.max(time),
                Order::Desc => to = to.min(step.map_or(time, |step| time.plus(step).minus(IntervalMs::MILLISECOND))),
            }
        }
        if from > to {
            return Ok(telemetry);
        }
        // A workload's series take turns with those of others.
        let live: HashSet<_> = telemetry.series.iter().map(|series| (&series.row.metric, &series.mig_instance)).collect();
        let wanted = Wanted {
            series: telemetry.series.iter().map(|series| series.row.ids()).collect(),
            live: live.len(),
            range: (from, to),
            order: request.order,
            hint: request.limit.filter(|_| step.is_none()).map(|limit| limit.saturating_mul(2)),
            width: None,
        };
        let reader = Arc::clone(&self.reader);
        telemetry.source = Some(match request.step {
            None => Source::Samples(Box::new(Slices::new(reader, wanted))),
            Some((length, agg)) => {
                let steps = Steps {
                    length,
                    agg,
                    groups: groups(&telemetry.series),
                    open: BTreeMap::new(),
                    max_held: self.limits.max_percentile_samples,
                };
                Source::Steps(Box::new((Stepped::new(reader, wanted, Some(length), agg), steps)))
            }
        });
        Ok(telemetry)
    }

    /// Refuses what would take too long, and says what would do.
    pub(super) fn check_steps(&self, from: TimeMs, to: TimeMs, step: Option<IntervalMs>) -> Result<()> {
        let range = to.since(from);
        if range > self.limits.max_range {
            let most = humantime::format_duration(Duration::from_secs(self.limits.max_range.as_secs()));
            return Err(QueryError::bad(
                "start_time",
                format!("the range is longer than {most} (http.max_range): ask for less at once"),
            ));
        }
        let steps = step.map_or(0, |step| range.as_millis() / step.duration().as_millis()) + 1;
        if steps > u128::from(self.limits.max_steps) {
            let least = humantime::format_duration(Duration::from_secs(range.as_secs() / self.limits.max_steps.max(1) + 1));
            let reason = format!(
                "gives {steps} steps, more than {} (http.max_steps): take step={least} or more, or a shorter range",
                self.limits.max_steps
            );
            return Err(QueryError::bad("step", reason));
        }
        Ok(())
    }

    /// One page of a GPU's samples, with what its rows say of their series.
    ///
    /// # Errors
    ///
    /// As [`Query::telemetry`].
    pub async fn telemetry_page(&self, gpu: &Gpu, request: &TelemetryRequest) -> Result<(Page<Sample>, Arc<[RowSeries]>)> {
        let limit = request.limit.unwrap_or(self.limits.page);
        let request = TelemetryRequest { limit: Some(limit), ..request.clone() };
        let mut telemetry = self.telemetry_within(gpu, &request, self.budget.page().await?).await?;
        let mut rows = Vec::new();
        while rows.len() <= limit {
            let Some(some) = telemetry.next().await? else { break };
            rows.extend(some.take(limit + 1 - rows.len()));
        }
        // What is still to be waited for is no connection.
        telemetry.source = None;
        let series = Arc::clone(&telemetry.series);
        let texts_of = |sample: &Sample| {
            let series = &series[sample.series as usize];
            series.row.text_bytes() + series.mig_instance.len()
        };
        let limit = limit.min(lists::fitting(rows.iter().map(texts_of)));
        let page = lists::page(rows, limit, &request.question, |sample| (sample.time, series[sample.series as usize].row.id));
        let text = page.rows.iter().map(|sample| ROW_TEXT_BYTES + texts_of(sample)).sum();
        telemetry.lease.hold(Held::Text, text).await?;
        Ok((page.holding(telemetry.lease), telemetry.series))
    }
}

fn groups(series: &[RowSeries]) -> Vec<u32> {
    let mut first = HashMap::new();
    series
        .iter()
        .enumerate()
        .map(|(at, s)| {
            let key = (&s.row.metric, &s.row.namespace, &s.row.pod, &s.row.container, &s.mig_instance);
            *first.entry(key).or_insert(u32::try_from(at).unwrap_or(u32::MAX))
        })
        .collect()
}

impl Telemetry {
    /// What the samples' `series` point into.
    #[must_use]
    pub fn series(&self) -> &Arc<[RowSeries]> {
        &self.series
    }

    /// The next samples; `None` at the end. In steps, a sample's time is the beginning of its step.
    ///
    /// # Errors
    ///
    /// The store's; too many values for a percentile.
    pub async fn next(&mut self) -> Result<Option<Samples>> {
        loop {
            let Some(source) = &mut self.source else { return Ok(None) };
            let (samples, ended): (Samples, bool) = match source {
                Source::Samples(slices) => {
                    let slice = slices.next(&mut self.lease).await?;
                    let ended = slice.is_none();
                    (Samples::merged(slice.map_or_else(Vec::new, |slice| slice.runs), self.order), ended)
                }
                Source::Steps(both) => {
                    let (stepped, steps) = &mut **both;
                    match stepped.next(&mut self.lease).await? {
                        Some(part) => {
                            steps.add(&part)?;
                            stepped.hold(&mut self.lease, Held::Groups, steps.bytes()).await?;
                            (steps.complete(self.order, part.from, part.before).into(), false)
                        }
                        None => (steps.rest(self.order).into(), true),
                    }
                }
            };
            if ended {
                self.source = None;
            }
            let samples = self.skip(samples);
            if samples.len() > 0 {
                return Ok(Some(samples));
            }
        }
    }

    /// Gives back the connection that it reads with, until the next samples are asked for. For when the client takes its time.
    pub fn pause(&mut self) {
        match &mut self.source {
            Some(Source::Samples(slices)) => slices.pause(),
            Some(Source::Steps(steps)) => steps.0.pause(),
            None => {}
        }
    }

    /// Leaves out what was before the cursor.
    fn skip(&mut self, samples: Samples) -> Samples {
        let Some((time, id)) = self.after else { return samples };
        let known = |sample: &Sample| {
            let here = (sample.time, self.series[sample.series as usize].row.id);
            if self.order == Order::Asc { here <= (time, id) } else { here >= (time, id) }
        };
        let rest: Vec<Sample> = samples.skip_while(known).collect();
        if !rest.is_empty() {
            self.after = None;
        }
        rest.into()
    }
}

impl Steps {
    fn add(&mut self, part: &Part) -> Result<()> {
        for run in &part.rolled {
            let series = self.groups[run.series as usize];
            add_rollups(
                run,
                |begin| begin.floor_to(self.length),
                |step, fill| fill(self.open.entry((step, series)).or_default()),
            );
        }
        for run in &part.runs {
            for (step, range) in run.steps(self.length) {
                let bucket = self.open.entry((step, self.groups[run.series as usize])).or_default();
                for (time, value) in run.times[range.clone()].iter().zip(&run.values[range]) {
                    bucket.add(self.agg, *time, run.series, *value);
                }
            }
        }
        let held: usize = self.open.values().map(Bucket::held).sum();
        if held > self.max_held {
            let reason = format!(
                "a percentile over more than {} samples (http.max_percentile_samples): take a smaller step or fewer metrics",
                self.max_held
            );
            return Err(QueryError::bad("agg", reason));
        }
        Ok(())
    }

    /// What the open steps take, roughly: lists of values grow by doubling.
    fn bytes(&self) -> usize {
        self.open.values().map(|bucket| GROUP_BYTES + 16 * bucket.held()).sum()
    }

    /// The steps that nothing can be added to after the slice [a, b).
    fn complete(&mut self, order: Order, a: TimeMs, b: TimeMs) -> Vec<Sample> {
        let done = match order {
            Order::Asc => {
                let open = self.open.split_off(&(b.floor_to(self.length), 0));
                std::mem::replace(&mut self.open, open)
            }
            Order::Desc => self.open.split_off(&(a.ceil_to(self.length), 0)),
        };
        self.rows(done, order)
    }

    fn rest(&mut self, order: Order) -> Vec<Sample> {
        let done = std::mem::take(&mut self.open);
        self.rows(done, order)
    }

    fn rows(&self, done: BTreeMap<(TimeMs, u32), Bucket>, order: Order) -> Vec<Sample> {
        let row = |((time, series), mut bucket): ((TimeMs, u32), Bucket)| Sample { time, series, value: bucket.value(self.agg) };
        if order == Order::Asc { done.into_iter().map(row).collect() } else { done.into_iter().rev().map(row).collect() }
    }
}
