//! Maintenance: chunks and slabs of closed hours and days become packed rows.
//!
//! | file | what |
//! |---|---|
//! | `look` | what there is of a day, for the plan |
//! | `retire` | days that are past their time lose their partitions |
//! | `rewrite` | the transaction that puts packed rows in the place of others |
//! | `merge` | rows to rectangles, and the comparison of the two |
//! | `rollup` | rollups of what is rewritten, in the place of former ones |
//! | `verify` | reading rows to find those that are damaged |
//!
//! One connection, which holds the advisory lock: where it is lost, so is the lock, and whatever was being rewritten is as it was. What is
//! done with a day when it is over is noted as a comment on its partition of `sample_packed` ([`FINISHED`]).

mod look;
mod merge;
mod retire;
mod rewrite;
mod rollup;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use self::look::Tables;
use super::error::{PostgresError, Result};
use super::pool::Session;
use super::series::Caches;
use super::{PostgresStore, live, packed, partitions, slab};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store;
use crate::store::chunk::Day;
use crate::store::maintenance::plan::PlannedDay;
use crate::store::maintenance::retention::HeldDay;
use crate::store::maintenance::{Batch, DayPlan, DayState, Form, FormSize, Maintenance, Owner, Packed, Scope, Verified};

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

/// The comment on a partition of `sample_packed` whose day was packed as a whole after its end.
const FINISHED: &str = "telemetry: packed after the end of the day";

/// The store under maintenance.
pub(super) struct Maintained {
    session: Session,
    caches: Arc<Caches>,
    lock_timeout_ms: u32,
    /// Whether it was made known that there are packed rows.
    announced: bool,
    /// Whether slabs were rewritten since the space of such was given back.
    took_slabs: bool,
    /// Samples before this are expired: their days are not packed any more.
    floor: Option<TimeMs>,
}

