//! The protocol as a model: streamers, collectors, the queue, the store, and what can go wrong between them.
//!
//! What can happen: a connection ends before a request arrives, or before its answer does; what was sent over it arrives later, after what
//! was sent over the next; a streamer or a collector ends at any moment and begins again with nothing in its memory; a commit is done and
//! its answer lost; the replica falls behind, and takes the place of its primary; Redis loses everything. Of each there are as many as
//! [`Bounds`] says. Leases end at any moment, and whatever is pending may be claimed at any moment: there are no clocks to rely on.
//!
//! A request and what its answer makes the sender do are one step: nobody else sees what lies between, and a sender that ends there is one
//! whose answer was lost.
//!
//! What is assumed: what was sent to a server does not reach the one that takes its place; the clock of a server that is emptied goes on
//! (it need not after a failover: ids are used again there).

mod collector;
mod engine;
mod few;
mod machine;
mod properties;
mod steps;
mod streamer;

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use stateright::{Model, Property};

use self::collector::Collector;
use self::machine::{Number, Numbered};
use self::streamer::Streamer;

pub use self::engine::{Answer, Batch, Engine, Entry, EntryId, Facts, Op, Quick, RedisId};
pub use self::few::Few;
pub use self::steps::Step;
pub use self::streamer::Task;

/// Sources at most.
pub const MAX_SOURCES: usize = 2;
/// Streamers at most.
const MAX_STREAMERS: usize = 3;
/// Collectors at most.
const MAX_COLLECTORS: usize = 2;

/// A fault that is planted in the model: each must be found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The position is moved by one request, the entry is added by another.
    PositionFirst,
    /// An entry is acknowledged when it is read.
    AcknowledgedFirst,
    /// A commit does not note which rows it has stored.
    CommitWithoutRange,
    /// Who has the lease takes the source for its own: where the queue is elsewhere, it sends its next batch there.
    LeaseIsOwnership,
    /// Entries are trimmed because they are old.
    TrimByAge,
    /// Receipts are used after the session that they came over.
    ReceiptsOutliveSessions,
    /// A streamer ends when its last batch is accepted.
    EndsWhenAccepted,
    /// A collector notes the end of its batch as stored, not what the store says.
    SettledIsEnd,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::PositionFirst,
        Self::AcknowledgedFirst,
        Self::CommitWithoutRange,
        Self::LeaseIsOwnership,
        Self::TrimByAge,
        Self::ReceiptsOutliveSessions,
        Self::EndsWhenAccepted,
        Self::SettledIsEnd,
    ];
}

/// How much can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Troubles {
    /// Failovers, each to a replica that may have fallen behind.
    pub failovers: u8,
    /// How often Redis loses everything.
    pub flushes: u8,
    /// Connections that end before an answer has come.
    pub losses: u8,
    /// Of what was sent over these, requests that arrive later.
    pub late: u8,
    /// Streamers that end and begin again.
    pub streamer_crashes: u8,
    /// Collectors that end and begin again.
    pub collector_crashes: u8,
    /// Times that a collector claims what is pending, before nothing goes wrong any more.
    pub claims: u8,
}

/// How large the model is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// What it is called.
    pub name: &'static str,
    /// One for each streamer.
    pub tasks: Vec<Task>,
    /// Collectors.
    pub collectors: u8,
    /// How much can go wrong.
    pub troubles: Troubles,
}

impl Bounds {
    /// Streamers with a source of two batches each.
    #[must_use]
    pub fn new(name: &'static str, sources: &[u8], collectors: u8, troubles: Troubles) -> Self {
        let mut tasks: Vec<Task> = Vec::new();
        for source in sources {
            // A second streamer of a source cuts it in another way.
            let step = if tasks.iter().any(|task| task.source == *source) { 2 } else { 1 };
            tasks.push(Task { source: *source, rows: 2, step });
        }
        Self { name, tasks, collectors, troubles }
    }
}

/// What the store has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ledger {
    /// By source: rows that are covered, a bit each.
    pub covered: [u8; MAX_SOURCES],
    /// By source: rows that are stored.
    pub stored: [u8; MAX_SOURCES],
    /// By source: rows that are stored more than once.
    pub twice: [u8; MAX_SOURCES],
}

