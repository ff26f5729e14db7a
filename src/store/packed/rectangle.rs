//! A rectangle: series of one GPU at times that they share, as a row of `sample_packed` and back.

use std::sync::Arc;

use super::bits::{self, Bits, Writer, code_at, put_signed, width_of};
use super::column::{Column, last_value};
use super::plan::{Fields, Head, PATTERN, POWERS};
use super::{MAX_SAMPLES, MAX_TIMES, shift_of};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::Chunk;
use crate::store::chunk::day_of;

/// Series of one GPU, each with a sample at each of the times, or at as many ms after each of them (`Column::delay`): many an exporter
/// asks for one metric after the other.
#[derive(Clone, Debug)]
pub struct Rectangle {
    /// The GPU.
    pub gpu: GpuId,
    /// Of samples of the same series and time in several chunks and rectangles those with the greatest id count.
    pub id: i64,
    /// The times, sorted; the first one is that of the first sample. Of samples at equal times the later one counts.
    pub times: Vec<TimeMs>,
    /// The values by series, sorted by series, each once.
    pub columns: Vec<(SeriesId, Column)>,
}

/// A rectangle as a row of `sample_packed`, field for column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The GPU.
    pub gpu: GpuId,
    /// The rectangle's id.
    pub id: i64,
    /// The first time.
    pub t_min: TimeMs,
    /// The last time.
    pub t_max: TimeMs,
    /// The first series.
    pub series_first: SeriesId,
    /// How many times.
    pub n: i32,
    /// How many series.
    pub k: i32,
    /// How the rest lies.
    pub heads: Bits,
    /// Times and columns.
    pub bits: Bits,
}

/// Where in a row the last sample of a series lies: for who does not want the rest of the row.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    /// The series.
    pub series: SeriesId,
    /// The sample's time.
    pub time: TimeMs,
    /// Where its code begins in `bits`, from 0.
    pub at: usize,
    /// How many bits the row has.
    pub len: usize,
    n: usize,
    head: Head,
}

impl Last {
    /// How many bits its code has.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.head.width
    }

    /// The value of a code; `None`: it is among the exact patterns, or not finite.
    #[must_use]
    pub fn value(&self, code: u64) -> Option<f64> {
        last_value(&self.head, self.n, code).ok().filter(|value| value.is_finite())
    }
}

/// Bits of `heads` before the first head.
pub(super) const HEADS_BEGIN: usize = 105;

const TIME_BASE_WIDTH: u32 = 28;
const TIME_SLOPE_WIDTH: u32 = 40;

/// How times are written: each is base + (slope × i >> shift) + code ms after the first.
#[derive(Clone, Copy)]
pub(super) struct TimeHead {
    pub(super) width: u32,
    base: i64,
    slope: i64,
}

impl TimeHead {
    /// Of sorted times within one day.
    pub(super) fn of(times: &[TimeMs]) -> Self {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Self { width: 0, base: 0, slope: 0 } };
        let shift = shift_of(times.len());
        let slope = (last.millis_since(*first) << shift) / (times.len() as i64 - 1).max(1);
        let rests = times.iter().enumerate().map(|(i, time)| time.millis_since(*first) - ((slope * i as i64) >> shift));
        let (least, most) = rests.fold((0, 0), |(least, most), rest| (rest.min(least), rest.max(most)));
        Self { width: width_of((most - least) as u64), base: least, slope }
    }
}

