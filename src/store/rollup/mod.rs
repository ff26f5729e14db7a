//! Rollups: what the samples of a series come to in each 5 minutes and in each hour. Pure.
//!
//! Everything in a bucket is exact: values are decimals, kept as integers of a scale, so merged buckets say what the samples themselves
//! say, bit for bit. A series whose values (or sums) are none, or which has two samples at one time, has no rollup: its samples are read
//! instead.
//!
//! A row of `sample_rollup_5m` or `sample_rollup_1h` is a rectangle as `store::packed` knows it, of buckets in the place of times, and up
//! to 8 columns a series in the place of one. A further row, the cover, says of which hours of the day they have all that their GPU had,
//! and which series they leave out. They hold as long as no chunk reaches into these hours.

mod form;
mod served;

pub use form::Needs;
pub(in crate::store) use form::{COVER, Cover, RollupRow, Rollups, hour_of, read};
pub(in crate::store) use served::Served;
pub use served::{RolledUp, Unrolled};

use std::ops::Range;

use crate::model::exact::{self, DECIMAL_BOUND, ExactSum, MAX_SCALE};
use crate::model::{IntervalMs, MetricKind, SeriesId, TimeMs, metric};

/// How long the buckets of a rollup are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 5 minutes.
    FiveMinutes,
    /// An hour.
    Hour,
}

impl Level {
    /// Every level, finest first.
    pub const ALL: [Self; 2] = [Self::FiveMinutes, Self::Hour];

    /// The length of a bucket. Buckets are aligned to 1970.
    #[must_use]
    pub const fn length(self) -> IntervalMs {
        match self {
            Self::FiveMinutes => IntervalMs::SECOND.times(300),
            Self::Hour => IntervalMs::HOUR,
        }
    }

    /// The coarsest one of whose buckets steps of this length are made.
    #[must_use]
    pub fn for_step(step: IntervalMs) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|level| step.as_millis() % level.length().as_millis() == 0)
    }
}

/// Samples of a series in one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Rollup {
    /// Where the bucket begins.
    pub begin: TimeMs,
    /// How many samples.
    pub n: u64,
    /// Their sum.
    pub sum: ExactSum,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The value of the latest sample.
    pub last: f64,
    /// Its time.
    pub last_time: TimeMs,
}

/// What is kept of a metric's samples besides what is kept of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Gauge,
    /// How much it grew, resets corrected.
    Counter,
    /// Which bits were ever set.
    Mask,
}

impl Kind {
    /// The kind of a metric. What the catalogue does not know is a gauge.
    pub(in crate::store) fn of(name: &str) -> Self {
        match metric(name) {
            Some(known) if known.is_mask() => Self::Mask,
            Some(known) if known.kind == MetricKind::Counter => Self::Counter,
            _ => Self::Gauge,
        }
    }
}

/// Samples of a series in one bucket: integers at the scale of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Bucket {
    pub(in crate::store) begin: TimeMs,
    pub(in crate::store) n: i64,
    pub(in crate::store) min: i64,
    pub(in crate::store) max: i64,
    /// What the values are above the least one, in all.
    pub(in crate::store) excess: i64,
    pub(in crate::store) first: i64,
    pub(in crate::store) last: i64,
    pub(in crate::store) last_time: TimeMs,
    /// Of a counter: by how much it grew more than from the first to the last value. Of a mask: the bits that the greatest value has not.
    pub(in crate::store) more: i64,
}

impl Bucket {
    fn of(time: TimeMs, value: i64, level: Level) -> Self {
        let begin = time.floor_to(level.length());
        Self { begin, n: 1, min: value, max: value, excess: 0, first: value, last: value, last_time: time, more: 0 }
    }

    /// Adds what comes later. `None`: something does not fit.
    fn then(self, later: Self, kind: Kind) -> Option<Self> {
        let min = self.min.min(later.min);
        let above = |one: &Self| one.min.checked_sub(min)?.checked_mul(one.n)?.checked_add(one.excess);
        let max = self.max.max(later.max);
        let more = match kind {
            Kind::Gauge => 0,
            // After a reset it counts from zero.
            Kind::Counter => {
                self.more.checked_add(later.more)?.checked_add(if later.first < self.last { self.last } else { 0 })?
            }
            Kind::Mask => ((self.max + self.more) | (later.max + later.more)) - max,
        };
        let excess = above(&self)?.checked_add(above(&later)?)?;
        let merged = Self { n: self.n + later.n, min, max, excess, last: later.last, last_time: later.last_time, more, ..self };
        merged.fits().then_some(merged)
    }

    /// Whether everything is an integer of a decimal.
    fn fits(&self) -> bool {
        [self.max - self.min, self.excess, self.more, self.n].iter().all(|one| (0..DECIMAL_BOUND).contains(one))
    }

