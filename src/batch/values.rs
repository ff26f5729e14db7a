//! How the values of a run are written: as the decimals they were.
//!
//! Exporters print short decimals, so `v = i / 10^k` with a small `k` and an integer `i` that moves little from sample to sample.
//! Where the quotient misses `v` by a few units in the last place (sums of decimals do), the difference of the bit patterns is
//! written beside it; where no `k` fits, the bits are. Each way gives back the same bits.
//!
//! Scale of a run: `0..=9` is `k` exactly, `16 + k` is `k` with corrections, `255` is bits.

use super::DecodeError;
use super::wire::BatchMessage;

const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Beyond this, another digit does not pay against writing the bits.
const MAX_EXACT: usize = 7;
/// Scales tried with corrections: thousandths (power in W) and millionths (ratios).
const CORRECTED: [usize; 2] = [3, 6];
/// Corrections larger than this mean that the scale is wrong, not that a sum was rounded.
const MAX_ULPS: u64 = 1 << 12;
const WITH_ULPS: u32 = 16;
const BITS: u32 = 255;

fn scaled(value: f64, k: usize) -> Option<i64> {
    let scaled = (value * POWERS[k]).round();
    // 2^53: beyond, not every integer is a double.
    (scaled.abs() < 9_007_199_254_740_992.0).then_some(scaled as i64)
}

fn unscaled(integer: i64, k: usize) -> f64 {
    integer as f64 / POWERS[k]
}

fn is_exact(value: f64, k: usize) -> bool {
    scaled(value, k).is_some_and(|i| unscaled(i, k).to_bits() == value.to_bits())
}

fn correction(value: f64, k: usize) -> Option<(i64, i64)> {
    let integer = scaled(value, k)?;
    let ulps = value.to_bits().wrapping_sub(unscaled(integer, k).to_bits()) as i64;
    (ulps.unsigned_abs() <= MAX_ULPS).then_some((integer, ulps))
}

/// The smallest scale that every value fits.
fn scale_of(values: &[f64]) -> u32 {
    let mut k = 0;
    for &value in values {
        while k <= MAX_EXACT && !is_exact(value, k) {
            k += 1;
        }
        if k > MAX_EXACT {
            break;
        }
    }
    // A larger scale than a value needs may be too large for it: large numbers lose their last digits first.
    if k <= MAX_EXACT && values.iter().all(|&value| is_exact(value, k)) {
        return k as u32;
    }
    let fits = |k: &&usize| values.iter().all(|&value| correction(value, **k).is_some());
    CORRECTED.iter().find(fits).map_or(BITS, |&k| WITH_ULPS + k as u32)
}

/// Writes a run's values.
pub(super) fn write(values: &[f64], out: &mut BatchMessage) {
    let scale = scale_of(values);
    out.run_scale.push(scale);
    if scale == BITS {
        out.bits.extend(values.iter().map(|v| v.to_bits()));
        return;
    }
    let k = (scale % WITH_ULPS) as usize;
    let mut last = 0;
    for &value in values {
        let (integer, ulps) =
            if scale >= WITH_ULPS { correction(value, k).unwrap_or_default() } else { (scaled(value, k).unwrap_or_default(), 0) };
        out.scaled.push(integer.wrapping_sub(last));
        last = integer;
        if scale >= WITH_ULPS {
            out.ulps.push(ulps);
        }
    }
}

/// Reads runs' values, in the order they were written.
pub(super) struct Reader<'a> {
    scaled: std::slice::Iter<'a, i64>,
    ulps: std::slice::Iter<'a, i64>,
    bits: std::slice::Iter<'a, u64>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a BatchMessage) -> Self {
        Self { scaled: message.scaled.iter(), ulps: message.ulps.iter(), bits: message.bits.iter() }
    }

    /// Appends the `n` values of the next run. Whether they are finite is the batch's to check.
    pub(super) fn read(&mut self, scale: u32, n: usize, out: &mut Vec<f64>) -> Result<(), DecodeError> {
        let short = || DecodeError::Column("values");
        if scale == BITS {
            let bits = self.bits.as_slice().get(..n).ok_or_else(short)?;
            out.extend(bits.iter().map(|&b| f64::from_bits(b)));
            self.bits = self.bits.as_slice()[n..].iter();
        } else {
            let k = (scale % WITH_ULPS) as usize;
            if k >= POWERS.len() || scale >= 2 * WITH_ULPS {
                return Err(DecodeError::Column("scale"));
            }
            let mut last = 0i64;
            for _ in 0..n {
                last = last.wrapping_add(*self.scaled.next().ok_or_else(short)?);
                let mut value = unscaled(last, k);
                if scale >= WITH_ULPS {
                    value = f64::from_bits(value.to_bits().wrapping_add(*self.ulps.next().ok_or_else(short)? as u64));
                }
                out.push(value);
            }
        }
        Ok(())
    }

    /// Nothing must be left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        let left = self.scaled.len() + self.ulps.len() + self.bits.len();
        if left == 0 { Ok(()) } else { Err(DecodeError::Column("values (too many)")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(values: &[f64]) -> (u32, Vec<f64>) {
        let mut message = BatchMessage::default();
        write(values, &mut message);
        let mut reader = Reader::new(&message);
        let mut out = Vec::new();
        reader.read(message.run_scale[0], values.len(), &mut out).expect("own bytes");
        reader.finish().expect("nothing is left");
        (message.run_scale[0], out)
    }

    fn same_bits(a: &[f64], b: &[f64]) -> bool {
        a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
    }

    #[test]
    fn decimals_are_recognised() {
        for (values, scale) in [
            (vec![0.0, 100.0, 42.0], 0),
            (vec![71.5, 71.25], 2),
            (vec![412.125, 0.0], 3),
            (vec![0.1 + 0.2, 0.3], WITH_ULPS + 3),
            (vec![std::f64::consts::PI * 1e-5], BITS),
            (vec![-0.0], BITS),
            (vec![-74_878_258_440_232.56, 3357.125], BITS),
            (vec![f64::MAX], BITS),
        ] {
            let (seen, out) = round_trip(&values);
            assert!(same_bits(&values, &out), "{values:?} became {out:?}");
            assert_eq!(seen, scale, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_finite_values_survive(values in prop::collection::vec(prop_oneof![
            any::<f64>().prop_filter("finite", |v| v.is_finite()),
            (0i64..200_000_000).prop_map(|i| i as f64 / 1000.0),
            (0i64..100, 0u32..40).prop_map(|(i, n)| (0..n).fold(i as f64 / 1000.0, |v, _| v + 0.125)),
        ], 1..40)) {
            prop_assert!(same_bits(&values, &round_trip(&values).1));
        }
    }
}
