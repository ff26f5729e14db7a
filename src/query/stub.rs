//! A store and a queue of given content, for this room's tests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{IntervalMs, Partition, Partitions, RowRange, SeriesId, SourceId, TimeMs};
use crate::store::{
    self, Chunk, ChunkRange, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Ids, Latest, Limit, Reader,
    SeriesFilter, SeriesRow, Snapshot, SnapshotFor, SourceLedger, Span, Texts,
};
use crate::transport::{self, Backlog, Inspector, PartitionState, SourceState, TransportError};

/// A store of given chunks, GPUs, series and sources.
#[derive(Debug, Default)]
pub(super) struct Stub {
    pub(super) chunks: Vec<Chunk>,
    pub(super) gpus: Vec<GpuSummary>,
    pub(super) series: Vec<SeriesRow>,
    pub(super) ledger: Vec<SourceLedger>,
    /// Whether each snapshot finds the samples in other chunks.
    pub(super) is_rewritten: bool,
    pub(super) snapshots: AtomicUsize,
}

fn within<'a, T: Texts + Clone + 'a>(limit: Limit, rows: impl Iterator<Item = &'a T>) -> Vec<T> {
    let mut bytes = 0;
    rows.take(limit.rows)
        .take_while(|row| {
            let before = bytes;
            bytes += row.text_bytes();
            before < limit.bytes
        })
        .cloned()
        .collect()
}

#[async_trait]
impl Reader for Stub {
    async fn clusters(&self) -> store::Result<Vec<ClusterSummary>> {
        Ok(Vec::new())
    }
    async fn hosts(&self, _: &GpuFilter, _: Option<(&str, &str)>, _: Limit) -> store::Result<Vec<HostSummary>> {
        Ok(Vec::new())
    }
    async fn gpus(&self, _: &GpuFilter, after: Option<&GpuPlace>, limit: Limit) -> store::Result<Vec<GpuSummary>> {
        Ok(within(limit, self.gpus.iter().filter(|gpu| after.is_none_or(|after| gpu.place > *after))))
    }
    async fn series(&self, filter: &SeriesFilter, after: SeriesId, limit: Limit) -> store::Result<Vec<SeriesRow>> {
        let of = |series: &SeriesRow| filter.gpu_ids.as_ref().is_none_or(|ids| ids.contains(&series.gpu_id));
        let wanted = |series: &&SeriesRow| series.id > after && of(series);
        Ok(within(limit, self.series.iter().filter(wanted)))
    }
    async fn metrics(&self, _: &str, _: Limit) -> store::Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn snapshot(&self, _: SnapshotFor, _: Duration) -> store::Result<Box<dyn Snapshot>> {
        let taken = self.snapshots.fetch_add(1, Ordering::Relaxed);
        let chunks = if self.is_rewritten { rewritten(&self.chunks, taken) } else { self.chunks.clone() };
        Ok(Box::new(StubSnapshot { chunks }))
    }
    async fn ledger(&self, after: Option<SourceId>, limit: Limit) -> store::Result<Vec<SourceLedger>> {
        let mut ledger: Vec<_> = self.ledger.iter().filter(|one| Some(one.source) > after).cloned().collect();
        ledger.sort_by_key(|one| one.source);
        ledger.truncate(limit.rows);
        let mut bytes = 0;
        let fitting = ledger.iter().take_while(|one| {
            let fits = bytes < limit.bytes;
            bytes += one.text_bytes();
            fits
        });
        let count = fitting.count();
        ledger.truncate(count);
        Ok(ledger)
    }
    async fn ready(&self) -> store::Result<()> {
        Ok(())
    }
}

