//! The publisher's window of one source: several batches in flight, each of which expects the position that the one before makes.
//!
//! A batch is kept until the queue has accepted it. When the first one is not accepted, neither are those behind it, or it is not known
//! whether they are. So the answers to all of them are awaited; then, according to what was said to the first one, the window waits, asks
//! where the queue is, and either goes on from one of its own batches, or stops and says from where the source has to be read again.
//!
//! ```text
//!                                       ┌──────────── not accepted again ────────────┐
//!           the first is not accepted   ▼    all are answered                        │
//! Flowing ──────────────────────────▶ Settling ───▶ (Resting) ▶ (Locating) ──▶ Recovering
//!    ▲                                                              │                │
//!    └──────────────────────────────────────────────────────────────┴────────────────┘
//!                                             nothing is left          the first is accepted
//! ```
//!
//! After each event ([`Window::push`], [`Window::answered`], [`Window::rested`], [`Window::located`], [`Window::not_located`],
//! [`Window::failed`]) the commands are taken ([`Window::command`]) and carried out in order.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::rest::{Rest, Rests};
use crate::model::{DictionaryId, Position};

#[cfg(test)]
mod tests;

/// First and longest rest before a batch is sent again.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Whether a source of which nothing is on its way has to be read again: the queue is not where it was when it accepted what was sent last.
#[must_use]
pub fn is_elsewhere(queue: Option<Position>, confirmed: Option<Position>) -> bool {
    queue != confirmed
}

/// A batch of a window. Tickets count up from 0 in the order of the batches; a window gives none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// How many batches the window had before this one.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// How many places behind another batch this one is; `None` where it is before it.
    #[must_use]
    pub fn places_behind(self, other: Self) -> Option<usize> {
        usize::try_from(self.0.checked_sub(other.0)?).ok()
    }
}

/// A batch, as far as the window has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchPlan {
    /// The position after it.
    pub next: Position,
    /// Every dictionary that it refers to.
    pub dictionaries: Vec<DictionaryId>,
}

/// What came of sending a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is in the queue.
    Accepted,
    /// The queue is elsewhere in the source. Where is asked anew: what was sent on another connection may have arrived since.
    Moved,
    /// There is no room in the queue.
    Full,
    /// The queue does not have these dictionaries.
    NeedDictionaries(Vec<DictionaryId>),
    /// There is no answer, and waiting can help: whether the queue has it is not known.
    Away {
        /// Whether somebody has to mend something in the queue first.
        blocked: bool,
    },
    /// Waiting cannot help.
    Fatal,
}

/// Why a window waits until somebody makes room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// The queue is full.
    Full,
    /// Something in the queue has to be mended.
    Blocked,
}

/// Why a window takes no more batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Halt {
    /// The queue is elsewhere in the source, at a position that none of the window's batches makes: the source is read again from there.
    Elsewhere(Option<Position>),
    /// Waiting cannot help.
    Fatal,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send a batch, after those of earlier commands; [`Window::answered`] takes what comes of it.
    Publish {
        /// The batch.
        ticket: Ticket,
        /// Which time everything is sent; it comes back with the answer.
        attempt: u64,
        /// The position that the queue must have.
        expected: Option<Position>,
        /// The dictionaries that go with it.
        with: Vec<DictionaryId>,
    },
    /// The first batch is in the queue, and out of the window.
    Accepted {
        /// The batch.
        ticket: Ticket,
    },
    /// Ask where the queue is in the source; [`Window::located`], [`Window::not_located`] or [`Window::failed`] takes the answer.
    Locate,
    /// Wait; then [`Window::rested`].
    Rest(Rest),
    /// Say that the window waits for somebody: said each time that the first batch meets the obstacle.
    Waiting {
        /// What is in the way.
        obstacle: Obstacle,
        /// Whether nothing was before.
        begins: bool,
    },
    /// Say that the window waits no longer.
    NoLongerWaiting,
    /// Stop: nothing is sent any more.
    Halt(Halt),
}

/// How a window goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Remedy {
    /// The queue is where it was: everything is sent again.
    SendAgain,
    /// The queue is asked where it is.
    Locate,
}

