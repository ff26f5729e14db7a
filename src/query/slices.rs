//! Samples of series in the order of time, a slice of time after the other, so that memory does not follow the length of a history.
//!
//! Forwards, a slice [a, b) needs the chunks that begin in it and what is left of chunks that began before. Backwards, those that
//! end in it and what is left of chunks that end later. So each chunk is fetched once. The width follows how many samples came.
//!
//! That holds for one snapshot of the store: chunks are rewritten at any time, with other borders. A snapshot holds a connection, and
//! keeps what was deleted since; so it is given back after a while, between two slices, and while there is something to wait for.
//! The first slice of the next one fetches every chunk that reaches into it, and what was left of former chunks is forgotten. So each
//! sample is in one slice, and each slice shows one state of the store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::budget::{CARRIED_SAMPLE_BYTES, Held, Lease};
use super::samples::Run;
use super::{Order, QueryError, Result};
use crate::model::{IntervalMs, SeriesId, TimeMs};
use crate::store::{Chunk, ChunkRange, Ids, Reader, Snapshot, Span};

/// Samples that a slice is made for; four times as many are taken before it is made smaller.
const TARGET: usize = 32_768;
/// Samples of one instant (or of chunks that overlap it) that are held at most.
const MAX_SAMPLES_HELD: usize = 16 << 20;
/// The width of a slice at most: what is wide and dense is found out by asking, and asked again.
const WIDEST: IntervalMs = IntervalMs::DAY.times(64);

/// Up to so many series are asked for their chunks without finding out first which of them have some.
const PROBE_THRESHOLD: usize = 64;
/// Snapshots that may be lost one after the other before an answer is given up.
pub(super) const SNAPSHOTS_LOST: u32 = 5;
/// How long another one is waited for, each time longer.
pub(super) const LOST_PAUSE: Duration = Duration::from_millis(20);
/// How long a snapshot is used before the next slice begins with another one, so that others get their turn.
pub(super) const TURN: Duration = Duration::from_secs(2);
/// For how many slices at once it is found out which series have chunks.
const LOOKAHEAD_SLICES: u32 = 16;

/// The samples in [from, before): runs in the order of their series, each series once at most.
pub(super) struct Slice {
    pub(super) from: TimeMs,
    pub(super) before: TimeMs,
    pub(super) runs: Vec<Run>,
}

pub(super) struct Slices {
    reader: Arc<dyn Reader>,
    series: Arc<[Ids]>,
    places: HashMap<SeriesId, u32>,
    from: TimeMs,
    /// Not included.
    before: TimeMs,
    order: Order,
    /// Where the next slice begins (forwards) or before which it ends (backwards).
    at: TimeMs,
    snapshot: Option<Current>,
    turn: Duration,
    width: IntervalMs,
    max_samples: usize,
    target: usize,
    /// Chunks that reach into slices that are still to come.
    carried_over: Vec<Chunk>,
    probe_threshold: usize,
    /// Most of the series had nothing in the last slice: a GPU has series for each workload that it ever had.
    sparse: bool,
    ahead: Option<Ahead>,
}

/// The snapshot that is in use.
pub(super) struct Current {
    snapshot: Box<dyn Snapshot>,
    begun: Instant,
    /// Whether nothing was fetched from it yet.
    is_fresh: bool,
}

impl Current {
    pub(super) fn new(snapshot: Box<dyn Snapshot>) -> Self {
        Self { snapshot, begun: Instant::now(), is_fresh: true }
    }

    /// Whether others need not have their turn yet.
    pub(super) fn is_young(&self) -> bool {
        self.begun.elapsed() < TURN
    }

    /// What is asked.
    pub(super) fn snapshot(&mut self) -> &mut dyn Snapshot {
        &mut *self.snapshot
    }
}

/// What there is in [from, before).
struct Ahead {
    from: TimeMs,
    before: TimeMs,
    spans: Vec<Span>,
}

