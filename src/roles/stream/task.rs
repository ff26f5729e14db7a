//! One source: which it is, whose it is, and the pump.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::batch::{Builder, Header, Limits, Segments};
use crate::config::Until;
use crate::model::{FamilyId, Position, SourceId, TimeMs};
use crate::protocol::completion::{Completion, Goal, Step};
use crate::retry::Backoff;
use crate::source::follow::{Change, FileState};
use crate::source::pace::Realtime;
use crate::source::{CsvReader, Input, Seek, SourceError, identity};
use crate::transport::{Lease, TransportError};

use super::closed_files::{ClosedFile, Progress};
use super::context::{StreamContext, WAIT};
use super::followed_file::FollowedFile;
use super::identify::{self, Identified, Unidentified};
use super::lease::HeldLease;
use super::open_files::{self, OpenSlot};
use super::outcome::{PumpEnd, SourceFailure};
use super::pump::Pump;
use super::shift::Shift;
use super::storing::Unstored;
use super::window::Window;

/// How often a finished source is looked at again, and a lease that another streamer has is asked for.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a followed file may be without a row before that is worth a warning: those that are rotated begin empty.
const FIRST_ROW_TIMEOUT: Duration = Duration::from_secs(3);
/// How much slower each lease that is held makes taking another.
const DELAY_PER_LEASE: Duration = Duration::from_millis(30);

/// How a source's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is safely in the queue (or, as asked, in the store).
    Finished,
    /// The process was told to end before.
    Interrupted,
}

/// Streams a source to its end, round after round with `--loop`, and watches it until all sources of the process are there.
pub(super) async fn run_to_end(context: &StreamContext, input: Input) -> Result<Outcome, SourceFailure> {
    let outcome = to_end(context, &input).await;
    if !matches!(outcome, Ok(Outcome::Finished)) {
        // Nobody is to wait for a source that ended otherwise.
        context.unfinished.send_modify(|n| *n = n.saturating_sub(1));
    }
    outcome
}

async fn to_end(context: &StreamContext, input: &Input) -> Result<Outcome, SourceFailure> {
    let mut round = 0;
    loop {
        let Some(mut source) = Source::open(context, input, round).await? else { return Ok(Outcome::Interrupted) };
        match source.send().await? {
            SourceEnd::Interrupted => return Ok(Outcome::Interrupted),
            SourceEnd::At(end) if !context.config.stream.looped => {
                if end.row == 0 {
                    tracing::warn!("{} has a header and no rows; check what writes it", source.name);
                }
                return source.watch(end).await;
            }
            _ => {}
        }
        round += 1;
        if context.lifecycle.draining().is_cancelled() {
            return Ok(Outcome::Interrupted);
        }
    }
}

/// How following a file ended.
#[derive(Debug)]
pub(super) enum FollowEnd {
    /// There is nothing more to come of it, or the process is to end.
    Done,
    /// It was quiet, and others need its place.
    Closed(Box<ClosedFile>),
    /// Another streamer has it, and others need its place.
    LeasedElsewhere,
}

/// Follows a file until it is gone, its place is needed, or the process is to end; `closed` is what is known of it from before. Gives the state
/// of the file that was read when it was read last, so that it is taken up again only when it has changed.
pub(super) async fn follow(
    context: &StreamContext,
    input: &Input,
    slot: OpenSlot,
    closed: Option<ClosedFile>,
) -> (Option<FileState>, Result<FollowEnd, SourceFailure>) {
    let (mut progress, mut columns) = closed.map_or((None, None), |closed| (closed.progress, closed.columns));
    let mut slot = Some(slot);
    loop {
        let mut source = match Source::open(context, input, 0).await {
            Ok(Some(source)) => Source { slot: slot.take(), ..source },
            Ok(None) => return (None, Ok(FollowEnd::Done)),
            // What could not be opened is what stands at the path.
            Err(error) => return (state_at(input), Err(error)),
        };
        let ended = match progress.take() {
            Some(progress) => match source.resume(progress).await {
                Ok(true) => {
                    columns = None;
                    source.send().await
                }
                Ok(false) => Ok(SourceEnd::Restarted),
                Err(error) => Err(error),
            },
            None => {
                if let Some(columns) = columns.take() {
                    source.reader.assume(Some(columns));
                }
                match source.has_begun().await {
                    Ok(Begun::Yes) => source.send().await,
                    Ok(Begun::Ended(end)) => Ok(end),
                    Err(error) => Err(error),
                }
            }
        };
        let end = match ended {
            Ok(SourceEnd::Restarted) => {
                tracing::info!(file = source.name, "the file was rewritten; reading it from its start");
                // Where it was only emptied, its writer does not repeat the header.
                columns = columns.take().or_else(|| source.reader.columns_to_go_on_with());
                slot = source.slot;
                continue;
            }
            Ok(SourceEnd::Closed) => FollowEnd::Closed(Box::new(source.closed())),
            Ok(SourceEnd::LeasedElsewhere) => FollowEnd::LeasedElsewhere,
            Ok(SourceEnd::At(_) | SourceEnd::Interrupted) => FollowEnd::Done,
            Err(error) => return (source.reader.state().await.ok().flatten(), Err(error)),
        };
        // What comes after the last byte that was read makes a closed file another one.
        let state = match &end {
            FollowEnd::Closed(_) => source.reader.state_as_read().await,
            FollowEnd::Done | FollowEnd::LeasedElsewhere => source.reader.state().await,
        };
        return (state.ok().flatten(), Ok(end));
    }
}

