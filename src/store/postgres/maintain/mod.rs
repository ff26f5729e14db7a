//! Maintenance: chunks of closed hours and days become packed rows.
//!
//! | file | what |
//! |---|---|
//! | `rewrite` | the transaction that puts packed rows in the place of others |
//! | `merge` | rows to rectangles, and the comparison of the two |
//! | `rollup` | rollups of what is rewritten, in the place of former ones |
//! | `verify` | reading rows to find those that are damaged |
//!
//! One connection, which holds the advisory lock: where it is lost, so is the lock, and whatever was being rewritten is as it was. What is
//! done with a day when it is over is noted as a comment on its partition of `sample_packed` ([`FINISHED`]).

mod merge;
mod rewrite;
mod rollup;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::error::{PostgresError, Result};
use super::pool::Session;
use super::{PostgresStore, packed, partitions};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::chunk::Day;
use crate::store::maintenance::plan::{PlannedDay, Step, Stretch};
use crate::store::maintenance::{Batch, DayPlan, DayState, Form, FormSize, Maintenance, Packed, Rewrite, Scope, Verified};
use crate::store::{self};

/// Held by whoever maintains the store.
const TRY_LOCK: &str =
    "SELECT pg_try_advisory_lock(hashtextextended('telemetry maintenance ' || coalesce(current_schema(), ''), 0))";
/// Shared by whoever waits for it and should not have to wait for long.
const WANT: &str =
    "SELECT pg_advisory_lock_shared(hashtextextended('telemetry maintenance wanted ' || coalesce(current_schema(), ''), 0))";
const WANT_NO_MORE: &str =
    "SELECT pg_advisory_unlock_shared(hashtextextended('telemetry maintenance wanted ' || coalesce(current_schema(), ''), 0))";
/// Whether nobody shares that one: then it is had, and given back at once.
const IS_WANTED: &str = "SELECT NOT CASE WHEN pg_try_advisory_lock(k) THEN pg_advisory_unlock(k) ELSE false END \
     FROM (SELECT hashtextextended('telemetry maintenance wanted ' || coalesce(current_schema(), ''), 0)) AS w (k)";
/// How often it is tried to have it.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// How long a lock of rows or tables is waited for in the background: others wait meanwhile for what is held already.
const LOCK_TIMEOUT_MS: u32 = 300;
/// The same where somebody waits for the end.
const URGENT_LOCK_TIMEOUT_MS: u32 = 2000;
/// How long the building of an index waits for older transactions.
const INDEX_TIMEOUT: &str = "30s";
/// An index of an emptied partition that is larger is built anew.
const WORTH_A_REINDEX: i64 = 256 << 10;

/// GPUs of one transaction at most.
const GPUS_AT_ONCE: usize = 512;
/// Rows of one transaction at most, where it is of several GPUs.
const ROWS_AT_ONCE: u64 = 100_000;
/// Rows that are planned at once, one by one.
const ROWS_PLANNED_AT_ONCE: usize = 500_000;

/// The comment on a partition of `sample_packed` whose day was packed as a whole after its end.
const FINISHED: &str = "telemetry: packed after the end of the day";

/// The store under maintenance.
pub(super) struct Maintained {
    session: Session,
    lock_timeout_ms: u32,
    /// Whether it was made known that there are packed rows.
    announced: bool,
}