/// Which samples are wanted.
pub(super) struct Wanted {
    /// Series, each once.
    pub(super) series: Vec<Ids>,
    /// How many of them may have samples at one time.
    pub(super) live: usize,
    /// From and to, both included.
    pub(super) range: (TimeMs, TimeMs),
    pub(super) order: Order,
    /// How many samples are likely to be wanted, where not all are.
    pub(super) hint: Option<usize>,
    /// The width of the first slice, where something is known.
    pub(super) width: Option<IntervalMs>,
}

impl Slices {
    pub(super) fn new(reader: Arc<dyn Reader>, wanted: Wanted) -> Self {
        let Wanted { series, live, range: (from, to), order, hint, width } = wanted;
        let before = to.plus(IntervalMs::MILLISECOND);
        let target = hint.unwrap_or(usize::MAX).clamp(1024, TARGET);
        let places = series.iter().enumerate().map(|(at, ids)| (ids.series, u32::try_from(at).unwrap_or(u32::MAX))).collect();
        // As if every series had a sample a second: right soon, whatever is true. What would be two slices is one.
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let first = IntervalMs::SECOND.times(count(target)).part(count(live)).max(IntervalMs::SECOND);
        let width = width.unwrap_or(first);
        let width = before.interval_since(from).filter(|all| *all <= width.times(2)).unwrap_or(width);
        Self {
            reader,
            series: series.into(),
            places,
            from,
            before,
            order,
            at: if order == Order::Asc { from } else { before },
            snapshot: None,
            turn: TURN,
            width,
            max_samples: target * 4,
            target,
            carried_over: Vec::new(),
            probe_threshold: PROBE_THRESHOLD,
            sparse: false,
            ahead: None,
        }
    }

    /// The next slice; of a series' samples with the same time only the later one. `None` at the end. Where a snapshot is lost before
    /// that (a standby ends those that hold it up), the slice is fetched from another one.
    pub(super) async fn next(&mut self, lease: &mut Lease) -> Result<Option<Slice>> {
        let mut lost = 0;
        loop {
            match self.try_next(lease).await {
                Err(QueryError::SnapshotLost(reason)) if lost < SNAPSHOTS_LOST => {
                    tracing::debug!(reason, "a snapshot is lost: the slice is fetched from another one");
                    lost += 1;
                    tokio::time::sleep(LOST_PAUSE * lost).await;
                }
                done => return done,
            }
        }
    }

    async fn try_next(&mut self, lease: &mut Lease) -> Result<Option<Slice>> {
        loop {
            let (a, b) = match self.order {
                Order::Asc => (self.at, self.at.plus(self.width).min(self.before)),
                Order::Desc => (self.at.minus(self.width).max(self.from), self.at),
            };
            if self.series.is_empty() || a >= b {
                return Ok(None);
            }
            let mut current = self.current(lease).await?;
            let series = self.present(&mut current, a, b).await?;
            let range = self.range(current.is_fresh, a, b);
            let Some(chunks) = current.snapshot.chunks(&series, &range, self.max_samples).await? else {
                // That much is fetched from no snapshot; the next one is asked for less.
                drop(current);
                self.too_many()?;
                if self.width == IntervalMs::MILLISECOND {
                    // From here on more is fetched at once: only once it may be held.
                    self.hold_fetched(lease, self.max_samples).await?;
                }
                continue;
            };
            current.is_fresh = false;
            self.snapshot = Some(current);
            self.sparse = self.series.len() > self.probe_threshold && self.series.len() > 4 * different(&chunks);
            self.at = if self.order == Order::Asc { b } else { a };
            let fetched = samples(&chunks);
            self.hold_fetched(lease, fetched).await?;
            self.carried_over.extend(chunks);
            let runs = self.take(a, b);
            // Not by what was fetched: of each other snapshot those are whole rows again, however narrow the slice is.
            self.adapt(runs.iter().map(|run| run.times.len()).sum());
            return Ok(Some(Slice { from: a, before: b, runs }));
        }
    }

    /// The snapshot for the next slice.
    async fn current(&mut self, lease: &Lease) -> Result<Current> {
        if let Some(current) = self.snapshot.take_if(|current| current.begun.elapsed() < self.turn) {
            return Ok(current);
        }
        self.pause();
        // Chunks of another snapshot, and what is known of them: this one's may have other borders.
        self.carried_over.clear();
        self.ahead = None;
        Ok(Current::new(lease.snapshot(&*self.reader).await?))
    }

