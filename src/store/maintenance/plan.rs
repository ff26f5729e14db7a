//! What maintenance rewrites: the rows of a block's day in, rewrites out. Pure.
//!
//! Hours that rows cross hang together: a *piece* is a run of hours that no row leaves. Where it has slabs, whose samples are of several GPUs, the
//! block is rewritten, elsewhere each GPU for itself. A rewrite takes all rows of one piece or of several, so that what it leaves out cannot lie
//! between the rows that it takes. Where a piece has more samples than one rewrite may hold, it is parted by the ids of its rows instead: the rows
//! of a part follow each other in the order that decides between two samples of one series and time, and so do the parts.
//!
//! | the day | what is rewritten |
//! |---|---|
//! | is not over | each piece that has a chunk (or slab) that begins before the bound |
//! | is over, and was never finished | everything, as far as it has chunks, slabs, or rows that are worth being joined |
//! | is over and finished | each piece that has a chunk (or slab) |
//!
//! Where a day that is to be finished has slabs, and a block more samples than one rewrite may hold, the rows of single GPUs are joined
//! when the slabs are gone: by the next plan.
//!
//! A day is *finished* when everything of it was rewritten after its end. Without that mark, what cannot be joined would be rewritten for ever.

use std::collections::BTreeMap;

use crate::model::{BlockId, GpuId, TimeMs};
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
    /// Several series of a block of GPUs, as they were committed.
    Slab,
    /// A rectangle of several series and times.
    Packed,
}

impl Form {
    /// The name of the form, as metrics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Slab => "slab",
            Self::Packed => "packed",
        }
    }
}

/// Whose rows are rewritten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A GPU: its chunks and packed rows.
    Gpu(GpuId),
    /// A block: its slabs, and the chunks and packed rows of its GPUs.
    Block(BlockId),
}

impl Owner {
    /// The block.
    #[must_use]
    pub fn block(self) -> BlockId {
        match self {
            Self::Gpu(gpu) => BlockId::of(gpu),
            Self::Block(block) => block,
        }
    }
}

/// Rows of one form of a GPU (slabs: of a block) in one day that begin in the same hour and end in the same hour; or one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Stretch {
    /// Whose the rows are.
    pub(in crate::store) owner: Owner,
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

/// Rows that are replaced by packed ones, in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Whose the rows are.
    pub owner: Owner,
    /// Whether packed rows are joined: else those of a GPU that has neither chunks nor samples in slabs there stay as they are.
    pub joins: bool,
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

/// What is to be done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Step {
    /// Replace them.
    Rewrite(Rewrite),
    /// They are more than one rewrite may hold: plan again with each row of this span by itself.
    LookCloser { owner: Owner, from: TimeMs, before: TimeMs },
}

