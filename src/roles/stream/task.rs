//! One source: which it is, whose it is, and the pump.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::batch::{Builder, Header, Limits, Segments};
use crate::config::Until;
use crate::model::{FamilyId, Position, TimeMs};
use crate::retry::Backoff;
use crate::source::follow::{Change, FileState};
use crate::source::pace::Realtime;
use crate::source::{CsvReader, Input, Seek, identity};
use crate::transport::{Lease, TransportError};

use super::identify::{self, Identified, Unidentified};
use super::pump::{End, Failure, Pump, Shift};
use super::shared::Shared;
use super::watch::Followed;
use super::window::Window;

/// Between two looks at a finished source, and between two tries for a lease that another has.
const LOOK: Duration = Duration::from_millis(500);
/// How long a followed file may be without a row before that is worth a warning: those that are rotated begin empty.
const BEGINS: Duration = Duration::from_secs(3);
/// How much slower each lease that is held makes taking another.
const SHARE: Duration = Duration::from_millis(30);

/// First and longest wait between two questions to a queue that does not answer.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How a source's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is safely in the queue (or, as asked, in the store).
    Finished,
    /// The process was told to end before.
    Interrupted,
}

impl From<Unidentified> for Failure {
    fn from(error: Unidentified) -> Self {
        match error {
            Unidentified::Source(error) => Self::Source(error),
            Unidentified::Queue(error) => Self::Queue(error),
        }
    }
}

/// Waits, or gives up: `false` = the process is to end.
async fn rest(shared: &Shared, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = shared.lifecycle.draining().cancelled_owned() => false,
    }
}

/// Asks the queue until it answers; `None` when the process is to end first.
async fn ask<T, F>(shared: &Shared, question: impl Fn() -> F) -> Result<Option<T>, TransportError>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    loop {
        match question().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "asking Redis");
                if !rest(shared, backoff.next()).await {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Streams a source to its end, round after round with `--loop`, and watches it until all sources of the process are there.
pub(super) async fn run_to_end(shared: &Shared, input: Input) -> Result<Outcome, Failure> {
    let outcome = to_end(shared, &input).await;
    if !matches!(outcome, Ok(Outcome::Finished)) {
        // Nobody is to wait for a source that ended otherwise.
        shared.unfinished.send_modify(|n| *n = n.saturating_sub(1));
    }
    outcome
}

async fn to_end(shared: &Shared, input: &Input) -> Result<Outcome, Failure> {
    let mut round = 0;
    loop {
        let Some(mut source) = Source::open(shared, input, round).await? else { return Ok(Outcome::Interrupted) };
        match source.send().await? {
            None => return Ok(Outcome::Interrupted),
            Some(Ended::At(end)) if !shared.config.stream.looped => return source.watch(end).await,
            Some(_) => {}
        }
        round += 1;
        if shared.lifecycle.draining().is_cancelled() {
            return Ok(Outcome::Interrupted);
        }
    }
}

/// Follows a file until it is gone or the process is to end. Gives the state of the file that was read when it was read last, so that it
/// is taken up again only when it has changed.
pub(super) async fn follow(shared: &Shared, input: &Input) -> (Option<FileState>, Result<(), Failure>) {
    let mut columns = None;
    loop {
        let mut source = match Source::open(shared, input, 0).await {
            Ok(Some(source)) => source,
            Ok(None) => return (None, Ok(())),
            // What could not be opened is what stands at the path.
            Err(error) => return (state_at(input), Err(error)),
        };
        if let Some(columns) = columns.take() {
            source.reader.assume(Some(columns));
        }
        let ended = match source.has_begun().await {
            Ok(Begun::Yes) => source.send().await,
            Ok(Begun::Rewritten) => Ok(Some(Ended::Restarted)),
            Ok(Begun::Never) => Ok(None),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Some(Ended::Restarted)) => {
                tracing::info!(file = source.name, "the file was rewritten; reading it from its start");
                // Where it was only emptied, its writer does not repeat the header.
                columns = source.reader.columns_to_go_on_with();
            }
            ended => return (source.reader.state().await.ok().flatten(), ended.map(|_| ())),
        }
    }
}

fn state_at(input: &Input) -> Option<FileState> {
    input.path().and_then(|path| std::fs::metadata(path).ok()).map(|metadata| FileState::of(&metadata))
}

