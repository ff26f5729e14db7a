//! When rows are due. Pure: the time is passed in.

use std::time::{Duration, Instant};

use crate::model::{MAX_TIME, MIN_TIME, Reason, TimeMs};

/// At most so many rows a second, over all sources of a process (`--rate`). A token bucket that holds a tenth of a second.
#[derive(Clone, Debug)]
pub struct Rate {
    rows_per_second: f64,
    /// When the rows taken so far are paid for.
    paid: Option<Instant>,
}

/// How much may be taken at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// A cap in rows a second; zero or less is taken as the smallest cap there is.
    #[must_use]
    pub fn new(rows_per_second: f64) -> Self {
        Self { rows_per_second: rows_per_second.max(1e-6), paid: None }
    }

    /// Takes rows, and says how long to wait before sending them.
    pub fn take(&mut self, rows: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid.map_or(earliest, |paid| paid.max(earliest));
        let cost = Duration::try_from_secs_f64(rows as f64 / self.rows_per_second).unwrap_or(MAX_WAIT).min(MAX_WAIT);
        let paid = from + cost;
        self.paid = Some(paid);
        paid.saturating_duration_since(now)
    }
}

/// Longest wait for one row: a gap in the data, or a cap close to zero, must not freeze a process for years.
const MAX_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// Rows at the pace of their own times (`--realtime`). The first row is due at once; what lies before it too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Realtime {
    start: Option<(TimeMs, Instant)>,
}

impl Realtime {
    /// How long to wait for a row of this time (ms since 1970).
    pub fn due(&mut self, time: TimeMs, now: Instant) -> Duration {
        let (first, began) = *self.start.get_or_insert((time, now));
        let after = time.since(first).min(MAX_WAIT);
        (began + after).saturating_duration_since(now)
    }
}

/// A shift of source times (`--restamp`), fixed for a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restamp {
    shift_ms: i64,
}

impl Restamp {
    /// The shift that moves a source time to another.
    #[must_use]
    pub fn new(source: TimeMs, to: TimeMs) -> Self {
        Self { shift_ms: to.millis_since(source) }
    }

    /// A time, shifted.
    ///
    /// # Errors
    /// [`Reason::TimeOutOfRange`] if that is outside of what is accepted.
    pub fn apply(self, time: TimeMs) -> Result<TimeMs, Reason> {
        let shifted = time.plus_millis(self.shift_ms);
        if (MIN_TIME..MAX_TIME).contains(&shifted) { Ok(shifted) } else { Err(Reason::TimeOutOfRange) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> TimeMs {
        TimeMs::from_millis(millis)
    }

    #[test]
    fn a_rate_is_kept_in_the_long_run_and_pauses_are_not_saved_up() {
        let start = Instant::now();
        let mut rate = Rate::new(1000.0);
        let mut now = start;
        for _ in 0..1000 {
            now += rate.take(10, now);
        }
        let took = now - start;
        assert!((Duration::from_millis(9_800)..=Duration::from_secs(10)).contains(&took), "{took:?}");
        // After a long pause only the burst is free.
        now += Duration::from_secs(3600);
        assert_eq!(rate.take(100, now), Duration::ZERO);
        assert_eq!(rate.take(1000, now), Duration::from_secs(1));
    }

    #[test]
    fn realtime_keeps_the_gaps_of_the_source() {
        let start = Instant::now();
        let mut pace = Realtime::default();
        assert_eq!(pace.due(at(5_000), start), Duration::ZERO);
        assert_eq!(pace.due(at(7_500), start + Duration::from_secs(1)), Duration::from_millis(1_500));
        assert_eq!(pace.due(at(4_000), start), Duration::ZERO);
        assert!(pace.due(TimeMs::MAX, start) <= MAX_WAIT);
    }

    #[test]
    fn restamped_times_keep_their_distance_and_stay_in_range() {
        let shift = Restamp::new(at(1_000_000_000_000), at(1_700_000_000_000));
        assert_eq!(shift.apply(at(1_000_000_000_123)), Ok(at(1_700_000_000_123)));
        assert_eq!(Restamp::new(MIN_TIME, MAX_TIME).apply(MIN_TIME.plus_millis(1)), Err(Reason::TimeOutOfRange));
    }
}
