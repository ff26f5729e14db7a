//! A chunk as a row of `sample_chunk`: written into a binary COPY, and read back. Nothing else knows how samples lie in a row.
//!
//! A row is read in bulk, since a history is millions of elements, and checked: one that is damaged is an error that names it,
//! whoever reads it.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type, accepts};

use super::copy::{count, put_array, put_i32, put_i64};
use super::error::Result;
use super::partitions;
use super::pool::Session;
use super::types::to_micros;
use crate::model::{SeriesId, TimeMs};
use crate::store::chunk::{Damaged, NewChunk, check_samples, day_of};
use crate::store::{Chunk, StoreError};

/// Begins the COPY of rows that [`encode`] makes.
pub(super) const COPY: &str =
    "COPY sample_chunk (series_id, t_min, t_max, n, step_ms, offsets, \"values\") FROM STDIN (FORMAT binary)";

/// The columns that [`decode`] reads.
pub(super) const COLUMNS: &str = "series_id, id, t_min, t_max, n, step_ms, offsets, \"values\"";

const INT4_OID: u32 = 23;
const FLOAT8_OID: u32 = 701;

/// Adds the row of a chunk to a binary COPY.
pub(super) fn encode(out: &mut BytesMut, chunk: &NewChunk<'_>) {
    let (Some(first), Some(last)) = (chunk.times.first(), chunk.times.last()) else { return };
    out.put_i16(7);
    put_i64(out, chunk.series.to_store());
    put_i64(out, to_micros(*first));
    put_i64(out, to_micros(*last));
    put_i32(out, count(chunk.times.len()));
    if let Some(step) = chunk.step {
        put_i32(out, step);
        out.put_i32(-1);
    } else {
        out.put_i32(-1);
        // Within a day, so they fit.
        put_ints(out, chunk.times.iter().map(|time| time.millis_since(*first) as i32));
    }
    put_doubles(out, chunk.values);
}

/// Adds an `int4[]`.
pub(super) fn put_ints(out: &mut BytesMut, ints: impl ExactSizeIterator<Item = i32>) {
    put_array(out, INT4_OID, 4, ints.len());
    for int in ints {
        let mut pair = [0, 0, 0, 4, 0, 0, 0, 0];
        pair[4..].copy_from_slice(&int.to_be_bytes());
        out.put_slice(&pair);
    }
}

/// Adds a `float8[]`.
pub(super) fn put_doubles(out: &mut BytesMut, doubles: &[f64]) {
    put_array(out, FLOAT8_OID, 8, doubles.len());
    for double in doubles {
        let mut pair = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        pair[4..].copy_from_slice(&double.to_be_bytes());
        out.put_slice(&pair);
    }
}

/// The chunk of a row with [`COLUMNS`].
///
/// # Errors
/// The row is damaged: it is named, with what is wrong and what to do.
pub(super) fn decode(session: &Session, row: &Row) -> Result<Chunk> {
    decode_columns(row).map_err(|what| {
        let table = row.try_get::<_, TimeMs>(2).map(|begin| partitions::name_of(day_of(begin)));
        let damaged = Damaged {
            table: table.unwrap_or_else(|_| "sample_chunk".to_owned()),
            series: row.try_get::<_, SeriesId>(0).ok(),
            id: row.try_get(1).ok(),
            what,
        };
        StoreError::DamagedChunk(damaged.explain(&format!("PostgreSQL at {}", session.endpoint))).into()
    })
}

fn decode_columns(row: &Row) -> std::result::Result<Chunk, String> {
    let (series, id): (SeriesId, i64) = (column(row, 0, "series_id")?, column(row, 1, "id")?);
    let (begin, end): (TimeMs, TimeMs) = (column(row, 2, "t_min")?, column(row, 3, "t_max")?);
    let n: i32 = column(row, 4, "n")?;
    let Doubles(values) = column(row, 7, "values")?;
    let at = |offset: i64| begin.checked_plus_millis(offset).ok_or("its times overflow");
    let times: Vec<TimeMs> = match column::<Option<Ints>>(row, 6, "offsets")? {
        Some(Ints(offsets)) => offsets.iter().map(|offset| at(i64::from(*offset))).collect::<std::result::Result<_, _>>()?,
        None => {
            let step = column::<Option<i32>>(row, 5, "step_ms")?.ok_or("it has neither offsets nor a step")?;
            // One for each value that is there, and no more, whatever `n` says.
            (0..values.len() as i64).map(|i| at(i * i64::from(step))).collect::<std::result::Result<_, _>>()?
        }
    };
    check_samples((begin, end), i64::from(n), &times, &values)?;
    Ok(Chunk { series, id, times, values })
}

