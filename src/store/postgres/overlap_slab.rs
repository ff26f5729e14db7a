//! `overlap` for slabs: which reach into the times of a group, and what they have there. Asked by UTC day and block.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::RowStream;
use tokio_postgres::types::{ToSql, Type};

use super::error::Result;
use super::overlap::Whose;
use super::pool::Session;
use super::slab;
use crate::model::{BlockId, SeriesId, TimeMs};
use crate::store::chunk::{DAY_MS, Day};
use crate::store::compare::{Comparison, DaySpan};
use crate::store::slab::Slab;

/// The question about one day.
#[derive(Default)]
struct Question {
    /// From when to when the group has something of a block, and of a series.
    blocks: BTreeMap<BlockId, (TimeMs, TimeMs)>,
    series: HashMap<SeriesId, (TimeMs, TimeMs)>,
}

impl Question {
    /// The slabs of the day that reach into the span of their block. Planned anew each time, as for chunks.
    async fn rows(&self, session: &Session, day: Day, whose: Whose) -> Result<RowStream> {
        let columns = slab::COLUMNS.split(", ").map(|column| format!("c.{column}")).collect::<Vec<_>>().join(", ");
        let others = match whose {
            Whose::All => "",
            Whose::Others => "AND xmin <> pg_current_xact_id()::xid",
        };
        let sql = format!(
            "SELECT {columns} FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS w (block, first, last) \
              CROSS JOIN LATERAL (SELECT * FROM sample_slab \
                WHERE block_id = w.block AND t_max >= w.first AND t_min <= w.last AND t_min >= $4 AND t_min < $5 {others} OFFSET 0) AS c"
        );
        let blocks: Vec<BlockId> = self.blocks.keys().copied().collect();
        let (first, last): (Vec<TimeMs>, Vec<TimeMs>) = self.blocks.values().copied().unzip();
        let (begin, end) = (TimeMs::from_millis(day * DAY_MS), TimeMs::from_millis((day + 1) * DAY_MS));
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&blocks, Type::INT8_ARRAY),
            (&first, Type::TIMESTAMPTZ_ARRAY),
            (&last, Type::TIMESTAMPTZ_ARRAY),
            (&begin, Type::TIMESTAMPTZ),
            (&end, Type::TIMESTAMPTZ),
        ];
        session.within(session.raw().query_typed_raw(&sql, params)).await
    }

    /// Whether a slab has a sample in the span of one of its series.
    fn meets(&self, slab: &Slab) -> bool {
        let wanted = |series: SeriesId| self.series.contains_key(&series);
        slab.chunks(wanted).any(|chunk| {
            let (first, last) = self.series[&chunk.series];
            chunk.times.iter().any(|time| first <= *time && *time <= last)
        })
    }
}

fn questions(spans: &[DaySpan]) -> BTreeMap<Day, Question> {
    let mut days: BTreeMap<Day, Question> = BTreeMap::new();
    for span in spans {
        let question = days.entry(span.day()).or_default();
        let block = question.blocks.entry(BlockId::of(span.ids.gpu)).or_insert((span.first, span.last));
        *block = (block.0.min(span.first), block.1.max(span.last));
        let series = question.series.entry(span.ids.series).or_insert((span.first, span.last));
        *series = (series.0.min(span.first), series.1.max(span.last));
    }
    days
}

/// Whether there are slabs with samples in these spans.
pub(super) async fn any(session: &Session, spans: &[DaySpan], whose: Whose) -> Result<bool> {
    for (day, question) in questions(spans) {
        let mut rows = pin!(question.rows(session, day, whose).await?);
        let mut found = false;
        // To its end: the session is used again.
        while let Some(row) = session.within(rows.try_next()).await? {
            found = found || question.meets(&slab::decode(session, &row)?);
        }
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares with the samples of slabs in these spans.
pub(super) async fn compare(session: &Session, spans: &[DaySpan], comparison: &mut Comparison) -> Result<()> {
    for (day, question) in questions(spans) {
        let mut rows = pin!(question.rows(session, day, Whose::All).await?);
        while let Some(row) = session.within(rows.try_next()).await? {
            // One that is damaged may hold what is looked for: nobody can say that it is not stored.
            let slab = slab::decode(session, &row)?;
            for chunk in slab.chunks(|series| question.series.contains_key(&series)) {
                comparison.meet(chunk.series, &chunk.times, &chunk.values);
            }
        }
    }
    Ok(())
}