impl Maintained {
    /// Takes the lock; `None` where somebody else has it. Who is urgent waits, and is made way for.
    pub(super) async fn take(store: &PostgresStore, urgent: bool) -> Result<Option<Self>> {
        let session = store.connections.session().await?.without_time_limit();
        let floor = store.check_id(&session).await?.floor;
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
        let caches = Arc::clone(&store.caches);
        Ok(Some(Self { session, caches, lock_timeout_ms, announced: false, took_slabs: false, floor }))
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

    /// Gives back the space of a partition that has no rows any more.
    async fn give_back(&self, table: &str) -> Result<()> {
        let size = self.session.query("SELECT coalesce(pg_relation_size(to_regclass($1::text)), 0)", &[&table]).await?;
        if size.iter().any(|row| row.get::<_, i64>(0) > 0) {
            self.vacuum(table, "").await?;
        }
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

    async fn finish_day(&mut self, day: &DayState, complete: bool) -> Result<Vec<String>> {
        let tables = Tables::of(&self.session, day.day).await?;
        let took_slabs = std::mem::take(&mut self.took_slabs);
        for (table, was_taken_from) in [(&tables.chunks, false), (&tables.slabs, took_slabs)] {
            let Some(table) = table else { continue };
            let any = self.session.query_unprepared(&format!("SELECT FROM ONLY {table} LIMIT 1"), &[]).await?;
            if any.is_empty() {
                self.give_back(table).await?;
            } else if was_taken_from {
                // What an hour had makes room for those that follow.
                self.vacuum(table, "").await?;
            }
        }
        let Some(packed) = tables.packed else { return Ok(Vec::new()) };
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

/// The GPU of every series of these GPUs: of those in the table `series`, and of those in sets.
async fn series_of(session: &Session, gpus: &[GpuId]) -> Result<HashMap<SeriesId, GpuId>> {
    let rows = session
        .query(
            "SELECT id, gpu_id FROM series WHERE gpu_id = ANY($1) UNION ALL \
             SELECT m.id * 64 + p.place, m.gpu_id FROM series_set m JOIN metric_list l ON l.id = m.list_id \
              CROSS JOIN LATERAL generate_series(0, cardinality(l.metrics) - 1) p (place) WHERE m.gpu_id = ANY($1)",
            &[&gpus],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The forms, with their tables.
const FORMS: [(Form, &str); 3] = [(Form::Chunk, "sample_chunk"), (Form::Slab, "sample_slab"), (Form::Packed, "sample_packed")];

/// Partitions of a table: names, sizes of their own and with their indexes, rows that ever came, comments.
const PARTITIONS: &str = "SELECT c.relname::text, pg_relation_size(c.oid), pg_total_relation_size(c.oid), \
            pg_stat_get_tuples_inserted(c.oid), coalesce(obj_description(c.oid, 'pg_class'), ''), pg_stat_get_live_tuples(c.oid) \
       FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1::text)";

/// Rows and bytes by form.
pub(super) async fn form_sizes(session: &Session) -> Result<Vec<FormSize>> {
    let mut sizes = Vec::new();
    for (form, table) in FORMS {
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
    for (form, table) in FORMS {
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
        for (form, table) in FORMS {
            for row in self.session.query(PARTITIONS, &[&table]).await? {
                let (name, own, all): (&str, i64, i64) = (row.get(0), row.get(1), row.get(2));
                let Some(day) = partitions::day_of_name(name) else { continue };
                let empty = DayState { day, finished: false, arrived: 0, bytes: 0 };
                let (state, has_unpacked, has_packed) = days.entry(day).or_insert((empty, false, false));
                state.bytes += all.unsigned_abs();
                if form == Form::Packed {
                    *has_packed = own > 0;
                    state.finished = row.get::<_, &str>(4) == FINISHED;
                } else {
                    *has_unpacked |= own > 0;
                    state.arrived += row.get::<_, i64>(3);
                }
            }
        }
        let due = days.into_values().filter(|(state, has_unpacked, has_packed)| {
            let is_expired = self.floor.is_some_and(|floor| state.begins() < floor);
            !is_expired
                && state.begins() < scope.until
                && (*has_unpacked || *has_packed && !state.finished && state.is_over(scope.until))
        });
        Ok(due.map(|(state, ..)| state).collect())
    }

    async fn plan(&mut self, day: &DayState, scope: &Scope) -> store::Result<DayPlan> {
        let planned = PlannedDay { day: day.day, finished: day.finished, until: scope.until, max_samples: scope.max_samples };
        Ok(look::plan(&self.session, &planned, scope).await?)
    }

    async fn rewrite(&mut self, day: &DayState, batch: &Batch, scope: &Scope) -> store::Result<Packed> {
        if !self.announced {
            packed::announce(&self.session).await?;
            // Who does not know the locks of blocks is kept out.
            live::announce(&self.session, &self.caches).await?;
            self.announced = true;
        }
        packed::ensure_partition(&self.session, day.day).await?;
        rollup::ensure_partitions(&self.session, day.day, batch.samples()).await?;
        self.took_slabs |= batch.rewrites.iter().any(|rewrite| matches!(rewrite.owner, Owner::Block(_)));
        Ok(rewrite::rewrite(&self.session, day.day, &batch.rewrites, scope.max_samples, self.lock_timeout_ms).await?)
    }

    async fn finish(&mut self, day: &DayState, complete: bool) -> store::Result<Vec<String>> {
        Ok(self.finish_day(day, complete).await?)
    }

    async fn bytes(&mut self, day: &DayState) -> store::Result<u64> {
        let tables = [partitions::name_of(day.day), slab::partition_of(day.day), packed::partition_of(day.day)];
        let rollups = rollup::partitions_of(&self.session, day.day).await?;
        let tables = tables.into_iter().chain(rollups.into_iter().map(|(_, name)| name));
        let mut bytes = 0;
        for table in tables {
            let rows = self.session.query("SELECT coalesce(pg_total_relation_size(to_regclass($1::text)), 0)", &[&table]).await?;
            bytes += rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).sum::<u64>();
        }
        Ok(bytes)
    }

    async fn clock(&mut self) -> store::Result<Option<TimeMs>> {
        let rows = self.session.query("SELECT clock_timestamp()", &[]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn held(&mut self, _: Option<TimeMs>) -> store::Result<Vec<HeldDay>> {
        Ok(retire::held(&self.session).await?)
    }

    async fn raise_floor(&mut self, floor: TimeMs) -> store::Result<()> {
        if self.floor < Some(floor) {
            retire::raise_floor(&self.session, floor).await?;
            self.floor = Some(floor);
        }
        Ok(())
    }

    async fn drop_day(&mut self, day: &HeldDay) -> store::Result<Option<String>> {
        Ok(retire::drop_day(&self.session, day, self.lock_timeout_ms).await?)
    }

    async fn is_wanted(&mut self) -> store::Result<bool> {
        Ok(self.session.query(IS_WANTED, &[]).await?.iter().any(|row| row.get(0)))
    }
}