impl Maintained {
    /// Takes the lock; `None` where somebody else has it. Who is urgent waits, and is made way for.
    pub(super) async fn take(store: &PostgresStore, urgent: bool) -> Result<Option<Self>> {
        let session = store.connections.session().await?.without_time_limit();
        store.check_id(&session).await?;
        if urgent {
            session.query(WANT, &[]).await?;
        }
        while !session.query(TRY_LOCK, &[]).await?.iter().any(|row| row.get(0)) {
            if !urgent {
                session.done();
                return Ok(None);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        if urgent {
            session.query(WANT_NO_MORE, &[]).await?;
        }
        // The session ends with the maintenance. Reading a large day, or giving back its space, takes as long as it takes.
        let lock_timeout_ms = if urgent { URGENT_LOCK_TIMEOUT_MS } else { LOCK_TIMEOUT_MS };
        session.batch(&format!("SET statement_timeout = 0; SET lock_timeout = '{lock_timeout_ms}ms'")).await?;
        Ok(Some(Self { session, lock_timeout_ms, announced: false }))
    }

    /// The stretches of every GPU of a day that may have something to rewrite, by GPU.
    async fn steps(&self, planned: &PlannedDay) -> Result<Vec<Step>> {
        let (chunks, packed) = (partitions::name_of(planned.day), packed::partition_of(planned.day));
        let there = |table: String| async move {
            let found = self.session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&table]).await?;
            Ok::<_, PostgresError>((!found.is_empty()).then_some(table))
        };
        let (chunks, packed) = (there(chunks).await?, there(packed).await?);
        let mut selects = Vec::new();
        if let Some(chunks) = &chunks {
            selects.push(format!(
                "SELECT s.gpu_id, false, min(c.t_min), max(c.t_max), count(*), sum(greatest(c.n, 1))::bigint, 0::bigint, max(c.id) \
                   FROM ONLY {chunks} c JOIN series s ON s.id = c.series_id \
                  GROUP BY s.gpu_id, date_trunc('hour', c.t_min), date_trunc('hour', c.t_max)"
            ));
        }
        if let Some(packed) = &packed {
            // Of what is not joined any more, only what chunks may touch.
            let only = match &chunks {
                _ if planned.is_over() && !planned.finished => String::new(),
                Some(chunks) => {
                    format!("WHERE p.gpu_id IN (SELECT s.gpu_id FROM ONLY {chunks} c JOIN series s ON s.id = c.series_id)")
                }
                None => "WHERE false".to_owned(),
            };
            selects.push(format!(
                "SELECT p.gpu_id, true, min(p.t_min), max(p.t_max), count(*), sum(p.n::bigint * p.k)::bigint, \
                        count(*) FILTER (WHERE p.n < {} AND p.n::bigint * p.k < {}), max(p.id) \
                   FROM ONLY {packed} p {only} \
                  GROUP BY p.gpu_id, date_trunc('hour', p.t_min), date_trunc('hour', p.t_max)",
                store::packed::MAX_TIMES / 2,
                store::packed::MAX_SAMPLES / 2
            ));
        }
        if selects.is_empty() {
            return Ok(Vec::new());
        }
        let sql = selects.join(" UNION ALL ") + " ORDER BY 1";
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut rows = pin!(self.session.within(self.session.raw().query_typed_raw(&sql, none)).await?);
        let (mut steps, mut gpu, mut stretches) = (Vec::new(), GpuId::default(), Vec::new());
        while let Some(row) = self.session.within(rows.try_next()).await? {
            let next: GpuId = row.get(0);
            if next != gpu {
                steps.extend(planned.plan(gpu, &stretches));
                (gpu, stretches) = (next, Vec::new());
            }
            stretches.push(stretch(&row));
        }
        steps.extend(planned.plan(gpu, &stretches));
        Ok(steps)
    }

    /// The same with each row of a GPU's span by itself.
    async fn look_closer(&self, planned: &PlannedDay, gpu: GpuId, (from, before): (TimeMs, TimeMs)) -> Result<Vec<Rewrite>> {
        let (chunks, packed) = (partitions::name_of(planned.day), packed::partition_of(planned.day));
        packed::ensure_partition(&self.session, planned.day).await?;
        let series = self.session.query("SELECT id FROM series WHERE gpu_id = $1", &[&gpu]).await?;
        let series: Vec<SeriesId> = series.iter().map(|row| row.get(0)).collect();
        let sql = format!(
            "SELECT $1::bigint, false, t_min, t_max, 1::bigint, greatest(n, 1)::bigint, 0::bigint, id FROM ONLY {chunks} \
              WHERE series_id = ANY($2) AND t_max >= $3 AND t_min < $4 UNION ALL \
             SELECT gpu_id, true, t_min, t_max, 1, n::bigint * k, \
                    CASE WHEN n < {} AND n::bigint * k < {} THEN 1 ELSE 0 END, id FROM ONLY {packed} \
              WHERE gpu_id = $1 AND t_max >= $3 AND t_min < $4 ORDER BY 8 LIMIT {ROWS_PLANNED_AT_ONCE}",
            store::packed::MAX_TIMES / 2,
            store::packed::MAX_SAMPLES / 2
        );
        let params: [(&(dyn ToSql + Sync), Type); 4] =
            [(&gpu, Type::INT8), (&series, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)];
        let mut stretches: Vec<Stretch> = self.session.query_unprepared(&sql, &params).await?.iter().map(stretch).collect();
        if stretches.len() == ROWS_PLANNED_AT_ONCE
            && let Some(last) = stretches.last().map(|row| row.id)
        {
            // There are more, and those of this id may be among them: the next plan has them.
            stretches.retain(|row| row.id != last);
        }
        let steps = planned.plan(gpu, &stretches);
        Ok(steps.into_iter().filter_map(|step| if let Step::Rewrite(rewrite) = step { Some(rewrite) } else { None }).collect())
    }

    async fn vacuum(&self, table: &str, options: &str) -> Result<Option<String>> {
        match self.session.batch(&format!("VACUUM {options} {table}")).await {
            Ok(()) => Ok(None),
            Err(failed) => self.left(failed, table),
        }
    }

