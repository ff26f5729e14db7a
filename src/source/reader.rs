//! Reading rows from one content.
//!
//! The window holds `[up to 64 KiB of the past][what is not parsed yet]`. `fill` appends to it and is the only place that waits;
//! `next_row` parses what is there. A record that may not be complete is held back: it stays in the window, and is parsed again
//! when there is more. At the true end a newline is put behind a last line that has none, so that it parses like any other; what
//! is open even then is inside quotes that nobody closed.
//!
//! A record that is longer than the limit, or that the end finds inside quotes, is one rejected row of one physical line, and
//! parsing begins anew on the line after it: an unclosed quote costs its line and not the rest of the file.

use std::sync::Arc;

use csv_async::{AsyncReader, ByteRecord};
use tokio::io::AsyncRead;

use super::header::{Columns, Header, Role};
use super::headers::Headers;
use super::input::{Content, Input};
use super::lines::LineMarks;
use super::quotes::between_quotes;
use super::series::{Cells, Table};
use super::skip::Skip;
use super::span::Spans;
use super::window::{Window, parser};
use super::{Fill, Kind, Options, Row, SourceError, TAIL_BYTES};
use crate::model::{Digest, Position, Reason, Series, TimeMs, parse_time, parse_value};

/// Longest header. The bytes that identify a content must reach past it.
pub(super) const MAX_HEADER: usize = 60 << 10;

/// Reads the rows of one content. See the module's documentation for how `fill` and `next_row` play together:
/// call `next_row` until it gives `None`, then `fill`, and so on.
pub struct CsvReader {
    pub(super) input: Input,
    pub(super) name: String,
    pub(super) options: Options,
    pub(super) follow: bool,
    pub(super) content: Content,
    pub(super) csv: AsyncReader<Window>,
    /// Whether the CSV parser must be started at `from` before it is used.
    stale: bool,
    pub(super) record: ByteRecord,
    /// The offset of the window's first byte in the content.
    pub(super) base: u64,
    /// Where parsing goes on, as an index into the window.
    pub(super) at: usize,
    /// Where the CSV parser was started, likewise.
    pub(super) from: usize,
    /// The line on which `from` lies, if it was counted.
    pub(super) from_line: Option<u64>,
    /// Newlines between `from` and `at`.
    pub(super) newlines: u64,
    pub(super) marks: LineMarks,
    /// Whether the line's number must be counted before going on.
    pub(super) wants_line: bool,
    /// Whether the window has nothing more to give.
    pub(super) starved: bool,
    /// Whether the end of a followed file was met since the last block: it may have been rewritten meanwhile.
    idled: bool,
    /// From which offset on what was read after a rest is still to be verified.
    unverified: Option<u64>,
    /// When the file was last written, as far as was looked.
    pub(super) written_ns: Option<i128>,
    /// Whether the content has ended, and whether a newline was put behind it.
    pub(super) ended: bool,
    padded: bool,
    pub(super) skip: Option<Skip>,
    pub(super) spans: Spans,
    /// Whether `at` lies in the middle of a line, the rest of which is no record.
    pub(super) mid_line: bool,
    pub(super) header: Option<Arc<Header>>,
    pub(super) headers: Headers,
    /// The columns of a content that does not name them.
    pub(super) assumed: Option<Columns>,
    pub(super) table: Table,
    table_full: bool,
    /// The next row's ordinal, and the offset after the last row given.
    pub(super) row: u64,
    pub(super) row_end: u64,
    /// The digest before `row_end`, once the bytes have left the window.
    pub(super) tail: Option<Digest>,
    /// The last row's bytes: in the window, or an excerpt.
    pub(super) last: (usize, usize),
    pub(super) last_excerpt: Option<Vec<u8>>,
    pub(super) last_parsed: bool,
    /// The last time's cell and what it read as: exports repeat it row after row.
    last_time: (Vec<u8>, Result<TimeMs, Reason>),
}

impl std::fmt::Debug for CsvReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsvReader").field("input", &self.input).field("row", &self.row).field("offset", &self.row_end).finish()
    }
}

