//! Samples of series in the order of time, a slice of time after the other, so that memory does not follow the length of a history.
//!
//! Forwards, a slice [a, b) needs the chunks that begin in it and what is left of chunks that began before. Backwards, those that
//! end in it and what is left of chunks that end later. So each chunk is fetched once. The width follows how many samples came.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Order, QueryError, Result};
use crate::store::{Chunk, ChunkRange, Reader};

const DAY_MS: i64 = 86_400_000;
/// Samples that a slice is made for; four times as many are taken before it is made smaller.
const TARGET: usize = 32_768;
/// Samples of one instant (or in one chunk's reach) that are held at most.
const MOST: usize = 16 << 20;
/// The width of a slice at most: what is wide and dense is found out by asking, and asked again.
const WIDEST_MS: i64 = 64 * DAY_MS;

/// A sample: its time in ms, its series (the position in the list that was asked for), its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Time, ms.
    pub time_ms: i64,
    /// Position in the list of series.
    pub series: u32,
    /// Value.
    pub value: f64,
}

pub(super) struct Slices {
    reader: Arc<dyn Reader>,
    series: Arc<[i64]>,
    places: HashMap<i64, u32>,
    from: i64,
    /// Not included.
    before: i64,
    order: Order,
    /// Where the next slice begins (forwards) or before which it ends (backwards).
    at: i64,
    first: bool,
    width: i64,
    most: usize,
    target: usize,
    left: Vec<Chunk>,
}

impl Slices {
    /// The samples of `series` (ids, each once) from `from` to `to`, both included. `hint`: how many are likely to be wanted.
    pub(super) fn new(reader: Arc<dyn Reader>, series: Vec<i64>, from: i64, to: i64, order: Order, hint: usize) -> Self {
        let before = to.saturating_add(1);
        let target = hint.clamp(1024, TARGET);
        let places = series.iter().enumerate().map(|(at, id)| (*id, u32::try_from(at).unwrap_or(u32::MAX))).collect();
        // As if every series had a sample a second: right soon, whatever is true.
        let width = (target as i64 * 1000 / (series.len().max(1) as i64)).max(1000);
        let at = if order == Order::Asc { from } else { before };
        Self {
            reader,
            series: series.into(),
            places,
            from,
            before,
            order,
            at,
            first: true,
            width,
            most: target * 4,
            target,
            left: Vec::new(),
        }
    }