/// Whether a followed file has a first record.
#[derive(Debug, Clone, Copy)]
enum Begun {
    Yes,
    /// It was truncated or rewritten before it had one.
    Rewritten,
    /// It is gone, or the process is to end.
    Never,
}

/// How a source came to its end.
#[derive(Debug, Clone, Copy)]
enum Ended {
    At(Position),
    Restarted,
}

/// One content on its way.
struct Source<'a> {
    shared: &'a Shared,
    name: String,
    reader: CsvReader,
    round: u64,
    shift: Shift,
    counted: u64,
    told: u64,
    identified: Option<Identified>,
    /// A lease that is on its way back.
    returning: Option<JoinHandle<()>>,
}

impl<'a> Source<'a> {
    /// `None` when the process is to end first.
    async fn open(shared: &'a Shared, input: &'a Input, round: u64) -> Result<Option<Self>, Failure> {
        let mut reader = tokio::select! {
            biased;
            () = shared.lifecycle.draining().cancelled_owned() => return Ok(None),
            reader = CsvReader::open(input, shared.config.stream.follow, shared.options()) => reader?,
        };
        reader.assume(shared.columns.clone());
        let shift = if shared.config.stream.restamp { Shift::Undecided } else { Shift::None };
        Ok(Some(Self {
            shared,
            name: input.name(),
            reader,
            round,
            shift,
            counted: 0,
            told: 0,
            identified: None,
            returning: None,
        }))
    }

    /// Waits until a followed file has a first record.
    async fn has_begun(&mut self) -> Result<Begun, Failure> {
        let mut since = Some(Instant::now());
        while !self.reader.beginning(&self.shared.config.cluster).await?.has_record {
            if since.is_some_and(|since| since.elapsed() >= BEGINS) {
                since = None;
                self.warn_of_no_row().await?;
            }
            match self.reader.look().await? {
                Change::None | Change::Grown => {}
                Change::Restarted => return Ok(Begun::Rewritten),
                Change::Replaced | Change::Removed => return Ok(Begun::Never),
            }
            if !rest(self.shared, self.shared.config.stream.poll).await {
                return Ok(Begun::Never);
            }
        }
        self.shared.unreadable.settle(&self.name);
        Ok(Begun::Yes)
    }

    async fn warn_of_no_row(&self) -> Result<(), Failure> {
        let is_empty = self.reader.state().await?.is_some_and(|state| state.length == 0);
        tracing::warn!(
            "{} {}; waiting for rows. If there should be some, check what writes it (in a pod: the ConfigMap or volume it comes from)",
            self.name,
            if is_empty { "is empty" } else { "has no complete row yet" },
        );
        Ok(())
    }

    /// Which source this is; `None` when the process is to end first.
    async fn identify(&mut self) -> Result<Option<Identified>, Failure> {
        if self.identified.is_none() {
            let draining = self.shared.lifecycle.draining();
            // A pipe may have nothing to say for as long as it likes.
            self.identified = tokio::select! {
                biased;
                () = draining.cancelled() => None,
                identified = self.find_out() => identified?,
            };
        }
        Ok(self.identified)
    }

