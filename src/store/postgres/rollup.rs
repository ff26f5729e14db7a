//! Rows of `sample_rollup_5m` and `sample_rollup_1h`: written into a binary COPY, and read back; and what readers ask of them. How rollups
//! lie in a row, and when they hold, is known to `store::rollup`.

use std::collections::HashMap;
use std::pin::pin;

use bytes::{BufMut, BytesMut};
use futures_util::TryStreamExt;
use futures_util::future::{try_join, try_join3};
use tokio_postgres::Row as SqlRow;

use super::chunk::column;
use super::copy::{put_i32, put_i64};
use super::error::{PostgresError, Result};
use super::packed::{Varbit, put_bits};
use super::partitions::{self, Partitioned};
use super::pool::Session;
use super::snapshot::{Asked, gpus_of};
use super::types::to_micros;
use crate::model::{BlockId, GpuId, IntervalMs, SeriesId, TimeMs};
use crate::store::chunk::{Day, day_of};
use crate::store::packed::Row;
use crate::store::rollup::{COVER, Cover, RollupRow, Served, read};
use crate::store::{Ids, Level, Needs, RolledUp, StoreError};

/// The columns that [`decode`] reads.
pub(super) const COLUMNS: &str = "gpu_id, t_min, t_max, series_first, series_last, n, k, hours, heads, bits";

/// The table of a level.
pub(super) const fn table(level: Level) -> Partitioned {
    match level {
        Level::FiveMinutes => Partitioned("sample_rollup_5m"),
        Level::Hour => Partitioned("sample_rollup_1h"),
    }
}

/// `sample_rollup_5m_YYYYMMDD`.
pub(super) fn partition_of(level: Level, day: Day) -> String {
    partitions::name_in(table(level), day)
}

/// Begins the COPY of rows that [`encode`] makes.
pub(super) fn copy(level: Level) -> String {
    format!("COPY {} ({COLUMNS}) FROM STDIN (FORMAT binary)", table(level).0)
}

/// Adds a row to a binary COPY.
pub(super) fn encode(out: &mut BytesMut, one: &RollupRow) {
    out.put_i16(10);
    let row = &one.row;
    put_i64(out, row.gpu.to_store());
    put_i64(out, to_micros(row.t_min));
    put_i64(out, to_micros(row.t_max));
    put_i64(out, row.series_first.to_store());
    put_i64(out, one.last.to_store());
    put_i32(out, row.n);
    put_i32(out, row.k);
    put_i32(out, one.hours.cast_signed());
    put_bits(out, &row.heads);
    put_bits(out, &row.bits);
}

/// A row with [`COLUMNS`], not looked into yet.
///
/// # Errors
/// The row is damaged: it is named, with what is wrong and what to do.
pub(super) fn decode(session: &Session, level: Level, row: &SqlRow) -> Result<RollupRow> {
    columns(row).map_err(|what| damaged(session, level, row, &what))
}

fn columns(row: &SqlRow) -> std::result::Result<RollupRow, String> {
    let (Varbit(heads), Varbit(bits)) = (column(row, 8, "heads")?, column(row, 9, "bits")?);
    let decoded = Row {
        gpu: column(row, 0, "gpu_id")?,
        id: 0,
        t_min: column(row, 1, "t_min")?,
        t_max: column(row, 2, "t_max")?,
        series_first: column(row, 3, "series_first")?,
        n: column(row, 5, "n")?,
        k: column(row, 6, "k")?,
        heads,
        bits,
    };
    Ok(RollupRow { row: decoded, last: column(row, 4, "series_last")?, hours: column::<i32>(row, 7, "hours")?.cast_unsigned() })
}

/// The error for a row that is damaged. Nothing is lost with it: what it says is read from samples once it is gone.
fn damaged(session: &Session, level: Level, row: &SqlRow, what: &str) -> PostgresError {
    let name = row.try_get::<_, TimeMs>(1).map_or_else(|_| table(level).0.to_owned(), |begin| partition_of(level, day_of(begin)));
    let gpu = row.try_get::<_, GpuId>(0).map_or_else(|_| "(unreadable)".to_owned(), |gpu| gpu.to_string());
    StoreError::DamagedChunk(format!(
        "PostgreSQL at {}: a rollup of GPU {gpu} in {name} is damaged: {what}. Delete those of the GPU (DELETE FROM {name} WHERE gpu_id = \
         {gpu}): what they say is read from the samples then",
        session.endpoint
    ))
    .into()
}

/// What is rolled up of some series in a span, and what is not.
pub(super) async fn rollups(
    asked: Asked<'_>,
    wanted: &[Ids],
    level: Level,
    needs: Needs,
    span: (TimeMs, TimeMs),
) -> Result<RolledUp> {
    if !asked.forms.rollups || wanted.is_empty() {
        return Ok(RolledUp::none(wanted, span));
    }
    let mut served = Served::new(span);
    let unpacked = try_join(chunks(asked, wanted, span), slabs(asked, wanted, span));
    let (covers, rows, (chunks, slabs)) =
        try_join3(covers(asked, wanted, level, span), rows(asked, wanted, level, needs, span), unpacked).await?;
    for (gpu, begin, cover) in covers {
        served.cover(gpu, begin, cover);
    }
    for (series, first, last) in chunks {
        served.chunk(series, first, last);
    }
    for (gpu, first, last) in slabs {
        served.unpacked(gpu, first, last);
    }
    let ids: HashMap<SeriesId, Ids> = wanted.iter().map(|ids| (ids.series, *ids)).collect();
    let mut series = rows;
    for (id, rollups) in &mut series {
        if let Some(ids) = ids.get(id) {
            served.keep(*ids, rollups);
        }
    }
    series.retain(|(_, rollups)| !rollups.is_empty());
    Ok(RolledUp { series, unrolled: served.unrolled(wanted) })
}

