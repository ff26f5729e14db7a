//! What calls go over, and to: connections, servers and stores, and how they are.

use crate::ledger::Ledger;
use crate::messages::{Id, Ms, NodeId, Request};
use crate::queue::{Group, Server};

/// A call on its way.
pub(crate) struct Call {
    pub(crate) node: NodeId,
    pub(crate) group: Group,
    pub(crate) key: usize,
    pub(crate) conn: u64,
    pub(crate) run: u64,
    pub(crate) partition: usize,
    pub(crate) request: Option<Request>,
    pub(crate) sent: Ms,
    pub(crate) patience: Ms,
    pub(crate) answer_lost: bool,
    pub(crate) given_up: bool,
    /// The node knows that it was given up.
    pub(crate) told: bool,
    pub(crate) orphan: bool,
    pub(crate) waited: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) alive: bool,
    pub(crate) last_arrival: Ms,
    pub(crate) last_answer: Ms,
}

/// A partition's server, and how it is.
pub struct Place {
    /// What it holds.
    pub server: Server,
    /// Which process it is.
    pub run: u64,
    /// It is away until then.
    pub down_until: Ms,
    /// It does nothing until then.
    pub frozen_until: Ms,
    pub(crate) parked: Vec<Id>,
}

/// A group's store, and how it is.
pub struct Shop {
    /// What it holds.
    pub ledger: Ledger,
    /// An earlier state.
    pub backup: Ledger,
    /// Another store that was put in its place: what was there.
    pub former: Option<Ledger>,
    /// It is away until then.
    pub away_until: Ms,
    /// Which process it is.
    pub run: u64,
    /// A damaged chunk hides rows.
    pub damaged: bool,
    /// It is an older state, and nobody has said so yet.
    pub older: bool,
}
