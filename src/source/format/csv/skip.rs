//! Lines that are no records: too long to keep, inside quotes that nobody closed, or the rest of one that was read half.

use super::records::Records;
use crate::model::Reason;
use crate::source::content::Content;

/// How much of a line that is not kept is shown for it.
const EXCERPT: usize = 4096;

/// Bytes being passed over up to the next line.
#[derive(Debug)]
pub(super) struct Skip {
    reason: Reason,
    line: u64,
    excerpt: Vec<u8>,
}

/// A line that was passed over.
pub(super) struct Skipped {
    pub(super) reason: Reason,
    /// Its number.
    pub(super) line: u64,
    /// Its beginning.
    pub(super) excerpt: Vec<u8>,
    /// Where it ends in the window.
    pub(super) end: usize,
}

impl Records {
    /// Begins to pass over the rest of a line.
    pub(super) fn begin_skip(&mut self, begin: usize, reason: Reason) -> Option<()> {
        let line = self.line_of(begin)?;
        let blanks = (begin - self.at()) as u64;
        self.restart(begin, self.newlines() + blanks);
        self.skip = Some(Skip { reason, line, excerpt: Vec::new() });
        Some(())
    }

    /// Passes over bytes up to the line's end, and gives the line once that is found.
    pub(super) fn skip_line(&mut self, content: &Content) -> Option<Skipped> {
        let (at, real) = (self.at(), content.real_len());
        let rest = &content.bytes()[at..real];
        let newline = rest.iter().position(|b| *b == b'\n');
        let skip = self.skip.as_mut()?;
        let shown = &rest[..newline.unwrap_or(rest.len())];
        skip.excerpt.extend_from_slice(&shown[..shown.len().min(EXCERPT - skip.excerpt.len().min(EXCERPT))]);
        let end = match newline {
            Some(newline) => at + newline + 1,
            None if content.has_ended() => real,
            None => {
                self.pass_to(real);
                self.starved = true;
                return None;
            }
        };
        let Skip { reason, line, excerpt } = self.skip.take()?;
        self.restart(end, self.newlines() + u64::from(newline.is_some()));
        // The newline that was put behind the end is not the line's.
        self.starved = content.has_ended() && end == real;
        Some(Skipped { reason, line, excerpt, end })
    }

    /// In the middle of a line: is there more of it? Then the rest is a row of its own. `false`: that cannot be said yet.
    pub(super) fn rest_of_line(&mut self, content: &Content) -> bool {
        match &content.bytes()[self.at()..content.real_len()] {
            [] => {
                self.starved = true;
                return false;
            }
            [b'\r'] if !content.has_ended() => {
                self.starved = true;
                return false;
            }
            [b'\n', ..] | [b'\r', b'\n', ..] | [b'\r'] => {}
            _ => {
                if self.begin_skip(self.at(), Reason::TornRecord).is_none() {
                    return false;
                }
            }
        }
        self.mid_line = false;
        true
    }
}
