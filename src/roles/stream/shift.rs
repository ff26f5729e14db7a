//! `--restamp`: what is added to the times of a source.

use crate::model::{Reason, TimeMs};
use crate::source::pace::Restamp;

/// The shift of the times of a run, of a loop's round: fixed once it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shift {
    /// Times are kept.
    None,
    /// The first time becomes this one.
    Undecided {
        /// When the run, or the round, began.
        to: TimeMs,
    },
    /// All are shifted by the same.
    By(Restamp),
}

impl Shift {
    /// A time with the shift; the first one decides it.
    pub(super) fn apply(&mut self, time_ms: TimeMs) -> Result<TimeMs, Reason> {
        let restamp = match self {
            Self::None => return Ok(time_ms),
            Self::By(restamp) => *restamp,
            Self::Undecided { to } => Restamp::new(time_ms, *to),
        };
        *self = Self::By(restamp);
        restamp.apply(time_ms)
    }
}
