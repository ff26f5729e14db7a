//! What the store has of the times of a group: whether there is anything, and which samples.
//!
//! Asked by UTC day, so that only the partitions concerned are looked at; one lookup in the index a series. Samples are read as a
//! stream that is compared on the fly: memory holds what is looked for, never what is found on the way.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};

use super::error::Result;
use super::pool::Session;
use super::{chunk, overlap_packed, overlap_slab};
use crate::model::{SeriesId, TimeMs};
use crate::store::chunk::{DAY_MS, Day};
use crate::store::compare::{Comparison, DaySpan};

/// The chunks of one day that reach into the span of their series. The inner question is fenced off (OFFSET 0), so that the index is
/// asked for each series, whatever the planner thinks of a partition that it has no statistics of.
const OF_A_DAY: &str = "FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS w (series, first, last) \
     CROSS JOIN LATERAL (SELECT * FROM sample_chunk \
       WHERE series_id = w.series AND t_max >= w.first AND t_min <= w.last AND t_min >= $4 AND t_min < $5 OFFSET 0) AS c";

/// The same without what this transaction has written itself.
const BY_OTHERS_OF_A_DAY: &str = "FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS w (series, first, last) \
     CROSS JOIN LATERAL (SELECT FROM sample_chunk \
       WHERE series_id = w.series AND t_max >= w.first AND t_min <= w.last AND t_min >= $4 AND t_min < $5 \
         AND xmin <> pg_current_xact_id()::xid OFFSET 0) AS c";

/// Whose chunks are meant.
#[derive(Clone, Copy)]
pub(super) enum Whose {
    /// All that are there.
    All,
    /// Those that other transactions have written.
    Others,
}

/// The question about one day.
struct Question {
    series: Vec<SeriesId>,
    first: Vec<TimeMs>,
    last: Vec<TimeMs>,
    begin: TimeMs,
    end: TimeMs,
}

impl Question {
    /// Planned anew each time, with the times at hand: that is what leaves out the other days' partitions.
    fn params(&self) -> [(&(dyn ToSql + Sync), Type); 5] {
        [
            (&self.series, Type::INT8_ARRAY),
            (&self.first, Type::TIMESTAMPTZ_ARRAY),
            (&self.last, Type::TIMESTAMPTZ_ARRAY),
            (&self.begin, Type::TIMESTAMPTZ),
            (&self.end, Type::TIMESTAMPTZ),
        ]
    }
}

/// The questions about these spans, a day each.
fn questions(spans: &[DaySpan]) -> Vec<Question> {
    let mut days: BTreeMap<Day, Question> = BTreeMap::new();
    for span in spans {
        let question = days.entry(span.day()).or_insert_with_key(|day| Question {
            series: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
            begin: TimeMs::from_millis(day * DAY_MS),
            end: TimeMs::from_millis((day + 1) * DAY_MS),
        });
        question.series.push(span.ids.series);
        question.first.push(span.first);
        question.last.push(span.last);
    }
    days.into_values().collect()
}

/// Whether there are chunks, slabs or packed rows that reach into these spans. No transaction that commits a group writes packed rows.
pub(super) async fn any(session: &Session, spans: &[DaySpan], whose: Whose) -> Result<bool> {
    let sql = match whose {
        Whose::All => format!("SELECT {OF_A_DAY} LIMIT 1"),
        Whose::Others => format!("SELECT {BY_OTHERS_OF_A_DAY} LIMIT 1"),
    };
    for question in questions(spans) {
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, question.params())).await?);
        let mut found = false;
        // To its end: the session is used again.
        while session.within(rows.try_next()).await?.is_some() {
            found = true;
        }
        if found {
            return Ok(true);
        }
    }
    Ok(overlap_slab::any(session, spans, whose).await? || overlap_packed::any(session, spans).await?)
}

/// Compares with the samples that the store has in these spans.
pub(super) async fn compare(session: &Session, spans: &[DaySpan], comparison: &mut Comparison) -> Result<()> {
    let columns = chunk::COLUMNS.split(", ").map(|column| format!("c.{column}")).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {columns} {OF_A_DAY}");
    for question in questions(spans) {
        let mut rows = pin!(session.within(session.raw().query_typed_raw(&sql, question.params())).await?);
        while let Some(row) = session.within(rows.try_next()).await? {
            // One that is damaged may hold what is looked for: nobody can say that it is not stored.
            let chunk = chunk::decode(session, &row)?;
            comparison.meet(chunk.series, &chunk.times, &chunk.values);
        }
    }
    overlap_slab::compare(session, spans, comparison).await?;
    overlap_packed::compare(session, spans, comparison).await
}
