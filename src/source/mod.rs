//! Sources: where rows come from, and where each of them stands.
//!
//! Two rooms: *content* is bytes with offsets (files, gzip or not, and pipes; growth, identity, going back), *format* is what makes
//! records and rows of them. A content knows of no format. [`CsvReader`] is one reader of one content: [`CsvReader::fill`] does all the
//! waiting, [`CsvReader::next_row`] gives what is in memory.
//!
//! Beside them: [`discover()`] finds inputs, [`Watch`] finds them again and again, [`identity`] says which source a content is, [`follow`] what became of a file that is
//! watched, [`pace`] when rows are due, [`Rejects`] writes rejected rows to a file, and a table of series
//! (`table/`) keeps the texts that they share once. Nothing here spawns tasks: the caller owns the loops.
//!
//! A *row* is a CSV record, valid or not, headers and blank lines not counted; its ordinal and its place in the
//! (decompressed) bytes are the same however the content was cut into blocks.

mod content;
mod discover;
mod error;
mod format;
pub mod pace;
mod rejects;
mod table;
mod watch;

use std::time::Duration;

use crate::model::{Reason, TimeMs};

pub use content::{Input, follow, identity};
pub use discover::{discover, fed_by_rejects};
pub use error::SourceError;
pub use format::csv::{Columns, CsvReader, Learnt};
pub use rejects::Rejects;
pub use watch::{Found, Watch};

/// How much before a position is digested for it.
pub const TAIL_BYTES: u64 = 64 << 10;
/// How much of a content's beginning identifies it, where there is that much.
pub const PREFIX_BYTES: u64 = 64 << 10;

/// Limits of reading.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest record, its line end included, in bytes; a longer one is rejected. At least 16.
    pub max_record_bytes: usize,
    /// Longest text cell (`labels_raw` apart), in bytes.
    pub max_cell_bytes: usize,
    /// Series (more exactly: ways in which series are written) that are remembered.
    pub max_series: usize,
    /// Memory that they may take, in bytes.
    pub max_series_bytes: usize,
    /// How much is read at once, in bytes.
    pub block_bytes: usize,
    /// How often a followed file is looked at.
    pub poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_record_bytes: 1 << 20,
            max_cell_bytes: 4096,
            max_series: 1_000_000,
            max_series_bytes: 160 << 20,
            block_bytes: 256 << 10,
            poll: Duration::from_millis(250),
        }
    }
}

/// What [`CsvReader::fill`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// There may be rows.
    Data,
    /// The end of a followed file: nothing more now.
    Idle,
    /// The table of series is full, and all of it is in use: finish what refers to it, and call [`CsvReader::release_series`].
    SeriesFull,
    /// The end.
    End,
}

/// Whether a position was found in the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// It was: the next row is the position's.
    Ok,
    /// The bytes before it are others: another content. Seek again before reading on.
    Mismatch,
    /// The content ends before it. Seek again before reading on.
    Shorter,
}

/// A row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    /// Its ordinal in the source, from 0.
    pub row: u64,
    /// What it is.
    pub kind: RowKind,
}

/// What a row is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RowKind {
    /// A sample.
    Sample {
        /// Index into [`CsvReader::series`].
        series: u32,
        /// ms since 1970 UTC.
        time_ms: TimeMs,
        /// Always finite.
        value: f64,
    },
    /// No sample.
    Reject {
        /// The physical line on which the record begins; 1 is the file's first.
        line: u64,
        /// Why.
        reason: Reason,
    },
}
