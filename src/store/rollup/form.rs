//! Rollups of a GPU as rows, and back.

use std::collections::BTreeMap;

use super::{Bucket, Hours, Rolled, Rollup};
use crate::model::exact::{self, ExactSum};
use crate::model::{GpuId, IntervalMs, SeriesId, TimeMs};
use crate::store::chunk::DAY_MS;
use crate::store::packed::{Bits, Column, Rectangle, Row};

/// What a column has. The column of a statistic of a series has the id of the series times 8, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Statistic {
    /// How many samples.
    Count = 0,
    /// The least value.
    Min = 1,
    /// The greatest value less the least one. Without the column: 0.
    Range = 2,
    /// The sum of the values less the least one. Without the column: 0.
    Excess = 3,
    /// The first value less the least one. Without the column: 0.
    First = 4,
    /// The greatest value less the last one. Without the column: 0.
    Last = 5,
    /// How many ms after the beginning of the bucket the last sample is.
    LastTime = 6,
    /// Of a counter: what it grew more than from the first to the last value. Of a mask: the bits that the greatest value has not.
    /// Without the column: 0.
    More = 7,
}

use Statistic::{Count, Excess, First, Last, LastTime, Min, More, Range};

const STATISTICS: [Statistic; 8] = [Count, Min, Range, Excess, First, Last, LastTime, More];

/// Ids of columns for each series.
const PER_SERIES: i64 = STATISTICS.len() as i64;

/// Bits of columns and heads after which the next series begins a row. A row then has its page with others, and who asks for one series
/// does not read all.
const ROW_BITS: usize = 12_000;
/// Bits of a head, roughly.
const HEAD_BITS: usize = 60;
/// Bytes that a row takes in PostgreSQL besides heads and bits, in the table and in its index.
const ROW_BYTES: usize = 150;

/// What of a bucket is asked for. What is not is not decoded, and is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The sum.
    pub sum: bool,
    /// The greatest value. The least one is always there.
    pub max: bool,
    /// The latest value and its time.
    pub last: bool,
}

impl Needs {
    fn columns(self) -> [bool; 8] {
        [true, true, self.max || self.last, self.sum, false, self.last, self.last, false]
    }
}

/// A row of a table of rollups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollupRow {
    /// A rectangle; or of a cover, what it leaves out.
    pub row: Row,
    /// The greatest id of a column; of a cover [`COVER`].
    pub last: SeriesId,
    /// The hours of the day that the rows that were written with this one are of.
    pub hours: Hours,
}

/// The id that a cover has in the place of those of columns: one row a rewrite that says of which hours the others have everything, and
/// which series are left out there.
pub const COVER: SeriesId = SeriesId::from_store(i64::MAX);

/// Hours of a GPU of which everything is rolled up, but for some series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    /// The hours of the day.
    pub hours: Hours,
    /// Series that have samples in these hours and no rollup. Sorted.
    pub without: Vec<SeriesId>,
}

impl Cover {
    fn row(&self, gpu: GpuId, day_begins: TimeMs) -> RollupRow {
        let hour = |bit: u32| day_begins.plus_millis(i64::from(bit) * IntervalMs::HOUR.as_millis());
        let bytes: Vec<u8> = self.without.iter().flat_map(|series| series.to_store().to_be_bytes()).collect();
        let row = Row {
            gpu,
            id: 0,
            t_min: hour(self.hours.trailing_zeros().min(23)),
            t_max: hour(self.hours.checked_ilog2().unwrap_or(0)),
            series_first: COVER,
            n: 0,
            k: self.without.len() as i32,
            heads: Bits::default(),
            bits: Bits { len: bytes.len() * 8, bytes },
        };
        RollupRow { row, last: COVER, hours: self.hours }
    }

    /// The cover of a row.
    ///
    /// # Errors
    /// What is damaged in the row.
    pub fn of(row: &RollupRow) -> Result<Self, String> {
        let (ids, rest) = row.row.bits.bytes.as_chunks::<8>();
        if !rest.is_empty() || ids.len() * 64 != row.row.bits.len || usize::try_from(row.row.k).ok() != Some(ids.len()) {
            return Err("its list of series is cut off".to_owned());
        }
        let without = ids.iter().map(|id| SeriesId::from_store(i64::from_be_bytes(*id))).collect();
        Ok(Self { hours: row.hours, without })
    }
}

