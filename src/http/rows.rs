//! Samples as text: JSON, NDJSON, CSV. Written by hand, for there may be millions: what a series' rows have in common is prepared once.

use std::io::Write;

use crate::query::{RowSeries, Sample, time_text};

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
    form: Form,
    /// What stands between time and value, and after the value, for each series.
    around: Vec<(String, String)>,
    clock: Clock,
    numbers: zmij::Buffer,
    integers: itoa::Buffer,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("form", &self.form).finish_non_exhaustive()
    }
}

impl Writer {
    /// For rows of these series.
    #[must_use]
    pub fn new(form: Form, series: &[RowSeries]) -> Self {
        let around = series.iter().map(|s| if form == Form::Csv { csv_around(s) } else { json_around(s) }).collect();
        Self { form, around, clock: Clock::new(), numbers: zmij::Buffer::new(), integers: itoa::Buffer::new() }
    }

    /// Appends one row, without what separates rows in JSON; with its newline otherwise.
    pub fn row(&mut self, out: &mut Vec<u8>, sample: &Sample) {
        let Some((before, after)) = self.around.get(sample.series as usize) else { return };
        if self.form != Form::Csv {
            out.extend_from_slice(b"{\"timestamp\":\"");
        }
        out.extend_from_slice(self.clock.text(sample.time_ms));
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(number(sample.value, &mut self.numbers, &mut self.integers).as_bytes());
        out.extend_from_slice(after.as_bytes());
    }
}

/// Times as [`time_text`] writes them: what a day's times have in common is made once.
struct Clock {
    day: i64,
    time_ms: i64,
    text: Vec<u8>,
}

impl Clock {
    const DAY_MS: i64 = 86_400_000;
    /// Of the years 1970 to 9999.
    const DAYS: i64 = 2_932_897;
    /// `2025-07-18T`
    const DATE: usize = 11;

    fn new() -> Self {
        Self { day: i64::MIN, time_ms: i64::MIN, text: Vec::new() }
    }

    fn text(&mut self, time_ms: i64) -> &[u8] {
        if self.time_ms == time_ms && !self.text.is_empty() {
            return &self.text;
        }
        self.time_ms = time_ms;
        let (day, of_day) = (time_ms.div_euclid(Self::DAY_MS), time_ms.rem_euclid(Self::DAY_MS));
        if self.day != day {
            self.text = time_text(day.saturating_mul(Self::DAY_MS)).into_bytes();
            // What is not of the years 1970 to 9999 is written out each time.
            self.day = if (0..Self::DAYS).contains(&day) { day } else { i64::MIN };
        }
        if self.day != day {
            self.text = time_text(time_ms).into_bytes();
            return &self.text;
        }
        let (second, ms) = (of_day / 1000, of_day % 1000);
        let digit = |n: i64| b'0' + (n % 10).unsigned_abs().to_le_bytes()[0];
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
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
        if ms > 0 {
            self.text.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms)]);
        }
        self.text.push(b'Z');
        &self.text
    }
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

fn json_around(s: &RowSeries) -> (String, String) {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let before = format!("\",\"metric_name\":{},\"value\":", text(&s.row.metric));
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
    after.push('}');
    (before, after)
}

fn csv_around(s: &RowSeries) -> (String, String) {
    let cells = [&s.row.namespace, &s.row.pod, &s.row.container, &s.mig_instance].map(|text| cell(text));
    (format!(",{},", cell(&s.row.metric)), format!(",{}\n", cells.join(",")))
}

/// A CSV cell (RFC 4180).
fn cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// A page as one document.
pub(super) fn page(samples: &[Sample], series: &[RowSeries], next: Option<&str>) -> Vec<u8> {
    let mut writer = Writer::new(Form::Json, series);
    let mut out = Vec::with_capacity(64 + samples.len() * 112);
    out.extend_from_slice(b"{\"data\":[");
    for (at, sample) in samples.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        writer.row(&mut out, sample);
    }
    // Writing to a Vec cannot fail.
    let _ = write!(out, "],\"next_cursor\":{}}}", serde_json::Value::from(next));
    out
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
            .map(|(time_ms, value)| Sample { time_ms, series: 0, value });
        let json: serde_json::Value = serde_json::from_slice(&page(&samples, &series(), Some("x"))).unwrap();
        assert_eq!(json["next_cursor"], "x");
        assert_eq!(
            json["data"][0].to_string(),
            r#"{"metric_name":"m","pod":"p,\"1\"","timestamp":"2025-07-18T20:42:34Z","value":80}"#
        );
        let mut out = Vec::new();
        let mut writer = Writer::new(Form::Csv, &series());
        samples.iter().for_each(|sample| writer.row(&mut out, sample));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().next(), Some("2025-07-18T20:42:34Z,m,80,,\"p,\"\"1\"\"\",,"));
        assert_eq!(text.lines().nth(1).unwrap().split(',').nth(2), Some("0.1"));
        assert_eq!(CSV_HEAD.matches(',').count(), 6);
    }

    proptest! {
        #[test]
        fn times_are_written_as_elsewhere(times in prop::collection::vec(-100_000_000_000_000i64..400_000_000_000_000, 1..20), step in 0i64..5000) {
            let mut clock = Clock::new();
            for time in times.iter().flat_map(|time| [*time, time + step, time.div_euclid(1000) * 1000]) {
                prop_assert_eq!(std::str::from_utf8(clock.text(time)).unwrap(), time_text(time));
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
