//! Rollups are made where rows are rewritten: all samples of some hours of a GPU are in hand then. They are replaced in the same
//! transaction, so what there is of an hour is what its packed rows say.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};

use super::super::error::Result;
use super::super::pool::Session;
use super::super::{copy, partitions, rollup};
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::Level;
use crate::store::chunk::{DAY_MS, Day};
use crate::store::packed::Samples;
use crate::store::rollup::{Cover, Hours, Kind, Rolled, RollupRow, Rollups, block_of, hours_in, roll};

/// Samples that a day must have in one transaction before it gets tables for rollups: of less it takes no time to read them all.
const WORTH_TABLES: u64 = 100_000;
/// Samples for each byte that rollups may take. Where they would take more, reading the samples is as cheap.
const SAMPLES_PER_BYTE: u64 = 2;
/// Hours from which on rollups are as they stay. Those of fewer are mostly heads: they have no buckets of an hour, as those of five minutes are as
/// quickly read, and may take twice as much, since they are joined with the next ones.
const WORTH_HOURS: u32 = 4;

/// The metrics of series.
const METRICS: &str = "SELECT id, metric FROM series_all WHERE gpu_id = ANY($1)";

/// Makes the partitions of a day where it has samples enough. Outside of any transaction.
pub(super) async fn ensure_partitions(session: &Session, day: Day, samples: u64) -> Result<()> {
    if samples < WORTH_TABLES {
        return Ok(());
    }
    for level in Level::ALL {
        partitions::make(session, rollup::table(level), &[day]).await?;
    }
    Ok(())
}

/// The partitions of a day that are there.
pub(super) async fn partitions_of(session: &Session, day: Day) -> Result<Vec<(Level, String)>> {
    let mut there = Vec::new();
    for level in Level::ALL {
        let name = rollup::partition_of(level, day);
        if !session.query("SELECT FROM pg_class WHERE oid = to_regclass($1::text)", &[&name]).await?.is_empty() {
            there.push((level, name));
        }
    }
    Ok(there)
}

/// What the rollups of some GPUs become in one rewrite.
pub(super) struct Rolling {
    partitions: Vec<(Level, String)>,
    gpus: Vec<GpuId>,
    hours: Hours,
    kinds: HashMap<SeriesId, Kind>,
    /// Rollups of the hours that are rewritten, by GPU, for each level.
    made: BTreeMap<GpuId, [Rollups; 2]>,
}

impl Rolling {
    /// Of hours of GPUs that are rewritten. `complete`: all their samples will be in hand.
    pub(super) async fn new(
        session: &Session,
        partitions: Vec<(Level, String)>,
        gpus: &[GpuId],
        day: Day,
        (from, before): (TimeMs, TimeMs),
        complete: bool,
    ) -> Result<Self> {
        let hours = hours_in(TimeMs::from_millis(day * DAY_MS), &(from..before));
        let mut rolling = Self { partitions, gpus: gpus.to_vec(), hours, kinds: HashMap::new(), made: BTreeMap::new() };
        if complete && !rolling.partitions.is_empty() {
            for row in session.query_unprepared(METRICS, &[(&gpus, Type::INT8_ARRAY)]).await? {
                rolling.kinds.insert(row.get(0), Kind::of(row.get(1)));
            }
        }
        Ok(rolling)
    }

    /// Rolls up all that a GPU has in these hours.
    pub(super) fn roll(&mut self, gpu: GpuId, all: &[Samples]) {
        if self.kinds.is_empty() {
            return;
        }
        let empty = || Rollups { gpu, cover: Cover { hours: self.hours, without: Vec::new() }, series: Vec::new() };
        let mut made = [empty(), empty()];
        for (series, times, values) in all {
            // Ids without a metric would be those of a row that has gone.
            let rolled = self.kinds.get(series).and_then(|kind| Some((roll(*series, *kind, times, values)?, *kind)));
            let both: [Option<Rolled>; 2] = match rolled {
                Some((fine, kind)) => {
                    let coarse = fine.by_hour(kind);
                    [Some(fine), coarse]
                }
                None => [None, None],
            };
            for (rollups, rolled) in made.iter_mut().zip(both) {
                match rolled {
                    Some(rolled) => rollups.series.push(rolled),
                    None => rollups.cover.without.push(*series),
                }
            }
        }
        self.made.insert(gpu, made);
    }

    /// Puts them in the place of what there was of these hours. Those of neighbouring hours may be joined with them.
    pub(super) async fn put(mut self, session: &Session) -> Result<()> {
        for (level, partition) in std::mem::take(&mut self.partitions) {
            let mut former = self.take(session, level, &partition).await?;
            let mut rows = Vec::new();
            for gpu in &self.gpus {
                let at = usize::from(level == Level::Hour);
                let mut made = self.made.get_mut(gpu).map(|made| std::mem::take(&mut made[at])).unwrap_or_default();
                made.gpu = *gpu;
                // A damaged one is gone with this: the samples say the same.
                if let Ok(mut rest) = Rollups::of(former.remove(gpu).unwrap_or_default()) {
                    rest.keep(!self.hours);
                    made.join(rest);
                }
                let (more, bytes) = made.rows();
                let is_worth_it = match (made.cover.hours.count_ones() >= WORTH_HOURS, level) {
                    (true, _) => bytes as u64 * SAMPLES_PER_BYTE <= made.samples(),
                    (false, Level::FiveMinutes) => bytes as u64 <= made.samples(),
                    (false, Level::Hour) => false,
                };
                if is_worth_it {
                    rows.extend(more);
                }
                // Others wait for this thread.
                tokio::task::yield_now().await;
            }
            copy::rollups(session, level, &rows).await?;
        }
        Ok(())
    }

    /// Takes the rows of these hours and of those that they are joined with.
    async fn take(&self, session: &Session, level: Level, partition: &str) -> Result<HashMap<GpuId, Vec<RollupRow>>> {
        let sql =
            format!("DELETE FROM ONLY {partition} WHERE gpu_id = ANY($1) AND hours & $2 <> 0 RETURNING {}", rollup::COLUMNS);
        let (gpus, hours) = (self.gpus.as_slice(), block_of(self.hours).cast_signed());
        let params: [(&(dyn ToSql + Sync), Type); 2] = [(&gpus, Type::INT8_ARRAY), (&hours, Type::INT4)];
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, params)).await?);
        let mut taken: HashMap<GpuId, Vec<RollupRow>> = HashMap::new();
        while let Some(row) = session.within(rows.try_next()).await? {
            let row = rollup::decode(session, level, &row)?;
            taken.entry(row.row.gpu).or_default().push(row);
        }
        Ok(taken)
    }
}
