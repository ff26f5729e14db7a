//! [`Life`]: one receipt from its delivery to its end; what happens to it, and what is to be done then.

use std::time::Duration;

use super::Arrival;
use crate::protocol::rest::{Rest, Rests};

/// Whose first delivery was not decoded, since its collector ended for another reason, is decoded once in any case.
pub const FEWEST_ATTEMPTS: u32 = 2;
/// First and longest rest before a batch is decoded again whose dictionaries the queue could not be asked for.
const READING_RESTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// First and longest rest before a suspect is tried again.
const SUSPECT_RESTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// When an entry that was let go is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redelivery {
    /// To this consumer, by its next read that can.
    AtOnce,
    /// To this consumer or another one, once nobody has kept it for `claim_idle`.
    AfterIdle,
}

/// What became of a decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decoded {
    /// A batch that the store can take.
    Batch,
    /// The queue cannot be asked for its dictionaries now.
    QueueAway,
    /// It is written in a version of the format that a newer collector may know.
    UnknownVersion,
    /// It is damaged, and will be: no retry can help.
    Incurable,
    /// Something is missing that may still come.
    Doubtful,
    /// The process is to end.
    Ending,
    /// Something failed that ends the collector.
    Fatal,
}

/// Why the store does not take batches, though it can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A batch of the group cannot be stored.
    BadBatch,
    /// What is stored already is damaged, so that nobody can say whether a batch is.
    DamagedChunk,
}

/// What happened to a receipt: the outcome of the [`Step`] before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Its task takes it up: its reader after the delivery, or a task of its own after [`Step::Judge`].
    TakenUp,
    /// So many attempts to decode it are noted, this one included.
    AttemptNoted(u32),
    /// It was decoded, or not.
    Decoded(Decoded),
    /// The attempts are forgotten.
    AttemptsForgotten,
    /// The rest is over.
    Rested,
    /// Whether it is still in the queue, and this consumer's; `None` where the queue cannot say.
    Asked(Option<bool>),
    /// The payload that was left in the queue is here.
    Fetched,
    /// The queue could not be asked now.
    QueueAway,
    /// So many failures are noted, this one included.
    FailureNoted(u32),
    /// The store does not take it, alone.
    Refused(Refusal),
    /// It waits for burial.
    WaitsForBurial,
    /// It is held back from now on.
    HeldBack {
        /// The time now.
        now: Duration,
    },
    /// The process is to end before the step could be carried out.
    Interrupted,
}

/// Why a batch becomes a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grounds {
    /// Its payload is longer than any can be, and was not read.
    Oversize,
    /// So many collectors began to decode it and did not come back. It is not decoded again.
    Attempts(u32),
    /// What was found wrong with it last.
    Fault,
}

/// What to do next with a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Fetch its payload, which was left in the queue.
    FetchPayload,
    /// Note in the store that an attempt to decode it begins. From here to [`Step::ForgetAttempts`] (or to [`Step::Bury`]) one at a time: else others that are
    /// being decoded would be blamed too.
    NoteAttempt,
    /// Decode it.
    Decode,
    /// Forget in the store the attempts to decode it.
    ForgetAttempts,
    /// Rest.
    Rest(Rest),
    /// Hand it to the writers, who commit groups.
    Offer,
    /// Give it a task of its own, which goes on with [`Event::TakenUp`]: it failed, and is no reason for others to wait.
    Judge,
    /// Ask the queue whether the entry is still there.
    AskQueue,
    /// Note in the store that it failed.
    NoteFailure,
    /// Commit it alone.
    Commit,
    /// Bury it as a dead letter, with others.
    Bury(Grounds),
    /// It can neither be stored nor be given up: it is in hand, and waits ([`Event::HeldBack`]).
    HoldBack,
    /// It is out of hand: let it go.
    LetGo(Redelivery),
    /// Nothing: it is out of hand, since it is no longer in the queue.
    Gone,
    /// Nothing: it stays pending and in hand, and waits or is left.
    Nothing,
    /// It stays pending; what failed ends the collector.
    Fail,
}

