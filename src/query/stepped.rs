//! What steps are made of: rollups where they answer exactly, samples elsewhere.
//!
//! A range is cut at the borders of buckets: its edges are samples, its middle is read in windows of rollups. What a window has no rollups
//! of (nothing was packed yet, something came late, values are no decimals) is read as samples, from the same snapshot as far as that is
//! not given back meanwhile. In either way a slice shows one state of the store, and each hour of a series comes in one form.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::bucket::{Aggregate, Bucket};
use super::budget::{Held, Lease};
use super::samples::Run;
use super::slices::{Current, LOST_PAUSE, SNAPSHOTS_LOST, Slice, Slices, Wanted};
use super::{Order, QueryError, Result};
use crate::model::{IntervalMs, SeriesId, TimeMs};
use crate::store::{Ids, Level, Needs, Reader, RolledUp, Rollup, Unrolled};

/// Buckets that a window is made for. All of them are held.
const BUCKETS: usize = 65_536;
/// Bytes of a rollup that is held, with what is made of it.
const ROLLUP_BYTES: usize = 96;
/// Parts of a window that are looked for at a finer level, at most: of more, each is small, and its samples are as soon read.
const FINER: usize = 16;

/// Rollups of one series, in order.
pub(super) struct RolledRun {
    /// Position in the list of series.
    pub(super) series: u32,
    pub(super) rollups: Vec<Rollup>,
}

/// A slice of a range, with samples and rollups. Steps that lie in it, and none of its neighbours, are complete with it; where it is not
/// whole, with what came before it.
pub(super) struct Part {
    pub(super) from: TimeMs,
    pub(super) before: TimeMs,
    /// Whether all of [from, before) is in it.
    pub(super) is_whole: bool,
    /// In the order of their series.
    pub(super) runs: Vec<Run>,
    /// Likewise.
    pub(super) rolled: Vec<RolledRun>,
}

impl Part {
    fn samples(slice: Slice) -> Self {
        Self { from: slice.from, before: slice.before, is_whole: true, runs: slice.runs, rolled: Vec::new() }
    }
}

/// What is still to be read of a range.
enum Todo {
    /// Samples of everything.
    Samples(TimeMs, TimeMs),
    /// Rollups.
    Rollups(Level, TimeMs, TimeMs),
    /// Samples that a window lacks.
    Rest(Unrolled),
    /// Nothing: the window is complete.
    End(TimeMs, TimeMs),
}

/// What is being read as samples.
struct Reading {
    slices: Slices,
    /// Where the series stand in the list of all; `None`: as they are.
    places: Option<Vec<u32>>,
}

pub(super) struct Stepped {
    reader: Arc<dyn Reader>,
    series: Arc<[Ids]>,
    live: usize,
    order: Order,
    needs: Needs,
    todo: VecDeque<Todo>,
    reading: Option<Reading>,
    snapshot: Option<Current>,
    width: Option<IntervalMs>,
    /// Where the window is: what nothing can be complete before.
    edge: TimeMs,
}

/// What of rollups an aggregate needs; `None`: it needs the samples.
fn needs(agg: Aggregate) -> Option<Needs> {
    let needs = |sum, max, last| Some(Needs { sum, max, last });
    match agg {
        Aggregate::Avg | Aggregate::Sum => needs(true, false, false),
        Aggregate::Min | Aggregate::Count => needs(false, false, false),
        Aggregate::Max => needs(false, true, false),
        Aggregate::Last => needs(false, false, true),
        Aggregate::Percentile(_) => None,
    }
}

/// A range whose end is wanted at the latest at `to`, where there is nothing after `last`: the last bucket need not be cut.
pub(super) fn end_of(to: Option<TimeMs>, last: TimeMs) -> TimeMs {
    let end = last.floor_to(IntervalMs::HOUR).plus(IntervalMs::HOUR).minus(IntervalMs::MILLISECOND);
    to.map_or(end, |to| to.min(end))
}

impl Stepped {
    /// Of some series in a range, for steps of a length (`None`: all is one step).
    pub(super) fn new(reader: Arc<dyn Reader>, wanted: Wanted, step: Option<IntervalMs>, agg: Aggregate) -> Self {
        let (from, before) = (wanted.range.0, wanted.range.1.plus(IntervalMs::MILLISECOND));
        let level = step.map_or(Some(Level::Hour), Level::for_step);
        let (todo, needs) = match (level, needs(agg)) {
            (Some(level), Some(needs)) => (cut(level, from, before), needs),
            _ => (vec![Todo::Samples(from, before)], Needs { sum: false, max: false, last: false }),
        };
        let mut todo: VecDeque<Todo> = todo.into();
        if wanted.order == Order::Desc {
            todo = todo.into_iter().rev().collect();
        }
        Self {
            reader,
            series: wanted.series.into(),
            live: wanted.live,
            order: wanted.order,
            needs,
            todo,
            reading: None,
            snapshot: None,
            width: wanted.width,
            edge: TimeMs::EPOCH,
        }
    }

