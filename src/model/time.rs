//! Times: milliseconds since 1970 in UTC, and how they are read from what exports write.
//!
//! Accepted are RFC 3339 with a zone (`T`, `t` or a space between date and time; `Z`, `z`, `UTC`, `±hh:mm`, `±hhmm`, `±hh` as the zone,
//! after at most one space), and plain numbers since 1970. A number below 100,000,000,000 counts seconds (with any fraction), one
//! from there on milliseconds: within 1990..=2100 the two cannot be mistaken for each other. What is finer than a millisecond is
//! cut off, towards the past. A leap second (`:60`) is read as `:59` of the same minute: milliseconds since 1970 have no place of
//! their own for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Reason;

/// A point in time: milliseconds since 1970 in UTC. The default is 1970.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[repr(transparent)]
pub struct TimeMs(i64);

impl TimeMs {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// Before every time.
    pub const MIN: Self = Self(i64::MIN);
    /// After every time.
    pub const MAX: Self = Self(i64::MAX);

    /// The time so many milliseconds after 1970, as files, the wire and stores keep it.
    #[inline]
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    #[inline]
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds from another time to this one; negative where the other is later.
    #[inline]
    #[must_use]
    pub const fn millis_since(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// How long after another time this one is; nothing where it is not after it.
    #[must_use]
    pub fn since(self, other: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.millis_since(other)).unwrap_or(0))
    }

    /// The time so many milliseconds later (earlier, where negative).
    #[inline]
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The time so many milliseconds later (earlier, where negative); `None` where the calendar of milliseconds ends.
    #[inline]
    #[must_use]
    pub const fn checked_plus_millis(self, millis: i64) -> Option<Self> {
        match self.0.checked_add(millis) {
            Some(millis) => Some(Self(millis)),
            None => None,
        }
    }

    /// The time one interval later.
    #[inline]
    #[must_use]
    pub const fn plus(self, interval: IntervalMs) -> Self {
        Self(self.0.saturating_add(interval.0))
    }

    /// The time one interval earlier.
    #[inline]
    #[must_use]
    pub const fn minus(self, interval: IntervalMs) -> Self {
        Self(self.0.saturating_sub(interval.0))
    }

    /// The interval from another time to this one; `None` where this one is not later.
    #[inline]
    #[must_use]
    pub const fn interval_since(self, other: Self) -> Option<IntervalMs> {
        IntervalMs::new(self.millis_since(other))
    }

    /// The beginning of the step that it is in. Steps are aligned to 1970.
    #[inline]
    #[must_use]
    pub const fn floor_to(self, step: IntervalMs) -> Self {
        Self(self.0.div_euclid(step.0).saturating_mul(step.0))
    }

    /// The first beginning of a step that is not before it. Steps are aligned to 1970.
    #[inline]
    #[must_use]
    pub const fn ceil_to(self, step: IntervalMs) -> Self {
        Self(self.0.saturating_add(step.0 - 1)).floor_to(step)
    }

    /// The same time for calendars; beyond year 9999, the last one there is.
    #[must_use]
    pub fn to_timestamp(self) -> jiff::Timestamp {
        let nearest = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(nearest)
    }
}

/// A length of time in whole milliseconds, at least one: the step of a question, the width of a slice of time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct IntervalMs(i64);

impl IntervalMs {
    /// The shortest one.
    pub const MILLISECOND: Self = Self(1);
    /// A second.
    pub const SECOND: Self = Self(1000);
    /// An hour.
    pub const HOUR: Self = Self(3_600_000);
    /// A day of UTC.
    pub const DAY: Self = Self(86_400_000);

    /// An interval of so many milliseconds; `None` unless they are positive.
    #[inline]
    #[must_use]
    pub const fn new(millis: i64) -> Option<Self> {
        if millis > 0 { Some(Self(millis)) } else { None }
    }

    /// The whole milliseconds of a duration; `None` where it has none, or more than an interval can have.
    #[must_use]
    pub fn of(duration: Duration) -> Option<Self> {
        i64::try_from(duration.as_millis()).ok().and_then(Self::new)
    }

    /// Its milliseconds: positive.
    #[inline]
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The same length as the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }

    /// The interval that is so many times as long; the same one for 0.
    #[must_use]
    pub const fn times(self, factor: u32) -> Self {
        Self(self.0.saturating_mul(if factor == 0 { 1 } else { factor as i64 }))
    }

    /// One of so many parts of the interval, at least a millisecond; the same one for 0.
    #[must_use]
    pub const fn part(self, parts: u32) -> Self {
        match Self::new(self.0 / if parts == 0 { 1 } else { parts as i64 }) {
            Some(part) => part,
            None => Self::MILLISECOND,
        }
    }
}

