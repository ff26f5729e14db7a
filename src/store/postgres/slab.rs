//! A slab as a row of `sample_slab`: written into a binary COPY, and read back.

use bytes::{BufMut, BytesMut};
use tokio_postgres::Row;

use super::chunk::{Doubles, Ints, column, put_doubles, put_ints};
use super::copy::{count, put_i32, put_i64};
use super::error::{PostgresError, Result};
use super::partitions::{self, SLABS};
use super::pool::Session;
use super::types::to_micros;
use crate::model::{BlockId, SeriesId, TimeMs};
use crate::store::StoreError;
use crate::store::chunk::{Day, day_of};
use crate::store::slab::{self, Slab};

/// Begins the COPY of rows that [`encode`] makes.
pub(super) const COPY: &str =
    "COPY sample_slab (block_id, t_min, t_max, series_first, n, series, offsets, \"values\", filler) FROM STDIN (FORMAT binary)";

/// PostgreSQL compresses the columns of a row only where the row is longer than this (`TOAST_TUPLE_THRESHOLD`).
const COMPRESSED_FROM: usize = 2048;
/// Bytes of a row, besides its arrays.
const ROW_BYTES: usize = 72;
/// Bytes of an array, besides its elements.
const ARRAY_BYTES: usize = 24;
/// A slab with fewer samples costs more with a filler than without.
const WORTH_A_FILLER: usize = 32;

/// The columns that [`decode`] reads.
pub(super) const COLUMNS: &str = "block_id, id, t_min, t_max, series_first, n, series, offsets, \"values\"";

/// The columns that [`head`] reads: all but times and values.
pub(super) const HEAD_COLUMNS: &str = "block_id, id, t_min, t_max, series_first, series";

/// What is in a slab, without its samples.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) block: BlockId,
    pub(super) id: i64,
    pub(super) t_min: TimeMs,
    pub(super) t_max: TimeMs,
    /// Its series, each once, in order.
    pub(super) series: Vec<SeriesId>,
}

/// The head of a row with [`HEAD_COLUMNS`].
///
/// # Errors
/// As [`decode`].
pub(super) fn head(session: &Session, row: &Row) -> Result<Head> {
    let read = || {
        let Ints(series) = column(row, 5, "series")?;
        Ok(Head {
            block: column(row, 0, "block_id")?,
            id: column(row, 1, "id")?,
            t_min: column(row, 2, "t_min")?,
            t_max: column(row, 3, "t_max")?,
            series: slab::series(column(row, 4, "series_first")?, series)?,
        })
    };
    read().map_err(|what: String| damaged(session, row, &what))
}

/// Adds the row of a slab to a binary COPY. Its id is the next one of the store.
pub(super) fn encode(out: &mut BytesMut, slab: &Slab) {
    out.put_i16(9);
    put_i64(out, slab.block.to_store());
    put_i64(out, to_micros(slab.t_min));
    put_i64(out, to_micros(slab.t_max));
    put_i64(out, slab.series_first.to_store());
    put_i32(out, count(slab.values.len()));
    put_ints(out, slab.series.iter().copied());
    match &slab.offsets {
        Some(offsets) => put_ints(out, offsets.iter().copied()),
        None => out.put_i32(-1),
    }
    put_doubles(out, &slab.values);
    match filler(slab) {
        0 => out.put_i32(-1),
        bytes => {
            out.put_i32(count(bytes));
            out.put_bytes(0, bytes);
        }
    }
}

/// How many zeros make the row of a slab so long that PostgreSQL compresses it. They shrink to almost nothing, the rest to half.
fn filler(slab: &Slab) -> usize {
    if slab.values.len() < WORTH_A_FILLER {
        return 0;
    }
    let array = |bytes_of_one: usize| ARRAY_BYTES + slab.values.len() * bytes_of_one;
    let offsets = if slab.offsets.is_some() { array(4) } else { 0 };
    COMPRESSED_FROM.saturating_sub(ROW_BYTES + array(4) + offsets + array(8))
}

/// The slab of a row with [`COLUMNS`].
///
/// # Errors
/// The row is damaged: it is named, with what is wrong and what to do.
pub(super) fn decode(session: &Session, row: &Row) -> Result<Slab> {
    whole(row).map_err(|what| damaged(session, row, &what))
}

fn whole(row: &Row) -> std::result::Result<Slab, String> {
    let n: i32 = column(row, 5, "n")?;
    let Ints(series) = column(row, 6, "series")?;
    let offsets: Option<Ints> = column(row, 7, "offsets")?;
    let Doubles(values) = column(row, 8, "values")?;
    let slab = Slab {
        block: column(row, 0, "block_id")?,
        id: column(row, 1, "id")?,
        t_min: column(row, 2, "t_min")?,
        t_max: column(row, 3, "t_max")?,
        series_first: column(row, 4, "series_first")?,
        series,
        offsets: offsets.map(|Ints(offsets)| offsets),
        values,
    };
    slab.check(n)?;
    Ok(slab)
}

/// The error for a row that is damaged: which one it is, what is wrong, and what to do.
pub(super) fn damaged(session: &Session, row: &Row, what: &str) -> PostgresError {
    let table = row.try_get::<_, TimeMs>(2).map_or_else(|_| SLABS.0.to_owned(), |begin| partition_of(day_of(begin)));
    let unreadable = || "(unreadable)".to_owned();
    let block = row.try_get::<_, BlockId>(0).map_or_else(|_| unreadable(), |block| block.to_string());
    let (id, deletion) = match row.try_get::<_, i64>(1) {
        Ok(id) => (id.to_string(), format!(" (DELETE FROM {table} WHERE id = {id})")),
        Err(_) => (unreadable(), String::new()),
    };
    let endpoint = &session.endpoint;
    StoreError::DamagedChunk(format!(
        "PostgreSQL at {endpoint}: slab {id} of block {block} in {table} is damaged: {what}. Restore it from a backup; or delete \
         it{deletion}, and send its sources again with `telemetry replay`"
    ))
    .into()
}

/// `sample_slab_YYYYMMDD`.
pub(super) fn partition_of(day: Day) -> String {
    partitions::name_in(SLABS, day)
}