/// A column of a row; what is wrong with it, where it cannot be read.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize, name: &str) -> std::result::Result<T, String> {
    row.try_get(at).map_err(|error| {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        format!("the column {name} cannot be read: {cause}")
    })
}

type Unreadable = Box<dyn Error + Sync + Send>;

/// `int4[]`
pub(super) struct Ints(pub(super) Vec<i32>);

/// `float8[]`
pub(super) struct Doubles(pub(super) Vec<f64>);

/// The elements of an array of one dimension without nulls, each with its length in front. The binary form (`array_send`):
/// dimensions, whether there may be nulls, the element type's oid, then length and lower bound of each dimension, then each element
/// after its length in bytes; all big-endian.
fn elements(raw: &[u8], size: usize) -> std::result::Result<&[u8], Unreadable> {
    let word = |at: usize| raw.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    let may_have_nulls = match (word(0), word(4)) {
        (Some(0), Some(_)) => return Ok(&[]),
        (Some(1), Some(flag)) => flag != 0,
        (Some(_), Some(_)) => return Err("it is not an array of one dimension".into()),
        _ => return Err("it is cut off".into()),
    };
    let n = word(12).and_then(|n| usize::try_from(n).ok()).ok_or("it is cut off")?;
    let body = raw.get(20..).ok_or("it is cut off")?;
    // A null has a length (-1), and no bytes.
    match (n.checked_mul(size + 4), may_have_nulls) {
        (Some(whole), _) if whole == body.len() => Ok(body),
        (_, true) => Err("it has null elements".into()),
        (_, false) => Err("its elements are cut off or have another size".into()),
    }
}

impl<'a> FromSql<'a> for Ints {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Unreadable> {
        let (all, _) = elements(raw, 4)?.as_chunks::<8>();
        Ok(Self(all.iter().map(|e| i32::from_be_bytes([e[4], e[5], e[6], e[7]])).collect()))
    }
    accepts!(INT4_ARRAY);
}

impl<'a> FromSql<'a> for Doubles {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Unreadable> {
        let (all, _) = elements(raw, 8)?.as_chunks::<12>();
        Ok(Self(all.iter().map(|e| f64::from_be_bytes([e[4], e[5], e[6], e[7], e[8], e[9], e[10], e[11]])).collect()))
    }
    accepts!(FLOAT8_ARRAY);
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::ToSql;

    use super::*;

    #[test]
    fn arrays_come_back() {
        let mut raw = BytesMut::new();
        vec![1.5, -0.0, f64::MAX].to_sql(&Type::FLOAT8_ARRAY, &mut raw).unwrap();
        assert_eq!(Doubles::from_sql(&Type::FLOAT8_ARRAY, &raw).unwrap().0, [1.5, -0.0, f64::MAX]);
        assert!(Doubles::from_sql(&Type::FLOAT8_ARRAY, &raw[..raw.len() - 1]).is_err());
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &raw).is_err());
        let mut raw = BytesMut::new();
        vec![i32::MIN, 7].to_sql(&Type::INT4_ARRAY, &mut raw).unwrap();
        assert_eq!(Ints::from_sql(&Type::INT4_ARRAY, &raw).unwrap().0, [i32::MIN, 7]);
        let mut raw = BytesMut::new();
        Vec::<i32>::new().to_sql(&Type::INT4_ARRAY, &mut raw).unwrap();
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &raw).unwrap().0.is_empty());
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &[]).is_err());
        let mut raw = BytesMut::new();
        vec![Some(1), None].to_sql(&Type::INT4_ARRAY, &mut raw).unwrap();
        let said = Ints::from_sql(&Type::INT4_ARRAY, &raw).map(|_| ()).expect_err("a null").to_string();
        assert!(said.contains("null"), "{said}");
    }
}
