//! Backoff between attempts: exponential, with jitter, so that many clients of one server do not come back at the same moment.

use std::time::Duration;

use rand::Rng;

use crate::protocol::rest::{Rest, Rests};

/// Exponential backoff with full jitter: the n-th wait is anywhere between `min` and `min · 2ⁿ`, and never above `max`.
#[derive(Clone, Debug)]
pub struct Backoff(Rests);

impl Backoff {
    /// A backoff whose waits lie between `min` and `max` (or are `min`, if `max` is smaller).
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self(Rests::new(min, max))
    }

    /// The wait before the next attempt.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and nothing iterates over it")]
    pub fn next(&mut self) -> Duration {
        drawn(self.0.next())
    }

    /// Starts again with the shortest wait, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// How long this rest is.
#[must_use]
pub fn drawn(rest: Rest) -> Duration {
    rand::rng().random_range(rest.shortest..=rest.longest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_stay_within_their_limits(min in 0u64..5_000, max in 0u64..60_000, attempts in 1usize..80) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut backoff = Backoff::new(min, max);
            for n in 1..=attempts {
                let wait = backoff.next();
                prop_assert!(wait >= min && wait <= max.max(min));
                if n < 20 {
                    prop_assert!(wait <= min * (1u32 << n));
                }
            }
            backoff.reset();
            prop_assert!(backoff.next() <= min * 2);
        }
    }
}
