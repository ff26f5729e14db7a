//! One source's rows, from the reader through the builder into the window.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::window::{Halt, Parcel, Window};
use crate::batch::{self, Builder, Columns, Header, Reject, Segments};
use crate::model::{Position, Reason, TimeMs};
use crate::runtime::observe;
use crate::source::pace::{Realtime, Restamp};
use crate::source::{CsvReader, Fill, Kind, Row, SourceError};
use crate::transport::TransportError;

/// Rows between two looks at the clock and the other tasks: a few milliseconds.
const STRIDE: u32 = 4096;
/// What a rejected row counts for among them: it takes longer, and is written to the rejects file.
const REJECT: u32 = 64;
/// Rows that `--rate` lets go at once.
const RATE_STRIDE: u32 = 20;

/// Why a pump stopped.
#[derive(Debug)]
pub(super) enum End {
    /// The source is at its end and everything is in the queue.
    Finished(Position),
    /// The file was rewritten in place: another content begins under its name.
    Restarted,
    /// The queue is elsewhere: seek.
    Elsewhere(Option<Position>),
    /// The process is to end.
    Interrupted,
}

/// What stops a source for good.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The input.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] TransportError),
    /// `--strict`, or what a user has to change.
    #[error("{0}")]
    Stopped(String),
}

impl Failure {
    /// As the end of the process says it: what the queue refuses is still found as that.
    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Queue(error) => error.into(),
            other => other.into(),
        }
    }

    /// Whether the system could not read the file: trying again can help.
    pub(super) fn is_io(&self) -> bool {
        matches!(self, Self::Source(SourceError::Io { .. }))
    }

    /// Whether the other sources cannot go on either.
    pub(super) fn ends_all(&self) -> bool {
        match self {
            Self::Source(error) => matches!(error, SourceError::Rejects { .. }),
            Self::Queue(_) | Self::Stopped(_) => true,
        }
    }
}

enum Stop {
    End(End),
    Failure(Failure),
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Elsewhere(to) => Self::End(End::Elsewhere(to)),
            Halt::Interrupted => Self::End(End::Interrupted),
            Halt::Failed(error) => Self::Failure(error.into()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Failure(error.into())
    }
}

/// One source on its way.
pub(super) struct Pump<'a> {
    pub(super) shared: &'a Shared,
    pub(super) reader: &'a mut CsvReader,
    pub(super) window: Window,
    pub(super) builder: Builder,
    pub(super) segments: Segments,
    /// Source, family, cluster and name of every batch.
    pub(super) header: Header,
    /// What is added to source times; decided at the first row of a run with `--restamp`.
    pub(super) shift: &'a mut Shift,
    /// Rows below this were counted before.
    pub(super) counted: &'a mut u64,
    /// Series of the reader's table that batches have brought.
    pub(super) placed: usize,
    /// Rows that were counted but not yet told to the metrics.
    pub(super) fresh: u64,
    /// Rejects among them.
    pub(super) fresh_rejects: u64,
    /// Byte offset up to which progress was told, now or before.
    pub(super) told: &'a mut u64,
    /// `--realtime`.
    pub(super) pacer: Option<Realtime>,
    /// Rows that may go before `--rate` is asked again.
    pub(super) allowance: u32,
    /// With `--realtime`, the position before the row that waits in hand.
    pub(super) before: Option<Position>,
    /// What becomes of a followed file.
    pub(super) watch: super::watch::Followed,
}

/// The shift of a run: fixed once it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shift {
    /// Times are kept.
    None,
    /// The first time becomes now.
    Undecided,
    /// All are shifted by the same.
    By(Restamp),
}

impl Shift {
    fn apply(&mut self, time_ms: TimeMs, now_ms: TimeMs) -> Result<TimeMs, Reason> {
        let restamp = match self {
            Self::None => return Ok(time_ms),
            Self::By(restamp) => *restamp,
            Self::Undecided => Restamp::new(time_ms, now_ms),
        };
        *self = Self::By(restamp);
        restamp.apply(time_ms)
    }
}

