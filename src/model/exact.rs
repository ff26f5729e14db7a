//! Sums that do not depend on the order of what is added.
//!
//! What exporters print are decimals. One of at most 15 digits is told by its double: no two of them are nearest to the same one. So a
//! double can be taken for the decimal that it stands for, and decimals are added as integers of a power of ten, without rounding. However
//! samples were cut and merged before, their sum is the same, bit for bit.

use std::cmp::Ordering;

/// The powers of ten that decimals are told by.
const POWERS: [f64; 13] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];
const INTEGER_POWERS: [i64; 13] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    100_000_000_000,
    1_000_000_000_000,
];

/// The most digits after the point that a decimal may have.
pub const MAX_SCALE: u32 = 12;

/// Decimals are integers below this, divided by a power of ten: 15 digits.
pub const DECIMAL_BOUND: i64 = 1_000_000_000_000_000;

/// Integers up to this are exact doubles.
const EXACT: u64 = 1 << 53;

/// The integer that a value is at a scale (the number of digits after the point), if it is a decimal that has no more digits.
#[inline]
#[must_use]
pub fn integer_at(value: f64, scale: u32) -> Option<i64> {
    let power = *POWERS.get(scale as usize)?;
    let product = value * power;
    if product.abs() >= DECIMAL_BOUND as f64 {
        return None;
    }
    let integer = (product + 0.5_f64.copysign(product)) as i64;
    let is_same = (integer as f64 / power).to_bits() == value.to_bits();
    (is_same && integer.abs() < DECIMAL_BOUND).then_some(integer)
}

/// The least scale at which a value is an integer, with that integer; `None` where it is no decimal.
#[must_use]
pub fn decimal(value: f64) -> Option<(i64, u32)> {
    (0..=MAX_SCALE).find_map(|scale| integer_at(value, scale).map(|integer| (integer, scale)))
}

/// The double that is nearest to an integer divided by a power of ten. The integer is one of a decimal.
#[inline]
#[must_use]
pub fn value_of(integer: i64, scale: u32) -> f64 {
    integer as f64 / POWERS[scale as usize]
}

/// Ten to the power of a scale.
#[must_use]
pub fn power_of(scale: u32) -> i64 {
    INTEGER_POWERS[scale as usize]
}

/// A sum of decimals.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactSum {
    integer: i128,
    scale: u32,
}

impl ExactSum {
    /// The sum that is an integer divided by a power of ten.
    #[must_use]
    pub const fn new(integer: i128, scale: u32) -> Self {
        Self { integer, scale }
    }

    /// Adds a value. `false`: it is no decimal, and was not added.
    #[inline]
    pub fn add(&mut self, value: f64) -> bool {
        if let Some(integer) = integer_at(value, self.scale) {
            self.integer += i128::from(integer);
            return true;
        }
        let Some((integer, scale)) = decimal(value) else { return false };
        self.merge(Self::new(i128::from(integer), scale));
        true
    }

    /// Adds another sum.
    #[inline]
    pub fn merge(&mut self, other: Self) {
        match self.scale.cmp(&other.scale) {
            Ordering::Equal => self.integer += other.integer,
            // A sum of as many values of 27 digits as there can be fits.
            Ordering::Less => {
                self.integer = self.integer * i128::from(power_of(other.scale - self.scale)) + other.integer;
                self.scale = other.scale;
            }
            Ordering::Greater => self.integer += other.integer * i128::from(power_of(self.scale - other.scale)),
        }
    }

    /// The same number at its least scale: what is made of it does not depend on what was added first.
    fn reduced(self) -> Self {
        let Self { mut integer, mut scale } = self;
        if let Ok(mut small) = i64::try_from(integer) {
            while scale > 0 && small % 10 == 0 {
                small /= 10;
                scale -= 1;
            }
            return Self { integer: i128::from(small), scale };
        }
        while scale > 0 && integer % 10 == 0 {
            integer /= 10;
            scale -= 1;
        }
        Self { integer, scale }
    }

