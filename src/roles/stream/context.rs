//! [`StreamContext`]: configuration, queue, limits and counts that all sources of one streamer have in common.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::obstacle::{Obstacles, Question};
use super::open_files::OpenFiles;
use super::rejections::Rejections;
use super::storing::Storing;
use super::unreadable::Unreadable;
use crate::config::Config;
use crate::model::{Partition, Reason, TimeMs};
use crate::retry::Backoff;
use crate::runtime::{Lifecycle, Progress};
use crate::source::pace::Rate;
use crate::source::{Columns, CsvReader, Input, Options, Rejects, SourceError};
use crate::transport::{Publisher, TransportError};

/// Followed files are many and mostly quiet: each holds a small buffer.
const FOLLOW_BLOCK: usize = 64 << 10;
/// First and longest wait between two questions to a queue that does not answer.
pub(super) const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What all sources of one streamer have in common.
pub(super) struct StreamContext {
    pub(super) config: Arc<Config>,
    pub(super) lifecycle: Lifecycle,
    pub(super) publisher: Arc<dyn Publisher>,
    /// `--rate`, all sources together.
    pub(super) pace: Option<Mutex<Rate>>,
    rejects: Option<tokio::sync::Mutex<Rejects>>,
    pub(super) progress: Progress,
    /// The clock of builders.
    pub(super) began: Instant,
    /// Wall clock at the start: what `--restamp` shifts the first round to.
    pub(super) started_ms: TimeMs,
    /// Tells this run's rounds (`--loop`, `--restamp`) from those of other runs.
    pub(super) nonce: u64,
    /// How long a lease lasts without renewing.
    pub(super) lease_ttl: Duration,
    /// Who holds our leases.
    pub(super) owner: String,
    /// Leases held: who has many is slower to take more, so that replicas share.
    pub(super) leases_held: AtomicU64,
    /// Sources that are not yet at their end.
    pub(super) unfinished: watch::Sender<usize>,
    readers: Vec<Semaphore>,
    rows: AtomicU64,
    rejected: AtomicU64,
    /// Columns of files that do not name them (`stream.columns`).
    pub(super) columns: Option<Columns>,
    pub(super) unreadable: Unreadable,
    /// Why rows were rejected.
    pub(super) rejections: Rejections,
    /// Rows of the sources that are at their end, those of earlier runs too.
    pub(super) rows_of_finished: AtomicU64,
    /// How many files are open at once.
    pub(super) open_files: OpenFiles,
    /// Rows that wait to be stored.
    pub(super) storing: Storing,
    /// What keeps questions from being answered.
    obstacles: Obstacles,
}

impl StreamContext {
    pub(super) fn new(
        config: Arc<Config>,
        lifecycle: Lifecycle,
        publisher: Arc<dyn Publisher>,
        rejects: Option<Rejects>,
        progress: Progress,
        max_open_files: usize,
    ) -> Result<Self, SourceError> {
        let stream = &config.stream;
        let stream_columns = if stream.columns.is_empty() { None } else { Some(Columns::named(&stream.columns)?) };
        let readers = publisher.partitions().iter().map(|_| Semaphore::new(stream.readers_per_partition)).collect();
        let nonce = rand::random();
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        Ok(Self {
            pace: stream.rate.map(|rate| Mutex::new(Rate::new(rate as f64))),
            rejects: rejects.map(tokio::sync::Mutex::new),
            began: Instant::now(),
            started_ms: TimeMs::now(),
            nonce,
            lease_ttl: config.redis.lease_ttl,
            owner: format!("{host}-{}-{nonce:016x}", std::process::id()),
            leases_held: AtomicU64::new(0),
            unfinished: watch::Sender::new(0),
            readers,
            rows: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            columns: stream_columns,
            unreadable: Unreadable::new(lifecycle.health()),
            rejections: Rejections::default(),
            rows_of_finished: AtomicU64::new(0),
            open_files: OpenFiles::new(max_open_files),
            storing: Storing::default(),
            obstacles: Obstacles::default(),
            config,
            lifecycle,
            publisher,
            progress,
        })
    }

    /// How sources are read.
    pub(super) fn options(&self) -> Options {
        let stream = &self.config.stream;
        Options {
            max_record_bytes: stream.max_record_bytes,
            max_cell_bytes: stream.max_cell_bytes,
            max_series: stream.max_series,
            max_series_bytes: stream.max_series_bytes,
            block_bytes: if stream.follow { stream.block_bytes.min(FOLLOW_BLOCK) } else { stream.block_bytes },
            poll: stream.poll,
        }
    }

    /// Those that may read for a partition: a partition that stands still keeps no other from being read for.
    pub(super) fn readers(&self, partition: Partition) -> &Semaphore {
        &self.readers[partition.index()]
    }

    /// How long so many more rows have to wait.
    pub(super) fn wait_for_rows(&self, rows: u64) -> Duration {
        let Some(pace) = &self.pace else { return Duration::ZERO };
        pace.lock().unwrap_or_else(PoisonError::into_inner).take(rows, std::time::Instant::now())
    }

    /// Waits, or gives up: `false` = the process is to end.
    pub(super) async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.lifecycle.draining().cancelled_owned() => false,
        }
    }

    /// A question to the queue: what keeps it from being answered is said.
    pub(super) fn question(&self) -> Question<'_> {
        Question::new(&self.lifecycle, &self.obstacles)
    }

    /// Asks the queue until it answers; `None` when the process is to end first.
    pub(super) async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<Option<T>, TransportError>
    where
        F: Future<Output = Result<T, TransportError>>,
    {
        let (mut backoff, mut asked) = (Backoff::new(WAIT.0, WAIT.1), self.question());
        loop {
            match question().await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "asking Redis");
                    asked.unanswered(&error);
                    if !self.rest(backoff.next()).await {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts rows that were taken for the first time.
    pub(super) fn count(&self, rows: u64, rejected: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
    }

    /// Rows taken, and those of them that were rejected.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.rows.load(Ordering::Relaxed), self.rejected.load(Ordering::Relaxed))
    }

    /// Writes the last row of a reader to the rejects file, where one is wanted.
    pub(super) async fn write_reject(
        &self,
        name: &str,
        row: u64,
        why: (u64, Reason),
        reader: &CsvReader,
    ) -> Result<(), SourceError> {
        let Some(rejects) = &self.rejects else { return Ok(()) };
        rejects.lock().await.write(name, row, why, reader.value_cell(), reader.raw(), std::time::Instant::now()).await
    }

    /// Writes what waits for the rejects file.
    pub(super) async fn flush_rejects(&self) -> Result<(), SourceError> {
        match &self.rejects {
            Some(rejects) => rejects.lock().await.flush().await,
            None => Ok(()),
        }
    }

    /// The end of the run.
    pub(super) async fn close(&self) -> anyhow::Result<()> {
        self.progress.finish();
        Ok(self.flush_rejects().await?)
    }
}

/// Opens the rejects file, where one is wanted.
pub(super) async fn open_rejects(config: &Config) -> Result<Option<Rejects>, SourceError> {
    match &config.stream.rejects {
        Some(path) => Rejects::open(path).await.map(Some),
        None => Ok(None),
    }
}

/// The size of all inputs, where every one of them has one that says something.
pub(super) async fn total_bytes(inputs: &[Input]) -> Option<u64> {
    let mut total = 0;
    for input in inputs {
        let path = input.path()?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
            return None;
        }
        total += tokio::fs::metadata(path).await.ok()?.len();
    }
    Some(total)
}
