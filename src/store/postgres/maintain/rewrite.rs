//! The transaction that puts packed rows in the place of others.
//!
//! Locks, in this order: the partitions (which a user may have locked: nothing else is held while that is waited for), then the GPUs, by
//! id. With a GPU's lock nobody commits samples of it that could meet what is rewritten. What is read is deleted in the same statement,
//! so what is packed is exactly what goes away.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::super::error::{PostgresError, Result};
use super::super::pool::Session;
use super::super::{chunk, copy, packed, partitions};
use super::merge::Merge;
use super::rollup::{self, Rolling};
use super::verify::{Broken, is_damage, one_by_one};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::StoreError;
use crate::store::chunk::Day;
use crate::store::maintenance::{Form, Packed, Rewrite};
use crate::store::packed::{Rectangle, Samples};

/// Attempts at a transaction that loses against another one.
const ATTEMPTS: u32 = 4;
/// Samples that may have come since the rewrite was planned, as a part of how many one rewrite may have.
const MAY_HAVE_COME: u64 = 2;

/// How one attempt ended.
enum Attempt {
    Done(Packed),
    /// Rows cross the borders of the span, or there are more of them, since it was planned. Nothing was changed.
    Moved,
    /// A row cannot be read. Nothing was changed.
    Damaged,
}

/// Rewrites of one span, and the rows of it that cannot be read.
struct Work<'a> {
    day: Day,
    rewrites: &'a [Rewrite],
    /// Damaged rows that stay as they are.
    without: Vec<Broken>,
    max_samples: u64,
    lock_timeout_ms: u32,
}

/// Carries out rewrites of one span in one transaction.
pub(super) async fn rewrite(
    session: &Session,
    day: Day,
    rewrites: &[Rewrite],
    max_samples: u64,
    lock_timeout_ms: u32,
) -> Result<Packed> {
    let work = Work { day, rewrites, without: Vec::new(), max_samples, lock_timeout_ms };
    match work.carry_out(session).await? {
        Attempt::Done(done) => Ok(done),
        Attempt::Moved => Ok(Packed { again: true, ..Packed::default() }),
        Attempt::Damaged => {
            let mut all = Packed::default();
            for rewrite in rewrites {
                all.add(around_damage(session, day, rewrite, max_samples, lock_timeout_ms).await?);
            }
            Ok(all)
        }
    }
}

/// Carries out one rewrite without the rows that are damaged.
async fn around_damage(session: &Session, day: Day, rewrite: &Rewrite, max_samples: u64, lock_timeout_ms: u32) -> Result<Packed> {
    let mut work = Work { day, rewrites: std::slice::from_ref(rewrite), without: Vec::new(), max_samples, lock_timeout_ms };
    work.without = work.find_damaged(session).await?;
    let damaged: Vec<String> = work.without.iter().map(|broken| broken.what.clone()).collect();
    let done = match work.carry_out(session).await? {
        Attempt::Done(done) => done,
        Attempt::Moved | Attempt::Damaged => Packed { again: true, ..Packed::default() },
    };
    Ok(Packed { damaged, ..done })
}

