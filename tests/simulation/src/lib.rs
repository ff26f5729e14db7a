//! The protocol in simulated time: the cores that ship (`src/protocol`) against a simulated queue, store and network. Every step is chosen by
//! a seed; what must hold is checked after each; a schedule that fails is shortened and printed. `docs/protocol.md` says what is held.

#[path = "../../../src/model/mod.rs"]
pub mod model;
#[path = "../../../src/protocol/mod.rs"]
pub mod protocol;

pub mod acknowledge;
pub mod collector;
pub mod faults;
pub mod invariants;
pub mod ledger;
pub mod messages;
pub mod mutants;
pub mod network;
pub mod places;
pub mod planted;
pub mod queue;
pub mod reader;
pub mod schedule;
pub mod servers;
pub mod session;
pub mod shape;
pub mod store_access;
pub mod stores;
pub mod streamer;
pub mod trace;
pub mod world;
