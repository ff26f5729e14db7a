//! Where the records of a content are. csv-async says what a record is; here is what it cannot know: that a record may go on behind the
//! window, how long one may be, and where to begin anew behind one that is none.
//!
//! A record that may not be complete is held back: it stays in the window, and is parsed again when there is more. What is open even at
//! the content's true end is inside quotes that nobody closed.

use csv_async::{AsyncReader, ByteRecord};
use futures_util::FutureExt as _;

use super::skip::Skip;
use super::span::Spans;
use super::window::{Window, parser};
use crate::source::content::Content;

/// What parsing found. Indexes into the window, blank lines before the record left out.
pub(super) enum Parsed {
    Record(usize, usize),
    Blank,
    /// Nothing that is complete.
    Nothing,
    TooLong(usize),
    /// The content ends inside quotes.
    Open(usize),
}

/// A place in a content's window, from which records are parsed.
pub(super) struct Records {
    pub(super) csv: AsyncReader<Window>,
    /// Whether the CSV parser must be started at `start` before it is used.
    stale: bool,
    record: ByteRecord,
    /// Where parsing goes on, as an index into the window.
    at: usize,
    /// Where the CSV parser was started, likewise.
    start: usize,
    /// The line on which `start` lies, if it was counted.
    start_line: Option<u64>,
    /// Newlines between `start` and `at`.
    newlines: u64,
    /// Whether the line's number must be counted before going on.
    pub(super) wants_line: bool,
    /// Whether the window has nothing more to give.
    pub(super) starved: bool,
    pub(super) skip: Option<Skip>,
    pub(super) spans: Spans,
    /// Whether `at` lies in the middle of a line, the rest of which is no record.
    pub(super) mid_line: bool,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            csv: parser(Window::default(), 0),
            stale: false,
            record: ByteRecord::with_capacity(1024, 16),
            at: 0,
            start: 0,
            start_line: Some(1),
            newlines: 0,
            wants_line: false,
            starved: true,
            skip: None,
            spans: Spans::new(),
            mid_line: false,
        }
    }

    /// The record parsed last.
    pub(super) fn record(&self) -> &ByteRecord {
        &self.record
    }

    /// Where parsing goes on, as an index into the window.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where the CSV parser was started, likewise.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Newlines since there.
    pub(super) fn newlines(&self) -> u64 {
        self.newlines
    }

    /// The line on which the CSV parser was started, if it was counted.
    pub(super) fn start_line(&self) -> Option<u64> {
        self.start_line
    }

    /// Notes the line on which the CSV parser was started.
    pub(super) fn counted(&mut self, line: Option<u64>) {
        (self.start_line, self.wants_line) = (line, false);
    }

    /// Has the CSV parser start at an index, `newlines` further than where it was started last.
    pub(super) fn restart(&mut self, index: usize, newlines: u64) {
        self.stale = true;
        self.start_line = self.start_line.map(|line| line + newlines);
        (self.start, self.at, self.newlines) = (index, index, 0);
    }

    /// Begins anew at the window's beginning, which is on that line: other bytes may come.
    pub(super) fn clear(&mut self, line: Option<u64>) {
        self.restart(0, 0);
        self.start_line = line;
        (self.starved, self.mid_line, self.wants_line) = (true, false, false);
        self.spans.clear();
        self.skip = None;
    }

    /// The window's first bytes were dropped. The parser is started anew before it is used again: it has nothing to give until more
    /// was read.
    pub(super) fn dropped(&mut self, bytes: usize) {
        self.start_line = self.start_line.map(|line| line + self.newlines);
        (self.at, self.newlines) = (self.at - bytes, 0);
        self.start = self.at;
    }

    /// Goes past a record that ends there.
    pub(super) fn advance(&mut self, end: usize) {
        self.at = end;
        // One line is where the parser begins to count, one newline is our own.
        self.newlines = self.csv.position().line().saturating_sub(2);
    }

    /// Goes on within a line that has no end in the window.
    pub(super) fn pass_to(&mut self, index: usize) {
        self.at = index;
    }

    /// The line of an index at or after `at`, with only newlines between them. If it was never counted, asks for that, and comes
    /// back to the same record.
    pub(super) fn line_of(&mut self, begin: usize) -> Option<u64> {
        if let Some(line) = self.start_line {
            return Some(line + self.newlines + (begin - self.at) as u64);
        }
        self.restart(self.at, self.newlines);
        self.wants_line = true;
        None
    }

    /// Parses one record of at most `longest` bytes, without going past it unless it is blank.
    pub(super) fn parse(&mut self, content: &mut Content, longest: usize) -> Parsed {
        if let Some(foreseen) = self.foreseen(content, longest) {
            return foreseen;
        }
        if std::mem::take(&mut self.stale) {
            let window = std::mem::take(self.csv.get_mut());
            self.csv = parser(window, self.start);
        }
        if let Some(nuls) = self.nuls(content) {
            return nuls;
        }
        let start = self.at;
        let more = self.read_record(content);
        let end = self.start + (self.csv.position().byte() as usize).saturating_sub(1);
        if !more {
            self.advance(end);
            self.starved = true;
            return Parsed::Nothing;
        }
        let bytes = content.bytes();
        let mut begin = start;
        while bytes[begin] == b'\n' {
            begin += 1;
        }
        let raw = &bytes[begin..end];
        let offset = content.base() + begin as u64;
        if end == bytes.len() && is_open(raw, &self.record) {
            self.spans.goes_on(offset, raw);
            return self.unfinished(content, begin, end, longest);
        }
        if is_too_long(content, begin, end, longest) {
            self.spans.ends(offset, offset + raw.len() as u64);
            return Parsed::TooLong(begin);
        }
        if raw == b"\r\n" {
            self.advance(end);
            return Parsed::Blank;
        }
        Parsed::Record(begin, end)
    }

    /// Has csv-async read the next record from the content's window, which it is lent for that. It is asynchronous for the sake of sources
    /// that make it wait; a window never does, and never fails.
    fn read_record(&mut self, content: &mut Content) -> bool {
        std::mem::swap(&mut self.csv.get_mut().bytes, content.bytes_mut());
        let read = self.csv.read_byte_record(&mut self.record).now_or_never();
        std::mem::swap(&mut self.csv.get_mut().bytes, content.bytes_mut());
        // Records may have any number of cells: there is no error to come.
        read.and_then(Result::ok).unwrap_or(false)
    }

    /// Passes over NULs at the beginning of a line: a hole that was left where a file was truncated under its writer.
    fn nuls(&mut self, content: &Content) -> Option<Parsed> {
        // The newline behind the end is ours.
        let rest = content.bytes().get(self.at..content.real_len()).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| **byte == b'\n').count();
        let nuls = rest[blanks..].iter().take_while(|byte| **byte == 0).count();
        if nuls == 0 {
            return None;
        }
        self.starved = blanks + nuls == rest.len();
        self.restart(self.at + blanks + nuls, self.newlines + blanks as u64);
        Some(if self.starved { Parsed::Nothing } else { Parsed::Blank })
    }

    /// A record that has not ended where the window does: it is held back, unless it is too long or nothing more can come.
    pub(super) fn unfinished(&mut self, content: &Content, begin: usize, end: usize, longest: usize) -> Parsed {
        if is_too_long(content, begin, end, longest) {
            return Parsed::TooLong(begin);
        }
        if content.has_ended() {
            return Parsed::Open(begin);
        }
        self.newlines += (begin - self.at) as u64;
        self.at = begin;
        self.starved = true;
        Parsed::Nothing
    }

    /// Where the record at this place ends in the window, if it is there as a whole (one that is too long, or torn: where its line ends).
    /// Nothing is taken.
    pub(super) fn peek_end(&mut self, content: &mut Content, longest: usize) -> Option<usize> {
        let (at, newlines) = (self.at, self.newlines);
        self.restart(at, newlines);
        let found = loop {
            match self.parse(content, longest) {
                Parsed::Blank => {}
                Parsed::Nothing => break None,
                Parsed::Record(_, end) => break Some(end.min(content.real_len())),
                Parsed::TooLong(begin) | Parsed::Open(begin) => {
                    let end = content.real_len();
                    let line = content.bytes()[begin..end].iter().position(|byte| *byte == b'\n');
                    break Some(line.map_or(end, |at| begin + at + 1));
                }
            }
        };
        // Back to where it was, to be read as a row later.
        self.restart(at, 0);
        self.starved = false;
        found
    }
}

pub(super) fn is_too_long(content: &Content, begin: usize, end: usize, longest: usize) -> bool {
    end.min(content.real_len()) - begin > longest
}

/// Whether a record that ends where the window ends could go on. Without a newline it could; with one it does if the newline is
/// in quotes: then the last cell has it, and it is not one that the closing quote follows.
fn is_open(raw: &[u8], record: &ByteRecord) -> bool {
    if !raw.ends_with(b"\n") {
        return true;
    }
    let last = record.len().checked_sub(1).and_then(|at| record.get(at)).unwrap_or_default();
    last.ends_with(b"\n") && !raw.ends_with(b"\n\"\n") && !raw.ends_with(b"\n\"\r\n")
}
