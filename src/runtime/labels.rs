//! Labels whose values come from data. Their length and number are bounded, so that data cannot make /metrics arbitrarily large.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Maximum number of different values of one label.
const MAX_VALUES: usize = 500;
/// Maximum length of a value in bytes.
const MAX_BYTES: usize = 253;
/// The value that stands for all values beyond these limits.
const OTHER: &str = "other";

/// The values of one label in this process.
pub(super) struct LabelValues(Mutex<BTreeSet<String>>);

impl LabelValues {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// The value itself while the limits allow it, else `other`.
    pub(super) fn bounded<'a>(&self, value: &'a str) -> &'a str {
        if value.len() > MAX_BYTES {
            return OTHER;
        }
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if values.contains(value) {
            return value;
        }
        if values.len() == MAX_VALUES {
            return OTHER;
        }
        values.insert(value.to_owned());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_one_too_many_is_other() {
        let values = LabelValues::new();
        assert_eq!(values.bounded(&"x".repeat(MAX_BYTES + 1)), OTHER);
        for n in 0..MAX_VALUES {
            assert_eq!(values.bounded(&n.to_string()), n.to_string());
        }
        assert_eq!(values.bounded("one more"), OTHER);
        assert_eq!(values.bounded("7"), "7", "known values stay");
    }
}
