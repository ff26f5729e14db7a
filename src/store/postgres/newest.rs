//! The newest sample of each series, in slabs (`newest_slab`), which have what came last, in chunks and in packed rows; of the latter, only
//! where they may have a newer one than the former.
//!
//! Chunks have their newest sample at their end, and an index by series. Of packed rows only the heads are looked through, the latest first,
//! for they say which series a row has; of those that may have the newest sample of one, the samples are read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;

use futures_util::TryStreamExt;

use super::copy::count;
use super::error::Result;
use super::snapshot::{Asked, gpus_of};
use super::{chunk, newest_slab, packed};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::packed::{Last, Row};
use crate::store::{Ids, Latest};

/// Of a row from which so many series are wanted, only their last values are asked for; of others, the whole row.
const FEW: usize = 4;

/// Rows of a GPU whose heads are looked at together.
const HEADS_AT_ONCE: i64 = 32;

/// A sample with the id of what it is in: of samples with equal times that with the greater id counts.
pub(super) type Best = HashMap<SeriesId, (TimeMs, i64, f64)>;

pub(super) fn better(best: &mut Best, series: SeriesId, time: TimeMs, id: i64, value: f64) {
    let kept = best.entry(series).or_insert((time, id, value));
    if (kept.0, kept.1) < (time, id) {
        *kept = (time, id, value);
    }
}

/// From when on a row may have something that is not known: not before every one of these series has a sample.
pub(super) fn since(series: &HashSet<SeriesId>, best: &Best) -> TimeMs {
    series.iter().map(|id| best.get(id).map_or(TimeMs::MIN, |(time, ..)| *time)).min().unwrap_or(TimeMs::MAX)
}

/// The newest sample of each of these series in rows that begin between two midnights.
pub(super) async fn newest(asked: Asked<'_>, wanted: &[Ids], begins: (TimeMs, TimeMs)) -> Result<Vec<Latest>> {
    let mut best = Best::new();
    if asked.forms.slabs && !wanted.is_empty() {
        newest_slab::of_slabs(asked, wanted, begins, &mut best).await?;
    }
    of_chunks(asked, wanted, begins, &mut best).await?;
    if asked.forms.packed && !wanted.is_empty() {
        of_packed(asked, wanted, begins, &mut best).await?;
    }
    Ok(best.into_iter().map(|(series, (time, _, value))| Latest { series, time, value }).collect())
}

async fn of_chunks(asked: Asked<'_>, wanted: &[Ids], (from, before): (TimeMs, TimeMs), best: &mut Best) -> Result<()> {
    let sql = format!(
        "SELECT c.* FROM unnest($1::bigint[], $4::timestamptz[]) AS s (id, since) CROSS JOIN LATERAL \
         (SELECT {} FROM sample_chunk WHERE series_id = s.id AND t_max >= s.since AND t_min >= $2 AND t_min < $3 \
           ORDER BY t_max DESC, id DESC LIMIT 1) c",
        chunk::COLUMNS
    );
    let series: Vec<SeriesId> = wanted.iter().map(|ids| ids.series).collect();
    let since: Vec<TimeMs> = series.iter().map(|id| best.get(id).map_or(TimeMs::MIN, |(time, ..)| *time)).collect();
    let mut rows = pin!(asked.rows(&sql, &[&series, &from, &before, &since]).await?);
    // The chunks are read one after the other and whole: the server cannot say whether one is damaged.
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let chunk = chunk::decode(asked.session, &row)?;
        if let (Some(time), Some(value)) = (chunk.times.last(), chunk.values.last()) {
            better(best, chunk.series, *time, chunk.id, *value);
        }
    }
    Ok(())
}

/// How far the rows of a GPU were looked through.
struct Search {
    /// Those of its series that are wanted.
    series: HashSet<SeriesId>,
    /// The rows before this one (by t_max, id and first series) come next.
    before: (TimeMs, i64, SeriesId),
}