    /// The next slice, [a, b) and its samples: by (time, series) in the order that was asked for, of a series' samples with the same
    /// time only the later one. `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(i64, i64, Vec<Sample>)>> {
        loop {
            if self.series.is_empty()
                || (self.order == Order::Asc && self.at >= self.before)
                || (self.order == Order::Desc && self.at <= self.from)
            {
                return Ok(None);
            }
            let (a, b) = match self.order {
                Order::Asc => (self.at, self.at.saturating_add(self.width).min(self.before)),
                Order::Desc => (self.at.saturating_sub(self.width).max(self.from), self.at),
            };
            let range = self.range(a, b);
            let Some(chunks) = self.reader.chunks(&self.series, &range, self.most).await? else {
                self.too_many()?;
                continue;
            };
            self.first = false;
            self.at = if self.order == Order::Asc { b } else { a };
            let fetched: usize = chunks.iter().map(|chunk| chunk.times.len()).sum();
            self.adapt(fetched);
            self.left.extend(chunks);
            return Ok(Some((a, b, self.take(a, b))));
        }
    }

    fn range(&self, a: i64, b: i64) -> ChunkRange {
        // A chunk lies within one UTC day: so the day's borders bound what the other end may be.
        let day = |ms: i64| ms.div_euclid(DAY_MS).saturating_mul(DAY_MS);
        match (self.order, self.first) {
            (Order::Asc, true) => {
                ChunkRange { begins_from_ms: day(a), begins_before_ms: b, ends_from_ms: a, ends_before_ms: i64::MAX }
            }
            (Order::Asc, false) => {
                ChunkRange { begins_from_ms: a, begins_before_ms: b, ends_from_ms: a, ends_before_ms: i64::MAX }
            }
            (Order::Desc, true) => {
                ChunkRange { begins_from_ms: day(a), begins_before_ms: b, ends_from_ms: a, ends_before_ms: i64::MAX }
            }
            (Order::Desc, false) => {
                ChunkRange { begins_from_ms: day(a), begins_before_ms: b, ends_from_ms: a, ends_before_ms: b }
            }
        }
    }

    fn too_many(&mut self) -> Result<()> {
        if self.width > 1 {
            self.width = (self.width / 4).max(1);
        } else if self.most < MOST {
            self.most *= 4;
        } else {
            return Err(QueryError::Internal(format!("more than {MOST} samples lie at one instant ({} ms since 1970)", self.at)));
        }
        Ok(())
    }

    fn adapt(&mut self, fetched: usize) {
        if fetched < self.target / 2 {
            let factor = if fetched < self.target / 16 { 8 } else { 2 };
            self.width = self.width.saturating_mul(factor).min(WIDEST_MS);
        } else if fetched > self.target * 2 {
            self.width = (self.width / 2).max(1);
        }
    }

    /// Takes the samples in [a, b) out of the chunks at hand, and keeps what will be asked for later.
    fn take(&mut self, a: i64, b: i64) -> Vec<Sample> {
        let mut chunks = std::mem::take(&mut self.left);
        // Per series in the order of chunks, so that of two samples with the same time the later chunk's comes later.
        chunks.sort_by_key(|chunk| (self.places.get(&chunk.series).copied(), chunk.times[0], chunk.id));
        let mut samples: Vec<Sample> = Vec::with_capacity(chunks.iter().map(|chunk| chunk.times.len()).sum());
        let mut at = 0;
        while at < chunks.len() {
            let end = at + chunks[at..].iter().take_while(|chunk| chunk.series == chunks[at].series).count();
            if let Some(place) = self.places.get(&chunks[at].series) {
                one_series(&mut chunks[at..end], *place, a, b, &mut samples);
            }
            at = end;
        }
        // Runs that are sorted each: a merge.
        samples.sort_by_key(|sample| (sample.time_ms, sample.series));
        if self.order == Order::Desc {
            samples.reverse();
        }
        self.left = chunks
            .into_iter()
            .filter_map(|chunk| match self.order {
                Order::Asc => cut(chunk, |times| times.partition_point(|t| *t < b)..times.len()),
                Order::Desc => cut(chunk, |times| 0..times.partition_point(|t| *t < a)),
            })
            .collect();
        samples
    }
}

/// Appends the samples of one series in [a, b), in order, each time once.
fn one_series(chunks: &mut [Chunk], place: u32, a: i64, b: i64, samples: &mut Vec<Sample>) {
    let begin = samples.len();
    let in_row = chunks.windows(2).all(|pair| pair[0].times.last() < pair[1].times.first());
    if !in_row {
        chunks.sort_by_key(|chunk| chunk.id);
    }
    for chunk in &*chunks {
        let (first, end) = (chunk.times.partition_point(|t| *t < a), chunk.times.partition_point(|t| *t < b));
        let pairs = chunk.times[first..end].iter().zip(&chunk.values[first..end]);
        samples.extend(pairs.map(|(time_ms, value)| Sample { time_ms: *time_ms, series: place, value: *value }));
    }
    let mine = &mut samples[begin..];
    if !in_row {
        mine.sort_by_key(|sample| sample.time_ms);
    }
    if mine.windows(2).any(|pair| pair[0].time_ms == pair[1].time_ms) {
        // The last of those with the same time stays.
        let mut kept = 0;
        for at in 0..mine.len() {
            if kept > 0 && mine[kept - 1].time_ms == mine[at].time_ms {
                kept -= 1;
            }
            mine[kept] = mine[at];
            kept += 1;
        }
        samples.truncate(begin + kept);
    }
}

