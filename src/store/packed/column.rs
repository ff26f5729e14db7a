//! A column: the values of one series in a packed row.

use std::fmt;
use std::sync::Arc;

use super::bits::{Writer, code_at};
use super::plan::{Head, PATTERN, POWERS, Plan, plans};
use super::shift_of;

/// Values of one series, as they are written in a row.
#[derive(Clone)]
pub struct Column {
    pub(super) head: Head,
    /// How many values.
    pub(super) n: usize,
    /// Where its codes begin.
    pub(super) at: usize,
    pub(super) bytes: Arc<[u8]>,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Column({} values, {:?})", self.n, self.head)
    }
}

/// How many codes are unpacked at once.
const BLOCK: usize = 256;

impl Column {
    /// The values in as few bits as it knows to.
    #[must_use]
    pub fn encode(values: &[f64]) -> Self {
        let (flat, line) = plans(values);
        Self::write(&line.unwrap_or(flat), values, 0)
    }

    /// The values as a plan that was made for them says, some ms after the times of the row.
    pub(super) fn write(plan: &Plan, values: &[f64], delay: i64) -> Self {
        let (mut out, shift) = (Writer::default(), shift_of(values.len()));
        for (i, value) in values.iter().enumerate() {
            out.put(plan.code(i, *value, shift), plan.head.width);
        }
        for pattern in &plan.exact {
            out.put(*pattern, PATTERN);
        }
        Self { head: Head { delay, ..plan.head }, n: values.len(), at: 0, bytes: out.finish().bytes.into() }
    }

    /// How many digits after the point its values have at most; `None` where not all are decimals.
    pub(in crate::store) fn scale(&self) -> Option<u32> {
        (self.head.width < PATTERN && self.head.exact == 0).then_some(self.head.scale)
    }

    /// How many bits it has.
    pub(in crate::store) fn bits(&self) -> usize {
        self.n * self.head.width as usize + 64 * self.head.exact
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// How many ms its samples are after the times of the row.
    #[must_use]
    pub fn delay(&self) -> i64 {
        self.head.delay
    }

    /// Whether it has no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The values.
    ///
    /// # Errors
    /// One of them is not finite: what was written is damaged.
    pub fn decode(&self) -> Result<Vec<f64>, String> {
        let Head { width, scale, base, slope, exact, .. } = self.head;
        let (power, shift) = (POWERS[scale as usize], shift_of(self.n));
        let patterns: Vec<f64> = (0..exact)
            .map(|i| f64::from_bits(code_at(&self.bytes, self.at + self.n * width as usize + 64 * i, PATTERN)))
            .collect();
        let mut values = Vec::with_capacity(self.n);
        let mut codes = [0; BLOCK];
        for begin in (0..self.n).step_by(BLOCK) {
            let codes = &mut codes[..BLOCK.min(self.n - begin)];
            self.unpack(begin, codes);
            if width == PATTERN {
                values.extend(codes.iter().map(|code| f64::from_bits(*code)));
            } else if exact == 0 && slope == 0 {
                values.extend(codes.iter().map(|code| base.wrapping_add(*code as i64) as f64 / power));
            } else {
                let bound = (1 << width) - exact as u64;
                values.extend(codes.iter().enumerate().map(|(i, code)| match code.checked_sub(bound) {
                    Some(pattern) => patterns[pattern as usize],
                    None => base.wrapping_add((slope * (begin + i) as i64) >> shift).wrapping_add(*code as i64) as f64 / power,
                }));
            }
        }
        if (width == PATTERN && !values.iter().all(|value| value.is_finite())) || !patterns.iter().all(|value| value.is_finite())
        {
            return Err("it has a value that is not finite".to_owned());
        }
        Ok(values)
    }

    /// The last value.
    ///
    /// # Errors
    /// It has none, or not a finite one: what was written is damaged.
    pub fn last(&self) -> Result<f64, String> {
        let width = self.head.width;
        let i = self.n.checked_sub(1).ok_or("it has no values")?;
        let code = code_at(&self.bytes, self.at + i * width as usize, width);
        let value = match last_value(&self.head, self.n, code) {
            Ok(value) => value,
            Err(nth) => f64::from_bits(code_at(&self.bytes, self.at + self.n * width as usize + 64 * nth, PATTERN)),
        };
        if value.is_finite() { Ok(value) } else { Err("it has a value that is not finite".to_owned()) }
    }

    /// The codes from one on.
    fn unpack(&self, begin: usize, codes: &mut [u64]) {
        let width = self.head.width;
        let mut at = self.at + begin * width as usize;
        for code in codes {
            *code = code_at(&self.bytes, at, width);
            at += width as usize;
        }
    }
}

/// The last of `n` values by its code; `Err`: which of the exact patterns it is.
pub(super) fn last_value(head: &Head, n: usize, code: u64) -> Result<f64, usize> {
    if head.width == PATTERN {
        return Ok(f64::from_bits(code));
    }
    match code.checked_sub((1 << head.width) - head.exact as u64) {
        Some(nth) => Err(nth as usize),
        None => {
            let risen = head.base.wrapping_add((head.slope * (n as i64 - 1)) >> shift_of(n));
            Ok(risen.wrapping_add(code as i64) as f64 / POWERS[head.scale as usize])
        }
    }
}

#[cfg(test)]
pub(in crate::store::packed) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Columns as they come: decimals, counters, few values among others, and any doubles.
    pub(in crate::store::packed) fn values() -> impl Strategy<Value = Vec<f64>> {
        let decimal = (0u32..7, 0u32..62, any::<i64>(), prop::collection::vec(any::<i64>(), 0..300)).prop_map(
            |(scale, right, base, all)| {
                all.iter().map(|v| ((base >> 12).wrapping_add(v >> right)) as f64 / POWERS[scale as usize]).collect()
            },
        );
        let counter = (0u32..4, -1_000_000i64..1_000_000, prop::collection::vec(0i64..100_000, 0..300)).prop_map(
            |(scale, slope, noise)| {
                noise.iter().enumerate().map(|(i, v)| (slope * i as i64 + v) as f64 / POWERS[scale as usize]).collect()
            },
        );
        let finite = || any::<f64>().prop_filter("finite", |v| v.is_finite());
        let special = || {
            prop::sample::select(vec![
                0.0,
                -0.0,
                f64::MAX,
                f64::MIN,
                f64::MIN_POSITIVE,
                5e-324,
                -5e-324,
                0.1 + 0.2,
                1e22,
                1e23,
                EDGE,
                -EDGE,
            ])
        };
        let any_doubles = prop::collection::vec(prop_oneof![finite(), special()], 0..200);
        let few = (prop::collection::vec(finite(), 1..6), prop::collection::vec(any::<prop::sample::Index>(), 0..300))
            .prop_map(|(few, all)| all.iter().map(|i| *i.get(&few)).collect());
        let outliers = prop::collection::vec(
            prop_oneof![20 => (0i32..50).prop_map(|v| f64::from(v) / 10.0), 1 => finite(), 1 => special()],
            0..300,
        );
        prop_oneof![decimal, counter, any_doubles, few, outliers]
    }

