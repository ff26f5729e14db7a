//! Samples as of one moment (see [`Snapshot`]): one transaction on one connection, whose first statement says which moment that is.
//! Chunks are found by series and time, through their index.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::join;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_postgres::RowStream;

use super::error::Result;
use super::pool::{Params, Session};
use super::{PostgresStore, chunk};
use crate::model::{SeriesId, TimeMs};
use crate::store::{self, Chunk, ChunkRange, Latest, Snapshot, SnapshotFor, Span};

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A transaction that reads. Where it is dropped between two questions, its connection goes back to the pool; within one it is closed,
/// and the server ends the statement.
pub(super) struct PostgresSnapshot {
    session: Option<Session>,
    /// Whether the transaction has begun.
    is_begun: bool,
    /// Whether a question was not answered to its end.
    is_busy: bool,
    /// A download's place among those that may be at once.
    _place: Option<OwnedSemaphorePermit>,
}

impl PostgresSnapshot {
    /// A connection for it. The transaction begins with the first question.
    pub(super) async fn new(store: &PostgresStore, purpose: SnapshotFor, patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        let place = match purpose {
            SnapshotFor::Page => None,
            SnapshotFor::Download => Some(store.place_for_download(until).await?),
        };
        let session = store.connections.session_within(until.saturating_duration_since(Instant::now())).await?;
        Ok(Self { session: Some(session), is_begun: false, is_busy: false, _place: place })
    }

    /// The session, for one question: until [`Self::answered`] it counts as one that was left in the middle.
    fn session(&mut self) -> Result<Asked<'_>> {
        let Self { session, is_begun, is_busy, .. } = self;
        let session = session.as_ref().expect("the session is there until drop takes it");
        if std::mem::replace(is_busy, true) {
            return Err(session.unavailable("the snapshot is over: a question to it was broken off".to_owned()));
        }
        Ok(Asked { session, is_begun, is_busy })
    }
}

/// A question that is being asked.
struct Asked<'a> {
    session: &'a Session,
    is_begun: &'a mut bool,
    is_busy: &'a mut bool,
}

impl Asked<'_> {
    /// The rows of a statement. With the first one the transaction begins, in the same round trip.
    async fn rows(&mut self, sql: &str, params: Params<'_>) -> Result<Pin<Box<RowStream>>> {
        let statement = self.session.prepare(sql).await?;
        let rows = self.session.within(self.session.raw().query_raw(&statement, params.iter().copied()));
        let rows = if *self.is_begun {
            rows.await?
        } else {
            // Polled in this order, so sent in this order.
            let (begun, rows) = join(self.session.batch(BEGIN), rows).await;
            begun?;
            *self.is_begun = true;
            rows?
        };
        Ok(Box::pin(rows))
    }

    /// All rows were read: another question may be asked.
    fn answered(self) {
        *self.is_busy = false;
    }
}

impl Drop for PostgresSnapshot {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|_| !self.is_busy) {
            if self.is_begun { session.done_with_transaction() } else { session.done() }
        }
    }
}

/// Chunks of series in a range: $1 are the series, the rest are its [`borders`].
const IN_RANGE: &str = "series_id = ANY($1) AND t_max >= $2 AND t_max < $3 AND t_min >= $4 AND t_min < $5";

fn borders(range: &ChunkRange) -> [TimeMs; 4] {
    [range.ends_from, range.ends_before, range.begins_from, range.begins_before]
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn latest(&mut self, series: &[SeriesId], begins_from: TimeMs, begins_before: TimeMs) -> store::Result<Vec<Latest>> {
        let sql = format!(
            "SELECT c.* FROM unnest($1::bigint[]) AS s (id) CROSS JOIN LATERAL \
             (SELECT {} FROM sample_chunk WHERE series_id = s.id AND t_min >= $2 AND t_min < $3 \
               ORDER BY t_max DESC, id DESC LIMIT 1) c",
            chunk::COLUMNS
        );
        let mut asked = self.session()?;
        let mut rows = asked.rows(&sql, &[&series, &begins_from, &begins_before]).await?;
        // The chunks are read one after the other and whole: the server cannot say whether one is damaged.
        let mut newest = Vec::new();
        while let Some(row) = asked.session.within(rows.try_next()).await? {
            let chunk = chunk::decode(asked.session, &row)?;
            if let (Some(time), Some(value)) = (chunk.times.last(), chunk.values.last()) {
                newest.push(Latest { series: chunk.series, time: *time, value: *value });
            }
        }
        asked.answered();
        Ok(newest)
    }

    /// `None` as soon as there are too many: the rest is left unread.
    async fn chunks(&mut self, series: &[SeriesId], range: &ChunkRange, max_samples: usize) -> store::Result<Option<Vec<Chunk>>> {
        let sql = format!("SELECT {} FROM sample_chunk WHERE {IN_RANGE}", chunk::COLUMNS);
        let times = borders(range);
        let mut asked = self.session()?;
        let mut rows = asked.rows(&sql, &[&series, &times[0], &times[1], &times[2], &times[3]]).await?;
        let (mut chunks, mut samples) = (Vec::new(), 0);
        while let Some(row) = asked.session.within(rows.try_next()).await? {
            let chunk = chunk::decode(asked.session, &row)?;
            samples += chunk.times.len();
            if samples > max_samples {
                return Ok(None);
            }
            chunks.push(chunk);
        }
        asked.answered();
        Ok(Some(chunks))
    }

    async fn spans(&mut self, series: &[SeriesId], range: &ChunkRange) -> store::Result<Vec<Span>> {
        let sql = format!("SELECT series_id, min(t_min), max(t_max) FROM sample_chunk WHERE {IN_RANGE} GROUP BY series_id");
        let times = borders(range);
        let mut asked = self.session()?;
        let mut rows = asked.rows(&sql, &[&series, &times[0], &times[1], &times[2], &times[3]]).await?;
        let mut spans = Vec::new();
        while let Some(row) = asked.session.within(rows.try_next()).await? {
            spans.push(Span { series: row.get(0), first: row.get(1), last: row.get(2) });
        }
        asked.answered();
        Ok(spans)
    }
}
