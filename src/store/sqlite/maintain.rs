//! Maintenance: the small chunks of a series and day become full ones, of the same form.
//!
//! There is one writer, and one process, so nothing comes in between. All chunks of a series in a day are taken, up to the bound and as
//! far as they hang together in time; where those are too many for memory, one part after the other in the order of their ids. Of
//! equal times the sample of the later chunk comes later, and of two chunks that are written the later one has the greater id.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::chunk::{self, Decoder};
use super::connections::Connections;
use super::error::{Result, SqliteError};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store;
use crate::store::chunk::{DAY_MS, Day, MAX_SAMPLES, NewChunk, step_of};
use crate::store::maintenance::retention::{Detail, HeldDay};
use crate::store::maintenance::{Batch, DayPlan, DayState, Form, FormSize, Maintenance, Owner, Packed, Rewrite, Scope, Verified};

/// The part of the file that may be unused before it is written anew, which takes as long as the file is large.
const WORTH_A_VACUUM: i64 = 4;

/// What there is to do: the chunks of series that could be fewer, by day and GPU.
type ToDo = BTreeMap<Day, BTreeMap<GpuId, (u64, u64)>>;

/// The store under maintenance.
pub(super) struct Maintained {
    connections: Arc<Connections>,
    /// Whether somebody waits for the end: then unused space of the file is given back, too.
    urgent: bool,
    to_do: ToDo,
}

impl Maintained {
    pub(super) fn new(connections: Arc<Connections>, urgent: bool) -> Self {
        Self { connections, urgent, to_do: ToDo::new() }
    }
}

/// Reads every chunk.
pub(super) fn verify(connection: &Connection, endpoint: &str) -> Result<Verified> {
    let mut statement = connection.prepare(&format!("SELECT {} FROM chunk ORDER BY id", chunk::COLUMNS))?;
    let (mut decoder, mut verified) = (Decoder::default(), Verified::default());
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match decoder.decode(row) {
            Ok(chunk) => {
                verified.chunks += 1;
                verified.samples += chunk.times.len() as u64;
            }
            Err(SqliteError::Damaged(damaged)) => verified.damaged.push(damaged.explain(endpoint)),
            Err(error) => return Err(error),
        }
    }
    Ok(verified)
}

/// Bytes of the file that are in use, and the rows in it.
pub(super) fn form_sizes(connection: &Connection) -> Result<Vec<FormSize>> {
    // The table is never counted.
    let rows: i64 =
        connection.query_row("SELECT coalesce((SELECT max(id) FROM chunk) - (SELECT min(id) FROM chunk) + 1, 0)", [], |row| {
            row.get(0)
        })?;
    let (pages, free, size) = pages(connection)?;
    let bytes = pages.saturating_sub(free).saturating_mul(size);
    Ok(vec![FormSize { form: Form::Chunk, rows: rows.unsigned_abs(), bytes: bytes.unsigned_abs() }])
}

fn pages(connection: &Connection) -> Result<(i64, i64, i64)> {
    let ask = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0));
    Ok((ask("page_count")?, ask("freelist_count")?, ask("page_size")?))
}

#[async_trait]
impl Maintenance for Maintained {
    async fn days(&mut self, scope: &Scope) -> store::Result<Vec<DayState>> {
        let until = scope.until;
        let (to_do, newest, bytes) = self.connections.read(move |connection| look(connection, until)).await?;
        self.to_do = to_do;
        let day = |day: &Day| DayState { day: *day, finished: false, arrived: newest, bytes };
        Ok(self.to_do.keys().map(day).collect())
    }

    async fn plan(&mut self, day: &DayState, _: &Scope) -> store::Result<DayPlan> {
        let (from, before) = (day.begins(), TimeMs::from_millis((day.day + 1) * DAY_MS));
        let gpus = self.to_do.remove(&day.day).unwrap_or_default();
        let count = gpus.len() as u64;
        let rewrite =
            |(gpu, (rows, samples))| Rewrite { owner: Owner::Gpu(gpu), joins: true, from, before, ids: None, rows, samples };
        let batches = gpus.into_iter().map(rewrite).map(|rewrite| Batch { rewrites: vec![rewrite] }).collect();
        Ok(DayPlan { batches, gpus: count, again: false })
    }

