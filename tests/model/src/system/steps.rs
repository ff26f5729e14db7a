//! What can happen next.

use super::engine::{Answer, Op};
use super::few::Few;
use super::{Fault, Late, MAX_SOURCES, Protocol, State, collector, streamer};

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
    pub(super) fn streamer(&self, state: &State, streamer: u8) -> streamer::View {
        self.streamers.view(state.streamers[usize::from(streamer)])
    }

    pub(super) fn collector(&self, state: &State, collector: u8) -> collector::View {
        self.collectors.view(state.collectors[usize::from(collector)])
    }

    fn to_streamer(&self, state: &mut State, streamer: u8, event: streamer::Event) {
        let one = &mut state.streamers[usize::from(streamer)];
        *one = self.streamers.happens(*one, event);
    }

    fn to_collector(&self, state: &mut State, collector: u8, event: collector::Event) {
        let one = &mut state.collectors[usize::from(collector)];
        *one = self.collectors.happens(*one, event);
    }

    fn request_of(&self, state: &State, collector: u8, request: Request) -> Option<Op> {
        let one = self.collector(state, collector);
        match request {
            Request::Read => one.read,
            Request::Claim => one.claim,
            Request::Acknowledge => one.acknowledgement,
        }
    }

    fn can_be_late(state: &State, requests: usize) -> bool {
        usize::from(state.troubles.late) >= requests && state.late.len() + requests <= MAX_LATE
    }

    /// Everything that can happen.
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let troubles = state.troubles;
        for streamer in 0..self.bounds.tasks.len() as u8 {
            let one = self.streamer(state, streamer);
            if one.can_send {
                steps.push(Step::Sends { streamer });
            }
            if one.request.is_some() {
                steps.push(Step::Asks { streamer });
            }
            let on_their_way = one.on_their_way.len();
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
        let one = self.collector(state, collector);
        let troubles = state.troubles;
        if one.read.is_some() {
            steps.push(Step::Reads { collector });
        }
        if troubles.claims > 0 && one.claim.is_some() {
            steps.push(Step::Claims { collector });
        }
        let acknowledges_first = self.fault == Some(Fault::AcknowledgedFirst);
        if !one.batches.is_empty() && (acknowledges_first || one.acknowledgement.is_none()) {
            steps.push(Step::Commits { collector });
            if troubles.losses > 0 {
                steps.push(Step::CommitsUnseen { collector });
            }
        }
        if one.acknowledgement.is_some() {
            steps.push(Step::Acknowledges { collector });
        }
        if troubles.losses > 0 {
            for request in [Request::Read, Request::Claim, Request::Acknowledge] {
                if request == Request::Claim && troubles.claims == 0 {
                    continue;
                }
                let Some(op) = self.request_of(state, collector, request) else { continue };
                // Where nothing is changed it does not matter whether it arrived.
                let only_looks = matches!(op, Op::ListOwn { .. } | Op::Read { .. });
                for fate in [Fate::Arrived, Fate::Late, Fate::Gone] {
                    let possible = match fate {
                        Fate::Arrived => !only_looks,
                        Fate::Late => !only_looks && Self::can_be_late(state, 1),
                        // A claim that is gone is like a read that is.
                        Fate::Gone => request != Request::Claim,
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
            Step::Sends { streamer } => self.to_streamer(state, streamer, streamer::Event::Sends),
            Step::Asks { streamer } => {
                let Some(op) = self.streamer(state, streamer).request else { return };
                let answer = self.run(state, op);
                self.to_streamer(state, streamer, streamer::Event::Answered(answer));
            }
            Step::StreamerLoses { streamer, arrived, late } => {
                state.troubles.losses -= 1;
                let one = self.streamer(state, streamer);
                if arrived && let Some(op) = one.request {
                    self.run(state, op);
                }
                if late {
                    Self::are_late(state, &one.on_their_way.as_slice()[usize::from(arrived)..]);
                }
                self.to_streamer(state, streamer, streamer::Event::Unanswered);
            }
            Step::StreamerCrashes { streamer, late } => {
                state.troubles.streamer_crashes -= 1;
                if late {
                    let one = self.streamer(state, streamer);
                    Self::are_late(state, one.on_their_way.as_slice());
                }
                state.streamers[usize::from(streamer)] = self.new_streamer(streamer.into());
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

    fn are_late(state: &mut State, batches: &[streamer::Sent]) {
        for sent in batches {
            state.late.add(Late(Op::Publish { batch: sent.batch, expected: sent.expected }));
            state.troubles.late -= 1;
        }
    }

    /// Another server: no connection outlives that, and nothing that was sent to the old one reaches it.
    fn fail_over(&self, state: &mut State) {
        let Some(replica) = state.replica.take() else { return };
        state.redis = replica;
        state.troubles.failovers -= 1;
        state.late = Few::default();
        for streamer in 0..self.bounds.tasks.len() as u8 {
            self.to_streamer(state, streamer, streamer::Event::Unanswered);
        }
        for collector in 0..self.bounds.collectors {
            self.to_collector(state, collector, collector::Event::SessionEnds { acknowledging: false });
        }
    }

    /// Takes a step of a collector.
    fn collect(&self, state: &mut State, step: Step) {
        match step {
            Step::Reads { collector } => self.read(state, collector, Request::Read),
            Step::Claims { collector } => {
                // When nothing goes wrong any more there are as many as it takes.
                state.troubles.claims = state.troubles.claims.saturating_sub(1);
                self.read(state, collector, Request::Claim);
            }
            Step::Commits { collector } => {
                self.commit(state, collector);
                let settled = std::array::from_fn(|source| state.ledger.covered[source].trailing_ones() as u8);
                self.to_collector(state, collector, collector::Event::Committed(settled));
            }
            Step::CommitsUnseen { collector } => {
                state.troubles.losses -= 1;
                self.commit(state, collector);
            }
            Step::Acknowledges { collector } => {
                let Some(op) = self.request_of(state, collector, Request::Acknowledge) else { return };
                self.run(state, op);
                self.to_collector(state, collector, collector::Event::Acknowledged);
            }
            Step::CollectorLoses { collector, request, fate } => {
                let Some(op) = self.request_of(state, collector, request) else { return };
                state.troubles.losses -= 1;
                match fate {
                    Fate::Arrived => {
                        self.run(state, op);
                    }
                    Fate::Late => {
                        state.late.add(Late(op));
                        state.troubles.late -= 1;
                    }
                    Fate::Gone => {}
                }
                let acknowledging = request == Request::Acknowledge;
                self.to_collector(state, collector, collector::Event::SessionEnds { acknowledging });
            }
            Step::CollectorCrashes { collector } => {
                state.troubles.collector_crashes -= 1;
                state.collectors[usize::from(collector)] = self.new_collector(collector.into());
            }
            _ => {}
        }
    }

    fn read(&self, state: &mut State, collector: u8, request: Request) {
        let Some(op) = self.request_of(state, collector, request) else { return };
        let answer = self.run(state, op);
        if answer == Answer::NoGroup {
            self.run(state, Op::MakeGroup);
        }
        self.to_collector(state, collector, collector::Event::Read(op, answer));
    }

    /// The store takes what a collector holds, in one transaction: what is covered is found stored.
    fn commit(&self, state: &mut State, collector: u8) {
        let batches = self.collector(state, collector).batches;
        let ledger = &mut state.ledger;
        for batch in batches.as_slice() {
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

    fn run(&self, state: &mut State, op: Op) -> Answer {
        let (redis, answer) = self.engine.run(state.redis, op);
        state.redis = redis;
        answer
    }
}
