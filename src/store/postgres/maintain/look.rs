//! What there is of a day, as the plan wants it: rows summed up by owner and hours, or one by one.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::super::error::Result;
use super::super::pool::Session;
use super::super::{packed, partitions, slab};
use super::series_of;
use crate::model::{BlockId, GpuId, SeriesId, TimeMs};
use crate::store;
use crate::store::chunk::Day;
use crate::store::maintenance::plan::{PlannedDay, Step, Steps, Stretch};
use crate::store::maintenance::{Batch, DayPlan, Form, Owner, Rewrite, Scope};

/// GPUs of one transaction at most.
const GPUS_AT_ONCE: usize = 512;
/// Rows of one transaction at most, where it is of several GPUs.
const ROWS_AT_ONCE: u64 = 100_000;
/// Rows that are planned at once, one by one.
const ROWS_PLANNED_AT_ONCE: usize = 500_000;

/// The partitions of a day that are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) chunks: Option<String>,
    pub(super) slabs: Option<String>,
    pub(super) packed: Option<String>,
}

impl Tables {
    pub(super) async fn of(session: &Session, day: Day) -> Result<Self> {
        let names = [partitions::name_of(day), slab::partition_of(day), packed::partition_of(day)];
        let rows = session
            .query(
                "SELECT to_regclass(n) IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY u (n, i) ORDER BY i",
                &[&names.as_slice()],
            )
            .await?;
        let mut found = rows.iter().zip(names).map(|(row, name)| row.get::<_, bool>(0).then_some(name));
        let mut next = || found.next().flatten();
        Ok(Self { chunks: next(), slabs: next(), packed: next() })
    }

    pub(super) fn get(&self, form: Form) -> Option<&String> {
        match form {
            Form::Chunk => self.chunks.as_ref(),
            Form::Slab => self.slabs.as_ref(),
            Form::Packed => self.packed.as_ref(),
        }
    }

    /// Those that are there, in a list.
    pub(super) fn list(&self) -> String {
        [&self.chunks, &self.slabs, &self.packed].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
    }
}

/// A packed row that is less than half full.
fn is_small(row: &str) -> String {
    format!("{row}.n < {} AND {row}.n::bigint * {row}.k < {}", store::packed::MAX_TIMES / 2, store::packed::MAX_SAMPLES / 2)
}

/// The chunks of a partition with the GPUs of their series.
fn with_gpus(chunks: &str) -> String {
    format!(
        "(SELECT coalesce(s.gpu_id, m.gpu_id) AS gpu_id, c.id, c.t_min, c.t_max, c.n FROM ONLY {chunks} c \
            LEFT JOIN series s ON s.id = c.series_id LEFT JOIN series_set m ON m.id = c.series_id >> 6 \
           WHERE coalesce(s.gpu_id, m.gpu_id) IS NOT NULL)"
    )
}

/// The rows of a day summed up: block, GPU (null: all of them), form, then the stretch; by block.
fn summed_up(planned: &PlannedDay, tables: &Tables) -> Option<String> {
    let mut selects = Vec::new();
    if let Some(chunks) = &tables.chunks {
        selects.push(format!(
            "SELECT c.gpu_id >> 4, c.gpu_id, 0, min(c.t_min), max(c.t_max), count(*), sum(greatest(c.n, 1))::bigint, 0::bigint, max(c.id) \
               FROM {} c GROUP BY c.gpu_id, date_trunc('hour', c.t_min), date_trunc('hour', c.t_max)",
            with_gpus(chunks)
        ));
    }
    if let Some(slabs) = &tables.slabs {
        selects.push(format!(
            "SELECT l.block_id, NULL::bigint, 1, min(l.t_min), max(l.t_max), count(*), sum(greatest(l.n, 1))::bigint, 0::bigint, max(l.id) \
               FROM ONLY {slabs} l GROUP BY l.block_id, date_trunc('hour', l.t_min), date_trunc('hour', l.t_max)"
        ));
    }
    if let Some(packed) = &tables.packed {
        // Of what is not joined any more, only what chunks and slabs may touch.
        let mut touched = Vec::new();
        if planned.is_over() && !planned.finished {
            touched.push("true".to_owned());
        }
        touched
            .extend(tables.chunks.as_ref().map(|chunks| format!("p.gpu_id IN (SELECT c.gpu_id FROM {} c)", with_gpus(chunks))));
        touched.extend(tables.slabs.as_ref().map(|slabs| format!("p.gpu_id >> 4 IN (SELECT l.block_id FROM ONLY {slabs} l)")));
        if touched.is_empty() {
            touched.push("false".to_owned());
        }
        selects.push(format!(
            "SELECT p.gpu_id >> 4, p.gpu_id, 2, min(p.t_min), max(p.t_max), count(*), sum(p.n::bigint * p.k)::bigint, \
                    count(*) FILTER (WHERE {}), max(p.id) \
               FROM ONLY {packed} p WHERE {} \
              GROUP BY p.gpu_id, date_trunc('hour', p.t_min), date_trunc('hour', p.t_max)",
            is_small("p"),
            touched.join(" OR ")
        ));
    }
    (!selects.is_empty()).then(|| selects.join(" UNION ALL ") + " ORDER BY 1")
}

