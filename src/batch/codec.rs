//! Encoding and decoding of batches. What is decoded is checked: a batch that comes out of [`decode`] keeps every promise of
//! [`Batch`], whatever the bytes were.

use bytes::Bytes;

use super::builder::Columns;
use super::limits::{MAX_NAME_BYTES, MAX_ROWS};
use super::segments::Placement;
use super::values;
use super::wire::{self, BatchMessage};
use super::{Batch, BatchParts, Header, Reject, Run};
use crate::model::{DictionaryId, Digest, FamilyId, Reason, RowRange, SourceId, TimeMs};

/// The version this program writes, and the only one it reads.
pub const VERSION: u8 = 1;
const MAGIC: [u8; 3] = *b"TLB";

/// Why bytes are not a batch or a dictionary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too few bytes for the envelope.
    #[error("the bytes end too early")]
    Truncated,
    /// Not ours.
    #[error("the bytes are not a batch or dictionary of this pipeline")]
    Magic,
    /// Written by another version.
    #[error(
        "format version {found} is not known here (this program reads version {known}); upgrade the collectors before the streamers"
    )]
    Version {
        /// What the bytes say.
        found: u8,
        /// What this program knows.
        known: u8,
    },
    /// The zstd frame is damaged.
    #[error("the compressed frame is damaged: {0}")]
    Frame(String),
    /// The frame claims more than is allowed.
    #[error("it unfolds to {0} bytes or more, which is more than a batch or dictionary may have")]
    TooLarge(usize),
    /// A field has more elements than is allowed.
    #[error("the field `{field}` has more than {limit} elements")]
    TooMany {
        /// Which.
        field: &'static str,
        /// How many it may have.
        limit: usize,
    },
    /// A text is longer than is allowed.
    #[error("the field `{field}` has {bytes} bytes, more than {limit}")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Not protobuf.
    #[error("the message is damaged: {0}")]
    Message(String),
    /// A column contradicts another or itself.
    #[error("the column `{0}` is damaged")]
    Column(&'static str),
    /// The digest differs.
    #[error("the dictionary's bytes do not have the digest {0} they are kept under")]
    Digest(DictionaryId),
}