/// The rollups of a GPU and day, of one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollups {
    /// The GPU.
    pub gpu: GpuId,
    /// What they are all of.
    pub cover: Cover,
    /// By series, each once.
    pub(in crate::store) series: Vec<Rolled>,
}

/// The hour of the day that a bucket is in.
pub fn hour_of(begin: TimeMs) -> Hours {
    1 << (begin.as_millis().rem_euclid(DAY_MS) / IntervalMs::HOUR.as_millis())
}

impl Rollups {
    /// Leaves out all that is not of these hours.
    pub fn keep(&mut self, hours: Hours) {
        self.cover.hours &= hours;
        for rolled in &mut self.series {
            rolled.buckets.retain(|bucket| hour_of(bucket.begin) & hours != 0);
        }
        self.series.retain(|rolled| !rolled.buckets.is_empty());
        if self.cover.hours == 0 {
            self.cover.without.clear();
        }
    }

    /// Adds rollups of other hours of the same GPU and day.
    pub fn join(&mut self, other: Self) {
        let mut series: BTreeMap<SeriesId, Rolled> =
            std::mem::take(&mut self.series).into_iter().map(|one| (one.series, one)).collect();
        let without = &mut self.cover.without;
        for rolled in other.series {
            let id = rolled.series;
            let both = match series.remove(&id) {
                Some(mine) => joined(mine, rolled),
                None => Some(rolled),
            };
            match both {
                Some(both) => drop(series.insert(id, both)),
                None => without.push(id),
            }
        }
        without.extend(other.cover.without);
        without.sort_unstable();
        without.dedup();
        self.series = series.into_values().filter(|one| without.binary_search(&one.series).is_err()).collect();
        self.cover.hours |= other.cover.hours;
    }

    /// The samples of all buckets.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.series.iter().map(Rolled::samples).sum()
    }

    /// The rows, and what they take in PostgreSQL, in bytes. Without a series there are none.
    #[must_use]
    pub fn rows(&self) -> (Vec<RollupRow>, usize) {
        let mut by_times: BTreeMap<Vec<TimeMs>, Vec<&Rolled>> = BTreeMap::new();
        for one in self.series.iter().filter(|one| !one.buckets.is_empty()) {
            by_times.entry(one.buckets.iter().map(|bucket| bucket.begin).collect()).or_default().push(one);
        }
        let mut rectangles = Vec::new();
        for (times, series) in by_times {
            let (mut columns, mut bits): (Vec<(SeriesId, Column)>, usize) = (Vec::new(), 0);
            for one in series {
                let more = encode(one);
                let size: usize = more.iter().map(|(_, column)| column.bits() + HEAD_BITS).sum();
                if bits > 0 && bits + size > ROW_BITS {
                    let columns = std::mem::take(&mut columns);
                    rectangles.push(Rectangle { gpu: self.gpu, id: 0, times: times.clone(), columns });
                    bits = 0;
                }
                columns.extend(more);
                bits += size;
            }
            rectangles.push(Rectangle { gpu: self.gpu, id: 0, times, columns });
        }
        let row = |rectangle: &Rectangle| RollupRow {
            row: rectangle.row(),
            last: rectangle.columns.last().map_or(COVER, |(id, _)| *id),
            hours: self.cover.hours,
        };
        let mut rows: Vec<RollupRow> = rectangles.iter().map(row).collect();
        if let Some(begins) = rows.first().map(|row| row.row.t_min.floor_to(IntervalMs::DAY)) {
            rows.push(self.cover.row(self.gpu, begins));
        }
        let bytes = |one: &RollupRow| one.row.heads.bytes.len() + one.row.bits.bytes.len() + ROW_BYTES;
        let bytes = rows.iter().map(bytes).sum();
        (rows, bytes)
    }

    /// The rollups that rows of one GPU and day are.
    ///
    /// # Errors
    /// What is damaged in a row.
    pub fn of(mut rows: Vec<RollupRow>) -> Result<Self, String> {
        rows.sort_by_key(|row| row.hours);
        let mut all = Self::default();
        // Rows of the same hours were written together, and have different series.
        for same in rows.chunk_by(|one, other| one.hours == other.hours) {
            let mut one = Self { gpu: same[0].row.gpu, ..Self::default() };
            for row in same {
                if row.last == COVER {
                    one.cover = Cover::of(row)?;
                    continue;
                }
                let rectangle = Rectangle::from_row(&row.row)?;
                for columns in rectangle.columns.chunk_by(|a, b| series_of(a.0) == series_of(b.0)) {
                    one.series.push(decode(&rectangle.times, columns, [true; 8])?);
                }
            }
            one.series.sort_by_key(|one| one.series);
            all.gpu = one.gpu;
            all.join(one);
        }
        Ok(all)
    }
}

