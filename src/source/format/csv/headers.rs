//! Headers: the one at the beginning, and those in the middle of a content (`cat a.csv b.csv`, a rotation, the members of a gzip file).
//! Each counts from its place on.
//!
//! One that is read on the way is remembered. Whoever goes to a position without reading what is before it must find out which header is
//! in force there: lines that can be headers are looked for by a word that each of them has ([`may_be_header`]), which is as fast as the
//! file can be read.

use std::io;
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use memchr::{memchr, memmem, memrchr};

use super::header::{Columns, Header};
use super::records::Parsed;
use super::{CsvReader, MAX_HEADER};
use crate::source::SourceError;
use crate::source::content::{Aside, Content};

/// How much of a file is looked through at once.
const BLOCK: usize = 1 << 20;
/// A part of every spelling of the time's column that counts in the middle of a content.
const STAMPS: [&[u8]; 3] = [b"stamp", b"Stamp", b"STAMP"];

/// The headers that are known, and how far the content is known to have no others.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers {
    /// Each with the offset behind it, ascending.
    found: Vec<(u64, Arc<Header>)>,
    known_to: u64,
}

impl Headers {
    /// Forgets all headers.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Remembers a header that ends at an offset.
    pub(super) fn note(&mut self, end: u64, header: Arc<Header>) {
        if self.found.last().is_none_or(|(last, _)| *last < end) {
            self.found.push((end, header));
        }
        self.known_to = self.known_to.max(end);
    }

    /// Everything before an offset was read.
    pub(super) fn read_to(&mut self, offset: u64) {
        self.known_to = self.known_to.max(offset);
    }

    /// The header in force at an offset.
    pub(super) fn in_force(&self, offset: u64) -> Option<Arc<Header>> {
        let after = self.found.partition_point(|(end, _)| *end <= offset);
        after.checked_sub(1).map(|at| self.found[at].1.clone())
    }

    /// Whether everything before an offset is known.
    pub(super) fn reach(&self, offset: u64) -> bool {
        self.known_to >= offset
    }

    /// Looks through what a window has between an offset and its last line end; gives the offset to go on from.
    pub(super) fn look_through_window(&mut self, content: &Content, from: u64) -> u64 {
        let from = from.max(content.base());
        let rest = &content.bytes()[(from - content.base()) as usize..];
        match memrchr(b'\n', rest) {
            Some(newline) => {
                self.look_through(from, &rest[..=newline]);
                from + newline as u64 + 1
            }
            None => from,
        }
    }

    /// Looks through whole lines, the first of which begins at an offset.
    fn look_through(&mut self, offset: u64, lines: &[u8]) {
        let mut hits: Vec<usize> = STAMPS.iter().flat_map(|word| memmem::find_iter(lines, word)).collect();
        hits.sort_unstable();
        let mut done = 0;
        for hit in hits {
            if hit < done {
                continue;
            }
            let begin = memrchr(b'\n', &lines[..hit]).map_or(0, |newline| newline + 1);
            let end = memchr(b'\n', &lines[hit..]).map_or(lines.len(), |newline| hit + newline + 1);
            done = end;
            if end - begin <= MAX_HEADER
                && let Some(header) = parse(&lines[begin..end])
            {
                self.note(offset + end as u64, Arc::new(header));
            }
        }
        self.read_to(offset + lines.len() as u64);
    }
}

/// Whether a line can be a header in the middle.
pub(super) fn may_be_header(raw: &[u8]) -> bool {
    STAMPS.iter().any(|word| memmem::find(raw, word).is_some())
}

/// The header that a line is, if it is one.
fn parse(line: &[u8]) -> Option<Header> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut machine: Reader = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
    let (mut text, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 1]);
    let (found, _, written, mut cells) = machine.read_record(line, &mut text, &mut ends);
    if found == ReadRecordResult::InputEmpty {
        cells += machine.read_record(b"", &mut text[written..], &mut ends[cells..]).3;
    }
    let bounds = std::iter::once(0).chain(ends[..cells].iter().copied()).zip(&ends[..cells]);
    let cells: Vec<&[u8]> = bounds.map(|(from, to)| &text[from..*to]).collect();
    Header::new("", &cells).ok()
}

impl CsvReader {
    /// The columns that count where the content does not begin with a header.
    pub fn assume(&mut self, columns: Option<Columns>) {
        self.assumed = columns;
    }