/// Encodes what a builder collected. `placement` says which dictionary and index each of the builder's series has; `header`
/// names those dictionaries.
#[must_use]
pub fn encode(header: &Header, columns: &Columns, placement: &Placement, level: i32) -> Bytes {
    let mut message = BatchMessage {
        source: Bytes::copy_from_slice(&header.source.to_bytes()),
        family: Bytes::copy_from_slice(&header.family.to_bytes()),
        cluster: header.cluster.clone(),
        name: cut(&header.name, MAX_NAME_BYTES).to_owned(),
        created_ms: header.created_ms.as_millis(),
        first_row: columns.rows.first,
        rows: columns.rows.len(),
        dictionaries: header.dictionaries.iter().map(|d| Bytes::copy_from_slice(&d.to_bytes())).collect(),
        ..BatchMessage::default()
    };
    write_runs(columns, placement, &mut message);
    write_rejects(columns, &mut message);
    wire::seal(MAGIC, VERSION, &message, level)
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Samples in the order (dictionary, index, row), and the runs of them: dictionary, index, length.
fn order(columns: &Columns, placement: &Placement) -> (Vec<u32>, Vec<(u32, u32, usize)>) {
    // A counting sort: where each series' samples begin, then each sample to its place; row order is kept within a series.
    let places: Vec<usize> = columns.series.iter().map(|&series| placement.of(series)).collect();
    let mut starts = vec![0u32; placement.lengths().sum()];
    for &place in &places {
        starts[place] += 1;
    }
    let (mut runs, mut at, mut place) = (Vec::new(), 0, 0);
    for (dictionary, length) in (0..).zip(placement.lengths()) {
        for (index, start) in (0..).zip(&mut starts[place..place + length]) {
            let count = std::mem::replace(start, at);
            if count > 0 {
                runs.push((dictionary, index, count as usize));
                at += count;
            }
        }
        place += length;
    }
    let mut sorted = vec![0u32; columns.series.len()];
    for (sample, place) in (0..).zip(places) {
        let start = &mut starts[place];
        sorted[*start as usize] = sample;
        *start += 1;
    }
    (sorted, runs)
}

/// Differences of differences; the last difference goes on from run to run.
#[derive(Default)]
struct DeltaOfDelta {
    last: i64,
    delta: i64,
}

impl DeltaOfDelta {
    fn begin(&mut self, value: i64) {
        self.last = value;
    }

    fn push(&mut self, value: i64) -> i64 {
        let delta = value.wrapping_sub(self.last);
        let dd = delta.wrapping_sub(self.delta);
        (self.last, self.delta) = (value, delta);
        dd
    }

    fn pull(&mut self, dd: i64) -> i64 {
        self.delta = self.delta.wrapping_add(dd);
        self.last = self.last.wrapping_add(self.delta);
        self.last
    }
}

fn write_runs(columns: &Columns, placement: &Placement, out: &mut BatchMessage) {
    let (sorted, runs) = order(columns, placement);
    let (mut rows, mut times) = (DeltaOfDelta::default(), DeltaOfDelta::default());
    let (mut last_dictionary, mut last_index, mut last_row, mut last_time) = (0, 0, 0, 0);
    let mut run_values = Vec::new();
    let mut start = 0;
    for (dictionary, index, len) in runs {
        let samples = &sorted[start..start + len];
        start += len;
        out.run_dictionary.push(dictionary - last_dictionary);
        out.run_index.push(i64::from(index) - last_index);
        out.run_len.push(len as u32);
        (last_dictionary, last_index) = (dictionary, i64::from(index));
        run_values.clear();
        for (i, &sample) in samples.iter().enumerate() {
            let (row, time) = (i64::from(columns.row[sample as usize]), columns.time_ms[sample as usize].as_millis());
            if i == 0 {
                out.run_row.push(row - last_row);
                out.run_time.push(time.wrapping_sub(last_time));
                (last_row, last_time) = (row, time);
                rows.begin(row);
                times.begin(time);
            } else {
                out.row_dd.push(rows.push(row));
                out.time_dd.push(times.push(time));
            }
            run_values.push(columns.value[sample as usize]);
        }
        values::write(&run_values, out);
    }
}

fn write_rejects(columns: &Columns, out: &mut BatchMessage) {
    let (mut last_row, mut last_line) = (columns.rows.first, 0);
    for reject in &columns.rejects {
        out.reject_row.push(reject.row - last_row);
        out.reject_line.push(reject.line.wrapping_sub(last_line) as i64);
        out.reject_reason.push(u32::from(reject.reason.code()));
        (last_row, last_line) = (reject.row, reject.line);
    }
}

/// Decodes and checks a batch.
pub fn decode(sealed: &[u8]) -> Result<Batch, DecodeError> {
    let message: BatchMessage = wire::open(MAGIC, VERSION, sealed)?;
    let digest = |bytes: &[u8], column| Digest::from_slice(bytes).ok_or(DecodeError::Column(column));
    let source = SourceId::from_digest(digest(&message.source, "source")?);
    let family = digest(&message.family, "family")?;
    let header = Header {
        source,
        family: if family == Digest::default() { FamilyId::of_source(source) } else { FamilyId::from_digest(family) },
        cluster: message.cluster.clone(),
        name: message.name.clone(),
        created_ms: TimeMs::from_millis(message.created_ms),
        dictionaries: message
            .dictionaries
            .iter()
            .map(|d| digest(d, "dictionaries").map(DictionaryId::from_digest))
            .collect::<Result<_, _>>()?,
    };
    if message.rows == 0 || message.rows > MAX_ROWS as u64 {
        return Err(DecodeError::Column("rows"));
    }
    let end = message.first_row.checked_add(message.rows).ok_or(DecodeError::Column("rows"))?;
    let mut parts = BatchParts {
        header,
        rows: RowRange { first: message.first_row, end },
        runs: Vec::with_capacity(message.run_len.len()),
        row: Vec::new(),
        time_ms: Vec::new(),
        value: Vec::new(),
        rejects: Vec::with_capacity(message.reject_row.len()),
    };
    read_runs(&message, &mut parts)?;
    read_rejects(&message, &mut parts)?;
    Batch::new(parts)
}

/// The row at an offset into the batch.
fn row_at(message: &BatchMessage, offset: u64) -> Result<u64, DecodeError> {
    if offset < message.rows { Ok(message.first_row + offset) } else { Err(DecodeError::Column("row (outside of the batch)")) }
}

fn read_runs(message: &BatchMessage, batch: &mut BatchParts) -> Result<(), DecodeError> {
    let n = message.run_len.len();
    let columns = [
        message.run_dictionary.len(),
        message.run_index.len(),
        message.run_row.len(),
        message.run_time.len(),
        message.run_scale.len(),
    ];
    if columns.iter().any(|&len| len != n) {
        return Err(DecodeError::Column("runs"));
    }
    let samples: u64 = message.run_len.iter().map(|&len| u64::from(len)).sum();
    if samples > message.rows {
        return Err(DecodeError::Column("run_len"));
    }
    let samples = samples as usize;
    batch.row.reserve_exact(samples);
    batch.time_ms.reserve_exact(samples);
    batch.value.reserve_exact(samples);
    let (mut rows, mut times) = (DeltaOfDelta::default(), DeltaOfDelta::default());
    let (mut row_dd, mut time_dd) = (message.row_dd.iter(), message.time_dd.iter());
    let mut values = values::Reader::new(message);
    let (mut dictionary, mut index, mut row, mut time) = (0u32, 0i64, 0i64, 0i64);
    for run in 0..n {
        let len = message.run_len[run] as usize;
        dictionary = dictionary.wrapping_add(message.run_dictionary[run]);
        index = index.wrapping_add(message.run_index[run]);
        row = row.wrapping_add(message.run_row[run]);
        time = time.wrapping_add(message.run_time[run]);
        let index = u32::try_from(index).map_err(|_| DecodeError::Column("run_index"))?;
        batch.runs.push(Run { dictionary, index, start: batch.row.len(), len });
        rows.begin(row);
        times.begin(time);
        let (mut at, mut when) = (row, time);
        for i in 0..len {
            if i > 0 {
                at = rows.pull(*row_dd.next().ok_or(DecodeError::Column("row_dd"))?);
                when = times.pull(*time_dd.next().ok_or(DecodeError::Column("time_dd"))?);
            }
            let offset = u64::try_from(at).map_err(|_| DecodeError::Column("row"))?;
            batch.row.push(row_at(message, offset)?);
            batch.time_ms.push(TimeMs::from_millis(when));
        }
        values.read(message.run_scale[run], len, &mut batch.value)?;
    }
    values.finish()?;
    if row_dd.len() + time_dd.len() > 0 { Err(DecodeError::Column("row_dd (too many)")) } else { Ok(()) }
}

fn read_rejects(message: &BatchMessage, batch: &mut BatchParts) -> Result<(), DecodeError> {
    if message.reject_line.len() != message.reject_row.len() || message.reject_reason.len() != message.reject_row.len() {
        return Err(DecodeError::Column("rejects"));
    }
    let (mut row, mut line) = (0u64, 0u64);
    for ((&row_delta, &line_delta), &reason) in message.reject_row.iter().zip(&message.reject_line).zip(&message.reject_reason) {
        row = row.checked_add(row_delta).ok_or(DecodeError::Column("reject_row"))?;
        line = line.wrapping_add(line_delta as u64);
        let reason = u8::try_from(reason).ok().and_then(Reason::from_code).ok_or(DecodeError::Column("reject_reason"))?;
        batch.rejects.push(Reject { row: row_at(message, row)?, line, reason });
    }
    Ok(())
}
