//! What of a question rollups answer, and what is to be read instead.

use std::collections::{BTreeMap, HashMap};

use super::{Cover, Hours, Rollup, hour_of};
use crate::model::{GpuId, IntervalMs, SeriesId, TimeMs};
use crate::store::Ids;

/// What is rolled up of some series in a span, and what is not.
#[derive(Clone, Debug, Default)]
pub struct RolledUp {
    /// Rollups by series. A series may be there several times, with rollups of different hours; one that is not there has none.
    pub series: Vec<(SeriesId, Vec<Rollup>)>,
    /// What has no rollups: the samples are to be read.
    pub unrolled: Vec<Unrolled>,
}

/// A part of the span whose samples are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrolled {
    /// Of these series.
    pub series: Vec<Ids>,
    /// The part's beginning.
    pub from: TimeMs,
    /// The part's end, which is not in it.
    pub before: TimeMs,
}

impl RolledUp {
    /// Nothing is rolled up.
    #[must_use]
    pub fn none(series: &[Ids], (from, before): (TimeMs, TimeMs)) -> Self {
        Self { series: Vec::new(), unrolled: vec![Unrolled { series: series.to_vec(), from, before }] }
    }
}

/// The hours of a span of which rollups hold, by GPU; and of which they do not, by series.
pub struct Served {
    from: TimeMs,
    before: TimeMs,
    days: usize,
    covered: HashMap<GpuId, Vec<Hours>>,
    less: HashMap<SeriesId, Vec<Hours>>,
    less_of_gpu: HashMap<GpuId, Vec<Hours>>,
}

impl Served {
    /// Of a span: nothing yet.
    #[must_use]
    pub fn new((from, before): (TimeMs, TimeMs)) -> Self {
        let last = before.plus_millis(-1).floor_to(IntervalMs::DAY);
        let days = last.millis_since(from.floor_to(IntervalMs::DAY)) / IntervalMs::DAY.as_millis() + 1;
        let days = usize::try_from(days).unwrap_or(0);
        Self { from, before, days, covered: HashMap::new(), less: HashMap::new(), less_of_gpu: HashMap::new() }
    }

    fn day(&self, time: TimeMs) -> usize {
        let days = time.millis_since(self.from.floor_to(IntervalMs::DAY)).div_euclid(IntervalMs::DAY.as_millis());
        usize::try_from(days).unwrap_or(0).min(self.days.saturating_sub(1))
    }

    /// Adds a cover of the day that a time is in.
    pub fn cover(&mut self, gpu: GpuId, time: TimeMs, cover: Cover) {
        let (day, days) = (self.day(time), self.days);
        self.covered.entry(gpu).or_insert_with(|| vec![0; days])[day] |= cover.hours;
        for series in cover.without {
            self.less.entry(series).or_insert_with(|| vec![0; days])[day] |= cover.hours;
        }
    }

    /// The hours of each day from one time to another, both included.
    fn hours(&self, first: TimeMs, last: TimeMs) -> Vec<Hours> {
        let mut hours = vec![0; self.days];
        let mut hour = first.max(self.from).floor_to(IntervalMs::HOUR);
        while hour <= last && hour < self.before {
            hours[self.day(hour)] |= hour_of(hour);
            hour = hour.plus(IntervalMs::HOUR);
        }
        hours
    }

    /// A chunk of a series lies there: rollups do not know of it.
    pub fn chunk(&mut self, series: SeriesId, first: TimeMs, last: TimeMs) {
        let hours = self.hours(first, last);
        let less = self.less.entry(series).or_insert_with(|| vec![0; hours.len()]);
        less.iter_mut().zip(hours).for_each(|(less, more)| *less |= more);
    }

    /// Something of a GPU lies there that rollups do not know of.
    pub fn unpacked(&mut self, gpu: GpuId, first: TimeMs, last: TimeMs) {
        let hours = self.hours(first, last);
        let less = self.less_of_gpu.entry(gpu).or_insert_with(|| vec![0; hours.len()]);
        less.iter_mut().zip(hours).for_each(|(less, more)| *less |= more);
    }

