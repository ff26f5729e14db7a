//! A delivery becomes what the store takes, or says why not: each reason is another way to go on.

use std::collections::BTreeSet;

use super::context::{CollectContext, Ready};
use super::dictionaries::LoadError;
use super::memory::{Share, TooMuch};
use super::store_access::{note_failure, with_store};
use crate::batch::{self, Batch, DecodeError, frame_bytes};
use crate::model::{DictionaryId, IntervalMs, Reason, TimeMs};
use crate::protocol::receipts::{Decoded, Event, Grounds, Step};
use crate::store::Incoming;
use crate::transport::{Delivery, MAX_ENTRY_BYTES, TransportError};

/// Why a delivery did not become a batch.
#[derive(Debug)]
pub(super) enum DecodeFailure {
    /// The queue could not be asked.
    Queue(TransportError),
    /// The process is to end.
    Ending,
    /// It is written in a version of the format that a newer collector may know.
    UnknownVersion(DecodeError),
    /// It is damaged, and will be: no retry can help.
    Incurable(BatchFault),
    /// Something is missing that may still come.
    Doubtful(BatchFault),
}

impl DecodeFailure {
    /// What is wrong with the batch, where that is why.
    pub(super) fn fault(self) -> Option<BatchFault> {
        match self {
            Self::Incurable(fault) | Self::Doubtful(fault) => Some(fault),
            Self::Queue(_) | Self::Ending | Self::UnknownVersion(_) => None,
        }
    }

    /// Which one it is, without the words.
    fn kind(&self) -> Decoded {
        match self {
            Self::Queue(error) if error.is_transient() => Decoded::QueueAway,
            Self::Queue(_) => Decoded::Fatal,
            Self::Ending => Decoded::Ending,
            Self::UnknownVersion(_) => Decoded::UnknownVersion,
            Self::Incurable(_) => Decoded::Incurable,
            Self::Doubtful(_) => Decoded::Doubtful,
        }
    }
}

/// What is wrong with a batch.
#[derive(Debug)]
pub(super) struct BatchFault {
    pub(super) reason: String,
    /// The dictionaries it names, as far as that could be read, and without one that is damaged.
    pub(super) dictionaries: Vec<DictionaryId>,
}

impl BatchFault {
    pub(super) fn new(reason: String, dictionaries: &[DictionaryId]) -> Self {
        Self { reason, dictionaries: dictionaries.to_vec() }
    }
}

/// The name of a delivery's entry for the store. A stream that was flushed and made anew may use an id again: the rows are part of it.
pub(super) fn entry_name(delivery: &Delivery) -> String {
    let Delivery { receipt, source, rows, .. } = delivery;
    format!("{}/{}/{source}/{rows}", receipt.partition, receipt.entry)
}

/// Carries out the steps of decoding a delivery with its dictionaries, until another step is due. Gives what the last decoding brought,
/// if there was one.
pub(super) async fn decode(
    context: &CollectContext,
    delivery: &Delivery,
    mut step: Step,
) -> anyhow::Result<(Step, Option<Result<Ready, DecodeFailure>>)> {
    let attempts = || format!("{}/decoding", entry_name(delivery));
    let (mut _alone, mut decoded) = (None, None);
    loop {
        let event = match step {
            Step::NoteAttempt => {
                _alone = Some(context.careful.lock().await);
                let (entry, reason) = (attempts(), "a collector began to decode it and did not come back");
                let noted = note_failure(context, &entry, reason).await?;
                noted.map_or(Event::Interrupted, Event::AttemptNoted)
            }
            Step::Decode => {
                let outcome = decode_now(context, delivery).await;
                let event = Event::Decoded(outcome.as_ref().map_or_else(DecodeFailure::kind, |_| Decoded::Batch));
                decoded = Some(outcome);
                event
            }
            Step::ForgetAttempts => {
                let entry = attempts();
                let forgotten = with_store(context, || context.store.forget_failures(&entry)).await?;
                forgotten.map_or(Event::Interrupted, |()| Event::AttemptsForgotten)
            }
            other => return Ok((other, decoded)),
        };
        step = context.happened(&delivery.receipt, event);
    }
}

/// What is wrong with a delivery that is buried on these grounds; `None` where that was found when it was decoded or committed.
fn undecoded(delivery: &Delivery, grounds: Grounds) -> Option<BatchFault> {
    let reason = match grounds {
        Grounds::Oversize => format!(
            "its entry in Redis holds {} bytes, but a batch has at most {MAX_ENTRY_BYTES}; it was not read, and this letter does not keep it",
            delivery.oversize.unwrap_or_default()
        ),
        Grounds::Attempts(attempts) => {
            format!("{attempts} collectors began to decode it and did not come back; it was not decoded again")
        }
        Grounds::Fault => return None,
    };
    Some(BatchFault::new(reason, &[]))
}

/// What is wrong with a delivery that is buried on these grounds, where this was found when it was decoded or committed last.
pub(super) fn fault_of(delivery: &Delivery, grounds: Grounds, found: Option<BatchFault>) -> anyhow::Result<BatchFault> {
    undecoded(delivery, grounds).or(found).ok_or_else(|| lost(Step::Bury(grounds)))
}

/// A step that does not go with what is there: a fault of this program. The collector ends, and what is pending comes again.
pub(super) fn lost(step: Step) -> anyhow::Error {
    anyhow::anyhow!(
        "a delivery cannot go on: {step:?} does not follow from what was done with it; please report this as a fault of telemetry"
    )
}

/// Why a batch could not be decoded within the memory there is.
enum Undecoded {
    Damaged(DecodeError),
    TooMuch,
}

