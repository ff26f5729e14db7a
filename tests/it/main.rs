//! The one integration binary: real Redis and PostgreSQL, started on free ports, and the real `telemetry` binary.

mod source;
mod support;
