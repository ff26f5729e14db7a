//! Samples as text: JSON, NDJSON, CSV. Written by hand, for there may be millions: a row is its series' row before it, with another
//! time and, where it has changed, another value.

use std::ops::Range;

use axum::body::Bytes;
use bytes::BytesMut;

use crate::model::TimeMs;
use crate::query::{RowSeries, Sample};

/// The forms in which samples are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One document with a page of rows.
    Json,
    /// A JSON object a line.
    Ndjson,
    /// A line of names, then a line a row.
    Csv,
}

impl Form {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// The form that an `Accept` header likes best; `None`: none of ours.
    #[must_use]
    pub fn accepted(header: Option<&str>) -> Option<Self> {
        let Some(header) = header else { return Some(Self::Json) };
        let mut best: Option<(f32, usize, Self)> = None;
        for part in header.split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let forms: &[Self] = match pieces.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "*/*" | "" | "application/*" | "application/json" => &[Self::Json],
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" => &[Self::Ndjson],
                "text/csv" | "text/*" => &[Self::Csv],
                _ => &[],
            };
            let exact = usize::from(!part.contains('*'));
            let quality = pieces.find_map(|piece| piece.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            for form in forms {
                if quality > 0.0 && best.is_none_or(|(q, e, _)| (quality, exact) > (q, e)) {
                    best = Some((quality, exact, *form));
                }
            }
        }
        best.map(|(_, _, form)| form)
    }
}

/// The names in a CSV's first line.
pub(super) const CSV_HEAD: &str = "timestamp,metric_name,value,namespace,pod,container,mig_instance\n";

/// Writes rows.
pub struct Writer {
    lines: Vec<Line>,
    clock: Clock,
    numbers: zmij::Buffer,
    integers: itoa::Buffer,
}

/// The row of a series that was written last.
struct Line {
    text: Vec<u8>,
    /// Where the time stands.
    time: Range<usize>,
    /// Where the value begins.
    number: usize,
    /// The value, as its bits; none: not a row yet.
    value: Option<u64>,
    /// What stands before the time, between time and value, and after the value.
    before: &'static str,
    between: String,
    after: String,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("series", &self.lines.len()).finish_non_exhaustive()
    }
}

impl Writer {
    /// For rows of these series.
    #[must_use]
    pub fn new(form: Form, series: &[RowSeries]) -> Self {
        let line = |s| {
            let (before, between, after) = match form {
                Form::Json => json_around(s, ""),
                Form::Ndjson => json_around(s, "\n"),
                Form::Csv => csv_around(s),
            };
            Line { text: Vec::new(), time: 0..0, number: 0, value: None, before, between, after }
        };
        let lines = series.iter().map(line).collect();
        Self { lines, clock: Clock::new(), numbers: zmij::Buffer::new(), integers: itoa::Buffer::new() }
    }

    /// Appends one row, without what separates rows in JSON; with its newline otherwise.
    #[inline]
    pub fn row(&mut self, out: &mut BytesMut, sample: &Sample) {
        let Some(line) = self.lines.get_mut(sample.series as usize) else { return };
        let (time, value) = (self.clock.text(sample.time), sample.value.to_bits());
        if line.value.is_some() && line.time.len() == time.len() {
            line.text[line.time.clone()].copy_from_slice(time);
        } else {
            line.begin(time);
        }
        if line.value != Some(value) {
            line.value = Some(value);
            line.text.truncate(line.number);
            line.text.extend_from_slice(number(sample.value, &mut self.numbers, &mut self.integers).as_bytes());
            line.text.extend_from_slice(line.after.as_bytes());
        }
        out.extend_from_slice(&line.text);
    }
}

impl Line {
    /// A row without its value.
    fn begin(&mut self, time: &[u8]) {
        self.value = None;
        self.text.clear();
        self.text.extend_from_slice(self.before.as_bytes());
        self.text.extend_from_slice(time);
        self.time = self.before.len()..self.text.len();
        self.text.extend_from_slice(self.between.as_bytes());
        self.number = self.text.len();
    }
}

