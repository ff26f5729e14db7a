//! What readers ask (see [`Reader`]): chunks through their index; lists in `lists`.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::time::Instant;

use super::connections::Borrowed;
use super::error::Result;
use super::{SqliteStore, chunk, ledger, lists};
use crate::model::{SeriesId, SourceId, TimeMs};
use crate::store::{
    self, Chunk, ChunkRange, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Ids, Latest, Limit, Reader,
    SeriesFilter, SeriesRow, Snapshot, SnapshotFor, SourceLedger, Span, Store, StoreError,
};

#[async_trait]
impl Reader for SqliteStore {
    async fn clusters(&self) -> store::Result<Vec<ClusterSummary>> {
        self.connections.read(lists::clusters).await
    }

    async fn hosts(&self, filter: &GpuFilter, after: Option<(&str, &str)>, limit: Limit) -> store::Result<Vec<HostSummary>> {
        let (filter, after) = (filter.clone(), after.map(|(cluster, hostname)| (cluster.to_owned(), hostname.to_owned())));
        self.connections.read(move |connection| lists::hosts(connection, &filter, after, limit)).await
    }

    async fn gpus(&self, filter: &GpuFilter, after: Option<&GpuPlace>, limit: Limit) -> store::Result<Vec<GpuSummary>> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.connections.read(move |connection| lists::gpus(connection, &filter, after, limit)).await
    }

    async fn series(&self, filter: &SeriesFilter, after: SeriesId, limit: Limit) -> store::Result<Vec<SeriesRow>> {
        let filter = filter.clone();
        self.connections.read(move |connection| lists::series(connection, &filter, after, limit)).await
    }

    async fn metrics(&self, after: &str, limit: Limit) -> store::Result<Vec<String>> {
        let after = after.to_owned();
        self.connections.read(move |connection| lists::metrics(connection, after, limit)).await
    }

    async fn snapshot(&self, purpose: SnapshotFor, patience: Duration) -> store::Result<Box<dyn Snapshot>> {
        let borrowed = self.connections.borrow_for(purpose, Instant::now() + patience).await?;
        Ok(Box::new(SqliteSnapshot { borrowed: Some(borrowed), endpoint: self.connections.endpoint.clone() }))
    }

    async fn ledger(&self, after: Option<SourceId>, limit: Limit) -> store::Result<Vec<SourceLedger>> {
        self.connections.read(move |connection| ledger::some(connection, after, limit)).await
    }

    async fn ready(&self) -> store::Result<()> {
        Store::ping(self).await
    }
}

/// Samples as of one moment: a transaction that reads, which begins with the first question.
struct SqliteSnapshot {
    /// Taken away while a question is answered; gone where one was broken off.
    borrowed: Option<Borrowed>,
    endpoint: String,
}

impl SqliteSnapshot {
    async fn ask<T: Send + 'static>(
        &mut self,
        question: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> store::Result<T> {
        let away = |reason: String| StoreError::Unavailable { endpoint: self.endpoint.clone(), reason };
        let over = || away("the snapshot is over: a question to it was broken off".to_owned());
        let borrowed = self.borrowed.take().ok_or_else(over)?;
        let answered = borrowed.read(|connection| {
            if connection.is_autocommit() {
                connection.execute_batch("BEGIN")?;
            }
            question(connection)
        });
        let (borrowed, answer) = answered.await.map_err(|error| away(format!("internal error: {error}")))?;
        self.borrowed = Some(borrowed);
        answer.map_err(|fault| fault.explain(&self.endpoint))
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn latest(&mut self, series: &[Ids], begins_from: TimeMs, begins_before: TimeMs) -> store::Result<Vec<Latest>> {
        let series = ids(series);
        self.ask(move |connection| latest(connection, &series, begins_from, begins_before)).await
    }

    async fn chunks(&mut self, series: &[Ids], range: &ChunkRange, max_samples: usize) -> store::Result<Option<Vec<Chunk>>> {
        let (series, range) = (ids(series), *range);
        self.ask(move |connection| chunks(connection, &series, &range, max_samples)).await
    }

    async fn spans(&mut self, series: &[Ids], range: &ChunkRange) -> store::Result<Vec<Span>> {
        let (series, range) = (ids(series), *range);
        self.ask(move |connection| spans(connection, &series, &range)).await
    }
}

/// Everything is kept by series here.
fn ids(series: &[Ids]) -> Vec<SeriesId> {
    series.iter().map(|ids| ids.series).collect()
}

fn latest(connection: &Connection, series: &[SeriesId], from: TimeMs, before: TimeMs) -> Result<Vec<Latest>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM chunk WHERE series_id = ?1 AND t_min >= ?2 AND t_min < ?3 ORDER BY t_max DESC, id DESC LIMIT 1",
        chunk::COLUMNS
    ))?;
    let mut decoder = chunk::Decoder::default();
    let mut newest = Vec::with_capacity(series.len());
    for id in series {
        let mut rows = statement.query(params![id, from, before])?;
        let Some(row) = rows.next()? else { continue };
        let chunk = decoder.decode(row)?;
        if let (Some(time), Some(value)) = (chunk.times.last(), chunk.values.last()) {
            newest.push(Latest { series: *id, time: *time, value: *value });
        }
    }
    Ok(newest)
}

/// Chunks of a series in a range: the parameters are its [`borders`].
const IN_RANGE: &str = "series_id = ?1 AND t_max >= ?2 AND t_max < ?3 AND t_min >= ?4 AND t_min < ?5";

fn borders(series: SeriesId, range: &ChunkRange) -> (SeriesId, TimeMs, TimeMs, TimeMs, TimeMs) {
    (series, range.ends_from, range.ends_before, range.begins_from, range.begins_before)
}

fn spans(connection: &Connection, series: &[SeriesId], range: &ChunkRange) -> Result<Vec<Span>> {
    let mut statement = connection.prepare_cached(&format!("SELECT min(t_min), max(t_max) FROM chunk WHERE {IN_RANGE}"))?;
    let mut spans = Vec::new();
    for id in series {
        let found: (Option<TimeMs>, Option<TimeMs>) =
            statement.query_row(borders(*id, range), |row| Ok((row.get(0)?, row.get(1)?)))?;
        if let (Some(first), Some(last)) = found {
            spans.push(Span { series: *id, first, last });
        }
    }
    Ok(spans)
}

/// `None` as soon as there are too many: the rest is left unread.
fn chunks(connection: &Connection, series: &[SeriesId], range: &ChunkRange, max_samples: usize) -> Result<Option<Vec<Chunk>>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {} FROM chunk WHERE {IN_RANGE}", chunk::COLUMNS))?;
    let mut decoder = chunk::Decoder::default();
    let (mut chunks, mut samples) = (Vec::new(), 0);
    for id in series {
        let mut rows = statement.query(borders(*id, range))?;
        while let Some(row) = rows.next()? {
            let chunk = decoder.decode(row)?;
            samples += chunk.times.len();
            if samples > max_samples {
                return Ok(None);
            }
            chunks.push(chunk);
        }
    }
    Ok(Some(chunks))
}
