//! What maintenance rewrites: the rows of a GPU's day in, rewrites out. Pure.
//!
//! Hours that rows cross hang together: a *piece* is a run of hours that no row leaves. A rewrite takes all rows of one piece or of
//! several, so that what it leaves out cannot lie between the rows that it takes. Where a piece has more samples than one rewrite may
//! hold, it is parted by the ids of its rows instead: the rows of a part follow each other in the order that decides between two
//! samples of one series and time, and so do the parts.
//!
//! | the day | what is rewritten |
//! |---|---|
//! | is not over | each piece that has a chunk that begins before the bound |
//! | is over, and was never finished | everything, as far as it has chunks or rows that are worth being joined |
//! | is over and finished | each piece that has a chunk |
//!
//! A day is *finished* when everything of it was rewritten after its end. Without that mark, rows that cannot be joined would be
//! rewritten for ever.

use crate::model::{GpuId, TimeMs};
use crate::store::chunk::{DAY_MS, Day};

/// Milliseconds of an hour.
pub(in crate::store) const HOUR_MS: i64 = 3_600_000;
/// Hours of a day.
const HOURS: usize = 24;

/// How samples lie in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// One series, as it was committed.
    Chunk,
    /// A rectangle of several series and times.
    Packed,
}

impl Form {
    /// The name of the form, as metrics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Packed => "packed",
        }
    }
}

/// Rows of one form of a GPU in one day that begin in the same hour and end in the same hour; or one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Stretch {
    pub(in crate::store) form: Form,
    /// Time of the oldest sample.
    pub(in crate::store) first: TimeMs,
    /// Time of the newest sample.
    pub(in crate::store) last: TimeMs,
    pub(in crate::store) rows: u64,
    pub(in crate::store) samples: u64,
    /// How many of the rows are packed and less than half full.
    pub(in crate::store) small: u64,
    /// The greatest id of the rows: that of the row, where it is one.
    pub(in crate::store) id: i64,
}

/// A day of which rows are planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PlannedDay {
    pub(in crate::store) day: Day,
    /// Whether everything of the day was rewritten after its end.
    pub(in crate::store) finished: bool,
    /// What begins before this is closed.
    pub(in crate::store) until: TimeMs,
    /// Samples of one rewrite at most.
    pub(in crate::store) max_samples: u64,
}

/// Rows of a GPU that are replaced by packed ones, in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The rows' GPU.
    pub gpu: GpuId,
    /// The beginning of the span that the rows lie in.
    pub from: TimeMs,
    /// Its end, which is not in it.
    pub before: TimeMs,
    /// Only rows with ids from the first to the second.
    pub ids: Option<(i64, i64)>,
    /// Rows that were there when this was planned.
    pub rows: u64,
    /// Their samples.
    pub samples: u64,
}

/// What is to be done with rows of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Step {
    /// Replace them.
    Rewrite(Rewrite),
    /// They are more than one rewrite may hold: plan again with each row of this span by itself.
    LookCloser { gpu: GpuId, from: TimeMs, before: TimeMs },
}

impl PlannedDay {
    /// Whether the day is over.
    pub(in crate::store) fn is_over(&self) -> bool {
        self.until.as_millis() >= (self.day + 1) * DAY_MS
    }

    fn hour(&self, time: TimeMs) -> usize {
        let hour = (time.as_millis() - self.day * DAY_MS).div_euclid(HOUR_MS);
        usize::try_from(hour).unwrap_or(0).min(HOURS - 1)
    }

    fn begin_of(&self, hour: usize) -> TimeMs {
        TimeMs::from_millis(self.day * DAY_MS + hour as i64 * HOUR_MS)
    }

    /// The steps for one GPU. Its rows may be given as stretches.
    pub(in crate::store) fn plan(&self, gpu: GpuId, stretches: &[Stretch]) -> Vec<Step> {
        let mut steps = Vec::new();
        for group in self.groups(stretches) {
            let (from, before) = (self.begin_of(group.hours.0), self.begin_of(group.hours.1 + 1));
            if !self.is_due(&group) {
                continue;
            }
            if group.samples <= self.max_samples {
                let (rows, samples) = (group.rows, group.samples);
                steps.push(Step::Rewrite(Rewrite { gpu, from, before, ids: None, rows, samples }));
            } else if group.stretches.iter().all(|stretch| stretch.rows == 1) {
                steps.extend(self.parts(gpu, (from, before), &group).map(Step::Rewrite));
            } else {
                steps.push(Step::LookCloser { gpu, from, before });
            }
        }
        steps
    }