impl Work<'_> {
    /// The attempt; again where it loses against another transaction. Whoever has locked what is needed delays only this.
    async fn carry_out(&self, session: &Session) -> Result<Attempt> {
        let mut attempt = 1;
        loop {
            let failed = match self.attempt(session).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            // A connection that is gone says so in the first error.
            if session.batch("ROLLBACK").await.is_err() {
                return Err(failed);
            }
            match &failed.state {
                Some(state) if *state == SqlState::LOCK_NOT_AVAILABLE => {
                    let delayed = vec![self.delayed(session)];
                    return Ok(Attempt::Done(Packed { delayed, ..Packed::default() }));
                }
                Some(state) if is_damage(state) => return Ok(Attempt::Damaged),
                _ if matches!(failed.error, StoreError::DamagedChunk(_)) => return Ok(Attempt::Damaged),
                _ if failed.is_worth_a_retry() && attempt < ATTEMPTS => attempt += 1,
                _ => return Err(failed),
            }
        }
    }

    fn delayed(&self, session: &Session) -> String {
        let (first, gpus) = (&self.rewrites[0], self.rewrites.len());
        let of = if gpus == 1 { format!("GPU {}", first.gpu) } else { format!("{gpus} GPUs") };
        format!(
            "PostgreSQL at {}: {of} from {} to {} were left for later: another transaction has locked {} or their rows in the table gpu \
             (pg_locks shows which)",
            session.endpoint,
            first.from,
            first.before,
            partitions::name_of(self.day)
        )
    }

    async fn attempt(&self, session: &Session) -> Result<Attempt> {
        let (chunks, packed): (String, String) = (partitions::name_of(self.day), packed::partition_of(self.day));
        let has_chunks = !session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&chunks]).await?.is_empty();
        let mut gpus: Vec<GpuId> = self.rewrites.iter().map(|rewrite| rewrite.gpu).collect();
        gpus.sort_unstable();
        let mut all = vec![packed.as_str()];
        all.extend(has_chunks.then_some(chunks.as_str()));
        let rollups = rollup::partitions_of(session, self.day).await?;
        all.extend(rollups.iter().map(|(_, name)| name.as_str()));
        // The rows are found by their index, whatever the statistics of a table say that was filled and emptied an hour ago.
        session
            .batch(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '{}ms'; SET LOCAL enable_seqscan = off; \
                 LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE",
                self.lock_timeout_ms,
                all.join(", ONLY ")
            ))
            .await?;
        session.query("SELECT FROM gpu WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", &[&gpus]).await?;
        let of: HashMap<SeriesId, GpuId> = series_of(session, &gpus).await?;
        let mut merges: BTreeMap<GpuId, Merge> = BTreeMap::new();
        let mut room = self.rewrites.iter().map(|rewrite| rewrite.samples).sum::<u64>().max(self.max_samples) * MAY_HAVE_COME;
        let fits = (!has_chunks || self.take_chunks(session, &chunks, &of, &mut merges, &mut room).await?)
            && self.take_packed(session, &packed, &gpus, &mut merges, &mut room).await?;
        if !fits {
            session.batch("ROLLBACK").await?;
            return Ok(Attempt::Moved);
        }
        // Around damaged rows: without a sound chunk there is nothing to pack.
        if !self.without.is_empty() && merges.values().all(|merge| merge.chunks == 0) {
            session.batch("ROLLBACK").await?;
            return Ok(Attempt::Done(Packed::default()));
        }
        let is_whole = self.without.is_empty() && self.rewrites.iter().all(|rewrite| rewrite.ids.is_none());
        let rolling = Rolling::new(session, rollups, &gpus, self.day, self.span(), is_whole).await?;
        let done = self.put(session, &packed, merges, rolling).await?;
        session.batch("COMMIT").await?;
        Ok(Attempt::Done(done))
    }

    /// The condition on the ids of rows: those of the part, without damaged ones.
    fn ids(&self, form: Form) -> String {
        let mut condition = String::new();
        if let [Rewrite { ids: Some((from, to)), .. }] = self.rewrites {
            condition.push_str(&format!(" AND id BETWEEN {from} AND {to}"));
        }
        let without: Vec<String> =
            self.without.iter().filter(|broken| broken.form == form).map(|broken| broken.id.to_string()).collect();
        if !without.is_empty() {
            condition.push_str(&format!(" AND id NOT IN ({})", without.join(", ")));
        }
        condition
    }

    fn span(&self) -> (TimeMs, TimeMs) {
        (self.rewrites[0].from, self.rewrites[0].before)
    }

    /// Takes the chunks that overlap with the span; `false`: one crosses its borders, or there are too many.
    async fn take_chunks(
        &self,
        session: &Session,
        table: &str,
        of: &HashMap<SeriesId, GpuId>,
        merges: &mut BTreeMap<GpuId, Merge>,
        room: &mut u64,
    ) -> Result<bool> {
        let series: Vec<SeriesId> = of.keys().copied().collect();
        let (from, before) = self.span();
        let sql = format!(
            "DELETE FROM ONLY {table} WHERE series_id = ANY($1) AND t_max >= $2 AND t_min < $3{} RETURNING {}",
            self.ids(Form::Chunk),
            chunk::COLUMNS
        );
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(&series, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, params)).await?);
        let mut fits = true;
        while let Some(row) = session.within(rows.try_next()).await? {
            // Once it does not fit, the rest is only read to its end.
            if !fits {
                continue;
            }
            let chunk = chunk::decode(session, &row)?;
            fits = self.is_within(&chunk.times, chunk.times.len(), room);
            if let Some(gpu) = of.get(&chunk.series) {
                let merge = merges.entry(*gpu).or_default();
                merge.chunks += 1;
                merge.add([chunk]);
            }
        }
        Ok(fits)
    }

    /// Takes the packed rows likewise.
    async fn take_packed(
        &self,
        session: &Session,
        table: &str,
        gpus: &[GpuId],
        merges: &mut BTreeMap<GpuId, Merge>,
        room: &mut u64,
    ) -> Result<bool> {
        let (from, before) = self.span();
        let sql = format!(
            "DELETE FROM ONLY {table} WHERE gpu_id = ANY($1) AND t_max >= $2 AND t_min < $3{} RETURNING {}",
            self.ids(Form::Packed),
            packed::COLUMNS
        );
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(&gpus, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, params)).await?);
        let mut fits = true;
        while let Some(row) = session.within(rows.try_next()).await? {
            if !fits {
                continue;
            }
            let rectangle = packed::decode(session, &row)?;
            fits = self.is_within(&rectangle.times, rectangle.samples(), room);
            let chunks = rectangle.chunks(|_| true).map_err(|what| packed::damaged(session, &row, what))?;
            merges.entry(rectangle.gpu).or_default().add(chunks);
        }
        Ok(fits)
    }

    fn is_within(&self, times: &[TimeMs], samples: usize, room: &mut u64) -> bool {
        let (from, before) = self.span();
        *room = room.saturating_sub(samples as u64);
        *room > 0 && times.first().is_some_and(|first| *first >= from) && times.last().is_some_and(|last| *last < before)
    }

    /// Packs what was taken, writes it, and counts it on the server.
    async fn put(&self, session: &Session, table: &str, merges: BTreeMap<GpuId, Merge>, mut rolling: Rolling) -> Result<Packed> {
        let damaged: Vec<i64> = {
            let mut ids: Vec<i64> = self.without.iter().map(|broken| broken.id).collect();
            ids.sort_unstable();
            ids
        };
        let (mut rectangles, mut done): (Vec<Rectangle>, Packed) = (Vec::new(), Packed::default());
        let mut taken: BTreeMap<GpuId, u64> = BTreeMap::new();
        for (gpu, merge) in merges {
            done.samples += merge.samples;
            done.rows_before += merge.rows;
            taken.insert(gpu, merge.samples);
            let mut seen = |all: &[Samples]| rolling.roll(gpu, all);
            rectangles.extend(merge.pack(gpu, &damaged, &mut seen).map_err(|what| self.refused(session, gpu, &what))?);
            // Packing takes a while, and others wait for this thread.
            tokio::task::yield_now().await;
        }
        done.rows_after = rectangles.len() as u64;
        copy::rectangles(session, &rectangles).await?;
        let mut put: BTreeMap<GpuId, u64> = BTreeMap::new();
        let gpus: Vec<GpuId> = taken.keys().copied().collect();
        let (from, before) = self.span();
        let sql = format!(
            "SELECT gpu_id, sum(n::bigint * k)::bigint FROM ONLY {table} WHERE gpu_id = ANY($1) AND t_max >= $2 AND t_min < $3{} GROUP BY gpu_id",
            self.ids(Form::Packed)
        );
        for row in session
            .query_unprepared(&sql, &[(&gpus, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)])
            .await?
        {
            put.insert(row.get(0), row.get::<_, i64>(1).unsigned_abs());
        }
        if let Some((gpu, samples)) = taken.iter().find(|(gpu, samples)| put.get(gpu) != Some(samples)) {
            let put = put.get(gpu).copied().unwrap_or_default();
            return Err(self.refused(
                session,
                *gpu,
                &format!("{samples} samples were taken, and {put} are there: nothing was changed"),
            ));
        }
        rolling.put(session).await?;
        Ok(done)
    }

    fn refused(&self, session: &Session, gpu: GpuId, what: &str) -> PostgresError {
        let (from, before) = self.span();
        let reason = format!(
            "GPU {gpu} from {from} to {before} cannot be packed: {what}. Report this, and set store.maintenance = \"off\" until it is mended"
        );
        StoreError::Refused { endpoint: format!("PostgreSQL at {}", session.endpoint), reason }.into()
    }

    /// Reads each row of the only rewrite by itself.
    async fn find_damaged(&self, session: &Session) -> Result<Vec<Broken>> {
        let gpus = [self.rewrites[0].gpu];
        let (from, before) = self.span();
        let series: Vec<SeriesId> = series_of(session, &gpus).await?.into_keys().collect();
        let (series, gpus) = (series.as_slice(), gpus.as_slice());
        let mut broken = Vec::new();
        for form in [Form::Chunk, Form::Packed] {
            let (table, key, keys): (String, &str, &(dyn ToSql + Sync)) = match form {
                Form::Chunk => (partitions::name_of(self.day), "series_id", &series),
                Form::Packed => (packed::partition_of(self.day), "gpu_id", &gpus),
            };
            if session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&table]).await?.is_empty() {
                continue;
            }
            let condition = format!("{key} = ANY($1) AND t_max >= $2 AND t_min < $3{}", self.ids(form));
            let params =
                [(keys, Type::INT8_ARRAY), (&from as &(dyn ToSql + Sync), Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
            broken.extend(one_by_one(session, form, &table, &condition, &params, &mut |_| {}).await?);
        }
        Ok(broken)
    }
}

async fn series_of(session: &Session, gpus: &[GpuId]) -> Result<HashMap<SeriesId, GpuId>> {
    let rows = session.query("SELECT id, gpu_id FROM series WHERE gpu_id = ANY($1)", &[&gpus]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
