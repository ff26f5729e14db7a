//! How far a record is known to reach that goes on over many lines, so that it is not parsed again for each of them.
//!
//! A quote that nobody closes makes a record of everything up to the limit, and costs its line only: the next line is tried, and often
//! has such a quote too. But what is inside quotes at a line's end goes on in the same way, wherever it began. So of a record that
//! begins within another one that goes on, its first line tells everything: it ends there, or it ends where the other one does.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};

use super::records::{Parsed, Records, is_too_long};
use crate::source::content::Content;

/// What is known of records that go on.
#[derive(Debug)]
pub(super) struct Spans {
    longest: Option<Span>,
    /// For the first lines of others.
    line: Machine,
    /// Every record is parsed as if nothing were known of it.
    #[cfg(test)]
    pub(super) off: bool,
}

/// A record that is inside quotes at every line's end of it but the last. Offsets in the content.
#[derive(Debug)]
struct Span {
    from: u64,
    /// Where it ends, or up to where it was followed.
    end: u64,
    /// What it would go on with; `None`: it has ended.
    open: Option<Machine>,
}

impl Spans {
    pub(super) fn new() -> Self {
        Self {
            longest: None,
            line: Machine::new(),
            #[cfg(test)]
            off: false,
        }
    }

    /// Forgets everything: other bytes may come.
    pub(super) fn clear(&mut self) {
        self.longest = None;
    }

    /// The record that begins there has not ended when its bytes do.
    pub(super) fn goes_on(&mut self, from: u64, bytes: &[u8]) {
        let mut machine = Machine::new();
        self.longest = match machine.end(bytes) {
            None => Some(Span { from, end: from + bytes.len() as u64, open: Some(machine) }),
            Some(_) => None,
        };
    }

    /// The record that begins there ends here.
    pub(super) fn ends(&mut self, from: u64, end: u64) {
        self.longest = Some(Span { from, end, open: None });
    }

    /// Where the record ends that begins at an index of a window, the first byte of which has the offset `base`: if it goes on like the
    /// one that is known, and where that one ends (`true`), or where the window does (`false`).
    fn end_of(&mut self, base: u64, bytes: &[u8], begin: usize) -> Option<(usize, bool)> {
        let span = self.longest.as_mut()?;
        let known = usize::try_from(span.end.checked_sub(base)?).ok().filter(|known| *known <= bytes.len())?;
        if let Some(machine) = &mut span.open {
            let came = &bytes[known..];
            let ended = machine.end(came);
            span.end += ended.unwrap_or(came.len()) as u64;
            if ended.is_some() {
                span.open = None;
            }
        }
        let (end, ended) = ((span.end - base) as usize, span.open.is_none());
        if span.from == base + begin as u64 {
            return Some((end, ended));
        }
        if ended && begin >= end {
            // Those behind it have nothing to do with it.
            self.longest = None;
            return None;
        }
        let line = begin + bytes[begin..].iter().position(|byte| *byte == b'\n')? + 1;
        // In its last line, or behind it, the other one says nothing.
        if ended && line >= end {
            return None;
        }
        self.line.anew().end(&bytes[begin..line]).is_none().then_some((end, ended))
    }
}

impl Records {
    /// What parsing the next record would find, where that is known; `None`: it must be parsed.
    pub(super) fn foreseen(&mut self, content: &Content, longest: usize) -> Option<Parsed> {
        #[cfg(test)]
        if self.spans.off {
            return None;
        }
        let (bytes, at) = (content.bytes(), self.at());
        let blanks = bytes[at..].iter().take_while(|byte| **byte == b'\n').count();
        let begin = at + blanks;
        let (end, ended) = self.spans.end_of(content.base(), bytes, begin)?;
        match ended {
            false => Some(self.unfinished(content, begin, end, longest)),
            true => is_too_long(content, begin, end, longest).then_some(Parsed::TooLong(begin)),
        }
    }
}

/// The state of the CSV parser, asked only for where a record ends. (A clone of a `Reader` does not work: csv-core leaves out what it
/// has compiled.)
#[derive(Debug)]
struct Machine(Reader);

impl Machine {
    fn new() -> Self {
        let mut machine = Self(ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build());
        machine.anew();
        machine
    }

    /// Before a record.
    fn anew(&mut self) -> &mut Self {
        self.0.reset();
        // As `window::parser` begins, and for the same reason.
        self.end(b"\n");
        self
    }

