//! How a column of values is written in the fewest bits.

use super::bits::{signed_width_of, width_of};
use super::shift_of;

/// The powers of ten that are exact doubles.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21,
    1e22,
];

/// The width of codes that are bit patterns.
pub(super) const PATTERN: u32 = 64;

/// Integers below are exact doubles.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Stands for a value that is no integer at the scale.
const ODD: i64 = i64::MIN;

/// What says how the codes of a column become values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) width: u32,
    pub(super) scale: u32,
    pub(super) base: i64,
    pub(super) slope: i64,
    /// How many exact patterns there are.
    pub(super) exact: usize,
    /// How many ms its samples are after the times of the row.
    pub(super) delay: i64,
}

/// A way to write the values of a column.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) head: Head,
    /// The exact patterns, sorted.
    pub(super) exact: Vec<u64>,
    /// Bits of codes and patterns.
    pub(super) cost: usize,
}

impl Plan {
    fn new(n: usize, head: Head, exact: Vec<u64>) -> Self {
        let cost = n * head.width as usize + 64 * exact.len();
        Self { head: Head { exact: exact.len(), ..head }, exact, cost }
    }

    fn patterns(n: usize) -> Self {
        Self::new(n, Head { width: PATTERN, scale: 0, base: 0, slope: 0, exact: 0, delay: 0 }, Vec::new())
    }

    /// The code of the value at a place.
    pub(super) fn code(&self, i: usize, value: f64, shift: u32) -> u64 {
        let Head { width, scale, base, slope, exact, .. } = self.head;
        if width == PATTERN {
            return value.to_bits();
        }
        let bound = (1 << width) - exact as u64;
        if let Some(integer) = integer_at(value, scale) {
            let code = (integer - base - ((slope * i as i64) >> shift)) as u64;
            if code < bound {
                return code;
            }
        }
        // A plan is made with every value that has no code of its own.
        bound + self.exact.partition_point(|pattern| *pattern < value.to_bits()) as u64
    }
}

/// The best ways to write some values: without a slope; and with one, where that is better.
pub(super) fn plans(values: &[f64]) -> (Plan, Option<Plan>) {
    let mut flat = Plan::patterns(values.len());
    let mut line: Option<Plan> = None;
    for scale in scales(values) {
        let integers = Integers::new(values, scale);
        let found = integers.flat();
        if found.cost < flat.cost {
            flat = found;
        }
        if let Some(found) = integers.line()
            && line.as_ref().is_none_or(|best| found.cost < best.cost)
        {
            line = Some(found);
        }
    }
    line = line.filter(|line| line.cost < flat.cost);
    (flat, line)
}

/// The scales that are worth a look: the one at which most are integers, so that few digits that are longer do not widen all; and the
/// one at which all are that can be.
fn scales(values: &[f64]) -> Vec<u32> {
    let mut counts = [0_usize; POWERS.len()];
    let mut last = (0.0, Some(0));
    for value in values {
        if value.to_bits() != f64::to_bits(last.0) {
            last = (*value, least_scale(*value));
        }
        if let Some(scale) = last.1 {
            counts[scale] += 1;
        }
    }
    let all: usize = counts.iter().sum();
    let most = all - all / 16;
    let mut found = Vec::new();
    let mut covered = 0;
    for (scale, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let before = covered;
        covered += count;
        if (before < most && covered >= most) || covered == all {
            found.push(scale as u32);
        }
    }
    if found.is_empty() {
        // A dictionary of exact patterns may still do.
        found.push(0);
    }
    found
}

fn least_scale(value: f64) -> Option<usize> {
    (0..POWERS.len()).find(|scale| integer_at(value, *scale as u32).is_some())
}

/// The integer that a value is at a scale, if division gives the value again, bit for bit.
#[inline]
fn integer_at(value: f64, scale: u32) -> Option<i64> {
    let power = POWERS[scale as usize];
    let product = value * power;
    // Adding a half would be rounded where doubles have no halves.
    let integer = if product.abs() < EXACT / 2.0 { (product + 0.5_f64.copysign(product)) as i64 } else { product as i64 };
    let exact = product.abs() < EXACT && (integer as f64 / power).to_bits() == value.to_bits();
    exact.then_some(integer)
}