/// The steps for a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Steps {
    pub(in crate::store) steps: Vec<Step>,
    /// Whether there may be more to do when they are done.
    pub(in crate::store) again: bool,
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

    /// The steps for one block. Its rows may be given as stretches.
    pub(in crate::store) fn plan(&self, block: BlockId, stretches: &[Stretch]) -> Steps {
        let is_due = |group: &Group| self.is_due(group);
        if stretches.iter().all(|stretch| stretch.form != Form::Slab) {
            return Steps { steps: self.by_gpu(stretches, is_due), again: false };
        }
        let (mut steps, groups) = (Vec::new(), self.groups(stretches));
        // All at once, or what there is for each GPU later, when there are no slabs any more.
        let to_be_joined = self.is_over() && !self.finished;
        let again = to_be_joined && groups.len() > 1;
        for group in groups {
            if group.stretches.iter().any(|stretch| stretch.form == Form::Slab) {
                steps.extend(self.step(Owner::Block(block), to_be_joined && !again, &group, is_due));
            } else {
                steps.extend(self.by_gpu(&group.stretches, |group| self.has_unpacked(group)));
            }
        }
        Steps { steps, again }
    }

    fn by_gpu(&self, stretches: &[Stretch], is_due: impl Fn(&Group) -> bool) -> Vec<Step> {
        let mut of: BTreeMap<Owner, Vec<Stretch>> = BTreeMap::new();
        for stretch in stretches {
            of.entry(stretch.owner).or_default().push(*stretch);
        }
        let groups = of.into_iter().flat_map(|(owner, own)| self.groups(&own).into_iter().map(move |group| (owner, group)));
        groups.flat_map(|(owner, group)| self.step(owner, true, &group, &is_due)).collect()
    }

    /// What is to be done with a group.
    fn step(&self, owner: Owner, joins: bool, group: &Group, is_due: impl Fn(&Group) -> bool) -> Vec<Step> {
        let (from, before) = (self.begin_of(group.hours.0), self.begin_of(group.hours.1 + 1));
        if !is_due(group) {
            Vec::new()
        } else if group.samples <= self.max_samples {
            let (rows, samples) = (group.rows, group.samples);
            vec![Step::Rewrite(Rewrite { owner, joins, from, before, ids: None, rows, samples })]
        } else if group.stretches.iter().all(|stretch| stretch.rows == 1) {
            self.parts(owner, (from, before), group).map(Step::Rewrite).collect()
        } else {
            vec![Step::LookCloser { owner, from, before }]
        }
    }

    /// Whether there are chunks or slabs that are closed.
    fn has_unpacked(&self, rows: &Group) -> bool {
        rows.unpacked > 0 && (self.is_over() || rows.first_unpacked < self.until)
    }

    fn is_due(&self, rows: &Group) -> bool {
        self.has_unpacked(rows) || self.is_over() && !self.finished && rows.small > 1 && rows.samples <= self.max_samples
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
    fn parts(&self, owner: Owner, (from, before): (TimeMs, TimeMs), piece: &Group) -> impl Iterator<Item = Rewrite> {
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
        let due = parts.into_iter().filter(|part| part.unpacked > 0 || self.is_due(part));
        let joins = matches!(owner, Owner::Gpu(_));
        due.map(move |part| Rewrite { owner, joins, from, before, ids: Some(part.ids()), rows: part.rows, samples: part.samples })
    }
}

/// Rows that are rewritten together, or not at all.
#[derive(Clone, Debug)]
struct Group {
    /// The first hour of the day in which they have samples, and the last one.
    hours: (usize, usize),
    /// How many of the rows are chunks or slabs.
    unpacked: u64,
    /// When the first of those begins.
    first_unpacked: TimeMs,
    small: u64,
    rows: u64,
    samples: u64,
    stretches: Vec<Stretch>,
}

impl Group {
    fn of(stretch: Stretch, hours: (usize, usize)) -> Self {
        let is_unpacked = stretch.form != Form::Packed;
        Self {
            hours,
            unpacked: if is_unpacked { stretch.rows } else { 0 },
            first_unpacked: if is_unpacked { stretch.first } else { TimeMs::from_millis(i64::MAX) },
            small: stretch.small,
            rows: stretch.rows,
            samples: stretch.samples,
            stretches: vec![stretch],
        }
    }

