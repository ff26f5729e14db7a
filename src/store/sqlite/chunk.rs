//! A chunk as a row of `chunk`: its times and values are bytes, exact down to the bits of a value. Nothing else knows how samples
//! lie in a row, and a row that is damaged is an error that names it, whoever reads it.
//!
//! `kind: u8` (bit 0: times are regular, bit 1: zstd), then, compressed or not: times (regular: the step; else each distance from the
//! one before; LEB128), then the values' bits, little-endian, byte plane after byte plane, so that what is alike lies together.

use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, params};

use super::error::{Result, SqliteError};
use crate::model::TimeMs;
use crate::store::Chunk;
use crate::store::chunk::{Damaged, MAX_SAMPLES, NewChunk, check_samples};

const REGULAR: u8 = 1;
const COMPRESSED: u8 = 2;
/// zstd: more costs time, and saves little on planes of bytes.
const LEVEL: i32 = 1;
/// Below this nothing is gained.
const WORTH_COMPRESSING: usize = 64;
/// What a chunk may unpack to: more than the greatest there is (samples of 8 bytes and a distance of at most 10).
const MAX_UNPACKED: usize = MAX_SAMPLES * 18 + 16;

/// The columns that [`Decoder::decode`] reads.
pub(super) const COLUMNS: &str = "series_id, id, t_min, t_max, n, data";

/// Writes a chunk.
pub(super) fn insert(connection: &Connection, chunk: &NewChunk<'_>) -> Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT INTO chunk (series_id, t_min, t_max, n, data) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let (first, last) = (chunk.times.first(), chunk.times.last());
    insert.execute(params![chunk.series, first, last, chunk.times.len() as i64, encode(chunk)])?;
    Ok(())
}

/// Writes a chunk in the place of one that had this id.
pub(super) fn insert_as(connection: &Connection, id: i64, chunk: &NewChunk<'_>) -> Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT INTO chunk (id, series_id, t_min, t_max, n, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let (first, last) = (chunk.times.first(), chunk.times.last());
    insert.execute(params![id, chunk.series, first, last, chunk.times.len() as i64, encode(chunk)])?;
    Ok(())
}

/// The bytes of a chunk's samples.
fn encode(chunk: &NewChunk<'_>) -> Vec<u8> {
    let mut plain = Vec::with_capacity(chunk.values.len() * 9 + 16);
    let mut kind = 0;
    if let Some(step) = chunk.step {
        kind |= REGULAR;
        put(&mut plain, u64::from(step.unsigned_abs()));
    } else {
        for pair in chunk.times.windows(2) {
            put(&mut plain, pair[1].as_millis().abs_diff(pair[0].as_millis()));
        }
    }
    for plane in 0..8 {
        plain.extend(chunk.values.iter().map(|value| value.to_bits().to_le_bytes()[plane]));
    }
    let packed = if plain.len() < WORTH_COMPRESSING { None } else { zstd::bulk::compress(&plain, LEVEL).ok() };
    let (kind, body) = match packed.filter(|packed| packed.len() < plain.len()) {
        Some(packed) => (kind | COMPRESSED, packed),
        None => (kind, plain),
    };
    let mut out = Vec::with_capacity(body.len() + 1);
    out.push(kind);
    out.extend(body);
    out
}

