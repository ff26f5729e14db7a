//! The batches of one source that are on their way: several in flight, answered in order.
//!
//! A batch is kept until the queue has accepted it. When a batch is refused, so are those behind it (each expects the position
//! that the one before makes); the window then asks where the queue is, and either goes on from one of its own batches or says
//! where the source has to be read again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::model::{DictionaryId, Position, RowRange, SourceId};
use crate::retry::Backoff;
use crate::runtime::Lifecycle;
use crate::runtime::observe::{self, Direction};
use crate::transport::{Outgoing, Published, Publisher, Result as Answer, TransportError};

/// First and longest wait before a batch is sent again.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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
    batch: Outgoing,
    dictionaries: Vec<(DictionaryId, Bytes)>,
    raw_bytes: u64,
    answer: Option<BoxFuture<'static, Answer<Published>>>,
    /// When it was sent (last).
    sent: Instant,
}

/// Puts a batch on its way and counts its bytes, each time it is sent.
fn send(publisher: &dyn Publisher, batch: &Outgoing) -> BoxFuture<'static, Answer<Published>> {
    let dictionaries: usize = batch.with.iter().map(|(_, bytes)| bytes.len()).sum();
    observe::bytes_wire((batch.payload.len() + dictionaries) as u64);
    publisher.publish(batch)
}

/// The batches of one source on their way.
pub(super) struct Window {
    publisher: Arc<dyn Publisher>,
    lifecycle: Lifecycle,
    source: SourceId,
    size: usize,
    in_flight: VecDeque<InFlight>,
    /// Where the queue is, as far as it has answered.
    confirmed: Option<Position>,
    /// Dictionaries that the queue was given.
    given: HashSet<DictionaryId>,
}