impl From<TooMuch> for Undecoded {
    fn from(_: TooMuch) -> Self {
        Self::TooMuch
    }
}

async fn decode_now(context: &CollectContext, delivery: &Delivery) -> Result<Ready, DecodeFailure> {
    tokio::select! {
        decoded = unfold(context, delivery) => decoded,
        // It may be waiting for memory that nobody gives back any more.
        () = context.lifecycle.draining().cancelled_owned() => Err(DecodeFailure::Ending),
    }
}

async fn unfold(context: &CollectContext, delivery: &Delivery) -> Result<Ready, DecodeFailure> {
    let mut fetched = context.fetching.begin();
    let make_room = || context.dictionaries.let_go();
    loop {
        let mut taking = context.budget.begin(&make_room).await;
        let (batch, share) = decode_batch(context, delivery, &mut taking).await?;
        let named = batch.header.dictionaries.clone();
        let incurable = |reason: String| DecodeFailure::Incurable(BatchFault::new(reason, &named));
        let error = match context.dictionaries.load(&named, fetched.bytes(), &mut taking).await {
            Ok(loaded) => {
                let mut shares = vec![share];
                let mut dictionaries = Vec::with_capacity(loaded.len());
                for one in loaded {
                    dictionaries.push(one.dictionary);
                    shares.push(one.share);
                }
                let incoming = Incoming::new(batch, dictionaries).map_err(|e| incurable(e.to_string()))?;
                let Delivery { receipt, payload, .. } = delivery.clone();
                return Ok(Ready { receipt, incoming, payload, memory: shares });
            }
            Err(LoadError::Absent(absent)) => {
                // The network is not waited for with memory in hand: nobody else could take any.
                drop((taking, batch, share));
                match fetched.fetch(&*context.queue, delivery.receipt.partition, absent).await {
                    Ok(()) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        return Err(match error {
            LoadError::Queue(error) => DecodeFailure::Queue(error),
            LoadError::Damaged(_, error @ DecodeError::Version { .. }) => DecodeFailure::UnknownVersion(error),
            LoadError::Damaged(damaged, error) => {
                // A retry needs another one: it is not kept in the letter.
                let others: Vec<_> = named.iter().copied().filter(|id| *id != damaged).collect();
                DecodeFailure::Incurable(BatchFault::new(error.to_string(), &others))
            }
            LoadError::TooMuch => incurable(too_much(context)),
            LoadError::Missing(id) => {
                DecodeFailure::Doubtful(BatchFault::new(format!("its dictionary {id} is not in the queue"), &named))
            }
            // Only asked for above, and fetched there.
            LoadError::Absent(_) => continue,
        });
    }
}

fn too_much(context: &CollectContext) -> String {
    let limit = bytesize::ByteSize::b(context.config.collect.max_memory as u64);
    format!("it and its dictionaries need more memory than collect.max_memory ({limit}) allows")
}

async fn decode_batch(
    context: &CollectContext,
    delivery: &Delivery,
    taking: &mut super::memory::Taking<'_>,
) -> Result<(Batch, Share), DecodeFailure> {
    let payload = &delivery.payload;
    let frame = frame_bytes(payload).filter(|bytes| *bytes <= batch::MAX_FRAME_BYTES).unwrap_or_default();
    let decoded = taking
        .decode(
            frame.max(payload.len()),
            || batch::decode(payload).map_err(Undecoded::Damaged),
            |batch| batch.memory() + payload.len(),
        )
        .await;
    let (batch, share) = decoded.map_err(|error| match error {
        Undecoded::Damaged(error @ DecodeError::Version { .. }) => DecodeFailure::UnknownVersion(error),
        Undecoded::Damaged(error) => DecodeFailure::Incurable(BatchFault::new(error.to_string(), &[])),
        Undecoded::TooMuch => DecodeFailure::Incurable(BatchFault::new(too_much(context), &[])),
    })?;
    let named = &batch.header.dictionaries;
    if batch.header.source != delivery.source || batch.rows != delivery.rows {
        let (source, rows) = (batch.header.source, batch.rows);
        let reason = format!(
            "the entry says rows {} of source {}, its batch says rows {rows} of source {source}",
            delivery.rows, delivery.source
        );
        return Err(DecodeFailure::Incurable(BatchFault::new(reason, named)));
    }
    let batch = reject_by_time(context, batch);
    if context.store.kind().has_partitions() {
        let days = batch.time_ms.iter().map(|time| time.floor_to(IntervalMs::DAY)).collect::<BTreeSet<_>>().len();
        let most = context.config.collect.max_days;
        if days > most {
            let reason = format!(
                "its samples lie in {days} different days, each of which is a partition in PostgreSQL; collect.max_days allows {most} \
                 in one batch. If that is right, `telemetry dead-letters retry` stores it"
            );
            return Err(DecodeFailure::Incurable(BatchFault::new(reason, &batch.header.dictionaries)));
        }
    }
    Ok((batch, share))
}

/// Samples that are too far from now become rejects.
fn reject_by_time(context: &CollectContext, batch: Batch) -> Batch {
    let now = TimeMs::now();
    let away = |limit: std::time::Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let newest = match context.config.collect.max_future {
        limit if limit.is_zero() => TimeMs::MAX,
        limit => now.plus_millis(away(limit)),
    };
    let oldest = match context.config.collect.max_past {
        limit if limit.is_zero() => TimeMs::MIN,
        limit => now.plus_millis(-away(limit)),
    };
    batch.reject_by_time(|time| {
        if time > newest {
            Some(Reason::TimeInFuture)
        } else if time < oldest {
            Some(Reason::TimeTooOld)
        } else {
            None
        }
    })
}