/// What a window is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The first batch's answer is awaited.
    Flowing,
    /// The first batch was not accepted: the answers to the others are awaited, whatever they are.
    Settling {
        rests: bool,
        then: Remedy,
    },
    Resting(Remedy),
    Locating,
    /// Everything was sent again; the first batch's answer is awaited.
    Recovering,
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    ticket: Ticket,
    next: Position,
    dictionaries: Vec<DictionaryId>,
    /// What went along when it was sent last, or goes along the next time.
    with: Vec<DictionaryId>,
    /// Whether that goes along the next time.
    brings: bool,
    /// What was said to this attempt.
    answer: Option<Answer>,
}

/// The batches of one source on their way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    size: usize,
    in_flight: VecDeque<InFlight>,
    /// Where the queue is, as far as it has answered.
    confirmed: Option<Position>,
    /// Dictionaries that the queue was given.
    given: BTreeSet<DictionaryId>,
    phase: Phase,
    /// How often everything was sent again.
    attempt: u64,
    next_ticket: u64,
    rests: Rests,
    /// Whether it was said that the window waits.
    waiting: bool,
    commands: VecDeque<Command>,
}

impl Window {
    /// A window of so many batches, on a source in which the queue is `at`.
    #[must_use]
    pub fn new(size: usize, at: Option<Position>) -> Self {
        Self {
            size,
            in_flight: VecDeque::with_capacity(size),
            confirmed: at,
            given: BTreeSet::new(),
            phase: Phase::Flowing,
            attempt: 0,
            next_ticket: 0,
            rests: Rests::new(REST.0, REST.1),
            waiting: false,
            commands: VecDeque::new(),
        }
    }

    /// Where the queue is, as far as it has answered.
    #[must_use]
    pub fn confirmed(&self) -> Option<Position> {
        self.confirmed
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// How many batches are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether all is well: nothing was refused that has not been accepted since.
    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.phase == Phase::Flowing
    }

