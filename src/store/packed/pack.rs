//! Series of a GPU to rectangles.
//!
//! Each day is cut into windows of a few times. In each, the series that have the same times, or times that are always as long after
//! them, make a piece: a series that lacks a sample has a piece of its own there, and not for the whole day. Neighbouring pieces of the same series become one as long as that takes
//! fewer bytes, so that quiet hours make long rows, and rows end where a job begins.

use std::collections::HashMap;
use std::ops::Range;

use super::column::Column;
use super::plan::{Fields, Head, Plan, plans};
use super::rectangle::{HEADS_BEGIN, Rectangle, TimeHead};
use super::{MAX_SAMPLES, MAX_TIMES};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::chunk::day_of;

/// Times of a window.
const WINDOW: usize = 128;

/// Bits that a row takes in PostgreSQL besides heads and bits, in the table and in its index.
const ROW_COST: usize = 120 * 8;

/// A series with its times and values.
pub type Samples = (SeriesId, Vec<TimeMs>, Vec<f64>);

/// The samples of series of one GPU as rectangles, in order of time.
///
/// Each series is there once at most; its times are sorted, and of equal ones the later counts. Rectangles lie within a UTC day and the
/// limits. They have the id, except where more samples of a series are at one time than fit in a rectangle: what comes before the last
/// ones then has lesser ids.
#[must_use]
pub fn pack(gpu: GpuId, id: i64, mut series: Vec<Samples>) -> Vec<Rectangle> {
    series.sort_by_key(|(series, _, _)| *series);
    let mut chains = Chains::default();
    for window in windows(&series) {
        for piece in pieces(&series, &window, id) {
            chains.add(piece);
        }
    }
    let mut done: Vec<Piece> = chains.all.into_iter().flat_map(|chain| melt(&series, chain)).collect();
    done.sort_by_key(|piece| (piece.times(&series)[0], piece.members[0], piece.id));
    done.iter().map(|piece| piece.rectangle(gpu, &series)).collect()
}

/// The first time of each window and the first one after it.
fn windows(series: &[Samples]) -> Vec<Range<TimeMs>> {
    let mut different: Vec<&[TimeMs]> = Vec::new();
    for (_, times, _) in series {
        if different.last().is_none_or(|last| *last != times.as_slice()) {
            different.push(times);
        }
    }
    let mut times = different.concat();
    times.sort_unstable();
    times.dedup();
    let mut windows = Vec::new();
    for day in times.chunk_by(|a, b| day_of(*a) == day_of(*b)) {
        let mut rest = day;
        while let [first, ..] = rest {
            let (window, more) = rest.split_at(window(rest));
            windows.push(*first..window[window.len() - 1].plus_millis(1));
            rest = more;
        }
    }
    windows
}

/// How many of the times make a window: to where the next one is longest away, so that those of a scrape stay together.
fn window(times: &[TimeMs]) -> usize {
    if times.len() <= WINDOW {
        return times.len();
    }
    (WINDOW / 2..=WINDOW).max_by_key(|at| times[*at].millis_since(times[at - 1])).unwrap_or(WINDOW)
}

/// The samples of some series at the same times, but for their delays.
struct Piece {
    id: i64,
    /// Which series, by place.
    members: Vec<usize>,
    /// Where their samples begin.
    starts: Vec<usize>,
    /// How many each has.
    len: usize,
    /// How many ms they are after those of the earliest.
    delays: Vec<i64>,
    /// What it takes, and how; made when it is asked for.
    layout: Option<Layout>,
    /// Whether melting it with the next one was tried, and did not pay.
    tried: bool,
}

struct Layout {
    plans: Vec<Plan>,
    cost: usize,
}

