//! Samples to chunks, and what holds for every chunk that is read back. Pure.
//!
//! The runs of a series, from however many batches of a group, become one sequence in time order (rows that have the same time stay
//! in row order), cut at UTC midnights and at [`MAX_SAMPLES`].

use std::collections::HashMap;
use std::sync::Arc;

use crate::batch::{Batch, Run};
use crate::model::{GpuId, SeriesId, TimeMs};

/// A UTC day: days since 1970.
pub(in crate::store) type Day = i64;

/// Milliseconds of a day.
pub(in crate::store) const DAY_MS: i64 = 86_400_000;

/// The day of a time.
pub(in crate::store) fn day_of(time: TimeMs) -> Day {
    time.as_millis().div_euclid(DAY_MS)
}

/// The store's ids of a series and of its GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The series.
    pub series: SeriesId,
    /// Its GPU.
    pub gpu: GpuId,
}

/// The ids of a dictionary's series, by index.
pub(in crate::store) type Resolved = Arc<[Ids]>;

/// Samples in a chunk at most.
pub(in crate::store) const MAX_SAMPLES: usize = 4096;

/// A batch, the ids of its dictionaries, and which of its samples are meant (by column position; `None` = all).
pub(in crate::store) struct Part<'a> {
    pub(in crate::store) batch: &'a Batch,
    pub(in crate::store) ids: &'a [Resolved],
    pub(in crate::store) keep: Option<&'a [bool]>,
}

impl Part<'_> {
    pub(in crate::store) fn ids_of(&self, run: &Run) -> Ids {
        self.ids[run.dictionary as usize][run.index as usize]
    }
}

/// A chunk that is to be written.
#[derive(Debug, PartialEq)]
pub(in crate::store) struct NewChunk<'a> {
    pub(in crate::store) series: SeriesId,
    pub(in crate::store) times: &'a [TimeMs],
    pub(in crate::store) values: &'a [f64],
    /// The distance of the samples in ms, if it is always the same; 0 for a single one.
    pub(in crate::store) step: Option<i32>,
}

/// A stored chunk that is damaged. It is an error for whoever reads it, and never taken for one that is not there.
#[derive(Debug)]
pub(in crate::store) struct Damaged {
    /// The table (or partition) that it is in.
    pub(in crate::store) table: String,
    /// The chunk's series and id, as far as those can be read.
    pub(in crate::store) series: Option<SeriesId>,
    pub(in crate::store) id: Option<i64>,
    /// What is wrong with the chunk.
    pub(in crate::store) what: String,
}

impl Damaged {
    /// Which chunk it is, what is wrong, and what to do.
    pub(in crate::store) fn explain(&self, endpoint: &str) -> String {
        let Self { table, what, .. } = self;
        let unreadable = || "(unreadable)".to_owned();
        let series = self.series.map_or_else(unreadable, |series| series.to_string());
        let id = self.id.map_or_else(unreadable, |id| id.to_string());
        let row = self.id.map_or_else(String::new, |id| format!(" (DELETE FROM {table} WHERE id = {id})"));
        format!(
            "{endpoint}: chunk {id} of series {series} in {table} is damaged: {what}. Restore it from a backup; or delete it{row}, \
             and send its sources again with `telemetry replay`"
        )
    }
}

/// What is wrong with the samples of a stored chunk, if anything: there are `n` of them, in order of time, from the first time of
/// `span` to its last, and all in one day.
pub(in crate::store) fn check_samples(span: (TimeMs, TimeMs), n: i64, times: &[TimeMs], values: &[f64]) -> Result<(), String> {
    let (begin, end) = span;
    if values.is_empty() {
        return Err("it has no values".to_owned());
    }
    if usize::try_from(n).ok() != Some(values.len()) {
        return Err(format!("it says that it has {n} samples, and has {} values", values.len()));
    }
    if times.len() != values.len() {
        return Err(format!("it has {} times for {} values", times.len(), values.len()));
    }
    if !times.is_sorted() {
        return Err("its times are not in order".to_owned());
    }
    if times.first() != Some(&begin) || times.last() != Some(&end) {
        return Err("its times do not begin and end where it says".to_owned());
    }
    if day_of(begin) != day_of(end) {
        return Err("its times lie in several days".to_owned());
    }
    Ok(())
}

/// Times of the oldest and the newest sample of each GPU.
pub(in crate::store) type Spans = HashMap<GpuId, (TimeMs, TimeMs)>;