    fn add(&mut self, other: Self) {
        self.hours = (self.hours.0.min(other.hours.0), self.hours.1.max(other.hours.1));
        self.unpacked += other.unpacked;
        self.first_unpacked = self.first_unpacked.min(other.first_unpacked);
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
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const DAY: Day = 20_000;
    const BEGIN: i64 = DAY * DAY_MS;
    /// Samples of a full row here.
    const FULL: usize = 16;
    /// A GPU of the block.
    const GPU: i64 = 7;

    fn block() -> BlockId {
        BlockId::of(GpuId::from_store(GPU))
    }

    /// GPU, time, and the id of the row that it came in.
    type Sample = (i64, i64, i64);

    /// A row as a store has it: samples in order.
    #[derive(Clone, Debug, PartialEq)]
    struct Row {
        form: Form,
        id: i64,
        samples: Vec<Sample>,
    }

    impl Row {
        fn first(&self) -> i64 {
            self.samples.iter().map(|(_, time, _)| *time).min().unwrap()
        }

        fn last(&self) -> i64 {
            self.samples.iter().map(|(_, time, _)| *time).max().unwrap()
        }

        fn owner(&self) -> Owner {
            if self.form == Form::Slab { Owner::Block(block()) } else { Owner::Gpu(GpuId::from_store(self.samples[0].0)) }
        }

        fn stretch(&self) -> Stretch {
            Stretch {
                owner: self.owner(),
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

    fn day(finished: bool, until: i64, max_samples: u64) -> PlannedDay {
        PlannedDay { day: DAY, finished, until: TimeMs::from_millis(until), max_samples }
    }

    /// Rows by the hours that they begin and end in, as a store sums them up.
    fn summed_up(rows: &[Row]) -> Vec<Stretch> {
        let mut summed: BTreeMap<(Owner, usize, i64, i64), Stretch> = BTreeMap::new();
        for row in rows {
            let form = [Form::Chunk, Form::Slab, Form::Packed].iter().position(|form| *form == row.form).unwrap();
            let (key, next) = ((row.owner(), form, row.first() / HOUR_MS, row.last() / HOUR_MS), row.stretch());
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

    /// The rows that a rewrite takes: as a store does.
    fn taken_by(rewrite: &Rewrite, rows: &[Row]) -> Vec<bool> {
        let is_in = |row: &Row| {
            row.last() >= rewrite.from.as_millis()
                && row.first() < rewrite.before.as_millis()
                && rewrite.ids.is_none_or(|(from, to)| (from..=to).contains(&row.id))
        };
        let unpacked = |row: &Row| is_in(row) && row.form != Form::Packed && matches!(rewrite.owner, Owner::Block(_));
        let touched: BTreeSet<i64> =
            rows.iter().filter(|row| unpacked(row)).flat_map(|row| row.samples.iter().map(|(gpu, ..)| *gpu)).collect();
        let taken = |row: &Row| match rewrite.owner {
            Owner::Gpu(_) => is_in(row) && row.owner() == rewrite.owner,
            Owner::Block(_) if rewrite.joins => is_in(row),
            Owner::Block(_) => unpacked(row) || is_in(row) && touched.contains(&row.samples[0].0),
        };
        rows.iter().map(taken).collect()
    }

    /// All rewrites of a plan, looked at closely where the plan asks for that; and whether to plan again.
    fn rewrites(day: &PlannedDay, rows: &[Row]) -> (Vec<Rewrite>, bool) {
        let mut rewrites = Vec::new();
        let Steps { steps, again } = day.plan(block(), &summed_up(rows));
        for step in steps {
            match step {
                Step::Rewrite(rewrite) => rewrites.push(rewrite),
                Step::LookCloser { owner, from, before } => {
                    let is_in = |row: &&Row| row.last() >= from.as_millis() && row.first() < before.as_millis();
                    let own = |row: &&Row| matches!(owner, Owner::Block(_)) || row.owner() == owner;
                    let close: Vec<Stretch> = rows.iter().filter(is_in).filter(own).map(Row::stretch).collect();
                    for step in day.plan(block(), &close).steps {
                        let Step::Rewrite(rewrite) = step else { panic!("there is nothing closer: {step:?}") };
                        rewrites.push(rewrite);
                    }
                }
            }
        }
        (rewrites, again)
    }

    fn carry_out(rewrite: &Rewrite, rows: &mut Vec<Row>) {
        let mut is_taken = taken_by(rewrite, rows).into_iter();
        let (mut taken, kept): (Vec<Row>, Vec<Row>) = std::mem::take(rows).into_iter().partition(|_| is_taken.next().unwrap());
        *rows = kept;
        taken.sort_by_key(|row| row.id);
        let mut gpus: BTreeMap<i64, (i64, Vec<Sample>)> = BTreeMap::new();
        for row in taken {
            for sample in row.samples {
                let (id, samples) = gpus.entry(sample.0).or_default();
                *id = row.id;
                samples.push(sample);
            }
        }
        for (id, mut samples) in gpus.into_values() {
            samples.sort_by_key(|(_, time, _)| *time);
            rows.extend(samples.chunks(FULL).map(|samples| Row { form: Form::Packed, id, samples: samples.to_vec() }));
        }
    }

    /// Of each GPU and time the sample that counts: of the row with the greatest id the last one.
    fn what_counts(rows: &[Row]) -> BTreeMap<(i64, i64), i64> {
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_by_key(|row| row.id);
        sorted.iter().flat_map(|row| row.samples.iter().map(|(gpu, time, came)| ((*gpu, *time), *came))).collect()
    }

    fn all_samples(rows: &[Row]) -> Vec<Sample> {
        let mut samples: Vec<Sample> = rows.iter().flat_map(|row| row.samples.clone()).collect();
        samples.sort_unstable();
        samples
    }

    prop_compose! {
        /// Chunks and slabs of a block in the order of their ids; some long, many short, with times that meet.
        fn committed(from_id: i64, slabs: bool)(
            rows in prop::collection::vec(
                (0i64..24 * 60, prop::collection::vec((0i64..3, 0i64..100), 1..9), 0u32..10, any::<bool>()), 0..40),
        ) -> Vec<Row> {
            rows.into_iter().enumerate().map(|(at, (minute, samples, long, slab))| {
                let (id, slab) = (from_id + at as i64, slabs && slab);
                let unit = if long == 0 { 5 * 60_000 } else { 6_000 };
                let gpu = samples[0].0;
                let mut samples: Vec<Sample> = samples.into_iter().map(|(own, offset)| {
                    let time = (minute * 60_000 + offset * unit).min(DAY_MS - 1) + BEGIN;
                    (GPU + if slab { own } else { gpu }, time, id)
                }).collect();
                samples.sort_unstable();
                Row { form: if slab { Form::Slab } else { Form::Chunk }, id, samples }
            }).collect()
        }
    }

    /// Packs what the plan says, with the rules of every plan checked on the way; again, until there is no more to do.
    fn maintain(day: &PlannedDay, rows: &mut Vec<Row>) -> Result<Vec<Rewrite>, TestCaseError> {
        let (samples, counted) = (all_samples(rows), what_counts(rows));
        let mut all = Vec::new();
        for attempt in 0.. {
            prop_assert!(attempt < 3, "it goes on for ever");
            let (plan, again) = rewrites(day, rows);
            for row in rows.iter().filter(|row| row.form != Form::Packed && row.first() < day.until.as_millis()) {
                let alone = [row.clone()];
                let taken = plan.iter().filter(|rewrite| taken_by(rewrite, &alone)[0]).count();
                prop_assert!(taken == 1, "{row:?} is in {taken} rewrites of {plan:?}");
            }
            for rewrite in &plan {
                let is_taken = taken_by(rewrite, rows);
                let taken: Vec<&Row> = rows.iter().zip(is_taken).filter(|(_, taken)| *taken).map(|(row, _)| row).collect();
                let (n, samples) = (taken.len() as u64, taken.iter().map(|row| row.samples.len() as u64).sum::<u64>());
                prop_assert!(
                    n > 0 && n <= rewrite.rows && samples <= rewrite.samples && samples <= day.max_samples,
                    "{rewrite:?}"
                );
                if rewrite.joins {
                    prop_assert_eq!((n, samples), (rewrite.rows, rewrite.samples));
                }
                let is_inside = |row: &&Row| row.first() >= rewrite.from.as_millis() && row.last() < rewrite.before.as_millis();
                prop_assert!(taken.iter().all(is_inside), "a row leaves {rewrite:?}");
                carry_out(rewrite, rows);
            }
            prop_assert_eq!(&all_samples(rows), &samples);
            prop_assert_eq!(&what_counts(rows), &counted);
            all.extend(plan);
            if !again {
                break;
            }
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn a_day_is_packed_by_the_hour_then_as_a_whole_and_then_left_alone(
            (mut rows, late) in any::<bool>().prop_flat_map(|slabs| (committed(1, slabs), committed(1000, slabs))),
            hour in 0i64..25, max in prop::sample::select(vec![20u64, 100, 10_000]),
        ) {
            let bound = BEGIN + hour * HOUR_MS;
            let open = day(false, bound, max);
            maintain(&open, &mut rows)?;
            if !open.is_over() {
                prop_assert_eq!(rewrites(&open, &rows), (vec![], false), "the bound has not moved");
            }
            let over = day(false, BEGIN + DAY_MS, max);
            maintain(&over, &mut rows)?;
            prop_assert!(rows.iter().all(|row| row.form == Form::Packed));
            let finished = day(true, BEGIN + DAY_MS, max);
            prop_assert_eq!(rewrites(&finished, &rows), (vec![], false));

            rows.extend(late.iter().cloned());
            let touched = maintain(&finished, &mut rows)?;
            prop_assert!(late.is_empty() == touched.is_empty());
            prop_assert_eq!(rewrites(&finished, &rows), (vec![], false));
        }
    }

    fn chunk(id: i64, from: i64, samples: i64, step: i64) -> Row {
        let samples = (0..samples).map(|i| (GPU, BEGIN + from + i * step, id)).collect();
        Row { form: Form::Chunk, id, samples }
    }

    /// One sample of each of these GPUs.
    fn slab(id: i64, from: i64, gpus: &[i64]) -> Row {
        Row { form: Form::Slab, id, samples: gpus.iter().map(|gpu| (*gpu, BEGIN + from, id)).collect() }
    }

    fn hour(hour: i64) -> TimeMs {
        TimeMs::from_millis(BEGIN + hour * HOUR_MS)
    }

    #[test]
    fn late_data_has_only_the_hours_rewritten_that_it_touches() {
        let gpu = Owner::Gpu(GpuId::from_store(GPU));
        let mut rows: Vec<Row> =
            (0..24).map(|hour| Row { form: Form::Packed, ..chunk(hour, hour * HOUR_MS, 16, 60_000) }).collect();
        rows.push(chunk(100, 5 * HOUR_MS + 1, 3, 1000));
        let plan = rewrites(&day(true, BEGIN + DAY_MS, 1000), &rows);
        let expected = Rewrite { owner: gpu, joins: true, from: hour(5), before: hour(6), ids: None, rows: 2, samples: 19 };
        assert_eq!(plan, (vec![expected], false));

        rows.push(slab(101, 7 * HOUR_MS + 1, &[GPU, GPU + 1]));
        let (plan, _) = rewrites(&day(true, BEGIN + DAY_MS, 1000), &rows);
        let of_block = Rewrite {
            owner: Owner::Block(block()),
            joins: false,
            from: hour(7),
            before: hour(8),
            rows: 2,
            samples: 18,
            ..expected
        };
        assert_eq!(plan, [expected, of_block]);
    }

    #[test]
    fn a_late_slab_leaves_the_packed_rows_of_other_gpus_alone() {
        let packed = |gpu| {
            let row = chunk(gpu, 0, 16, 60_000);
            Row { form: Form::Packed, samples: row.samples.iter().map(|(_, time, id)| (gpu, *time, *id)).collect(), ..row }
        };
        let mut rows: Vec<Row> = (1..=9).map(packed).collect();
        rows.push(slab(100, 1, &[3, 5]));
        let before = rows.clone();
        let plan = maintain(&day(true, BEGIN + DAY_MS, 1000), &mut rows).unwrap();
        assert_eq!(plan.len(), 1);
        let is_other = |row: &&Row| ![3, 5].contains(&row.samples[0].0);
        assert!(before.iter().filter(is_other).filter(|row| row.form == Form::Packed).all(|row| rows.contains(row)));
    }

    #[test]
    fn many_samples_of_one_second_are_parted_by_ids_and_late_ones_leave_full_parts_alone() {
        let mut rows: Vec<Row> = (1..=100).map(|id| chunk(id, 1000, 8, 1)).collect();
        let over = day(false, BEGIN + DAY_MS, 80);
        let (plan, _) = rewrites(&over, &rows);
        assert_eq!(plan.len(), 10);
        plan.iter().for_each(|rewrite| carry_out(rewrite, &mut rows));
        rows.push(chunk(200, 1000, 2, 1));
        let (plan, _) = rewrites(&day(true, BEGIN + DAY_MS, 80), &rows);
        assert_eq!(plan.iter().map(|rewrite| rewrite.ids).collect::<Vec<_>>(), [Some((200, 200))]);
    }

    #[test]
    fn what_begins_after_the_bound_stays_as_it_is() {
        for form in [Form::Chunk, Form::Slab] {
            let rows = [10, 11].map(|hour| Row { form, ..chunk(hour, hour * HOUR_MS, 3, 1000) });
            let (plan, _) = rewrites(&day(false, BEGIN + 11 * HOUR_MS, 1000), &rows);
            assert_eq!(plan.len(), 1);
            assert_eq!(taken_by(&plan[0], &rows), [true, false]);
        }
    }
}
