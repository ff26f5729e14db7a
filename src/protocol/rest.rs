//! The rests between tries: each may be twice as long as the one before, up to a limit.

use std::time::Duration;

/// A rest before another try. How long it is within its limits is drawn by who rests, so that many do not come back at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rest {
    /// It is at least so long.
    pub shortest: Duration,
    /// It is at most so long.
    pub longest: Duration,
}

/// The rests between the tries of something: the n-th lies between `min` and `min · 2ⁿ`, and never above `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rests {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Rests {
    /// Rests that lie between `min` and `max` (or are `min`, if `max` is smaller).
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < min.as_nanos() { min } else { max };
        Self { min, max, tries: 0 }
    }

    /// The rest before the next try.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and nothing iterates over it")]
    pub fn next(&mut self) -> Rest {
        self.tries = self.tries.saturating_add(1);
        let longest = self.min.saturating_mul(1u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.max);
        Rest { shortest: self.min, longest }
    }

    /// Starts again with the shortest rest, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rests_grow_within_their_limits(min in 0u64..5_000, max in 0u64..60_000, tries in 1usize..80) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut rests = Rests::new(min, max);
            let mut before = Duration::ZERO;
            for n in 1..=tries {
                let rest = rests.next();
                prop_assert_eq!(rest.shortest, min);
                prop_assert!(rest.longest >= min.max(before) && rest.longest <= max.max(min));
                if n < 20 {
                    prop_assert!(rest.longest <= min * (1u32 << n));
                }
                before = rest.longest;
            }
            rests.reset();
            prop_assert!(rests.next().longest <= min * 2);
        }
    }
}