impl Rectangle {
    /// How many samples it has.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.times.len() * self.columns.len()
    }

    fn longest_delay(&self) -> i64 {
        self.columns.iter().map(|(_, column)| column.delay()).max().unwrap_or(0)
    }

    /// The rectangle as a row. It has a time and a series, and is within the limits.
    #[must_use]
    pub fn row(&self) -> Row {
        let series_first = self.columns.first().map_or_else(SeriesId::default, |(series, _)| *series);
        let offset = |series: SeriesId| series.to_store().wrapping_sub(series_first.to_store()) as u64;
        let mut fields = Fields::default();
        for (series, column) in &self.columns {
            fields.widen(offset(*series), &column.head);
        }
        let (shift, time) = (shift_of(self.times.len()), TimeHead::of(&self.times));
        let t_min = self.times.first().copied().unwrap_or_default();
        let (mut heads, mut bits) = (Writer::default(), Writer::default());
        for width in [fields.series, fields.base, fields.slope] {
            heads.put(u64::from(width), 6);
        }
        heads.put(u64::from(fields.exact), 4);
        heads.put(u64::from(fields.delay), 5);
        heads.put(u64::from(shift), 4);
        heads.put(u64::from(time.width), 6);
        put_signed(&mut heads, time.base, TIME_BASE_WIDTH);
        heads.put(time.slope as u64, TIME_SLOPE_WIDTH);
        for (i, at) in self.times.iter().enumerate() {
            bits.put((at.millis_since(t_min) - time.base - ((time.slope * i as i64) >> shift)) as u64, time.width);
        }
        for (series, column) in &self.columns {
            let head = &column.head;
            heads.put(u64::from(head.width), 7);
            heads.put(u64::from(head.scale), 5);
            heads.put(offset(*series), fields.series);
            put_signed(&mut heads, head.base, fields.base);
            put_signed(&mut heads, head.slope, fields.slope);
            heads.put(head.exact as u64, fields.exact);
            heads.put(head.delay as u64, fields.delay);
            bits.copy(&column.bytes, column.at, column.bits());
        }
        Row {
            gpu: self.gpu,
            id: self.id,
            t_min,
            t_max: self.times.last().copied().unwrap_or_default().plus_millis(self.longest_delay()),
            series_first,
            n: self.times.len() as i32,
            k: self.columns.len() as i32,
            heads: heads.finish(),
            bits: bits.finish(),
        }
    }

    /// The rectangle of a row.
    ///
    /// # Errors
    /// What is damaged in the row.
    pub fn from_row(row: &Row) -> Result<Self, String> {
        let (n, k) = row.size()?;
        let heads = row.read_heads(n, k)?;
        row.bits.check().map_err(|what| format!("its bits: {what}"))?;
        let len: usize = n * heads.time.width as usize + heads.columns.iter().map(|(_, head)| bits_of(head, n)).sum::<usize>();
        if len != row.bits.len {
            return Err(format!("its heads speak of {len} bits, and it has {}", row.bits.len));
        }
        let times = row.times(n, &heads)?;
        let bytes: Arc<[u8]> = row.bits.bytes.as_slice().into();
        let mut at = n * heads.time.width as usize;
        let columns = heads.columns.into_iter().map(|(series, head)| {
            let column = Column { head, n, at, bytes: Arc::clone(&bytes) };
            at += column.bits();
            (series, column)
        });
        Ok(Self { gpu: row.gpu, id: row.id, times, columns: columns.collect() })
    }

    /// The samples of the series that are wanted, as chunks.
    ///
    /// # Errors
    /// What is damaged in the row that the rectangle was read from.
    pub fn chunks(&self, wanted: impl Fn(SeriesId) -> bool) -> Result<Vec<Chunk>, String> {
        let chosen = self.columns.iter().filter(|(series, _)| wanted(*series));
        chosen
            .map(|(series, column)| {
                let values = column.decode().map_err(|what| format!("series {series}: {what}"))?;
                let times = match column.delay() {
                    0 => self.times.clone(),
                    delay => self.times.iter().map(|time| time.plus_millis(delay)).collect(),
                };
                Ok(Chunk { series: *series, id: self.id, times, values })
            })
            .collect()
    }
}

fn bits_of(head: &Head, n: usize) -> usize {
    n * head.width as usize + 64 * head.exact
}

/// What `heads` says.
struct Heads {
    time: TimeHead,
    columns: Vec<(SeriesId, Head)>,
}

impl Row {
    /// The series that are in it.
    ///
    /// # Errors
    /// What is damaged in the row.
    pub fn series(&self) -> Result<Vec<SeriesId>, String> {
        let (n, k) = self.size()?;
        Ok(self.read_heads(n, k)?.columns.into_iter().map(|(series, _)| series).collect())
    }

    /// Where the last samples of the series that are wanted lie. Of the row only the heads are needed.
    ///
    /// # Errors
    /// What is damaged in the row.
    pub fn lasts(&self, wanted: impl Fn(SeriesId) -> bool) -> Result<Vec<Last>, String> {
        let (n, k) = self.size()?;
        let Heads { time, columns } = self.read_heads(n, k)?;
        let latest = columns.iter().map(|(_, head)| head.delay).max().unwrap_or(0);
        let len = n * time.width as usize + columns.iter().map(|(_, head)| bits_of(head, n)).sum::<usize>();
        let mut at = n * time.width as usize;
        let mut lasts = Vec::new();
        for (series, head) in columns {
            if wanted(series) {
                let time = self.t_max.plus_millis(head.delay - latest);
                lasts.push(Last { series, time, at: at + (n - 1) * head.width as usize, len, n, head });
            }
            at += bits_of(&head, n);
        }
        Ok(lasts)
    }