    async fn rewrite(&mut self, _: &DayState, batch: &Batch, scope: &Scope) -> store::Result<Packed> {
        let (rewrites, scope, endpoint) = (batch.rewrites.clone(), *scope, self.connections.endpoint.clone());
        let work = move |writer: &mut super::connections::Writer| {
            writer.transaction(|transaction, _| {
                let mut all = Packed::default();
                for rewrite in &rewrites {
                    all.add(rewrite_gpu(transaction, rewrite, &scope, &endpoint)?);
                }
                Ok(all)
            })
        };
        self.connections.write(work).await
    }

    async fn finish(&mut self, _: &DayState, _: bool) -> store::Result<Vec<String>> {
        if self.urgent && self.to_do.is_empty() {
            self.connections.write(give_back).await?;
        }
        Ok(Vec::new())
    }

    async fn bytes(&mut self, _: &DayState) -> store::Result<u64> {
        let sizes = self.connections.read(form_sizes).await?;
        Ok(sizes.iter().map(|size| size.bytes).sum())
    }

    async fn clock(&mut self) -> store::Result<Option<TimeMs>> {
        Ok(None)
    }

    async fn held(&mut self, floor: Option<TimeMs>) -> store::Result<Vec<HeldDay>> {
        let Some(floor) = floor else { return Ok(Vec::new()) };
        self.connections.read(move |connection| held(connection, floor)).await
    }

    async fn raise_floor(&mut self, floor: TimeMs) -> store::Result<()> {
        let raise = move |writer: &mut super::connections::Writer| {
            writer.transaction(|transaction, _| {
                transaction.execute("UPDATE store SET floor_ms = ?1 WHERE floor_ms IS NULL OR floor_ms < ?1", [floor])?;
                transaction.execute("DELETE FROM conflict WHERE t_max < ?1", [floor])?;
                Ok(())
            })
        };
        self.connections.write(raise).await
    }

    async fn drop_day(&mut self, day: &HeldDay) -> store::Result<Option<String>> {
        let (from, before) = (TimeMs::from_millis(day.day * DAY_MS), TimeMs::from_millis((day.day + 1) * DAY_MS));
        // By series, so that the index leads to them.
        let delete = move |writer: &mut super::connections::Writer| {
            writer.transaction(|transaction, _| {
                let sql = "DELETE FROM chunk WHERE series_id IN (SELECT id FROM series) AND t_max >= ?1 AND t_max < ?2";
                transaction.execute(sql, params![from, before])?;
                Ok(())
            })
        };
        self.connections.write(delete).await?;
        if self.urgent {
            self.connections.write(give_back).await?;
        }
        Ok(None)
    }

    async fn is_wanted(&mut self) -> store::Result<bool> {
        Ok(false)
    }
}

/// Gives unused space of the file back, where there is much.
fn give_back(writer: &mut super::connections::Writer) -> Result<()> {
    let (pages, free, _) = pages(&writer.connection)?;
    if free > pages / WORTH_A_VACUUM {
        writer.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")?;
    }
    Ok(())
}

/// The days before the floor that have chunks.
fn held(connection: &Connection, floor: TimeMs) -> Result<Vec<HeldDay>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT t_min / {DAY_MS}, sum(length(data)) FROM chunk WHERE t_min < ?1 GROUP BY t_min / {DAY_MS}"
    ))?;
    let day = |row: &rusqlite::Row<'_>| {
        let bytes: i64 = row.get(1)?;
        Ok(HeldDay { detail: Detail::Raw, day: row.get(0)?, bytes: bytes.unsigned_abs(), begun: false })
    };
    Ok(statement.query_map([floor], day)?.collect::<rusqlite::Result<_>>()?)
}

/// What there is to do before the bound, the greatest id of a chunk, and the bytes in use.
fn look(connection: &Connection, until: TimeMs) -> Result<(ToDo, i64, u64)> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT c.day, s.gpu_id, sum(c.chunks), sum(c.n) \
           FROM (SELECT t_min / {DAY_MS} AS day, series_id, count(*) AS chunks, sum(n) AS n FROM chunk WHERE t_min < ?1 \
                  GROUP BY day, series_id HAVING count(*) > (sum(n) + {}) / {MAX_SAMPLES}) c \
           JOIN series s ON s.id = c.series_id GROUP BY c.day, s.gpu_id",
        MAX_SAMPLES - 1
    ))?;
    let mut to_do = ToDo::new();
    let mut rows = statement.query([until])?;
    while let Some(row) = rows.next()? {
        let (chunks, samples): (i64, i64) = (row.get(2)?, row.get(3)?);
        to_do.entry(row.get(0)?).or_default().insert(row.get(1)?, (chunks.unsigned_abs(), samples.unsigned_abs()));
    }
    let newest = connection.query_row("SELECT coalesce(max(id), 0) FROM chunk", [], |row| row.get(0))?;
    let bytes = form_sizes(connection)?.iter().map(|size| size.bytes).sum();
    Ok((to_do, newest, bytes))
}

