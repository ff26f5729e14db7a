//! What was rejected in a run, for its last line: how many rows for which reason, and where the first of each is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::model::Reason;

/// From this share of all rows on, a run's rejects are worth a warning: one in so many.
const WARN_FROM: u64 = 100;

/// The rejects of a run, by reason.
#[derive(Debug, Default)]
pub(super) struct Rejections(Mutex<BTreeMap<Reason, Rejected>>);

#[derive(Debug)]
struct Rejected {
    rows: u64,
    /// File and line of the first.
    name: String,
    line: u64,
}

impl Rejections {
    /// Counts a rejected row.
    pub(super) fn note(&self, reason: Reason, name: &str, line: u64) {
        let mut by_reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        by_reason.entry(reason).or_insert_with(|| Rejected { rows: 0, name: name.to_owned(), line }).rows += 1;
    }

    /// Reasons with their counts, the most frequent first, where each was met first, and what to do; `None` without a reject.
    pub(super) fn summary(&self) -> Option<String> {
        let by_reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reasons: Vec<_> = by_reason.iter().collect();
        reasons.sort_by_key(|(_, rejected)| std::cmp::Reverse(rejected.rows));
        let mut text = String::new();
        for (reason, Rejected { rows, name, line }) in reasons {
            let separator = if text.is_empty() { "" } else { "; " };
            let _infallible = write!(text, "{separator}{rows} × {reason}, the first in {name}, line {line}: {}", remedy(*reason));
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Whether so many rejected rows of so many are worth a warning.
pub(super) fn are_many(rejected: u64, rows: u64) -> bool {
    rejected > 0 && rejected.saturating_mul(WARN_FROM) >= rows
}

/// What a reason means, and what helps.
fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::EmptyValue => "the value is empty; nothing was measured, so nothing is stored",
        Reason::BlankValue => "the exporter had no value (N/A, or a DCGM blank), so nothing is stored",
        Reason::NotFinite => "the value is NaN or infinite, so nothing is stored",
        Reason::NotANumber => "the value is not a decimal number; check that the header names the right column `value`",
        Reason::OutOfRange => {
            "the value is impossible for this metric; check the exporter, and that the columns match the header"
        }
        Reason::BadTime => {
            "the time is not understood; write it as RFC 3339 (2025-07-18T20:42:34Z) or as seconds or milliseconds since 1970"
        }
        Reason::NoTimeZone => "the time has no zone; export times in UTC with a `Z`, or with an offset",
        Reason::TimeOutOfRange => {
            "the time is before 1990 or after 2100; check its unit (seconds or milliseconds) and the exporter's clock"
        }
        Reason::TimeInFuture => {
            "the time is further ahead than collect.max_future allows; check the clock of the exporter's host"
        }
        Reason::TimeTooOld => "the time is further back than collect.max_past allows",
        Reason::ShortRow => "the row has fewer cells than the header; check the separator and that rows were not cut off",
        Reason::LongRow => "the row has more cells than the header; quote cells that contain a comma",
        Reason::NoMetric => "the row names no metric; check the column `metric_name`",
        Reason::NoUuid => "the row names no GPU; check the column `uuid`",
        Reason::BadUtf8 => "a text is not UTF-8; convert the file (iconv -t UTF-8)",
        Reason::RecordTooLong => {
            "the record is longer than stream.max_record_bytes; look for a quote that is not closed, or raise the limit"
        }
        Reason::TornRecord => {
            "a quote is not closed, or the line was read while it was being written; use --follow for files that grow"
        }
        Reason::CellTooLong => "a text is longer than stream.max_cell_bytes; shorten it, or raise the limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reason_comes_first_with_its_first_line() {
        let rejections = Rejections::default();
        assert_eq!(rejections.summary(), None);
        rejections.note(Reason::ShortRow, "a.csv", 7);
        rejections.note(Reason::BadTime, "a.csv", 9);
        rejections.note(Reason::BadTime, "b.csv", 2);
        let summary = rejections.summary().unwrap_or_default();
        let (first, second) = summary.split_once("; 1 × ").unwrap_or_default();
        assert!(
            first.starts_with("2 × bad_time, the first in a.csv, line 9: ")
                && second.starts_with("short_row, the first in a.csv, line 7: "),
            "{summary}"
        );
    }

    #[test]
    fn one_in_a_hundred_is_many() {
        assert!(are_many(1, 1) && are_many(1, 100) && are_many(50, 2_000));
        assert!(!are_many(0, 0) && !are_many(0, 10) && !are_many(1, 101));
    }
}