impl Pump<'_> {
    /// Runs until the source has nothing more, or something stops it.
    pub(super) async fn run(&mut self) -> Result<End, Failure> {
        match self.run_on().await {
            Ok(end) | Err(Stop::End(end)) => Ok(end),
            Err(Stop::Failure(failure)) => Err(failure),
        }
    }

    async fn run_on(&mut self) -> Result<End, Stop> {
        let draining = self.shared.lifecycle.draining();
        loop {
            self.take_buffered().await?;
            let due = self.due();
            let fill = tokio::select! {
                biased;
                () = draining.cancelled() => return self.finish(End::Interrupted).await,
                fill = self.reader.fill() => match fill {
                    Ok(fill) => fill,
                    Err(error) => {
                        // What was read before the damage is good.
                        self.finish(End::Interrupted).await?;
                        return Err(error.into());
                    }
                },
                () = sleep_until(due), if due.is_some() => {
                    self.close().await?;
                    continue;
                }
                () = self.window.answered(), if !self.window.is_empty() => {
                    self.window.settle_answered().await?;
                    continue;
                }
            };
            match fill {
                Fill::Data => {}
                Fill::SeriesFull => {
                    self.close().await?;
                    self.reader.reset_series();
                    self.segments = Segments::new(self.shared.config.batch.max_new_series);
                    self.placed = 0;
                }
                Fill::Idle => {
                    if let Some(end) = self.idle().await? {
                        return Ok(end);
                    }
                }
                Fill::End => {
                    let at = self.reader.position();
                    return self.finish(End::Finished(at)).await;
                }
            }
        }
    }

    /// A followed file has nothing more now: what was collected goes when it is due, the answers are awaited; then, after a rest,
    /// the file and the queue are looked at.
    async fn idle(&mut self) -> Result<Option<End>, Stop> {
        let now = Instant::now();
        if self.due().is_some_and(|due| due <= now) {
            self.close().await?;
        }
        if self.builder.is_empty() {
            self.window.drain().await?;
        }
        let wake = now + self.shared.config.stream.poll;
        tokio::select! {
            () = tokio::time::sleep_until(self.due().map_or(wake, |due| due.min(wake))) => {}
            () = self.shared.lifecycle.draining().cancelled_owned() => return Ok(Some(self.finish(End::Interrupted).await?)),
        }
        if !self.builder.is_empty() {
            return Ok(None);
        }
        Ok(self.watch.look(self.shared, self.reader, self.window.confirmed()).await?)
    }

    /// Sends what was collected and waits until everything is accepted.
    async fn finish(&mut self, end: End) -> Result<End, Stop> {
        self.close().await?;
        self.window.drain().await?;
        Ok(end)
    }

    fn due(&self) -> Option<Instant> {
        self.builder.due().map(|due| self.shared.began + due)
    }

    /// Takes every row that is complete in memory.
    async fn take_buffered(&mut self) -> Result<(), Stop> {
        let mut now = self.shared.began.elapsed();
        let mut since_look = 0;
        let (paced, realtime) = (self.shared.pace.is_some(), self.pacer.is_some());
        loop {
            if paced {
                self.keep_rate().await?;
                now = self.shared.began.elapsed();
            }
            if realtime {
                self.before = Some(self.reader.position());
            }
            let Some(row) = self.reader.next_row() else { break };
            if realtime {
                self.keep_time(&row).await?;
                now = self.shared.began.elapsed();
            }
            self.before = None;
            let weight = if matches!(row.kind, Kind::Sample { .. }) { 1 } else { REJECT };
            self.take(row, now).await?;
            since_look += weight;
            if since_look >= STRIDE {
                since_look = 0;
                tokio::task::yield_now().await;
                now = self.shared.began.elapsed();
                if self.shared.lifecycle.draining().is_cancelled() {
                    return Err(Stop::End(self.finish(End::Interrupted).await?));
                }
            }
            let new_series = self.reader.series_len().saturating_sub(self.placed);
            if self.builder.is_full()
                || new_series >= self.shared.config.batch.max_new_series
                || ((since_look == 0 || paced) && self.builder.due().is_some_and(|due| due <= now))
            {
                self.close().await?;
            }
        }
        self.before = None;
        Ok(())
    }

    /// `--rate`: waits until another row may be read.
    async fn keep_rate(&mut self) -> Result<(), Stop> {
        if self.allowance == 0 {
            self.allowance = RATE_STRIDE;
            let wait = self.shared.wait_for_rows(u64::from(RATE_STRIDE));
            self.rest(wait).await?;
        }
        self.allowance -= 1;
        Ok(())
    }

    /// `--realtime`: waits until this row's time has come.
    async fn keep_time(&mut self, row: &Row) -> Result<(), Stop> {
        let Kind::Sample { time_ms, .. } = row.kind else { return Ok(()) };
        let wait = self.pacer.as_mut().map_or(Duration::ZERO, |pacer| pacer.due(time_ms, std::time::Instant::now()));
        self.rest(wait).await
    }

    /// Waits, and sends what is due meanwhile.
    async fn rest(&mut self, wait: Duration) -> Result<(), Stop> {
        let mut at = Instant::now();
        let until = at + wait;
        while at < until {
            let next = self.due().map_or(until, |due| due.min(until));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.window.answered(), if !self.window.is_empty() => {}
                () = self.shared.lifecycle.draining().cancelled_owned() => return Err(Stop::End(self.finish(End::Interrupted).await?)),
            }
            at = Instant::now();
            self.window.settle_answered().await?;
            if self.due().is_some_and(|due| due <= at) {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, row: Row, now: Duration) -> Result<(), Stop> {
        let first_time = row.row >= *self.counted;
        if first_time {
            *self.counted = row.row + 1;
            self.fresh += 1;
        }
        match row.kind {
            Kind::Sample { series, time_ms, value } => {
                match self.shift.apply(time_ms, self.shared.started_ms) {
                    Ok(time_ms) => self.builder.sample(series, time_ms, value, now),
                    // A reader's sample does not tell its line.
                    Err(reason) => self.builder.reject(Reject { row: row.row, line: 0, reason }, now),
                }
            }
            Kind::Reject { line, reason } => {
                if first_time {
                    self.note_reject(row.row, line, reason).await?;
                }
                self.builder.reject(Reject { row: row.row, line, reason }, now);
            }
        }
        Ok(())
    }

    async fn note_reject(&mut self, row: u64, line: u64, reason: Reason) -> Result<(), Stop> {
        observe::rows_rejected(reason, 1);
        self.fresh_rejects += 1;
        let name = &self.header.name;
        self.shared.rejections.note(reason, name, line);
        self.shared.write_reject(name, row, (line, reason), self.reader).await?;
        if self.shared.config.stream.strict {
            let why =
                format!("{name}, line {line}: the row is rejected as {reason}, and --strict stops at the first rejected row");
            return Err(Stop::Failure(Failure::Stopped(why)));
        }
        Ok(())
    }

    /// Encodes what was collected and sends it.
    async fn close(&mut self) -> Result<(), Stop> {
        let Some(columns) = self.builder.take() else { return Ok(()) };
        let next = self.before.unwrap_or_else(|| self.reader.position());
        let (rows, rejects) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.fresh_rejects));
        observe::rows_read(rows);
        self.shared.count(rows, rejects);
        let parcel = self.encode(&columns, next);
        self.shared.progress.advance(rows, parcel.raw_bytes);
        Ok(self.window.push(parcel).await?)
    }

    fn encode(&mut self, columns: &Columns, next: Position) -> Parcel {
        let reader = &*self.reader;
        self.placed = reader.series_len();
        self.segments.place(columns, |series| reader.series(series));
        self.header.created_ms = TimeMs::now();
        self.header.dictionaries = self.segments.ids();
        let level = self.shared.config.batch.compression_level;
        let payload = batch::encode(&self.header, columns, self.segments.placement(), level);
        let raw_bytes = next.offset.saturating_sub(*self.told);
        *self.told = next.offset.max(*self.told);
        Parcel { rows: columns.rows, next, payload, dictionaries: self.segments.all().to_vec(), raw_bytes }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