/// What a chunk says of itself.
#[derive(Clone, Copy)]
struct Head {
    id: i64,
    begins: TimeMs,
    ends: TimeMs,
    samples: u64,
}

fn rewrite_gpu(connection: &Connection, rewrite: &Rewrite, scope: &Scope, endpoint: &str) -> Result<Packed> {
    let Owner::Gpu(gpu) = rewrite.owner else { return Ok(Packed::default()) };
    let mut statement = connection.prepare_cached("SELECT id FROM series WHERE gpu_id = ?1 ORDER BY id")?;
    let series: Vec<SeriesId> = statement.query_map([gpu], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut all = Packed::default();
    for series in series {
        for part in parts(heads(connection, series, rewrite, scope.until)?, scope.max_samples) {
            match merge(connection, series, &part) {
                Ok(done) => all.add(done),
                // Named, and left as it is.
                Err(SqliteError::Damaged(damaged)) => all.damaged.push(damaged.explain(endpoint)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

/// The chunks of a series that begin before the bound, and those that hang together with them, by time.
fn heads(connection: &Connection, series: SeriesId, rewrite: &Rewrite, until: TimeMs) -> Result<Vec<Head>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, t_min, t_max, n FROM chunk WHERE series_id = ?1 AND t_max >= ?2 AND t_min >= ?2 AND t_min < ?3 ORDER BY t_min, id",
    )?;
    let mut rows = statement.query(params![series, rewrite.from, rewrite.before])?;
    let (mut heads, mut bound) = (Vec::new(), until);
    while let Some(row) = rows.next()? {
        let samples: i64 = row.get(3)?;
        let head = Head { id: row.get(0)?, begins: row.get(1)?, ends: row.get(2)?, samples: samples.unsigned_abs() };
        if head.begins >= bound {
            break;
        }
        bound = bound.max(head.ends.plus_millis(1));
        heads.push(head);
    }
    Ok(heads)
}

/// Parts of at most so many samples, in the order of ids.
fn parts(mut heads: Vec<Head>, max_samples: u64) -> Vec<Vec<Head>> {
    heads.sort_by_key(|head| head.id);
    let (mut parts, mut samples) = (Vec::<Vec<Head>>::new(), 0);
    for head in heads {
        samples += head.samples;
        match parts.last_mut() {
            Some(part) if samples <= max_samples => part.push(head),
            _ => {
                samples = head.samples;
                parts.push(vec![head]);
            }
        }
    }
    parts
}

/// Makes full chunks of these, which are in the order of their ids, unless they are.
fn merge(connection: &Connection, series: SeriesId, heads: &[Head]) -> Result<Packed> {
    let stated: u64 = heads.iter().map(|head| head.samples).sum();
    if heads.len() as u64 <= stated.div_ceil(MAX_SAMPLES as u64) {
        return Ok(Packed::default());
    }
    let mut select = connection.prepare_cached(&format!("SELECT {} FROM chunk WHERE id = ?1", chunk::COLUMNS))?;
    let mut decoder = Decoder::default();
    let mut samples: Vec<(TimeMs, f64)> = Vec::new();
    for head in heads {
        let mut rows = select.query([head.id])?;
        let Some(row) = rows.next()? else { continue };
        let chunk = decoder.decode(row)?;
        samples.extend(chunk.times.into_iter().zip(chunk.values));
    }
    samples.sort_by_key(|(time, _)| *time);
    let (times, values): (Vec<TimeMs>, Vec<f64>) = samples.into_iter().unzip();
    let full: Vec<(&[TimeMs], &[f64])> = times.chunks(MAX_SAMPLES).zip(values.chunks(MAX_SAMPLES)).collect();
    let mut delete = connection.prepare_cached("DELETE FROM chunk WHERE id = ?1")?;
    for head in heads {
        delete.execute([head.id])?;
    }
    // The greatest ids, so that what was committed in between and since stays in its order.
    let ids = &heads[heads.len() - full.len()..];
    for (head, (times, values)) in ids.iter().zip(&full) {
        chunk::insert_as(connection, head.id, &NewChunk { series, times, values, step: step_of(times) })?;
    }
    Ok(Packed {
        samples: times.len() as u64,
        rows_before: heads.len() as u64,
        rows_after: full.len() as u64,
        ..Packed::default()
    })
}
