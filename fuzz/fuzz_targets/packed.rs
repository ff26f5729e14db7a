//! Any bytes as a packed row: an error in words or samples within the limits, never a panic. Any samples packed: the same ones come back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetry::model::{GpuId, SeriesId, TimeMs};
use telemetry::store::packed::{Bits, MAX_SAMPLES, Rectangle, Row, Samples, pack};

fn read(row: &Row) {
    let _ = row.series();
    if let Ok(chunks) = Rectangle::from_row(row).and_then(|rectangle| rectangle.chunks(|_| true)) {
        assert!(chunks.iter().map(|chunk| chunk.values.len()).sum::<usize>() <= MAX_SAMPLES);
        assert!(chunks.iter().all(|chunk| chunk.times.is_sorted() && chunk.times.len() == chunk.values.len()));
        assert!(chunks.iter().all(|chunk| chunk.values.iter().all(|value| value.is_finite())));
    }
}

/// (series, time, bits of the value), in the order that decides.
fn plain(all: &[Samples]) -> Vec<(SeriesId, TimeMs, u64)> {
    let samples = |(series, times, values): &Samples| {
        let values = values.iter().map(|value| value.to_bits());
        times.iter().copied().zip(values).map(|(time, value)| (*series, time, value)).collect::<Vec<_>>()
    };
    let mut plain: Vec<_> = all.iter().flat_map(samples).collect();
    plain.sort_by_key(|(series, time, _)| (*series, *time));
    plain
}

/// Series out of bytes: each takes 9 of them for a sample.
fn series(bytes: &[u8]) -> Vec<Samples> {
    let mut all: Vec<Samples> = (1..=4).map(|id| (SeriesId::from_store(id), Vec::new(), Vec::new())).collect();
    let mut time = 0;
    for sample in bytes.chunks_exact(9) {
        let [which, value @ ..] = sample else { continue };
        time += i64::from(which >> 2) * 250;
        let pattern = u64::from_le_bytes(value.try_into().expect("eight bytes"));
        // Most are short decimals, so that all forms are reached.
        let value = if pattern % 4 == 0 { f64::from_bits(pattern) } else { (pattern >> 52) as f64 / 10.0 };
        if value.is_finite() {
            let (_, times, values) = &mut all[usize::from(which & 3)];
            times.push(TimeMs::from_millis(time));
            values.push(value);
        }
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let [n, k, cut, rest @ ..] = data else { return };
    let (heads, bits) = rest.split_at(rest.len().min(usize::from(*cut)));
    let string = |bytes: &[u8]| Bits { len: bytes.len() * 8, bytes: bytes.to_vec() };
    let (t_min, t_max) = (TimeMs::EPOCH, TimeMs::from_millis(1));
    let (gpu, series_first) = (GpuId::from_store(1), SeriesId::from_store(1));
    read(&Row {
        gpu,
        id: 1,
        t_min,
        t_max,
        series_first,
        n: i32::from(*n),
        k: i32::from(*k),
        heads: string(heads),
        bits: string(bits),
    });

    let all = series(rest);
    let rows: Vec<Row> = pack(gpu, 1, all.clone()).iter().map(Rectangle::row).collect();
    let chunks =
        rows.iter().flat_map(|row| Rectangle::from_row(row).and_then(|read| read.chunks(|_| true)).expect("it is whole"));
    let back: Vec<Samples> = chunks.map(|chunk| (chunk.series, chunk.times, chunk.values)).collect();
    assert_eq!(plain(&back), plain(&all));
    // The same rows, each with one byte changed.
    for mut row in rows {
        let at = usize::from(*n) * 257 + usize::from(*k);
        for bytes in [&mut row.heads.bytes, &mut row.bits.bytes] {
            if let Some(at) = at.checked_rem(bytes.len()) {
                bytes[at] ^= (*cut).max(1);
            }
        }
        read(&row);
    }
});
