//! Times and ranges. Both ends of a range belong to it.

use std::time::Duration;

use super::{QueryError, Result};
use crate::model::{MAX_TIME, MIN_TIME, TimeMs, parse_time};

/// From and to in ms, both included; open where `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first instant.
    pub from_ms: Option<i64>,
    /// The last instant.
    pub to_ms: Option<i64>,
}

impl Range {
    /// Of `start_time` and `end_time`.
    ///
    /// # Errors
    ///
    /// One of them is no time, or the end is before the start.
    pub fn parse(start_time: Option<&str>, end_time: Option<&str>, now_ms: i64) -> Result<Self> {
        let time = |name, text: Option<&str>| -> Result<Option<i64>> {
            let Some(text) = text else { return Ok(None) };
            parse_time_parameter(text, now_ms).map(Some).map_err(|reason| QueryError::bad(name, reason))
        };
        let (from_ms, to_ms) = (time("start_time", start_time)?, time("end_time", end_time)?);
        if let (Some(from), Some(to)) = (from_ms, to_ms)
            && to < from
        {
            return Err(QueryError::bad("end_time", "is before start_time"));
        }
        Ok(Self { from_ms, to_ms })
    }

    /// This range within another; `None` where they have nothing in common.
    #[must_use]
    pub fn within(&self, from_ms: i64, to_ms: i64) -> Option<(i64, i64)> {
        let (from, to) = (self.from_ms.unwrap_or(from_ms).max(from_ms), self.to_ms.unwrap_or(to_ms).min(to_ms));
        (from <= to).then_some((from, to))
    }
}

/// RFC 3339, seconds or milliseconds since 1970, `now`, `now-5m`, `now+1h`. In ms.
///
/// # Errors
///
/// In words.
pub fn parse_time_parameter(text: &str, now_ms: i64) -> std::result::Result<i64, String> {
    let wrong = || format!("`{text}` is not a time: write 2025-07-18T20:42:34Z, or now-5m");
    if let Some(rest) = text.strip_prefix("now") {
        // `+` of a query string has become a space.
        let (sign, rest) = match rest.split_at_checked(1) {
            _ if rest.is_empty() => return Ok(now_ms),
            Some(("-", rest)) => (-1, rest),
            Some(("+" | " ", rest)) => (1, rest),
            _ => return Err(wrong()),
        };
        let ago = humantime::parse_duration(rest).map_err(|_| wrong())?;
        let ms = i64::try_from(ago.as_millis()).map_err(|_| wrong())?;
        return Ok(now_ms.saturating_add(sign * ms.min(i64::MAX / 4)));
    }
    // A `+` in front of a zone that was not escaped has become a space.
    let mended = match text.rfind(' ') {
        Some(at) if at >= 19 && text[at + 1..].len() == 5 && text.as_bytes()[at + 3] == b':' => {
            format!("{}+{}", &text[..at], &text[at + 1..])
        }
        _ => text.to_owned(),
    };
    parse_time(mended.as_bytes()).map(TimeMs::as_millis).map_err(|_| match mended.parse::<jiff::Timestamp>() {
        Ok(_) => format!("`{text}` is outside of what can be stored: {} to {}", MIN_TIME, MAX_TIME),
        Err(_) => wrong(),
    })
}

/// `30s`, `1m`: at least a millisecond, in whole ones.
pub(super) fn parse_duration(name: &str, text: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || QueryError::bad(name, format!("`{text}` is not a duration: write 30s, 1m, 1h, at least 1ms"));
    let duration = humantime::parse_duration(text).map_err(|_| wrong())?;
    let most = Duration::from_secs(100 * 366 * 86_400);
    if duration < Duration::from_millis(1) || duration > most { Err(wrong()) } else { Ok(Some(duration)) }
}

/// A time as the API writes it: RFC 3339 in UTC, milliseconds only where there are some.
#[must_use]
pub fn time_text(ms: i64) -> String {
    TimeMs::from_millis(ms).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_what_is_none() {
        let now = 1_750_000_000_000;
        assert_eq!(parse_time_parameter("now", now), Ok(now));
        assert_eq!(parse_time_parameter("now-5m", now), Ok(now - 300_000));
        assert_eq!(parse_time_parameter("now 1h", now), Ok(now + 3_600_000));
        assert_eq!(parse_time_parameter("2025-07-18T20:42:34Z", now), Ok(1_752_871_354_000));
        assert_eq!(parse_time_parameter("2025-07-18T22:42:34 02:00", now), Ok(1_752_871_354_000));
        for wrong in ["yesterday", "now-", "now-5", "nowadays", "now-5parsecs", "2025-07-18", "nowä", "now-99999999999999999999y"]
        {
            assert!(parse_time_parameter(wrong, now).is_err(), "{wrong}");
        }
        for far in ["1000-01-01T00:00:00Z", "9000-12-31T23:59:59Z"] {
            assert!(parse_time_parameter(far, now).unwrap_err().contains("is outside of what can be stored: "), "{far}");
        }
    }

    #[test]
    fn both_ends_belong_to_it() {
        let range = Range { from_ms: Some(5), to_ms: Some(5) };
        assert_eq!(range.within(0, 10), Some((5, 5)));
        assert_eq!(range.within(6, 10), None);
        assert_eq!(Range::default().within(1, 2), Some((1, 2)));
        assert_eq!(time_text(1_752_871_354_000), "2025-07-18T20:42:34Z");
        assert_eq!(time_text(1_752_871_354_050), "2025-07-18T20:42:34.050Z");
    }
}
