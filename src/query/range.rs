//! Times and ranges. Both ends of a range belong to it.

use super::{QueryError, Result};
use crate::model::{IntervalMs, MAX_TIME, MIN_TIME, TimeMs, parse_time};

/// A range of time, both ends included; open where `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first instant.
    pub from: Option<TimeMs>,
    /// The last instant.
    pub to: Option<TimeMs>,
}

impl Range {
    /// The range from `start_time` to `end_time`.
    ///
    /// # Errors
    ///
    /// One of them is not a time, or the end is before the start.
    pub fn parse(start_time: Option<&str>, end_time: Option<&str>, now: TimeMs) -> Result<Self> {
        let time = |name, text: Option<&str>| -> Result<Option<TimeMs>> {
            let Some(text) = text else { return Ok(None) };
            parse_time_parameter(text, now).map(Some).map_err(|reason| QueryError::bad(name, reason))
        };
        let (from, to) = (time("start_time", start_time)?, time("end_time", end_time)?);
        if let (Some(from), Some(to)) = (from, to)
            && to < from
        {
            return Err(QueryError::bad("end_time", "is before start_time"));
        }
        Ok(Self { from, to })
    }

    /// This range within another; `None` where they have nothing in common.
    #[must_use]
    pub fn within(&self, first: TimeMs, last: TimeMs) -> Option<(TimeMs, TimeMs)> {
        let (from, to) = (self.from.unwrap_or(first).max(first), self.to.unwrap_or(last).min(last));
        (from <= to).then_some((from, to))
    }
}

/// The time that a parameter names: RFC 3339, seconds or milliseconds since 1970, `now`, `now-5m`, `now+1h`.
///
/// # Errors
///
/// In words.
pub fn parse_time_parameter(text: &str, now: TimeMs) -> std::result::Result<TimeMs, String> {
    let wrong = || format!("`{text}` is not a time: write 2025-07-18T20:42:34Z, or now-5m");
    if let Some(rest) = text.strip_prefix("now") {
        // `+` of a query string has become a space.
        let (sign, rest) = match rest.split_at_checked(1) {
            _ if rest.is_empty() => return Ok(now),
            Some(("-", rest)) => (-1, rest),
            Some(("+" | " ", rest)) => (1, rest),
            _ => return Err(wrong()),
        };
        let ago = humantime::parse_duration(rest).map_err(|_| wrong())?;
        let ms = i64::try_from(ago.as_millis()).map_err(|_| wrong())?;
        return Ok(now.plus_millis(sign * ms));
    }
    // A `+` in front of a zone that was not escaped has become a space.
    let mended = match text.rfind(' ') {
        Some(at) if at >= 19 && text[at + 1..].len() == 5 && text.as_bytes()[at + 3] == b':' => {
            format!("{}+{}", &text[..at], &text[at + 1..])
        }
        _ => text.to_owned(),
    };
    parse_time(mended.as_bytes()).map_err(|_| match mended.parse::<jiff::Timestamp>() {
        Ok(_) => format!("`{text}` is outside of what can be stored: {} to {}", MIN_TIME, MAX_TIME),
        Err(_) => wrong(),
    })
}

/// The longest step that a request may ask for.
const MAX_STEP: IntervalMs = IntervalMs::DAY.times(100 * 366);

/// The length of a step, where one is given: `30s`, `1m`.
pub(super) fn parse_step(text: Option<&str>) -> Result<Option<IntervalMs>> {
    let Some(text) = text else { return Ok(None) };
    let step = humantime::parse_duration(text).ok().and_then(IntervalMs::of).filter(|step| *step <= MAX_STEP);
    let wrong = || QueryError::bad("step", format!("`{text}` is not a duration: write 30s, 1m, 1h, at least 1ms"));
    step.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_what_is_none() {
        let at = TimeMs::from_millis;
        let now = at(1_750_000_000_000);
        assert_eq!(parse_time_parameter("now", now), Ok(now));
        assert_eq!(parse_time_parameter("now-5m", now), Ok(now.plus_millis(-300_000)));
        assert_eq!(parse_time_parameter("now 1h", now), Ok(now.plus(IntervalMs::HOUR)));
        assert_eq!(parse_time_parameter("2025-07-18T20:42:34Z", now), Ok(at(1_752_871_354_000)));
        assert_eq!(parse_time_parameter("2025-07-18T22:42:34 02:00", now), Ok(at(1_752_871_354_000)));
        for wrong in ["yesterday", "now-", "now-5", "nowadays", "now-5parsecs", "2025-07-18", "nowä", "now-99999999999999999999y"]
        {
            assert!(parse_time_parameter(wrong, now).is_err(), "{wrong}");
        }
        for far in ["1000-01-01T00:00:00Z", "9000-12-31T23:59:59Z"] {
            assert!(parse_time_parameter(far, now).unwrap_err().contains("is outside of what can be stored: "), "{far}");
        }
    }

    #[test]
    fn steps_and_what_is_none() {
        let step = |text| parse_step(Some(text)).map(|step| step.map(IntervalMs::as_millis));
        for (text, millis) in [("30s", 30_000), ("1ms", 1), ("1h", 3_600_000), ("1ms 999us", 1), ("36600d", 36_600 * 86_400_000)]
        {
            assert_eq!(step(text).unwrap(), Some(millis), "{text}");
        }
        for wrong in ["", "0s", "999us", "1", "36601d", "99999999999999999999y", "-1s"] {
            assert!(step(wrong).unwrap_err().to_string().starts_with("step: "), "{wrong}");
        }
        assert_eq!(parse_step(None).unwrap(), None);
    }

    #[test]
    fn both_ends_belong_to_it() {
        let at = TimeMs::from_millis;
        let range = Range { from: Some(at(5)), to: Some(at(5)) };
        assert_eq!(range.within(at(0), at(10)), Some((at(5), at(5))));
        assert_eq!(range.within(at(6), at(10)), None);
        assert_eq!(Range::default().within(at(1), at(2)), Some((at(1), at(2))));
    }
}