fn state_at(input: &Input) -> Option<FileState> {
    input.path().and_then(|path| std::fs::metadata(path).ok()).map(|metadata| FileState::of(&metadata))
}

/// Whether a followed file has a first record.
#[derive(Debug, Clone, Copy)]
enum Begun {
    Yes,
    /// It ended before it had one.
    Ended(SourceEnd),
}

/// How a source came to its end.
#[derive(Debug, Clone, Copy)]
enum SourceEnd {
    /// Everything up to there is in the queue, and nothing more comes.
    At(Position),
    /// It was truncated or rewritten.
    Restarted,
    /// It is quiet, and others need its place.
    Closed,
    /// Another streamer has it, and others need its place.
    LeasedElsewhere,
    /// The process is to end, or the file is gone before it had a row.
    Interrupted,
}

/// What asking for a lease came to.
enum Leased<'a> {
    /// It is ours, and this is where the queue is in the source.
    Held(HeldLease<'a>, Option<Position>),
    /// It will not be had now.
    Not(SourceEnd),
}

/// One content on its way.
struct Source<'a> {
    context: &'a StreamContext,
    name: String,
    reader: CsvReader,
    round: u64,
    shift: Shift,
    /// The first row that was not counted yet.
    next_uncounted_row: u64,
    /// Byte offset up to which progress was reported.
    reported_offset: u64,
    identified: Option<Identified>,
    /// Whether this goes on with a file that was closed for a while.
    resumed: bool,
    /// A followed file's right to be open.
    slot: Option<OpenSlot>,
    /// A lease that is on its way back.
    returning: Option<JoinHandle<()>>,
}

impl<'a> Source<'a> {
    /// `None` when the process is to end first.
    async fn open(context: &'a StreamContext, input: &'a Input, round: u64) -> Result<Option<Self>, SourceFailure> {
        let mut reader = tokio::select! {
            biased;
            () = context.lifecycle.draining().cancelled_owned() => return Ok(None),
            reader = CsvReader::open(input, context.config.stream.follow, context.options()) => reader?,
        };
        reader.assume(context.columns.clone());
        // Rounds of a loop follow each other.
        let now = if round == 0 { context.started_ms } else { TimeMs::now() };
        let shift = if context.config.stream.restamp { Shift::Undecided { to: now } } else { Shift::None };
        Ok(Some(Self {
            context,
            name: input.name(),
            reader,
            round,
            shift,
            next_uncounted_row: 0,
            reported_offset: 0,
            identified: None,
            resumed: false,
            slot: None,
            returning: None,
        }))
    }

    /// Waits until a followed file has a first record.
    async fn has_begun(&mut self) -> Result<Begun, SourceFailure> {
        let mut since = Some(Instant::now());
        while !self.reader.beginning(&self.context.config.cluster).await?.has_record {
            if since.is_some_and(|since| since.elapsed() >= FIRST_ROW_TIMEOUT) {
                since = None;
                self.warn_of_no_row().await?;
            }
            let change = self.reader.look().await?;
            if open_files::is_close_requested(self.slot.as_ref()) {
                if change == Change::None && self.reader.state_as_read().await?.is_some() {
                    return Ok(Begun::Ended(SourceEnd::Closed));
                }
                open_files::decline(self.slot.as_ref());
            }
            match change {
                Change::None | Change::Grown => {}
                Change::Restarted => return Ok(Begun::Ended(SourceEnd::Restarted)),
                Change::Replaced | Change::Removed => return Ok(Begun::Ended(SourceEnd::Interrupted)),
            }
            tokio::select! {
                () = tokio::time::sleep(self.context.config.stream.poll) => {}
                () = open_files::close_requested(self.slot.as_ref()) => {}
                () = self.context.lifecycle.draining().cancelled_owned() => return Ok(Begun::Ended(SourceEnd::Interrupted)),
            }
        }
        self.context.unreadable.settle(&self.name);
        Ok(Begun::Yes)
    }

