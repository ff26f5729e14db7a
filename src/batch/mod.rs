//! Batches: rows of one source on their way, as columns grouped by series.
//!
//! Pure: time is passed in, nothing is read or written. [`Builder`] collects rows and says when it is full; [`encode`] and
//! [`decode`] are the wire format; [`Dictionary`] is a segment of series, sent once and referred to by digest.

mod builder;
mod codec;
mod dictionary;
mod limits;
mod segments;
mod values;
mod wire;

pub use builder::{Builder, Columns, Limits};
pub use codec::{DecodeError, VERSION, decode, encode};
pub use dictionary::Dictionary;
pub use limits::{DEFAULT_NEW_SERIES, MAX_CLUSTER_BYTES, MAX_DICTIONARIES, MAX_NAME_BYTES, MAX_ROWS, MAX_SERIES, MAX_TEXT_BYTES};
pub use segments::{Placement, Segments};
pub use wire::{MAX_FRAME_BYTES, frame_bytes};

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use crate::model::{DictionaryId, FamilyId, MAX_TIME, MIN_TIME, Reason, RowRange, SourceId, TimeMs};

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

/// What a batch consists of, as anybody may put it together: [`Batch::new`] says whether it is one.
#[derive(Clone, PartialEq, Debug)]
pub struct BatchParts {
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

/// A batch that is what it promises: each row it covers is a sample or a reject, exactly once; its columns are equally long and its
/// runs follow each other; times and values are possible; names have their bounds. Its parts can be read, not changed, so nobody
/// has to check them again.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch(BatchParts);

impl Deref for Batch {
    type Target = BatchParts;

    fn deref(&self) -> &BatchParts {
        &self.0
    }
}

impl Batch {
    /// A batch of these parts.
    ///
    /// # Errors
    /// What they contradict.
    pub fn new(parts: BatchParts) -> Result<Self, DecodeError> {
        parts.check_header()?;
        parts.check_columns()?;
        parts.check_rows()?;
        Ok(Self(parts))
    }

    /// Parts that may be no batch, for tests of what does not look at them.
    #[cfg(test)]
    pub(crate) fn unchecked(parts: BatchParts) -> Self {
        Self(parts)
    }

    /// The parts, to make another batch of them.
    #[must_use]
    pub fn into_parts(self) -> BatchParts {
        self.0
    }

    /// Makes rejects of all samples that `reason_of` has a reason for, given their time. Their lines are not known any more: 0.
    #[must_use]
    pub fn reject_by_time(self, reason_of: impl Fn(TimeMs) -> Option<Reason>) -> Self {
        if self.time_ms.iter().all(|time| reason_of(*time).is_none()) {
            return self;
        }
        let old = self.0;
        let mut new = BatchParts { runs: Vec::new(), row: Vec::new(), time_ms: Vec::new(), value: Vec::new(), ..old };
        for run in old.runs {
            let start = new.row.len();
            for i in run.start..run.start + run.len {
                match reason_of(old.time_ms[i]) {
                    Some(reason) => new.rejects.push(Reject { row: old.row[i], line: 0, reason }),
                    None => {
                        new.row.push(old.row[i]);
                        new.time_ms.push(old.time_ms[i]);
                        new.value.push(old.value[i]);
                    }
                }
            }
            let len = new.row.len() - start;
            if len > 0 {
                new.runs.push(Run { start, len, ..run });
            }
        }
        new.rejects.sort_unstable_by_key(|reject| reject.row);
        // Every row is still there once, and what is left of a run is a run.
        Self(new)
    }

    /// Checks that every run's series stands in these dictionaries (those that the header names, in that order).
    ///
    /// # Errors
    /// [`DecodeError::Column`] where one does not.
    pub fn check(&self, dictionaries: &[Arc<Dictionary>]) -> Result<(), DecodeError> {
        let stands = |run: &Run| dictionaries.get(run.dictionary as usize).is_some_and(|d| (run.index as usize) < d.len());
        if dictionaries.len() == self.header.dictionaries.len() && self.runs.iter().all(stands) {
            Ok(())
        } else {
            Err(DecodeError::Column("run_index (beyond its dictionary)"))
        }
    }

    /// What it takes in memory, bytes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        const COLUMNS: usize = size_of::<u64>() + size_of::<i64>() + size_of::<f64>();
        self.row.len() * COLUMNS + self.runs.len() * size_of::<Run>() + self.rejects.len() * size_of::<Reject>()
    }
}

impl BatchParts {
    fn check_header(&self) -> Result<(), DecodeError> {
        let Header { cluster, name, dictionaries, .. } = &self.header;
        for (field, bytes, limit) in [("cluster", cluster.len(), MAX_CLUSTER_BYTES), ("name", name.len(), MAX_NAME_BYTES)] {
            if bytes > limit {
                return Err(DecodeError::TooLong { field, bytes, limit });
            }
        }
        if dictionaries.len() > MAX_DICTIONARIES {
            return Err(DecodeError::TooMany { field: "dictionaries", limit: MAX_DICTIONARIES });
        }
        Ok(())
    }

    fn check_columns(&self) -> Result<(), DecodeError> {
        let samples = self.row.len();
        if self.time_ms.len() != samples || self.value.len() != samples {
            return Err(DecodeError::Column("values (not as many as rows)"));
        }
        let mut start = 0;
        for run in &self.runs {
            if run.dictionary as usize >= self.header.dictionaries.len() {
                return Err(DecodeError::Column("run_dictionary"));
            }
            let end = run.start.checked_add(run.len).filter(|end| *end <= samples);
            start = match end {
                Some(end) if run.start == start && run.len > 0 => end,
                _ => return Err(DecodeError::Column("run_len")),
            };
        }
        if start != samples {
            return Err(DecodeError::Column("run_len (not all samples)"));
        }
        if !self.time_ms.iter().all(|time| (MIN_TIME..MAX_TIME).contains(time)) {
            return Err(DecodeError::Column("time"));
        }
        if !self.value.iter().all(|value| value.is_finite()) {
            return Err(DecodeError::Column("values (not finite)"));
        }
        Ok(())
    }

    /// Every row once: none twice, so the number decides.
    fn check_rows(&self) -> Result<(), DecodeError> {
        let RowRange { first, end } = self.rows;
        let rows = end.checked_sub(first).and_then(|rows| usize::try_from(rows).ok());
        let rows = rows.filter(|rows| *rows <= MAX_ROWS).ok_or(DecodeError::Column("rows"))?;
        // Rows are int8 in stores, and so are lines.
        if i64::try_from(end).is_err() {
            return Err(DecodeError::Column("first_row"));
        }
        if self.rejects.iter().any(|reject| i64::try_from(reject.line).is_err()) {
            return Err(DecodeError::Column("reject_line"));
        }
        if self.row.len() + self.rejects.len() != rows {
            return Err(DecodeError::Column("rows (not each of them once)"));
        }
        let mut seen = vec![false; rows];
        for row in self.row.iter().copied().chain(self.rejects.iter().map(|reject| reject.row)) {
            let at = row.checked_sub(first).and_then(|at| seen.get_mut(usize::try_from(at).ok()?));
            match at {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return Err(DecodeError::Column("row (twice)")),
                None => return Err(DecodeError::Column("row (outside of the batch)")),
            }
        }
        Ok(())
    }
}
