//! A delivery becomes what the store takes, or says why not: each reason is another way to go on.

use std::collections::BTreeSet;

use super::context::{CollectContext, Ready};
use super::dictionaries::LoadError;
use super::memory::{Share, TooMuch};
use super::store_access::with_store;
use crate::batch::{self, Batch, DecodeError, frame_bytes};
use crate::model::{DictionaryId, IntervalMs, Reason, TimeMs};
use crate::store::Incoming;
use crate::transport::{Delivery, MAX_ENTRY_BYTES, TransportError};

/// Whose first delivery was not decoded, since its collector ended for another reason, is decoded once in any case.
const FEWEST_ATTEMPTS: u32 = 2;

/// Why a delivery did not become a batch.
#[derive(Debug)]
pub(super) enum DecodeFailure {
    /// The queue could not be asked.
    Queue(TransportError),
    /// The store could not be asked in a way that waiting cannot help.
    Store(anyhow::Error),
    /// The process is to end.
    Ending,
    /// It is written in a version of the format that a newer collector may know.
    UnknownVersion(DecodeError),
    /// It is damaged, and will be: no retry can help.
    Incurable(BatchFault),
    /// Something is missing that may still come.
    Doubtful(BatchFault),
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

/// Decodes a delivery with its dictionaries. What was delivered before may have killed who had it: the attempt is noted before, and
/// forgotten after, and what was attempted too often is not decoded again. The first delivery is not noted, which would be a transaction for
/// each entry; it counts as an attempt when there is a second one.
pub(super) async fn decode(context: &CollectContext, delivery: &Delivery) -> Result<Ready, DecodeFailure> {
    if let Some(bytes) = delivery.oversize {
        let reason = format!(
            "its entry in Redis holds {bytes} bytes, but a batch has at most {MAX_ENTRY_BYTES}; it was not read, and this letter does \
             not keep it"
        );
        return Err(DecodeFailure::Incurable(BatchFault::new(reason, &[])));
    }
    if !delivery.redelivered {
        return decode_now(context, delivery).await;
    }
    // One at a time: else others that are being decoded would be blamed too.
    let _alone = context.careful.lock().await;
    let entry = format!("{}/decoding", entry_name(delivery));
    let reason = "a collector began to decode it and did not come back";
    let dead_after = context.config.collect.dead_after.max(FEWEST_ATTEMPTS);
    let noted = with_store(context, || context.store.note_failure(&entry, reason)).await.map_err(DecodeFailure::Store)?;
    let attempts = noted.ok_or(DecodeFailure::Ending)?;
    let decoded = if attempts >= dead_after {
        let reason = format!("{attempts} collectors began to decode it and did not come back; it was not decoded again");
        Err(DecodeFailure::Incurable(BatchFault::new(reason, &[])))
    } else {
        decode_now(context, delivery).await
    };
    let forgotten = with_store(context, || context.store.forget_failures(&entry)).await.map_err(DecodeFailure::Store)?;
    forgotten.ok_or(DecodeFailure::Ending)?;
    decoded
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
    let make_room = || context.dictionaries.clear();
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
