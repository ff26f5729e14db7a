//! What becomes of the samples in a step.

use std::str::FromStr;

use crate::model::TimeMs;
use crate::model::exact::ExactSum;
use crate::store::Rollup;

/// How samples become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Arithmetic mean.
    Avg,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Sum.
    Sum,
    /// How many.
    Count,
    /// The one with the latest time.
    Last,
    /// The value below which this many hundredths lie (nearest rank: always one of the samples).
    Percentile(u8),
}

/// Their names.
pub(super) const NAMES: &str = "avg, min, max, sum, count, last, p50, p95, p99";

impl FromStr for Aggregate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "sum" => Self::Sum,
            "count" => Self::Count,
            "last" => Self::Last,
            "p50" => Self::Percentile(50),
            "p95" => Self::Percentile(95),
            "p99" => Self::Percentile(99),
            _ => return Err(()),
        })
    }
}

/// What a sum is made smaller by where it is greater than a number can be: by more than there can be values, and exactly, being a power of
/// two.
const SMALLER: f64 = 1.0 / (1u128 << 64) as f64;

/// A sum of finite values that are no decimals. It cannot overflow while it is made: means of great values are numbers, whatever their sum
/// is.
#[derive(Clone, Copy, Debug)]
struct ScaledSum {
    /// The sum so far, times `scale`.
    sum: f64,
    /// What the sum's rounding lost so far (Neumaier's compensation), times `scale`.
    lost: f64,
    /// 1, or once the sum was too great [`SMALLER`].
    scale: f64,
}

impl Default for ScaledSum {
    fn default() -> Self {
        Self { sum: 0.0, lost: 0.0, scale: 1.0 }
    }
}

impl ScaledSum {
    fn add(&mut self, value: f64) {
        let mut value = value * self.scale;
        let mut sum = self.sum + value;
        if !sum.is_finite() && self.scale > SMALLER {
            self.scale = SMALLER;
            self.sum *= SMALLER;
            self.lost *= SMALLER;
            value *= SMALLER;
            sum = self.sum + value;
        }
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    /// The sum divided by a number.
    fn over(self, n: f64) -> f64 {
        let sum = self.sum + self.lost;
        // Compensation may take the sum past the greatest number.
        if sum.is_finite() { sum / n / self.scale } else { self.sum / n + self.lost / n }
    }
}

/// Samples of one step. Values are kept only where a percentile is asked for. Decimals are added exactly, so that it does not matter in
/// which pieces they come, and which of them are rolled up.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) n: u64,
    decimals: ExactSum,
    /// The sum of what is no decimal, where there is something.
    others: Option<ScaledSum>,
    min: f64,
    max: f64,
    last: Last,
    values: Vec<f64>,
}

/// The latest sample. Of several at one time it is that of the greatest place.
#[derive(Clone, Copy, Debug)]
struct Last {
    time: TimeMs,
    place: u32,
    value: f64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            n: 0,
            decimals: ExactSum::default(),
            others: None,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: Last { time: TimeMs::MIN, place: 0, value: 0.0 },
            values: Vec::new(),
        }
    }
}

impl Bucket {
    /// Adds a sample. Its place (that of its series among others) decides between samples of one time.
    #[inline]
    pub(super) fn add(&mut self, agg: Aggregate, time: TimeMs, place: u32, value: f64) {
        self.n += 1;
        if !self.decimals.add(value) {
            self.others.get_or_insert_default().add(value);
        }
        self.widen(value, value);
        self.see(Last { time, place, value });
        if matches!(agg, Aggregate::Percentile(_)) {
            self.values.push(value);
        }
    }

    /// Adds samples that are rolled up. They have no percentiles.
    #[inline]
    pub(super) fn add_rollup(&mut self, place: u32, rollup: &Rollup) {
        self.n += rollup.n;
        self.decimals.merge(rollup.sum);
        self.widen(rollup.min, rollup.max);
        self.see(Last { time: rollup.last_time, place, value: rollup.last });
    }

    /// -0 is less than 0, whichever comes first.
    #[inline]
    fn widen(&mut self, min: f64, max: f64) {
        if min.total_cmp(&self.min).is_lt() {
            self.min = min;
        }
        if max.total_cmp(&self.max).is_gt() {
            self.max = max;
        }
    }

