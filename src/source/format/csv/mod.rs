//! Rows from CSV: [`CsvReader`].
//!
//! `fill` has the content read and is the only place that waits; `next_row` parses what is in memory ([`records`]). At the content's true
//! end a newline is put behind a last line that has none, so that it parses like any other.
//!
//! A record that is longer than the limit, or that the end finds inside quotes, is one rejected row of one physical line, and
//! parsing begins anew on the line after it: an unclosed quote costs its line and not the rest of the file.

mod beginning;
mod header;
mod headers;
mod lines;
mod quotes;
mod records;
mod seek;
mod series;
mod skip;
mod span;
mod window;

use std::sync::Arc;

use tokio::io::AsyncRead;

use crate::model::{Digest, Position, Reason, Series, TimeMs, parse_time, parse_value};
use crate::source::content::{Block, Content, Input};
use crate::source::follow::{Change, FileState};
use crate::source::table::{Bounds, Table};
use crate::source::{Fill, Options, Row, RowKind, SourceError, TAIL_BYTES};
use header::{Header, Role};
use headers::Headers;
use lines::LineMarks;
use quotes::between_quotes;
use records::{Parsed, Records};
use series::Cells;
use skip::Skipped;

pub use header::Columns;

/// Longest header. The bytes that identify a content must reach past it.
const MAX_HEADER: usize = 60 << 10;

/// Reads the rows of one content. See the module's documentation for how `fill` and `next_row` play together:
/// call `next_row` until it gives `None`, then `fill`, and so on.
pub struct CsvReader {
    options: Options,
    content: Content,
    records: Records,
    marks: LineMarks,
    header: Option<Arc<Header>>,
    headers: Headers,
    /// The columns of a content that does not name them.
    assumed: Option<Columns>,
    table: Table,
    /// The table had no room for the next row's series.
    table_full: bool,
    scratch: Vec<u8>,
    /// The next row's ordinal, and the offset after the last row given.
    row: u64,
    row_end: u64,
    /// The digest before `row_end`, once the bytes have left the window.
    tail: Option<Digest>,
    /// The last row's bytes: in the window, or an excerpt.
    last: (usize, usize),
    last_excerpt: Option<Vec<u8>>,
    last_parsed: bool,
    /// The last time's cell and what it read as: exports repeat it row after row.
    last_time: (Vec<u8>, Result<TimeMs, Reason>),
}

/// What a reader has learnt of its content, and another one of the same content need not find out again.
#[derive(Clone, Debug)]
pub struct Learnt {
    headers: Headers,
    marks: LineMarks,
    assumed: Option<Columns>,
}

impl std::fmt::Debug for CsvReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsvReader")
            .field("input", self.content.input())
            .field("row", &self.row)
            .field("offset", &self.row_end)
            .finish()
    }
}

