//! What readers ask (see [`Reader`]): chunks through their index; lists in `lists`.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::error::Result;
use super::{SqliteStore, chunk, ledger, lists};
use crate::model::{SeriesId, SourceId, TimeMs};
use crate::store::{
    self, Chunk, ChunkRange, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Latest, Limit, Reader, SeriesFilter,
    SeriesRow, SourceLedger, Span, Store,
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

    async fn latest(&self, series: &[SeriesId], begins_from: TimeMs, begins_before: TimeMs) -> store::Result<Vec<Latest>> {
        let series = series.to_vec();
        self.connections.read(move |connection| latest(connection, &series, begins_from, begins_before)).await
    }

    async fn chunks(&self, series: &[SeriesId], range: &ChunkRange, max_samples: usize) -> store::Result<Option<Vec<Chunk>>> {
        let (series, range) = (series.to_vec(), *range);
        self.connections.read(move |connection| chunks(connection, &series, &range, max_samples)).await
    }

    async fn spans(&self, series: &[SeriesId], range: &ChunkRange) -> store::Result<Vec<Span>> {
        let (series, range) = (series.to_vec(), *range);
        self.connections.read(move |connection| spans(connection, &series, &range)).await
    }

    async fn ledger(&self, after: Option<SourceId>, limit: Limit) -> store::Result<Vec<SourceLedger>> {
        self.connections.read(move |connection| ledger::some(connection, after, limit)).await
    }

    async fn ready(&self) -> store::Result<()> {
        Store::ping(self).await
    }
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
    // As of one moment: what is committed between two series is in all of them or in none.
    let moment = connection.unchecked_transaction()?;
    let mut statement = moment.prepare_cached(&format!("SELECT {} FROM chunk WHERE {IN_RANGE}", chunk::COLUMNS))?;
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