    #[inline]
    fn see(&mut self, one: Last) {
        if (one.time, one.place) >= (self.last.time, self.last.place) {
            self.last = one;
        }
    }

    /// Values that are held.
    pub(super) fn held(&self) -> usize {
        self.values.len()
    }

    /// The time of the latest sample.
    pub(super) fn last_time(&self) -> TimeMs {
        self.last.time
    }

    /// Of at least one sample. Infinite only where the sum of the values is greater than a number can be.
    pub(super) fn value(&mut self, agg: Aggregate) -> f64 {
        match agg {
            Aggregate::Avg => match self.others {
                None => self.decimals.mean(self.n),
                Some(others) => {
                    let mean = self.with(others).over(self.n as f64);
                    // A mean that is rounded up may be greater than the greatest number.
                    if mean.is_finite() { mean } else { mean.clamp(self.min, self.max) }
                }
            },
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
            Aggregate::Sum => match self.others {
                None => self.decimals.value(),
                Some(others) => self.with(others).over(1.0),
            },
            Aggregate::Count => self.n as f64,
            Aggregate::Last => self.last.value,
            Aggregate::Percentile(p) => {
                let rank = (self.values.len() * usize::from(p)).div_ceil(100).max(1) - 1;
                *self.values.select_nth_unstable_by(rank, f64::total_cmp).1
            }
        }
    }

    /// The sum of all values, where some are no decimals.
    fn with(&self, mut others: ScaledSum) -> ScaledSum {
        others.add(self.decimals.value());
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(agg: &str, values: &[f64]) -> f64 {
        let agg = agg.parse().expect("a name");
        let mut bucket = Bucket::default();
        for (t, v) in (0..).zip(values) {
            bucket.add(agg, TimeMs::from_millis(t), 0, *v);
        }
        bucket.value(agg)
    }

    #[test]
    fn the_mean_of_great_values_is_a_number() {
        let (great, greatest) = (1.7e308, f64::MAX);
        for (values, mean) in [
            (vec![great, great], great),
            (vec![great; 1000], great),
            (vec![greatest; 7], greatest),
            (vec![-greatest; 7], -greatest),
            (vec![great, great, -great, -great], 0.0),
            (vec![great, great, -great], great / 3.0),
        ] {
            let found = of("avg", &values);
            assert!((found - mean).abs() <= mean.abs() * 1e-15, "{found:e} for {mean:e}");
            for agg in ["min", "max", "last", "p50", "p95", "p99"] {
                assert!(values.contains(&of(agg, &values)), "{agg} is one of the values");
            }
        }
        assert_eq!(of("sum", &[great, great, -great]), great, "it is a number in the end");
        assert_eq!(of("sum", &[great, great]), f64::INFINITY);
        assert_eq!(of("sum", &[-great, -great]), f64::NEG_INFINITY);
    }

    #[test]
    fn every_name_does_what_it_says() {
        let values = [3.0, 1.0, 2.0, 10.0];
        let want = [
            ("avg", 4.0),
            ("min", 1.0),
            ("max", 10.0),
            ("sum", 16.0),
            ("count", 4.0),
            ("last", 10.0),
            ("p50", 2.0),
            ("p95", 10.0),
        ];
        for (agg, value) in want {
            assert_eq!(of(agg, &values), value, "{agg}");
        }
        assert_eq!(of("sum", &[1e16, 1.0, -1e16]), 1.0, "what rounding loses is kept");
        assert_eq!(of("p99", &[7.0]), 7.0);
        assert_eq!(of("avg", &[0.1; 10]), 0.1, "scaling is not there where it is not needed");
        assert_eq!(of("sum", &[0.1, 0.2, 1e300, -1e300]), 0.3, "decimals beside others");
        assert!(NAMES.split(", ").all(|name| name.parse::<Aggregate>().is_ok()));
    }

    #[test]
    fn of_one_time_the_greatest_place_counts() {
        let time = TimeMs::from_millis(5);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut bucket = Bucket::default();
            for place in order {
                bucket.add(Aggregate::Last, time, place, f64::from(place));
            }
            assert_eq!(bucket.value(Aggregate::Last), 2.0);
        }
    }
}