/// The integers of a column at a scale.
struct Integers {
    scale: u32,
    /// [`ODD`] where a value is none.
    integers: Vec<i64>,
    /// The patterns of values that are none, sorted.
    odd: Vec<u64>,
    /// The values of integers.
    values: Vec<f64>,
}

impl Integers {
    fn new(values: &[f64], scale: u32) -> Self {
        let mut odd = Vec::new();
        let mut integers = Vec::with_capacity(values.len());
        for value in values {
            integers.push(integer_at(*value, scale).unwrap_or_else(|| {
                odd.push(value.to_bits());
                ODD
            }));
        }
        odd.sort_unstable();
        odd.dedup();
        Self { scale, integers, odd, values: values.to_vec() }
    }

    fn plan(&self, width: u32, base: i64, slope: i64, exact: Vec<u64>) -> Plan {
        Plan::new(self.integers.len(), Head { width, scale: self.scale, base, slope, exact: 0, delay: 0 }, exact)
    }

    /// No slope: codes for the integers within a window, and exact patterns for those outside it, where that takes fewer bits.
    fn flat(&self) -> Plan {
        let n = self.integers.len();
        let mut distinct: Vec<i64> = self.integers.iter().copied().filter(|integer| *integer != ODD).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let (Some(least), Some(most)) = (distinct.first(), distinct.last()) else {
            return self.plan(width_of(self.odd.len().saturating_sub(1) as u64), 0, 0, self.odd.clone());
        };
        let full = width_of((most - least) as u64 + self.odd.len() as u64);
        let mut best = (n * full as usize + 64 * self.odd.len(), full, 0..distinct.len());
        let all = distinct.len() + self.odd.len();
        // Each distinct value needs a code.
        for width in width_of(all as u64 - 1)..full {
            let mut first = 0;
            for last in 0..distinct.len() {
                // Codes of the window, and of all values outside it.
                let codes = |first: usize| (distinct[last] - distinct[first]) as u64 + (all - (last - first)) as u64;
                while codes(first) > 1 << width {
                    first += 1;
                }
                let cost = n * width as usize + 64 * (all - (last + 1 - first));
                if cost < best.0 {
                    best = (cost, width, first..last + 1);
                }
            }
        }
        let (_, width, window) = best;
        let (base, end) = (distinct[window.start], distinct[window.end - 1]);
        let mut exact = self.odd.clone();
        if window.len() < distinct.len() {
            let outside = |integer: &i64| *integer != ODD && !(base..=end).contains(integer);
            exact.extend(self.integers.iter().zip(&self.values).filter(|(i, _)| outside(i)).map(|(_, value)| value.to_bits()));
            exact.sort_unstable();
            exact.dedup();
        }
        self.plan(width, base, 0, exact)
    }

    /// A line from the first to the last integer, and codes for what lies above it once it is moved down far enough.
    fn line(&self) -> Option<Plan> {
        let shift = shift_of(self.integers.len());
        let [first, .., last] = self.integers.as_slice() else { return None };
        if *first == ODD || *last == ODD {
            return None;
        }
        let rise = i64::checked_mul(last - first, 1 << shift).filter(|rise| rise.unsigned_abs() < 1 << 60)?;
        let slope = rise / (self.integers.len() as i64 - 1);
        if slope == 0 {
            return None;
        }
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for (i, integer) in self.integers.iter().enumerate().filter(|(_, integer)| **integer != ODD) {
            let rest = integer - ((slope * i as i64) >> shift);
            (least, most) = (least.min(rest), most.max(rest));
        }
        Some(self.plan(width_of((most - least) as u64 + self.odd.len() as u64), least, slope, self.odd.clone()))
    }
}

/// The widths of the fields of heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) series: u32,
    pub(super) base: u32,
    pub(super) slope: u32,
    pub(super) exact: u32,
    pub(super) delay: u32,
}

impl Fields {
    /// Wide enough for a head too.
    pub(super) fn widen(&mut self, series: u64, head: &Head) {
        self.series = self.series.max(width_of(series));
        self.base = self.base.max(signed_width_of(head.base));
        self.slope = self.slope.max(signed_width_of(head.slope));
        self.exact = self.exact.max(width_of(head.exact as u64));
        self.delay = self.delay.max(width_of(head.delay as u64));
    }

    /// Bits of a head.
    pub(super) fn head(&self) -> usize {
        12 + (self.series + self.base + self.slope + self.exact + self.delay) as usize
    }
}