/// The same samples in other chunks: those of a series and a day as one, or in pieces of a length that differs each time.
fn rewritten(chunks: &[Chunk], taken: usize) -> Vec<Chunk> {
    let length = [usize::MAX, 7, 1, 40][taken % 4];
    let day = |chunk: &Chunk| chunk.times[0].floor_to(IntervalMs::DAY);
    let mut sorted: Vec<&Chunk> = chunks.iter().collect();
    sorted.sort_by_key(|chunk| (chunk.series, day(chunk), chunk.id));
    let mut all = Vec::new();
    for some in sorted.chunk_by(|one, other| one.series == other.series && day(one) == day(other)) {
        let mut samples: Vec<(TimeMs, f64)> =
            some.iter().flat_map(|chunk| chunk.times.iter().copied().zip(chunk.values.iter().copied())).collect();
        samples.sort_by_key(|(time, _)| *time);
        let id = some.iter().map(|chunk| chunk.id).max().unwrap_or_default();
        all.extend(samples.chunks(length).map(|piece| {
            let (times, values) = piece.iter().copied().unzip();
            Chunk { series: some[0].series, id, times, values }
        }));
    }
    all
}

/// What a stub holds at one moment.
struct StubSnapshot {
    chunks: Vec<Chunk>,
}

#[async_trait]
impl Snapshot for StubSnapshot {
    /// The newest sample of every series has its id as time and value.
    async fn latest(&mut self, series: &[Ids], _: TimeMs, _: TimeMs) -> store::Result<Vec<Latest>> {
        Ok(series
            .iter()
            .map(|ids| ids.series)
            .map(|id| Latest { series: id, time: TimeMs::from_millis(id.to_store()), value: id.to_store() as f64 })
            .collect())
    }
    async fn chunks(&mut self, series: &[Ids], r: &ChunkRange, max: usize) -> store::Result<Option<Vec<Chunk>>> {
        let inside = |chunk: &&Chunk| {
            let (first, last) = (chunk.times[0], *chunk.times.last().expect("it has some"));
            series.iter().any(|ids| ids.series == chunk.series)
                && (r.begins_from..r.begins_before).contains(&first)
                && (r.ends_from..r.ends_before).contains(&last)
        };
        let found: Vec<Chunk> = self.chunks.iter().filter(inside).cloned().collect();
        let n: usize = found.iter().map(|chunk| chunk.times.len()).sum();
        Ok((n <= max).then_some(found))
    }
    async fn spans(&mut self, series: &[Ids], r: &ChunkRange) -> store::Result<Vec<Span>> {
        let chunks = self.chunks(series, r, usize::MAX).await?.unwrap_or_default();
        let span = |id: SeriesId| {
            let mine = || chunks.iter().filter(|chunk| chunk.series == id).flat_map(|chunk| &chunk.times);
            Some(Span { series: id, first: *mine().min()?, last: *mine().max()? })
        };
        Ok(series.iter().map(|ids| ids.series).filter_map(span).collect())
    }
}

/// A queue of which some partitions do not answer: those of `away` fail, `silent` says nothing at all.
pub(super) struct StubQueue {
    pub(super) partitions: Partitions,
    pub(super) away: Vec<u16>,
    pub(super) silent: Option<u16>,
}

impl StubQueue {
    async fn reach(&self, partition: Partition) -> transport::Result<()> {
        if self.silent == Some(partition.number()) {
            std::future::pending::<()>().await;
        }
        if self.away.contains(&partition.number()) {
            let (endpoint, reason) = ("redis-3.internal:6379".to_owned(), "connection refused".to_owned());
            return Err(TransportError::Unavailable { endpoint, reason });
        }
        Ok(())
    }
}

#[async_trait]
impl Inspector for StubQueue {
    fn partitions(&self) -> Partitions {
        self.partitions
    }
    async fn sources(&self, partition: Partition) -> transport::Result<Vec<SourceState>> {
        self.reach(partition).await.map(|()| Vec::new())
    }
    async fn queued(&self, _: Partition) -> transport::Result<Vec<(SourceId, RowRange)>> {
        Ok(Vec::new())
    }
    async fn reset(&self, _: Option<SourceId>) -> transport::Result<u64> {
        Ok(0)
    }
    async fn backlog(&self, _: Partition) -> transport::Result<Backlog> {
        Ok(Backlog::default())
    }
    async fn look(&self, partition: Partition, _: usize) -> transport::Result<PartitionState> {
        self.reach(partition).await.map(|()| PartitionState::default())
    }
}