    async fn find_out(&mut self) -> Result<Option<Identified>, Failure> {
        let shared = self.shared;
        let (stream, cluster) = (&shared.config.stream, &shared.config.cluster);
        if stream.source_id.is_some() || stream.looped || stream.restamp {
            let beginning = self.reader.beginning(cluster).await?;
            let source = stream.source_id.as_deref().map_or(beginning.fresh.source, |text| identity::named(cluster, text));
            if stream.looped || stream.restamp {
                let source = identity::round(source, shared.nonce, self.round);
                return Ok(Some(Identified { source, family: FamilyId::of_source(source), registered: None }));
            }
            return Ok(Some(Identified { source, family: beginning.first_record, registered: None }));
        }
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        loop {
            match identify::identify(&*shared.publisher, &mut self.reader, cluster).await {
                Ok(identified) => {
                    tracing::debug!(file = self.name, source = %identified.source, "identified");
                    return Ok(Some(identified));
                }
                Err(Unidentified::Queue(error)) if error.is_transient() => {
                    if !rest(shared, backoff.next()).await {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends the source from where the queue is in it; `None` when the process is to end before its end.
    async fn send(&mut self) -> Result<Option<Ended>, Failure> {
        loop {
            let Some(identified) = self.identify().await? else { return Ok(None) };
            let partition = identified.source.partition(self.shared.publisher.partitions());
            // Followed files are mostly quiet: their readers take turns by themselves.
            let _reading = match self.shared.config.stream.follow {
                true => None,
                false => {
                    tokio::select! {
                        permit = self.shared.readers(partition).acquire() => permit.ok(),
                        () = self.shared.lifecycle.draining().cancelled_owned() => return Ok(None),
                    }
                }
            };
            let Some((lease, at)) = self.lease(identified).await? else { return Ok(None) };
            let end = self.send_under_lease(identified, at).await;
            match (&end, &self.shared.config.stream) {
                // It is not taken again: while it is given back, one can look whether everything is there.
                (Ok(Some(End::Finished(_))), stream) if !stream.follow && !stream.looped => {
                    self.returning = Some(tokio::spawn(lease.give_back()));
                }
                _ => lease.give_back().await,
            }
            match end? {
                Some(End::Finished(at)) => return Ok(Some(Ended::At(at))),
                Some(End::Interrupted) => return Ok(None),
                Some(End::Restarted) => return Ok(Some(Ended::Restarted)),
                // Forked, or the queue is elsewhere: once more, from where it is.
                Some(End::Elsewhere(to)) => {
                    tracing::debug!(file = self.name, ?to, "Redis is elsewhere in this source");
                    if to.is_none() {
                        tracing::warn!(
                            file = self.name,
                            "Redis has lost what it knew of this source; it is sent again from the start"
                        );
                        let registered =
                            ask(self.shared, || identify::register_again(&*self.shared.publisher, identified)).await?;
                        if registered.is_none() {
                            return Ok(None);
                        }
                    }
                }
                None => {}
            }
        }
    }

    /// Waits until the source is ours; `None` when the process is to end first.
    async fn lease(&self, identified: Identified) -> Result<Option<(Held<'a>, Option<Position>)>, Failure> {
        let shared = self.shared;
        let mut said = false;
        loop {
            let share = SHARE * u32::try_from(shared.held.load(Ordering::Relaxed).min(100)).unwrap_or(100);
            if !share.is_zero() && !rest(shared, share).await {
                return Ok(None);
            }
            match ask(shared, || shared.publisher.lease(identified.source, &shared.owner)).await? {
                None => return Ok(None),
                Some(Lease::Held(at)) => return Ok(Some((Held::start(shared, identified), at))),
                Some(Lease::Taken) => {
                    if !said {
                        tracing::info!(file = self.name, "another streamer has this source; waiting for it");
                    }
                    said = true;
                    if !rest(shared, LOOK).await {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// `None`: the content turned out to be another source; begin again.
    async fn send_under_lease(&mut self, identified: Identified, at: Option<Position>) -> Result<Option<End>, Failure> {
        match self.reader.seek(at.as_ref()).await? {
            Seek::Ok => {}
            Seek::Shorter
                if let Some(at) = at
                    && self.shared.config.stream.follow
                    && self.reader.is_superseded().await? =>
            {
                return Ok(Some(End::Finished(at)));
            }
            Seek::Mismatch | Seek::Shorter => {
                let differs = at.map_or(0, |at| at.offset);
                let shared = self.shared;
                if identified.registered.is_none() {
                    return Err(Failure::Stopped(format!(
                        "{}: its content is not what was sent before under this --source-id; give it another one",
                        self.name
                    )));
                }
                let forked = identify::fork(&*shared.publisher, &self.reader, &shared.config.cluster, identified, differs).await;
                match forked {
                    Ok(forked) => self.identified = Some(forked),
                    Err(Unidentified::Queue(error)) if error.is_transient() => {}
                    Err(error) => return Err(error.into()),
                }
                return Ok(None);
            }
        }
        let shared = self.shared;
        let batch = &shared.config.batch;
        let limits = Limits { max_rows: batch.max_rows, max_bytes: batch.max_bytes, max_age: batch.max_age };
        let start = self.reader.position();
        // What was sent by an earlier run is no progress of this one.
        self.told = self.told.max(start.offset);
        let window = Window::new(shared.publisher.clone(), shared.lifecycle.clone(), identified.source, batch.in_flight, at);
        let mut pump = Pump {
            shared,
            window,
            builder: Builder::new(limits, start.row),
            segments: Segments::new(shared.config.batch.max_new_series),
            header: Header {
                source: identified.source,
                family: identified.family,
                cluster: shared.config.cluster.clone(),
                name: self.name.clone(),
                created_ms: TimeMs::EPOCH,
                dictionaries: Vec::new(),
            },
            shift: &mut self.shift,
            counted: &mut self.counted,
            placed: 0,
            fresh: 0,
            fresh_rejects: 0,
            told: &mut self.told,
            pacer: shared.config.stream.realtime.then(Realtime::default),
            allowance: 0,
            before: None,
            watch: Followed::new(identified.source),
            reader: &mut self.reader,
        };
        pump.reader.reset_series();
        Ok(Some(pump.run().await?))
    }

    /// The source is at its end: is it still there, and everywhere it is to be, until the whole run is done?
    async fn watch(mut self, end: Position) -> Result<Outcome, Failure> {
        let outcome = self.watch_from(end).await;
        if let Some(returning) = self.returning.take() {
            returning.await.map_err(|error| Failure::Stopped(format!("giving a lease back: {error}")))?;
        }
        outcome
    }

    async fn watch_from(&mut self, mut end: Position) -> Result<Outcome, Failure> {
        let shared = self.shared;
        let mut unfinished = shared.unfinished.subscribe();
        shared.unfinished.send_modify(|n| *n = n.saturating_sub(1));
        loop {
            if *unfinished.borrow_and_update() == 0 && self.is_safe(end).await? {
                shared.ends.fetch_add(end.row, Ordering::Relaxed);
                return Ok(Outcome::Finished);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = unfinished.changed() => continue,
                () = shared.lifecycle.draining().cancelled_owned() => return Ok(Outcome::Interrupted),
            }
            let Some(source) = self.identified.map(|i| i.source) else { return Ok(Outcome::Finished) };
            let there = match shared.publisher.position(source).await {
                Ok(at) => at,
                Err(error) if error.is_transient() => continue,
                Err(error) => return Err(error.into()),
            };
            if there.is_none_or(|at| at.row < end.row) && end.row > 0 {
                tracing::warn!(file = self.name, "Redis has lost rows of a source that was at its end; they are sent again");
                match self.send().await? {
                    Some(Ended::At(at)) => end = at,
                    _ => return Ok(Outcome::Interrupted),
                }
            }
        }
    }

    /// Whether everything is where it is to be.
    async fn is_safe(&self, end: Position) -> Result<bool, Failure> {
        let Some(source) = self.identified.map(|i| i.source) else { return Ok(true) };
        if end.row == 0 {
            return Ok(true);
        }
        let publisher = &self.shared.publisher;
        let safe = async {
            Ok(match self.shared.config.stream.until {
                Until::Stored => publisher.committed(source).await? >= end.row,
                Until::Queued => {
                    // In this order: what a failover loses after it was found replicated shows in the position.
                    let (replicated, at) = try_join(publisher.replicated(source), publisher.position(source)).await?;
                    replicated && at.is_some_and(|at| at.row >= end.row)
                }
            })
        };
        match safe.await {
            Ok(safe) => Ok(safe),
            Err(TransportError::Unavailable { .. } | TransportError::Full { .. } | TransportError::Blocked { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A lease that is renewed until it is given back.
struct Held<'a> {
    shared: &'a Shared,
    identified: Identified,
    renewing: JoinHandle<()>,
}

impl<'a> Held<'a> {
    fn start(shared: &'a Shared, identified: Identified) -> Self {
        shared.held.fetch_add(1, Ordering::Relaxed);
        let (publisher, owner) = (shared.publisher.clone(), shared.owner.clone());
        let every = shared.lease_ttl / 3;
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                // A lease that was lost is no harm: positions keep two owners from sending a row twice.
                if let Err(error) = publisher.lease(identified.source, &owner).await {
                    tracing::debug!(%error, "renewing a lease in Redis");
                }
            }
        });
        Self { shared, identified, renewing }
    }

    fn give_back(self) -> impl Future<Output = ()> + Send + 'static {
        self.renewing.abort();
        let (publisher, owner, source) = (self.shared.publisher.clone(), self.shared.owner.clone(), self.identified.source);
        async move {
            if let Err(error) = publisher.release(source, &owner).await {
                tracing::debug!(%error, "giving a lease back to Redis");
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.renewing.abort();
        self.shared.held.fetch_sub(1, Ordering::Relaxed);
    }
}
