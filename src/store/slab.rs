//! Slabs: what one commit brought of the GPUs of a block in one hour, in few rows, and rows back to chunks. Pure.
//!
//! Samples that come live are few of each series, and one row for each series would cost many times what is in it. So short runs of a
//! commit go together by block. A slab has its samples ordered by series and, of each series, in order of time (equal times in the
//! order that decides). It stays within an hour, so that closed hours can be packed one by one.

use std::collections::BTreeMap;

use super::Chunk;
use super::chunk::{NewChunk, day_of};
use super::maintenance::plan::HOUR_MS;
use crate::model::{BlockId, GpuId, SeriesId, TimeMs};

/// Samples of a slab at most: a row that is over half a page when it is compressed leaves the rest of its page empty.
pub(in crate::store) const MAX_SAMPLES: usize = 512;

/// Samples that a series has in one commit (and day) from which on they are a chunk by themselves, which then costs no more.
pub(in crate::store) const LONG_RUN: usize = 32;

/// A row of `sample_slab`, field for column.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct Slab {
    pub(in crate::store) block: BlockId,
    /// A later slab (or chunk) has a greater id; the store gives one when the slab is written.
    pub(in crate::store) id: i64,
    /// The time of the oldest sample.
    pub(in crate::store) t_min: TimeMs,
    /// The time of the newest sample.
    pub(in crate::store) t_max: TimeMs,
    /// The series of the first sample.
    pub(in crate::store) series_first: SeriesId,
    /// How much greater than the first one the series of each sample is.
    pub(in crate::store) series: Vec<i32>,
    /// How many ms after `t_min` each sample is; `None`: all are at `t_min`.
    pub(in crate::store) offsets: Option<Vec<i32>>,
    /// Values.
    pub(in crate::store) values: Vec<f64>,
}

impl Slab {
    /// What is wrong with a slab that was read, if anything. `n` is how many samples it says that it has.
    pub(in crate::store) fn check(&self, n: i32) -> Result<(), String> {
        let Self { t_min, t_max, series, values, .. } = self;
        if values.is_empty() {
            return Err("it has no values".to_owned());
        }
        if usize::try_from(n).ok() != Some(values.len()) {
            return Err(format!("it says that it has {n} samples, and has {} values", values.len()));
        }
        if series.len() != values.len() {
            return Err(format!("it has {} series for {} values", series.len(), values.len()));
        }
        check_series(self.series_first, series)?;
        if day_of(*t_min) != day_of(*t_max) {
            return Err("its times lie in several days".to_owned());
        }
        let (least, most) = match &self.offsets {
            None => (0, 0),
            Some(offsets) if offsets.len() != values.len() => {
                return Err(format!("it has {} times for {} values", offsets.len(), values.len()));
            }
            Some(offsets) => {
                if !offsets.windows(2).zip(series.windows(2)).all(|(time, series)| series[0] < series[1] || time[0] <= time[1]) {
                    return Err("its times are not in order".to_owned());
                }
                offsets.iter().fold((i32::MAX, i32::MIN), |(least, most), offset| (least.min(*offset), most.max(*offset)))
            }
        };
        if least != 0 || i64::from(most) != t_max.millis_since(*t_min) {
            return Err("its times do not begin and end where it says".to_owned());
        }
        Ok(())
    }

    /// Each of its series, with where its samples are.
    fn runs(&self) -> impl Iterator<Item = (SeriesId, std::ops::Range<usize>)> {
        let mut at = 0;
        self.series.chunk_by(|a, b| a == b).map(move |run| {
            let range = at..at + run.len();
            at = range.end;
            (SeriesId::from_store(self.series_first.to_store() + i64::from(run[0])), range)
        })
    }

    /// How many samples it has of the series that are wanted.
    pub(in crate::store) fn samples(&self, wanted: impl Fn(SeriesId) -> bool) -> usize {
        self.runs().filter(|(series, _)| wanted(*series)).map(|(_, range)| range.len()).sum()
    }

    /// The samples of the series that are wanted, as chunks. It was checked.
    pub(in crate::store) fn chunks(&self, wanted: impl Fn(SeriesId) -> bool) -> impl Iterator<Item = Chunk> {
        self.runs().filter(move |(series, _)| wanted(*series)).map(|(series, range)| {
            let times = match &self.offsets {
                None => vec![self.t_min; range.len()],
                Some(offsets) => offsets[range.clone()].iter().map(|ms| self.t_min.plus_millis(i64::from(*ms))).collect(),
            };
            Chunk { series, id: self.id, times, values: self.values[range].to_vec() }
        })
    }

    /// The last sample of each of the series that are wanted. It was checked.
    pub(in crate::store) fn newest(&self, wanted: impl Fn(SeriesId) -> bool) -> impl Iterator<Item = (SeriesId, TimeMs, f64)> {
        self.runs().filter(move |(series, _)| wanted(*series)).map(|(series, range)| {
            let last = range.end - 1;
            let offset = self.offsets.as_ref().map_or(0, |offsets| offsets[last]);
            (series, self.t_min.plus_millis(i64::from(offset)), self.values[last])
        })
    }
}