/// The runs of parts with their ids and part, sorted by series; the parts of a series, and the runs of a part, in their order.
pub(in crate::store) fn sorted_runs(parts: &[Part<'_>]) -> Vec<(Ids, usize, Run)> {
    let mut runs: Vec<(Ids, usize, Run)> = parts
        .iter()
        .enumerate()
        .flat_map(|(at, part)| part.batch.runs.iter().map(move |run| (part.ids_of(run), at, *run)))
        .collect();
    runs.sort_by_key(|(ids, at, _)| (ids.series, *at));
    runs
}

/// Cuts parts into chunks, one after the other, with memory for one series.
pub(in crate::store) struct Chunker<'a> {
    parts: &'a [Part<'a>],
    /// (ids, part, run), sorted by series; the parts of a series in their order.
    runs: Vec<(Ids, usize, Run)>,
    next_run: usize,
    ids: Ids,
    times: Vec<TimeMs>,
    values: Vec<f64>,
    cut: usize,
    spans: Spans,
    samples: u64,
}

impl<'a> Chunker<'a> {
    /// Every run and position must be within its batch and dictionaries: see `check`.
    pub(in crate::store) fn new(parts: &'a [Part<'a>]) -> Self {
        Self {
            parts,
            runs: sorted_runs(parts),
            next_run: 0,
            ids: Ids::default(),
            times: Vec::new(),
            values: Vec::new(),
            cut: 0,
            spans: Spans::new(),
            samples: 0,
        }
    }

    /// The next chunk, and whose it is.
    pub(in crate::store) fn next(&mut self) -> Option<(GpuId, NewChunk<'_>)> {
        while self.cut == self.times.len() {
            if self.next_run == self.runs.len() {
                return None;
            }
            self.load();
        }
        let times = &self.times[self.cut..];
        let day = day_of(times[0]);
        // Sorted by time, so the day's samples are a prefix.
        let len = times[..times.len().min(MAX_SAMPLES)].partition_point(|time| day_of(*time) == day);
        let from = self.cut;
        self.cut += len;
        let times = &self.times[from..self.cut];
        let Ids { series, gpu } = self.ids;
        Some((gpu, NewChunk { series, times, values: &self.values[from..self.cut], step: step_of(times) }))
    }

    /// How many samples were cut into chunks, and the spans of their GPUs.
    pub(in crate::store) fn finish(self) -> (u64, Spans) {
        (self.samples, self.spans)
    }

    /// Collects every run of the next series.
    fn load(&mut self) {
        self.times.clear();
        self.values.clear();
        self.cut = 0;
        let (ids, _, _) = self.runs[self.next_run];
        self.ids = ids;
        while let Some((_, at, run)) = self.runs.get(self.next_run).filter(|(other, _, _)| other.series == ids.series) {
            let part = &self.parts[*at];
            let range = run.start..run.start + run.len;
            match part.keep {
                None => {
                    self.times.extend_from_slice(&part.batch.time_ms[range.clone()]);
                    self.values.extend_from_slice(&part.batch.value[range]);
                }
                Some(keep) => {
                    for i in range.filter(|i| keep[*i]) {
                        self.times.push(part.batch.time_ms[i]);
                        self.values.push(part.batch.value[i]);
                    }
                }
            }
            self.next_run += 1;
        }
        if !self.times.is_sorted() {
            let mut order: Vec<usize> = (0..self.times.len()).collect();
            order.sort_by_key(|i| self.times[*i]);
            self.times = order.iter().map(|i| self.times[*i]).collect();
            self.values = order.iter().map(|i| self.values[*i]).collect();
        }
        if let (Some(first), Some(last)) = (self.times.first(), self.times.last()) {
            self.samples += self.times.len() as u64;
            let span = self.spans.entry(ids.gpu).or_insert((*first, *last));
            *span = (span.0.min(*first), span.1.max(*last));
        }
    }
}