impl fmt::Debug for IntervalMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.duration(), f)
    }
}

impl From<jiff::Timestamp> for TimeMs {
    /// What is finer than a millisecond is cut off.
    fn from(time: jiff::Timestamp) -> Self {
        Self(time.as_millisecond())
    }
}

impl fmt::Display for TimeMs {
    /// RFC 3339 in UTC, milliseconds only where there are some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.to_timestamp();
        if self.0.rem_euclid(1000) == 0 { write!(f, "{time:.0}") } else { write!(f, "{time:.3}") }
    }
}

impl fmt::Debug for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TimeMs {
    type Err = Reason;

    /// As [`parse_time`].
    fn from_str(text: &str) -> Result<Self, Reason> {
        parse_time(text.as_bytes())
    }
}

/// 1990-01-01T00:00:00Z, the first time that is accepted.
pub const MIN_TIME: TimeMs = TimeMs(631_152_000_000);
/// 2101-01-01T00:00:00Z: times before it are accepted (the years 1990 to 2100).
pub const MAX_TIME: TimeMs = TimeMs(4_133_980_800_000);

/// Plain numbers from here on are milliseconds, smaller ones seconds.
const FIRST_MS_NUMBER: i64 = 100_000_000_000;

/// A time as exports write it, to the millisecond.
///
/// # Errors
/// [`Reason::BadTime`] for what is no time, [`Reason::NoTimeZone`] for a date and time without a zone, [`Reason::TimeOutOfRange`]
/// outside 1990..=2100.
pub fn parse_time(text: &[u8]) -> Result<TimeMs, Reason> {
    let text = text.trim_ascii();
    if text.len() >= 20 && text[4] == b'-' {
        return in_range(date_time(text)?);
    }
    match text.first() {
        None => Err(Reason::BadTime),
        Some(b'+' | b'-') => {
            // A signed number is a time too, only never one that is accepted; a signed year is not of our days either.
            let rest = &text[1..];
            if !rest.is_empty() && (rest.iter().all(|b| b.is_ascii_digit() || *b == b'.') || long_year(rest)) {
                Err(Reason::TimeOutOfRange)
            } else {
                Err(Reason::BadTime)
            }
        }
        Some(_) if text.iter().all(|b| b.is_ascii_digit() || *b == b'.') => number(text),
        Some(_) if long_year(text) => Err(Reason::TimeOutOfRange),
        Some(_) => in_range(date_time(text)?),
    }
}

fn in_range(ms: i64) -> Result<TimeMs, Reason> {
    let time = TimeMs(ms);
    if (MIN_TIME..MAX_TIME).contains(&time) { Ok(time) } else { Err(Reason::TimeOutOfRange) }
}

/// `99999-01-01…`: a date all right, but none that is accepted.
fn long_year(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let dated = |rest: &[u8]| matches!(rest, [b'-', a, b, b'-', c, d, ..] if [a, b, c, d].iter().all(|x| x.is_ascii_digit()));
    digits > 4 && dated(&text[digits..])
}

/// Seconds with a fraction, or milliseconds.
fn number(text: &[u8]) -> Result<TimeMs, Reason> {
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..dot], text.get(dot + 1..).unwrap_or_default());
    if whole.is_empty() || (dot + 1 == text.len()) || fraction.contains(&b'.') {
        return Err(Reason::BadTime);
    }
    // Leading zeros aside, more than 18 digits are past every accepted time.
    let whole = &whole[whole.iter().take_while(|b| **b == b'0').count()..];
    if whole.len() > 18 {
        return Err(Reason::TimeOutOfRange);
    }
    let whole = whole.iter().fold(0i64, |n, b| n * 10 + i64::from(b - b'0'));
    if whole >= FIRST_MS_NUMBER { in_range(whole) } else { in_range(whole * 1000 + millis(fraction)) }
}

/// The first three digits of a fraction of a second.
fn millis(fraction: &[u8]) -> i64 {
    let digit = |i: usize| fraction.get(i).map_or(0, |b| i64::from(b - b'0'));
    digit(0) * 100 + digit(1) * 10 + digit(2)
}