/// The series of a slab, each once, from the column `series`.
pub(in crate::store) fn series(first: SeriesId, mut offsets: Vec<i32>) -> Result<Vec<SeriesId>, String> {
    check_series(first, &offsets)?;
    offsets.dedup();
    Ok(offsets.into_iter().map(|offset| SeriesId::from_store(first.to_store() + i64::from(offset))).collect())
}

fn check_series(first: SeriesId, offsets: &[i32]) -> Result<(), String> {
    match offsets {
        [0, ..] if offsets.is_sorted() => {
            let last = offsets.last().map(|last| i64::from(*last)).unwrap_or_default();
            first.to_store().checked_add(last).map(drop).ok_or_else(|| "its series overflow".to_owned())
        }
        _ => Err("its series are not in order".to_owned()),
    }
}

/// Runs of a commit that become one slab.
#[derive(Default)]
struct Draft {
    /// (series, time, value); the samples of a series are in order.
    samples: Vec<(SeriesId, TimeMs, f64)>,
}

impl Draft {
    /// Whether a series is near enough to those that are there.
    fn is_near(&self, series: SeriesId) -> bool {
        let near = |other: SeriesId| series.to_store().abs_diff(other.to_store()) <= i32::MAX as u64;
        let (first, last) = (self.samples.first(), self.samples.last());
        first.is_none_or(|(first, ..)| near(*first)) && last.is_none_or(|(last, ..)| near(*last))
    }

    fn finish(mut self, block: BlockId) -> Option<Slab> {
        if !self.samples.is_sorted_by_key(|(series, ..)| *series) {
            self.samples.sort_by_key(|(series, ..)| *series);
        }
        let series_first = self.samples.first()?.0;
        let times = || self.samples.iter().map(|(_, time, _)| *time);
        let (t_min, t_max) = (times().min()?, times().max()?);
        // Within a day, and near the first series: they fit.
        let offset = |series: SeriesId| (series.to_store() - series_first.to_store()) as i32;
        Some(Slab {
            block,
            id: 0,
            t_min,
            t_max,
            series_first,
            series: self.samples.iter().map(|(series, ..)| offset(*series)).collect(),
            offsets: (t_min < t_max).then(|| times().map(|time| time.millis_since(t_min) as i32).collect()),
            values: self.samples.iter().map(|(.., value)| *value).collect(),
        })
    }
}

fn hour_of(time: TimeMs) -> i64 {
    time.as_millis().div_euclid(HOUR_MS)
}

/// Makes slabs of the short runs of a commit, which come in the order of their series.
#[derive(Default)]
pub(in crate::store) struct SlabBuilder {
    /// By block and hour (since 1970).
    drafts: BTreeMap<(BlockId, i64), Draft>,
    full: Vec<Slab>,
}

impl SlabBuilder {
    /// Adds a run of a series of this GPU.
    pub(in crate::store) fn add(&mut self, gpu: GpuId, run: &NewChunk<'_>) {
        let block = BlockId::of(gpu);
        let mut rest = (run.times, run.values);
        while let Some(first) = rest.0.first() {
            let hour = hour_of(*first);
            let len = rest.0[..rest.0.len().min(MAX_SAMPLES)].partition_point(|time| hour_of(*time) == hour);
            let ((times, later_times), (values, later_values)) = (rest.0.split_at(len), rest.1.split_at(len));
            rest = (later_times, later_values);
            let draft = self.drafts.entry((block, hour)).or_default();
            if draft.samples.len() + times.len() > MAX_SAMPLES || !draft.is_near(run.series) {
                self.full.extend(std::mem::take(draft).finish(block));
            }
            draft.samples.extend(times.iter().zip(values).map(|(time, value)| (run.series, *time, *value)));
        }
    }