    /// The columns for what comes in this file's place without naming its own: those in force, or those assumed.
    #[must_use]
    pub fn columns_to_go_on_with(&self) -> Option<Columns> {
        self.header.clone().map(Columns).or_else(|| self.assumed.clone())
    }

    /// Reads the header, if it is complete.
    pub(super) fn read_header(&mut self) -> Result<bool, SourceError> {
        if self.content.base() == 0 && self.records.at() == 0 && self.content.bytes().starts_with(b"\xef\xbb\xbf") {
            self.records.restart(3, 0);
        }
        loop {
            match self.parse() {
                // Blank lines before the header count: the bytes that identify a content reach past the header.
                Parsed::Record(_, end) if end > MAX_HEADER => return Err(self.no_header("it does not begin with a header")),
                Parsed::Record(begin, end) => {
                    let cells = self.cells(begin, end);
                    let cells: Vec<&[u8]> = (0..self.records.record().len()).map(|at| cells.get(at)).collect();
                    if let Some(assumed) = self.assumed.as_ref().filter(|assumed| assumed.fits(&cells)) {
                        // It is a row.
                        self.headers.note(0, assumed.0.clone());
                        self.header = Some(assumed.0.clone());
                        self.records.restart(self.records.at(), self.records.newlines());
                        return Ok(true);
                    }
                    let header = Header::new(self.content.name(), &cells)?;
                    self.take_header(header, end);
                    self.records.advance(end);
                    self.take_end(end);
                    return Ok(true);
                }
                Parsed::Blank => {}
                Parsed::Nothing if self.content.has_ended() => {
                    return Err(SourceError::Empty { name: self.content.name().to_owned() });
                }
                Parsed::Nothing if self.records.at() <= MAX_HEADER => return Ok(false),
                Parsed::Nothing => {}
                Parsed::TooLong(..) | Parsed::Open(..) => {
                    let binary = self.content.bytes().contains(&0);
                    return Err(self.no_header(if binary {
                        "it begins with binary data"
                    } else {
                        "its first line does not end"
                    }));
                }
            }
            if self.records.at() > MAX_HEADER {
                return Err(self.no_header("it does not begin with a header"));
            }
        }
    }

    fn no_header(&self, reason: &str) -> SourceError {
        SourceError::NotText { name: self.content.name().to_owned(), reason: reason.to_owned() }
    }

    /// Goes on behind a header by what it says.
    pub(super) fn take_header(&mut self, header: Header, end: usize) {
        let header = Arc::new(header);
        self.headers.note(self.content.base() + end.min(self.content.real_len()) as u64, header.clone());
        self.header = Some(header);
    }

    /// The header that the record just parsed is, if it is one.
    pub(super) fn header_in_the_middle(&self, begin: usize, end: usize) -> Option<Header> {
        let raw = &self.content.bytes()[begin..end];
        if raw.len() > MAX_HEADER || !may_be_header(raw) {
            return None;
        }
        let cells = self.cells(begin, end);
        let cells: Vec<&[u8]> = (0..self.records.record().len()).map(|at| cells.get(at)).collect();
        Header::new(self.content.name(), &cells).ok()
    }
}

/// Looks through a content up to an offset. `false`: it ends before.
pub(super) fn look(file: &Aside, headers: &mut Headers, until: u64) -> io::Result<bool> {
    let (mut lines, mut at) = (Vec::with_capacity(BLOCK + MAX_HEADER), headers.known_to);
    while at + (lines.len() as u64) < until {
        let kept = lines.len();
        let want = BLOCK.min(usize::try_from(until - at).unwrap_or(usize::MAX) - kept);
        lines.resize(kept + want, 0);
        let n = file.read_at(&mut lines[kept..], at + kept as u64)?;
        lines.truncate(kept + n);
        if n == 0 {
            return Ok(false);
        }
        if let Some(newline) = memrchr(b'\n', &lines) {
            headers.look_through(at, &lines[..=newline]);
            at += newline as u64 + 1;
            lines.drain(..=newline);
        } else if lines.len() > MAX_HEADER {
            // The beginning of a line that is too long to be a header.
            at += lines.len() as u64 - 1;
            lines.drain(..lines.len() - 1);
        }
    }
    headers.read_to(until);
    Ok(true)
}