impl Window {
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        lifecycle: Lifecycle,
        source: SourceId,
        size: usize,
        at: Option<Position>,
    ) -> Self {
        let in_flight = VecDeque::with_capacity(size);
        Self { publisher, lifecycle, source, size, in_flight, confirmed: at, given: HashSet::new() }
    }

    /// Where the queue is, as far as it has answered.
    pub(super) fn confirmed(&self) -> Option<Position> {
        self.confirmed
    }

    /// Sends a batch; waits first where the window is full.
    pub(super) async fn push(&mut self, parcel: Parcel) -> Result<(), Halt> {
        while self.in_flight.len() >= self.size {
            self.settle_first().await?;
        }
        let with: Vec<_> = parcel.dictionaries.iter().filter(|(digest, _)| !self.given.contains(digest)).cloned().collect();
        self.given.extend(with.iter().map(|(digest, _)| *digest));
        let batch = Outgoing {
            source: self.source,
            rows: parcel.rows,
            expected: self.in_flight.back().map_or(self.confirmed, |last| Some(last.batch.next)),
            next: parcel.next,
            payload: parcel.payload,
            dictionaries: parcel.dictionaries.iter().map(|(digest, _)| *digest).collect(),
            with,
        };
        let answer = Some(send(&*self.publisher, &batch));
        let (dictionaries, raw_bytes) = (parcel.dictionaries, parcel.raw_bytes);
        self.in_flight.push_back(InFlight { batch, dictionaries, raw_bytes, answer, sent: Instant::now() });
        Ok(())
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Waits until the first batch is answered, and leaves the answer where it is. Cancel-safe.
    pub(super) async fn answered(&mut self) {
        if let Some(first) = self.in_flight.front_mut()
            && let Some(answer) = &mut first.answer
        {
            let answer = answer.await;
            first.answer = Some(Box::pin(std::future::ready(answer)));
        }
    }

    /// Acts on the answers that have come, so that a slow source learns of a loss or a refusal before its window is full.
    pub(super) async fn settle_answered(&mut self) -> Result<(), Halt> {
        while !self.in_flight.is_empty() && self.answered().now_or_never().is_some() {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits until everything is accepted.
    pub(super) async fn drain(&mut self) -> Result<(), Halt> {
        while !self.in_flight.is_empty() {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits for the first batch's answer and acts on it.
    async fn settle_first(&mut self) -> Result<(), Halt> {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut waits = false;
        loop {
            let Some(first) = self.in_flight.front_mut() else { return Ok(()) };
            let Some(answer) = first.answer.take() else {
                self.send_again();
                continue;
            };
            let answer = tokio::select! {
                answer = answer => answer,
                () = self.lifecycle.stopping().cancelled_owned() => return Err(Halt::Interrupted),
            };
            match answer {
                Ok(Published::Accepted) => {
                    if waits {
                        self.lifecycle.health().forget("queue");
                    }
                    self.accepted();
                    return Ok(());
                }
                Ok(Published::Moved(_)) => {
                    // What was sent on another connection may have arrived since: only a new question tells where the queue is now.
                    self.forget_answers().await;
                    let to = self.where_it_is(&mut backoff).await?;
                    self.go_on_from(to)?;
                    if self.in_flight.is_empty() {
                        return Ok(());
                    }
                }
                Ok(Published::NeedDictionaries(digests)) => {
                    self.forget_answers().await;
                    self.attach(&digests);
                }
                Ok(Published::Full) | Err(TransportError::Full { .. }) => {
                    if !waits {
                        tracing::warn!(source = %self.source, "the queue is full; waiting for collectors to make room");
                    }
                    waits = true;
                    self.lifecycle.health().set("queue", Err("full; waiting for collectors to make room".into()));
                    self.forget_answers().await;
                    self.rest(&mut backoff).await?;
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(source = %self.source, %error, "publishing to Redis");
                    if let TransportError::Blocked { .. } = &error {
                        waits = true;
                        self.lifecycle.health().set("queue", Err(error.to_string()));
                    }
                    self.forget_answers().await;
                    self.rest(&mut backoff).await?;
                    let to = self.where_it_is(&mut backoff).await?;
                    if let Err(halt) = self.go_on_from(to) {
                        if waits {
                            self.lifecycle.health().forget("queue");
                        }
                        return Err(halt);
                    }
                    if self.in_flight.is_empty() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Halt::Failed(error)),
            }
        }
    }

    fn accepted(&mut self) {
        if let Some(done) = self.in_flight.pop_front() {
            self.confirmed = Some(done.batch.next);
            observe::rows_published(done.batch.rows.len());
            observe::batches(Direction::Published, 1);
            observe::bytes_raw(done.raw_bytes);
            observe::publish(done.sent.elapsed());
        }
    }

    /// Lets the answers to the others pass: they were refused with the first one, or their line is gone.
    async fn forget_answers(&mut self) {
        for waiting in &mut self.in_flight {
            if let Some(answer) = waiting.answer.take() {
                let _refused_too = answer.await;
            }
        }
    }

    /// Sends everything again, in order.
    fn send_again(&mut self) {
        let mut expected = self.confirmed;
        for waiting in &mut self.in_flight {
            waiting.batch.expected = expected;
            expected = Some(waiting.batch.next);
            waiting.answer = Some(send(&*self.publisher, &waiting.batch));
            waiting.sent = Instant::now();
            // What the queue asked for is sent once; it asks again where that got lost.
            waiting.batch.with.clear();
        }
    }

    /// The queue asked for these: the first batch takes them along.
    fn attach(&mut self, digests: &[DictionaryId]) {
        if let Some(first) = self.in_flight.front_mut() {
            first.batch.with = first.dictionaries.iter().filter(|(digest, _)| digests.contains(digest)).cloned().collect();
        }
        // The ones behind may need others; they ask for themselves.
    }

    /// Drops what the queue has, keeps what it does not; fails where its position is none of ours.
    fn go_on_from(&mut self, to: Option<Position>) -> Result<(), Halt> {
        let known = if to == self.confirmed {
            Some(0)
        } else {
            to.and_then(|to| self.in_flight.iter().position(|w| w.batch.next == to).map(|i| i + 1))
        };
        let Some(accepted) = known else {
            self.in_flight.clear();
            self.given.clear();
            return Err(Halt::Elsewhere(to));
        };
        for _ in 0..accepted {
            self.accepted();
        }
        Ok(())
    }

    /// Asks until there is an answer.
    async fn where_it_is(&mut self, backoff: &mut Backoff) -> Result<Option<Position>, Halt> {
        loop {
            match self.publisher.position(self.source).await {
                Ok(position) => return Ok(position),
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(Halt::Failed(error)),
            }
            self.rest(backoff).await?;
        }
    }

    /// Waits before another try; the end of the process is no time to wait for a queue that is away or full.
    async fn rest(&mut self, backoff: &mut Backoff) -> Result<(), Halt> {
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => Ok(()),
            () = self.lifecycle.draining().cancelled_owned() => Err(Halt::Interrupted),
        }
    }
}