fn stretch(row: &Row) -> Stretch {
    let count = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let gpu: Option<GpuId> = row.get(1);
    Stretch {
        owner: gpu.map_or_else(|| Owner::Block(row.get(0)), Owner::Gpu),
        form: match row.get::<_, i32>(2) {
            0 => Form::Chunk,
            1 => Form::Slab,
            _ => Form::Packed,
        },
        first: row.get(3),
        last: row.get(4),
        rows: count(5),
        samples: count(6),
        small: count(7),
        id: row.get(8),
    }
}

/// What is to be rewritten of a day.
pub(super) async fn plan(session: &Session, planned: &PlannedDay, scope: &Scope) -> Result<DayPlan> {
    let tables = Tables::of(session, planned.day).await?;
    let Steps { steps, again } = steps(session, planned, &tables).await?;
    let mut rewrites = Vec::new();
    for step in steps {
        match step {
            Step::Rewrite(rewrite) => rewrites.push(rewrite),
            Step::LookCloser { owner, from, before } => {
                rewrites.extend(look_closer(session, planned, &tables, owner, (from, before)).await?);
            }
        }
    }
    let gpus = gpus(session, &rewrites).await?;
    Ok(DayPlan { batches: batches(rewrites, scope), gpus, again })
}

/// The steps of every block of a day.
async fn steps(session: &Session, planned: &PlannedDay, tables: &Tables) -> Result<Steps> {
    let Some(sql) = summed_up(planned, tables) else { return Ok(Steps::default()) };
    let none: [(&(dyn ToSql + Sync), Type); 0] = [];
    let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, none)).await?);
    let (mut all, mut block, mut stretches) = (Steps::default(), BlockId::default(), Vec::new());
    let add = |steps: Steps, all: &mut Steps| {
        all.steps.extend(steps.steps);
        all.again |= steps.again;
    };
    while let Some(row) = session.within(rows.try_next()).await? {
        let next: BlockId = row.get(0);
        if next != block {
            add(planned.plan(block, &stretches), &mut all);
            (block, stretches) = (next, Vec::new());
        }
        stretches.push(stretch(&row));
    }
    add(planned.plan(block, &stretches), &mut all);
    Ok(all)
}

/// The GPUs that rows belong to.
pub(super) fn gpus_of(owner: Owner) -> Vec<GpuId> {
    match owner {
        Owner::Gpu(gpu) => vec![gpu],
        Owner::Block(block) => block.gpus().collect(),
    }
}

