//! Marks: up to when a series may have samples, as far as this process knows without asking.
//!
//! The last time of a GPU is such a mark for all its series. It is not enough: a batch ends in the middle of a scrape, and a file may
//! have one series after the other. So what a commit writes is noted here by series. The notes on the GPUs of a block hold as long as
//! nobody else has written to the block: each commit leaves a random number, its token, in the rows of the blocks that it writes to, under
//! their lock, and who finds its own token there again knows what is stored. A mark may be too late, never too early; so marks are noted
//! before the COMMIT, and if that fails, nobody will find its token.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::blocks::BlockState;
use crate::model::{BlockId, GpuId, SeriesId, TimeMs};
use crate::store::chunk::{Ids, Spans};
use crate::store::compare::{DaySpan, Survey};

/// What is known of a block.
struct Known {
    /// What its row says if nobody else has written to it.
    state: BlockState,
    /// Its GPUs, by place.
    gpus: [KnownGpu; BlockId::GPUS],
}

/// What is known of a GPU.
#[derive(Default)]
struct KnownGpu {
    /// The mark of every series that has none of its own.
    others: Option<TimeMs>,
    series: BTreeMap<SeriesId, TimeMs>,
}

impl Known {
    /// Of a block that nothing else is known of.
    fn new(state: BlockState) -> Self {
        Self { state, gpus: state.last_seen.map(|others| KnownGpu { others, series: BTreeMap::new() }) }
    }

    fn mark(&self, ids: Ids) -> Option<TimeMs> {
        let gpu = &self.gpus[BlockId::place(ids.gpu)];
        gpu.series.get(&ids.series).copied().or(gpu.others)
    }

    /// How many series have a mark of their own.
    fn series(&self) -> usize {
        self.gpus.iter().map(|gpu| gpu.series.len()).sum()
    }

    /// Notes that a GPU has samples up to a time.
    fn widen(&mut self, gpu: GpuId, newest: TimeMs) {
        let last_seen = &mut self.state.last_seen[BlockId::place(gpu)];
        *last_seen = (*last_seen).max(Some(newest));
    }

    /// Notes what is written of a series; whether it had no mark of its own.
    fn raise(&mut self, span: &DaySpan) -> bool {
        let KnownGpu { others, series } = &mut self.gpus[BlockId::place(span.ids.gpu)];
        let before = series.len();
        let mark = series.entry(span.ids.series).or_insert_with(|| others.unwrap_or(span.last));
        *mark = (*mark).max(span.last);
        series.len() > before
    }
}

/// The marks. Two generations: where the newer one is full, it becomes the older one, and what was not used since is forgotten.
pub(super) struct Marks {
    generations: Mutex<Generations>,
    /// Series in a generation at most.
    limit: usize,
}

/// Spans of one block that come one after the other. They are in the order of series, whose ids are neighbours within a GPU.
fn by_block(spans: &[DaySpan]) -> impl Iterator<Item = &[DaySpan]> {
    spans.chunk_by(|a, b| BlockId::of(a.ids.gpu) == BlockId::of(b.ids.gpu))
}

#[derive(Default)]
struct Generations {
    newer: HashMap<BlockId, Known>,
    older: HashMap<BlockId, Known>,
    /// Series in `newer`.
    series: usize,
}

impl Generations {
    fn get(&self, block: BlockId) -> Option<&Known> {
        self.newer.get(&block).or_else(|| self.older.get(&block))
    }
}