async fn of_packed(asked: Asked<'_>, wanted: &[Ids], begins: (TimeMs, TimeMs), best: &mut Best) -> Result<()> {
    let mut searches: BTreeMap<GpuId, Search> = gpus_of(wanted)
        .into_iter()
        .map(|gpu| (gpu, Search { series: HashSet::new(), before: (TimeMs::MAX, i64::MAX, SeriesId::from_store(i64::MAX)) }))
        .collect();
    for ids in wanted {
        searches.entry(ids.gpu).and_modify(|search| {
            search.series.insert(ids.series);
        });
    }
    while !searches.is_empty() {
        let heads = heads(asked, &searches, begins, best).await?;
        let mut of_gpu: HashMap<GpuId, i64> = HashMap::new();
        for (head, _) in &heads {
            *of_gpu.entry(head.gpu).or_default() += 1;
            searches.entry(head.gpu).and_modify(|search| search.before = (head.t_max, head.id, head.series_first));
        }
        // First, of each series the row that is most likely to have its newest sample; then those that may have a newer one still.
        let mut seen: HashSet<SeriesId> = HashSet::new();
        let (mut likely, mut others) = (Vec::new(), Vec::new());
        for (head, series) in heads {
            let first = series.iter().filter(|id| seen.insert(**id)).count() > 0;
            if first { likely.push((head, series)) } else { others.push((head, series)) }
        }
        read(asked, likely, &searches, best).await?;
        let may_be_newer =
            |head: &Row, id: &SeriesId| best.get(id).is_none_or(|(time, known, _)| (head.t_max, head.id) >= (*time, *known));
        others.retain(|(head, series)| series.iter().any(|id| may_be_newer(head, id)));
        read(asked, others, &searches, best).await?;
        // There are no more rows, or none that could change anything.
        searches.retain(|gpu, search| of_gpu.get(gpu) == Some(&HEADS_AT_ONCE) && search.before.0 >= since(&search.series, best));
    }
    Ok(())
}

/// The heads of the next rows of each GPU, the latest first, with those of the wanted series that are in them. Rows that have none of them
/// are not left out: the search goes on after them.
async fn heads(
    asked: Asked<'_>,
    searches: &BTreeMap<GpuId, Search>,
    (from, before): (TimeMs, TimeMs),
    best: &Best,
) -> Result<Vec<(Row, Vec<SeriesId>)>> {
    let sql = format!(
        "SELECT p.* FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bigint[]) \
                AS w (gpu, since, t_max, id, series) \
          CROSS JOIN LATERAL (SELECT {} FROM sample_packed q \
            WHERE q.gpu_id = w.gpu AND q.t_max >= w.since AND q.t_max <= w.t_max AND q.t_min >= $6 AND q.t_min < $7 \
              AND (q.t_max, q.id, q.series_first) < (w.t_max, w.id, w.series) \
            ORDER BY q.t_max DESC, q.id DESC, q.series_first DESC LIMIT {HEADS_AT_ONCE}) p",
        packed::HEAD_COLUMNS
    );
    let gpus: Vec<GpuId> = searches.keys().copied().collect();
    let since: Vec<TimeMs> = searches.values().map(|search| since(&search.series, best)).collect();
    let t_max: Vec<TimeMs> = searches.values().map(|search| search.before.0).collect();
    let id: Vec<i64> = searches.values().map(|search| search.before.1).collect();
    let series: Vec<SeriesId> = searches.values().map(|search| search.before.2).collect();
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &since, &t_max, &id, &series, &from, &before]).await?);
    let mut heads = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let head = packed::head(asked.session, &row)?;
        let mut series = head.series().map_err(|what| packed::damaged(asked.session, &row, what))?;
        let search = searches.get(&head.gpu);
        series.retain(|id| search.is_some_and(|search| search.series.contains(id)));
        heads.push((head, series));
    }
    Ok(heads)
}

/// Reads the last samples of rows, and keeps the newest ones.
async fn read(
    asked: Asked<'_>,
    heads: Vec<(Row, Vec<SeriesId>)>,
    searches: &BTreeMap<GpuId, Search>,
    best: &mut Best,
) -> Result<()> {
    let (few, many): (Vec<_>, Vec<_>) = heads.into_iter().partition(|(_, series)| series.len() <= FEW);
    let mut whole = read_lasts(asked, few, best).await?;
    whole.extend(many.into_iter().map(|(head, _)| head));
    read_whole(asked, &whole, searches, best).await
}

