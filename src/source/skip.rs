//! Lines that are no records: too long to keep, inside quotes that nobody closed, or the rest of one that was read half.

use super::reader::CsvReader;
use super::{Kind, Row};
use crate::model::Reason;

/// How much of a line that is not kept is shown for it.
const EXCERPT: usize = 4096;

/// Bytes being passed over up to the next line.
#[derive(Debug)]
pub(super) struct Skip {
    reason: Reason,
    line: u64,
    excerpt: Vec<u8>,
}

impl CsvReader {
    /// Begins to pass over the rest of a line.
    pub(super) fn begin_skip(&mut self, begin: usize, reason: Reason) -> Option<()> {
        let line = self.line_of(begin)?;
        let blanks = (begin - self.at) as u64;
        self.restart(begin, self.newlines + blanks);
        self.skip = Some(Skip { reason, line, excerpt: Vec::new() });
        Some(())
    }

    /// Passes over bytes up to the line's end; the row, once that is found.
    pub(super) fn skip_line(&mut self) -> Option<Row> {
        let real = self.real_len();
        let rest = &self.csv.get_ref().bytes[self.at..real];
        let newline = rest.iter().position(|b| *b == b'\n');
        let skip = self.skip.as_mut()?;
        let shown = &rest[..newline.unwrap_or(rest.len())];
        skip.excerpt.extend_from_slice(&shown[..shown.len().min(EXCERPT - skip.excerpt.len().min(EXCERPT))]);
        let end = match newline {
            Some(at) => self.at + at + 1,
            None if self.ended => real,
            None => {
                self.at = real;
                self.starved = true;
                return None;
            }
        };
        let Skip { reason, line, excerpt } = self.skip.take()?;
        self.restart(end, self.newlines + u64::from(newline.is_some()));
        // The newline that was put behind the end is not the line's.
        self.starved = self.ended && end == real;
        (self.last, self.last_parsed, self.last_excerpt) = ((0, 0), false, Some(excerpt));
        Some(self.finish_row(end).with(Kind::Reject { line, reason }))
    }

    /// In the middle of a line: is there more of it? Then the rest is a row of its own. `false`: that cannot be said yet.
    pub(super) fn rest_of_line(&mut self) -> bool {
        match &self.bytes()[self.at..self.real_len()] {
            [] => {
                self.starved = true;
                return false;
            }
            [b'\r'] if !self.ended => {
                self.starved = true;
                return false;
            }
            [b'\n', ..] | [b'\r', b'\n', ..] | [b'\r'] => {}
            _ => {
                if self.begin_skip(self.at, Reason::TornRecord).is_none() {
                    return false;
                }
            }
        }
        self.mid_line = false;
        true
    }
}