    /// Begins with a snapshot that was used for something else.
    pub(super) fn give_snapshot(&mut self, current: Option<Current>) {
        self.snapshot = current.map(|current| Current { is_fresh: true, ..current });
    }

    /// The snapshot, for something else.
    pub(super) fn take_snapshot(&mut self) -> Option<Current> {
        self.snapshot.take()
    }

    /// Gives the snapshot back, for as long as nothing is fetched.
    pub(super) fn pause(&mut self) {
        self.snapshot = None;
    }

    async fn hold_fetched(&mut self, lease: &mut Lease, fetched: usize) -> Result<()> {
        let bytes =
            fetched.saturating_mul(lease.sample_bytes()).saturating_add(samples(&self.carried_over) * CARRIED_SAMPLE_BYTES);
        self.hold(lease, Held::Samples, bytes).await
    }

    /// [`Lease::hold`], which may wait for others: not while a snapshot is held that they may wait for.
    pub(super) async fn hold(&mut self, lease: &mut Lease, what: Held, bytes: usize) -> Result<()> {
        if let Some(held) = lease.hold(what, bytes).now_or_never() {
            return held;
        }
        self.pause();
        lease.hold(what, bytes).await
    }

    /// How wide a slice is that has about as many samples as it should.
    pub(super) fn width(&self) -> IntervalMs {
        self.width
    }

    /// The series to ask for chunks of a slice: all, or where most have none, those that have.
    async fn present(&mut self, current: &mut Current, a: TimeMs, b: TimeMs) -> Result<Arc<[Ids]>> {
        if current.is_fresh || !self.sparse {
            return Ok(Arc::clone(&self.series));
        }
        if !self.ahead.as_ref().is_some_and(|ahead| ahead.from <= a && b <= ahead.before) {
            let width = self.width.times(LOOKAHEAD_SLICES);
            let (from, before) = match self.order {
                Order::Asc => (a, a.plus(width).min(self.before)),
                Order::Desc => (b.minus(width).max(self.from), b),
            };
            let spans = current.snapshot.spans(&self.series, &self.range(false, from, before)).await?;
            self.ahead = Some(Ahead { from, before, spans });
        }
        let spans = self.ahead.iter().flat_map(|ahead| &ahead.spans);
        let present = spans.filter(|span| span.first < b && span.last >= a);
        Ok(present.filter_map(|span| self.series.get(*self.places.get(&span.series)? as usize).copied()).collect())
    }

    /// Of a fresh snapshot, whatever reaches into [a, b); else what was not fetched for the slice before.
    fn range(&self, is_fresh: bool, a: TimeMs, b: TimeMs) -> ChunkRange {
        // A chunk lies within one UTC day: so the day's borders bound what the other end may be.
        let midnight = a.floor_to(IntervalMs::DAY);
        let (begins_from, ends_before) = match (self.order, is_fresh) {
            (_, true) => (midnight, TimeMs::MAX),
            (Order::Asc, false) => (a, TimeMs::MAX),
            (Order::Desc, false) => (midnight, b),
        };
        ChunkRange { begins_from, begins_before: b, ends_from: a, ends_before }
    }

    fn too_many(&mut self) -> Result<()> {
        if self.width > IntervalMs::MILLISECOND {
            self.width = self.width.part(4);
        } else if self.max_samples < MAX_SAMPLES_HELD {
            self.max_samples *= 4;
        } else {
            return Err(QueryError::Internal(format!("more than {MAX_SAMPLES_HELD} samples lie at one instant ({})", self.at)));
        }
        Ok(())
    }

    /// A slice of the width had `n` samples.
    fn adapt(&mut self, n: usize) {
        if n < self.target / 2 {
            let factor = u32::try_from(self.target / n.max(1)).unwrap_or(u32::MAX).min(8);
            self.width = self.width.times(factor).min(WIDEST);
        } else if n > self.target * 2 {
            self.width = self.width.part(2);
        }
    }

