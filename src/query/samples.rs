//! Samples of several series in one order. A series' samples come as a run, in order; runs are merged while they are read, for there
//! may be millions.

use std::ops::Range;

use super::Order;
use crate::model::{IntervalMs, TimeMs};

/// A sample: its time, its series (the position in the list that was asked for), its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The sample's time; of a step, its beginning.
    pub time: TimeMs,
    /// The position of the series in the list of series.
    pub series: u32,
    /// The sample's value.
    pub value: f64,
}

/// The samples of one series in a slice of time: in order, each time once. `times` and `values` have the same length.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// Position in the list of series.
    pub(super) series: u32,
    pub(super) times: Vec<TimeMs>,
    pub(super) values: Vec<f64>,
}

impl Run {
    /// The steps of this length that the run has samples in: each with its beginning (aligned to 1970) and the positions of its samples.
    pub(super) fn steps(&self, step: IntervalMs) -> impl Iterator<Item = (TimeMs, Range<usize>)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let begin = self.times.get(at)?.floor_to(step);
            let end = begin.plus(step);
            // At least the one it was made for, also where the calendar ends.
            let n = self.times[at + 1..].iter().take_while(|time| **time < end).count() + 1;
            at += n;
            Some((begin, at - n..at))
        })
    }
}

/// Samples by (time, series), or the other way round.
#[derive(Debug)]
pub struct Samples {
    rows: Rows,
    left: usize,
}

#[derive(Debug)]
enum Rows {
    Merged(Merge),
    Listed(std::vec::IntoIter<Sample>),
}

impl Samples {
    /// Of runs in the order of their series, each series once.
    pub(super) fn merged(runs: Vec<Run>, order: Order) -> Self {
        let left = runs.iter().map(|run| run.times.len()).sum();
        let merge = Merge::new(runs);
        match order {
            Order::Asc => Self { rows: Rows::Merged(merge), left },
            Order::Desc => {
                let mut all: Vec<Sample> = Vec::with_capacity(left);
                all.extend(merge);
                all.reverse();
                Self::from(all)
            }
        }
    }

    /// Leaves out all after the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.left = self.left.min(n);
    }
}

impl From<Vec<Sample>> for Samples {
    /// As they are.
    fn from(all: Vec<Sample>) -> Self {
        Self { left: all.len(), rows: Rows::Listed(all.into_iter()) }
    }
}

impl Iterator for Samples {
    type Item = Sample;

    #[inline]
    fn next(&mut self) -> Option<Sample> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.rows {
            Rows::Merged(merge) => merge.next(),
            Rows::Listed(all) => all.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Samples {}

/// By time, and of one time by series.
#[derive(Debug)]
struct Merge {
    /// In the order of their series, each with how many of its samples were given.
    runs: Vec<(Run, usize)>,
    /// The next sample of each run: its time, which run. The first at the end.
    next: Vec<(TimeMs, usize)>,
    /// How many of `next` were before the one that was put there last. Series are sampled in turn: it stays as it is, nearly always.
    ahead: usize,
}

impl Merge {
    fn new(runs: Vec<Run>) -> Self {
        let first = |(at, run): (usize, &Run)| run.times.first().map(|time| (*time, at));
        let mut next: Vec<(TimeMs, usize)> = runs.iter().enumerate().filter_map(first).collect();
        next.sort_unstable_by(|one, other| other.cmp(one));
        Self { next, ahead: 0, runs: runs.into_iter().map(|run| (run, 0)).collect() }
    }

    #[inline]
    fn put(&mut self, then: (TimeMs, usize)) {
        let n = self.next.len();
        let mut place = n.saturating_sub(self.ahead);
        let fits = self.next[place..].first().is_none_or(|sooner| *sooner < then)
            && self.next[..place].last().is_none_or(|later| *later > then);
        if !fits {
            place = self.next.partition_point(|other| *other > then);
            self.ahead = n - place;
        }
        self.next.insert(place, then);
    }
}

impl Iterator for Merge {
    type Item = Sample;

    #[inline]
    fn next(&mut self) -> Option<Sample> {
        let (time, at) = self.next.pop()?;
        let (run, given) = self.runs.get_mut(at)?;
        let sample = Sample { time, series: run.series, value: *run.values.get(*given)? };
        *given += 1;
        if let Some(time) = run.times.get(*given) {
            let then = (*time, at);
            self.put(then);
        }
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let times = prop::collection::btree_set((-50i64..50).prop_map(TimeMs::from_millis), 0..20);
        prop::collection::vec((1u32..3, times), 0..30).prop_map(|some| {
            let mut series = 0;
            some.into_iter()
                .map(|(step, times)| {
                    series += step;
                    let values = times.iter().map(|time| (time.as_millis() * 1000 + i64::from(series)) as f64).collect();
                    Run { series, times: times.into_iter().collect(), values }
                })
                .collect()
        })
    }

    fn all(run: &Run) -> impl Iterator<Item = Sample> {
        run.times.iter().zip(&run.values).map(|(time, value)| Sample { time: *time, series: run.series, value: *value })
    }

    proptest! {
        #[test]
        fn every_sample_comes_in_its_turn(runs in runs(), n in 0usize..400, forwards: bool) {
            let mut want: Vec<Sample> = runs.iter().flat_map(all).collect();
            want.sort_by_key(|sample| (sample.time, sample.series));
            if !forwards {
                want.reverse();
            }
            want.truncate(n);
            let mut have = Samples::merged(runs, if forwards { Order::Asc } else { Order::Desc });
            have.truncate(n);
            prop_assert_eq!(have.len(), want.len());
            prop_assert_eq!(have.collect::<Vec<_>>(), want);
        }

        #[test]
        fn steps_hold_each_sample_once(times in prop::collection::btree_set(-500i64..500, 0..50), ms in 1i64..100) {
            let times: Vec<TimeMs> = times.into_iter().map(TimeMs::from_millis).collect();
            let step = IntervalMs::new(ms).unwrap();
            let run = Run { series: 0, values: vec![0.0; times.len()], times };
            let mut at = 0;
            for (begin, range) in run.steps(step) {
                prop_assert_eq!((begin.as_millis().rem_euclid(ms), range.start), (0, at));
                prop_assert!(!range.is_empty() && run.times[range.clone()].iter().all(|time| (begin..begin.plus(step)).contains(time)));
                at = range.end;
            }
            prop_assert_eq!(at, run.times.len());
        }
    }
}
