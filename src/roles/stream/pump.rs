//! One source's rows, from the reader through the builder into the window.

use std::time::Duration;

use tokio::time::Instant;

use super::context::StreamContext;
use super::followed_file::{FollowedFile, Look};
use super::open_files::{self, OpenSlot};
use super::outcome::{PumpEnd, SourceFailure};
use super::shift::Shift;
use super::window::{Halt, Parcel, Window};
use crate::batch::{self, Builder, Columns, Header, Reject, Segments};
use crate::model::{Position, Reason, TimeMs};
use crate::runtime::observe;
use crate::source::pace::Realtime;
use crate::source::{CsvReader, Fill, Row, RowKind, SourceError};

/// Rows between two looks at the clock and the other tasks: a few milliseconds.
const STRIDE: u32 = 4096;
/// What a rejected row counts for among them: it takes longer, and is written to the rejects file.
const REJECT: u32 = 64;
/// Rows that `--rate` lets go at once.
const RATE_STRIDE: u32 = 20;

/// What keeps a pump from going on.
enum Stop {
    End(PumpEnd),
    Failure(SourceFailure),
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Elsewhere(to) => Self::End(PumpEnd::Elsewhere(to)),
            Halt::Interrupted => Self::End(PumpEnd::Interrupted),
            Halt::Failed(error) => Self::Failure(error.into()),
        }
    }
}

impl From<SourceFailure> for Stop {
    fn from(failure: SourceFailure) -> Self {
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
    pub(super) context: &'a StreamContext,
    pub(super) reader: &'a mut CsvReader,
    pub(super) window: Window,
    pub(super) builder: Builder,
    pub(super) segments: Segments,
    /// Source, family, cluster and name of every batch.
    pub(super) header: Header,
    /// What is added to source times; decided at the first row of a run with `--restamp`.
    pub(super) shift: &'a mut Shift,
    /// The first row that was not counted yet: rows below it are read again.
    pub(super) next_uncounted_row: &'a mut u64,
    /// How many series the reader had met when the last batch was closed.
    pub(super) met: u64,
    /// Rows that were counted but not yet reported to the metrics.
    pub(super) unreported_rows: u64,
    /// Rejects among them.
    pub(super) unreported_rejects: u64,
    /// Byte offset up to which progress was reported, now or before.
    pub(super) reported_offset: &'a mut u64,
    /// `--realtime`.
    pub(super) pacer: Option<Realtime>,
    /// Rows that may go before `--rate` is asked again.
    pub(super) allowance: u32,
    /// With `--realtime`, the position before the row that waits in hand.
    pub(super) position_before_row: Option<Position>,
    /// What becomes of a followed file.
    pub(super) followed: FollowedFile,
    /// A followed file's right to be open.
    pub(super) slot: Option<&'a mut OpenSlot>,
}

impl Pump<'_> {
    /// Runs until the source has nothing more, or something stops it.
    pub(super) async fn run(&mut self) -> Result<PumpEnd, SourceFailure> {
        match self.run_on().await {
            Ok(end) | Err(Stop::End(end)) => Ok(end),
            Err(Stop::Failure(failure)) => Err(failure),
        }
    }

