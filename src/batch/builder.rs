//! Collects rows until a batch is full by rows, bytes or age.

use std::time::Duration;

use super::Reject;
use crate::model::{RowRange, TimeMs};

/// What a sample costs on the wire at the very worst (its bits, its row, its time), bytes.
const SAMPLE_BYTES: usize = 14;
/// What a reject costs at the very worst, bytes.
const REJECT_BYTES: usize = 8;

/// When a batch closes, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows, valid or not.
    pub max_rows: usize,
    /// Bytes, reckoned at the worst.
    pub max_bytes: usize,
    /// Time since its first row.
    pub max_age: Duration,
}

/// Rows of one source, as they were read: samples as columns in file order, and rejects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// The rows covered.
    pub rows: RowRange,
    /// Each sample's series, an index into the reader's table.
    pub series: Vec<u32>,
    /// Each sample's row, less `rows.first`.
    pub row: Vec<u32>,
    /// Each sample's time, ms.
    pub time_ms: Vec<TimeMs>,
    /// Each sample's value.
    pub value: Vec<f64>,
    /// The rejected rows.
    pub rejects: Vec<Reject>,
}

/// Collects rows. Rows come in order, without holes.
#[derive(Debug)]
pub struct Builder {
    limits: Limits,
    columns: Columns,
    /// When the first row came, on the caller's clock.
    since: Option<Duration>,
}

impl Builder {
    /// An empty builder whose first row will be `first`.
    #[must_use]
    pub fn new(limits: Limits, first: u64) -> Self {
        let columns = Columns { rows: RowRange { first, end: first }, ..Columns::default() };
        Self { limits, columns, since: None }
    }

    /// The row that is expected next.
    #[must_use]
    pub fn next_row(&self) -> u64 {
        self.columns.rows.end
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.rows.is_empty()
    }

    /// Adds a sample as the next row. `now` is any clock that does not go back.
    pub fn sample(&mut self, series: u32, time: TimeMs, value: f64, now: Duration) {
        let row = (self.columns.rows.end - self.columns.rows.first) as u32;
        self.columns.series.push(series);
        self.columns.row.push(row);
        self.columns.time_ms.push(time);
        self.columns.value.push(value);
        self.took_row(now);
    }

    /// Adds a reject as the next row.
    pub fn reject(&mut self, reject: Reject, now: Duration) {
        debug_assert_eq!(reject.row, self.next_row(), "rows come in order, without holes");
        self.columns.rejects.push(reject);
        self.took_row(now);
    }

    fn took_row(&mut self, now: Duration) {
        self.columns.rows.end += 1;
        self.since.get_or_insert(now);
    }

    /// Whether the batch is full by rows or bytes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let bytes = self.columns.series.len() * SAMPLE_BYTES + self.columns.rejects.len() * REJECT_BYTES;
        self.columns.rows.len() >= self.limits.max_rows as u64 || bytes >= self.limits.max_bytes
    }

    /// When the batch is too old, on the caller's clock; `None` while it is empty.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + self.limits.max_age)
    }

    /// What was collected, if anything; the next batch begins after it.
    pub fn take(&mut self) -> Option<Columns> {
        if self.is_empty() {
            return None;
        }
        let end = self.columns.rows.end;
        let samples = self.columns.series.len();
        let next = Columns {
            rows: RowRange { first: end, end },
            series: Vec::with_capacity(samples),
            row: Vec::with_capacity(samples),
            time_ms: Vec::with_capacity(samples),
            value: Vec::with_capacity(samples),
            rejects: Vec::new(),
        };
        self.since = None;
        Some(std::mem::replace(&mut self.columns, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn limits(max_rows: usize, max_bytes: usize) -> Limits {
        Limits { max_rows, max_bytes, max_age: Duration::from_millis(200) }
    }

    #[test]
    fn closes_by_rows_bytes_and_age() {
        let at = Duration::from_secs;
        let mut builder = Builder::new(limits(2, 1 << 20), 10);
        assert_eq!((builder.due(), builder.take()), (None, None));
        builder.sample(0, TimeMs::EPOCH, 1.0, at(1));
        assert!(!builder.is_full());
        assert_eq!(builder.due(), Some(Duration::from_millis(1200)), "age counts from the first row");
        builder.reject(Reject { row: 11, line: 13, reason: Reason::EmptyValue }, at(2));
        assert!(builder.is_full());
        let columns = builder.take().expect("two rows");
        assert_eq!((columns.rows, columns.row.as_slice()), (RowRange { first: 10, end: 12 }, &[0][..]));
        assert_eq!((builder.next_row(), builder.due(), builder.is_empty()), (12, None, true));

        let mut builder = Builder::new(limits(1000, 3 * SAMPLE_BYTES), 0);
        for _ in 0..2 {
            builder.sample(0, TimeMs::EPOCH, 1.0, at(0));
        }
        assert!(!builder.is_full());
        builder.sample(0, TimeMs::EPOCH, 1.0, at(0));
        assert!(builder.is_full(), "by bytes");
    }
}