/// Writes times as their `Display` does; what is as it was is not made again.
struct Clock {
    day: i64,
    second: i64,
    time: TimeMs,
    text: Vec<u8>,
}

impl Clock {
    const DAY: i64 = 86_400;
    /// Of the years 1970 to 9999.
    const DAYS: i64 = 2_932_897;
    /// `2025-07-18T`
    const DATE: usize = 11;
    /// `2025-07-18T20:42:34`
    const SECONDS: usize = 19;

    fn new() -> Self {
        Self { day: i64::MIN, second: i64::MIN, time: TimeMs::MIN, text: Vec::new() }
    }

    #[inline]
    fn text(&mut self, time: TimeMs) -> &[u8] {
        if self.time != time || self.text.is_empty() {
            self.set(time);
        }
        &self.text
    }

    fn set(&mut self, time: TimeMs) {
        self.time = time;
        let (second, ms) = (time.as_millis().div_euclid(1000), time.as_millis().rem_euclid(1000));
        if self.second != second && !self.set_second(second) {
            self.text = time.to_string().into_bytes();
            return;
        }
        self.text.truncate(Self::SECONDS);
        if ms > 0 {
            self.text.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms)]);
        }
        self.text.push(b'Z');
    }

    /// `false`: it is not of the years 1970 to 9999, and is written out each time.
    fn set_second(&mut self, second: i64) -> bool {
        let (day, of_day) = (second.div_euclid(Self::DAY), second.rem_euclid(Self::DAY));
        if !(0..Self::DAYS).contains(&day) {
            (self.day, self.second) = (i64::MIN, i64::MIN);
            return false;
        }
        if self.day != day {
            self.text = TimeMs::from_millis(day * Self::DAY * 1000).to_string().into_bytes();
            self.day = day;
        }
        self.second = second;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        self.text.truncate(Self::DATE);
        self.text.extend_from_slice(&[
            digit(hour / 10),
            digit(hour),
            b':',
            digit(minute / 10),
            digit(minute),
            b':',
            digit(second / 10),
            digit(second),
        ]);
        true
    }
}

fn digit(n: i64) -> u8 {
    b'0' + (n % 10).unsigned_abs().to_le_bytes()[0]
}

/// The shortest text that reads as the same value; whole numbers without a point.
fn number<'a>(value: f64, numbers: &'a mut zmij::Buffer, integers: &'a mut itoa::Buffer) -> &'a str {
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if value.trunc() == value && value.abs() < WHOLE && !(value == 0.0 && value.is_sign_negative()) {
        integers.format(value as i64)
    } else if value.is_finite() {
        numbers.format_finite(value)
    } else {
        "null"
    }
}

fn json_around(s: &RowSeries, end: &str) -> (&'static str, String, String) {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let between = format!("\",\"metric_name\":{},\"value\":", text(&s.row.metric));
    let mut after = String::new();
    let named = [
        ("namespace", &s.row.namespace),
        ("pod", &s.row.pod),
        ("container", &s.row.container),
        ("mig_instance", &s.mig_instance),
    ];
    for (name, value) in named {
        if !value.is_empty() {
            after.push_str(&format!(",\"{name}\":{}", text(value)));
        }
    }
    ("{\"timestamp\":\"", between, after + "}" + end)
}

fn csv_around(s: &RowSeries) -> (&'static str, String, String) {
    let cells = [&s.row.namespace, &s.row.pod, &s.row.container, &s.mig_instance].map(|text| cell(text));
    ("", format!(",{},", cell(&s.row.metric)), format!(",{}\n", cells.join(",")))
}