    async fn run_on(&mut self) -> Result<PumpEnd, Stop> {
        let draining = self.context.lifecycle.draining();
        loop {
            self.take_buffered().await?;
            let due = self.due();
            let fill = tokio::select! {
                biased;
                () = draining.cancelled() => return self.finish(PumpEnd::Interrupted).await,
                fill = self.reader.fill() => match fill {
                    Ok(fill) => fill,
                    Err(error) => {
                        // What was read before the damage is good.
                        self.finish(PumpEnd::Interrupted).await?;
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
                Fill::Data => {
                    if let Some(slot) = &mut self.slot {
                        slot.note_activity();
                    }
                }
                Fill::SeriesFull => {
                    self.close().await?;
                    self.segments.forget(&self.reader.release_series(false));
                }
                Fill::Idle => {
                    if let Some(end) = self.idle().await? {
                        return Ok(end);
                    }
                }
                Fill::End => {
                    let at = self.reader.position();
                    return self.finish(PumpEnd::Finished(at)).await;
                }
            }
        }
    }

    /// A followed file has nothing more now: what was collected goes when it is due, the answers are awaited; then, after a rest,
    /// the file and the queue are looked at. Where others wait for its place, it is closed.
    async fn idle(&mut self) -> Result<Option<PumpEnd>, Stop> {
        let now = Instant::now();
        if self.due().is_some_and(|due| due <= now) {
            self.close().await?;
        }
        if self.builder.is_empty() {
            self.window.drain().await?;
        }
        let wake = now + self.context.config.stream.poll;
        tokio::select! {
            () = tokio::time::sleep_until(self.due().map_or(wake, |due| due.min(wake))) => {}
            () = open_files::close_requested(self.slot.as_deref()), if self.builder.is_empty() => {}
            () = self.context.lifecycle.draining().cancelled_owned() => return Ok(Some(self.finish(PumpEnd::Interrupted).await?)),
        }
        if !self.builder.is_empty() {
            return Ok(None);
        }
        let look = self.followed.look(self.context, self.reader, self.window.confirmed()).await?;
        if let Some(slot) = self.slot.as_deref().filter(|slot| slot.is_close_requested()) {
            if matches!(look, Look::Unchanged) && self.reader.state_as_read().await?.is_some() {
                return Ok(Some(PumpEnd::Closed));
            }
            slot.decline();
        }
        match look {
            Look::End(end) => Ok(Some(end)),
            Look::Unchanged | Look::Changed => Ok(None),
        }
    }

    /// Sends what was collected and waits until everything is accepted.
    async fn finish(&mut self, end: PumpEnd) -> Result<PumpEnd, Stop> {
        self.close().await?;
        self.window.drain().await?;
        Ok(end)
    }

    fn due(&self) -> Option<Instant> {
        self.builder.due().map(|due| self.context.began + due)
    }

    /// Takes every row that is complete in memory.
    async fn take_buffered(&mut self) -> Result<(), Stop> {
        let mut now = self.context.began.elapsed();
        let mut since_look = 0;
        let (paced, realtime) = (self.context.pace.is_some(), self.pacer.is_some());
        loop {
            if paced {
                self.keep_rate().await?;
                now = self.context.began.elapsed();
            }
            if realtime {
                self.position_before_row = Some(self.reader.position());
            }
            let Some(row) = self.reader.next_row() else { break };
            if realtime {
                self.keep_time(&row).await?;
                now = self.context.began.elapsed();
            }
            self.position_before_row = None;
            let weight = if matches!(row.kind, RowKind::Sample { .. }) { 1 } else { REJECT };
            self.take(row, now).await?;
            since_look += weight;
            if since_look >= STRIDE {
                since_look = 0;
                tokio::task::yield_now().await;
                now = self.context.began.elapsed();
                if self.context.lifecycle.draining().is_cancelled() {
                    return Err(Stop::End(self.finish(PumpEnd::Interrupted).await?));
                }
            }
            let new_series = self.reader.series_met() - self.met;
            if self.builder.is_full()
                || new_series >= self.context.config.batch.max_new_series as u64
                || ((since_look == 0 || paced) && self.builder.due().is_some_and(|due| due <= now))
            {
                self.close().await?;
            }
        }
        self.position_before_row = None;
        Ok(())
    }

    /// `--rate`: waits until another row may be read.
    async fn keep_rate(&mut self) -> Result<(), Stop> {
        if self.allowance == 0 {
            self.allowance = RATE_STRIDE;
            let wait = self.context.wait_for_rows(u64::from(RATE_STRIDE));
            self.rest(wait).await?;
        }
        self.allowance -= 1;
        Ok(())
    }

    /// `--realtime`: waits until this row's time has come.
    async fn keep_time(&mut self, row: &Row) -> Result<(), Stop> {
        let RowKind::Sample { time_ms, .. } = row.kind else { return Ok(()) };
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
                () = self.context.lifecycle.draining().cancelled_owned() => return Err(Stop::End(self.finish(PumpEnd::Interrupted).await?)),
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
        let first_time = row.row >= *self.next_uncounted_row;
        if first_time {
            *self.next_uncounted_row = row.row + 1;
            self.unreported_rows += 1;
        }
        match row.kind {
            RowKind::Sample { series, time_ms, value } => {
                match self.shift.apply(time_ms) {
                    Ok(time_ms) => self.builder.sample(series, time_ms, value, now),
                    // A reader's sample does not tell its line.
                    Err(reason) => self.builder.reject(Reject { row: row.row, line: 0, reason }, now),
                }
            }
            RowKind::Reject { line, reason } => {
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
        self.unreported_rejects += 1;
        let name = &self.header.name;
        self.context.rejections.note(reason, name, line);
        self.context.write_reject(name, row, (line, reason), self.reader).await?;
        if self.context.config.stream.strict {
            let why =
                format!("{name}, line {line}: the row is rejected as {reason}, and --strict stops at the first rejected row");
            return Err(Stop::Failure(SourceFailure::Stopped(why)));
        }
        Ok(())
    }

    /// Encodes what was collected and sends it.
    async fn close(&mut self) -> Result<(), Stop> {
        let Some(columns) = self.builder.take() else { return Ok(()) };
        let next = self.position_before_row.unwrap_or_else(|| self.reader.position());
        let (rows, rejects) = (std::mem::take(&mut self.unreported_rows), std::mem::take(&mut self.unreported_rejects));
        observe::rows_read(rows);
        self.context.count(rows, rejects);
        let parcel = self.encode(&columns, next);
        self.context.progress.advance(rows, parcel.raw_bytes);
        Ok(self.window.push(parcel).await?)
    }

    fn encode(&mut self, columns: &Columns, next: Position) -> Parcel {
        // A row that waits in hand is not among the columns.
        let dropped = self.reader.release_series(self.position_before_row.is_some());
        self.segments.forget(&dropped);
        let reader = &*self.reader;
        self.met = reader.series_met();
        self.segments.place(columns, |series| reader.series(series));
        self.header.created_ms = TimeMs::now();
        self.header.dictionaries = self.segments.ids();
        let level = self.context.config.batch.compression_level;
        let payload = batch::encode(&self.header, columns, self.segments.placement(), level);
        let raw_bytes = next.offset.saturating_sub(*self.reported_offset);
        *self.reported_offset = next.offset.max(*self.reported_offset);
        Parcel { rows: columns.rows, next, payload, dictionaries: self.segments.all(), raw_bytes }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
