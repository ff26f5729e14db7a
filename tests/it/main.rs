//! The one integration binary: real Redis and PostgreSQL, started on free ports, and the real `telemetry` binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use telemetry::model;

mod across;
mod check;
mod clusters;
mod collect;
mod config;
mod embedded;
mod faults;
mod following;
mod grafana;
mod house;
mod large;
mod main_path;
mod runtime;
mod secrets;
mod serve;
mod source;
mod standby;
mod store;
mod support;
mod transport;
mod usage;
mod views;
