//! `telemetry`: GPU telemetry from many edge clusters, through a shared Redis, into PostgreSQL — each row exactly once.
//!
//! The rooms, in the order a row walks through them (ARCHITECTURE.md is the longer map):
//!
//! | room | what it does |
//! |---|---|
//! | [`model`] | GPU, series, sample, reject reasons, the DCGM metric catalogue. No I/O. |
//! | [`source`] | files, gzip, stdin, growth and rotation; yields rows with their positions. |
//! | [`batch`] | the pure builder and the wire codec: rows to bytes and back. |
//! | [`protocol`] | what becomes of a batch on its way: pure state machines that decide, while roles carry out. |
//! | [`transport`] | publisher, consumer, inspector; on Redis Streams, or inside the process. |
//! | [`store`] | commits batches together with their covered ranges; in PostgreSQL, or in SQLite. |
//! | [`query`] | checked queries to the store: lists, histories in slices, steps, groups. |
//! | [`http`] | the server: the API, its description, the page at `/`. |
//! | [`config`] | defaults, files, environment, flags; one file per section. |
//! | [`runtime`] | one bootstrap for every role: logs, metrics, admin HTTP, signals, shutdown. |
//! | [`roles`] | one file or folder per command: combines the other rooms, queue and store among them, into a role. |
//! | [`cli`] | the commands and their flags. |
//!
//! Small leaves are `address` (addresses as users write them), `diagnosis` (the steps of a check), `printable` (names made safe to
//! print), `retry`, `tls`, and `watched` (files that take effect without a restart).

pub mod address;
pub mod batch;
pub mod cli;
pub mod config;
pub mod diagnosis;
pub mod http;
pub mod model;
pub mod printable;
pub mod protocol;
pub mod query;
pub mod retry;
pub mod roles;
pub mod runtime;
pub mod source;
pub mod store;
pub mod tls;
pub mod transport;
pub mod watched;