    /// Goes on with a file that was closed for a while. `false`: it is another content now.
    async fn resume(&mut self, progress: Progress) -> Result<bool, SourceFailure> {
        let Progress { identified, position, learnt, shift, next_uncounted_row, reported_offset } = progress;
        self.reader.recall(learnt);
        match self.reader.seek(Some(&position)).await {
            Ok(Seek::Ok) => {}
            Ok(Seek::Mismatch | Seek::Shorter) => return Ok(false),
            Err(error @ SourceError::Io { .. }) => return Err(error.into()),
            // One that was emptied under its writer need not begin with a header: it is read as what it is now.
            Err(_) => return Ok(false),
        }
        self.context.unreadable.settle(&self.name);
        self.identified = Some(identified);
        self.resumed = true;
        (self.shift, self.next_uncounted_row, self.reported_offset) = (shift, next_uncounted_row, reported_offset);
        Ok(true)
    }

    /// What is needed to go on with a file that was read to its end and is closed.
    fn closed(&self) -> ClosedFile {
        let position = self.reader.position();
        let progress = self.identified.filter(|_| position.row > 0).map(|identified| Progress {
            identified,
            position,
            learnt: self.reader.learnt(),
            shift: self.shift,
            next_uncounted_row: self.next_uncounted_row,
            reported_offset: self.reported_offset,
        });
        ClosedFile { progress, columns: self.reader.columns_to_go_on_with() }
    }

    async fn warn_of_no_row(&self) -> Result<(), SourceFailure> {
        let is_empty = self.reader.state().await?.is_some_and(|state| state.length == 0);
        tracing::warn!(
            "{} {}; waiting for rows. If there should be some, check what writes it (in a pod: the ConfigMap or volume it comes from)",
            self.name,
            if is_empty { "is empty" } else { "has no complete row yet" },
        );
        Ok(())
    }

    /// Which source this is; `None` when the process is to end first.
    async fn identify(&mut self) -> Result<Option<Identified>, SourceFailure> {
        if self.identified.is_none() {
            let draining = self.context.lifecycle.draining();
            // A pipe may have nothing to say for as long as it likes.
            self.identified = tokio::select! {
                biased;
                () = draining.cancelled() => None,
                identified = self.find_out() => identified?,
            };
        }
        Ok(self.identified)
    }