/// Reads chunks, one after the other: what unpacks them is made once.
#[derive(Default)]
pub(super) struct Decoder(Option<zstd::bulk::Decompressor<'static>>);

impl Decoder {
    /// The chunk of a row with [`COLUMNS`].
    ///
    /// # Errors
    /// The row is damaged: it is named, with what is wrong and what to do.
    pub(super) fn decode(&mut self, row: &Row<'_>) -> Result<Chunk> {
        self.decode_columns(row).map_err(|what| {
            SqliteError::Damaged(Damaged { table: "chunk".to_owned(), series: row.get(0).ok(), id: row.get(1).ok(), what })
        })
    }

    fn decode_columns(&mut self, row: &Row<'_>) -> std::result::Result<Chunk, String> {
        let (begin, end): (TimeMs, TimeMs) = (column(row, 2, "t_min")?, column(row, 3, "t_max")?);
        let stated: i64 = column(row, 4, "n")?;
        let n = usize::try_from(stated).ok().filter(|n| (1..=MAX_SAMPLES).contains(n));
        let n = n.ok_or_else(|| format!("it says that it has {stated} samples, and a chunk has 1 to {MAX_SAMPLES}"))?;
        let data = row
            .get_ref(5)
            .and_then(|data| Ok(data.as_blob()?))
            .map_err(|error| format!("the column data cannot be read: {error}"))?;
        let (times, values) = self.decode_samples(data, begin, n)?;
        check_samples((begin, end), stated, &times, &values)?;
        Ok(Chunk { series: column(row, 0, "series_id")?, id: column(row, 1, "id")?, times, values })
    }

    /// Times and values of a chunk of `n` samples that begins at `first`, or what is wrong with it.
    fn decode_samples(&mut self, data: &[u8], first: TimeMs, n: usize) -> std::result::Result<(Vec<TimeMs>, Vec<f64>), String> {
        let (kind, body) = data.split_first().ok_or("its data is empty")?;
        if kind & !(REGULAR | COMPRESSED) != 0 {
            return Err(format!("its data is of the unknown kind {kind}"));
        }
        let unpacked;
        let mut rest = if kind & COMPRESSED == 0 {
            body
        } else {
            unpacked = self.unpack(body)?;
            &unpacked
        };
        let short = || "its times are cut off".to_owned();
        let mut times = Vec::with_capacity(n);
        times.push(first);
        let mut time = first;
        let step = if kind & REGULAR == 0 { None } else { Some(take(&mut rest).ok_or_else(short)?) };
        for _ in 1..n {
            let distance = match step {
                Some(step) => step,
                None => take(&mut rest).ok_or_else(short)?,
            };
            let distance = i64::try_from(distance).ok();
            time = distance.and_then(|distance| time.checked_plus_millis(distance)).ok_or("its times overflow")?;
            times.push(time);
        }
        if rest.len() != n * 8 {
            return Err(format!("it has {} bytes of values for {n} samples of 8 bytes", rest.len()));
        }
        let value = |i: usize| f64::from_bits(u64::from_le_bytes(std::array::from_fn(|plane| rest[plane * n + i])));
        Ok((times, (0..n).map(value).collect()))
    }

    fn unpack(&mut self, body: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| format!("its data cannot be unpacked: {error}");
        let unpacker = match &mut self.0 {
            Some(unpacker) => unpacker,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(failed)?),
        };
        unpacker.decompress(body, MAX_UNPACKED).map_err(failed)
    }
}

fn column<T: FromSql>(row: &Row<'_>, at: usize, name: &str) -> std::result::Result<T, String> {
    row.get(at).map_err(|error| format!("the column {name} cannot be read: {error}"))
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::SeriesId;

    proptest! {
        #[test]
        fn every_bit_comes_back(
            first in -1_000_000_000i64..4_000_000_000_000,
            samples in prop::collection::vec((0u32..90_000_000, any::<u64>()), 1..300),
            regular in any::<bool>(),
        ) {
            let mut time = first;
            let times: Vec<TimeMs> = samples.iter().enumerate().map(|(i, (distance, _))| {
                if i > 0 {
                    time += if regular { 1000 } else { i64::from(*distance) };
                }
                TimeMs::from_millis(time)
            }).collect();
            let values: Vec<f64> = samples.iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
            let data = encode(&NewChunk { series: SeriesId::default(), times: &times, values: &values, step: regular.then_some(1000) });
            let (found_times, found) = Decoder::default().decode_samples(&data, times[0], samples.len()).unwrap();
            prop_assert_eq!(found_times, times);
            prop_assert!(found.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        }

        #[test]
        fn nonsense_is_an_error(data in prop::collection::vec(any::<u8>(), 0..200), n in 1usize..100) {
            if let Ok((times, values)) = Decoder::default().decode_samples(&data, TimeMs::EPOCH, n) {
                prop_assert!(times.len() == n && values.len() == n);
            }
        }
    }

    #[test]
    fn what_is_alike_becomes_small() {
        let times: Vec<TimeMs> = (0..4096).map(|i| TimeMs::from_millis(i * 1000)).collect();
        let values: Vec<f64> = (0..4096).map(|i| f64::from(40 + (i / 60) % 7)).collect();
        let data = encode(&NewChunk { series: SeriesId::default(), times: &times, values: &values, step: Some(1000) });
        assert!(data.len() < 4096, "{}", data.len());
    }
}