/// The rewrites of a span, each row of which is looked at by itself.
async fn look_closer(
    session: &Session,
    planned: &PlannedDay,
    tables: &Tables,
    owner: Owner,
    (from, before): (TimeMs, TimeMs),
) -> Result<Vec<Rewrite>> {
    let gpus = gpus_of(owner);
    let of = series_of(session, &gpus).await?;
    let (series, owners): (Vec<SeriesId>, Vec<GpuId>) = of.into_iter().unzip();
    let block = owner.block();
    let mut selects = Vec::new();
    if let Some(chunks) = &tables.chunks {
        selects.push(format!(
            "SELECT $1::bigint, w.gpu, 0, c.t_min, c.t_max, 1::bigint, greatest(c.n, 1)::bigint, 0::bigint, c.id \
               FROM unnest($2::bigint[], $3::bigint[]) AS w (series, gpu) JOIN ONLY {chunks} c ON c.series_id = w.series \
              WHERE c.t_max >= $5 AND c.t_min < $6"
        ));
    }
    if let Some(slabs) = tables.slabs.as_ref().filter(|_| matches!(owner, Owner::Block(_))) {
        selects.push(format!(
            "SELECT l.block_id, NULL::bigint, 1, l.t_min, l.t_max, 1, greatest(l.n, 1)::bigint, 0, l.id FROM ONLY {slabs} l \
              WHERE l.block_id = $1 AND l.t_max >= $5 AND l.t_min < $6"
        ));
    }
    if let Some(packed) = &tables.packed {
        selects.push(format!(
            "SELECT p.gpu_id >> 4, p.gpu_id, 2, p.t_min, p.t_max, 1, p.n::bigint * p.k, CASE WHEN {} THEN 1 ELSE 0 END, p.id \
               FROM ONLY {packed} p WHERE p.gpu_id = ANY($4) AND p.t_max >= $5 AND p.t_min < $6",
            is_small("p")
        ));
    }
    // Each parameter is in it, whichever tables there are.
    selects.push(
        "SELECT $1::bigint, NULL::bigint, 0, $5::timestamptz, $6::timestamptz, 0::bigint, 0::bigint, 0::bigint, 0::bigint \
          WHERE cardinality($2::bigint[] || $3::bigint[] || $4::bigint[]) < 0"
            .to_owned(),
    );
    let sql = selects.join(" UNION ALL ") + &format!(" ORDER BY 9 LIMIT {ROWS_PLANNED_AT_ONCE}");
    let params: [(&(dyn ToSql + Sync), Type); 6] = [
        (&block, Type::INT8),
        (&series, Type::INT8_ARRAY),
        (&owners, Type::INT8_ARRAY),
        (&gpus, Type::INT8_ARRAY),
        (&from, Type::TIMESTAMPTZ),
        (&before, Type::TIMESTAMPTZ),
    ];
    let mut stretches: Vec<Stretch> = session.query_unprepared(&sql, &params).await?.iter().map(stretch).collect();
    if stretches.len() == ROWS_PLANNED_AT_ONCE
        && let Some(last) = stretches.last().map(|row| row.id)
    {
        // There are more, and those of this id may be among them: the next plan has them.
        stretches.retain(|row| row.id != last);
    }
    let steps = planned.plan(block, &stretches).steps;
    Ok(steps.into_iter().filter_map(|step| if let Step::Rewrite(rewrite) = step { Some(rewrite) } else { None }).collect())
}

/// How many GPUs these rewrites are of.
async fn gpus(session: &Session, rewrites: &[Rewrite]) -> Result<u64> {
    let owners: BTreeSet<Owner> = rewrites.iter().map(|rewrite| rewrite.owner).collect();
    let gpus: BTreeSet<GpuId> = owners.into_iter().flat_map(gpus_of).collect();
    let rows = session.query("SELECT count(*) FROM gpu WHERE id = ANY($1)", &[&Vec::from_iter(gpus)]).await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).sum())
}

/// Rewrites of one span together, as many as one transaction takes; parts of a piece one by one, in their order.
fn batches(mut rewrites: Vec<Rewrite>, scope: &Scope) -> Vec<Batch> {
    rewrites.sort_by_key(|rewrite| (rewrite.from, rewrite.before, rewrite.owner.block(), rewrite.owner, rewrite.ids));
    let mut batches: Vec<Batch> = Vec::new();
    let (mut rows, mut gpus) = (0, 0);
    for rewrite in rewrites {
        let own = gpus_of(rewrite.owner).len();
        let joins = batches.last().is_some_and(|batch| {
            let [first, ..] = batch.rewrites.as_slice() else { return false };
            (first.from, first.before, first.ids, rewrite.ids) == (rewrite.from, rewrite.before, None, None)
                && gpus + own <= GPUS_AT_ONCE
                && batch.samples() + rewrite.samples <= scope.batch_samples
                && rows + rewrite.rows <= ROWS_AT_ONCE
        });
        match batches.last_mut() {
            Some(batch) if joins => {
                (rows, gpus) = (rows + rewrite.rows, gpus + own);
                batch.rewrites.push(rewrite);
            }
            _ => {
                (rows, gpus) = (rewrite.rows, own);
                batches.push(Batch { rewrites: vec![rewrite] });
            }
        }
    }
    batches
}