impl Piece {
    fn times<'a>(&self, series: &'a [Samples]) -> &'a [TimeMs] {
        let lead = self.delays.iter().position(|delay| *delay == 0).unwrap_or(0);
        let start = self.starts[lead];
        &series[self.members[lead]].1[start..start + self.len]
    }

    fn values<'a>(&self, series: &'a [Samples], member: usize) -> &'a [f64] {
        let start = self.starts[member];
        &series[self.members[member]].2[start..start + self.len]
    }

    fn layout(&self, series: &[Samples]) -> Layout {
        let (mut flat, mut best): (Vec<Plan>, Vec<Plan>) = (Vec::new(), Vec::new());
        for member in 0..self.members.len() {
            let (plan, line) = plans(self.values(series, member));
            best.push(line.unwrap_or_else(|| plan.clone()));
            flat.push(plan);
        }
        // One column with a slope makes all heads longer.
        let (flat, best) = (self.cost(series, flat), self.cost(series, best));
        let mut layout = if flat.cost <= best.cost { flat } else { best };
        layout.cost += ROW_COST + HEADS_BEGIN + self.len * TimeHead::of(self.times(series)).width as usize;
        layout
    }

    /// What the piece takes.
    fn cost_in(&mut self, series: &[Samples]) -> usize {
        let layout = self.layout.take().unwrap_or_else(|| self.layout(series));
        self.layout.insert(layout).cost
    }

    /// What columns and heads take.
    fn cost(&self, series: &[Samples], plans: Vec<Plan>) -> Layout {
        let id = |member: usize| series[self.members[member]].0.to_store();
        let mut fields = Fields::default();
        for (member, plan) in plans.iter().enumerate() {
            let delay = self.delays[member];
            fields.widen(id(member).wrapping_sub(id(0)) as u64, &Head { delay, ..plan.head });
        }
        let cost = plans.iter().map(|plan| plan.cost + fields.head()).sum();
        Layout { plans, cost }
    }

    /// This piece and the one that follows it, if they may be one.
    fn with(&self, next: &Self, series: &[Samples]) -> Option<Self> {
        let (n, k) = (self.len + next.len, self.members.len());
        let same_day = day_of(self.times(series)[0]) == day_of(next.times(series)[0]);
        // Where some of the series had other times between the two, those are in other pieces.
        let adjoining = self.starts.iter().zip(&next.starts).all(|(start, next)| start + self.len == *next);
        if n > MAX_TIMES || n * k > MAX_SAMPLES || !same_day || !adjoining || self.delays != next.delays || self.id != next.id {
            return None;
        }
        Some(Self {
            id: self.id,
            members: self.members.clone(),
            starts: self.starts.clone(),
            len: n,
            delays: self.delays.clone(),
            layout: None,
            tried: false,
        })
    }

    fn rectangle(&self, gpu: GpuId, series: &[Samples]) -> Rectangle {
        let made;
        let layout = if let Some(layout) = &self.layout {
            layout
        } else {
            made = self.layout(series);
            &made
        };
        let columns = layout.plans.iter().enumerate().map(|(member, plan)| {
            let column = Column::write(plan, self.values(series, member), self.delays[member]);
            (series[self.members[member]].0, column)
        });
        Rectangle { gpu, id: self.id, times: self.times(series).to_vec(), columns: columns.collect() }
    }
}

/// Series that have the same times in a window, but for their delays.
#[derive(Default)]
struct Group {
    members: Vec<usize>,
    starts: Vec<usize>,
    /// The first times, in ms.
    firsts: Vec<i64>,
}

/// The pieces of a window.
fn pieces(series: &[Samples], window: &Range<TimeMs>, id: i64) -> Vec<Piece> {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_times: HashMap<Vec<i64>, usize> = HashMap::new();
    for (member, (_, times, _)) in series.iter().enumerate() {
        let start = times.partition_point(|time| *time < window.start);
        let len = times[start..].partition_point(|time| *time < window.end);
        if len == 0 {
            continue;
        }
        let first = times[start];
        let after = times[start..start + len].iter().map(|time| time.millis_since(first)).collect();
        let at = *by_times.entry(after).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Group::default());
        }
        groups[at].members.push(member);
        groups[at].starts.push(start);
        groups[at].firsts.push(first.as_millis());
    }
    let mut sorted: Vec<(Vec<i64>, usize)> = by_times.into_iter().collect();
    sorted.sort_by_key(|(_, at)| *at);
    let cut = sorted.into_iter().zip(&groups).flat_map(|((after, _), group)| cut(&after, group, id));
    cut.collect()
}

/// The pieces of a group whose samples are so many ms after their first ones.
fn cut(after: &[i64], group: &Group, id: i64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    // Many samples may be at the same time.
    let cuts = cuts(after);
    for (i, cut) in cuts.iter().enumerate() {
        let overflow = cuts[i..cuts.len() - 1].iter().take_while(|cut| after[cut.end - 1] == after[cut.end]).count() as i64;
        let k = MAX_SAMPLES / cut.len().max(WINDOW);
        for ((members, starts), firsts) in group.members.chunks(k).zip(group.starts.chunks(k)).zip(group.firsts.chunks(k)) {
            let earliest = firsts.iter().min().copied().unwrap_or(0);
            pieces.push(Piece {
                id: id - overflow,
                members: members.to_vec(),
                starts: starts.iter().map(|start| start + cut.start).collect(),
                len: cut.len(),
                delays: firsts.iter().map(|first| first - earliest).collect(),
                layout: None,
                tried: false,
            });
        }
    }
    pieces
}

