//! `overlap` for packed rows: which reach into the times of a group, and what they have there. Asked by UTC day and GPU.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::RowStream;
use tokio_postgres::types::{ToSql, Type};

use super::error::Result;
use super::packed;
use super::pool::Session;
use crate::model::{GpuId, SeriesId, TimeMs};
use crate::store::chunk::{DAY_MS, Day};
use crate::store::compare::{Comparison, DaySpan};
use crate::store::packed::{Rectangle, Row};

/// The question about one day.
#[derive(Default)]
struct Question {
    /// From when to when the group has something of a GPU, and of a series.
    gpus: BTreeMap<GpuId, (TimeMs, TimeMs)>,
    series: HashMap<SeriesId, (TimeMs, TimeMs)>,
}

impl Question {
    /// The rows of the day that reach into the span of their GPU. Planned anew each time, as for chunks.
    async fn rows(&self, session: &Session, day: Day, columns: &str) -> Result<RowStream> {
        let columns = columns.split(", ").map(|column| format!("c.{column}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {columns} FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS w (gpu, first, last) \
              CROSS JOIN LATERAL (SELECT * FROM sample_packed \
                WHERE gpu_id = w.gpu AND t_max >= w.first AND t_min <= w.last AND t_min >= $4 AND t_min < $5 OFFSET 0) AS c"
        );
        let gpus: Vec<GpuId> = self.gpus.keys().copied().collect();
        let (first, last): (Vec<TimeMs>, Vec<TimeMs>) = self.gpus.values().copied().unzip();
        let (begin, end) = (TimeMs::from_millis(day * DAY_MS), TimeMs::from_millis((day + 1) * DAY_MS));
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&gpus, Type::INT8_ARRAY),
            (&first, Type::TIMESTAMPTZ_ARRAY),
            (&last, Type::TIMESTAMPTZ_ARRAY),
            (&begin, Type::TIMESTAMPTZ),
            (&end, Type::TIMESTAMPTZ),
        ];
        session.within(session.raw().query_typed_raw(&sql, params)).await
    }

    /// Whether a row reaches into the span of one of its series.
    fn concerns(&self, row: &Row) -> std::result::Result<bool, String> {
        let reaches = |id| self.series.get(&id).is_some_and(|(first, last)| row.t_max >= *first && row.t_min <= *last);
        Ok(row.series()?.into_iter().any(reaches))
    }
}

fn questions(spans: &[DaySpan]) -> BTreeMap<Day, Question> {
    let mut days: BTreeMap<Day, Question> = BTreeMap::new();
    for span in spans {
        let question = days.entry(span.day()).or_default();
        let gpu = question.gpus.entry(span.ids.gpu).or_insert((span.first, span.last));
        *gpu = (gpu.0.min(span.first), gpu.1.max(span.last));
        let series = question.series.entry(span.ids.series).or_insert((span.first, span.last));
        *series = (series.0.min(span.first), series.1.max(span.last));
    }
    days
}

/// Whether there are packed rows that reach into these spans.
pub(super) async fn any(session: &Session, spans: &[DaySpan]) -> Result<bool> {
    for (day, question) in questions(spans) {
        let mut rows = pin!(question.rows(session, day, packed::HEAD_COLUMNS).await?);
        let mut found = false;
        // To its end: the session is used again.
        while let Some(row) = session.within(rows.try_next()).await? {
            let head = packed::head(session, &row)?;
            found |= question.concerns(&head).map_err(|what| packed::damaged(session, &row, what))?;
        }
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares with the samples of packed rows in these spans.
pub(super) async fn compare(session: &Session, spans: &[DaySpan], comparison: &mut Comparison) -> Result<()> {
    for (day, question) in questions(spans) {
        let mut rows = pin!(question.rows(session, day, packed::COLUMNS).await?);
        while let Some(row) = session.within(rows.try_next()).await? {
            let damaged = |what| packed::damaged(session, &row, what);
            let read = packed::read(session, &row)?;
            if !question.concerns(&read).map_err(damaged)? {
                continue;
            }
            let rectangle = Rectangle::from_row(&read).map_err(damaged)?;
            for chunk in rectangle.chunks(|id| question.series.contains_key(&id)).map_err(damaged)? {
                comparison.meet(chunk.series, &chunk.times, &chunk.values);
            }
        }
    }
    Ok(())
}