/// A CSV cell (RFC 4180).
fn cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// A page as one document.
pub(super) fn page(samples: &[Sample], series: &[RowSeries], next: Option<&str>) -> Bytes {
    let mut writer = Writer::new(Form::Json, series);
    let mut out = BytesMut::with_capacity(64 + samples.len() * 112);
    out.extend_from_slice(b"{\"data\":[");
    for (at, sample) in samples.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b",");
        }
        writer.row(&mut out, sample);
    }
    let end = format!("],\"next_cursor\":{}}}", serde_json::Value::from(next));
    out.extend_from_slice(end.as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::SeriesRow;

    fn series() -> Vec<RowSeries> {
        let row = SeriesRow { metric: "m".to_owned(), pod: "p,\"1\"".to_owned(), ..SeriesRow::default() };
        vec![RowSeries { row, mig_instance: String::new() }]
    }

    #[test]
    fn rows_in_every_form() {
        let samples = [(1_752_871_354_000, 80.0), (1_752_871_354_500, 0.1), (1_752_871_354_500, -0.0)]
            .map(|(time, value)| Sample { time: TimeMs::from_millis(time), series: 0, value });
        let json: serde_json::Value = serde_json::from_slice(&page(&samples, &series(), Some("x"))).unwrap();
        assert_eq!(json["next_cursor"], "x");
        assert_eq!(
            json["data"][0].to_string(),
            r#"{"metric_name":"m","pod":"p,\"1\"","timestamp":"2025-07-18T20:42:34Z","value":80}"#
        );
        let mut out = BytesMut::new();
        let mut writer = Writer::new(Form::Csv, &series());
        samples.iter().for_each(|sample| writer.row(&mut out, sample));
        let text = std::str::from_utf8(&out).unwrap();
        assert_eq!(text.lines().next(), Some("2025-07-18T20:42:34Z,m,80,,\"p,\"\"1\"\"\",,"));
        assert_eq!(text.lines().nth(1).unwrap().split(',').nth(2), Some("0.1"));
        assert_eq!(CSV_HEAD.matches(',').count(), 6);
    }

    proptest! {
        #[test]
        fn times_are_written_as_elsewhere(times in prop::collection::vec(-100_000_000_000_000i64..400_000_000_000_000, 1..20), step in 0i64..5000) {
            let mut clock = Clock::new();
            for time in times.iter().flat_map(|time| [*time, time + step, time.div_euclid(1000) * 1000]) {
                let time = TimeMs::from_millis(time);
                prop_assert_eq!(std::str::from_utf8(clock.text(time)).unwrap(), time.to_string());
            }
        }
    }

    proptest! {
        /// What a row takes over from the row before it is what would be written anew.
        #[test]
        fn rows_do_not_depend_on_those_before(
            samples in prop::collection::vec((0u32..2, prop_oneof![0i64..3000, Just(1_752_871_354_500), Just(-1)], -3i32..3), 0..30),
            form in prop_oneof![Just(Form::Json), Just(Form::Ndjson), Just(Form::Csv)],
        ) {
            let series = [series(), series()].concat();
            let mut writer = Writer::new(form, &series);
            for (series_at, time, value) in samples {
                let sample = Sample { series: series_at, time: TimeMs::from_millis(time), value: f64::from(value) / 2.0 };
                let (mut have, mut want) = (BytesMut::new(), BytesMut::new());
                writer.row(&mut have, &sample);
                Writer::new(form, &series).row(&mut want, &sample);
                prop_assert_eq!(have, want);
            }
        }
    }

    #[test]
    fn the_form_that_is_liked_best() {
        for (accept, form) in [
            (None, Some(Form::Json)),
            (Some("*/*"), Some(Form::Json)),
            (Some("text/csv"), Some(Form::Csv)),
            (Some("application/x-ndjson, */*;q=0.1"), Some(Form::Ndjson)),
            (Some("*/*, text/csv"), Some(Form::Csv)),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Some(Form::Json)),
            (Some("image/png"), None),
            (Some("text/csv;q=0"), None),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept:?}");
        }
    }
}