/// The buckets of two parts of a series, at one scale; `None` where they do not fit.
fn joined(mut one: Rolled, mut other: Rolled) -> Option<Rolled> {
    let scale = one.scale.max(other.scale);
    for part in [&mut one, &mut other] {
        let power = exact::power_of(scale - part.scale);
        for bucket in &mut part.buckets {
            for integer in
                [&mut bucket.min, &mut bucket.max, &mut bucket.excess, &mut bucket.first, &mut bucket.last, &mut bucket.more]
            {
                *integer = integer.checked_mul(power).filter(|integer| integer.abs() < exact::DECIMAL_BOUND)?;
            }
        }
    }
    one.scale = scale;
    one.buckets.extend(other.buckets);
    one.buckets.sort_by_key(|bucket| bucket.begin);
    Some(one)
}

fn series_of(column: SeriesId) -> SeriesId {
    SeriesId::from_store(column.to_store().div_euclid(PER_SERIES))
}

/// The columns of a series. What follows from others is left out.
fn encode(rolled: &Rolled) -> Vec<(SeriesId, Column)> {
    let column = |statistic: Statistic| {
        let integer = |bucket: &Bucket| match statistic {
            Count => bucket.n,
            Min => bucket.min,
            Range => bucket.max - bucket.min,
            Excess => bucket.excess,
            First => bucket.first - bucket.min,
            Last => bucket.max - bucket.last,
            LastTime => bucket.last_time.millis_since(bucket.begin),
            More => bucket.more,
        };
        let scale = if matches!(statistic, Count | LastTime) { 0 } else { rolled.scale };
        let is_there = matches!(statistic, Count | Min | LastTime) || rolled.buckets.iter().any(|bucket| integer(bucket) != 0);
        let values = || rolled.buckets.iter().map(|bucket| exact::value_of(integer(bucket), scale)).collect::<Vec<_>>();
        let id = SeriesId::from_store(rolled.series.to_store() * PER_SERIES + statistic as i64);
        is_there.then(|| (id, Column::encode(&values())))
    };
    STATISTICS.into_iter().filter_map(column).collect()
}