/// How far a receipt is: which outcome it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It was delivered, and waits for its reader.
    Delivered,
    /// Its payload is being fetched.
    Fetching,
    /// The attempt to decode it is being noted.
    NotingAttempt,
    /// It is being decoded.
    Decoding,
    /// The attempts are being forgotten; this is what became of it.
    ForgettingAttempts(Decoded),
    /// It rests before it is decoded again.
    Resting,
    /// It is with the writers.
    Offered,
    /// It is a suspect, and waits for its task.
    Suspected,
    /// The queue is being asked whether it is still there.
    Asking,
    /// A failure is being noted.
    NotingFailure,
    /// It is being committed alone.
    Committing,
    /// It is to be buried.
    Burying,
    /// It is stored, and being acknowledged.
    Stored,
    /// It is about to be held back.
    HoldingBack,
    /// It is held back, since then.
    HeldBack(Duration),
    /// The process is to end: it stays pending, and the next consumer finds it.
    Left,
}

/// One receipt's life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    /// The connection that it was delivered over.
    pub(super) epoch: u64,
    pub(super) stage: Stage,
    /// Bytes of its payload.
    pub(super) bytes: usize,
    /// Whether it is being judged, and has one of the places of suspects.
    pub(super) suspect: bool,
    redelivered: bool,
    oversize: bool,
    withheld: bool,
    rests: Rests,
}

/// What a life comes to by an event: a step, or a question that other lives decide.
pub(super) enum Turn {
    Step(Step),
    /// It failed in a way that may be cured: a suspect, if there is room.
    Doubt,
}

impl Life {
    pub(super) fn new<E>(arrival: &Arrival<E>) -> Self {
        let &Arrival { ref receipt, bytes, redelivered, oversize, withheld } = arrival;
        let rests = Rests::new(READING_RESTS.0, READING_RESTS.1);
        let (epoch, stage) = (receipt.epoch, Stage::Delivered);
        Self { epoch, stage, bytes, suspect: false, redelivered, oversize, withheld, rests }
    }

    fn to(&mut self, stage: Stage, step: Step) -> Turn {
        self.stage = stage;
        Turn::Step(step)
    }

