//! How long samples are kept, and what they may take: as roles say it.

use super::say;
use crate::config::Retention;
use crate::store::maintenance::FormSize;
use crate::store::maintenance::retention::Keeping;

/// Percent of the budget from which on somebody is warned.
const NEAR: u64 = 80;

/// How long each is kept.
pub(super) fn keeping(section: &Retention) -> Keeping {
    Keeping { raw: section.raw, five_minutes: section.five_minutes, hour: section.hour }
}

/// What the samples of a store take, and what they may (`store.disk_budget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    used: u64,
    allowed: u64,
}

/// How much of a budget is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fullness {
    /// Less than what is worth a warning.
    #[default]
    Fine,
    /// Nearly all of it.
    Near,
    /// All of it, or more.
    Over,
}

impl Budget {
    pub(super) fn new(sizes: &[FormSize], allowed: u64) -> Self {
        Self { used: sizes.iter().map(|size| size.bytes).sum(), allowed }
    }

    pub(super) fn fullness(self) -> Fullness {
        let (used, allowed) = (u128::from(self.used) * 100, u128::from(self.allowed));
        if used >= allowed * 100 {
            Fullness::Over
        } else if used >= allowed * u128::from(NEAR) {
            Fullness::Near
        } else {
            Fullness::Fine
        }
    }

    /// 412 GiB of 500 GiB (82%).
    pub(super) fn describe(self) -> String {
        let percent = u128::from(self.used) * 100 / u128::from(self.allowed.max(1));
        format!("the samples take {} of {} ({percent}%)", say::bytes(self.used), say::bytes(self.allowed))
    }
}

/// What to do when the budget is used up, or nearly so.
pub(super) const REMEDY: &str = "add disk space and raise store.disk_budget, or keep samples for a shorter time (store.retention); nothing is dropped for the budget";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::maintenance::Form;

    #[test]
    fn a_warning_comes_before_the_budget_is_reached() {
        let budget = |used| Budget::new(&[FormSize { form: Form::Chunk, rows: 1, bytes: used }], 1000);
        assert_eq!([799, 800, 999, 1000].map(|used| budget(used).fullness()), {
            use Fullness::{Fine, Near, Over};
            [Fine, Near, Near, Over]
        });
        assert!(budget(850).describe().ends_with("(85%)"), "{}", budget(850).describe());
    }
}