    async fn find_out(&mut self) -> Result<Option<Identified>, SourceFailure> {
        let context = self.context;
        let (stream, cluster) = (&context.config.stream, &context.config.cluster);
        if stream.source_id.is_some() || stream.looped || stream.restamp {
            let beginning = self.reader.beginning(cluster).await?;
            let source = stream.source_id.as_deref().map_or(beginning.fresh.source, |text| identity::named(cluster, text));
            if stream.looped || stream.restamp {
                let source = identity::round(source, context.nonce, self.round);
                return Ok(Some(Identified { source, family: FamilyId::of_source(source), registered: None }));
            }
            return Ok(Some(Identified { source, family: beginning.first_record, registered: None }));
        }
        let (mut backoff, mut asked) = (Backoff::new(WAIT.0, WAIT.1), context.question());
        loop {
            match identify::identify(&*context.publisher, &mut self.reader, cluster).await {
                Ok(identified) => {
                    tracing::debug!(file = self.name, source = %identified.source, "identified");
                    return Ok(Some(identified));
                }
                Err(Unidentified::Queue(error)) if error.is_transient() => {
                    asked.unanswered(&error);
                    if !context.rest(backoff.next()).await {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends the source from where the queue is in it.
    async fn send(&mut self) -> Result<SourceEnd, SourceFailure> {
        loop {
            let Some(identified) = self.identify().await? else { return Ok(SourceEnd::Interrupted) };
            let partition = identified.source.partition(self.context.publisher.partitions());
            // Followed files are mostly quiet: their readers take turns by themselves.
            let _reading = match self.context.config.stream.follow {
                true => None,
                false => {
                    tokio::select! {
                        permit = self.context.readers(partition).acquire() => permit.ok(),
                        () = self.context.lifecycle.draining().cancelled_owned() => return Ok(SourceEnd::Interrupted),
                    }
                }
            };
            let (lease, at) = match self.lease(identified).await? {
                Leased::Held(lease, at) => (lease, at),
                Leased::Not(end) => return Ok(end),
            };
            if std::mem::take(&mut self.resumed) && at.is_none() && !self.register_again(identified).await? {
                return Ok(SourceEnd::Interrupted);
            }
            let end = self.send_under_lease(identified, at).await;
            match (&end, &self.context.config.stream) {
                // It is not taken again: while it is given back, one can look whether everything is there.
                (Ok(Some(PumpEnd::Finished(_))), stream) if !stream.follow && !stream.looped => {
                    self.returning = Some(tokio::spawn(lease.give_back()));
                }
                _ => lease.give_back().await,
            }
            match end? {
                Some(PumpEnd::Finished(at)) => return Ok(SourceEnd::At(at)),
                Some(PumpEnd::Interrupted) => return Ok(SourceEnd::Interrupted),
                Some(PumpEnd::Restarted) => return Ok(SourceEnd::Restarted),
                Some(PumpEnd::Closed) => return Ok(SourceEnd::Closed),
                // Forked, or the queue is elsewhere: once more, from where it is.
                Some(PumpEnd::Elsewhere(to)) => {
                    tracing::debug!(file = self.name, ?to, "Redis is elsewhere in this source");
                    if to.is_none() && !self.register_again(identified).await? {
                        return Ok(SourceEnd::Interrupted);
                    }
                }
                None => {}
            }
        }
    }

    /// The queue has lost the source: it gets it again, under the same id. `false`: the process is to end first.
    async fn register_again(&self, identified: Identified) -> Result<bool, SourceFailure> {
        tracing::warn!(file = self.name, "Redis has lost what it knew of this source; it is sent again from the start");
        let publisher = &*self.context.publisher;
        Ok(self.context.ask(|| identify::register_again(publisher, identified)).await?.is_some())
    }

    /// Waits until the source is ours.
    async fn lease(&self, identified: Identified) -> Result<Leased<'a>, SourceFailure> {
        let context = self.context;
        let mut said = false;
        loop {
            let held = u32::try_from(context.leases_held.load(Ordering::Relaxed).min(100)).unwrap_or(100);
            // One that we had before is no new share.
            let delay = if self.resumed { Duration::ZERO } else { DELAY_PER_LEASE * held };
            if !delay.is_zero() && !context.rest(delay).await {
                return Ok(Leased::Not(SourceEnd::Interrupted));
            }
            match context.ask(|| context.publisher.lease(identified.source, &context.owner)).await? {
                None => return Ok(Leased::Not(SourceEnd::Interrupted)),
                Some(Lease::Held(at)) => return Ok(Leased::Held(HeldLease::start(context, identified), at)),
                Some(Lease::Taken) => {
                    if !said {
                        tracing::info!(file = self.name, "another streamer has this source; waiting for it");
                    }
                    said = true;
                    tokio::select! {
                        () = tokio::time::sleep(RECHECK_INTERVAL) => {}
                        () = open_files::close_requested(self.slot.as_ref()) => return Ok(Leased::Not(SourceEnd::LeasedElsewhere)),
                        () = context.lifecycle.draining().cancelled_owned() => return Ok(Leased::Not(SourceEnd::Interrupted)),
                    }
                }
            }
        }
    }

    /// `None`: the content turned out to be another source; begin again.
    async fn send_under_lease(&mut self, identified: Identified, at: Option<Position>) -> Result<Option<PumpEnd>, SourceFailure> {
        match self.reader.seek(at.as_ref()).await? {
            Seek::Ok => {}
            Seek::Shorter
                if let Some(at) = at
                    && self.context.config.stream.follow
                    && self.reader.is_superseded().await? =>
            {
                return Ok(Some(PumpEnd::Finished(at)));
            }
            Seek::Mismatch | Seek::Shorter => {
                let differs = at.map_or(0, |at| at.offset);
                let context = self.context;
                if identified.registered.is_none() {
                    return Err(SourceFailure::Stopped(format!(
                        "{}: its content is not what was sent before under this --source-id; give it another one",
                        self.name
                    )));
                }
                let forked =
                    identify::fork(&*context.publisher, &self.reader, &context.config.cluster, identified, differs).await;
                match forked {
                    Ok(forked) => self.identified = Some(forked),
                    Err(Unidentified::Queue(error)) if error.is_transient() => {}
                    Err(error) => return Err(error.into()),
                }
                return Ok(None);
            }
        }
        let context = self.context;
        let batch = &context.config.batch;
        let limits = Limits { max_rows: batch.max_rows, max_bytes: batch.max_bytes, max_age: batch.max_age };
        let start = self.reader.position();
        // What was sent by an earlier run is no progress of this one.
        self.reported_offset = self.reported_offset.max(start.offset);
        let window = Window::new(context.publisher.clone(), context.lifecycle.clone(), identified.source, batch.in_flight, at);
        let mut pump = Pump {
            context,
            window,
            builder: Builder::new(limits, start.row),
            segments: Segments::new(context.config.batch.max_new_series),
            header: Header {
                source: identified.source,
                family: identified.family,
                cluster: context.config.cluster.clone(),
                name: self.name.clone(),
                created_ms: TimeMs::EPOCH,
                dictionaries: Vec::new(),
            },
            shift: &mut self.shift,
            next_uncounted_row: &mut self.next_uncounted_row,
            met: self.reader.series_met(),
            unreported_rows: 0,
            unreported_rejects: 0,
            reported_offset: &mut self.reported_offset,
            pacer: context.config.stream.realtime.then(Realtime::default),
            allowance: 0,
            position_before_row: None,
            followed: FollowedFile::new(identified.source),
            slot: self.slot.as_mut(),
            reader: &mut self.reader,
        };
        pump.reader.reset_series();
        Ok(Some(pump.run().await?))
    }

    /// The source is at its end: is it still there, and everywhere it is to be, until the whole run is done?
    async fn watch(mut self, end: Position) -> Result<Outcome, SourceFailure> {
        let outcome = self.watch_from(end).await;
        if let Some(returning) = self.returning.take() {
            returning.await.map_err(|error| SourceFailure::Stopped(format!("giving a lease back: {error}")))?;
        }
        outcome
    }

    /// So many rows of the source wait to be stored: where nobody stores any, says so.
    fn say_unstored(&self, source: SourceId, rows: u64) {
        let context = self.context;
        let Some(Unstored { rows, elapsed }) = context.storing.wait(source, rows, Instant::now()) else { return };
        let (group, seconds) = (&context.config.redis.group, elapsed.as_secs());
        tracing::warn!(
            "{rows} rows wait in the queue; no collector of the group `{group}` has stored any of them for {seconds} s. If none runs, \
             start `telemetry collect`; the log of one that runs says what it waits for"
        );
    }

    async fn watch_from(&mut self, end: Position) -> Result<Outcome, SourceFailure> {
        let context = self.context;
        let mut unfinished = context.unfinished.subscribe();
        context.unfinished.send_modify(|n| *n = n.saturating_sub(1));
        let goal = match context.config.stream.until {
            Until::Queued => Goal::Queued,
            Until::Stored => Goal::Stored,
        };
        let mut completion = Completion::new(goal, end.row, *unfinished.borrow_and_update());
        loop {
            // Sending it again can make another source of it.
            let Some(source) = self.identified.map(|identified| identified.source) else { return Ok(Outcome::Finished) };
            match completion.next() {
                Step::AskCommitted => match answer(context.publisher.committed(source).await)? {
                    Some(row) => {
                        self.say_unstored(source, completion.end().saturating_sub(row));
                        completion.committed(row);
                    }
                    None => {
                        context.storing.unknown(Instant::now());
                        completion.unanswered();
                    }
                },
                Step::AskReplicated => {
                    // In this order.
                    let both = try_join(context.publisher.replicated(source), context.publisher.position(source)).await;
                    match answer(both)? {
                        Some((replicated, at)) => completion.replicated(replicated, at),
                        None => completion.unanswered(),
                    }
                }
                Step::Rest => tokio::select! {
                    () = tokio::time::sleep(RECHECK_INTERVAL) => completion.rested(),
                    _ = unfinished.changed() => completion.others_ended(*unfinished.borrow_and_update()),
                    () = context.lifecycle.draining().cancelled_owned() => return Ok(Outcome::Interrupted),
                },
                Step::Locate => match context.publisher.position(source).await {
                    Ok(at) => completion.located(at),
                    Err(error) if error.is_transient() => completion.unanswered(),
                    Err(error) => return Err(error.into()),
                },
                Step::SendAgain => {
                    tracing::warn!(file = self.name, "Redis has lost rows of a source that was at its end; they are sent again");
                    match self.send().await? {
                        SourceEnd::At(end) => completion.sent_again(end.row),
                        _ => return Ok(Outcome::Interrupted),
                    }
                }
                Step::Finish => {
                    context.rows_of_finished.fetch_add(completion.end(), Ordering::Relaxed);
                    return Ok(Outcome::Finished);
                }
            }
        }
    }
}

/// The answer to whether a source is where it is to be; `None` where the queue does not answer now.
fn answer<T>(answer: Result<T, TransportError>) -> Result<Option<T>, TransportError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(TransportError::Unavailable { .. } | TransportError::Full { .. } | TransportError::Blocked { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
