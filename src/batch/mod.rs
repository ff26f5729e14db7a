//! Batches: rows of one source on their way, as columns grouped by series.
//!
//! Pure: time is passed in, nothing is read or written. [`Builder`] collects rows and says when it is full; [`encode`] and
//! [`decode`] are the wire format; [`Dictionary`] is a segment of series, sent once and referred to by digest.

mod builder;
mod codec;
mod dictionary;
mod segments;
mod values;
mod wire;

pub use builder::{Builder, Columns, Limits};
pub use codec::{DecodeError, MAX_ROWS, VERSION, decode, encode};
pub use dictionary::Dictionary;
pub use segments::{Placement, Segments};
pub use wire::MAX_DECODED_BYTES;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::model::{DictionaryId, FamilyId, Reason, RowRange, SourceId, TimeMs};

/// What a batch says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The source of the rows.
    pub source: SourceId,
    /// What sources share that may be the same content under another id (see `source`): rows of one family that stand at the same
    /// place are compared by sample identity before they are stored. `--loop` and `--restamp` rounds are a family of their own.
    pub family: FamilyId,
    /// The edge cluster's name.
    pub cluster: String,
    /// The source's name for people (a file name).
    pub name: String,
    /// Wall clock of the streamer when the batch was closed.
    pub created_ms: TimeMs,
    /// The dictionaries that runs refer to, by index.
    pub dictionaries: Vec<DictionaryId>,
}

/// A row that became no sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Ordinal in the source.
    pub row: u64,
    /// Physical line on which it begins; 1 is the file's first line.
    pub line: u64,
    /// Why.
    pub reason: Reason,
}

/// The samples of one series within a batch: `columns[start .. start + len]`, in row order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Index into [`Header::dictionaries`].
    pub dictionary: u32,
    /// Index into that dictionary.
    pub index: u32,
    /// Where the run begins in the columns.
    pub start: usize,
    /// How many samples it has.
    pub len: usize,
}

/// A decoded batch. It covers `rows`: each of them is a sample or a reject, exactly once.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// What the batch says of itself.
    pub header: Header,
    /// The rows it covers.
    pub rows: RowRange,
    /// The runs, one a series.
    pub runs: Vec<Run>,
    /// Row ordinal of each sample.
    pub row: Vec<u64>,
    /// Time of each sample.
    pub time_ms: Vec<TimeMs>,
    /// Value of each sample, always finite.
    pub value: Vec<f64>,
    /// The rejected rows, in order.
    pub rejects: Vec<Reject>,
}

impl Batch {
    /// Checks that every run's series stands in these dictionaries (those that the header names, in that order).
    pub fn check(&self, dictionaries: &[Arc<Dictionary>]) -> Result<(), DecodeError> {
        let stands = |run: &Run| dictionaries.get(run.dictionary as usize).is_some_and(|d| (run.index as usize) < d.series.len());
        if dictionaries.len() == self.header.dictionaries.len() && self.runs.iter().all(stands) {
            Ok(())
        } else {
            Err(DecodeError::Column("run_index (beyond its dictionary)"))
        }
    }
}