impl CsvReader {
    /// Opens an input. With `follow` its end is not the last word.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(input: &Input, follow: bool, options: Options) -> Result<Self, SourceError> {
        let options = bounded(options);
        Ok(Self::new(Content::open(input, follow, options).await?, options))
    }

    /// Reads from anything that gives bytes; like a pipe it is only read forwards.
    #[must_use]
    pub fn from_reader(reader: impl AsyncRead + Send + Sync + Unpin + 'static, options: Options) -> Self {
        let options = bounded(options);
        Self::new(Content::of_reader(reader, options), options)
    }

    fn new(content: Content, options: Options) -> Self {
        Self {
            options,
            content,
            records: Records::new(),
            marks: LineMarks::default(),
            header: None,
            headers: Headers::default(),
            assumed: None,
            table: Table::new(Bounds { series: options.max_series, bytes: options.max_series_bytes }),
            scratch: Vec::with_capacity(1024),
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
        self.content.input()
    }

    /// A series of the table, by its index.
    #[must_use]
    pub fn series(&self, index: u32) -> Series {
        self.table.series(index)
    }

    /// How many series the table has.
    #[must_use]
    pub fn series_len(&self) -> usize {
        self.table.len()
    }

    /// How many series were put into the table so far, those that returned after they had been dropped included.
    #[must_use]
    pub fn series_met(&self) -> u64 {
        self.table.met()
    }

    /// From now on the table may drop the series of the rows given so far, but for the last row's if that is still in hand. Gives the
    /// indexes of those that it has dropped since the last time: from the next row on they may stand for other series, and after a call
    /// of this they have done so only in rows given since the call before.
    pub fn release_series(&mut self, last_in_hand: bool) -> Vec<u32> {
        self.table_full = false;
        self.table.release(last_in_hand)
    }

    /// Forgets all series: indexes begin at 0 again.
    pub fn reset_series(&mut self) {
        self.table.clear();
        self.table_full = false;
    }

    /// Takes the next end of a followed file as its last: it was renamed or removed, and nobody writes to it any more.
    pub fn finish(&mut self) {
        self.content.finish();
    }

    /// What became of the file since it was read. A pipe never changes.
    ///
    /// # Errors
    /// The system does not say.
    pub async fn look(&mut self) -> Result<Change, SourceError> {
        self.content.look().await
    }

    /// The open file as it is now; `None` for a pipe.
    ///
    /// # Errors
    /// The system does not say.
    pub async fn state(&self) -> Result<Option<FileState>, SourceError> {
        self.content.state().await
    }

    /// The open file as far as it was read, so that everything that came later differs from it. `None` for what cannot be read on from an
    /// offset: pipes, gzip.
    ///
    /// # Errors
    /// The system does not say.
    pub async fn state_as_read(&self) -> Result<Option<FileState>, SourceError> {
        self.content.state_as_read().await
    }

    /// What was learnt of the content, for a reader that goes on reading it later.
    #[must_use]
    pub fn learnt(&self) -> Learnt {
        let mut headers = self.headers.clone();
        headers.read_to(self.content.base() + self.records.at() as u64);
        Learnt { headers, marks: self.marks.clone(), assumed: self.assumed.clone() }
    }

    /// Takes over what another reader learnt of the same content, before anything is read. Whether it is the same content is seen by going
    /// to a position that the other reader had; if it is not, this reader is of no more use.
    pub fn recall(&mut self, learnt: Learnt) {
        (self.headers, self.marks, self.assumed) = (learnt.headers, learnt.marks, learnt.assumed);
    }

    /// Whether the path leads to another file by now that begins with all that is in this one: a history that is written anew and moved
    /// over the former one. Whoever reads that one reads everything of this one.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub async fn is_superseded(&self) -> Result<bool, SourceError> {
        self.content.is_superseded().await
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
        let raw = &self.content.bytes()[self.last.0..self.last.1];
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        raw.strip_suffix(b"\r").unwrap_or(raw)
    }

    /// The last row's cell in the value's column, if it has one.
    #[must_use]
    pub fn value_cell(&self) -> Option<&[u8]> {
        let header = self.header.as_ref().filter(|_| self.last_parsed)?;
        (header.value < self.records.record().len()).then(|| self.cells(self.last.0, self.last.1).get(header.value))
    }

    // ---- the window ----

    /// Empties the window's places, after the content went elsewhere.
    fn clear(&mut self, line: Option<u64>) {
        self.records.clear(line);
        (self.last, self.last_excerpt, self.last_parsed) = ((0, 0), None, false);
    }

    /// Drops what is parsed, but for the past that positions need.
    fn compact(&mut self) {
        let at = self.records.at();
        let parsed = self.content.base() + at as u64;
        if self.row_end != parsed && self.tail.is_none() {
            self.tail = Some(self.tail_digest());
        }
        let drop = at.saturating_sub(TAIL_BYTES as usize);
        (self.last, self.last_parsed) = ((0, 0), false);
        self.content.drop_before(drop);
        self.records.dropped(drop);
        self.marks.note(parsed, self.records.start_line());
    }

    fn tail_digest(&self) -> Digest {
        self.content.digest_before(self.row_end, TAIL_BYTES)
    }

    /// Longest record that is kept.
    fn longest(&self) -> usize {
        if self.header.is_some() { self.options.max_record_bytes } else { MAX_HEADER }
    }

    fn parse(&mut self) -> Parsed {
        let longest = self.longest();
        self.records.parse(&mut self.content, longest)
    }

    // ---- filling ----

    /// Reads more. Cancel-safe: dropped while it waits, nothing is lost.
    ///
    /// # Errors
    /// The content cannot be read, or its beginning is no header. What was given before stays valid.
    pub async fn fill(&mut self) -> Result<Fill, SourceError> {
        if self.records.wants_line {
            self.count_lines().await?;
        }
        if self.table_full {
            return Ok(Fill::SeriesFull);
        }
        loop {
            if !self.records.starved && (self.header.is_some() || self.read_header()?) {
                return Ok(Fill::Data);
            }
            if self.content.has_ended() {
                return Ok(Fill::End);
            }
            if !self.read_block().await? {
                return Ok(Fill::Idle);
            }
        }
    }

    /// Appends a block to the window, or notes the end. `false`: the end of a followed file.
    async fn read_block(&mut self) -> Result<bool, SourceError> {
        self.compact();
        let at = self.records.at();
        match self.content.read_block().await? {
            Block::Idle => return Ok(false),
            Block::Rewritten => {
                self.records.spans.clear();
                self.records.restart(at, 0);
                return Ok(false);
            }
            Block::More => {}
        }
        if self.content.has_ended() && self.content.real_len() > at {
            self.content.end_last_line();
        }
        self.records.restart(at, 0);
        self.records.starved = false;
        Ok(true)
    }

    /// Counts the line on which the parser was started. Only plain files seek without counting.
    async fn count_lines(&mut self) -> Result<(), SourceError> {
        let until = self.content.base() + self.records.start() as u64;
        let (from, line) = self.marks.before(until);
        let counted = self.content.aside(move |file| lines::count(file, from, until)).await?;
        self.records.counted(counted.map(|counted| line + counted));
        Ok(())
    }

    // ---- rows ----

    /// The next row that is in memory.
    pub fn next_row(&mut self) -> Option<Row> {
        if self.header.is_none() || self.records.wants_line || self.table_full {
            return None;
        }
        loop {
            if self.records.starved || (self.records.mid_line && !self.records.rest_of_line(&self.content)) {
                return None;
            }
            if self.records.skip.is_some() {
                return self.skip_line();
            }
            match self.parse() {
                Parsed::Record(begin, end) => match self.record_row(begin, end) {
                    Some(row) => return Some(row),
                    None if self.table_full || self.records.wants_line => return None,
                    // A header.
                    None => {}
                },
                Parsed::Blank => {}
                Parsed::Nothing => return None,
                Parsed::TooLong(begin) => self.records.begin_skip(begin, Reason::RecordTooLong)?,
                Parsed::Open(begin) => self.records.begin_skip(begin, Reason::TornRecord)?,
            }
        }
    }

    /// The row that a line is which is passed over, once its end is found.
    fn skip_line(&mut self) -> Option<Row> {
        let Skipped { reason, line, excerpt, end } = self.records.skip_line(&self.content)?;
        (self.last, self.last_parsed, self.last_excerpt) = ((0, 0), false, Some(excerpt));
        Some(self.finish_row(end, RowKind::Reject { line, reason }))
    }

    fn cells(&self, begin: usize, end: usize) -> Cells<'_> {
        Cells::new(self.records.record(), self.content.bytes()[begin..end].ends_with(b"\r\n"))
    }

    /// The row of a complete record; `None` if there is none yet, or if it is a header, which counts from here on.
    fn record_row(&mut self, begin: usize, end: usize) -> Option<Row> {
        let kind = match self.sample(begin, end) {
            Ok(kind) => kind,
            // No row that can be a sample is a header.
            Err(Some(_)) if let Some(header) = self.header_in_the_middle(begin, end) => {
                self.take_header(header, end);
                self.records.advance(end);
                return None;
            }
            Err(Some(reason)) => RowKind::Reject { line: self.records.line_of(begin)?, reason },
            Err(None) => {
                self.table_full = true;
                self.records.restart(self.records.at(), self.records.newlines());
                return None;
            }
        };
        self.records.advance(end);
        (self.last, self.last_parsed, self.last_excerpt) = ((begin, end.min(self.content.real_len())), true, None);
        Some(self.finish_row(end, kind))
    }

    /// A sample, or the reason why there is none; `None` = the table of series is full.
    fn sample(&mut self, begin: usize, end: usize) -> Result<RowKind, Option<Reason>> {
        // `next_row` gives nothing before the header is known.
        let Some(header) = &self.header else { return Err(Some(Reason::ShortRow)) };
        let cells = Cells::new(self.records.record(), self.content.bytes()[begin..end].ends_with(b"\r\n"));
        let width = self.records.record().len();
        let columns = header.roles.len();
        // Cells at the end that say nothing may be more or fewer than columns at the end that are called nothing.
        if width > columns && (columns..width).any(|at| !cells.get(at).trim_ascii().is_empty()) {
            return Err(Some(Reason::LongRow));
        }
        if width < columns && header.roles[width..].iter().any(|role| *role != Role::Unnamed) {
            return Err(Some(Reason::ShortRow));
        }
        let identity = series::identity(header, self.records.record(), &mut self.scratch, self.table.secret());
        let resolved = self.table.resolve(identity, || series::read(header, cells, self.options.max_cell_bytes)).ok_or(None)?;
        let series = resolved.outcome?;
        let time = cells.get(header.timestamp);
        if self.last_time.0 != time {
            self.last_time.0.clear();
            self.last_time.0.extend_from_slice(time);
            self.last_time.1 = parse_time(time).or_else(|reason| between_quotes(time).map_or(Err(reason), parse_time));
        }
        let time_ms = self.last_time.1?;
        let cell = cells.get(header.value);
        let value = parse_value(cell, resolved.metric)
            .or_else(|reason| between_quotes(cell).map_or(Err(reason), |inner| parse_value(inner, resolved.metric)))?;
        Ok(RowKind::Sample { series, time_ms, value })
    }

    /// Counts a row that ends there.
    fn finish_row(&mut self, end: usize, kind: RowKind) -> Row {
        self.take_end(end);
        let row = self.row;
        self.row += 1;
        Row { row, kind }
    }

    /// Positions are behind that place of the window.
    fn take_end(&mut self, end: usize) {
        self.row_end = self.content.base() + end.min(self.content.real_len()) as u64;
        self.tail = None;
    }
}

/// Limits with which reading gets on at all.
fn bounded(options: Options) -> Options {
    Options { max_record_bytes: options.max_record_bytes.max(16), block_bytes: options.block_bytes.max(1), ..options }
}