    /// Goes on with these bytes: how many of them there are up to the record's end, if that is among them.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        // What the cells say is not needed.
        let (mut cells, mut ends) = ([0; 512], [0; 32]);
        let mut at = 0;
        while at < bytes.len() {
            let (found, taken, ..) = self.0.read_record(&bytes[at..], &mut cells, &mut ends);
            at += taken;
            #[cfg(test)]
            tests::LOOKED_AT.with(|looked_at| looked_at.set(looked_at.get() + taken));
            if found == ReadRecordResult::Record {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use crate::source::{CsvReader, Fill, Options, Row, RowKind};

    const HEADER: &str = "timestamp,metric_name,uuid,value\n";

    thread_local! {
        /// Bytes that were followed to see where a record ends.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    /// Rows with what positions and rejects files have of them; `off`: as they are without anything known.
    fn read(text: &[u8], options: Options, piece: usize, off: bool) -> (Vec<(Row, Vec<u8>, u64)>, usize) {
        runtime().block_on(async {
            // What is read at once is no more than a piece, as from a pipe.
            let text = tokio_util::io::StreamReader::new(futures_util::stream::iter(
                text.chunks(piece).map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece))).collect::<Vec<_>>(),
            ));
            let mut reader = CsvReader::from_reader(text.take(u64::MAX), options);
            reader.records.spans.off = off;
            let mut rows = Vec::new();
            loop {
                while let Some(row) = reader.next_row() {
                    rows.push((row, reader.raw().to_vec(), reader.position().offset));
                }
                match reader.fill().await.unwrap() {
                    Fill::End | Fill::Idle => return (rows, reader.records.csv.get_ref().given),
                    Fill::SeriesFull => drop(reader.release_series(false)),
                    Fill::Data => {}
                }
            }
        })
    }

    /// Lines that begin, end and double quotes wherever that means something else.
    fn lines() -> impl Strategy<Value = String> {
        let cell = prop_oneof![
            4 => Just("a"), 4 => Just("\""), 2 => Just("\"\""), 3 => Just(","), 2 => Just("\r"), 1 => Just("\u{feff}"), 1 => Just("\"a"),
        ];
        let line = prop_oneof![
            6 => prop::collection::vec(cell, 0..7).prop_map(|cells| cells.concat()),
            2 => Just("2025-01-01T00:00:00Z,M,GPU-1,1".to_owned()),
            2 => Just("\"2025-01-01T00:00:00Z\",\"M,GPU-1,1".to_owned()),
            1 => Just("\"".to_owned()),
            1 => (10usize..40).prop_map(|n| "z".repeat(n)),
        ];
        (prop::collection::vec(line, 0..40), prop::bool::ANY)
            .prop_map(|(lines, end)| HEADER.to_owned() + &lines.join("\n") + if end { "\n" } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_known_changes_no_row(text in lines(), piece in 1usize..200, longest in 16usize..200) {
            let options = Options { max_record_bytes: longest, ..Options::default() };
            let (with, without) = (read(text.as_bytes(), options, piece, false), read(text.as_bytes(), options, piece, true));
            prop_assert_eq!(with.0, without.0);
        }
    }

    /// How many bytes were handed to the parser or followed, for each byte of a file.
    fn work(text: &str, options: Options, piece: usize) -> usize {
        LOOKED_AT.set(0);
        let (rows, given) = read(text.as_bytes(), options, piece, false);
        assert!(rows.iter().any(|(row, ..)| matches!(row.kind, RowKind::Reject { .. })));
        (LOOKED_AT.get() + given) / text.len()
    }

    #[test]
    fn unclosed_quotes_cost_no_more_than_their_lines() {
        let bad = "\"2025-01-01T00:00:00Z\",\"M,0,n,GPU-1,m,h,,,,1,\n";
        let good = "2025-01-01T00:00:00Z,M,GPU-1,1\n";
        let closed_late = format!("\"{}\"\n", "\n".repeat(9_000));
        for (what, text) in [
            ("one of them", bad.to_owned() + &good.repeat(20_000)),
            ("all of them", bad.repeat(5_000)),
            ("every second", format!("{bad}{good}").repeat(3_000)),
            ("lone quotes", "\"\n".repeat(10_000)),
            ("each in quotes where the one before is not", "\"a,\n,\"\n".repeat(5_000)),
            ("closed behind the limit", closed_late.repeat(10)),
        ] {
            let text = HEADER.to_owned() + &text;
            for (longest, piece) in [(1 << 20, 256 << 10), (16 << 10, 64 << 10), (16 << 10, 4 << 10)] {
                let work = work(&text, Options { max_record_bytes: longest, ..Options::default() }, piece);
                assert!(work < 12, "{what}, {longest}, {piece}: each byte was looked at {work} times");
            }
        }
    }
}
