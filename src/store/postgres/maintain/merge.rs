//! The rows of a GPU's span as rectangles: merged, packed, and compared with what went in. Pure.

use std::collections::BTreeMap;

use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::Chunk;
use crate::store::packed::{Rectangle, Samples, pack};

/// Samples of a GPU, as they are read from rows.
#[derive(Default)]
pub(super) struct Merge {
    /// The rows' samples by series; each with the id of the row.
    series: BTreeMap<SeriesId, Vec<Chunk>>,
    /// Whether some are of chunks or slabs.
    pub(super) has_unpacked: bool,
    pub(super) samples: u64,
}

impl Merge {
    /// Adds the samples of a row.
    pub(super) fn add(&mut self, samples: impl IntoIterator<Item = Chunk>) {
        for chunk in samples {
            self.samples += chunk.times.len() as u64;
            self.series.entry(chunk.series).or_default().push(chunk);
        }
    }

    /// The rectangles. Rows are parted at the ids of `damaged` ones, which stay where they are: whoever mends one finds it in its place in
    /// the order that decides. `seen` is shown the samples of each part in order.
    ///
    /// # Errors
    /// What was packed is not what went in, or does not fit into its place in that order.
    pub(super) fn pack(self, gpu: GpuId, damaged: &[i64], seen: &mut dyn FnMut(&[Samples])) -> Result<Vec<Rectangle>, String> {
        let mut parts: BTreeMap<usize, BTreeMap<SeriesId, Vec<Chunk>>> = BTreeMap::new();
        for (series, chunks) in self.series {
            for chunk in chunks {
                let part = damaged.partition_point(|id| *id < chunk.id);
                parts.entry(part).or_default().entry(series).or_default().push(chunk);
            }
        }
        let mut rectangles = Vec::new();
        for part in parts.into_values() {
            rectangles.extend(pack_part(gpu, part, seen)?);
        }
        Ok(rectangles)
    }
}

fn pack_part(
    gpu: GpuId,
    part: BTreeMap<SeriesId, Vec<Chunk>>,
    seen: &mut dyn FnMut(&[Samples]),
) -> Result<Vec<Rectangle>, String> {
    let id = part.values().flatten().map(|chunk| chunk.id).max().unwrap_or_default();
    let series: Vec<Samples> = part.into_iter().map(|(series, chunks)| in_order(series, chunks)).collect();
    seen(&series);
    let expected: BTreeMap<SeriesId, u64> =
        series.iter().map(|(series, times, values)| (*series, digest(times, values))).collect();
    let rectangles = pack(gpu, id, series);
    compare(&rectangles, &expected)?;
    Ok(rectangles)
}

/// The samples of a series in order of time; of equal times those of the greater id come later, of one row in their order.
fn in_order(series: SeriesId, mut chunks: Vec<Chunk>) -> Samples {
    chunks.sort_by_key(|chunk| chunk.id);
    let one_after_the_other = chunks.windows(2).all(|pair| pair[0].times.last() <= pair[1].times.first());
    let samples = chunks.into_iter().flat_map(|chunk| chunk.times.into_iter().zip(chunk.values));
    if one_after_the_other {
        let (times, values) = samples.unzip();
        return (series, times, values);
    }
    let mut sorted: Vec<(TimeMs, f64)> = samples.collect();
    sorted.sort_by_key(|(time, _)| *time);
    let (times, values) = sorted.into_iter().unzip();
    (series, times, values)
}

/// A digest of samples in order, down to the bits of a value.
fn digest(times: &[TimeMs], values: &[f64]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for (time, value) in times.iter().zip(values) {
        hasher.update(&time.as_millis().to_le_bytes());
        hasher.update(&value.to_bits().to_le_bytes());
    }
    hasher.digest()
}

/// Reads what was packed as a reader does, and compares it with what went in. Packed rows take the place of what came from elsewhere, so
/// nobody could tell later.
fn compare(rectangles: &[Rectangle], expected: &BTreeMap<SeriesId, u64>) -> Result<(), String> {
    let mut found: BTreeMap<SeriesId, Vec<Chunk>> = BTreeMap::new();
    for rectangle in rectangles {
        let read = Rectangle::from_row(&rectangle.row())?;
        for chunk in read.chunks(|_| true)? {
            found.entry(chunk.series).or_default().push(chunk);
        }
    }
    let mut digests = BTreeMap::new();
    for (series, chunks) in found {
        let (_, times, values) = in_order(series, chunks);
        digests.insert(series, digest(&times, &values));
    }
    if digests == *expected {
        return Ok(());
    }
    let differs = expected.iter().find(|(series, digest)| digests.get(*series) != Some(*digest));
    let series = differs.map_or_else(|| "one that was not there".to_owned(), |(series, _)| format!("series {series}"));
    Err(format!("what was packed is not what was to be packed ({series}): nothing was changed"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 20_000 * 86_400_000;

    fn chunk(series: i64, id: i64, samples: &[(i64, f64)]) -> Chunk {
        let mut samples = samples.to_vec();
        samples.sort_by_key(|(time, _)| *time);
        let (times, values) = samples.into_iter().map(|(time, value)| (TimeMs::from_millis(DAY + time), value)).unzip();
        Chunk { series: SeriesId::from_store(series), id, times, values }
    }

    /// What counts of each series and time: of the row with the greatest id the last one.
    fn what_counts(mut rows: Vec<Chunk>) -> BTreeMap<(SeriesId, TimeMs), u64> {
        rows.sort_by_key(|row| row.id);
        let samples = rows
            .iter()
            .flat_map(|row| row.times.iter().zip(&row.values).map(|(time, value)| ((row.series, *time), value.to_bits())));
        samples.collect()
    }

    fn all(rows: &[Chunk]) -> Vec<(SeriesId, TimeMs, u64)> {
        let samples = |row: &Chunk| {
            row.times.iter().zip(&row.values).map(|(time, value)| (row.series, *time, value.to_bits())).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = rows.iter().flat_map(samples).collect();
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn every_sample_stays_and_the_same_one_counts(
            rows in prop::collection::vec((1i64..4, prop::collection::vec((0i64..60, -4i32..4), 1..20)), 1..30),
            damaged in prop::collection::btree_set(0i64..30, 0..3),
        ) {
            let rows: Vec<Chunk> = rows.into_iter().enumerate().map(|(at, (series, samples))| {
                let samples: Vec<(i64, f64)> = samples.into_iter().map(|(at, value)| (at * 1000, f64::from(value) / 4.0)).collect();
                chunk(series, 2 * at as i64 + 1, &samples)
            }).collect();
            let damaged: Vec<i64> = damaged.into_iter().map(|id| 2 * id).collect();
            let mut merge = Merge::default();
            rows.iter().for_each(|row| merge.add([row.clone()]));
            let packed = merge.pack(GpuId::from_store(1), &damaged, &mut |_| {}).unwrap();
            let read: Vec<Chunk> = packed.iter().flat_map(|rectangle| rectangle.chunks(|_| true).unwrap()).collect();
            prop_assert_eq!(all(&read), all(&rows));
            prop_assert_eq!(what_counts(read), what_counts(rows.clone()));
            // A damaged row that is mended stands between the same ones as before.
            for id in damaged {
                let before = rows.iter().filter(|row| row.id < id).map(|row| row.times.len()).sum::<usize>();
                let after = packed.iter().filter(|rectangle| rectangle.id < id).map(Rectangle::samples).sum::<usize>();
                prop_assert_eq!(before, after);
            }
        }
    }
}
