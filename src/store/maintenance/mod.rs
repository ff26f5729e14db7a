//! Maintenance: small rows of samples become large ones, by the hour while a day lasts, as a whole when it is over.
//!
//! A store says which days have something to rewrite, plans one ([`plan`], which is pure), carries out batch by batch, and finishes
//! the day. [`pack_day`] does that, for whoever maintains: the command `compact`, or a collector in the background. What is being
//! rewritten is there for every reader at every moment, in its old rows or in its new ones. Days that are past their time are dropped by
//! [`retention`].

pub(in crate::store) mod plan;
pub mod retention;

use async_trait::async_trait;

pub use self::plan::{Form, Owner, Rewrite};
use self::retention::HeldDay;
use super::Result;
use super::chunk::{DAY_MS, Day};
use crate::model::TimeMs;

/// Milliseconds of an hour.
const HOUR_MS: i64 = plan::HOUR_MS;
/// Plans of a day at most: each after the first is for what came in between.
const ATTEMPTS: u32 = 4;

/// What is packed, and how much at once.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What begins before this is closed.
    pub until: TimeMs,
    /// Samples of one rewrite at most; they are held in memory.
    pub max_samples: u64,
    /// Samples of one transaction, where several rewrites fit into it.
    pub batch_samples: u64,
}

/// The end of the last hour that ended at least `delay_ms` ago.
#[must_use]
pub fn closed_until(now: TimeMs, delay_ms: i64) -> TimeMs {
    let closed = now.as_millis().saturating_sub(delay_ms);
    TimeMs::from_millis(closed - closed.rem_euclid(HOUR_MS))
}

/// A UTC day that may have something to rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayState {
    /// The day.
    pub(in crate::store) day: Day,
    /// Whether everything of the day was rewritten after its end.
    pub(in crate::store) finished: bool,
    /// Chunks and slabs that ever arrived for the day, as far as that is known: a number that changes when more arrive.
    pub arrived: i64,
    /// Bytes of the day's rows with their indexes.
    pub bytes: u64,
}

impl DayState {
    /// When the day begins.
    #[must_use]
    pub fn begins(&self) -> TimeMs {
        TimeMs::from_millis(self.day * DAY_MS)
    }

    /// The day as a date: 2025-01-31.
    #[must_use]
    pub fn date(&self) -> String {
        self.begins().to_timestamp().strftime("%Y-%m-%d").to_string()
    }

    /// Whether the day is over before this time.
    #[must_use]
    pub fn is_over(&self, until: TimeMs) -> bool {
        until.as_millis() >= (self.day + 1) * DAY_MS
    }
}

/// Rewrites that are done in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The rewrites: of different GPUs and blocks with one span, or a single one.
    pub rewrites: Vec<Rewrite>,
}

impl Batch {
    /// Samples of the batch.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.rewrites.iter().map(|rewrite| rewrite.samples).sum()
    }
}

/// What is to be done with a day.
#[derive(Clone, Debug, Default)]
pub struct DayPlan {
    /// In the order of their spans.
    pub batches: Vec<Batch>,
    /// The GPUs whose rows are rewritten.
    pub gpus: u64,
    /// Whether there may be more to do when this is done.
    pub again: bool,
}

impl DayPlan {
    /// The rows that are rewritten.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rewrites().map(|rewrite| rewrite.rows).sum()
    }

    /// Their samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.rewrites().map(|rewrite| rewrite.samples).sum()
    }

    /// The beginning of the oldest span.
    #[must_use]
    pub fn oldest(&self) -> Option<TimeMs> {
        self.rewrites().map(|rewrite| rewrite.from).min()
    }

    fn rewrites(&self) -> impl Iterator<Item = &Rewrite> {
        self.batches.iter().flat_map(|batch| &batch.rewrites)
    }
}

/// What became of a batch, of a day, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Samples that were rewritten.
    pub samples: u64,
    /// Rows that they were in.
    pub rows_before: u64,
    /// Rows that they are in.
    pub rows_after: u64,
    /// Damaged rows, each with what is wrong: they stay as they are, and the rest is packed.
    pub damaged: Vec<String>,
    /// What was left for later, and why: a partition that somebody else has locked.
    pub delayed: Vec<String>,
    /// Whether something came in between, so that the day is to be planned again.
    pub again: bool,
}

