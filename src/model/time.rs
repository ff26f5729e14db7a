//! Times are milliseconds since 1970 in UTC. Stub: being written.

use super::Reason;

/// 1990-01-01T00:00:00Z, the first time that is accepted.
pub const MIN_TIME_MS: i64 = 631_152_000_000;
/// 2101-01-01T00:00:00Z: times before it are accepted (the years 1990 to 2100).
pub const MAX_TIME_MS: i64 = 4_133_980_800_000;

/// The wall clock.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A time as exports write it, to the millisecond.
pub fn parse_time(_text: &[u8]) -> Result<i64, Reason> {
    Err(Reason::BadTime)
}
