//! A rectangle as a row of `sample_packed`: written into a binary COPY, and read back. How samples lie in its bits is known to
//! `store::packed`.
//!
//! A program of an earlier version does not see packed rows. So before the first one is written, that is noted where it looks:
//! [`announce`].

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{FromSql, Type, accepts};

use super::chunk::column;
use super::copy::{count, put_i32, put_i64};
use super::error::{PostgresError, Result};
use super::partitions::{self, PACKED};
use super::pool::Session;
use super::types::to_micros;
use crate::model::{GpuId, TimeMs};
use crate::store::StoreError;
use crate::store::chunk::{Day, day_of};
use crate::store::packed::{Bits, Rectangle, Row};

/// Begins the COPY of rows that [`encode`] makes.
pub(super) const COPY: &str =
    "COPY sample_packed (gpu_id, id, t_min, t_max, series_first, n, k, heads, bits) FROM STDIN (FORMAT binary)";

/// The columns that [`decode`] reads.
pub(super) const COLUMNS: &str = "gpu_id, id, t_min, t_max, series_first, n, k, heads, bits";

/// The columns that [`head`] reads: all but the samples.
pub(super) const HEAD_COLUMNS: &str = "gpu_id, id, t_min, t_max, series_first, n, k, heads";

/// Adds a row to a binary COPY.
pub(super) fn encode(out: &mut BytesMut, row: &Row) {
    out.put_i16(9);
    put_i64(out, row.gpu.to_store());
    put_i64(out, row.id);
    put_i64(out, to_micros(row.t_min));
    put_i64(out, to_micros(row.t_max));
    put_i64(out, row.series_first.to_store());
    put_i32(out, row.n);
    put_i32(out, row.k);
    put_bits(out, &row.heads);
    put_bits(out, &row.bits);
}

/// A `varbit` in its binary form: how many bits, then the bytes.
pub(super) fn put_bits(out: &mut BytesMut, bits: &Bits) {
    out.put_i32(count(bits.bytes.len() + 4));
    out.put_i32(count(bits.len));
    out.put_slice(&bits.bytes);
}

/// A `varbit`.
pub(super) struct Varbit(pub(super) Bits);

impl<'a> FromSql<'a> for Varbit {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn Error + Sync + Send>> {
        let (len, bytes) = raw.split_first_chunk::<4>().ok_or("it is cut off")?;
        let len = usize::try_from(i32::from_be_bytes(*len))?;
        Ok(Self(Bits { len, bytes: bytes.to_vec() }))
    }
    accepts!(VARBIT);
}

/// The rectangle of a row with [`COLUMNS`].
///
/// # Errors
/// The row is damaged: it is named, with what is wrong and what to do.
pub(super) fn decode(session: &Session, row: &SqlRow) -> Result<Rectangle> {
    whole(row).and_then(|read| Rectangle::from_row(&read)).map_err(|what| damaged(session, row, what))
}

/// A row with [`COLUMNS`], not looked into yet.
///
/// # Errors
/// As [`decode`].
pub(super) fn read(session: &Session, row: &SqlRow) -> Result<Row> {
    whole(row).map_err(|what| damaged(session, row, what))
}

/// A row with [`HEAD_COLUMNS`]: it has no samples.
///
/// # Errors
/// As [`decode`].
pub(super) fn head(session: &Session, row: &SqlRow) -> Result<Row> {
    without_bits(row).map_err(|what| damaged(session, row, what))
}

/// A code of up to 64 bits.
pub(super) fn code(row: &SqlRow, at: usize) -> std::result::Result<u64, String> {
    let Varbit(bits) = column(row, at, "bits")?;
    let code = bits.bytes.iter().fold(0_u128, |code, byte| code << 8 | u128::from(*byte));
    u64::try_from(code >> (bits.bytes.len() * 8).saturating_sub(bits.len)).map_err(|_| "a code is too long".to_owned())
}

fn whole(row: &SqlRow) -> std::result::Result<Row, String> {
    let Varbit(bits) = column(row, 8, "bits")?;
    Ok(Row { bits, ..without_bits(row)? })
}