/// The days of a span.
fn days((from, before): (TimeMs, TimeMs)) -> (TimeMs, TimeMs) {
    (from.floor_to(IntervalMs::DAY), before.ceil_to(IntervalMs::DAY))
}

/// Of which hours of their GPUs there are rollups.
async fn covers(asked: Asked<'_>, wanted: &[Ids], level: Level, span: (TimeMs, TimeMs)) -> Result<Vec<(GpuId, TimeMs, Cover)>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {} WHERE gpu_id = ANY($1) AND series_last = {COVER} AND t_min >= $2 AND t_min < $3",
        table(level).0
    );
    let (gpus, (from, before)) = (gpus_of(wanted), days(span));
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &from, &before]).await?);
    let mut covers = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let read = decode(asked.session, level, &row)?;
        let cover = Cover::of(&read).map_err(|what| damaged(asked.session, level, &row, &what))?;
        covers.push((read.row.gpu, read.row.t_min, cover));
    }
    Ok(covers)
}

/// Rollups of a series.
type OfSeries = (SeriesId, Vec<crate::store::Rollup>);

/// The rollups that there are, whether they hold or not.
async fn rows(asked: Asked<'_>, wanted: &[Ids], level: Level, needs: Needs, span: (TimeMs, TimeMs)) -> Result<Vec<OfSeries>> {
    // The index has them by GPU and ids: those of the row, and of what is wanted, overlap.
    let sql = format!(
        "SELECT {} FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) w (gpu, first, last) \
           JOIN {} r ON r.gpu_id = w.gpu AND r.series_last >= w.first AND r.series_first <= w.last AND r.series_last < {COVER} \
          WHERE r.t_min >= $4 AND r.t_min < $5 AND r.t_max >= $6",
        COLUMNS.split(", ").map(|column| format!("r.{column}")).collect::<Vec<_>>().join(", "),
        table(level).0
    );
    let mut of_gpu: HashMap<GpuId, (i64, i64)> = HashMap::new();
    for ids in wanted {
        let id = ids.series.to_store();
        let span = of_gpu.entry(ids.gpu).or_insert((id, id));
        *span = (span.0.min(id), span.1.max(id));
    }
    let (mut gpus, mut first, mut last): (Vec<GpuId>, Vec<i64>, Vec<i64>) = Default::default();
    for (gpu, (from, to)) in of_gpu {
        gpus.push(gpu);
        first.push(from.saturating_mul(8));
        last.push(to.saturating_mul(8).saturating_add(7));
    }
    let series: HashMap<SeriesId, GpuId> = wanted.iter().map(|ids| (ids.series, ids.gpu)).collect();
    let (begin, _) = days(span);
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &first, &last, &begin, &span.1, &span.0]).await?);
    let mut all = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let decoded = decode(asked.session, level, &row)?;
        let wanted = |id: SeriesId| series.get(&id) == Some(&decoded.row.gpu);
        all.extend(read(&decoded, wanted, needs).map_err(|what| damaged(asked.session, level, &row, &what))?);
    }
    Ok(all)
}

/// A span from the beginning of an hour to the end of one, and the beginning of its first day: what reaches into an hour makes all of it be
/// read, and lies within one UTC day.
fn hours((from, before): (TimeMs, TimeMs)) -> [TimeMs; 3] {
    let (from, before) = (from.floor_to(IntervalMs::HOUR), before.ceil_to(IntervalMs::HOUR));
    [from, from.floor_to(IntervalMs::DAY), before]
}

/// Rows of a form in which rollups do not know of something, by hours: $1 are what they are of, the others [`hours`].
fn spans_of(table: &str, key: &str) -> String {
    format!(
        "SELECT {key}, min(t_min), max(t_max) FROM {table} WHERE {key} = ANY($1) AND t_max >= $2 AND t_min >= $3 AND t_min < $4 \
          GROUP BY {key}, date_trunc('hour', t_min), date_trunc('hour', t_max)"
    )
}

/// Where chunks lie.
async fn chunks(asked: Asked<'_>, wanted: &[Ids], span: (TimeMs, TimeMs)) -> Result<Vec<(SeriesId, TimeMs, TimeMs)>> {
    let series: Vec<SeriesId> = wanted.iter().map(|ids| ids.series).collect();
    let [from, day, before] = hours(span);
    let sql = spans_of("sample_chunk", "series_id");
    let mut rows = pin!(asked.rows(&sql, &[&series, &from, &day, &before]).await?);
    let mut all = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        all.push((row.get(0), row.get(1), row.get(2)));
    }
    Ok(all)
}

/// Where slabs lie, which may have something of each GPU of their block.
async fn slabs(asked: Asked<'_>, wanted: &[Ids], span: (TimeMs, TimeMs)) -> Result<Vec<(GpuId, TimeMs, TimeMs)>> {
    let mut gpus: HashMap<BlockId, Vec<GpuId>> = HashMap::new();
    for gpu in gpus_of(wanted) {
        gpus.entry(BlockId::of(gpu)).or_default().push(gpu);
    }
    let blocks: Vec<BlockId> = gpus.keys().copied().collect();
    let [from, day, before] = hours(span);
    let sql = spans_of("sample_slab", "block_id");
    let mut rows = pin!(asked.rows(&sql, &[&blocks, &from, &day, &before]).await?);
    let mut all = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let (block, first, last): (BlockId, TimeMs, TimeMs) = (row.get(0), row.get(1), row.get(2));
        all.extend(gpus.get(&block).into_iter().flatten().map(|gpu| (*gpu, first, last)));
    }
    Ok(all)
}
