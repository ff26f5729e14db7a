//! Retention: days that ended longer ago than their samples are kept are dropped as a whole. The decision is pure ([`plan`]); the
//! store carries it out, in an order that survives every interruption ([`retire`]):
//!
//! 1. The *floor* is raised, and committed: samples before it are expired. A commit that sees it writes none of them, and nobody makes a
//!    place for such a day any more.
//! 2. The days below it go, each by itself. What was interrupted, or is in use by somebody, is done in the next round.

use std::time::Duration;

use super::{Maintenance, Result};
use crate::model::TimeMs;
use crate::store::chunk::{DAY_MS, Day};

/// How exact what is kept of a day is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Samples as they came.
    Raw,
    /// Rollups of 5 minutes.
    FiveMinutes,
    /// Rollups of an hour.
    Hour,
}

impl Detail {
    /// What it is called in texts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "samples",
            Self::FiveMinutes => "rollups of 5 minutes",
            Self::Hour => "rollups of an hour",
        }
    }
}

/// How long each is kept; `None` = for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Samples.
    pub raw: Option<Duration>,
    /// Rollups of 5 minutes.
    pub five_minutes: Option<Duration>,
    /// Rollups of an hour.
    pub hour: Option<Duration>,
}

impl Keeping {
    fn of(&self, detail: Detail) -> Option<Duration> {
        match detail {
            Detail::Raw => self.raw,
            Detail::FiveMinutes => self.five_minutes,
            Detail::Hour => self.hour,
        }
    }

    /// The first day of this detail that is kept: days before it ended longer ago than they are kept.
    fn first_day(&self, detail: Detail, now: TimeMs) -> Option<Day> {
        let kept = i64::try_from(self.of(detail)?.as_millis()).unwrap_or(i64::MAX);
        Some(now.as_millis().saturating_sub(kept).div_euclid(DAY_MS))
    }

    /// Before this, samples are past their time.
    fn floor(&self, now: TimeMs) -> Option<TimeMs> {
        self.first_day(Detail::Raw, now).map(|first| TimeMs::from_millis(first * DAY_MS))
    }
}

/// What the store has of a day in one detail, in whatever tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDay {
    /// The detail.
    pub detail: Detail,
    /// The day.
    pub(in crate::store) day: Day,
    /// Bytes with indexes, as far as the store knows.
    pub bytes: u64,
    /// Whether it was begun to drop the day.
    pub begun: bool,
}

impl HeldDay {
    /// The day as a date: 2025-01-31.
    #[must_use]
    pub fn date(&self) -> String {
        TimeMs::from_millis(self.day * DAY_MS).to_timestamp().strftime("%Y-%m-%d").to_string()
    }
}

/// What is to be done for retention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retirement {
    /// Samples before this are past their time, whether or not there are any.
    pub floor: Option<TimeMs>,
    /// The days that go, oldest first.
    pub days: Vec<HeldDay>,
}

/// Which of the days that there are go. What was begun is ended, however long it would be kept by now.
#[must_use]
pub fn plan(now: TimeMs, keeping: &Keeping, held: &[HeldDay]) -> Retirement {
    let goes = |held: &&HeldDay| held.begun || keeping.first_day(held.detail, now).is_some_and(|first| held.day < first);
    let mut days: Vec<HeldDay> = held.iter().filter(goes).cloned().collect();
    days.sort_by_key(|held| (held.day, held.detail));
    Retirement { floor: keeping.floor(now), days }
}

/// What became of days that were to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Those that are gone.
    pub gone: Vec<HeldDay>,
    /// What is left for later, and why.
    pub delayed: Vec<String>,
}

impl Retired {
    /// Bytes of what is gone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.gone.iter().map(|held| held.bytes).sum()
    }
}

/// What would go now.
///
/// # Errors
/// The store's.
pub async fn look(store: &mut dyn Maintenance, keeping: &Keeping, clock: TimeMs) -> Result<Retirement> {
    // Of the two clocks the one that is behind: a wrong one must not cost any samples.
    let now = store.clock().await?.map_or(clock, |store| store.min(clock));
    Ok(plan(now, keeping, &store.held(keeping.floor(now)).await?))
}

/// Drops what is past its time.
///
/// # Errors
/// The store went away. What was dropped before stays so, and the rest goes in the next round.
pub async fn retire(store: &mut dyn Maintenance, keeping: &Keeping, clock: TimeMs) -> Result<Retired> {
    let plan = look(store, keeping, clock).await?;
    if let Some(floor) = plan.floor {
        store.raise_floor(floor).await?;
    }
    let mut retired = Retired::default();
    for held in plan.days {
        match store.drop_day(&held).await? {
            None => retired.gone.push(held),
            Some(why) => retired.delayed.push(why),
        }
    }
    Ok(retired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(detail: Detail, day: Day) -> HeldDay {
        HeldDay { detail, day, bytes: 1, begun: false }
    }

    fn keeping(raw: u64, five_minutes: Option<u64>) -> Keeping {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        Keeping { raw: Some(days(raw)), five_minutes: five_minutes.map(days), hour: None }
    }

    #[test]
    fn a_day_goes_when_it_ended_as_long_ago_as_it_is_kept() {
        let there: Vec<HeldDay> = (97..101).map(|day| held(Detail::Raw, day)).collect();
        // Day 100 is today. Of day 98 the last sample is two days old at the earliest when day 101 begins.
        for (now, gone, floor) in
            [(100 * DAY_MS, &there[..1], 98), (101 * DAY_MS - 1, &there[..1], 98), (101 * DAY_MS, &there[..2], 99)]
        {
            let plan = plan(TimeMs::from_millis(now), &keeping(2, None), &there);
            assert_eq!((plan.days.as_slice(), plan.floor), (gone, Some(TimeMs::from_millis(floor * DAY_MS))), "{now}");
        }
    }

    #[test]
    fn each_detail_goes_by_its_own_time_and_what_is_not_set_stays() {
        let there = [Detail::Hour, Detail::FiveMinutes, Detail::Raw].map(|detail| held(detail, 50));
        let now = TimeMs::from_millis(100 * DAY_MS);
        let details = |keeping: &Keeping| plan(now, keeping, &there).days.iter().map(|held| held.detail).collect::<Vec<_>>();
        assert_eq!(details(&keeping(10, Some(30))), [Detail::Raw, Detail::FiveMinutes]);
        assert_eq!(details(&keeping(10, Some(60))), [Detail::Raw]);
        assert_eq!(details(&keeping(10, None)), [Detail::Raw]);
        assert_eq!(details(&Keeping::default()), []);
        assert_eq!(plan(now, &Keeping { raw: None, ..keeping(10, Some(30)) }, &there).floor, None);
    }

    #[test]
    fn what_was_begun_is_ended() {
        let begun = HeldDay { begun: true, ..held(Detail::Raw, 99) };
        let plan = plan(TimeMs::from_millis(100 * DAY_MS), &keeping(30, None), std::slice::from_ref(&begun));
        assert_eq!(plan.days, [begun]);
    }
}
