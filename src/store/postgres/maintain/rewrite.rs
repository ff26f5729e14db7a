//! The transaction that puts packed rows in the place of others.
//!
//! Locks, in this order: the partitions (which a user may have locked: nothing else is held while that is waited for), then the blocks of
//! the GPUs, by id. With a block's lock nobody commits samples of its GPUs that could meet what is rewritten. What is read is deleted in the same statement,
//! so what is packed is exactly what goes away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::super::error::{PostgresError, Result};
use super::super::pool::Session;
use super::super::{blocks, chunk, copy, packed, partitions, slab};
use super::look::{Tables, gpus_of};
use super::merge::Merge;
use super::rollup::{self, Rolling};
use super::series_of;
use super::verify::{Broken, columns, is_damage, one_by_one};
use crate::model::{BlockId, GpuId, SeriesId, TimeMs};
use crate::store::StoreError;
use crate::store::chunk::Day;
use crate::store::maintenance::{Form, Owner, Packed, Rewrite};
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

/// What was taken out of a span.
struct Taken {
    /// The samples, by GPU.
    merges: BTreeMap<GpuId, Merge>,
    /// The greatest id of a GPU's chunks and packed rows.
    ids: BTreeMap<GpuId, i64>,
    rows: u64,
    /// How many more samples may be taken.
    room: u64,
}