    fn is_due(&self, rows: &Group) -> bool {
        rows.chunks > 0 && (self.is_over() || rows.first_chunk < self.until)
            || self.is_over() && !self.finished && rows.small > 1 && rows.samples <= self.max_samples
    }

    /// The pieces; of a day that is to be finished joined, as many as one rewrite may hold.
    fn groups(&self, stretches: &[Stretch]) -> Vec<Group> {
        let mut sorted = stretches.to_vec();
        sorted.sort_by_key(|stretch| stretch.first);
        let mut pieces: Vec<Group> = Vec::new();
        for stretch in sorted {
            let next = Group::of(stretch, (self.hour(stretch.first), self.hour(stretch.last)));
            match pieces.last_mut().filter(|piece| next.hours.0 <= piece.hours.1) {
                Some(piece) => piece.add(next),
                None => pieces.push(next),
            }
        }
        if !self.is_over() || self.finished {
            return pieces;
        }
        let mut joined: Vec<Group> = Vec::new();
        for next in pieces {
            match joined.last_mut().filter(|group| group.samples + next.samples <= self.max_samples) {
                Some(group) => group.add(next),
                None => joined.push(next),
            }
        }
        joined
    }

    /// A piece that is too large for one rewrite, parted by ids. Rows that have the same id stay together.
    fn parts(&self, gpu: GpuId, (from, before): (TimeMs, TimeMs), piece: &Group) -> impl Iterator<Item = Rewrite> {
        let mut rows = piece.stretches.clone();
        rows.sort_by_key(|row| row.id);
        let mut parts: Vec<Group> = Vec::new();
        for same in rows.chunk_by(|a, b| a.id == b.id) {
            let mut next = Group::of(same[0], piece.hours);
            same[1..].iter().for_each(|row| next.add(Group::of(*row, piece.hours)));
            match parts.last_mut().filter(|part| part.samples + next.samples <= self.max_samples) {
                Some(part) => part.add(next),
                None => parts.push(next),
            }
        }
        let due = parts.into_iter().filter(|part| part.chunks > 0 || self.is_due(part));
        due.map(move |part| Rewrite { gpu, from, before, ids: Some(part.ids()), rows: part.rows, samples: part.samples })
    }
}

/// Rows that are rewritten together, or not at all.
#[derive(Clone, Debug)]
struct Group {
    /// The first hour of the day in which they have samples, and the last one.
    hours: (usize, usize),
    chunks: u64,
    /// When the first of the chunks begins.
    first_chunk: TimeMs,
    small: u64,
    rows: u64,
    samples: u64,
    stretches: Vec<Stretch>,
}

impl Group {
    fn of(stretch: Stretch, hours: (usize, usize)) -> Self {
        let is_chunk = stretch.form == Form::Chunk;
        Self {
            hours,
            chunks: if is_chunk { stretch.rows } else { 0 },
            first_chunk: if is_chunk { stretch.first } else { TimeMs::from_millis(i64::MAX) },
            small: stretch.small,
            rows: stretch.rows,
            samples: stretch.samples,
            stretches: vec![stretch],
        }
    }

    fn add(&mut self, other: Self) {
        self.hours = (self.hours.0.min(other.hours.0), self.hours.1.max(other.hours.1));
        self.chunks += other.chunks;
        self.first_chunk = self.first_chunk.min(other.first_chunk);
        self.small += other.small;
        self.rows += other.rows;
        self.samples += other.samples;
        self.stretches.extend(other.stretches);
    }