impl Packed {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.rows_before += other.rows_before;
        self.rows_after += other.rows_after;
        for (said, more) in [(&mut self.damaged, other.damaged), (&mut self.delayed, other.delayed)] {
            for text in more {
                if !said.contains(&text) {
                    said.push(text);
                }
            }
        }
        self.again |= other.again;
    }

    /// Whether everything that was planned is done, as far as it can be.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.delayed.is_empty() && !self.again
    }
}

/// Rows and bytes of one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormSize {
    /// The form.
    pub form: Form,
    /// Rows, as far as the store knows without counting.
    pub rows: u64,
    /// Bytes, with indexes.
    pub bytes: u64,
}

/// What was found by reading every row of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Sound chunks.
    pub chunks: u64,
    /// Sound slabs.
    pub slabs: u64,
    /// Sound packed rows.
    pub packed: u64,
    /// The samples of all.
    pub samples: u64,
    /// The damaged rows: which each is, what is wrong, and what to do.
    pub damaged: Vec<String>,
}

/// A store under maintenance: nobody else maintains it until this is dropped.
#[async_trait]
pub trait Maintenance: Send {
    /// The days that may have something to rewrite, oldest first.
    async fn days(&mut self, scope: &Scope) -> Result<Vec<DayState>>;

    /// What is to be rewritten of a day.
    async fn plan(&mut self, day: &DayState, scope: &Scope) -> Result<DayPlan>;

    /// Carries out a batch in one transaction.
    async fn rewrite(&mut self, day: &DayState, batch: &Batch, scope: &Scope) -> Result<Packed>;

    /// Gives back the space of what was rewritten; where the day is over and `complete`, notes that everything of it was. What could not
    /// be done, in words.
    async fn finish(&mut self, day: &DayState, complete: bool) -> Result<Vec<String>>;

    /// Bytes of a day's rows with their indexes.
    async fn bytes(&mut self, day: &DayState) -> Result<u64>;

    /// The store's own clock, where it has one.
    async fn clock(&mut self) -> Result<Option<TimeMs>>;

    /// What there is of days, in every detail. A store that would have to look through its samples for it says only what lies before the
    /// floor that is to be.
    async fn held(&mut self, floor: Option<TimeMs>) -> Result<Vec<HeldDay>>;

    /// Raises the floor: no commit that begins after this writes a sample before it. It never falls.
    async fn raise_floor(&mut self, floor: TimeMs) -> Result<()>;

    /// Drops what there is of a day, in one detail. Why not all of it is gone yet, in words.
    async fn drop_day(&mut self, day: &HeldDay) -> Result<Option<String>>;

    /// Whether somebody waits until this is dropped.
    async fn is_wanted(&mut self) -> Result<bool>;
}

/// What happens between two batches.
#[async_trait]
pub trait Pace: Send {
    /// Told what the last batch did; `false` ends the work there.
    async fn pause(&mut self, store: &mut dyn Maintenance, done: &Packed) -> Result<bool>;
}

/// Packs a day.
///
/// # Errors
/// The store went away, or its disk is full. What was rewritten before stays so.
pub async fn pack_day(store: &mut dyn Maintenance, day: &DayState, scope: &Scope, pace: &mut dyn Pace) -> Result<Packed> {
    let mut all = Packed::default();
    for attempt in 1..=ATTEMPTS {
        let plan = store.plan(day, scope).await?;
        let (mut again, mut rewrote) = (false, false);
        for batch in &plan.batches {
            let done = store.rewrite(day, batch, scope).await?;
            again |= done.again;
            rewrote |= done.samples > 0;
            let go_on = pace.pause(store, &done).await?;
            all.add(Packed { again: false, ..done });
            if !go_on {
                all.again = true;
                return Ok(all);
            }
        }
        // What stays as it is, because it is damaged or locked, is there in the next plan, too.
        again |= plan.again && rewrote;
        all.again = again && attempt == ATTEMPTS;
        if !again || !all.delayed.is_empty() {
            break;
        }
    }
    let complete = day.is_over(scope.until) && all.is_complete();
    let left = store.finish(day, complete).await?;
    all.add(Packed { delayed: left, ..Packed::default() });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_closed_some_time_after_its_end() {
        let minute = 60_000;
        let at = |minutes: i64| closed_until(TimeMs::from_millis(minutes * minute), 10 * minute).as_millis() / minute;
        assert_eq!([at(69), at(70), at(129), at(130)], [0, 60, 60, 120]);
    }
}