/// A request that arrives later than its sender waits for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Late(pub Op);

impl Default for Late {
    fn default() -> Self {
        Self(Op::MakeGroup)
    }
}

/// A state of everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The server.
    pub redis: RedisId,
    /// What its replica has, once that has fallen behind.
    pub replica: Option<RedisId>,
    /// The streamers, by the numbers of their states.
    pub streamers: [Number; MAX_STREAMERS],
    /// The collectors, likewise.
    pub collectors: [Number; MAX_COLLECTORS],
    /// The store.
    pub ledger: Ledger,
    /// Requests that are still to arrive.
    pub late: Few<Late>,
    /// What can still go wrong.
    pub troubles: Troubles,
}

/// The model.
pub struct Protocol {
    bounds: Bounds,
    fault: Option<Fault>,
    /// The only property that is looked at, where not all are.
    only: Option<&'static str>,
    engine: Engine,
    streamers: Numbered<Streamer>,
    collectors: Numbered<Collector>,
    /// By hash: states from which all ends well, if nothing goes wrong any more.
    ending: Vec<RwLock<HashSet<u64, BuildHasherDefault<Quick>>>>,
    /// What went wrong in a state from which nothing ends well, for the message.
    stuck: Mutex<Option<String>>,
    /// Whether a state was found in which a property does not hold.
    is_broken: AtomicBool,
}

impl Protocol {
    /// A model of that size, with a fault where one is planted.
    #[must_use]
    pub fn new(bounds: Bounds, fault: Option<Fault>) -> Self {
        let ending = (0..64).map(|_| RwLock::default()).collect();
        let (streamers, collectors) = (Numbered::default(), Numbered::default());
        let (stuck, is_broken) = (Mutex::default(), AtomicBool::new(false));
        Self { bounds, fault, only: None, engine: Engine::new(fault, true), streamers, collectors, ending, stuck, is_broken }
    }

    /// The same, but only that property is looked at.
    #[must_use]
    pub fn only(self, property: &'static str) -> Self {
        Self { only: Some(property), ..self }
    }

    /// Its size.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The queue.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether that holds, which is remembered if it does not.
    fn note(&self, holds: bool) -> bool {
        if !holds {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        holds
    }

    fn new_streamer(&self, at: usize) -> Number {
        // Those beyond the size are never looked at.
        let task = self.bounds.tasks[at.min(self.bounds.tasks.len() - 1)];
        self.streamers.number(Streamer::new(task, self.fault))
    }

    fn new_collector(&self, at: usize) -> Number {
        self.collectors.number(Collector::new(at as u8, self.fault))
    }

    fn all_rows(&self, source: usize) -> u8 {
        let rows = self.bounds.tasks.iter().filter(|task| usize::from(task.source) == source).map(|task| task.rows).max();
        (1 << rows.unwrap_or(0)) - 1
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            redis: 0,
            replica: None,
            streamers: std::array::from_fn(|at| self.new_streamer(at)),
            collectors: std::array::from_fn(|at| self.new_collector(at)),
            ledger: Ledger::default(),
            late: Few::default(),
            troubles: self.bounds.troubles,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.steps(state, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        self.take(&mut next, step);
        (next != *state).then_some(next)
    }

    /// Nothing is looked for beyond the first states in which a property does not hold.
    fn within_boundary(&self, _: &State) -> bool {
        !self.is_broken.load(Ordering::Relaxed)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("never twice", |model: &Self, state| model.note(model.is_never_twice(state))),
            Property::always("done implies stored", |model: &Self, state| model.note(model.is_stored_when_done(state))),
            Property::always("committed is true", |model: &Self, state| model.note(model.is_committed_true(state))),
            Property::always("nothing is skipped", |model: &Self, state| model.note(model.skips_nothing(state))),
            Property::always("never stuck", |model: &Self, state| model.note(model.can_end(state))),
        ];
        properties.retain(|property| self.only.is_none_or(|only| property.name == only));
        properties
    }
}
