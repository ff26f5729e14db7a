//! The batches of one source that are on their way: carries out what their window decides ([`protocol::window`]).
//!
//! [`protocol::window`]: crate::protocol::window

use std::collections::VecDeque;
use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::obstacle::{FULL, PART};
use crate::model::{DictionaryId, Position, RowRange, SourceId};
use crate::protocol::rest::Rest;
use crate::protocol::window::{self as core, BatchPlan, Command, Obstacle, Ticket};
use crate::retry;
use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Direction};
use crate::transport::{Outgoing, Published, Publisher, Result as Answer, TransportError};

/// Why a window stops taking batches.
#[derive(Debug)]
pub(super) enum Halt {
    /// The queue is elsewhere in the source: read again from there.
    Elsewhere(Option<Position>),
    /// The process is to end; what is not accepted will be sent again another time.
    Interrupted,
    /// Waiting cannot help.
    Failed(TransportError),
}

/// An encoded batch, before it knows where it follows.
pub(super) struct Parcel {
    pub(super) rows: RowRange,
    pub(super) next: Position,
    pub(super) payload: Bytes,
    /// Every dictionary it refers to, with its bytes.
    pub(super) dictionaries: Vec<(DictionaryId, Bytes)>,
    /// What the rows were in the source, bytes.
    pub(super) raw_bytes: u64,
}

struct InFlight {
    ticket: Ticket,
    batch: Outgoing,
    dictionaries: Vec<(DictionaryId, Bytes)>,
    raw_bytes: u64,
    attempt: u64,
    /// The answer to this attempt, until it was told to the core.
    answer: Option<BoxFuture<'static, Answer<Published>>>,
    /// When it was sent (last).
    sent: Instant,
}

/// The batches of one source on their way.
pub(super) struct Window {
    publisher: Arc<dyn Publisher>,
    lifecycle: Lifecycle,
    source: SourceId,
    core: core::Window,
    /// Those of the core, in the same order.
    in_flight: VecDeque<InFlight>,
    /// What went wrong last.
    error: Option<TransportError>,
}