    /// The sum of the values, at the scale of the series.
    pub(in crate::store) fn sum(&self) -> i128 {
        i128::from(self.n) * i128::from(self.min) + i128::from(self.excess)
    }
}

/// The buckets of a series, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Rolled {
    pub(in crate::store) series: SeriesId,
    pub(in crate::store) scale: u32,
    pub(in crate::store) buckets: Vec<Bucket>,
}

/// Samples of a series, in order, as buckets of 5 minutes; `None`: they have none that are exact.
pub(in crate::store) fn roll(series: SeriesId, kind: Kind, times: &[TimeMs], values: &[f64]) -> Option<Rolled> {
    if times.windows(2).any(|pair| pair[0] == pair[1]) {
        return None;
    }
    let scale = common_scale(values)?;
    if kind == Kind::Mask && scale > 0 {
        return None;
    }
    let mut buckets: Vec<Bucket> = Vec::new();
    for (time, value) in times.iter().zip(values) {
        let next = Bucket::of(*time, exact::integer_at(*value, scale)?, Level::FiveMinutes);
        if kind == Kind::Mask && next.min < 0 {
            return None;
        }
        add(&mut buckets, next, kind)?;
    }
    Some(Rolled { series, scale, buckets })
}

impl Rolled {
    /// The same in buckets of an hour.
    pub(in crate::store) fn by_hour(&self, kind: Kind) -> Option<Self> {
        let mut buckets = Vec::new();
        for bucket in &self.buckets {
            add(&mut buckets, Bucket { begin: bucket.begin.floor_to(Level::Hour.length()), ..*bucket }, kind)?;
        }
        Some(Self { series: self.series, scale: self.scale, buckets })
    }

    /// The samples of all buckets.
    pub(in crate::store) fn samples(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.n.unsigned_abs()).sum()
    }
}

fn add(buckets: &mut Vec<Bucket>, next: Bucket, kind: Kind) -> Option<()> {
    match buckets.last_mut().filter(|last| last.begin == next.begin) {
        Some(last) => *last = last.then(next, kind)?,
        None => buckets.push(next),
    }
    Some(())
}

/// The least scale at which all values are integers.
fn common_scale(values: &[f64]) -> Option<u32> {
    let mut scale = 0;
    for value in values {
        if exact::integer_at(*value, scale).is_none() {
            scale = scale.max(exact::decimal(*value)?.1);
        }
    }
    (scale <= MAX_SCALE).then_some(scale)
}

/// Hours of a UTC day, a bit each, from the lowest on.
pub(in crate::store) type Hours = u32;

/// The hours (of a day) in a span that begins and ends with an hour.
pub(in crate::store) fn hours_in(day_begins: TimeMs, span: &Range<TimeMs>) -> Hours {
    let hour = |time: TimeMs| time.millis_since(day_begins).div_euclid(Level::Hour.length().as_millis()).clamp(0, 24) as u32;
    let below = |hour: u32| (1_u32 << hour) - 1;
    below(hour(span.end)) & !below(hour(span.start))
}