    /// How many times and series it has.
    fn size(&self) -> Result<(usize, usize), String> {
        match (usize::try_from(self.n), usize::try_from(self.k)) {
            (Ok(n @ 1..=MAX_TIMES), Ok(k @ 1..=MAX_SAMPLES)) if n * k <= MAX_SAMPLES => Ok((n, k)),
            _ => Err(format!("it says that it has {} times and {} series", self.n, self.k)),
        }
    }

    fn read_heads(&self, n: usize, k: usize) -> Result<Heads, String> {
        self.heads.check().map_err(|what| format!("its heads: {what}"))?;
        let mut from = bits::Fields::new(&self.heads);
        let fields = Fields {
            series: from.take(6) as u32,
            base: from.take(6) as u32,
            slope: from.take(6) as u32,
            exact: from.take(4) as u32,
            delay: from.take(5) as u32,
        };
        let shift = from.take(4) as u32;
        let time = TimeHead {
            width: from.take(6) as u32,
            base: from.take_signed(TIME_BASE_WIDTH),
            slope: from.take(TIME_SLOPE_WIDTH) as i64,
        };
        let len = HEADS_BEGIN + k * fields.head();
        if self.heads.len != len {
            return Err(format!("its {k} heads are {len} bits long, and there are {}", self.heads.len));
        }
        if shift != shift_of(n) || time.width > TIME_BASE_WIDTH || fields.base == 63 || fields.slope == 63 {
            return Err("its heads are none of that many times".to_owned());
        }
        let mut columns: Vec<(SeriesId, Head)> = Vec::with_capacity(k);
        for _ in 0..k {
            let (width, scale) = (from.take(7) as u32, from.take(5) as u32);
            let series = self.series_first.to_store().wrapping_add(from.take(fields.series) as i64);
            let head = Head {
                width,
                scale,
                base: from.take_signed(fields.base),
                slope: from.take_signed(fields.slope),
                exact: from.take(fields.exact) as usize,
                delay: from.take(fields.delay) as i64,
            };
            let sound = match width {
                0..=62 => head.exact as u64 <= 1 << width,
                PATTERN => head.exact == 0,
                _ => false,
            };
            let slope = head.slope.checked_mul(n as i64).is_some_and(|rise| rise.unsigned_abs() < 1 << 61);
            if !sound || !slope || scale as usize >= POWERS.len() || head.exact > n {
                return Err(format!("the head of series {series} is none"));
            }
            let series = SeriesId::from_store(series);
            if columns.last().map_or(series != self.series_first, |(last, _)| *last >= series) {
                return Err("its series are not in order".to_owned());
            }
            columns.push((series, head));
        }
        Ok(Heads { time, columns })
    }

