//! What can happen next.

use super::engine::Op;
use super::few::Few;
use super::{Fault, Late, MAX_SOURCES, Protocol, State};

/// Requests that can be late at the same time.
const MAX_LATE: usize = 2;

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// A streamer puts its next batch on its way.
    Sends {
        /// Which.
        streamer: u8,
    },
    /// A streamer's next request is carried out, and its answer comes.
    Asks {
        /// Which.
        streamer: u8,
    },
    /// A streamer's connection ends.
    StreamerLoses {
        /// Which.
        streamer: u8,
        /// Whether its next request was carried out before.
        arrived: bool,
        /// Whether the others arrive later; else they are gone.
        late: bool,
    },
    /// A streamer ends and begins again.
    StreamerCrashes {
        /// Which.
        streamer: u8,
        /// Whether what it has sent arrives later; else it is gone.
        late: bool,
    },
    /// A collector reads: what it had, what it has claimed, or what is new.
    Reads {
        /// Which.
        collector: u8,
    },
    /// A collector claims what is pending.
    Claims {
        /// Which.
        collector: u8,
    },
    /// A collector commits what it holds.
    Commits {
        /// Which.
        collector: u8,
    },
    /// The same, and the answer is lost: it will commit it again.
    CommitsUnseen {
        /// Which.
        collector: u8,
    },
    /// A collector acknowledges what it has committed.
    Acknowledges {
        /// Which.
        collector: u8,
    },
    /// A collector's connections end with a request on its way.
    CollectorLoses {
        /// Which.
        collector: u8,
        /// The request.
        request: Request,
        /// What becomes of it.
        fate: Fate,
    },
    /// A collector ends and begins again.
    CollectorCrashes {
        /// Which.
        collector: u8,
    },
    /// A late request arrives.
    Arrives {
        /// Which of them.
        at: u8,
    },
    /// From now on the replica gets nothing.
    FallsBehind,
    /// The replica takes the place of its primary.
    FailsOver,
    /// Redis loses everything.
    Flushes,
}

/// A request of a collector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// To read.
    Read,
    /// To claim.
    Claim,
    /// To acknowledge.
    Acknowledge,
}

/// What becomes of a request whose connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// It was carried out.
    Arrived,
    /// It will be.
    Late,
    /// It never is.
    Gone,
}

impl Protocol {
    fn request_of(state: &State, collector: u8, request: Request) -> Option<Op> {
        let one = &state.collectors[usize::from(collector)];
        match request {
            Request::Read => one.read(collector),
            Request::Claim => one.claim(collector),
            Request::Acknowledge => one.acknowledgement(),
        }
    }

    fn can_be_late(state: &State, requests: usize) -> bool {
        usize::from(state.troubles.late) >= requests && state.late.len() + requests <= MAX_LATE
    }