fn cut(mut chunk: Chunk, range: impl Fn(&[i64]) -> std::ops::Range<usize>) -> Option<Chunk> {
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
pub(super) mod tests {
    use async_trait::async_trait;
    use proptest::prelude::*;

    use super::*;
    use crate::store::{
        self, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Latest, SeriesFilter, SeriesRow, SourceLedger,
    };

    /// A store of given chunks.
    #[derive(Default)]
    pub(in crate::query) struct Chunks(pub(in crate::query) Vec<Chunk>);

    #[async_trait]
    impl Reader for Chunks {
        async fn clusters(&self) -> store::Result<Vec<ClusterSummary>> {
            Ok(Vec::new())
        }
        async fn hosts(&self, _: &GpuFilter, _: Option<(&str, &str)>, _: usize) -> store::Result<Vec<HostSummary>> {
            Ok(Vec::new())
        }
        async fn gpus(&self, _: &GpuFilter, _: Option<&GpuPlace>, _: usize) -> store::Result<Vec<GpuSummary>> {
            Ok(Vec::new())
        }
        async fn series(&self, _: &SeriesFilter, _: i64, _: usize) -> store::Result<Vec<SeriesRow>> {
            Ok(Vec::new())
        }
        async fn metrics(&self) -> store::Result<Vec<String>> {
            Ok(Vec::new())
        }
        async fn latest(&self, _: &[i64], _: i64, _: i64) -> store::Result<Vec<Latest>> {
            Ok(Vec::new())
        }
        async fn chunks(&self, series: &[i64], r: &ChunkRange, max: usize) -> store::Result<Option<Vec<Chunk>>> {
            let inside = |chunk: &&Chunk| {
                let (first, last) = (chunk.times[0], *chunk.times.last().expect("it has some"));
                series.contains(&chunk.series)
                    && (r.begins_from_ms..r.begins_before_ms).contains(&first)
                    && (r.ends_from_ms..r.ends_before_ms).contains(&last)
            };
            let found: Vec<Chunk> = self.0.iter().filter(inside).cloned().collect();
            let n: usize = found.iter().map(|chunk| chunk.times.len()).sum();
            Ok((n <= max).then_some(found))
        }
        async fn ledger(&self) -> store::Result<Vec<SourceLedger>> {
            Ok(Vec::new())
        }
        async fn ready(&self) -> store::Result<()> {
            Ok(())
        }
    }

    fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
        let times = prop::collection::vec(0..3 * DAY_MS / 1000, 1..40);
        prop::collection::vec((1i64..4, times, any::<bool>()), 0..30).prop_map(|some| {
            some.into_iter()
                .enumerate()
                .map(|(id, (series, times, dense))| {
                    let day = times[0] * 1000 / DAY_MS;
                    let mut times: Vec<i64> =
                        times.iter().map(|t| day * DAY_MS + if dense { t % 50 } else { t * 1000 % DAY_MS }).collect();
                    times.sort_unstable();
                    let values = (0..times.len()).map(|n| (id * 1000 + n) as f64).collect();
                    Chunk { series, id: id as i64 + 1, times, values }
                })
                .collect()
        })
    }

    proptest! {
        /// Whatever the chunks: each (series, time) once, with the value of the latest chunk, in order, and none outside.
        #[test]
        fn slices_give_each_sample_once(chunks in chunks(), from in -10..2 * DAY_MS, length in 0..3 * DAY_MS, forwards: bool) {
            let (order, to) = (if forwards { Order::Asc } else { Order::Desc }, from + length);
            let mut want = std::collections::BTreeMap::new();
            for chunk in &chunks {
                for (t, v) in chunk.times.iter().zip(&chunk.values) {
                    if (from..=to).contains(t) && chunk.series < 3 {
                        want.insert((*t, chunk.series as u32 - 1), *v);
                    }
                }
            }
            let mut want: Vec<Sample> = want.into_iter().map(|((time_ms, series), value)| Sample { time_ms, series, value }).collect();
            if !forwards {
                want.reverse();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let have = runtime.block_on(async {
                let mut slices = Slices::new(Arc::new(Chunks(chunks)), vec![1, 2], from, to, order, 1);
                slices.most = 64;
                let mut have = Vec::new();
                while let Some((a, b, some)) = slices.next().await.unwrap() {
                    assert!(some.iter().all(|s| (a..b).contains(&s.time_ms)));
                    have.extend(some);
                }
                have
            });
            prop_assert_eq!(have, want);
        }
    }
}