    /// Whether a batch may be pushed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.is_flowing() && self.in_flight.len() < self.size
    }

    /// The first batch whose answer is awaited; none while the window rests or asks where the queue is.
    #[must_use]
    pub fn awaited(&self) -> Option<Ticket> {
        self.in_flight.iter().find(|batch| batch.answer.is_none()).map(|batch| batch.ticket)
    }

    /// The next command, if there is one.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Sends a batch that follows the one pushed last. Only where there is room ([`Window::has_room`]).
    pub fn push(&mut self, plan: BatchPlan) -> Ticket {
        debug_assert!(self.has_room(), "a batch is pushed where there is no room");
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let BatchPlan { next, dictionaries } = plan;
        let with: Vec<_> = dictionaries.iter().filter(|id| !self.given.contains(id)).copied().collect();
        self.given.extend(with.iter().copied());
        let expected = self.in_flight.back().map_or(self.confirmed, |last| Some(last.next));
        self.commands.push_back(Command::Publish { ticket, attempt: self.attempt, expected, with: with.clone() });
        self.in_flight.push_back(InFlight { ticket, next, dictionaries, with, brings: true, answer: None });
        ticket
    }

    /// The answer to a batch has come. What was said to an earlier attempt, or twice, is of no interest.
    pub fn answered(&mut self, ticket: Ticket, attempt: u64, answer: Answer) {
        if attempt != self.attempt {
            return;
        }
        let Some(first) = self.in_flight.front().map(|first| first.ticket) else { return };
        let batch = ticket.places_behind(first).and_then(|place| self.in_flight.get_mut(place));
        if let Some(batch) = batch.filter(|batch| batch.answer.is_none()) {
            batch.answer = Some(answer);
            self.act_on_first();
            self.act_on_all();
        }
    }

    /// The rest is over.
    pub fn rested(&mut self) {
        if let Phase::Resting(then) = self.phase {
            self.go_on(then);
        }
    }

    /// The queue has said where it is.
    pub fn located(&mut self, to: Option<Position>) {
        if self.phase != Phase::Locating {
            return;
        }
        let accepted = if is_elsewhere(to, self.confirmed) {
            to.and_then(|to| self.in_flight.iter().position(|batch| batch.next == to).map(|place| place + 1))
        } else {
            Some(0)
        };
        let Some(accepted) = accepted else { return self.halt(Halt::Elsewhere(to)) };
        for _ in 0..accepted {
            self.accept_first();
        }
        if self.in_flight.is_empty() { self.flow() } else { self.send_again() }
    }

    /// The queue has not said where it is, and waiting can help.
    pub fn not_located(&mut self) {
        if self.phase == Phase::Locating {
            self.rest(Remedy::Locate);
        }
    }

    /// What was asked cannot be answered, and waiting cannot help.
    pub fn failed(&mut self) {
        if self.phase != Phase::Closed {
            self.halt(Halt::Fatal);
        }
    }

    /// Acts on what was said to the first batch, and where it is accepted, to those behind it.
    fn act_on_first(&mut self) {
        while matches!(self.phase, Phase::Flowing | Phase::Recovering) {
            let Some(answer) = self.in_flight.front().and_then(|first| first.answer.clone()) else { return };
            match answer {
                Answer::Accepted => {
                    self.accept_first();
                    self.flow();
                }
                Answer::Moved => self.phase = Phase::Settling { rests: false, then: Remedy::Locate },
                Answer::NeedDictionaries(ids) => {
                    self.attach(&ids);
                    self.phase = Phase::Settling { rests: false, then: Remedy::SendAgain };
                }
                Answer::Full => {
                    self.wait(Obstacle::Full);
                    self.phase = Phase::Settling { rests: true, then: Remedy::SendAgain };
                }
                Answer::Away { blocked } => {
                    if blocked {
                        self.wait(Obstacle::Blocked);
                    }
                    self.phase = Phase::Settling { rests: true, then: Remedy::Locate };
                }
                Answer::Fatal => self.halt(Halt::Fatal),
            }
        }
    }

    /// Acts on a refusal once all others are answered too: they were refused with the first one, or their line is gone.
    fn act_on_all(&mut self) {
        let Phase::Settling { rests, then } = self.phase else { return };
        if self.awaited().is_none() {
            if rests { self.rest(then) } else { self.go_on(then) }
        }
    }

    fn go_on(&mut self, how: Remedy) {
        match how {
            Remedy::SendAgain => self.send_again(),
            Remedy::Locate => self.locate(),
        }
    }

    fn accept_first(&mut self) {
        if let Some(done) = self.in_flight.pop_front() {
            self.confirmed = Some(done.next);
            self.commands.push_back(Command::Accepted { ticket: done.ticket });
        }
    }

    /// All is well again.
    fn flow(&mut self) {
        self.phase = Phase::Flowing;
        self.rests.reset();
        self.wait_no_longer();
    }

    /// Sends everything again, in order.
    fn send_again(&mut self) {
        self.phase = Phase::Recovering;
        self.attempt += 1;
        let mut expected = self.confirmed;
        for batch in &mut self.in_flight {
            batch.answer = None;
            // What the queue asked for is sent once; it asks again where that got lost.
            if !std::mem::take(&mut batch.brings) {
                batch.with.clear();
            }
            let with = batch.with.clone();
            self.commands.push_back(Command::Publish { ticket: batch.ticket, attempt: self.attempt, expected, with });
            expected = Some(batch.next);
        }
    }

    /// The queue asked for these: the first batch takes them along, and again what it had with it, which was refused too. The ones behind may
    /// need others; they ask for themselves.
    fn attach(&mut self, ids: &[DictionaryId]) {
        if let Some(first) = self.in_flight.front_mut() {
            let with = first.dictionaries.iter().filter(|id| ids.contains(id) || first.with.contains(id));
            first.with = with.copied().collect();
            first.brings = true;
        }
    }

    fn locate(&mut self) {
        self.phase = Phase::Locating;
        self.commands.push_back(Command::Locate);
    }

    fn rest(&mut self, then: Remedy) {
        self.phase = Phase::Resting(then);
        let rest = self.rests.next();
        self.commands.push_back(Command::Rest(rest));
    }

    fn wait(&mut self, obstacle: Obstacle) {
        let begins = !std::mem::replace(&mut self.waiting, true);
        self.commands.push_back(Command::Waiting { obstacle, begins });
    }

    fn wait_no_longer(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.commands.push_back(Command::NoLongerWaiting);
        }
    }

    fn halt(&mut self, why: Halt) {
        self.phase = Phase::Closed;
        self.in_flight.clear();
        self.given.clear();
        if matches!(why, Halt::Elsewhere(_)) {
            self.wait_no_longer();
        }
        self.commands.push_back(Command::Halt(why));
    }
}