    fn ids(&self) -> (i64, i64) {
        let ids = self.stretches.iter().map(|row| row.id);
        (ids.clone().min().unwrap_or(i64::MIN), ids.max().unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DAY: Day = 20_000;
    const BEGIN: i64 = DAY * DAY_MS;
    /// Samples of a full row here.
    const FULL: usize = 16;

    /// A row as a store has it: samples in order, each with the id that it came with.
    #[derive(Clone, Debug, PartialEq)]
    struct Row {
        form: Form,
        id: i64,
        samples: Vec<(i64, i64)>,
    }

    impl Row {
        fn first(&self) -> i64 {
            self.samples[0].0
        }

        fn last(&self) -> i64 {
            self.samples[self.samples.len() - 1].0
        }

        fn stretch(&self) -> Stretch {
            Stretch {
                form: self.form,
                first: TimeMs::from_millis(self.first()),
                last: TimeMs::from_millis(self.last()),
                rows: 1,
                samples: self.samples.len() as u64,
                small: u64::from(self.form == Form::Packed && self.samples.len() < FULL / 2),
                id: self.id,
            }
        }
    }

    fn gpu() -> GpuId {
        GpuId::from_store(7)
    }

    fn day(finished: bool, until: i64, max_samples: u64) -> PlannedDay {
        PlannedDay { day: DAY, finished, until: TimeMs::from_millis(until), max_samples }
    }

    /// Rows by the hours that they begin and end in, as a store sums them up.
    fn summed_up(rows: &[Row]) -> Vec<Stretch> {
        let mut summed: BTreeMap<(Form, i64, i64), Stretch> = BTreeMap::new();
        for row in rows {
            let (key, next) = ((row.form, row.first() / HOUR_MS, row.last() / HOUR_MS), row.stretch());
            let stretch = summed.entry(key).or_insert(Stretch { rows: 0, samples: 0, small: 0, ..next });
            stretch.first = stretch.first.min(next.first);
            stretch.last = stretch.last.max(next.last);
            stretch.id = stretch.id.max(next.id);
            stretch.rows += 1;
            stretch.samples += next.samples;
            stretch.small += next.small;
        }
        summed.into_values().collect()
    }

    fn is_in(rewrite: &Rewrite, row: &Row) -> bool {
        row.first() >= rewrite.from.as_millis()
            && row.first() < rewrite.before.as_millis()
            && rewrite.ids.is_none_or(|(from, to)| (from..=to).contains(&row.id))
    }

    /// All rewrites of a plan, looked at closely where the plan asks for that.
    fn rewrites(day: &PlannedDay, rows: &[Row]) -> Vec<Rewrite> {
        let mut rewrites = Vec::new();
        for step in day.plan(gpu(), &summed_up(rows)) {
            match step {
                Step::Rewrite(rewrite) => rewrites.push(rewrite),
                Step::LookCloser { from, before, .. } => {
                    let all = Rewrite { gpu: gpu(), from, before, ids: None, rows: 0, samples: 0 };
                    let close: Vec<Stretch> = rows.iter().filter(|row| is_in(&all, row)).map(Row::stretch).collect();
                    for step in day.plan(gpu(), &close) {
                        let Step::Rewrite(rewrite) = step else { panic!("there is nothing closer: {step:?}") };
                        rewrites.push(rewrite);
                    }
                }
            }
        }
        rewrites
    }

    fn carry_out(rewrite: &Rewrite, rows: &mut Vec<Row>) {
        let (taken, kept): (Vec<Row>, Vec<Row>) = std::mem::take(rows).into_iter().partition(|row| is_in(rewrite, row));
        *rows = kept;
        let id = taken.iter().map(|row| row.id).max().expect("a rewrite has rows");
        let mut sorted = taken;
        sorted.sort_by_key(|row| row.id);
        let mut samples: Vec<(i64, i64)> = sorted.into_iter().flat_map(|row| row.samples).collect();
        samples.sort_by_key(|(time, _)| *time);
        rows.extend(samples.chunks(FULL).map(|samples| Row { form: Form::Packed, id, samples: samples.to_vec() }));
    }

    /// Of each time the sample that counts: of the row with the greatest id the last one.
    fn what_counts(rows: &[Row]) -> BTreeMap<i64, i64> {
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_by_key(|row| row.id);
        sorted.iter().flat_map(|row| row.samples.iter().copied()).collect()
    }

    fn all_samples(rows: &[Row]) -> Vec<(i64, i64)> {
        let mut samples: Vec<(i64, i64)> = rows.iter().flat_map(|row| row.samples.clone()).collect();
        samples.sort_unstable();
        samples
    }

    prop_compose! {
        /// Chunks of a GPU in the order of their ids; some long, many short, with times that meet.
        fn chunks(from_id: i64)(
            chunks in prop::collection::vec((0i64..24 * 60, prop::collection::vec(0i64..100, 1..9), 0u32..10), 0..40),
        ) -> Vec<Row> {
            chunks.into_iter().enumerate().map(|(at, (minute, offsets, long))| {
                let id = from_id + at as i64;
                let unit = if long == 0 { 5 * 60_000 } else { 6_000 };
                let mut samples: Vec<(i64, i64)> = offsets.into_iter()
                    .map(|offset| ((minute * 60_000 + offset * unit).min(DAY_MS - 1) + BEGIN, id)).collect();
                samples.sort_unstable();
                Row { form: Form::Chunk, id, samples }
            }).collect()
        }
    }

    /// Packs what the plan says, with the rules of every plan checked on the way.
    fn maintain(day: &PlannedDay, rows: &mut Vec<Row>) -> Result<Vec<Rewrite>, TestCaseError> {
        let plan = rewrites(day, rows);
        for row in rows.iter() {
            let taken = plan.iter().filter(|rewrite| is_in(rewrite, row)).count();
            let is_due = row.form == Form::Chunk && row.first() < day.until.as_millis();
            prop_assert!(taken == 1 || (!is_due && taken == 0), "{row:?} is in {taken} rewrites of {plan:?}");
        }
        for rewrite in &plan {
            let taken: Vec<&Row> = rows.iter().filter(|row| is_in(rewrite, row)).collect();
            prop_assert_eq!(rewrite.rows, taken.len() as u64);
            prop_assert_eq!(rewrite.samples, taken.iter().map(|row| row.samples.len() as u64).sum::<u64>());
            prop_assert!(rewrite.samples <= day.max_samples, "{rewrite:?}");
            prop_assert!(taken.iter().all(|row| row.last() < rewrite.before.as_millis()), "a row leaves {rewrite:?}");
        }
        let (before, counted) = (all_samples(rows), what_counts(rows));
        for rewrite in &plan {
            carry_out(rewrite, rows);
        }
        prop_assert_eq!(all_samples(rows), before);
        prop_assert_eq!(what_counts(rows), counted);
        Ok(plan)
    }

    proptest! {
        #[test]
        fn a_day_is_packed_by_the_hour_then_as_a_whole_and_then_left_alone(
            mut rows in chunks(1), hour in 0i64..25, late in chunks(1000), max in prop::sample::select(vec![20u64, 100, 10_000]),
        ) {
            let bound = BEGIN + hour * HOUR_MS;
            let open = day(false, bound, max);
            maintain(&open, &mut rows)?;
            if !open.is_over() {
                prop_assert_eq!(rewrites(&open, &rows), vec![], "the bound has not moved");
            }
            let over = day(false, BEGIN + DAY_MS, max);
            maintain(&over, &mut rows)?;
            prop_assert!(rows.iter().all(|row| row.form == Form::Packed));
            let finished = day(true, BEGIN + DAY_MS, max);
            prop_assert_eq!(rewrites(&finished, &rows), vec![]);

            rows.extend(late.iter().cloned());
            let touched = maintain(&finished, &mut rows)?;
            prop_assert!(late.is_empty() == touched.is_empty());
            prop_assert_eq!(rewrites(&finished, &rows), vec![]);
        }
    }

    fn chunk(id: i64, from: i64, samples: i64, step: i64) -> Row {
        let samples = (0..samples).map(|i| (BEGIN + from + i * step, id)).collect();
        Row { form: Form::Chunk, id, samples }
    }

    #[test]
    fn late_data_has_only_the_hours_rewritten_that_it_touches() {
        let mut rows: Vec<Row> =
            (0..24).map(|hour| Row { form: Form::Packed, ..chunk(hour, hour * HOUR_MS, 16, 60_000) }).collect();
        rows.push(chunk(100, 5 * HOUR_MS + 1, 3, 1000));
        let plan = rewrites(&day(true, BEGIN + DAY_MS, 1000), &rows);
        let hour = |hour| TimeMs::from_millis(BEGIN + hour * HOUR_MS);
        let expected = Rewrite { gpu: gpu(), from: hour(5), before: hour(6), ids: None, rows: 2, samples: 19 };
        assert_eq!(plan, [expected]);
    }

    #[test]
    fn many_samples_of_one_second_are_parted_by_ids_and_late_ones_leave_full_parts_alone() {
        let mut rows: Vec<Row> = (1..=100).map(|id| chunk(id, 1000, 8, 1)).collect();
        let over = day(false, BEGIN + DAY_MS, 80);
        let plan = rewrites(&over, &rows);
        assert_eq!(plan.len(), 10);
        plan.iter().for_each(|rewrite| carry_out(rewrite, &mut rows));
        rows.push(chunk(200, 1000, 2, 1));
        let plan = rewrites(&day(true, BEGIN + DAY_MS, 80), &rows);
        assert_eq!(plan.iter().map(|rewrite| rewrite.ids).collect::<Vec<_>>(), [Some((200, 200))]);
    }

    #[test]
    fn what_begins_after_the_bound_stays_as_it_is() {
        let rows = [chunk(1, 10 * HOUR_MS, 3, 1000), chunk(2, 11 * HOUR_MS, 3, 1000)];
        let plan = rewrites(&day(false, BEGIN + 11 * HOUR_MS, 1000), &rows);
        assert_eq!(plan.len(), 1);
        assert!(is_in(&plan[0], &rows[0]) && !is_in(&plan[0], &rows[1]));
    }
}