/// Cuts some times at the limit: between different times, if those at one time are not more.
fn cuts(times: &[i64]) -> Vec<Range<usize>> {
    let (mut cuts, mut start) = (Vec::new(), 0);
    while times.len() - start > MAX_TIMES {
        let end = start + MAX_TIMES;
        let same = times[start..end].partition_point(|time| *time < times[end]);
        let end = if same == 0 { end } else { start + same };
        cuts.push(start..end);
        start = end;
    }
    cuts.push(start..times.len());
    cuts
}

/// Pieces of the same series, in order of time.
#[derive(Default)]
struct Chains {
    all: Vec<Vec<Piece>>,
    by_members: HashMap<Vec<usize>, usize>,
}

impl Chains {
    fn add(&mut self, piece: Piece) {
        let next = self.all.len();
        let chain = *self.by_members.entry(piece.members.clone()).or_insert(next);
        if chain == next {
            self.all.push(Vec::new());
        }
        self.all[chain].push(piece);
    }
}

/// Makes neighbours one as long as that takes fewer bytes.
fn melt(series: &[Samples], mut chain: Vec<Piece>) -> Vec<Piece> {
    loop {
        let before = chain.len();
        let mut melted: Vec<Piece> = Vec::with_capacity(before);
        let mut rest = chain.into_iter().peekable();
        while let Some(mut piece) = rest.next() {
            if let Some(next) = rest.peek_mut().filter(|_| !piece.tried) {
                if let Some(both) = melt_two(series, &mut piece, next) {
                    piece = both;
                    rest.next();
                } else {
                    piece.tried = true;
                }
            }
            // What comes before a piece that has changed may be tried again.
            if let Some(last) = melted.last_mut().filter(|_| !piece.tried) {
                last.tried = false;
            }
            melted.push(piece);
        }
        chain = melted;
        if chain.len() == before {
            return chain;
        }
    }
}