/// The hours whose rollups become one with those of some hours: the block of 2, 4, 8 or 16 hours that these complete. So an hour's rollups
/// are written anew a few times a day, and lie in a few rows.
pub(in crate::store) fn block_of(hours: Hours) -> Hours {
    let Some(last) = hours.checked_ilog2() else { return 0 };
    let length = 1 << (last + 1).trailing_zeros();
    let below = |hour: u32| (1_u32 << hour) - 1;
    hours | (below(last + 1) & !below(last + 1 - length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn at(ms: i64) -> TimeMs {
        TimeMs::from_millis(20_000 * 86_400_000 + ms)
    }

    /// Samples of a series as exporters write them, over some hours.
    pub(super) fn samples() -> impl Strategy<Value = (Vec<TimeMs>, Vec<f64>)> {
        let times = prop::collection::btree_set(0i64..4 * 3_600_000, 0..300);
        (times, 0u32..4, prop::collection::vec(0i64..100_000, 300), any::<bool>()).prop_map(|(times, scale, values, constant)| {
            let times: Vec<TimeMs> = times.into_iter().map(at).collect();
            let value = |v: &i64| exact::value_of(if constant { 4200 } else { *v }, scale);
            let values = values.iter().take(times.len()).map(value).collect();
            (times, values)
        })
    }

    /// A bucket's beginning, count, least, greatest, sum, first, last, and growth or bits.
    type Told = (TimeMs, i64, f64, f64, f64, f64, f64, f64);

    fn plain(kind: Kind, times: &[TimeMs], values: &[f64], level: Level) -> Vec<Told> {
        let mut all = Vec::new();
        let mut from = 0;
        while from < times.len() {
            let begin = times[from].floor_to(level.length());
            let n = times[from..].iter().take_while(|time| **time < begin.plus(level.length())).count();
            let some = &values[from..from + n];
            let mut sum = ExactSum::default();
            some.iter().for_each(|value| assert!(sum.add(*value)));
            let mut more = ExactSum::default();
            match kind {
                Kind::Gauge => {}
                Kind::Counter => {
                    for pair in some.windows(2) {
                        more.add(pair[1]);
                        if pair[1] >= pair[0] {
                            more.add(0.0 - pair[0]);
                        }
                    }
                }
                Kind::Mask => assert!(more.add(some.iter().fold(0, |bits, value| bits | *value as i64) as f64)),
            }
            let (min, max) = (some.iter().copied().fold(f64::MAX, f64::min), some.iter().copied().fold(f64::MIN, f64::max));
            all.push((begin, n as i64, min, max, sum.value(), some[0], some[n - 1], more.value()));
            from += n;
        }
        all
    }

    fn told(kind: Kind, rolled: &Rolled) -> Vec<Told> {
        let value = |integer: i64| exact::value_of(integer, rolled.scale);
        let one = |b: &Bucket| {
            let more = match kind {
                Kind::Gauge => 0.0,
                Kind::Counter => value(b.last - b.first + b.more),
                Kind::Mask => value(b.max + b.more),
            };
            let sum = ExactSum::new(b.sum(), rolled.scale).value();
            (b.begin, b.n, value(b.min), value(b.max), sum, value(b.first), value(b.last), more)
        };
        rolled.buckets.iter().map(one).collect()
    }

    proptest! {
        #[test]
        fn buckets_say_what_the_samples_say((times, values) in samples(), kind in 0usize..3) {
            let kind = [Kind::Gauge, Kind::Counter, Kind::Mask][kind];
            let values: Vec<f64> = if kind == Kind::Mask { values.iter().map(|v| v.floor()).collect() } else { values };
            let rolled = roll(SeriesId::from_store(1), kind, &times, &values).unwrap();
            prop_assert_eq!(told(kind, &rolled), plain(kind, &times, &values, Level::FiveMinutes));
            prop_assert_eq!(told(kind, &rolled.by_hour(kind).unwrap()), plain(kind, &times, &values, Level::Hour));
        }
    }

    #[test]
    fn what_is_not_exact_is_not_rolled_up() {
        let times: Vec<TimeMs> = (0..3).map(|i| at(i * 1000)).collect();
        let roll = |kind, values: [f64; 3]| roll(SeriesId::from_store(1), kind, &times, &values);
        assert!(roll(Kind::Gauge, [1.0, 2.5, 1e13]).is_some());
        for values in [[1.0, 0.1 + 0.2, 2.0], [-0.0, 1.0, 2.0], [1e15, 1.0, 2.0], [1e-12, 1e14, 0.0], [-9e14, 9e14, 0.0]] {
            assert!(roll(Kind::Gauge, values).is_none(), "{values:?}");
        }
        assert!(roll(Kind::Mask, [1.0, 2.5, 4.0]).is_none() && roll(Kind::Mask, [1.0, -2.0, 4.0]).is_none());
        assert!(super::roll(SeriesId::from_store(1), Kind::Gauge, &[at(1), at(1)], &[1.0, 2.0]).is_none(), "a conflict");
    }

    #[test]
    fn hours_are_bits_and_join_in_blocks() {
        let hour = |n: i64| at(n * 3_600_000);
        assert_eq!(hours_in(at(0), &(hour(0)..hour(24))), 0xff_ffff);
        assert_eq!(hours_in(at(0), &(hour(3)..hour(5))), 0b11000);
        assert_eq!(hours_in(at(0), &(hour(23)..hour(24))), 1 << 23);
        let blocks: Vec<Hours> = (0..8).map(|hour| block_of(1 << hour)).collect();
        assert_eq!(blocks, [1, 0b11, 0b100, 0b1111, 1 << 4, 0b11 << 4, 1 << 6, 0xff]);
        assert_eq!((block_of(0b110), block_of(0xff_ffff), block_of(0)), (0b110, 0xff_ffff, 0));
    }

    #[test]
    fn steps_are_made_of_the_coarsest_buckets() {
        let level = |seconds: u32| Level::for_step(IntervalMs::SECOND.times(seconds));
        assert_eq!(
            [60, 300, 900, 3600, 5400, 7200, 86_400].map(level),
            [
                None,
                Some(Level::FiveMinutes),
                Some(Level::FiveMinutes),
                Some(Level::Hour),
                Some(Level::FiveMinutes),
                Some(Level::Hour),
                Some(Level::Hour)
            ]
        );
    }
}
