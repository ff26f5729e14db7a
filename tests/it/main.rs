//! The one integration binary: real Redis and PostgreSQL, started on free ports, and the real `telemetry` binary.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod config;
mod house;
mod runtime;
mod support;