    /// The nearest double.
    #[must_use]
    pub fn value(self) -> f64 {
        let Self { integer, scale } = self.reduced();
        if integer.unsigned_abs() <= u128::from(EXACT) {
            return integer as f64 / POWERS[scale as usize];
        }
        // Of a text it is found exactly, whatever its length.
        format!("{integer}e-{scale}").parse().unwrap_or(f64::NAN)
    }

    /// The sum divided by how many values it is of.
    #[must_use]
    pub fn mean(self, n: u64) -> f64 {
        let Self { integer, scale } = self.reduced();
        let divisor = u128::from(n) * power_of(scale).unsigned_abs() as u128;
        if integer.unsigned_abs() <= u128::from(EXACT) && divisor <= u128::from(EXACT) {
            // Both are exact, so this is the nearest double.
            return integer as f64 / divisor as f64;
        }
        let magnitude = nearest(integer.unsigned_abs(), divisor.max(1));
        if integer < 0 { -magnitude } else { magnitude }
    }
}

/// The double that is nearest to a quotient: its first 55 binary digits and whether any follow, rounded once. The divisor is below 2^104.
fn nearest(dividend: u128, divisor: u128) -> f64 {
    let (mut quotient, mut rest, mut digits) = (dividend / divisor, dividend % divisor, 0);
    if dividend == 0 {
        return 0.0;
    }
    while quotient < 1 << 54 {
        rest <<= 1;
        quotient = quotient << 1 | u128::from(rest >= divisor);
        rest -= if rest >= divisor { divisor } else { 0 };
        digits += 1;
    }
    (quotient | u128::from(rest > 0)) as f64 * 0.5_f64.powi(digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimals() -> impl Strategy<Value = Vec<f64>> {
        let one = (-DECIMAL_BOUND + 1..DECIMAL_BOUND, 0u32..=MAX_SCALE, 0u32..50)
            .prop_map(|(integer, scale, right)| value_of(integer >> right, scale));
        prop::collection::vec(one, 0..60)
    }

    fn of(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for value in values {
            assert!(sum.add(*value), "{value:e} is a decimal");
        }
        sum
    }

    proptest! {
        #[test]
        fn a_decimal_is_told_by_its_double(integer in -DECIMAL_BOUND + 1..DECIMAL_BOUND, right in 0u32..50, scale in 0u32..=MAX_SCALE) {
            let integer = integer >> right;
            let value = value_of(integer, scale);
            prop_assert_eq!(integer_at(value, scale), Some(integer));
            let (least, at) = decimal(value).unwrap();
            prop_assert_eq!(i128::from(least) * i128::from(power_of(scale - at)), i128::from(integer));
        }

        #[test]
        fn any_order_and_any_cut_give_the_same(values in decimals().prop_shuffle(), cut in any::<prop::sample::Index>()) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let (left, right) = values.split_at(cut.index(values.len() + 1));
            let (mut one, other, whole) = (of(left), of(right), of(&sorted));
            one.merge(other);
            let n = values.len().max(1) as u64;
            prop_assert_eq!(one.value().to_bits(), whole.value().to_bits());
            prop_assert_eq!(one.mean(n).to_bits(), whole.mean(n).to_bits());
        }

        #[test]
        fn a_mean_of_equal_values_is_the_value(integer in -DECIMAL_BOUND + 1..DECIMAL_BOUND, right in 0u32..50, scale in 0u32..=6, n in 1u64..4000) {
            let value = value_of(integer >> right, scale);
            prop_assert_eq!(of(&vec![value; n as usize]).mean(n), value);
        }
    }

    #[test]
    fn sums_are_those_of_decimals() {
        assert_eq!(of(&[0.1, 0.2]).value(), 0.3);
        assert_eq!(of(&[0.7; 3]).mean(3), 0.7);
        // A quotient that is rounded twice is another number.
        let value = value_of(-102_054_326_835_152, 6);
        assert_eq!(of(&[value; 3465]).mean(3465), value);
        assert_eq!(of(&[1e14; 1000]).value(), 1e17);
        for value in [-0.0, 0.1 + 0.2, 1e15, 1e300, 5e-324, 1e-13, f64::MAX] {
            assert!(!ExactSum::default().add(value), "{value:e}");
        }
    }
}