    /// What was not done with a table, in words, where the rest can go on.
    fn left(&self, failed: PostgresError, table: &str) -> Result<Option<String>> {
        let passes = |state: &SqlState| {
            [SqlState::LOCK_NOT_AVAILABLE, SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_TABLE].contains(state)
        };
        if failed.state.as_ref().is_some_and(passes) {
            tracing::debug!(table, error = %failed.error, "the space of packed rows is given back later");
            return Ok(None);
        }
        Err(failed)
    }

    /// Gives back the space of a partition that has no chunks any more.
    async fn give_back(&self, table: &str) -> Result<()> {
        self.vacuum(table, "").await?;
        let indexes = self
            .session
            .query_unprepared(
                &format!(
                    "SELECT i.relname::text, x.indisvalid, pg_relation_size(i.oid) > {WORTH_A_REINDEX} \
                       FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
                      WHERE x.indrelid = to_regclass('{table}') AND (NOT x.indisvalid OR pg_relation_size(i.oid) > {WORTH_A_REINDEX})"
                ),
                &[],
            )
            .await?;
        self.session.batch(&format!("SET lock_timeout = '{INDEX_TIMEOUT}'")).await?;
        for row in indexes {
            let (index, valid): (&str, bool) = (row.get(0), row.get(1));
            // One that is not valid is what an interrupted attempt left.
            let sql = if valid {
                format!("REINDEX INDEX CONCURRENTLY {index}")
            } else {
                format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")
            };
            if let Err(failed) = self.session.batch(&sql).await {
                self.left(failed, table)?;
            }
        }
        self.session.batch(&format!("SET lock_timeout = '{}ms'", self.lock_timeout_ms)).await
    }

    async fn finish_day(&self, day: &DayState, complete: bool) -> Result<Vec<String>> {
        let (chunks, packed) = (partitions::name_of(day.day), packed::partition_of(day.day));
        let there = |table: String| async move {
            let found = self.session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&table]).await?;
            Ok::<_, PostgresError>(!found.is_empty())
        };
        if there(chunks.clone()).await? {
            let any = self.session.query_unprepared(&format!("SELECT FROM ONLY {chunks} LIMIT 1"), &[]).await?;
            if any.is_empty() {
                self.give_back(&chunks).await?;
            }
        }
        if !there(packed.clone()).await? {
            return Ok(Vec::new());
        }
        self.vacuum(&packed, "(ANALYZE)").await?;
        for (_, rollups) in rollup::partitions_of(&self.session, day.day).await? {
            self.vacuum(&rollups, "(ANALYZE)").await?;
        }
        if complete && !day.finished {
            let noted = self.session.batch(&format!("COMMENT ON TABLE {packed} IS '{FINISHED}'")).await;
            if let Err(failed) = noted {
                self.left(failed, &packed)?;
            }
        }
        Ok(Vec::new())
    }
}

fn stretch(row: &Row) -> Stretch {
    let count = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    Stretch {
        form: if row.get(1) { Form::Packed } else { Form::Chunk },
        first: row.get(2),
        last: row.get(3),
        rows: count(4),
        samples: count(5),
        small: count(6),
        id: row.get(7),
    }
}

/// Rewrites of one span together, as many as one transaction takes; parts of a piece one by one, in their order.
fn batches(mut rewrites: Vec<Rewrite>, scope: &Scope) -> Vec<Batch> {
    rewrites.sort_by_key(|rewrite| (rewrite.from, rewrite.before, rewrite.gpu, rewrite.ids));
    let mut batches: Vec<Batch> = Vec::new();
    let mut rows = 0;
    for rewrite in rewrites {
        let joins = batches.last().is_some_and(|batch| {
            let [first, ..] = batch.rewrites.as_slice() else { return false };
            (first.from, first.before, first.ids, rewrite.ids) == (rewrite.from, rewrite.before, None, None)
                && batch.rewrites.len() < GPUS_AT_ONCE
                && batch.samples() + rewrite.samples <= scope.batch_samples
                && rows + rewrite.rows <= ROWS_AT_ONCE
        });
        match batches.last_mut() {
            Some(batch) if joins => {
                rows += rewrite.rows;
                batch.rewrites.push(rewrite);
            }
            _ => {
                rows = rewrite.rows;
                batches.push(Batch { rewrites: vec![rewrite] });
            }
        }
    }
    batches
}

/// Partitions of a table: names, sizes of their own and with their indexes, rows that ever came, comments.
const PARTITIONS: &str = "SELECT c.relname::text, pg_relation_size(c.oid), pg_total_relation_size(c.oid), \
            pg_stat_get_tuples_inserted(c.oid), coalesce(obj_description(c.oid, 'pg_class'), ''), pg_stat_get_live_tuples(c.oid) \
       FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1::text)";