fn without_bits(row: &SqlRow) -> std::result::Result<Row, String> {
    let Varbit(heads) = column(row, 7, "heads")?;
    Ok(Row {
        gpu: column(row, 0, "gpu_id")?,
        id: column(row, 1, "id")?,
        t_min: column(row, 2, "t_min")?,
        t_max: column(row, 3, "t_max")?,
        series_first: column(row, 4, "series_first")?,
        n: column(row, 5, "n")?,
        k: column(row, 6, "k")?,
        heads,
        bits: Bits { len: 0, bytes: Vec::new() },
    })
}

/// The error for a row that is damaged: which one it is, what is wrong, and what to do.
pub(super) fn damaged(session: &Session, row: &SqlRow, what: String) -> PostgresError {
    let (gpu, id) = (row.try_get(0).ok(), row.try_get(1).ok());
    explain(session, (gpu, id, row.try_get(2).ok(), row.try_get(4).ok()), what)
}

/// The same for a row that was read.
pub(super) fn damaged_row(session: &Session, row: &Row, what: &str) -> PostgresError {
    explain(session, (Some(row.gpu), Some(row.id), Some(row.t_min), Some(row.series_first.to_store())), what.to_owned())
}

/// GPU, id, first time and first series of a row, as far as they can be read.
type Named = (Option<GpuId>, Option<i64>, Option<TimeMs>, Option<i64>);

fn explain(session: &Session, (gpu, id, begin, series): Named, what: String) -> PostgresError {
    let table = begin.map_or_else(|| PACKED.0.to_owned(), |begin| partition_of(day_of(begin)));
    let gpu = gpu.map_or_else(|| "(unreadable)".to_owned(), |gpu| gpu.to_string());
    let (id, deletion) = match (id, series) {
        (Some(id), Some(series)) => {
            let condition = format!("gpu_id = {gpu} AND id = {id} AND series_first = {series}");
            (id.to_string(), format!(" (DELETE FROM {table} WHERE {condition})"))
        }
        _ => ("(unreadable)".to_owned(), String::new()),
    };
    let place = format!("PostgreSQL at {}: packed row {id} of GPU {gpu} in {table} is damaged: ", session.endpoint);
    let remedy =
        format!(". Restore it from a backup; or delete it{deletion}, and send its sources again with `telemetry replay`");
    StoreError::DamagedChunk([place, what, remedy].concat()).into()
}

/// `sample_packed_YYYYMMDD`.
pub(super) fn partition_of(day: Day) -> String {
    partitions::name_in(PACKED, day)
}

/// Makes the partition of a day where it is missing. Outside of any transaction.
pub(super) async fn ensure_partition(session: &Session, day: Day) -> Result<()> {
    partitions::make(session, PACKED, &[day]).await
}

/// Notes that there are packed rows from now on: programs that do not know them refuse the schema, release 0.1.0 among them. To be called,
/// and committed, before the first such row is written; again it changes nothing.
pub(super) async fn announce(session: &Session) -> Result<()> {
    session
        .batch(
            "BEGIN; \
             UPDATE schema_step SET compatible_from = version WHERE name = 'packed' AND compatible_from <> version; \
             INSERT INTO schema_migration (version, name, checksum) \
             SELECT version, name, checksum FROM schema_step WHERE name = 'packed' ON CONFLICT (version) DO NOTHING; \
             COMMIT",
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeriesId;
    use crate::store::packed::pack;

    #[test]
    fn bits_come_back() {
        let times: Vec<TimeMs> = (0..50).map(|i| TimeMs::from_millis(1_736_899_200_000 + i * 1000)).collect();
        let values = (0..50).map(|i| f64::from(i) * 0.1).collect();
        let rectangles = pack(GpuId::from_store(7), 9, vec![(SeriesId::from_store(3), times, values)]);
        for row in rectangles.iter().map(Rectangle::row) {
            for bits in [&row.heads, &row.bits] {
                let mut out = BytesMut::new();
                put_bits(&mut out, bits);
                let Varbit(read) = Varbit::from_sql(&Type::VARBIT, &out[4..]).expect("bits");
                assert_eq!(
                    (&read, usize::try_from(i32::from_be_bytes([out[0], out[1], out[2], out[3]]))),
                    (bits, Ok(out.len() - 4))
                );
            }
        }
        assert!(Varbit::from_sql(&Type::VARBIT, &[0, 0]).is_err() && Varbit::from_sql(&Type::VARBIT, &[255; 8]).is_err());
    }
}