/// The buckets of a series.
fn decode(begins: &[TimeMs], columns: &[(SeriesId, Column)], wanted: [bool; 8]) -> Result<Rolled, String> {
    let series = columns.first().map_or_else(SeriesId::default, |(id, _)| series_of(*id));
    let mut found: [Option<(Vec<f64>, u32)>; 8] = Default::default();
    for (id, column) in columns {
        let at = id.to_store().rem_euclid(PER_SERIES) as usize;
        if wanted[at] {
            let values = column.decode().map_err(|what| format!("series {series}: {what}"))?;
            let scale = match column.scale() {
                Some(scale) => scale,
                None => least_scale(&values).ok_or_else(|| format!("series {series}: it has values that are no decimals"))?,
            };
            found[at] = Some((values, scale));
        }
    }
    if wanted[..2].iter().zip(&found).any(|(wanted, found)| *wanted && found.is_none()) {
        return Err(format!("series {series}: its buckets lack a column"));
    }
    let is_value = |at: usize| at != Count as usize && at != LastTime as usize;
    let scales = found.iter().enumerate().filter(|(at, _)| is_value(*at)).filter_map(|(_, one)| one.as_ref().map(|one| one.1));
    let scale = scales.max().unwrap_or(0);
    if scale > exact::MAX_SCALE {
        return Err(format!("series {series}: it has values that are no decimals"));
    }
    let power = exact::power_of(scale) as f64;
    let get = |statistic: Statistic, i: usize| match &found[statistic as usize] {
        // Each is the double of such an integer: half of one is more than the product is wrong by.
        Some((values, _)) => {
            let product = values[i] * if is_value(statistic as usize) { power } else { 1.0 };
            (product + 0.5_f64.copysign(product)) as i64
        }
        None => 0,
    };
    let bucket = |(i, begin): (usize, &TimeMs)| {
        let min = get(Min, i);
        // What is damaged may be any number.
        let max = min.saturating_add(get(Range, i));
        Bucket {
            begin: *begin,
            n: get(Count, i),
            min,
            max,
            excess: get(Excess, i),
            first: min.saturating_add(get(First, i)),
            last: max.saturating_sub(get(Last, i)),
            last_time: begin.plus_millis(get(LastTime, i)),
            more: get(More, i),
        }
    };
    let buckets: Vec<Bucket> = begins.iter().enumerate().map(bucket).collect();
    let bound = exact::DECIMAL_BOUND;
    let sound = |b: &Bucket| b.n > 0 && [b.min, b.max, b.excess].iter().all(|one| one.unsigned_abs() < bound.unsigned_abs());
    if !buckets.iter().all(sound) {
        return Err(format!("series {series}: a bucket is none"));
    }
    Ok(Rolled { series, scale, buckets })
}

fn least_scale(values: &[f64]) -> Option<u32> {
    values.iter().try_fold(0, |scale, value| exact::decimal(*value).map(|(_, own)| own.max(scale)))
}

