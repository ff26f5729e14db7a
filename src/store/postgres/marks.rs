//! Marks: up to when a series may have samples, as far as this process knows without asking.
//!
//! `gpu.last_seen` is such a mark for all series of a GPU. It is not enough: a batch ends in the middle of a scrape, and a file may
//! have one series after the other. So what a commit writes is noted here by series. The notes on a GPU hold as long as nobody else
//! has written to it: each commit leaves a random number, its token, in the rows of the GPUs that it writes to, under their lock, and
//! who finds its own token there again knows what is stored. A mark may be too late, never too early; so marks are noted before the
//! COMMIT, and if that fails, nobody will find its token.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::chunk::Spans;
use crate::store::compare::{DaySpan, Survey};

/// What a GPU's row said under its lock, before this commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GpuState {
    pub(super) last_seen: Option<TimeMs>,
    pub(super) token: Option<i64>,
}

/// What is known of a GPU.
struct Known {
    /// What its row says if nobody else has written to it.
    state: GpuState,
    /// The mark of every series that has none of its own.
    others: Option<TimeMs>,
    series: BTreeMap<SeriesId, TimeMs>,
}

impl Known {
    fn mark(&self, series: SeriesId) -> Option<TimeMs> {
        self.series.get(&series).copied().or(self.others)
    }
}

/// The marks. Two generations: where the newer one is full, it becomes the older one, and what was not used since is forgotten.
pub(super) struct Marks {
    generations: Mutex<Generations>,
    /// Series in a generation at most.
    limit: usize,
}

#[derive(Default)]
struct Generations {
    newer: HashMap<GpuId, Known>,
    older: HashMap<GpuId, Known>,
    /// Series in `newer`.
    series: usize,
}

impl Generations {
    fn get(&self, gpu: GpuId) -> Option<&Known> {
        self.newer.get(&gpu).or_else(|| self.older.get(&gpu))
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

    /// Where a group may meet what is stored, by what is known without looking: a guess.
    pub(super) fn guess(&self, survey: &Survey) -> Vec<DaySpan> {
        let generations = self.lock();
        let guess = |span: &DaySpan| match generations.get(span.ids.gpu) {
            Some(known) => span.up_to(known.mark(span.ids.series)),
            None => Some(*span),
        };
        survey.spans.iter().filter_map(guess).collect()
    }

    /// Where a group may meet what is stored, given what the rows of its GPUs say under their lock: it does so nowhere else.
    pub(super) fn suspects(&self, survey: &Survey, states: &HashMap<GpuId, GpuState>) -> Vec<DaySpan> {
        let generations = self.lock();
        let suspect = |span: &DaySpan| {
            let state = states.get(&span.ids.gpu).copied().unwrap_or_default();
            let mark = match generations.get(span.ids.gpu) {
                Some(known) if known.state == state => known.mark(span.ids.series),
                _ => state.last_seen,
            };
            span.up_to(mark)
        };
        survey.spans.iter().filter_map(suspect).collect()
    }

    /// Notes what a commit writes that leaves this token at the GPUs of `written`, whose rows said `states` before. They are locked.
    pub(super) fn note(&self, survey: &Survey, written: &Spans, states: &HashMap<GpuId, GpuState>, token: i64) {
        let mut generations = self.lock();
        for (gpu, (_, newest)) in written {
            let before = states.get(gpu).copied().unwrap_or_default();
            let known = generations.newer.remove(gpu).inspect(|known| generations.series -= known.series.len());
            let mut known = known
                .or_else(|| generations.older.remove(gpu))
                .filter(|known| known.state == before)
                .unwrap_or_else(|| Known { state: before, others: before.last_seen, series: BTreeMap::new() });
            known.state = GpuState { last_seen: before.last_seen.max(Some(*newest)), token: Some(token) };
            generations.series += known.series.len();
            generations.newer.insert(*gpu, known);
        }
        for span in survey.spans.iter().filter(|span| written.contains_key(&span.ids.gpu)) {
            let Some(known) = generations.newer.get_mut(&span.ids.gpu) else { continue };
            let others = known.others;
            let mut added = 0;
            let mark = known.series.entry(span.ids.series).or_insert_with(|| {
                added = 1;
                others.unwrap_or(span.last)
            });
            *mark = (*mark).max(span.last);
            generations.series += added;
        }
        if generations.series > self.limit {
            generations.older = std::mem::take(&mut generations.newer);
            generations.series = 0;
        }
    }
}