    /// The slabs, to be written in this order.
    pub(in crate::store) fn finish(self) -> Vec<Slab> {
        let mut slabs = self.full;
        slabs.extend(self.drafts.into_iter().filter_map(|((block, _), draft)| draft.finish(block)));
        slabs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::chunk::DAY_MS;

    type Run = (i64, i64, Vec<(i64, f64)>);

    /// Adds runs of (GPU, series, samples), in the order of series.
    fn build(runs: &[Run]) -> Vec<Slab> {
        let mut builder = SlabBuilder::default();
        for (gpu, series, samples) in runs {
            let times: Vec<TimeMs> = samples.iter().map(|(time, _)| TimeMs::from_millis(*time)).collect();
            let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
            let (gpu, series) = (GpuId::from_store(*gpu), SeriesId::from_store(*series));
            builder.add(gpu, &NewChunk { series, times: &times, values: &values, step: None });
        }
        builder.finish()
    }

    fn samples(slabs: &[Slab]) -> Vec<(i64, i64, u64)> {
        let chunks = slabs.iter().flat_map(|slab| slab.chunks(|_| true));
        let mut all: Vec<_> = chunks
            .flat_map(|chunk| {
                let series = chunk.series.to_store();
                let samples =
                    chunk.times.iter().map(|time| time.as_millis()).zip(chunk.values.iter().map(|value| value.to_bits()));
                samples.map(|(time, bits)| (series, time, bits)).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_back(
            runs in prop::collection::vec((0i64..40, 0i64..1 << 33, prop::collection::vec((0i64..DAY_MS, -3i32..3), 0..40), 0i64..3), 0..90),
        ) {
            let mut runs: Vec<Run> = runs.into_iter().map(|(gpu, series, mut samples, day)| {
                samples.sort_by_key(|(time, _)| *time);
                (gpu, series, samples.into_iter().map(|(time, value)| (day * DAY_MS + time, f64::from(value))).collect())
            }).collect();
            runs.sort_by_key(|(_, series, _)| *series);
            let slabs = build(&runs);
            for slab in &slabs {
                prop_assert_eq!(slab.check(slab.values.len() as i32), Ok(()));
                prop_assert!(slab.values.len() <= MAX_SAMPLES);
                prop_assert_eq!(slab.samples(|_| true), slab.values.len());
                prop_assert_eq!(hour_of(slab.t_min), hour_of(slab.t_max));
            }
            let mut expected: Vec<(i64, i64, u64)> = runs.iter()
                .flat_map(|(_, series, samples)| samples.iter().map(|(time, value)| (*series, *time, value.to_bits()))).collect();
            expected.sort_unstable();
            prop_assert_eq!(samples(&slabs), expected);
        }
    }

    #[test]
    fn equal_times_keep_their_order_and_blocks_are_apart() {
        let slabs = build(&[(1, 10, vec![(5, 1.0), (5, 2.0)]), (17, 11, vec![(5, 3.0)]), (15, 12, vec![(5, 4.0)])]);
        assert_eq!(slabs.len(), 2);
        assert_eq!(
            (slabs[0].values.as_slice(), slabs[0].series.as_slice(), &slabs[0].offsets),
            ([1.0, 2.0, 4.0].as_slice(), [0, 0, 2].as_slice(), &None)
        );
        let wanted: Vec<Chunk> = slabs[0].chunks(|series| series == SeriesId::from_store(12)).collect();
        assert_eq!(wanted.len(), 1);
        assert_eq!(
            (wanted[0].times.as_slice(), wanted[0].values.as_slice()),
            ([TimeMs::from_millis(5)].as_slice(), [4.0].as_slice())
        );
    }

    #[test]
    fn many_samples_are_several_rows() {
        let many: Vec<(i64, f64)> = (0..MAX_SAMPLES as i64 + 1).map(|ms| (ms, 0.0)).collect();
        assert_eq!(build(&[(1, 1, many.clone())]).len(), 2);
        assert_eq!(build(&[(1, 1, many[..MAX_SAMPLES - 1].to_vec()), (1, 2, many[..2].to_vec())]).len(), 2);
        assert_eq!(build(&[(1, 1, many[..2].to_vec()), (1, 1 << 40, many[..2].to_vec())]).len(), 2);
    }

    #[test]
    fn what_is_damaged_is_said() {
        let good = &build(&[(1, 1, vec![(5, 1.0), (6, 2.0)]), (2, 3, vec![(5, 3.0), (8, 3.0)])])[0];
        let said = |change: &dyn Fn(&mut Slab)| {
            let mut slab = good.clone();
            change(&mut slab);
            slab.check(4).expect_err("it is damaged")
        };
        assert_eq!(good.check(4), Ok(()));
        assert!(good.check(5).unwrap_err().contains("5 samples"));
        assert!(said(&|slab| slab.values.clear()).contains("no values"));
        assert!(said(&|slab| slab.series.push(3)).contains("series"));
        assert!(said(&|slab| slab.series[1] = 9).contains("series"));
        assert!(said(&|slab| slab.series[0] = -1).contains("series"));
        assert!(said(&|slab| slab.series_first = SeriesId::from_store(i64::MAX)).contains("overflow"));
        assert!(said(&|slab| slab.offsets = Some(vec![0, 1])).contains("times"));
        assert!(said(&|slab| slab.offsets = Some(vec![1, 0, 0, 3])).contains("not in order"));
        assert!(said(&|slab| slab.offsets = None).contains("begin and end"));
        assert!(said(&|slab| slab.t_max = TimeMs::from_millis(9)).contains("begin and end"));
        assert!(said(&|slab| slab.t_max = TimeMs::from_millis(DAY_MS)).contains("days"));
    }
}
