//! Which samples of a batch the store has already, by series, time and value.
//!
//! Asked only for rows at positions that are covered. Read by UTC day, so that only the partitions concerned are looked at, and as a
//! stream that is matched on the fly: memory holds what is looked for, never what is found on the way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};

use super::chunk;
use super::error::Result;
use super::pool::Session;
use crate::model::{SeriesId, TimeMs};
use crate::store::chunk::{DAY_MS, Day, Part, day_of};

/// A sample's identity: series, time, bits of the value.
type Identity = (SeriesId, TimeMs, u64);

/// A day's question.
struct Question {
    series: BTreeSet<SeriesId>,
    from: TimeMs,
    to: TimeMs,
}

/// Of the samples at these column positions, those that are stored, as a mask over `positions`.
pub(super) async fn stored(session: &Session, part: &Part<'_>, positions: &[bool]) -> Result<Vec<bool>> {
    let batch = part.batch;
    let mut wanted: HashSet<Identity> = HashSet::new();
    let mut questions: BTreeMap<Day, Question> = BTreeMap::new();
    let identity = |series: SeriesId, i: usize| (series, batch.time_ms[i], batch.value[i].to_bits());
    for run in &batch.runs {
        let series = part.ids_of(run).series;
        for i in (run.start..run.start + run.len).filter(|i| positions[*i]) {
            let time = batch.time_ms[i];
            wanted.insert(identity(series, i));
            let question =
                questions.entry(day_of(time)).or_insert_with(|| Question { series: BTreeSet::new(), from: time, to: time });
            question.series.insert(series);
            question.from = question.from.min(time);
            question.to = question.to.max(time);
        }
    }
    let mut found: HashSet<Identity> = HashSet::new();
    for (day, question) in &questions {
        ask(session, *day, question, &wanted, &mut found).await?;
    }
    let mut mask = vec![false; positions.len()];
    for run in &batch.runs {
        let series = part.ids_of(run).series;
        for i in (run.start..run.start + run.len).filter(|i| positions[*i]) {
            mask[i] = found.contains(&identity(series, i));
        }
    }
    Ok(mask)
}

async fn ask(
    session: &Session,
    day: Day,
    question: &Question,
    wanted: &HashSet<Identity>,
    found: &mut HashSet<Identity>,
) -> Result<()> {
    let series: Vec<SeriesId> = question.series.iter().copied().collect();
    let (midnight, from, to) = (TimeMs::from_millis(day * DAY_MS), question.from, question.to);
    // Planned anew each time, with the times at hand: that is what leaves out the other days' partitions.
    let params: [(&(dyn ToSql + Sync), Type); 4] =
        [(&series, Type::INT8_ARRAY), (&midnight, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ), (&from, Type::TIMESTAMPTZ)];
    let sql = format!(
        "SELECT {} FROM sample_chunk WHERE series_id = ANY($1) AND t_min >= $2 AND t_min <= $3 AND t_max >= $4",
        chunk::COLUMNS
    );
    let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, params)).await?);
    while let Some(row) = session.within(rows.try_next()).await? {
        // One that is damaged may hold what is looked for: nobody can say that it is not stored.
        let chunk = chunk::decode(session, &row)?;
        let identities = chunk.times.iter().zip(&chunk.values);
        let identities = identities.map(|(time, value)| (chunk.series, *time, value.to_bits()));
        found.extend(identities.filter(|identity| wanted.contains(identity)));
    }
    Ok(())
}