/// Asks for nothing but the last value of each series. The rows that are to be read whole: a value is kept apart from the others, or there is
/// something wrong with the row.
async fn read_lasts(asked: Asked<'_>, heads: Vec<(Row, Vec<SeriesId>)>, best: &mut Best) -> Result<Vec<Row>> {
    let (mut lasts, mut is_whole): (Vec<(usize, Last)>, Vec<bool>) = (Vec::new(), vec![false; heads.len()]);
    for (nth, (head, series)) in heads.iter().enumerate() {
        let of_row = head.lasts(|id| series.contains(&id)).map_err(|what| packed::damaged_row(asked.session, head, &what))?;
        lasts.extend(of_row.into_iter().map(|last| (nth, last)));
    }
    if lasts.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT w.nth, length(p.bits), substring(p.bits, w.at, w.width) \
           FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::int[], $7::int[]) \
                WITH ORDINALITY AS w (gpu, id, t_min, t_max, series, at, width, nth) \
           JOIN sample_packed p ON p.gpu_id = w.gpu AND p.t_max = w.t_max AND p.t_min = w.t_min AND p.id = w.id AND p.series_first = w.series";
    let row_of = |nth: usize| &heads[nth].0;
    let gpus: Vec<GpuId> = lasts.iter().map(|(nth, _)| row_of(*nth).gpu).collect();
    let ids: Vec<i64> = lasts.iter().map(|(nth, _)| row_of(*nth).id).collect();
    let t_min: Vec<TimeMs> = lasts.iter().map(|(nth, _)| row_of(*nth).t_min).collect();
    let t_max: Vec<TimeMs> = lasts.iter().map(|(nth, _)| row_of(*nth).t_max).collect();
    let series: Vec<SeriesId> = lasts.iter().map(|(nth, _)| row_of(*nth).series_first).collect();
    let at: Vec<i32> = lasts.iter().map(|(_, last)| count(last.at + 1)).collect();
    let width: Vec<i32> = lasts.iter().map(|(_, last)| last.width().cast_signed()).collect();
    let mut rows = pin!(asked.rows(sql, &[&gpus, &ids, &t_min, &t_max, &series, &at, &width]).await?);
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
        let Some((nth, last)) = lasts.get(place) else { continue };
        let value =
            packed::code(&row, 2).ok().filter(|_| row.get::<_, i32>(1) == count(last.len)).and_then(|code| last.value(code));
        match value {
            Some(value) => better(best, last.series, last.time, row_of(*nth).id, value),
            None => is_whole[*nth] = true,
        }
    }
    Ok(heads.into_iter().zip(is_whole).filter(|(_, is_whole)| *is_whole).map(|((head, _), _)| head).collect())
}

/// Reads rows whole.
async fn read_whole(asked: Asked<'_>, heads: &[Row], searches: &BTreeMap<GpuId, Search>, best: &mut Best) -> Result<()> {
    if heads.is_empty() {
        return Ok(());
    }
    let columns = packed::COLUMNS.split(", ").map(|column| format!("p.{column}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {columns} FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[]) \
                AS w (gpu, id, t_min, t_max, series) \
           JOIN sample_packed p ON p.gpu_id = w.gpu AND p.t_max = w.t_max AND p.t_min = w.t_min AND p.id = w.id AND p.series_first = w.series"
    );
    let gpus: Vec<GpuId> = heads.iter().map(|head| head.gpu).collect();
    let ids: Vec<i64> = heads.iter().map(|head| head.id).collect();
    let t_min: Vec<TimeMs> = heads.iter().map(|head| head.t_min).collect();
    let t_max: Vec<TimeMs> = heads.iter().map(|head| head.t_max).collect();
    let series: Vec<SeriesId> = heads.iter().map(|head| head.series_first).collect();
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &ids, &t_min, &t_max, &series]).await?);
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let rectangle = packed::decode(asked.session, &row)?;
        let search = searches.get(&rectangle.gpu);
        let Some(end) = rectangle.times.last() else { continue };
        for (series, column) in &rectangle.columns {
            if search.is_some_and(|search| search.series.contains(series)) {
                let last =
                    column.last().map_err(|what| packed::damaged(asked.session, &row, format!("series {series}: {what}")))?;
                better(best, *series, end.plus_millis(column.delay()), rectangle.id, last);
            }
        }
    }
    Ok(())
}
