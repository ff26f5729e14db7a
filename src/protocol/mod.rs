//! The protocol's cores: state machines that decide, and do nothing else.
//!
//! A core is told what happened (an event) and says what is to be done next (a command). It has no clock, no random source, no map without
//! order, no tasks, no logs, and knows no other room but [`model`](crate::model): the same events give the same commands, in a role as in a
//! simulation. Roles carry the commands out (I/O, waiting, payloads, logs, metrics) and tell what came of them; what a batch or an entry
//! becomes is decided here, and only here.

pub mod completion;
pub mod receipts;
pub mod rest;
pub mod window;