fn melt_two(series: &[Samples], first: &mut Piece, second: &mut Piece) -> Option<Piece> {
    let mut both = first.with(second, series)?;
    let apart = first.cost_in(series) + second.cost_in(series);
    (both.cost_in(series) <= apart).then_some(both)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::packed::column::tests::values;

    const DAY: i64 = 86_400_000;

    fn series(id: i64, samples: &[(i64, f64)]) -> Samples {
        let times = samples.iter().map(|(time, _)| TimeMs::from_millis(*time)).collect();
        (SeriesId::from_store(id), times, samples.iter().map(|(_, value)| *value).collect())
    }

    /// (series, time) with all bit patterns, in the order that decides.
    type Plain = BTreeMap<(i64, i64), Vec<u64>>;

    fn plain(all: &[Samples]) -> Plain {
        let mut plain = Plain::new();
        for (series, times, values) in all {
            for (time, value) in times.iter().zip(values) {
                plain.entry((series.to_store(), time.as_millis())).or_default().push(value.to_bits());
            }
        }
        plain
    }

    /// What is in rectangles once they are rows and back; each within the limits.
    fn unpacked(rectangles: &[Rectangle]) -> Plain {
        let mut chunks = Vec::new();
        for rectangle in rectangles {
            let row = rectangle.row();
            assert!(rectangle.times.len() <= MAX_TIMES && rectangle.samples() <= MAX_SAMPLES);
            let back = Rectangle::from_row(&row).expect("it is whole");
            assert_eq!(back.row(), row);
            assert_eq!(
                row.series().expect("it is whole"),
                rectangle.columns.iter().map(|(series, _)| *series).collect::<Vec<_>>()
            );
            chunks.extend(back.chunks(|_| true).expect("it is whole"));
        }
        chunks.sort_by_key(|chunk| chunk.id);
        plain(&chunks.into_iter().map(|chunk| (chunk.series, chunk.times, chunk.values)).collect::<Vec<_>>())
    }

    fn packed(all: Vec<Samples>) -> Vec<Rectangle> {
        pack(GpuId::from_store(7), 100, all)
    }

    /// Series that share most times; some lack samples, have two at one time, or are elsewhere.
    fn any_series() -> impl Strategy<Value = Vec<Samples>> {
        let gaps = prop_oneof![3 => Just(0usize), 1 => 1usize..60];
        let one = (values(), gaps, 0i64..3, any::<bool>());
        (prop::collection::vec(one, 0..6), 0i64..3 * DAY, prop_oneof![Just(15_000i64), Just(1i64), 1i64..DAY / 100], 0i64..800)
            .prop_map(|(all, begin, step, jitter)| {
                let one = |(id, (values, gap, away, twice)): (usize, (Vec<f64>, usize, i64, bool))| {
                    let mut samples = Vec::new();
                    for (i, value) in values.into_iter().enumerate().filter(|(i, _)| gap == 0 || i % 61 != gap) {
                        let time = begin + away / 2 * 500 + i as i64 * step + (i as i64 * 7919) % (jitter + 1) % step.max(1);
                        samples.push((time, value));
                        if twice && i % 50 == 3 {
                            samples.push((time, -value));
                        }
                    }
                    series(id as i64 * 3 + 5, &samples)
                };
                all.into_iter().enumerate().map(one).collect()
            })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_order_stays(all in any_series()) {
            prop_assert_eq!(unpacked(&packed(all.clone())), plain(&all));
        }
    }

    #[test]
    fn series_with_the_same_times_share_a_row() {
        let all: Vec<Samples> =
            (1..=10).map(|id| series(id, &(0..2000).map(|i| (i * 15_000, id as f64)).collect::<Vec<_>>())).collect();
        let rectangles = packed(all.clone());
        assert_eq!(rectangles.len(), 1);
        assert_eq!(rectangles[0].samples(), 20_000);
        assert_eq!(unpacked(&rectangles), plain(&all));
    }

    #[test]
    fn series_that_are_always_late_share_a_row() {
        let late = |id: i64| series(id, &(0..2000).map(|i| (i * 30_000 + id % 4 * 1000, id as f64)).collect::<Vec<_>>());
        let all: Vec<Samples> = (1..=10).map(late).collect();
        let rectangles = packed(all.clone());
        assert_eq!(rectangles.len(), 1);
        assert_eq!(unpacked(&rectangles), plain(&all));
    }

    #[test]
    fn a_gap_costs_its_series_no_more_than_a_window() {
        let mut all: Vec<Samples> =
            (1..=10).map(|id| series(id, &(0..2048).map(|i| (i * 1000, (i % 7) as f64)).collect::<Vec<_>>())).collect();
        all[3].1.remove(700);
        all[3].2.remove(700);
        let rectangles = packed(all.clone());
        assert_eq!(rectangles.iter().map(|r| r.columns.len()).collect::<Vec<_>>(), [10, 9, 1, 10]);
        assert_eq!(unpacked(&rectangles), plain(&all));
    }

    #[test]
    fn midnights_and_limits_cut() {
        let all = vec![series(1, &(0..30_000).map(|i| (i * 10_000, 1.0)).collect::<Vec<_>>())];
        let rectangles = packed(all.clone());
        assert_eq!(rectangles.iter().map(|r| r.times.len()).sum::<usize>(), 30_000);
        assert!(rectangles.iter().all(|r| day_of(r.times[0]) == day_of(r.times[r.times.len() - 1])));
        assert_eq!(unpacked(&rectangles), plain(&all));
        let all: Vec<Samples> = (0..3000).map(|id| series(id, &(0..50).map(|i| (i, id as f64)).collect::<Vec<_>>())).collect();
        assert_eq!(unpacked(&packed(all.clone())), plain(&all));
    }

    #[test]
    fn more_samples_at_one_time_than_a_row_holds_keep_their_order() {
        let samples: Vec<(i64, f64)> =
            (0..20_000).map(|i| (if i < 100 { 1 } else { 5 }, f64::from(i))).chain([(9, 1.0)]).collect();
        let all = vec![series(1, &samples), series(2, &samples[..8000])];
        let rectangles = packed(all.clone());
        assert_eq!(unpacked(&rectangles), plain(&all));
        let last = rectangles
            .iter()
            .filter(|r| r.times.contains(&TimeMs::from_millis(5)) && r.columns[0].0.to_store() == 1)
            .map(|r| r.id);
        assert_eq!(last.max(), Some(100));
    }
}