impl Taken {
    fn note(&mut self, gpu: GpuId, id: i64) {
        let greatest = self.ids.entry(gpu).or_insert(id);
        *greatest = (*greatest).max(id);
    }
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
        let (first, owners) = (&self.rewrites[0], self.rewrites.len());
        let of = match first.owner {
            Owner::Gpu(gpu) if owners == 1 => format!("GPU {gpu}"),
            Owner::Block(block) if owners == 1 => format!("the GPUs of block {block}"),
            _ => format!("{} GPUs", self.gpus().len()),
        };
        format!(
            "PostgreSQL at {}: {of} from {} to {} were left for later: another transaction has locked {} or their rows in the table gpu_block \
             (pg_locks shows which)",
            session.endpoint,
            first.from,
            first.before,
            partitions::name_of(self.day)
        )
    }

    fn gpus(&self) -> Vec<GpuId> {
        self.rewrites.iter().flat_map(|rewrite| gpus_of(rewrite.owner)).collect()
    }

    /// The blocks whose slabs are rewritten, and the GPUs without slabs.
    fn owners(&self) -> (Vec<BlockId>, Vec<GpuId>) {
        let (mut blocks, mut gpus) = (Vec::new(), Vec::new());
        for rewrite in self.rewrites {
            match rewrite.owner {
                Owner::Block(block) => blocks.push(block),
                Owner::Gpu(gpu) => gpus.push(gpu),
            }
        }
        (blocks, gpus)
    }

    async fn attempt(&self, session: &Session) -> Result<Attempt> {
        let tables = Tables::of(session, self.day).await?;
        let rollups = rollup::partitions_of(session, self.day).await?;
        let locked: Vec<String> = std::iter::once(tables.list()).chain(rollups.iter().map(|(_, name)| name.clone())).collect();
        // The rows are found by their index, whatever the statistics of a table say that was filled and emptied an hour ago.
        session
            .batch(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '{}ms'; SET LOCAL enable_seqscan = off; \
                 LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE",
                self.lock_timeout_ms,
                locked.join(", ONLY ")
            ))
            .await?;
        let blocks: BTreeSet<BlockId> = self.rewrites.iter().map(|rewrite| rewrite.owner.block()).collect();
        session.query(blocks::LOCK, &[&Vec::from_iter(blocks)]).await?;
        let of: HashMap<SeriesId, GpuId> = series_of(session, &self.gpus()).await?;
        let room = self.rewrites.iter().map(|rewrite| rewrite.samples).sum::<u64>().max(self.max_samples) * MAY_HAVE_COME;
        let mut taken = Taken { merges: BTreeMap::new(), ids: BTreeMap::new(), rows: 0, room };
        let fits = self.take_slabs(session, &tables, &of, &mut taken).await?
            && self.take_chunks(session, &tables, &of, &mut taken).await?
            && self.take_packed(session, &tables, &mut taken).await?
            && self.has_no_slab_between(session, &tables, &taken).await?;
        if !fits {
            session.batch("ROLLBACK").await?;
            return Ok(Attempt::Moved);
        }
        // Around damaged rows: without a sound chunk or slab there is nothing to pack.
        if !self.without.is_empty() && taken.merges.values().all(|merge| !merge.has_unpacked) {
            session.batch("ROLLBACK").await?;
            return Ok(Attempt::Done(Packed::default()));
        }
        let is_whole = self.without.is_empty() && self.rewrites.iter().all(|rewrite| rewrite.ids.is_none());
        let gpus: Vec<GpuId> = taken.merges.keys().copied().collect();
        let rolling = Rolling::new(session, rollups, &gpus, self.day, self.span(), is_whole).await?;
        let done = self.put(session, &packed::partition_of(self.day), taken, rolling).await?;
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

    /// Deletes rows that overlap with the span; `each` is given them one by one, and says whether they fit. `false`: one did not.
    async fn take(
        &self,
        session: &Session,
        (form, table): (Form, &str),
        (key, keys): (&str, &(dyn ToSql + Sync)),
        mut each: impl FnMut(&Row) -> Result<bool>,
    ) -> Result<bool> {
        let (from, before) = self.span();
        let sql = format!(
            "DELETE FROM ONLY {table} WHERE {key} = ANY($1) AND t_max >= $2 AND t_min < $3{} RETURNING {}",
            self.ids(form),
            columns(form)
        );
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(keys, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, params)).await?);
        let mut fits = true;
        while let Some(row) = session.within(rows.try_next()).await? {
            // Once it does not fit, the rest is only read to its end.
            fits = fits && each(&row)?;
        }
        Ok(fits)
    }

    /// Takes the slabs that overlap with the span; `false`: one crosses its borders, or there are too many.
    async fn take_slabs(
        &self,
        session: &Session,
        tables: &Tables,
        of: &HashMap<SeriesId, GpuId>,
        taken: &mut Taken,
    ) -> Result<bool> {
        let (blocks, _) = self.owners();
        let Some(table) = tables.slabs.as_ref().filter(|_| !blocks.is_empty()) else { return Ok(true) };
        let each = |row: &Row| {
            let slab = slab::decode(session, row)?;
            taken.rows += 1;
            let fits = self.is_within(slab.t_min, slab.t_max, slab.values.len(), taken);
            for chunk in slab.chunks(|_| true) {
                let Some(gpu) = of.get(&chunk.series) else {
                    return Err(slab::damaged(session, row, &format!("its series {} is none of the block", chunk.series)));
                };
                let merge = taken.merges.entry(*gpu).or_default();
                merge.has_unpacked = true;
                merge.add([chunk]);
            }
            Ok(fits)
        };
        self.take(session, (Form::Slab, table), ("block_id", &blocks), each).await
    }

    /// Takes the chunks likewise.
    async fn take_chunks(
        &self,
        session: &Session,
        tables: &Tables,
        of: &HashMap<SeriesId, GpuId>,
        taken: &mut Taken,
    ) -> Result<bool> {
        let Some(table) = &tables.chunks else { return Ok(true) };
        let series: Vec<SeriesId> = of.keys().copied().collect();
        let each = |row: &Row| {
            let chunk = chunk::decode(session, row)?;
            taken.rows += 1;
            let (Some(first), Some(last)) = (chunk.times.first(), chunk.times.last()) else { return Ok(true) };
            let fits = self.is_within(*first, *last, chunk.times.len(), taken);
            if let Some(gpu) = of.get(&chunk.series) {
                taken.note(*gpu, chunk.id);
                let merge = taken.merges.entry(*gpu).or_default();
                merge.has_unpacked = true;
                merge.add([chunk]);
            }
            Ok(fits)
        };
        self.take(session, (Form::Chunk, table), ("series_id", &series), each).await
    }

    /// Takes the packed rows likewise: those that are to be joined, and of other GPUs where they have something new.
    async fn take_packed(&self, session: &Session, tables: &Tables, taken: &mut Taken) -> Result<bool> {
        let Some(table) = &tables.packed else { return Ok(true) };
        let joined = self.rewrites.iter().filter(|rewrite| rewrite.joins).flat_map(|rewrite| gpus_of(rewrite.owner));
        let mut gpus: Vec<GpuId> = joined.chain(taken.merges.keys().copied()).collect();
        gpus.sort_unstable();
        gpus.dedup();
        let each = |row: &Row| {
            let read = packed::read(session, row)?;
            let damaged = |what| packed::damaged(session, row, what);
            let rectangle = Rectangle::from_row(&read).map_err(damaged)?;
            taken.rows += 1;
            let fits = self.is_within(read.t_min, read.t_max, rectangle.samples(), taken);
            taken.note(read.gpu, read.id);
            taken.merges.entry(read.gpu).or_default().add(rectangle.chunks(|_| true).map_err(damaged)?);
            Ok(fits)
        };
        self.take(session, (Form::Packed, table), ("gpu_id", &gpus), each).await
    }

    /// Whether no slab that was not taken has its place among the rows of GPUs that were: one may have come since this was planned, and
    /// others after it.
    async fn has_no_slab_between(&self, session: &Session, tables: &Tables, taken: &Taken) -> Result<bool> {
        let (_, gpus) = self.owners();
        let Some(table) = tables.slabs.as_ref().filter(|_| !gpus.is_empty()) else { return Ok(true) };
        let mut greatest: BTreeMap<BlockId, i64> = BTreeMap::new();
        for gpu in gpus {
            if let Some(id) = taken.ids.get(&gpu) {
                let of_block = greatest.entry(BlockId::of(gpu)).or_insert(*id);
                *of_block = (*of_block).max(*id);
            }
        }
        let (blocks, ids): (Vec<BlockId>, Vec<i64>) = greatest.into_iter().unzip();
        let (from, before) = self.span();
        let sql = format!(
            "SELECT FROM unnest($1::bigint[], $2::bigint[]) AS w (block, id) JOIN ONLY {table} l ON l.block_id = w.block AND l.id < w.id \
              WHERE l.t_max >= $3 AND l.t_min < $4 LIMIT 1"
        );
        let params: [(&(dyn ToSql + Sync), Type); 4] =
            [(&blocks, Type::INT8_ARRAY), (&ids, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
        Ok(session.query_unprepared(&sql, &params).await?.is_empty())
    }

    /// Whether samples that were read are within the span, and there is room for them.
    fn is_within(&self, first: TimeMs, last: TimeMs, samples: usize, taken: &mut Taken) -> bool {
        let (from, before) = self.span();
        taken.room = taken.room.saturating_sub(samples as u64);
        taken.room > 0 && first >= from && last < before
    }

    /// Packs what was taken, writes it, and counts it on the server.
    async fn put(&self, session: &Session, table: &str, taken: Taken, mut rolling: Rolling) -> Result<Packed> {
        let damaged: Vec<i64> = {
            let mut ids: Vec<i64> = self.without.iter().map(|broken| broken.id).collect();
            ids.sort_unstable();
            ids
        };
        let mut rectangles: Vec<Rectangle> = Vec::new();
        let mut done = Packed { rows_before: taken.rows, ..Packed::default() };
        let mut samples: BTreeMap<GpuId, u64> = BTreeMap::new();
        for (gpu, merge) in taken.merges {
            done.samples += merge.samples;
            samples.insert(gpu, merge.samples);
            let mut seen = |all: &[Samples]| rolling.roll(gpu, all);
            rectangles.extend(merge.pack(gpu, &damaged, &mut seen).map_err(|what| self.refused(session, gpu, &what))?);
            // Packing takes a while, and others wait for this thread.
            tokio::task::yield_now().await;
        }
        done.rows_after = rectangles.len() as u64;
        copy::rectangles(session, &rectangles).await?;
        let mut put: BTreeMap<GpuId, u64> = BTreeMap::new();
        let gpus: Vec<GpuId> = samples.keys().copied().collect();
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
        if let Some((gpu, samples)) = samples.iter().find(|(gpu, samples)| put.get(gpu) != Some(samples)) {
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
        let owner = self.rewrites[0].owner;
        let (gpus, blocks) = (gpus_of(owner), [owner.block()]);
        let (from, before) = self.span();
        let series: Vec<SeriesId> = series_of(session, &gpus).await?.into_keys().collect();
        let (series, gpus, blocks) = (series.as_slice(), gpus.as_slice(), blocks.as_slice());
        let tables = Tables::of(session, self.day).await?;
        let mut broken = Vec::new();
        for form in [Form::Chunk, Form::Slab, Form::Packed] {
            let (key, keys): (&str, &(dyn ToSql + Sync)) = match form {
                Form::Chunk => ("series_id", &series),
                Form::Slab if matches!(owner, Owner::Gpu(_)) => continue,
                Form::Slab => ("block_id", &blocks),
                Form::Packed => ("gpu_id", &gpus),
            };
            let Some(table) = tables.get(form) else { continue };
            let condition = format!("{key} = ANY($1) AND t_max >= $2 AND t_min < $3{}", self.ids(form));
            let params =
                [(keys, Type::INT8_ARRAY), (&from as &(dyn ToSql + Sync), Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
            broken.extend(one_by_one(session, form, table, &condition, &params, &mut |_| {}).await?);
        }
        Ok(broken)
    }
}