    fn times(&self, n: usize, Heads { time: head, columns }: &Heads) -> Result<Vec<TimeMs>, String> {
        let shift = shift_of(n);
        let mut times = Vec::with_capacity(n);
        for i in 0..n {
            let code = code_at(&self.bits.bytes, i * head.width as usize, head.width) as i64;
            let offset = head.base + ((head.slope * i as i64) >> shift) + code;
            times.push(self.t_min.checked_plus_millis(offset).ok_or("its times overflow")?);
        }
        if !times.is_sorted() {
            return Err("its times are not in order".to_owned());
        }
        let delays = || columns.iter().map(|(_, head)| head.delay);
        let (first, last) = (delays().min().unwrap_or(0), delays().max().unwrap_or(0));
        let end = times.last().map(|time| time.plus_millis(last));
        if times.first() != Some(&self.t_min) || first != 0 || end != Some(self.t_max) {
            return Err("its times do not begin and end where it says".to_owned());
        }
        if day_of(self.t_min) != day_of(self.t_max) {
            return Err("its times lie in several days".to_owned());
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::packed::column::tests::values;
    use crate::store::packed::pack;

    /// Rows of some series that have the same times, or are always later.
    fn rows() -> impl Strategy<Value = Vec<Row>> {
        (prop::collection::vec((values(), 0i64..3), 1..4), 0i64..100_000).prop_map(|(all, step)| {
            let series = all.into_iter().enumerate().map(|(id, (values, late))| {
                let times = (0..values.len() as i64).map(|i| TimeMs::from_millis(i * step + late * 500)).collect();
                (SeriesId::from_store(id as i64 + 1), times, values)
            });
            pack(GpuId::from_store(1), 1, series.collect()).iter().map(Rectangle::row).collect()
        })
    }

    /// What is read of a row that may be damaged stays within the limits.
    fn read(row: &Row) -> Result<Vec<Chunk>, String> {
        let _ = row.series();
        let chunks = Rectangle::from_row(row)?.chunks(|_| true)?;
        assert!(chunks.iter().all(|chunk| chunk.values.iter().all(|value| value.is_finite()) && chunk.times.is_sorted()));
        assert!(chunks.iter().map(|chunk| chunk.values.len()).sum::<usize>() <= MAX_SAMPLES);
        Ok(chunks)
    }

    proptest! {
        #[test]
        fn a_damaged_row_is_an_error_or_read(
            rows in rows(), at in any::<prop::sample::Index>(), heads in any::<bool>(), flip in 1u8..=255, n in -1i32..9000, k in -1i32..200_000,
        ) {
            for row in rows {
                prop_assert!(read(&row).is_ok());
                let mut damaged = row.clone();
                let bytes = if heads { &mut damaged.heads.bytes } else { &mut damaged.bits.bytes };
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= flip;
                    let _ = read(&damaged);
                }
                let mut cut = row.clone();
                cut.bits.len /= 2;
                prop_assert!(row.bits.len == 0 || read(&cut).is_err());
                let _ = read(&Row { n, ..row.clone() });
                let _ = read(&Row { k, ..row.clone() });
                let _ = read(&Row { n, k, ..row });
            }
        }

        #[test]
        fn any_bits_are_an_error_or_read(
            heads in prop::collection::vec(any::<u8>(), 0..60), bits in prop::collection::vec(any::<u8>(), 0..60), n in 0i32..30, k in 0i32..3,
        ) {
            let string = |bytes: Vec<u8>| Bits { len: bytes.len() * 8, bytes };
            let (gpu, series_first) = (GpuId::from_store(1), SeriesId::from_store(1));
            let (t_min, t_max) = (TimeMs::EPOCH, TimeMs::from_millis(1));
            let _ = read(&Row { gpu, id: 1, t_min, t_max, series_first, n, k, heads: string(heads), bits: string(bits) });
        }
    }

    fn row() -> Row {
        let times = [0, 1000, 2000, 2000].map(TimeMs::from_millis);
        let series = |id, late: i64| {
            let times = times.iter().map(|time| time.plus_millis(late)).collect();
            (SeriesId::from_store(id), times, vec![1.5, 2.5, 1e300, f64::MIN_POSITIVE])
        };
        let rectangles = pack(GpuId::from_store(1), 1, vec![series(3, 250), series(9, 0)]);
        assert_eq!(rectangles.len(), 1);
        rectangles[0].row()
    }

    fn said(row: &Row) -> String {
        read(row).expect_err("it is damaged")
    }

    #[test]
    fn what_is_damaged_is_said() {
        let good = row();
        let chunks = read(&good).expect("it is whole");
        assert_eq!(chunks[0].times, [250, 1250, 2250, 2250].map(TimeMs::from_millis));
        assert_eq!(good.t_max, TimeMs::from_millis(2250));
        let begin = TimeMs::from_millis(1);
        assert_eq!(said(&Row { n: 8193, ..good.clone() }), "it says that it has 8193 times and 2 series");
        assert!(said(&Row { n: 3, ..good.clone() }).contains("bits"));
        assert!(said(&Row { k: 1, ..good.clone() }).contains("heads"));
        assert!(said(&Row { t_min: begin, ..good.clone() }).contains("do not begin and end"));
        assert!(said(&Row { t_max: begin, ..good.clone() }).contains("do not begin and end"));
        assert!(said(&Row { t_min: TimeMs::MAX, ..good.clone() }).contains("overflow"));
        assert!(said(&Row { bits: Bits { len: good.bits.len - 1, bytes: good.bits.bytes.clone() }, ..good }).contains("bits"));
    }
}