impl CsvReader {
    /// Opens an input. With `follow` its end is not the last word.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(input: &Input, follow: bool, options: Options) -> Result<Self, SourceError> {
        let content = Content::open(input, options.block_bytes).await?;
        // Nothing comes after the end of a pipe.
        Ok(Self::new(input.clone(), content, follow && *input != Input::Stdin, options))
    }

    /// Reads from anything that gives bytes; like a pipe it is only read forwards.
    #[must_use]
    pub fn from_reader(reader: impl AsyncRead + Send + Sync + Unpin + 'static, options: Options) -> Self {
        Self::new(Input::Stdin, Content::pipe(Box::new(reader), options.block_bytes), false, options)
    }

    fn new(input: Input, content: Content, follow: bool, options: Options) -> Self {
        let options =
            Options { max_record_bytes: options.max_record_bytes.max(16), block_bytes: options.block_bytes.max(1), ..options };
        Self {
            name: input.name(),
            input,
            options,
            follow,
            content,
            csv: parser(Window::default(), 0),
            stale: false,
            record: ByteRecord::with_capacity(1024, 16),
            base: 0,
            at: 0,
            from: 0,
            from_line: Some(1),
            newlines: 0,
            marks: LineMarks::default(),
            wants_line: false,
            starved: true,
            idled: false,
            unverified: None,
            written_ns: None,
            ended: false,
            padded: false,
            skip: None,
            spans: Spans::new(),
            mid_line: false,
            header: None,
            headers: Headers::default(),
            assumed: None,
            table: Table::new(options.max_series),
            table_full: false,
            row: 0,
            row_end: 0,
            tail: None,
            last: (0, 0),
            last_excerpt: None,
            last_parsed: false,
            last_time: (Vec::new(), Err(Reason::BadTime)),
        }
    }

    /// The input.
    #[must_use]
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The series of the table, by index.
    #[must_use]
    pub fn series(&self, index: u32) -> &Series {
        &self.table.series()[index as usize]
    }

    /// How many series the table has.
    #[must_use]
    pub fn series_len(&self) -> usize {
        self.table.series().len()
    }

    /// Forgets all series: indexes begin at 0 again.
    pub fn reset_series(&mut self) {
        self.table.clear();
        self.table_full = false;
    }

    /// Takes the next end of a followed file as its last: it was renamed or removed, and nobody writes to it any more.
    pub fn finish(&mut self) {
        self.follow = false;
    }

    /// The position after the last row given. The digest is computed when asked for.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { row: self.row, offset: self.row_end, tail: self.tail.unwrap_or_else(|| self.tail_digest()) }
    }

    /// The last row's bytes as they stand in the content, without the line end; of a line that was too long to keep, its
    /// beginning. Valid until the next call of `next_row` or `fill`.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        if let Some(excerpt) = &self.last_excerpt {
            return excerpt;
        }
        let raw = &self.bytes()[self.last.0..self.last.1];
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        raw.strip_suffix(b"\r").unwrap_or(raw)
    }

    /// The last row's cell in the value's column, if it has one.
    #[must_use]
    pub fn value_cell(&self) -> Option<&[u8]> {
        let header = self.header.as_ref().filter(|_| self.last_parsed)?;
        (header.value < self.record.len()).then(|| self.cells(self.last.0, self.last.1).get(header.value))
    }

    // ---- the window ----

    pub(super) fn bytes(&self) -> &[u8] {
        &self.csv.get_ref().bytes
    }

    /// The end of the content's own bytes in the window.
    pub(super) fn real_len(&self) -> usize {
        self.bytes().len() - usize::from(self.padded)
    }

    /// How much of the content was read so far.
    pub(super) fn read_offset(&self) -> u64 {
        self.base + self.real_len() as u64
    }

    /// Has the CSV parser start at an index, `newlines` further than where it was started last.
    pub(super) fn restart(&mut self, index: usize, newlines: u64) {
        self.stale = true;
        self.from_line = self.from_line.map(|line| line + newlines);
        (self.from, self.at, self.newlines) = (index, index, 0);
    }

    /// Empties the window, to go on at an offset of the content.
    pub(super) fn clear(&mut self, base: u64, line: Option<u64>) {
        self.csv.get_mut().bytes.clear();
        self.restart(0, 0);
        (self.base, self.from_line) = (base, line);
        (self.starved, self.ended, self.padded, self.mid_line, self.wants_line) = (true, false, false, false, false);
        (self.idled, self.unverified) = (false, None);
        self.spans.clear();
        (self.skip, self.last, self.last_excerpt, self.last_parsed) = (None, (0, 0), None, false);
    }

    /// Drops what is parsed, but for the past that positions need.
    pub(super) fn compact(&mut self) {
        let parsed = self.base + self.at as u64;
        if self.row_end != parsed && self.tail.is_none() {
            self.tail = Some(self.tail_digest());
        }
        let drop = self.at.saturating_sub(TAIL_BYTES as usize);
        (self.last, self.last_parsed) = ((0, 0), false);
        self.csv.get_mut().bytes.drain(..drop);
        self.base += drop as u64;
        // The parser is started anew before it is used again: it has nothing to give until more was read.
        self.from_line = self.from_line.map(|line| line + self.newlines);
        (self.at, self.newlines) = (self.at - drop, 0);
        self.from = self.at;
    }

    pub(super) fn tail_digest(&self) -> Digest {
        let first = self.row_end.saturating_sub(TAIL_BYTES).max(self.base);
        Digest::of(&self.bytes()[(first - self.base) as usize..(self.row_end - self.base) as usize])
    }

    // ---- filling ----

    /// Reads more. Cancel-safe: dropped while it waits, nothing is lost.
    ///
    /// # Errors
    /// The content cannot be read, or its beginning is no header. What was given before stays valid.
    pub async fn fill(&mut self) -> Result<Fill, SourceError> {
        if self.wants_line {
            self.count_lines().await?;
            self.wants_line = false;
        }
        if self.table_full {
            return Ok(Fill::SeriesFull);
        }
        loop {
            if !self.starved && (self.header.is_some() || self.read_header().await?) {
                return Ok(Fill::Data);
            }
            if self.ended {
                return Ok(Fill::End);
            }
            if !self.read_block().await? {
                return Ok(Fill::Idle);
            }
        }
    }

    /// Appends a block to the window, or notes the end. `false`: the end of a followed file.
    pub(super) async fn read_block(&mut self) -> Result<bool, SourceError> {
        if self.unverified.is_some() {
            return self.verify().await;
        }
        self.compact();
        self.marks.note(self.base + self.at as u64, self.from_line);
        let before = self.read_offset();
        let read = self.content.read(&mut self.csv.get_mut().bytes, self.follow).await;
        let n = match read {
            Ok(n) => n,
            Err(cause) if self.content.is_gzip() => {
                let error = SourceError::gzip(&self.name, &cause, self.read_offset());
                // The decoder would take this for its end when asked again.
                self.content.spoil(cause.kind());
                return Err(error);
            }
            Err(cause) => return Err(SourceError::io(&self.name, cause)),
        };
        if n == 0 {
            // A compressed file is written once: its end is its end.
            if self.follow && !self.content.is_gzip() {
                self.idled = true;
                return Ok(false);
            }
            self.check_length().await?;
            self.ended = true;
            if self.bytes().last().is_some_and(|b| *b != b'\n') && self.real_len() > self.at {
                self.csv.get_mut().bytes.push(b'\n');
                self.padded = true;
            }
        }
        if n > 0 && std::mem::take(&mut self.idled) {
            self.unverified = Some(before);
        }
        self.verify().await
    }

    /// Makes what was read after a rest available, if it continues what was read before. If not, the file was rewritten while we
    /// rested: it is dropped, and `look` will say so. What is not verified when this is cancelled is verified by the next `fill`.
    async fn verify(&mut self) -> Result<bool, SourceError> {
        if let Some(from) = self.unverified {
            let before = (from - self.base) as usize;
            let same = self.still_the_same(before).await?;
            self.unverified = None;
            if !same {
                self.csv.get_mut().bytes.truncate(before);
                self.spans.clear();
                self.restart(self.at, 0);
                self.idled = true;
                return Ok(false);
            }
        }
        self.restart(self.at, 0);
        self.starved = false;
        Ok(true)
    }

    /// Something is wrong if a file ends before what was read of it.
    async fn check_length(&self) -> Result<(), SourceError> {
        if let Some(file) = self.content.plain_file() {
            let now = file.metadata().await.map_err(|cause| SourceError::io(&self.name, cause))?.len();
            let read = self.content.start() + self.read_offset();
            if now < read {
                return Err(SourceError::Shrunk { name: self.name.clone(), now, read });
            }
        }
        Ok(())
    }

    // ---- rows ----

    /// The next row that is in memory. Never waits.
    pub async fn next_row(&mut self) -> Option<Row> {
        if self.header.is_none() || self.wants_line || self.table_full {
            return None;
        }
        loop {
            if self.starved || (self.mid_line && !self.rest_of_line()) {
                return None;
            }
            if self.skip.is_some() {
                return self.skip_line();
            }
            match self.parse().await {
                Parsed::Record(begin, end) => match self.record_row(begin, end) {
                    Some(row) => return Some(row),
                    None if self.table_full || self.wants_line => return None,
                    // A header.
                    None => {}
                },
                Parsed::Blank => {}
                Parsed::Nothing => return None,
                Parsed::TooLong(begin) => self.begin_skip(begin, Reason::RecordTooLong)?,
                Parsed::Open(begin) => self.begin_skip(begin, Reason::TornRecord)?,
            }
        }
    }

    /// Parses one record, without going past it unless it is blank.
    pub(super) async fn parse(&mut self) -> Parsed {
        if let Some(known) = self.known() {
            return known;
        }
        if std::mem::take(&mut self.stale) {
            let window = std::mem::take(self.csv.get_mut());
            self.csv = parser(window, self.from);
        }
        if let Some(nuls) = self.nuls() {
            return nuls;
        }
        let start = self.at;
        // The window cannot fail, and records may have any number of cells: there is no error to come.
        let more = self.csv.read_byte_record(&mut self.record).await.unwrap_or(false);
        let end = self.from + (self.csv.position().byte() as usize).saturating_sub(1);
        if !more {
            self.advance(end);
            self.starved = true;
            return Parsed::Nothing;
        }
        let bytes = &self.csv.get_ref().bytes;
        let mut begin = start;
        while bytes[begin] == b'\n' {
            begin += 1;
        }
        let raw = &bytes[begin..end];
        let offset = self.base + begin as u64;
        if end == bytes.len() && is_open(raw, &self.record) {
            self.spans.goes_on(offset, raw);
            return self.unfinished(begin, end);
        }
        if self.is_too_long(begin, end) {
            self.spans.ends(offset, offset + raw.len() as u64);
            return Parsed::TooLong(begin);
        }
        if raw == b"\r\n" {
            self.advance(end);
            return Parsed::Blank;
        }
        Parsed::Record(begin, end)
    }

    /// Passes over NULs at the beginning of a line: a hole that was left where a file was truncated under its writer.
    fn nuls(&mut self) -> Option<Parsed> {
        // The newline behind the end is ours.
        let rest = self.csv.get_ref().bytes.get(self.at..self.real_len()).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| **byte == b'\n').count();
        let nuls = rest[blanks..].iter().take_while(|byte| **byte == 0).count();
        if nuls == 0 {
            return None;
        }
        self.starved = blanks + nuls == rest.len();
        self.restart(self.at + blanks + nuls, self.newlines + blanks as u64);
        Some(if self.starved { Parsed::Nothing } else { Parsed::Blank })
    }

    pub(super) fn is_too_long(&self, begin: usize, end: usize) -> bool {
        let longest = if self.header.is_some() { self.options.max_record_bytes } else { MAX_HEADER };
        end.min(self.real_len()) - begin > longest
    }

    /// A record that has not ended where the window does: it is held back, unless it is too long or nothing more can come.
    pub(super) fn unfinished(&mut self, begin: usize, end: usize) -> Parsed {
        if self.is_too_long(begin, end) {
            return Parsed::TooLong(begin);
        }
        if self.ended {
            return Parsed::Open(begin);
        }
        self.newlines += (begin - self.at) as u64;
        self.at = begin;
        self.starved = true;
        Parsed::Nothing
    }

    pub(super) fn advance(&mut self, end: usize) {
        self.at = end;
        // One line is where the parser begins to count, one newline is our own.
        self.newlines = self.csv.position().line().saturating_sub(2);
    }

    pub(super) fn cells(&self, begin: usize, end: usize) -> Cells<'_> {
        Cells::new(&self.record, self.bytes()[begin..end].ends_with(b"\r\n"))
    }

    /// The line of an index at or after `at`, with only newlines between them. If it was never counted, asks for that, and comes
    /// back to the same record.
    pub(super) fn line_of(&mut self, begin: usize) -> Option<u64> {
        if let Some(line) = self.from_line {
            return Some(line + self.newlines + (begin - self.at) as u64);
        }
        self.restart(self.at, self.newlines);
        self.wants_line = true;
        None
    }

    /// The row of a complete record; `None` if there is none yet, or if it is a header, which counts from here on.
    fn record_row(&mut self, begin: usize, end: usize) -> Option<Row> {
        let kind = match self.sample(begin, end) {
            Ok(kind) => kind,
            // No row that can be a sample is a header.
            Err(Some(_)) if let Some(header) = self.header_in_the_middle(begin, end) => {
                self.take_header(header, end);
                self.advance(end);
                return None;
            }
            Err(Some(reason)) => Kind::Reject { line: self.line_of(begin)?, reason },
            Err(None) => {
                self.table_full = true;
                self.restart(self.at, self.newlines);
                return None;
            }
        };
        self.advance(end);
        (self.last, self.last_parsed, self.last_excerpt) = ((begin, end.min(self.real_len())), true, None);
        Some(self.finish_row(end).with(kind))
    }

    /// A sample, or the reason why there is none; `None` = the table of series is full.
    fn sample(&mut self, begin: usize, end: usize) -> Result<Kind, Option<Reason>> {
        // `next_row` gives nothing before the header is known.
        let Some(header) = &self.header else { return Err(Some(Reason::ShortRow)) };
        let cells = Cells::new(&self.record, self.csv.get_ref().bytes[begin..end].ends_with(b"\r\n"));
        let columns = header.roles.len();
        // Cells at the end that say nothing may be more or fewer than columns at the end that are called nothing.
        if self.record.len() > columns && (columns..self.record.len()).any(|at| !cells.get(at).trim_ascii().is_empty()) {
            return Err(Some(Reason::LongRow));
        }
        if self.record.len() < columns && header.roles[self.record.len()..].iter().any(|role| *role != Role::Unnamed) {
            return Err(Some(Reason::ShortRow));
        }
        let known = self.table.resolve(header, cells, self.options.max_cell_bytes).ok_or(None)?;
        let series = known.outcome?;
        let time = cells.get(header.timestamp);
        if self.last_time.0 != time {
            self.last_time.0.clear();
            self.last_time.0.extend_from_slice(time);
            self.last_time.1 = parse_time(time).or_else(|reason| between_quotes(time).map_or(Err(reason), parse_time));
        }
        let time_ms = self.last_time.1?;
        let cell = cells.get(header.value);
        let value = parse_value(cell, known.metric)
            .or_else(|reason| between_quotes(cell).map_or(Err(reason), |inner| parse_value(inner, known.metric)))?;
        Ok(Kind::Sample { series, time_ms, value })
    }

    /// Counts a row that ends there.
    pub(super) fn finish_row(&mut self, end: usize) -> Counted {
        self.row_end = self.base + end.min(self.real_len()) as u64;
        self.tail = None;
        self.row += 1;
        Counted(self.row - 1)
    }
}

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

/// A row that was counted.
pub(super) struct Counted(u64);

impl Counted {
    pub(super) fn with(self, kind: Kind) -> Row {
        Row { row: self.0, kind }
    }
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