    /// The next part; `None` at the end.
    pub(super) async fn next(&mut self, lease: &mut Lease) -> Result<Option<Part>> {
        if self.series.is_empty() {
            return Ok(None);
        }
        loop {
            if let Some(reading) = &mut self.reading {
                if let Some(slice) = reading.slices.next(lease).await? {
                    return Ok(Some(self.part(slice)));
                }
                self.width = Some(reading.slices.width());
                self.snapshot = reading.slices.take_snapshot();
                self.reading = None;
            }
            match self.todo.pop_front() {
                None => return Ok(None),
                Some(Todo::Samples(from, before)) => {
                    let series = Arc::clone(&self.series);
                    self.read(&series, None, (from, before));
                }
                Some(Todo::Rest(rest)) => {
                    let places: HashMap<SeriesId, u32> = self.series.iter().map(|ids| ids.series).zip(0..).collect();
                    let places = rest.series.iter().filter_map(|ids| places.get(&ids.series).copied()).collect();
                    self.read(&rest.series, Some(places), (rest.from, rest.before));
                }
                Some(Todo::End(from, before)) => {
                    return Ok(Some(Part { from, before, is_whole: false, runs: Vec::new(), rolled: Vec::new() }));
                }
                Some(Todo::Rollups(level, from, before)) => return self.window(lease, level, (from, before)).await.map(Some),
            }
        }
    }

    /// A slice of samples as a part: of those that a window lacks, nothing is complete.
    fn part(&self, slice: Slice) -> Part {
        let Some(places) = self.reading.as_ref().and_then(|reading| reading.places.as_ref()) else { return Part::samples(slice) };
        let mut runs = slice.runs;
        for run in &mut runs {
            run.series = places.get(run.series as usize).copied().unwrap_or(u32::MAX);
        }
        runs.sort_by_key(|run| run.series);
        Part { from: self.edge, before: self.edge, is_whole: false, runs, rolled: Vec::new() }
    }

    fn read(&mut self, series: &[Ids], places: Option<Vec<u32>>, (from, before): (TimeMs, TimeMs)) {
        let wanted = Wanted {
            live: self.live.min(series.len()),
            series: series.to_vec(),
            range: (from, before.minus(IntervalMs::MILLISECOND)),
            order: self.order,
            hint: None,
            width: self.width,
        };
        let mut slices = Slices::new(Arc::clone(&self.reader), wanted);
        slices.give_snapshot(self.snapshot.take());
        self.reading = Some(Reading { slices, places });
    }

    /// A window of rollups, and what it lacks.
    async fn window(&mut self, lease: &mut Lease, level: Level, (from, before): (TimeMs, TimeMs)) -> Result<Part> {
        let buckets = u32::try_from(BUCKETS / self.live.max(1)).unwrap_or(u32::MAX).max(1);
        let unit = level.length();
        // Up to whole hours, as rollups hold for whole hours.
        let width = unit.times(buckets);
        let (a, b) = match self.order {
            Order::Asc => (from, from.plus(width).floor_to(IntervalMs::HOUR).max(from.plus(unit)).min(before)),
            Order::Desc => (before.minus(width).ceil_to(IntervalMs::HOUR).min(before.minus(unit)).max(from), before),
        };
        match self.order {
            Order::Asc if b < before => self.todo.push_front(Todo::Rollups(level, b, before)),
            Order::Desc if a > from => self.todo.push_front(Todo::Rollups(level, from, a)),
            Order::Asc | Order::Desc => {}
        }
        let RolledUp { series, unrolled } = self.rollups(lease, level, (a, b)).await?;
        let held = series.iter().map(|(_, rollups)| rollups.len()).sum::<usize>() * ROLLUP_BYTES;
        self.hold(lease, Held::Samples, held).await?;
        let is_whole = unrolled.is_empty();
        if !is_whole {
            self.edge = if self.order == Order::Asc { a } else { b };
            let mut rest: Vec<Todo> = unrolled.into_iter().map(Todo::Rest).collect();
            rest.push(Todo::End(a, b));
            rest.into_iter().rev().for_each(|todo| self.todo.push_front(todo));
        }
        let places: HashMap<SeriesId, u32> = self.series.iter().map(|ids| ids.series).zip(0..).collect();
        let mut rolled: Vec<RolledRun> =
            series.into_iter().filter_map(|(id, rollups)| Some(RolledRun { series: *places.get(&id)?, rollups })).collect();
        rolled.sort_by_key(|run| (run.series, run.rollups.first().map(|one| one.begin)));
        let (from, before) = if is_whole { (a, b) } else { (self.edge, self.edge) };
        Ok(Part { from, before, is_whole, runs: Vec::new(), rolled })
    }