    /// The hours of each day of which the rollups of a series hold.
    fn of(&self, ids: Ids) -> Vec<Hours> {
        let mut hours = self.covered.get(&ids.gpu).cloned().unwrap_or_else(|| vec![0; self.days]);
        for less in [self.less.get(&ids.series), self.less_of_gpu.get(&ids.gpu)].into_iter().flatten() {
            hours.iter_mut().zip(less).for_each(|(hours, less)| *hours &= !less);
        }
        hours
    }

    /// Of rollups of a series, those that hold and lie in the span.
    pub fn keep(&self, ids: Ids, rollups: &mut Vec<Rollup>) {
        let hours = self.of(ids);
        rollups.retain(|one| {
            one.begin >= self.from && one.begin < self.before && hours[self.day(one.begin)] & hour_of(one.begin) != 0
        });
    }

    /// What is to be read of these series.
    #[must_use]
    pub fn unrolled(&self, series: &[Ids]) -> Vec<Unrolled> {
        let mut by_hours: BTreeMap<Vec<Hours>, Vec<Ids>> = BTreeMap::new();
        for ids in series {
            by_hours.entry(self.of(*ids)).or_default().push(*ids);
        }
        let mut parts: BTreeMap<(TimeMs, TimeMs), Vec<Ids>> = BTreeMap::new();
        for (hours, series) in by_hours {
            for span in self.missing(&hours) {
                parts.entry(span).or_default().extend(&series);
            }
        }
        parts.into_iter().map(|((from, before), series)| Unrolled { series, from, before }).collect()
    }

    /// The parts of the span without these hours.
    fn missing(&self, hours: &[Hours]) -> Vec<(TimeMs, TimeMs)> {
        let mut missing: Vec<(TimeMs, TimeMs)> = Vec::new();
        let mut hour = self.from.floor_to(IntervalMs::HOUR);
        while hour < self.before {
            let next = hour.plus(IntervalMs::HOUR);
            if hours[self.day(hour)] & hour_of(hour) == 0 {
                let (from, before) = (hour.max(self.from), next.min(self.before));
                match missing.last_mut().filter(|last| last.1 == from) {
                    Some(last) => last.1 = before,
                    None => missing.push((from, before)),
                }
            }
            hour = next;
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::exact::ExactSum;

    const HOUR: i64 = IntervalMs::HOUR.as_millis();

    fn at(hours: i64) -> TimeMs {
        TimeMs::from_millis(20_000 * 24 * HOUR + hours * HOUR)
    }

    fn ids(series: i64, gpu: i64) -> Ids {
        Ids { series: SeriesId::from_store(series), gpu: GpuId::from_store(gpu) }
    }

    #[test]
    fn what_is_not_covered_or_was_touched_is_read() {
        let (from, before) = (at(2).plus_millis(300_000), at(30));
        let all = [ids(1, 1), ids(2, 1), ids(3, 2)];
        let mut served = Served::new((from, before));
        let cover = |hours: Hours, without: &[i64]| Cover {
            hours,
            without: without.iter().map(|id| SeriesId::from_store(*id)).collect(),
        };
        served.cover(GpuId::from_store(1), at(0), cover(0xff_ffff, &[]));
        served.cover(GpuId::from_store(1), at(24), cover(0xff_ffff, &[2]));
        served.chunk(SeriesId::from_store(1), at(3).plus_millis(-1), at(4));
        served.unpacked(GpuId::from_store(1), at(29), at(40));
        let unrolled = served.unrolled(&all);
        let part = |series: &[Ids], from, before| Unrolled { series: series.to_vec(), from, before };
        assert_eq!(
            unrolled,
            [
                part(&[all[0]], from, at(5)),
                part(&[all[2]], from, before),
                part(&[all[1]], at(24), before),
                part(&[all[0]], at(29), before)
            ]
        );
        let rollup = |begin| Rollup { begin, n: 1, sum: ExactSum::default(), min: 0.0, max: 0.0, last: 0.0, last_time: begin };
        let mut rollups: Vec<Rollup> =
            [at(2), at(2).plus_millis(300_000), at(5), at(23), at(28), at(29), at(30)].map(rollup).to_vec();
        served.keep(all[0], &mut rollups);
        assert_eq!(rollups.iter().map(|one| one.begin).collect::<Vec<_>>(), [at(5), at(23), at(28)]);
    }
}