impl Window {
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        lifecycle: Lifecycle,
        source: SourceId,
        size: usize,
        at: Option<Position>,
    ) -> Self {
        let (core, in_flight) = (core::Window::new(size, at), VecDeque::with_capacity(size));
        Self { publisher, lifecycle, source, core, in_flight, error: None }
    }

    /// Where the queue is, as far as it has answered.
    pub(super) fn confirmed(&self) -> Option<Position> {
        self.core.confirmed()
    }

    /// Sends a batch; waits first where the window is full.
    pub(super) async fn push(&mut self, parcel: Parcel) -> Result<(), Halt> {
        while !self.core.has_room() {
            self.settle_first().await?;
        }
        let ids: Vec<_> = parcel.dictionaries.iter().map(|(id, _)| *id).collect();
        let ticket = self.core.push(BatchPlan { next: parcel.next, dictionaries: ids.clone() });
        let batch = Outgoing {
            source: self.source,
            rows: parcel.rows,
            expected: None,
            next: parcel.next,
            payload: parcel.payload,
            dictionaries: ids,
            with: Vec::new(),
        };
        let (dictionaries, raw_bytes) = (parcel.dictionaries, parcel.raw_bytes);
        self.in_flight.push_back(InFlight {
            ticket,
            batch,
            dictionaries,
            raw_bytes,
            attempt: 0,
            answer: None,
            sent: Instant::now(),
        });
        self.carry_out().await
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.core.is_empty()
    }

    /// Waits until the first batch is answered, and leaves the answer where it is. Cancel-safe.
    pub(super) async fn answered(&mut self) {
        if let Some(first) = self.in_flight.front_mut() {
            first.answered().await;
        }
    }

    /// Acts on the answers that have come, so that a slow source learns of a loss or a refusal before its window is full.
    pub(super) async fn settle_answered(&mut self) -> Result<(), Halt> {
        while !self.is_empty() && self.answered().now_or_never().is_some() {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits until everything is accepted.
    pub(super) async fn drain(&mut self) -> Result<(), Halt> {
        while !self.is_empty() {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits for the first batch's answer, and until it is accepted; where the queue turns out to have more than that, for what follows.
    async fn settle_first(&mut self) -> Result<(), Halt> {
        loop {
            // Nothing is awaited where a rest was interrupted.
            let ticket = self.core.awaited().ok_or(Halt::Interrupted)?;
            self.tell_answer(ticket).await?;
            self.carry_out().await?;
            if self.core.is_flowing() {
                return Ok(());
            }
        }
    }

    /// Waits for the answer to a batch and tells it to the core.
    async fn tell_answer(&mut self, ticket: Ticket) -> Result<(), Halt> {
        let place = place(&self.in_flight, ticket);
        let is_first = place == 0;
        let batch = &mut self.in_flight[place];
        tokio::select! {
            () = batch.answered() => {}
            // The others are answered soon after the first.
            () = self.lifecycle.stopping().cancelled_owned(), if is_first => return Err(Halt::Interrupted),
        }
        let answer = batch.answer.take().and_then(FutureExt::now_or_never).ok_or(Halt::Interrupted)?;
        let attempt = batch.attempt;
        let answer = match answer {
            Ok(Published::Accepted) => core::Answer::Accepted,
            Ok(Published::Moved(_)) => core::Answer::Moved,
            Ok(Published::NeedDictionaries(ids)) => core::Answer::NeedDictionaries(ids),
            Ok(Published::Full) | Err(TransportError::Full { .. }) => core::Answer::Full,
            Err(error) => {
                let answer = match &error {
                    TransportError::Blocked { .. } => core::Answer::Away { blocked: true },
                    error if error.is_transient() => core::Answer::Away { blocked: false },
                    _ => core::Answer::Fatal,
                };
                if is_first && answer != core::Answer::Fatal {
                    tracing::debug!(source = %self.source, %error, "publishing to Redis");
                }
                self.error = Some(error);
                answer
            }
        };
        self.core.answered(ticket, attempt, answer);
        Ok(())
    }

    /// Does what the core says, until it waits for an answer or for a batch.
    async fn carry_out(&mut self) -> Result<(), Halt> {
        while let Some(command) = self.core.command() {
            match command {
                Command::Publish { ticket, attempt, expected, with } => self.send(ticket, attempt, expected, &with),
                Command::Accepted { .. } => self.count_accepted(),
                Command::Locate => match self.publisher.position(self.source).await {
                    Ok(position) => self.core.located(position),
                    Err(error) if error.is_transient() => self.core.not_located(),
                    Err(error) => {
                        self.error = Some(error);
                        self.core.failed();
                    }
                },
                Command::Rest(rest) => {
                    self.rest(rest).await?;
                    self.core.rested();
                }
                Command::Waiting { obstacle, begins } => self.say_waiting(obstacle, begins),
                Command::NoLongerWaiting => self.lifecycle.health().forget(PART),
                Command::Halt(core::Halt::Elsewhere(to)) => return Err(Halt::Elsewhere(to)),
                Command::Halt(core::Halt::Fatal) => {
                    return Err(Halt::Failed(self.error.take().expect("what is fatal was told with its error")));
                }
            }
        }
        Ok(())
    }

    /// Puts a batch on its way and counts its bytes, each time it is sent.
    fn send(&mut self, ticket: Ticket, attempt: u64, expected: Option<Position>, with: &[DictionaryId]) {
        let place = place(&self.in_flight, ticket);
        let sent = &mut self.in_flight[place];
        sent.batch.expected = expected;
        sent.batch.with = sent.dictionaries.iter().filter(|(id, _)| with.contains(id)).cloned().collect();
        let dictionaries: usize = sent.batch.with.iter().map(|(_, bytes)| bytes.len()).sum();
        observe::bytes_wire((sent.batch.payload.len() + dictionaries) as u64);
        (sent.attempt, sent.sent) = (attempt, Instant::now());
        sent.answer = Some(self.publisher.publish(&sent.batch));
    }

    fn count_accepted(&mut self) {
        if let Some(done) = self.in_flight.pop_front() {
            observe::rows_published(done.batch.rows.len());
            observe::batches(Direction::Published, 1);
            observe::bytes_raw(done.raw_bytes);
            observe::publish(done.sent.elapsed());
        }
    }

    fn say_waiting(&self, obstacle: Obstacle, begins: bool) {
        let why = match (obstacle, &self.error) {
            (Obstacle::Blocked, Some(error)) => error.to_string(),
            _ => FULL.to_owned(),
        };
        if begins && obstacle == Obstacle::Full {
            tracing::warn!(source = %self.source, "the queue is {FULL}");
        }
        self.lifecycle.health().set(PART, Err(why));
    }

    /// Waits before another try; the end of the process is no time to wait for a queue that is away or full.
    async fn rest(&mut self, rest: Rest) -> Result<(), Halt> {
        tokio::select! {
            () = tokio::time::sleep(retry::drawn(rest)) => Ok(()),
            () = self.lifecycle.draining().cancelled_owned() => Err(Halt::Interrupted),
        }
    }
}

impl InFlight {
    /// Waits until it is answered, and leaves the answer where it is. Cancel-safe.
    async fn answered(&mut self) {
        if let Some(answer) = &mut self.answer {
            let answer = answer.await;
            self.answer = Some(Box::pin(ready(answer)));
        }
    }
}

/// Where a batch is: tickets follow one another.
fn place(in_flight: &VecDeque<InFlight>, ticket: Ticket) -> usize {
    in_flight.front().and_then(|first| ticket.places_behind(first.ticket)).expect("the core speaks of batches that are in flight")
}