    pub(super) fn happened(&mut self, event: Event, dead_after: u32) -> Turn {
        match (self.stage, event) {
            (_, Event::Interrupted) => self.to(Stage::Left, Step::Nothing),
            (Stage::Delivered, Event::TakenUp) if self.oversize => self.to(Stage::Burying, Step::Bury(Grounds::Oversize)),
            // Whoever rests has given a large payload back.
            (Stage::Delivered, Event::TakenUp) | (Stage::Resting, Event::Rested) if self.withheld => {
                self.to(Stage::Fetching, Step::FetchPayload)
            }
            (Stage::Delivered, Event::TakenUp) | (Stage::Resting, Event::Rested) | (Stage::Fetching, Event::Fetched) => {
                self.decode()
            }
            (Stage::Suspected, Event::TakenUp) => self.to(Stage::Asking, Step::AskQueue),
            (Stage::NotingAttempt, Event::AttemptNoted(attempts)) => {
                if attempts >= dead_after.max(FEWEST_ATTEMPTS) {
                    // They stay noted: if this collector is killed by another batch before the letter is acknowledged, this one is
                    // given up again at once. Two that kill would else keep each other alive.
                    self.to(Stage::Burying, Step::Bury(Grounds::Attempts(attempts)))
                } else {
                    self.to(Stage::Decoding, Step::Decode)
                }
            }
            (Stage::Decoding, Event::Decoded(decoded)) if self.redelivered => {
                self.to(Stage::ForgettingAttempts(decoded), Step::ForgetAttempts)
            }
            (Stage::Decoding, Event::Decoded(decoded)) => self.decoded(decoded),
            (Stage::ForgettingAttempts(decoded), Event::AttemptsForgotten) => self.decoded(decoded),
            (Stage::Asking, Event::Asked(Some(true) | None)) => self.to(Stage::NotingFailure, Step::NoteFailure),
            // It counts as stored by somebody else, or as lost with the queue: its streamer sends it again.
            (Stage::Asking | Stage::Fetching, Event::Asked(Some(false))) => self.to(Stage::Left, Step::Gone),
            (Stage::NotingFailure, Event::FailureNoted(failures)) if failures >= dead_after => {
                self.to(Stage::Burying, Step::Bury(Grounds::Fault))
            }
            (Stage::NotingFailure, Event::FailureNoted(_)) => self.rest(),
            // Only failures of its own count, not those of the queue.
            (Stage::Asking | Stage::Fetching, Event::QueueAway) => self.rest(),
            (Stage::Offered, Event::Refused(Refusal::BadBatch)) => {
                // It was decoded, and did no harm: that need not be noted when it is decoded again.
                self.redelivered = false;
                Turn::Doubt
            }
            (Stage::Committing, Event::Refused(Refusal::BadBatch)) => self.to(Stage::Asking, Step::AskQueue),
            // Only a damaged chunk stands in its way: it may well be good.
            (Stage::Offered | Stage::Committing, Event::Refused(Refusal::DamagedChunk)) => {
                self.to(Stage::HoldingBack, Step::HoldBack)
            }
            (Stage::HoldingBack, Event::HeldBack { now }) => self.to(Stage::HeldBack(now), Step::Nothing),
            (Stage::Burying, Event::WaitsForBurial) => Turn::Step(Step::Nothing),
            (stage, event) => {
                // Whoever carries steps out has lost its way: the collector ends, and what is pending comes again.
                debug_assert!(false, "{event:?} is no outcome of what is done at {stage:?}");
                Turn::Step(Step::Fail)
            }
        }
    }

    /// It may have killed who had it before: then the attempt is noted first. The first delivery is not noted, which would be a transaction
    /// for each entry; it counts as an attempt when there is a second one.
    fn decode(&mut self) -> Turn {
        if self.redelivered { self.to(Stage::NotingAttempt, Step::NoteAttempt) } else { self.to(Stage::Decoding, Step::Decode) }
    }

    fn rest(&mut self) -> Turn {
        let rest = self.rests.next();
        self.to(Stage::Resting, Step::Rest(rest))
    }

    fn decoded(&mut self, decoded: Decoded) -> Turn {
        match decoded {
            Decoded::Batch if self.suspect => self.to(Stage::Committing, Step::Commit),
            Decoded::Batch => self.to(Stage::Offered, Step::Offer),
            Decoded::QueueAway => self.rest(),
            Decoded::Doubtful if self.suspect => self.to(Stage::Asking, Step::AskQueue),
            Decoded::Doubtful => Turn::Doubt,
            Decoded::UnknownVersion => self.to(Stage::HoldingBack, Step::HoldBack),
            Decoded::Incurable => self.to(Stage::Burying, Step::Bury(Grounds::Fault)),
            Decoded::Ending => self.to(Stage::Left, Step::Nothing),
            Decoded::Fatal => self.to(Stage::Left, Step::Fail),
        }
    }

    /// Whether it is judged no longer, though it is not out of hand.
    pub(super) fn is_judged(&self, event: Event) -> bool {
        matches!(self.stage, Stage::HoldingBack | Stage::HeldBack(_) | Stage::Left) || event == Event::WaitsForBurial
    }

    /// It becomes a suspect.
    pub(super) fn begin_judging(&mut self) -> Step {
        self.stage = Stage::Suspected;
        self.suspect = true;
        // It has its payload in hand from now on.
        self.withheld = false;
        self.rests = Rests::new(SUSPECT_RESTS.0, SUSPECT_RESTS.1);
        Step::Judge
    }
}
