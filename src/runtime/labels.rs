//! Labels that come with the data: bounded in length and in number, so that nobody makes /metrics arbitrarily large.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Different values that one kind of label has in this process.
const MAX_VALUES: usize = 500;
/// Bytes of a value.
const MAX_BYTES: usize = 253;
/// What all further values become.
const OTHER: &str = "other";

/// The values that a kind of label has had in this process.
pub(super) struct Values(Mutex<BTreeSet<String>>);

impl Values {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// The value as it is, if there is room for it; else `other`.
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
        let values = Values::new();
        assert_eq!(values.bounded(&"x".repeat(MAX_BYTES + 1)), OTHER);
        for n in 0..MAX_VALUES {
            assert_eq!(values.bounded(&n.to_string()), n.to_string());
        }
        assert_eq!(values.bounded("one more"), OTHER);
        assert_eq!(values.bounded("7"), "7", "those that were there stay");
    }
}