/// Rows and bytes by form.
pub(super) async fn form_sizes(session: &Session) -> Result<Vec<FormSize>> {
    let mut sizes = Vec::new();
    for (form, table) in [(Form::Chunk, "sample_chunk"), (Form::Packed, "sample_packed")] {
        let sum = |rows: &[Row], at: usize| rows.iter().map(|row| row.get::<_, i64>(at).unsigned_abs()).sum();
        let rows = session.query(PARTITIONS, &[&table]).await?;
        sizes.push(FormSize { form, rows: sum(&rows, 5), bytes: sum(&rows, 2) });
    }
    Ok(sizes)
}

/// Reads every row of samples.
pub(super) async fn verify(session: &Session) -> Result<Verified> {
    session.batch("SET statement_timeout = 0").await?;
    let mut tables: Vec<(Form, String)> = Vec::new();
    for (form, table) in [(Form::Chunk, "sample_chunk"), (Form::Packed, "sample_packed")] {
        let rows = session.query(PARTITIONS, &[&table]).await?;
        let mut names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        names.sort_unstable();
        tables.extend(names.into_iter().map(|name| (form, name)));
    }
    verify::everything(session, &tables).await
}

#[async_trait]
impl Maintenance for Maintained {
    async fn days(&mut self, scope: &Scope) -> store::Result<Vec<DayState>> {
        let mut days: BTreeMap<Day, (DayState, bool, bool)> = BTreeMap::new();
        for (form, table) in [(Form::Chunk, "sample_chunk"), (Form::Packed, "sample_packed")] {
            for row in self.session.query(PARTITIONS, &[&table]).await? {
                let (name, own, all): (&str, i64, i64) = (row.get(0), row.get(1), row.get(2));
                let Some(day) = partitions::day_of_name(name) else { continue };
                let empty = DayState { day, finished: false, arrived: 0, bytes: 0 };
                let (state, has_chunks, has_packed) = days.entry(day).or_insert((empty, false, false));
                state.bytes += all.unsigned_abs();
                if form == Form::Chunk {
                    *has_chunks = own > 0;
                    state.arrived = row.get(3);
                } else {
                    *has_packed = own > 0;
                    state.finished = row.get::<_, &str>(4) == FINISHED;
                }
            }
        }
        let due = days.into_values().filter(|(state, has_chunks, has_packed)| {
            state.begins() < scope.until && (*has_chunks || *has_packed && !state.finished && state.is_over(scope.until))
        });
        Ok(due.map(|(state, ..)| state).collect())
    }

    async fn plan(&mut self, day: &DayState, scope: &Scope) -> store::Result<DayPlan> {
        let planned = PlannedDay { day: day.day, finished: day.finished, until: scope.until, max_samples: scope.max_samples };
        let mut rewrites = Vec::new();
        for step in self.steps(&planned).await? {
            match step {
                Step::Rewrite(rewrite) => rewrites.push(rewrite),
                Step::LookCloser { gpu, from, before } => rewrites.extend(self.look_closer(&planned, gpu, (from, before)).await?),
            }
        }
        Ok(DayPlan { batches: batches(rewrites, scope) })
    }

    async fn rewrite(&mut self, day: &DayState, batch: &Batch, scope: &Scope) -> store::Result<Packed> {
        if !self.announced {
            packed::announce(&self.session).await?;
            self.announced = true;
        }
        packed::ensure_partition(&self.session, day.day).await?;
        rollup::ensure_partitions(&self.session, day.day, batch.samples()).await?;
        Ok(rewrite::rewrite(&self.session, day.day, &batch.rewrites, scope.max_samples, self.lock_timeout_ms).await?)
    }

    async fn finish(&mut self, day: &DayState, complete: bool) -> store::Result<Vec<String>> {
        Ok(self.finish_day(day, complete).await?)
    }

    async fn bytes(&mut self, day: &DayState) -> store::Result<u64> {
        let mut tables: BTreeSet<String> = [partitions::name_of(day.day), packed::partition_of(day.day)].into();
        tables.extend(rollup::partitions_of(&self.session, day.day).await?.into_iter().map(|(_, name)| name));
        let mut bytes = 0;
        for table in tables {
            let rows = self.session.query("SELECT coalesce(pg_total_relation_size(to_regclass($1::text)), 0)", &[&table]).await?;
            bytes += rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).sum::<u64>();
        }
        Ok(bytes)
    }

    async fn is_wanted(&mut self) -> store::Result<bool> {
        Ok(self.session.query(IS_WANTED, &[]).await?.iter().any(|row| row.get(0)))
    }
}