    /// Takes the samples in [a, b) out of the chunks at hand, and keeps what will be asked for later.
    fn take(&mut self, a: TimeMs, b: TimeMs) -> Vec<Run> {
        let mut chunks = std::mem::take(&mut self.carried_over);
        // Per series in the order of chunks, so that of two samples with the same time the later chunk's comes later.
        chunks.sort_by_key(|chunk| (self.places.get(&chunk.series).copied(), chunk.times[0], chunk.id));
        let mut runs = Vec::new();
        for chunks in chunks.chunk_by_mut(|one, other| one.series == other.series) {
            if let Some(place) = self.places.get(&chunks[0].series) {
                let run = one_series(chunks, *place, a, b);
                if !run.times.is_empty() {
                    runs.push(run);
                }
            }
        }
        self.carried_over = chunks
            .into_iter()
            .filter_map(|chunk| match self.order {
                Order::Asc => cut(chunk, |times| times.partition_point(|t| *t < b)..times.len()),
                Order::Desc => cut(chunk, |times| 0..times.partition_point(|t| *t < a)),
            })
            .collect();
        runs
    }
}

fn samples(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.times.len()).sum()
}

/// How many series these are of.
fn different(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.series).collect::<HashSet<_>>().len()
}

/// The samples of one series in [a, b), in order, each time once.
fn one_series(chunks: &mut [Chunk], series: u32, a: TimeMs, b: TimeMs) -> Run {
    let in_row = chunks.windows(2).all(|pair| pair[0].times.last() < pair[1].times.first());
    if !in_row {
        chunks.sort_by_key(|chunk| chunk.id);
    }
    let n = chunks.iter().map(|chunk| chunk.times.len()).sum();
    let mut run = Run { series, times: Vec::with_capacity(n), values: Vec::with_capacity(n) };
    for chunk in &*chunks {
        let (first, end) = (chunk.times.partition_point(|t| *t < a), chunk.times.partition_point(|t| *t < b));
        run.times.extend_from_slice(&chunk.times[first..end]);
        run.values.extend_from_slice(&chunk.values[first..end]);
    }
    if !in_row && !run.times.is_sorted() {
        let mut order: Vec<usize> = (0..run.times.len()).collect();
        order.sort_by_key(|at| run.times[*at]);
        run.times = order.iter().map(|at| run.times[*at]).collect();
        run.values = order.iter().map(|at| run.values[*at]).collect();
    }
    if run.times.windows(2).any(|pair| pair[0] == pair[1]) {
        keep_last(&mut run);
    }
    run
}

/// Of the samples with the same time, the last stays.
fn keep_last(run: &mut Run) {
    let mut kept = 0;
    for at in 0..run.times.len() {
        if kept > 0 && run.times[kept - 1] == run.times[at] {
            kept -= 1;
        }
        run.times[kept] = run.times[at];
        run.values[kept] = run.values[at];
        kept += 1;
    }
    run.times.truncate(kept);
    run.values.truncate(kept);
}