    /// Everything that can happen.
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let troubles = state.troubles;
        for (streamer, task) in (0..).zip(&self.bounds.tasks) {
            let one = state.streamers[usize::from(streamer)];
            if one.can_send(*task) {
                steps.push(Step::Sends { streamer });
            }
            if one.request(*task).is_some() {
                steps.push(Step::Asks { streamer });
            }
            let on_their_way = one.unanswered_batches(*task).count();
            if troubles.losses > 0 && on_their_way > 0 {
                for arrived in [false, true] {
                    let left = on_their_way - usize::from(arrived);
                    steps.push(Step::StreamerLoses { streamer, arrived, late: false });
                    if left > 0 && Self::can_be_late(state, left) {
                        steps.push(Step::StreamerLoses { streamer, arrived, late: true });
                    }
                }
            }
            if troubles.streamer_crashes > 0 {
                steps.push(Step::StreamerCrashes { streamer, late: false });
                if on_their_way > 0 && Self::can_be_late(state, on_their_way) {
                    steps.push(Step::StreamerCrashes { streamer, late: true });
                }
            }
        }
        for collector in 0..self.bounds.collectors {
            self.collector_steps(state, collector, steps);
        }
        steps.extend((0..state.late.len()).map(|at| Step::Arrives { at: at as u8 }));
        if troubles.failovers > 0 {
            steps.push(if state.replica.is_none() { Step::FallsBehind } else { Step::FailsOver });
        }
        if troubles.flushes > 0 {
            steps.push(Step::Flushes);
        }
    }

    fn collector_steps(&self, state: &State, collector: u8, steps: &mut Vec<Step>) {
        let one = &state.collectors[usize::from(collector)];
        let troubles = state.troubles;
        if one.read(collector).is_some() {
            steps.push(Step::Reads { collector });
        }
        if one.claim(collector).is_some() {
            steps.push(Step::Claims { collector });
        }
        if !one.held.is_empty() && (self.fault == Some(Fault::AcknowledgedFirst) || !one.owes()) {
            steps.push(Step::Commits { collector });
            if troubles.losses > 0 {
                steps.push(Step::CommitsUnseen { collector });
            }
        }
        if one.owes() {
            steps.push(Step::Acknowledges { collector });
        }
        if troubles.losses > 0 {
            for request in [Request::Read, Request::Claim, Request::Acknowledge] {
                let Some(op) = Self::request_of(state, collector, request) else { continue };
                // Where nothing is changed it does not matter whether it arrived.
                let only_looks = matches!(op, Op::ListOwn { .. } | Op::Read { .. });
                for fate in [Fate::Arrived, Fate::Late, Fate::Gone] {
                    let possible = match fate {
                        Fate::Arrived => !only_looks,
                        Fate::Late => !only_looks && Self::can_be_late(state, 1),
                        Fate::Gone => request == Request::Read || request == Request::Acknowledge,
                    };
                    if possible {
                        steps.push(Step::CollectorLoses { collector, request, fate });
                    }
                }
            }
        }
        if troubles.collector_crashes > 0 {
            steps.push(Step::CollectorCrashes { collector });
        }
    }

    /// Takes a step.
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Sends { streamer } => {
                let task = self.bounds.tasks[usize::from(streamer)];
                state.streamers[usize::from(streamer)].send(task);
            }
            Step::Asks { streamer } => {
                let task = self.bounds.tasks[usize::from(streamer)];
                let Some(op) = state.streamers[usize::from(streamer)].request(task) else { return };
                let answer = self.run(state, op);
                state.streamers[usize::from(streamer)].answered(task, answer, self.fault);
            }
            Step::StreamerLoses { streamer, arrived, late } => {
                let task = self.bounds.tasks[usize::from(streamer)];
                state.troubles.losses -= 1;
                let one = state.streamers[usize::from(streamer)];
                if arrived && let Some(op) = one.request(task) {
                    self.run(state, op);
                }
                if late {
                    let first = usize::from(arrived);
                    Self::are_late(
                        state,
                        one.unanswered_batches(task).skip(first).map(|(batch, expected)| Op::Publish { batch, expected }),
                    );
                }
                state.streamers[usize::from(streamer)].unanswered();
            }
            Step::StreamerCrashes { streamer, late } => {
                let task = self.bounds.tasks[usize::from(streamer)];
                state.troubles.streamer_crashes -= 1;
                let one = std::mem::take(&mut state.streamers[usize::from(streamer)]);
                if late {
                    Self::are_late(state, one.unanswered_batches(task).map(|(batch, expected)| Op::Publish { batch, expected }));
                }
            }
            Step::Arrives { at } => {
                let Some(Late(op)) = state.late.as_slice().get(usize::from(at)).copied() else { return };
                state.late.remove(usize::from(at));
                self.run(state, op);
            }
            Step::FallsBehind => state.replica = Some(state.redis),
            Step::FailsOver => self.fail_over(state),
            Step::Flushes => {
                state.troubles.flushes -= 1;
                self.run(state, Op::Flush);
            }
            step => self.collect(state, step),
        }
    }

    fn are_late(state: &mut State, requests: impl Iterator<Item = Op>) {
        for op in requests {
            state.late.add(Late(op));
            state.troubles.late -= 1;
        }
    }

    /// Another server: no connection outlives that, and nothing that was sent to the old one reaches it.
    fn fail_over(&self, state: &mut State) {
        let Some(replica) = state.replica.take() else { return };
        state.redis = replica;
        state.troubles.failovers -= 1;
        state.late = Few::default();
        for streamer in &mut state.streamers {
            streamer.unanswered();
        }
        for collector in &mut state.collectors {
            collector.session_ends(self.fault);
        }
    }

    /// Takes a step of a collector.
    fn collect(&self, state: &mut State, step: Step) {
        match step {
            Step::Reads { collector } => self.read(state, collector, Request::Read),
            Step::Claims { collector } => self.read(state, collector, Request::Claim),
            Step::Commits { collector } => {
                self.commit(state, collector);
                let settled = std::array::from_fn(|source| state.ledger.covered[source].trailing_ones() as u8);
                state.collectors[usize::from(collector)].has_committed(settled, self.fault);
            }
            Step::CommitsUnseen { collector } => {
                state.troubles.losses -= 1;
                self.commit(state, collector);
            }
            Step::Acknowledges { collector } => {
                let Some(op) = Self::request_of(state, collector, Request::Acknowledge) else { return };
                self.run(state, op);
                state.collectors[usize::from(collector)].has_acknowledged();
            }
            Step::CollectorLoses { collector, request, fate } => {
                let Some(op) = Self::request_of(state, collector, request) else { return };
                state.troubles.losses -= 1;
                match fate {
                    Fate::Arrived => {
                        self.run(state, op);
                    }
                    Fate::Late => Self::are_late(state, std::iter::once(op)),
                    Fate::Gone => {}
                }
                state.collectors[usize::from(collector)].session_ends(None);
            }
            Step::CollectorCrashes { collector } => {
                state.troubles.collector_crashes -= 1;
                state.collectors[usize::from(collector)] = Default::default();
            }
            _ => {}
        }
    }

    fn read(&self, state: &mut State, collector: u8, request: Request) {
        let Some(op) = Self::request_of(state, collector, request) else { return };
        let answer = self.run(state, op);
        if answer == super::Answer::NoGroup {
            self.run(state, Op::MakeGroup);
        }
        state.collectors[usize::from(collector)].has_read(op, answer, self.fault);
    }

    /// The store takes what a collector holds, in one transaction: what is covered is found stored.
    fn commit(&self, state: &mut State, collector: u8) {
        let ledger = &mut state.ledger;
        for held in state.collectors[usize::from(collector)].held.as_slice() {
            let batch = held.entry.batch;
            let source = usize::from(batch.source);
            debug_assert!(source < MAX_SOURCES);
            let rows = (batch.first..batch.end).fold(0, |rows, row| rows | 1 << row);
            let new = rows & !ledger.covered[source];
            ledger.twice[source] |= new & ledger.stored[source];
            ledger.stored[source] |= new;
            if self.fault != Some(Fault::CommitWithoutRange) {
                ledger.covered[source] |= rows;
            }
        }
    }

    fn run(&self, state: &mut State, op: Op) -> super::Answer {
        let (redis, answer) = self.engine.run(state.redis, op);
        state.redis = redis;
        answer
    }
}