/// The rollups of the series that are wanted, for readers.
///
/// # Errors
/// What is damaged in the row.
pub fn read(row: &RollupRow, wanted: impl Fn(SeriesId) -> bool, needs: Needs) -> Result<Vec<(SeriesId, Vec<Rollup>)>, String> {
    let rectangle = Rectangle::from_row(&row.row)?;
    let mut all = Vec::new();
    for columns in rectangle.columns.chunk_by(|a, b| series_of(a.0) == series_of(b.0)) {
        let series = series_of(columns[0].0);
        if !wanted(series) {
            continue;
        }
        let Rolled { scale, buckets, .. } = decode(&rectangle.times, columns, needs.columns())?;
        let rollup = |b: &Bucket| Rollup {
            begin: b.begin,
            n: b.n.unsigned_abs(),
            sum: ExactSum::new(b.sum(), scale),
            min: exact::value_of(b.min, scale),
            max: exact::value_of(b.max, scale),
            last: exact::value_of(b.last, scale),
            last_time: b.last_time,
        };
        all.push((series, buckets.iter().map(rollup).collect()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::samples;
    use super::super::{Kind, roll};
    use super::*;

    fn rollups(all: &[(Vec<TimeMs>, Vec<f64>)], hours: Hours) -> Rollups {
        let rolled = |(id, (times, values)): (usize, &(Vec<TimeMs>, Vec<f64>))| {
            let kind = if id % 2 == 0 { Kind::Gauge } else { Kind::Counter };
            let (times, values): (Vec<TimeMs>, Vec<f64>) =
                times.iter().zip(values).filter(|(time, _)| hour_of(**time) & hours != 0).unzip();
            roll(SeriesId::from_store((1 << 40) + id as i64), kind, &times, &values).filter(|rolled| !rolled.buckets.is_empty())
        };
        let series = all.iter().enumerate().filter_map(rolled).collect();
        Rollups { gpu: GpuId::from_store(3), cover: Cover { hours, without: Vec::new() }, series }
    }

    /// Parts of one GPU's day may have different scales.
    fn told(rollups: &Rollups) -> Vec<(SeriesId, TimeMs, i64, [u64; 6])> {
        let told = |one: &Rolled| {
            let value = |integer: i64| exact::value_of(integer, one.scale).to_bits();
            let bucket = |b: &Bucket| {
                let values = [b.min, b.max, b.excess, b.first, b.last, b.more].map(value);
                (one.series, b.last_time, b.n, values)
            };
            one.buckets.iter().map(bucket).collect::<Vec<_>>()
        };
        rollups.series.iter().flat_map(told).collect()
    }

    proptest! {
        #[test]
        fn rollups_come_back(all in prop::collection::vec(samples(), 1..30), cut in 1u32..15) {
            let whole = rollups(&all, 0b1111);
            let (rows, bytes) = whole.rows();
            prop_assert!(bytes > 0 || rows.is_empty());
            let back = Rollups::of(rows.clone()).unwrap();
            prop_assert_eq!(told(&back), told(&whole));
            for row in rows.iter().filter(|row| row.last != COVER) {
                for (series, read) in read(row, |_| true, Needs { sum: true, max: true, last: true }).unwrap() {
                    let rolled = whole.series.iter().find(|one| one.series == series).unwrap();
                    prop_assert_eq!(read.len(), rolled.buckets.len());
                    for (read, b) in read.iter().zip(&rolled.buckets) {
                        prop_assert_eq!(read.sum.value(), ExactSum::new(b.sum(), rolled.scale).value());
                        prop_assert_eq!((read.begin, read.n, read.last_time), (b.begin, b.n as u64, b.last_time));
                        let value = |integer: i64| exact::value_of(integer, rolled.scale);
                        prop_assert_eq!([read.min, read.max, read.last], [value(b.min), value(b.max), value(b.last)]);
                    }
                }
            }
            let (mut parts, mut rest) = (rollups(&all, cut), whole.clone());
            rest.keep(!cut);
            parts.join(rest);
            prop_assert_eq!(told(&parts), told(&whole));
        }
    }

    #[test]
    fn what_follows_from_others_is_not_kept() {
        let times: Vec<TimeMs> = (0..60).map(|i| TimeMs::from_millis(i * 60_000)).collect();
        let columns = |kind, values: &dyn Fn(i32) -> f64| {
            let values: Vec<f64> = (0..60).map(values).collect();
            let rolled = roll(SeriesId::from_store(5), kind, &times, &values).unwrap();
            encode(&rolled).iter().map(|(id, _)| id.to_store() - 40).collect::<Vec<_>>()
        };
        assert_eq!(columns(Kind::Gauge, &|_| 7.25), [0, 1, 6], "a constant");
        assert_eq!(columns(Kind::Counter, &|i| f64::from(i) * 10.0), [0, 1, 2, 3, 6], "a counter that grows");
        assert_eq!(columns(Kind::Counter, &|i| f64::from(i % 7)), [0, 1, 2, 3, 4, 5, 6, 7], "one that is reset");
        assert_eq!(columns(Kind::Gauge, &|i| f64::from((i * 7 + 3) % 5)), [0, 1, 2, 3, 4, 5, 6], "a gauge");
    }

    #[test]
    fn a_cover_says_what_is_left_out() {
        let without: Vec<SeriesId> = [3, 1 << 50].map(SeriesId::from_store).to_vec();
        let cover = Cover { hours: 0b1100, without };
        let row = cover.row(GpuId::from_store(1), TimeMs::EPOCH);
        assert_eq!((row.row.t_min.as_millis(), row.row.t_max.as_millis()), (7_200_000, 10_800_000));
        assert_eq!(Cover::of(&row), Ok(cover));
        assert!(Cover::of(&RollupRow { row: Row { k: 1, ..row.row.clone() }, ..row }).is_err());
    }

    #[test]
    fn a_damaged_row_is_an_error_or_read() {
        let times: Vec<TimeMs> = (0..60).map(|i| TimeMs::from_millis(i * 60_000)).collect();
        let values: Vec<f64> = (0..60).map(|i| f64::from(i % 7) / 4.0).collect();
        let (rows, _) = rollups(&[(times, values)], 1).rows();
        for at in 0..rows[0].row.heads.bytes.len() {
            for bit in 0..8 {
                let mut row = rows[0].clone();
                row.row.heads.bytes[at] ^= 1 << bit;
                let _ = Rollups::of(vec![row.clone()]);
                let _ = read(&row, |_| true, Needs { sum: true, max: true, last: true });
            }
        }
    }
}