fn cut(mut chunk: Chunk, range: impl Fn(&[TimeMs]) -> std::ops::Range<usize>) -> Option<Chunk> {
    let range = range(&chunk.times);
    if range.is_empty() {
        return None;
    }
    if range.len() < chunk.times.len() {
        chunk.times = chunk.times[range.clone()].to_vec();
        chunk.values = chunk.values[range].to_vec();
    }
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::budget::Budget;
    use crate::query::samples::{Sample, Samples};
    use crate::query::stub::Stub;

    const DAY_MS: i64 = IntervalMs::DAY.as_millis();

    fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
        let times = prop::collection::vec(0..3 * DAY_MS / 1000, 1..40);
        prop::collection::vec((1i64..4, times, any::<bool>()), 0..30).prop_map(|some| {
            some.into_iter()
                .enumerate()
                .map(|(id, (series, times, dense))| {
                    let day = times[0] * 1000 / DAY_MS;
                    let time = |t: &i64| TimeMs::from_millis(day * DAY_MS + if dense { t % 50 } else { t * 1000 % DAY_MS });
                    let mut times: Vec<TimeMs> = times.iter().map(time).collect();
                    times.sort_unstable();
                    let values = (0..times.len()).map(|n| (id * 1000 + n) as f64).collect();
                    Chunk { series: SeriesId::from_store(series), id: id as i64 + 1, times, values }
                })
                .collect()
        })
    }

    /// A chunk of many samples is fetched whole of each snapshot: that is no reason to ask for ever less.
    #[test]
    fn slices_of_a_snapshot_each_do_not_get_ever_narrower() {
        let times: Vec<TimeMs> = (0..100).map(|i| TimeMs::from_millis(i * 60_000)).collect();
        let chunk = Chunk { series: SeriesId::from_store(1), id: 1, values: vec![1.0; times.len()], times };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let range = (TimeMs::from_millis(0), TimeMs::from_millis(2 * DAY_MS));
            let series = vec![Ids { series: SeriesId::from_store(1), ..Ids::default() }];
            let wanted = Wanted { series, live: 1, range, order: Order::Asc, hint: None, width: Some(IntervalMs::HOUR) };
            let mut slices = Slices::new(Arc::new(Stub { chunks: vec![chunk], ..Stub::default() }), wanted);
            (slices.max_samples, slices.target) = (64, 16);
            let mut lease = Budget::new(64 << 20, 100, Duration::ZERO).page().await.unwrap();
            let (mut n, mut samples) = (0, 0);
            while let Some(slice) = slices.next(&mut lease).await.unwrap() {
                slices.pause();
                n += 1;
                samples += slice.runs.iter().map(|run| run.times.len()).sum::<usize>();
                assert!(n < 100, "a slice has {:?} now", slices.width());
            }
            assert_eq!(samples, 100);
        });
    }

    proptest! {
        /// Whatever the chunks, and whenever they are rewritten: each (series, time) once, with the value of the latest chunk, in order,
        /// and none outside.
        #[test]
        fn slices_give_each_sample_once(chunks in chunks(), from in -10..2 * DAY_MS, length in 0..3 * DAY_MS, width in 1..DAY_MS,
            forwards: bool, sparse: bool, pauses in prop::collection::vec(any::<bool>(), 12)) {
            let (from, to) = (TimeMs::from_millis(from), TimeMs::from_millis(from + length));
            let order = if forwards { Order::Asc } else { Order::Desc };
            let mut want = std::collections::BTreeMap::new();
            for chunk in &chunks {
                for (t, v) in chunk.times.iter().zip(&chunk.values) {
                    if (from..=to).contains(t) && chunk.series.to_store() < 3 {
                        want.insert((*t, chunk.series.to_store() as u32 - 1), *v);
                    }
                }
            }
            let mut want: Vec<Sample> = want.into_iter().map(|((time, series), value)| Sample { time, series, value }).collect();
            if !forwards {
                want.reverse();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let have = runtime.block_on(async {
                // Series that have nothing are looked for in vain, and then not any more.
                let series = if sparse { (1..=2).chain(10..20).collect() } else { vec![1i64, 2] };
                let ids = |id| Ids { series: SeriesId::from_store(id), ..Ids::default() };
                let series = series.into_iter().map(ids).collect();
                let wanted = Wanted { series, live: 2, range: (from, to), order, hint: None, width: IntervalMs::new(width) };
                let mut slices = Slices::new(Arc::new(Stub { chunks, is_rewritten: true, ..Stub::default() }), wanted);
                (slices.max_samples, slices.target, slices.probe_threshold) = (64, 16, 4);
                let mut lease = Budget::new(64 << 20, 100, Duration::ZERO).page().await.unwrap();
                let (mut have, mut pauses) = (Vec::new(), pauses.into_iter().cycle());
                while let Some(slice) = slices.next(&mut lease).await.unwrap() {
                    if pauses.next() == Some(true) {
                        slices.pause();
                    }
                    let some: Vec<Sample> = Samples::merged(slice.runs, order).collect();
                    assert!(some.iter().all(|s| (slice.from..slice.before).contains(&s.time)));
                    have.extend(some);
                }
                have
            });
            prop_assert_eq!(have, want);
        }
    }
}