/// The distance of sorted times within one day, if it is always the same.
pub(in crate::store) fn step_of(times: &[TimeMs]) -> Option<i32> {
    let step = match times {
        [first, second, ..] => second.millis_since(*first),
        _ => 0,
    };
    times.windows(2).all(|pair| pair[1].millis_since(pair[0]) == step).then(|| i32::try_from(step).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::BatchParts;
    use crate::model::{FamilyId, RowRange, SourceId};

    fn batch(runs: &[Vec<(i64, f64)>]) -> Batch {
        let mut batch = BatchParts {
            header: crate::batch::Header {
                source: SourceId::UNKNOWN,
                family: FamilyId::of_source(SourceId::UNKNOWN),
                cluster: String::new(),
                name: String::new(),
                created_ms: TimeMs::EPOCH,
                dictionaries: Vec::new(),
            },
            rows: RowRange { first: 0, end: 0 },
            runs: Vec::new(),
            row: Vec::new(),
            time_ms: Vec::new(),
            value: Vec::new(),
            rejects: Vec::new(),
        };
        for (index, run) in runs.iter().enumerate() {
            let index = u32::try_from(index).expect("few");
            batch.runs.push(Run { dictionary: 0, index, start: batch.time_ms.len(), len: run.len() });
            for (time, value) in run {
                batch.row.push(batch.row.len() as u64);
                batch.time_ms.push(TimeMs::from_millis(*time));
                batch.value.push(*value);
            }
        }
        batch.rows.end = batch.row.len() as u64;
        Batch::unchecked(batch)
    }

    /// A chunk as (series, step, samples).
    type Plain = (i64, Option<i32>, Vec<(i64, f64)>);

    fn cut(parts: &[Part<'_>]) -> Vec<Plain> {
        let (mut chunker, mut out) = (Chunker::new(parts), Vec::new());
        while let Some((_, chunk)) = chunker.next() {
            let samples = chunk.times.iter().map(|time| time.as_millis()).zip(chunk.values.iter().copied()).collect();
            out.push((chunk.series.to_store(), chunk.step, samples));
        }
        out
    }

    const DAY: i64 = DAY_MS;

    fn ids(n: i64) -> Vec<Resolved> {
        vec![(1..=n).map(|series| Ids { series: SeriesId::from_store(series), gpu: GpuId::from_store(series % 2) }).collect()]
    }

    #[test]
    fn runs_of_a_series_melt_and_midnight_cuts() {
        let (a, b) =
            (batch(&[vec![(DAY - 20, 1.0), (DAY - 10, 2.0)]]), batch(&[vec![(DAY, 3.0), (DAY + 7, 4.0), (DAY + 9, 5.0)]]));
        let ids = ids(1);
        let parts = [Part { batch: &a, ids: &ids, keep: None }, Part { batch: &b, ids: &ids, keep: None }];
        assert_eq!(
            cut(&parts),
            [(1, Some(10), vec![(DAY - 20, 1.0), (DAY - 10, 2.0)]), (1, None, vec![(DAY, 3.0), (DAY + 7, 4.0), (DAY + 9, 5.0)])]
        );
    }

    #[test]
    fn equal_times_stay_in_row_order_and_one_sample_is_regular() {
        let a = batch(&[vec![(9, 1.0), (5, 2.0), (5, 3.0), (9, 4.0)], vec![(1, 1.0)]]);
        let ids = ids(2);
        let chunks = cut(&[Part { batch: &a, ids: &ids, keep: None }]);
        assert_eq!(chunks, [(1, None, vec![(5, 2.0), (5, 3.0), (9, 1.0), (9, 4.0)]), (2, Some(0), vec![(1, 1.0)])]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_chunks_keep_their_rules(
            runs in prop::collection::vec(prop::collection::vec((0i64..4 * DAY, -3i32..3), 0..40), 1..4),
            mask in prop::collection::vec(any::<bool>(), 160),
        ) {
            let runs: Vec<Vec<(i64, f64)>> = runs.into_iter().map(|r| r.into_iter().map(|(t, v)| (t, f64::from(v))).collect()).collect();
            let (a, ids) = (batch(&runs), ids(4));
            let chunks = cut(&[Part { batch: &a, ids: &ids, keep: Some(&mask) }]);
            let mut expected: Vec<(i64, i64, u64)> = Vec::new();
            for run in &a.runs {
                for i in (run.start..run.start + run.len).filter(|i| mask[*i]) {
                    expected.push((i64::from(run.index) + 1, a.time_ms[i].as_millis(), a.value[i].to_bits()));
                }
            }
            let mut found: Vec<(i64, i64, u64)> = Vec::new();
            for (series, step, samples) in &chunks {
                prop_assert!(!samples.is_empty());
                prop_assert!(samples.windows(2).all(|w| w[0].0 <= w[1].0));
                prop_assert_eq!(samples[0].0.div_euclid(DAY_MS), samples[samples.len() - 1].0.div_euclid(DAY_MS));
                if let Some(step) = step {
                    prop_assert!(samples.windows(2).all(|w| w[1].0 - w[0].0 == i64::from(*step)));
                }
                found.extend(samples.iter().map(|(t, v)| (*series, *t, v.to_bits())));
            }
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