    /// What is rolled up of a window; what is not at this level, at a finer one.
    async fn rollups(&mut self, lease: &Lease, level: Level, window: (TimeMs, TimeMs)) -> Result<RolledUp> {
        let series = Arc::clone(&self.series);
        let mut all = self.rollups_at(lease, &series, level, window).await?;
        let finer = Level::ALL.into_iter().find(|one| *one < level);
        if let Some(finer) = finer.filter(|_| all.unrolled.len() <= FINER) {
            for Unrolled { series, from, before } in std::mem::take(&mut all.unrolled) {
                let more = self.rollups_at(lease, &series, finer, (from, before)).await?;
                all.series.extend(more.series);
                all.unrolled.extend(more.unrolled);
            }
        }
        Ok(all)
    }

    /// What is rolled up at one level. Where the snapshot is lost, another one is asked.
    async fn rollups_at(&mut self, lease: &Lease, series: &[Ids], level: Level, window: (TimeMs, TimeMs)) -> Result<RolledUp> {
        let mut lost = 0;
        loop {
            let mut current = match self.snapshot.take_if(|current| current.is_young()) {
                Some(current) => current,
                None => {
                    self.snapshot = None;
                    Current::new(lease.snapshot(&*self.reader).await?)
                }
            };
            match current.snapshot().rollups(series, level, self.needs, window).await.map_err(QueryError::from) {
                Err(QueryError::SnapshotLost(reason)) if lost < SNAPSHOTS_LOST => {
                    tracing::debug!(reason, "a snapshot is lost: rollups are fetched from another one");
                    lost += 1;
                    drop(current);
                    tokio::time::sleep(LOST_PAUSE * lost).await;
                }
                done => {
                    self.snapshot = Some(current);
                    return done;
                }
            }
        }
    }

    /// Gives the snapshot back, for as long as nothing is fetched.
    pub(super) fn pause(&mut self) {
        self.snapshot = None;
        if let Some(reading) = &mut self.reading {
            reading.slices.pause();
        }
    }

    /// [`Lease::hold`], which may wait for others: not while a snapshot is held that they may wait for.
    pub(super) async fn hold(&mut self, lease: &mut Lease, what: Held, bytes: usize) -> Result<()> {
        use futures_util::FutureExt as _;
        if let Some(held) = lease.hold(what, bytes).now_or_never() {
            return held;
        }
        self.pause();
        lease.hold(what, bytes).await
    }

    /// How wide a slice of samples is that has about as many as it should, where that is known.
    pub(super) fn width(&self) -> Option<IntervalMs> {
        self.reading.as_ref().map(|reading| reading.slices.width()).or(self.width)
    }
}

/// A range as edges of samples, a middle of the level, and between them what finer buckets answer.
fn cut(level: Level, from: TimeMs, before: TimeMs) -> Vec<Todo> {
    let Some(finest) = Level::ALL.into_iter().find(|one| *one <= level) else { return vec![Todo::Samples(from, before)] };
    let inner = |level: Level, from: TimeMs, before: TimeMs| {
        let (a, b) = (from.ceil_to(level.length()), before.floor_to(level.length()));
        (a < b).then_some((a, b))
    };
    let Some((a, b)) = inner(finest, from, before) else { return vec![Todo::Samples(from, before)] };
    let (c, d) = inner(level, a, b).unwrap_or((a, a));
    let all = [
        Todo::Samples(from, a),
        Todo::Rollups(finest, a, c),
        Todo::Rollups(level, c, d),
        Todo::Rollups(finest, d, b),
        Todo::Samples(b, before),
    ];
    let is_something = |todo: &Todo| match todo {
        Todo::Samples(from, before) | Todo::Rollups(_, from, before) => from < before,
        Todo::Rest(_) | Todo::End(..) => true,
    };
    all.into_iter().filter(is_something).collect()
}

/// Adds the rollups of a run to the buckets of their steps.
pub(super) fn add_rollups(run: &RolledRun, step: impl Fn(TimeMs) -> TimeMs, mut add: impl FnMut(TimeMs, &dyn Fn(&mut Bucket))) {
    for some in run.rollups.chunk_by(|one, other| step(one.begin) == step(other.begin)) {
        add(step(some[0].begin), &|bucket| some.iter().for_each(|rollup| bucket.add_rollup(run.series, rollup)));
    }
}