/// Two digits as a number.
fn two(text: &[u8], at: usize) -> Option<i64> {
    match text.get(at..at + 2) {
        Some([a, b]) if a.is_ascii_digit() && b.is_ascii_digit() => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

/// `YYYY-MM-DD hh:mm:ss[.f…][zone]`. Without a zone `/` is taken between the parts of the date too, so that the answer is the one
/// that helps.
fn date_time(text: &[u8]) -> Result<i64, Reason> {
    let bad = Reason::BadTime;
    let year = two(text, 0).ok_or(bad)? * 100 + two(text, 2).ok_or(bad)?;
    let (month, day) = (two(text, 5).ok_or(bad)?, two(text, 8).ok_or(bad)?);
    let (hour, minute, second) = (two(text, 11).ok_or(bad)?, two(text, 14).ok_or(bad)?, two(text, 17).ok_or(bad)?);
    // Every byte up to 18 exists: the last `two` read 17 and 18.
    let dashes = [text[4], text[7]];
    if !(dashes == *b"--" || dashes == *b"//") || !matches!(text[10], b'T' | b't' | b' ') || [text[13], text[16]] != *b"::" {
        return Err(bad);
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 60 {
        return Err(bad);
    }
    let mut rest = &text[19..];
    let mut ms = 0;
    if let [b'.', after @ ..] = rest {
        let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(bad);
        }
        ms = millis(&after[..digits]);
        rest = &after[digits..];
    }
    if rest.is_empty() {
        return Err(Reason::NoTimeZone);
    }
    if dashes != *b"--" {
        return Err(bad);
    }
    let offset_minutes = zone(rest).ok_or(bad)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59);
    Ok((seconds - offset_minutes * 60) * 1000 + ms)
}

/// A zone's offset in minutes east of Greenwich.
fn zone(text: &[u8]) -> Option<i64> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let (sign, rest) = match text {
        b"Z" | b"z" | b"UTC" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let hours = two(rest, 0)?;
    let minutes = match rest.len() {
        2 => 0,
        4 => two(rest, 2)?,
        5 if rest[2] == b':' => two(rest, 3)?,
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Result<TimeMs, Reason> {
        text.parse()
    }

    #[test]
    fn reads_what_exports_write() {
        let base = TimeMs(1_752_871_354_000);
        for text in [
            "2025-07-18T20:42:34Z",
            "2025-07-18 20:42:34Z",
            "2025-07-18t20:42:34z",
            " 2025-07-18T22:42:34+02:00 ",
            "2025-07-18T22:42:34+0200",
            "2025-07-18 22:42:34 +02",
            "2025-07-18 20:42:34 UTC",
            "2025-07-18T15:12:34-05:30",
            "2025-07-18T20:42:34.000999Z",
            "1752871354",
            "1752871354.0009",
            "1752871354000",
            "01752871354",
        ] {
            assert_eq!(at(text), Ok(base), "{text}");
        }
        assert_eq!(at("2025-07-18T20:42:34.5Z"), Ok(base.plus_millis(500)));
        assert_eq!(at("1752871354.123999"), Ok(base.plus_millis(123)));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2016-12-31T23:59:59Z"));
        assert_eq!(at("1990-01-01T00:00:00Z"), Ok(MIN_TIME));
        assert_eq!(at("2100-12-31T23:59:59.999Z"), Ok(MAX_TIME.plus_millis(-1)));
    }

    #[test]
    fn refuses_what_is_no_time_with_the_reason_that_helps() {
        for text in [
            "",
            " ",
            "N/A",
            "now",
            "2025-02-30T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-01-01T24:00:00Z",
            "2025-01-01T00:60:00Z",
            "2025-01-01T00:00:61Z",
            "2025-01-01T00:00:00.Z",
            "2025-01-01T00:00:00+24:00",
            "2025-01-01",
            "2025-01-01T00:00Z",
            "1.2.3",
            ".5",
            "5.",
            "1e9",
            "2025-01-01T00:00:00ZZ",
            "-",
            "2025/07/14 09:00:44Z",
            "2025-07-18T20:42:34 Europe/Berlin",
            "2023-02-29T00:00:00Z",
        ] {
            assert_eq!(at(text), Err(Reason::BadTime), "{text}");
        }
        for text in ["2025-07-18T20:42:34", "2025-07-18 20:42:34.123", "2026/07/14 09:00:44.579"] {
            assert_eq!(at(text), Err(Reason::NoTimeZone), "{text}");
        }
        for text in [
            "99999-01-01T00:00:00Z",
            "+12025-01-01T00:00:00Z",
            "1989-12-31T23:59:59.999Z",
            "2101-01-01T00:00:00Z",
            "0",
            "12",
            "-5",
            "99999999999999999999999999",
            "2101-01-01T00:30:00+00:15",
        ] {
            assert_eq!(at(text), Err(Reason::TimeOutOfRange), "{text}");
        }
    }

    #[test]
    fn steps_are_aligned_to_1970() {
        let step = |ms: i64| TimeMs(ms).floor_to(IntervalMs::SECOND).as_millis();
        assert_eq!([0, 999, 1000, -1, -1000].map(step), [0, 0, 1000, -1000, -1000]);
        assert_eq!(TimeMs(1500).since(TimeMs(500)), Duration::from_secs(1));
        assert_eq!(TimeMs(500).since(TimeMs(1500)), Duration::ZERO);
        assert_eq!(TimeMs(1_752_871_354_120).to_string(), "2025-07-18T20:42:34.120Z");
        assert_eq!((TimeMs::MIN.to_timestamp(), TimeMs::MAX.to_timestamp()), (jiff::Timestamp::MIN, jiff::Timestamp::MAX));
    }

    #[test]
    fn an_interval_is_never_empty() {
        assert_eq!([i64::MIN, -1, 0].map(IntervalMs::new), [None; 3]);
        assert_eq!(IntervalMs::of(Duration::from_micros(999)), None);
        assert_eq!(IntervalMs::of(Duration::MAX), None);
        assert_eq!(IntervalMs::of(Duration::from_micros(1999)), Some(IntervalMs::MILLISECOND));
        assert_eq!(IntervalMs::SECOND.part(3000), IntervalMs::MILLISECOND);
        assert_eq!(
            (IntervalMs::HOUR.times(24), IntervalMs::HOUR.times(0), IntervalMs::DAY.part(0)),
            (IntervalMs::DAY, IntervalMs::HOUR, IntervalMs::DAY)
        );
        assert_eq!(format!("{:?}", IntervalMs::SECOND.times(90)), format!("{:?}", Duration::from_secs(90)));
    }

    proptest! {
        /// Whatever the time and the step: the step begins at or before the time, ends after it, and is aligned to 1970.
        #[test]
        fn a_time_is_within_its_step(ms in MIN_TIME.0..MAX_TIME.0, length in 1i64..100_000_000_000) {
            let (time, step) = (TimeMs(ms), IntervalMs(length));
            let (begin, next) = (time.floor_to(step), time.ceil_to(step));
            prop_assert!(begin <= time && time < begin.plus(step) && begin.as_millis() % length == 0);
            let later = if begin == time { begin } else { begin.plus(step) };
            prop_assert_eq!(next, later);
            prop_assert_eq!(begin.plus(step).minus(step), begin);
            prop_assert_eq!(begin.plus(step).interval_since(begin), Some(step));
            prop_assert_eq!(begin.interval_since(begin.plus(step)), None);
        }

        /// At the ends of the calendar nothing wraps around: what can be later is not earlier.
        #[test]
        fn times_never_wrap_around(ms in any::<i64>(), length in 1..i64::MAX, millis in any::<i64>(), factor in any::<u32>()) {
            let (time, step) = (TimeMs(ms), IntervalMs(length));
            prop_assert!(time.minus(step) <= time && time <= time.plus(step));
            prop_assert!(time.floor_to(step) <= time);
            prop_assert!(time.checked_plus_millis(millis).is_none_or(|other| other.millis_since(time) == millis));
            prop_assert!(step.part(factor) <= step && step <= step.times(factor));
            prop_assert_eq!(TimeMs::MAX.since(time).is_zero(), time == TimeMs::MAX);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(
            ms in MIN_TIME.0..MAX_TIME.0, finer in 0i32..1_000_000, offset in -1439i32..=1439, style in 0usize..4,
        ) {
            let time = jiff::Timestamp::from_millisecond(ms).unwrap() + jiff::SignedDuration::from_nanos(i64::from(finer));
            let text = if style == 0 {
                time.to_string()
            } else {
                let local = time.to_zoned(jiff::tz::Offset::from_seconds(offset * 60).unwrap().to_time_zone()).datetime();
                let zone = format!("{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / 60, offset.abs() % 60);
                let text = format!("{local}{zone}");
                match style { 1 => text, 2 => text.replace('T', " "), _ => text.to_lowercase() }
            };
            prop_assert_eq!(parse_time(text.as_bytes()), Ok(TimeMs(ms)), "{}", text);
        }

        #[test]
        fn accepts_the_same_calendar_as_jiff(
            y in 1990i32..2101, mo in 0u8..14, d in 0u8..33, h in 0u8..25, mi in 0u8..61, s in 0u8..62, frac in "(\\.[0-9]{1,9})?",
        ) {
            let text = format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}{frac}Z");
            let theirs = text.parse::<jiff::Timestamp>().ok().map(TimeMs::from);
            prop_assert_eq!(parse_time(text.as_bytes()).ok(), theirs.filter(|t| (MIN_TIME..MAX_TIME).contains(t)), "{}", text);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "[-+0-9:./TtZz ]{0,32}") {
            for text in [&bytes[..], text.as_bytes()] {
                if let Ok(time) = parse_time(text) {
                    prop_assert!((MIN_TIME..MAX_TIME).contains(&time));
                }
            }
        }
    }
}
