//! A chunk's times and values as bytes: exact, down to the bits of a value.
//!
//! `kind: u8` (bit 0: times are regular, bit 1: zstd), then, compressed or not: times (regular: the step; else each distance from the
//! one before; LEB128), then the values' bits, little-endian, byte plane after byte plane, so that what is alike lies together.

use crate::model::TimeMs;
use crate::store::chunk::Chunk;

const REGULAR: u8 = 1;
const COMPRESSED: u8 = 2;
/// zstd: more costs time, and saves little on planes of bytes.
const LEVEL: i32 = 1;
/// Below this nothing is gained.
const WORTH_COMPRESSING: usize = 64;
/// What a chunk may unpack to: more than the greatest there is (4096 samples of 8 bytes and a distance of at most 10).
const MOST: usize = 4096 * 18 + 16;

/// The bytes of a chunk.
pub(super) fn encode(chunk: &Chunk<'_>) -> Vec<u8> {
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
    fn unpack(&mut self, body: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| format!("a chunk cannot be unpacked: {error}");
        if self.0.is_none() {
            self.0 = Some(zstd::bulk::Decompressor::new().map_err(failed)?);
        }
        self.0
            .as_mut()
            .map_or_else(|| Err("nothing unpacks".to_owned()), |unpacker| unpacker.decompress(body, MOST).map_err(failed))
    }
}

/// Times and values of a chunk of `n` samples that begins at `first`, or what is wrong with it.
pub(super) fn decode(decoder: &mut Decoder, data: &[u8], first: TimeMs, n: usize) -> Result<(Vec<TimeMs>, Vec<f64>), String> {
    let (kind, body) = data.split_first().ok_or("a chunk is empty")?;
    if n == 0 || kind & !(REGULAR | COMPRESSED) != 0 {
        return Err("a chunk is of no known kind".to_owned());
    }
    let unpacked;
    let mut rest = if kind & COMPRESSED == 0 {
        body
    } else {
        unpacked = decoder.unpack(body)?;
        &unpacked
    };
    let short = || "a chunk is cut off".to_owned();
    let mut times = Vec::with_capacity(n.min(MOST));
    times.push(first);
    let mut time = first;
    let step = if kind & REGULAR == 0 { None } else { Some(take(&mut rest).ok_or_else(short)?) };
    for _ in 1..n {
        let distance = match step {
            Some(step) => step,
            None => take(&mut rest).ok_or_else(short)?,
        };
        time = time.checked_plus_millis(distance).ok_or("a chunk's times have no end")?;
        times.push(time);
    }
    if rest.len() != n * 8 {
        return Err(format!("a chunk of {n} samples has {} bytes of values", rest.len()));
    }
    let value = |i: usize| f64::from_bits(u64::from_le_bytes(std::array::from_fn(|plane| rest[plane * n + i])));
    Ok((times, (0..n).map(value).collect()))
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
            let data = encode(&Chunk { series: SeriesId::default(), times: &times, values: &values, step: regular.then_some(1000) });
            let (found_times, found) = decode(&mut Decoder::default(), &data, times[0], samples.len()).unwrap();
            prop_assert_eq!(found_times, times);
            prop_assert!(found.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        }

        #[test]
        fn nonsense_is_an_error(data in prop::collection::vec(any::<u8>(), 0..200), n in 0usize..100) {
            if let Ok((times, values)) = decode(&mut Decoder::default(), &data, TimeMs::EPOCH, n) {
                prop_assert!(times.len() == n && values.len() == n);
            }
        }
    }

    #[test]
    fn what_is_alike_becomes_small() {
        let times: Vec<TimeMs> = (0..4096).map(|i| TimeMs::from_millis(i * 1000)).collect();
        let values: Vec<f64> = (0..4096).map(|i| f64::from(40 + (i / 60) % 7)).collect();
        let data = encode(&Chunk { series: SeriesId::default(), times: &times, values: &values, step: Some(1000) });
        assert!(data.len() < 4096, "{}", data.len());
    }
}
