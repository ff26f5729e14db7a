//! What holds in every state.

use std::sync::PoisonError;

use super::engine::quick;
use super::machine::Number;
use super::{MAX_SOURCES, Protocol, State, Step};

/// Steps that ending takes at most; more are a circle.
const PATIENCE: usize = 400;

impl Protocol {
    /// No row is stored twice.
    pub(super) fn is_never_twice(&self, state: &State) -> bool {
        state.ledger.twice == [0; MAX_SOURCES]
    }

    /// A streamer that has ended has all its rows in the store.
    pub(super) fn is_stored_when_done(&self, state: &State) -> bool {
        let is_done = |streamer: &Number| self.streamers.view(*streamer).is_done;
        self.bounds.tasks.iter().zip(state.streamers).filter(|(_, streamer)| is_done(streamer)).all(|(task, _)| {
            let all = (1 << task.rows) - 1;
            state.ledger.stored[usize::from(task.source)] & all == all
        })
    }

    /// What is said to be stored is covered.
    pub(super) fn is_committed_true(&self, state: &State) -> bool {
        let facts = self.engine.facts(state.redis);
        (0..MAX_SOURCES).all(|source| u32::from(facts.committed[source]) <= state.ledger.covered[source].trailing_ones())
    }

    /// What lies before a source's position is in the queue, not acknowledged, or covered.
    pub(super) fn skips_nothing(&self, state: &State) -> bool {
        let facts = self.engine.facts(state.redis);
        (0..MAX_SOURCES).all(|source| {
            let before = (1u8 << facts.position[source]) - 1;
            before & !(facts.queued[source] | state.ledger.covered[source]) == 0
        })
    }

    /// If nothing goes wrong any more, everything is stored in the end, and every streamer ends.
    pub(super) fn can_end(&self, state: &State) -> bool {
        let mut path = Vec::new();
        let mut at = *state;
        loop {
            let hash = quick(&at);
            let shard = &self.ending[hash as usize % self.ending.len()];
            if self.has_ended(&at) || shard.read().unwrap_or_else(PoisonError::into_inner).contains(&hash) {
                break;
            }
            path.push(hash);
            let step = self.step_to_the_end(&at).filter(|_| path.len() < PATIENCE);
            let Some(step) = step else {
                let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
                stuck.get_or_insert_with(|| self.describe(&at));
                return false;
            };
            self.take(&mut at, step);
        }
        for hash in path {
            let shard = &self.ending[hash as usize % self.ending.len()];
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
        }
        true
    }

    fn has_ended(&self, state: &State) -> bool {
        let streamers = &state.streamers[..self.bounds.tasks.len()];
        let all_stored = (0..MAX_SOURCES).all(|source| state.ledger.stored[source] == self.all_rows(source));
        all_stored && streamers.iter().all(|streamer| self.streamers.view(*streamer).is_done)
    }

    /// What is done next if nothing goes wrong: one step that is due, always the same in the same state.
    fn step_to_the_end(&self, state: &State) -> Option<Step> {
        if !state.late.is_empty() {
            return Some(Step::Arrives { at: 0 });
        }
        for collector in 0..self.bounds.collectors {
            let one = self.collector(state, collector);
            if one.acknowledgement.is_some() {
                return Some(Step::Acknowledges { collector });
            }
            if !one.batches.is_empty() {
                return Some(Step::Commits { collector });
            }
        }
        // One reads for all.
        let facts = self.engine.facts(state.redis);
        if !self.collector(state, 0).is_up_to_date || facts.unread {
            return Some(Step::Reads { collector: 0 });
        }
        if facts.pending {
            return Some(Step::Claims { collector: 0 });
        }
        for streamer in 0..self.bounds.tasks.len() as u8 {
            let one = self.streamer(state, streamer);
            if one.can_send {
                return Some(Step::Sends { streamer });
            }
            if one.request.is_some() {
                return Some(Step::Asks { streamer });
            }
        }
        None
    }

    fn describe(&self, state: &State) -> String {
        let streamers: Vec<_> = state.streamers.iter().map(|one| self.streamers.get(*one)).collect();
        let collectors: Vec<_> = state.collectors.iter().map(|one| self.collectors.get(*one)).collect();
        let facts = self.engine.facts(state.redis);
        format!("{facts:?}\n{:?} {:?}\n{streamers:#?}\n{collectors:#?}", state.ledger, state.late)
    }

    /// The state from which nothing ended well, if there was one.
    #[must_use]
    pub fn stuck(&self) -> Option<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