    const EDGE: f64 = 9_007_199_254_740_991.0;

    fn same(values: &[f64]) {
        let decoded = Column::encode(values).decode().expect("it is whole");
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&decoded), bits(values), "{:?}", Column::encode(values));
        let last = Column::encode(values).last().ok().map(f64::to_bits);
        assert_eq!(last, values.last().map(|v| v.to_bits()), "{:?}", Column::encode(values));
    }

    proptest! {
        #[test]
        fn values_come_back(values in values()) {
            same(&values);
            prop_assert!(Column::encode(&values).bits() <= 64 * values.len());
        }
    }

    #[test]
    fn special_values_come_back() {
        same(&[]);
        same(&[-0.0]);
        same(&[0.0, -0.0, 5e-324, f64::MAX, f64::MIN, EDGE, -EDGE, EDGE + 1.0, 0.3, 0.1 + 0.2]);
        same(&vec![0.1 + 0.2; 100]);
        same(&(0..8192).map(|i| f64::from(i) * 1e9).collect::<Vec<_>>());
    }

    fn bits_of(values: impl IntoIterator<Item = f64>) -> usize {
        Column::encode(&values.into_iter().collect::<Vec<_>>()).bits()
    }

    #[test]
    fn it_takes_few_bits() {
        assert_eq!(bits_of((0..1000).map(|_| 70.25)), 0, "a constant");
        assert_eq!(bits_of((0..1000).map(|i| 1980.0 + f64::from(i) * 15.0)), 0, "a line");
        assert_eq!(bits_of((0..1024).map(|i| 70.0 + f64::from(i % 8) / 10.0)), 3 * 1024, "a frame of reference");
        assert_eq!(bits_of((0..1000).map(|i| [1e9, 0.5, 7e20, 3.0][i % 4])), 2 * 1000 + 3 * 64, "a dictionary");
        assert_eq!(bits_of((0..1000).map(|i| if i == 500 { 1e15 } else { f64::from(i % 7) })), 3 * 1000 + 64, "an outlier");
        assert_eq!(
            bits_of((0..1000).map(|i| if i == 500 { 0.123_456_789 } else { f64::from(i % 7) })),
            3 * 1000 + 64,
            "a long decimal"
        );
        assert_eq!(bits_of((0..1000).map(|i| 1.0 / (3.0 + f64::from(i)))), 64 * 1000, "patterns");
    }
}
