//! When a source that was read to its end is done: everything of it is where the run wants it, and so are all other sources of the run.
//!
//! Until then the queue is asked from time to time where it is: what it has lost meanwhile is sent again.
//!
//! [`Completion::next`] says what is to be done; what came of it is told with the event that the step names.

use crate::model::Position;

#[cfg(test)]
mod tests;

/// Where everything is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// Safely in the queue.
    Queued,
    /// In the store.
    Stored,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Ask how far the store has the source; then [`Completion::committed`] or [`Completion::unanswered`].
    AskCommitted,
    /// Ask whether what was published has reached the replicas, and after that where the queue is in the source: what a failover loses after
    /// it was found replicated shows in the position. Then [`Completion::replicated`] or [`Completion::unanswered`].
    AskReplicated,
    /// Wait a while, then [`Completion::rested`]; or until other sources have ended, then [`Completion::others_ended`].
    Rest,
    /// Ask where the queue is in the source; then [`Completion::located`] or [`Completion::unanswered`].
    Locate,
    /// The queue has lost rows: send the source again, from where the queue is; then [`Completion::sent_again`].
    SendAgain,
    /// The source is done.
    Finish,
}

/// A source at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Completion {
    goal: Goal,
    /// The row at which the source ends.
    end: u64,
    /// How many sources of the run are not at their end.
    unfinished: usize,
    step: Step,
}

impl Completion {
    /// A source that ends at row `end` and is in the queue up to there, while so many others are not at their end.
    #[must_use]
    pub fn new(goal: Goal, end: u64, unfinished: usize) -> Self {
        let mut completion = Self { goal, end, unfinished, step: Step::Rest };
        completion.check();
        completion
    }

    /// What is to be done.
    #[must_use]
    pub fn next(&self) -> Step {
        self.step
    }

    /// The row at which the source ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// So many other sources are not at their end now.
    pub fn others_ended(&mut self, unfinished: usize) {
        self.unfinished = unfinished;
        if self.step == Step::Rest {
            self.check();
        }
    }

    /// The rest is over.
    pub fn rested(&mut self) {
        if self.step == Step::Rest {
            self.step = Step::Locate;
        }
    }

    /// The store has the source, from row 0 on, up to this row.
    pub fn committed(&mut self, row: u64) {
        if self.step == Step::AskCommitted {
            self.finish_if(row >= self.end);
        }
    }

    /// Whether what was published has reached the replicas, and where the queue was in the source after that.
    pub fn replicated(&mut self, replicated: bool, at: Option<Position>) {
        if self.step == Step::AskReplicated {
            self.finish_if(replicated && !self.is_lost(at));
        }
    }

    /// The queue is there in the source.
    pub fn located(&mut self, at: Option<Position>) {
        if self.step == Step::Locate {
            if self.is_lost(at) { self.step = Step::SendAgain } else { self.check() }
        }
    }

    /// There is no answer, and waiting can help.
    pub fn unanswered(&mut self) {
        match self.step {
            Step::AskCommitted | Step::AskReplicated => self.step = Step::Rest,
            Step::Locate => self.check(),
            Step::Rest | Step::SendAgain | Step::Finish => {}
        }
    }

    /// The source was sent again, up to its end, which is at this row now.
    pub fn sent_again(&mut self, end: u64) {
        if self.step == Step::SendAgain {
            self.end = end;
            self.check();
        }
    }

    /// The source is done only when all are; one without rows is nowhere.
    fn check(&mut self) {
        self.step = match self.goal {
            _ if self.unfinished > 0 => Step::Rest,
            _ if self.end == 0 => Step::Finish,
            Goal::Stored => Step::AskCommitted,
            Goal::Queued => Step::AskReplicated,
        };
    }

    fn finish_if(&mut self, done: bool) {
        self.step = if done { Step::Finish } else { Step::Rest };
    }

    fn is_lost(&self, at: Option<Position>) -> bool {
        self.end > 0 && at.is_none_or(|at| at.row < self.end)
    }
}