impl Marks {
    /// Marks of at most `limit` series and a few more.
    pub(super) fn new(limit: usize) -> Self {
        Self { generations: Mutex::default(), limit: limit / 2 }
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a group may meet what is stored, by what is known without looking: a guess. Of a block that is unknown, nothing is guessed.
    pub(super) fn guess(&self, survey: &Survey) -> Vec<DaySpan> {
        let generations = self.lock();
        let mut guessed = Vec::new();
        for spans in by_block(&survey.spans) {
            let Some(known) = generations.get(BlockId::of(spans[0].ids.gpu)) else { continue };
            guessed.extend(spans.iter().filter_map(|span| span.up_to(known.mark(span.ids))));
        }
        guessed
    }

    /// Where a group may meet what is stored, given what the rows of its blocks say under their lock: it does so nowhere else.
    pub(super) fn suspects(&self, survey: &Survey, states: &HashMap<BlockId, BlockState>) -> Vec<DaySpan> {
        let generations = self.lock();
        let mut suspects = Vec::new();
        for spans in by_block(&survey.spans) {
            let block = BlockId::of(spans[0].ids.gpu);
            let Some(state) = states.get(&block) else { continue };
            let known = generations.get(block).filter(|known| known.state == *state);
            let mark = |ids: Ids| match known {
                Some(known) => known.mark(ids),
                None => state.last_seen[BlockId::place(ids.gpu)],
            };
            suspects.extend(spans.iter().filter_map(|span| span.up_to(mark(span.ids))));
        }
        suspects
    }

    /// Notes what a commit writes that leaves this token at the blocks of `written`, whose rows said `states` before. They are locked.
    pub(super) fn note(&self, survey: &Survey, written: &Spans, states: &HashMap<BlockId, BlockState>, token: i64) {
        let mut generations = self.lock();
        for (gpu, (_, newest)) in written {
            generations.current(BlockId::of(*gpu), states, token).widen(*gpu, *newest);
        }
        for spans in survey.spans.chunk_by(|a, b| a.ids.gpu == b.ids.gpu) {
            let gpu = spans[0].ids.gpu;
            let Some(known) = generations.newer.get_mut(&BlockId::of(gpu)).filter(|_| written.contains_key(&gpu)) else {
                continue;
            };
            let added = spans.iter().filter(|span| known.raise(span)).count();
            generations.series += added;
        }
        if generations.series > self.limit {
            generations.older = std::mem::take(&mut generations.newer);
            generations.series = 0;
        }
    }
}

impl Generations {
    /// What is known of a block that this token is left at: what was known if it said the same before, else only that.
    fn current(&mut self, block: BlockId, states: &HashMap<BlockId, BlockState>, token: i64) -> &mut Known {
        let is_noted = self.newer.get(&block).is_some_and(|known| known.state.token == Some(token));
        if !is_noted {
            let before = states.get(&block).copied().unwrap_or_default();
            let newer = self.newer.remove(&block).inspect(|known| self.series -= known.series());
            let mut known = newer
                .or_else(|| self.older.remove(&block))
                .filter(|known| known.state == before)
                .unwrap_or_else(|| Known::new(before));
            known.state.token = Some(token);
            self.series += known.series();
            self.newer.insert(block, known);
        }
        self.newer.entry(block).or_insert_with(|| Known::new(BlockState::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> TimeMs {
        TimeMs::from_millis(ms)
    }

    /// Samples of a series (of the GPU of the same number) from 0 to this time.
    fn survey(series: i64, last: i64) -> Survey {
        let ids = Ids { series: SeriesId::from_store(series), gpu: GpuId::from_store(series) };
        Survey { spans: vec![DaySpan { ids, first: at(0), last: at(last) }], unordered: std::collections::HashSet::new() }
    }

    fn spans(series: i64, last: i64) -> Spans {
        Spans::from([(GpuId::from_store(series), (at(0), at(last)))])
    }

    fn after(state: BlockState, gpu: usize, last: i64, token: i64) -> BlockState {
        let mut after = BlockState { token: Some(token), ..state };
        after.last_seen[gpu] = after.last_seen[gpu].max(Some(at(last)));
        after
    }

    #[test]
    fn a_commit_to_a_block_keeps_what_is_known_of_the_others_in_it() {
        let (marks, block) = (Marks::new(100), BlockId::from_store(0));
        let was = BlockState { last_seen: [Some(at(90)); BlockId::GPUS], token: Some(1) };
        marks.note(&survey(3, 5), &spans(3, 5), &HashMap::from([(block, was)]), 7);
        let one = after(was, 3, 5, 7);
        marks.note(&survey(4, 6), &spans(4, 6), &HashMap::from([(block, one)]), 8);
        let both = HashMap::from([(block, after(one, 4, 6, 8))]);
        // Nobody knows whether there was something of these series before.
        assert_eq!(marks.suspects(&survey(3, 200), &both)[0].last, at(90));
        let new = BlockState::default();
        marks.note(&survey(3, 5), &spans(3, 5), &HashMap::from([(block, new)]), 9);
        let one = after(new, 3, 5, 9);
        marks.note(&survey(4, 6), &spans(4, 6), &HashMap::from([(block, one)]), 10);
        let both = after(one, 4, 6, 10);
        let suspects = |state, series| {
            let found = marks.suspects(&survey(series, 200), &HashMap::from([(block, state)]));
            found.first().map(|span| span.last)
        };
        assert_eq!([3, 4, 5].map(|series| suspects(both, series)), [Some(at(5)), Some(at(6)), None]);
        // Somebody else wrote to the block.
        let other = after(both, 5, 50, 11);
        assert_eq!([3, 4, 5].map(|series| suspects(other, series)), [Some(at(5)), Some(at(6)), Some(at(50))]);
    }
}
