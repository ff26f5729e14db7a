//! Batches that fail for a reason of their own. What no retry can cure is buried as a dead letter at once, many in one transaction.
//! What may be cured is noted and tried again, a few at the same time; what does not fit stays in the queue and comes again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::acknowledge::{acknowledge, acknowledge_group, count_committed};
use super::context::{CollectContext, Ready};
use super::decode::{BatchFault, DecodeFailure, decode, entry_name, fault_of, lost};
use super::held_back::Obstacle;
use super::store_access::{Refusal, note_failure, try_commit, with_store};
use crate::model::DictionaryId;
use crate::protocol::receipts::{Event, Step};
use crate::retry::drawn;
use crate::runtime::observe;
use crate::store::{Buried, DeadLetter};
use crate::transport::{Delivery, MAX_DICTIONARY_BYTES, Receipt};

/// Bytes of the payloads that wait to be buried.
const MAX_BURIAL_BYTES: usize = 32 << 20;
/// Letters of one transaction, and bytes of their payloads about which it closes.
const MAX_LETTERS: usize = 1024;
const MAX_LETTER_BYTES: usize = 8 << 20;
/// Dictionaries that the letters of one transaction keep, bytes; with fewer a letter can be retried as long as the queue has the others.
const MAX_KEPT_DICTIONARIES: usize = 32 << 20;

/// A delivery that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) delivery: Delivery,
    pub(super) fault: BatchFault,
}

/// A place among those that failed: so many bytes of so many.
type Place = tokio::sync::OwnedSemaphorePermit;

/// Where deliveries go that failed.
#[derive(Clone)]
pub(super) struct Failing {
    burials: mpsc::Sender<(Failed, Place)>,
    burial_bytes: Arc<Semaphore>,
}

impl Failing {
    /// Starts the task that buries.
    pub(super) fn start(context: &Arc<CollectContext>) -> Self {
        let (burials, mut waiting) = mpsc::channel(MAX_LETTERS);
        let context = context.clone();
        context.lifecycle.clone().spawn("dead letters", async move {
            while let Some(group) = gather(&mut waiting).await {
                if !bury(&context, group).await? {
                    break;
                }
            }
            Ok(())
        });
        Self { burials, burial_bytes: Arc::new(Semaphore::new(MAX_BURIAL_BYTES)) }
    }

    /// Has a delivery buried that nothing can cure; `false` when the process is to end.
    pub(super) async fn bury(&self, context: &CollectContext, failed: Failed) -> bool {
        let bytes = failed.delivery.payload.len().clamp(1, MAX_BURIAL_BYTES);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(place) = self.burial_bytes.clone().acquire_many_owned(bytes).await else { return false };
        let Ok(burial) = self.burials.reserve().await else { return false };
        context.happened(&failed.delivery.receipt, Event::WaitsForBurial);
        burial.send((failed, place));
        true
    }

    /// Carries out what is to be done with a delivery whose failure may be cured: it is judged, or let go.
    pub(super) fn doubt(&self, context: &Arc<CollectContext>, failed: Failed, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Judge => {
                let (failing, context) = (self.clone(), context.clone());
                context.lifecycle.clone().spawn("suspect", async move { judge(&context, &failing, failed).await });
            }
            Step::LetGo(redelivery) => {
                let Failed { delivery, fault } = failed;
                let reason = fault.reason;
                tracing::warn!(
                    entry = entry_name(&delivery),
                    reason,
                    "a batch failed, and others are being tried again: it stays in the queue for now"
                );
                context.queue.let_go(delivery.receipt.partition, &[delivery.receipt], redelivery);
            }
            other => return Err(lost(other)),
        }
        Ok(())
    }
}

/// Tries a suspect again, until it is stored, buried, held back, or no longer in the queue.
async fn judge(context: &Arc<CollectContext>, failing: &Failing, failed: Failed) -> anyhow::Result<()> {
    let Failed { delivery, mut fault } = failed;
    let entry = entry_name(&delivery);
    let (mut failures, mut ready, mut obstacle) = (None, None, None);
    let mut step = context.happened(&delivery.receipt, Event::TakenUp);
    loop {
        let event = match step {
            Step::AskQueue => match context.queue.contains(&delivery).await {
                Err(error) if error.is_transient() => Event::QueueAway,
                answer => Event::Asked(answer.ok()),
            },
            Step::Gone => {
                let reason = fault.reason;
                tracing::info!(%entry, reason, "a batch that failed is no longer in Redis; its streamer sends it again");
                return Ok(());
            }
            Step::NoteFailure => match note_failure(context, &entry, &fault.reason).await? {
                Some(noted) => {
                    failures = Some(noted);
                    Event::FailureNoted(noted)
                }
                None => Event::Interrupted,
            },
            Step::Rest(rest) => {
                if let Some(failures) = failures.take() {
                    tracing::warn!(%entry, failures, reason = fault.reason, "a batch failed; it is tried again");
                }
                if context.rest(drawn(rest)).await { Event::Rested } else { Event::Interrupted }
            }
            Step::NoteAttempt | Step::Decode | Step::ForgetAttempts => {
                let (next, decoded) = decode(context, &delivery, step).await?;
                match decoded {
                    None | Some(Err(DecodeFailure::Ending)) => {}
                    Some(Ok(batch)) => ready = Some(batch),
                    Some(Err(DecodeFailure::Incurable(found) | DecodeFailure::Doubtful(found))) => fault = found,
                    Some(Err(DecodeFailure::UnknownVersion(error))) => obstacle = Some(Obstacle::UnknownVersion(error)),
                    Some(Err(DecodeFailure::Queue(error))) if next == Step::Fail => return Err(error.into()),
                    Some(Err(DecodeFailure::Queue(_))) => {}
                }
                step = next;
                continue;
            }
            Step::Commit => {
                let Some(Ready { incoming, memory: _until_committed, .. }) = ready.take() else { return Err(lost(step)) };
                let group = [incoming];
                match try_commit(context, &group).await? {
                    None => Event::Interrupted,
                    Some(Ok(committed)) => {
                        count_committed(context, &group, &committed);
                        let stored = std::slice::from_ref(&delivery.receipt);
                        let acknowledgements = context.receipts().committed(stored, &committed.settled);
                        for acknowledgement in acknowledgements {
                            acknowledge(context, acknowledgement).await;
                        }
                        return Ok(());
                    }
                    Some(Err(refusal)) => {
                        let event = Event::Refused(refusal.kind());
                        match refusal {
                            Refusal::BadBatch(why) => fault = BatchFault::new(why, &group[0].batch().header.dictionaries),
                            Refusal::DamagedChunk(error) => obstacle = Some(Obstacle::DamagedChunk(error)),
                        }
                        event
                    }
                }
            }
            Step::HoldBack => {
                let Some(obstacle) = obstacle else { return Err(lost(step)) };
                context.hold_back(&delivery.receipt, &obstacle);
                return Ok(());
            }
            Step::Bury(grounds) => {
                let fault = fault_of(&delivery, grounds, Some(fault))?;
                // The process is to end where nobody buries any more.
                let _buried = failing.bury(context, Failed { delivery, fault }).await;
                return Ok(());
            }
            // It stays pending, and the next consumer finds it.
            Step::Nothing => return Ok(()),
            other => return Err(lost(other)),
        };
        step = context.happened(&delivery.receipt, event);
    }
}

/// What waits to be buried, up to what one transaction takes.
async fn gather(waiting: &mut mpsc::Receiver<(Failed, Place)>) -> Option<Vec<(Failed, Place)>> {
    let mut group = vec![waiting.recv().await?];
    let mut bytes = group[0].0.delivery.payload.len();
    while group.len() < MAX_LETTERS && bytes < MAX_LETTER_BYTES {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += next.0.delivery.payload.len();
        group.push(next);
    }
    Some(group)
}

/// Buries a group, in as few transactions as its dictionaries allow; `false` when the process is to end before that could be done.
async fn bury(context: &Arc<CollectContext>, group: Vec<(Failed, Place)>) -> anyhow::Result<bool> {
    let mut burial = Burial::default();
    for (Failed { delivery, fault }, place) in group {
        let room = MAX_KEPT_DICTIONARIES.saturating_sub(burial.dictionary_bytes);
        let mut kept = keep_dictionaries(context, &delivery.receipt, &fault.dictionaries, room).await;
        if !kept.complete && !burial.letters.is_empty() {
            drop(kept);
            if !std::mem::take(&mut burial).commit(context).await? {
                return Ok(false);
            }
            kept = keep_dictionaries(context, &delivery.receipt, &fault.dictionaries, MAX_KEPT_DICTIONARIES).await;
        }
        burial.dictionary_bytes += kept.bytes;
        let entry = entry_name(&delivery);
        let Delivery { receipt, source, rows, payload, .. } = delivery;
        let dictionaries = kept.dictionaries;
        burial
            .letters
            .push((DeadLetter { id: 0, source, rows, reason: fault.reason, payload, dictionaries, buried: None }, entry));
        burial.receipts.push(receipt);
        burial.places.push(place);
    }
    burial.commit(context).await
}

/// The letters of one transaction.
#[derive(Default)]
struct Burial {
    letters: Vec<(DeadLetter, String)>,
    receipts: Vec<Receipt>,
    places: Vec<Place>,
    dictionary_bytes: usize,
}

impl Burial {
    /// Stores and acknowledges; `false` when the process is to end before that could be done.
    async fn commit(self, context: &Arc<CollectContext>) -> anyhow::Result<bool> {
        let buried = with_store(context, || context.store.bury_all(&self.letters)).await?;
        let Some(Buried { kept, settled }) = buried else { return Ok(false) };
        // The others were kept before: their acknowledgement got lost, or somebody has sent the same again.
        let mut by_reason = BTreeMap::<&str, u64>::new();
        for (letter, _) in self.letters.iter().zip(kept).filter_map(|(letter, is_new)| is_new.then_some(letter)) {
            *by_reason.entry(&letter.reason).or_default() += 1;
        }
        observe::dead_letters(by_reason.values().sum());
        for (reason, batches) in by_reason {
            tracing::error!(batches, reason, "batches are now dead letters; `telemetry dead-letters list` shows them");
        }
        let acknowledgements = context.receipts().buried(&self.receipts, &settled);
        acknowledge_group(context, acknowledgements).await;
        Ok(true)
    }
}

/// Dictionaries for a letter.
struct KeptDictionaries {
    dictionaries: Vec<(DictionaryId, bytes::Bytes)>,
    bytes: usize,
    /// Whether there was room for all that the queue has.
    complete: bool,
}

/// Those of the batch's dictionaries that can be found and have room, so that the letter can be retried when the queue has forgotten them. One
/// task buries, and has no more than this of them at any time.
async fn keep_dictionaries(context: &CollectContext, receipt: &Receipt, named: &[DictionaryId], room: usize) -> KeptDictionaries {
    let mut kept = KeptDictionaries { dictionaries: Vec::new(), bytes: 0, complete: true };
    for &id in named {
        let limit = (room - kept.bytes).min(MAX_DICTIONARY_BYTES);
        match context.queue.dictionary_within(receipt.partition, id, limit).await {
            // Nobody could decode it.
            Ok(Some(found)) if found.length > MAX_DICTIONARY_BYTES as u64 => {}
            Ok(Some(found)) if found.length > limit as u64 => {
                kept.complete = false;
                break;
            }
            Ok(Some(found)) => {
                kept.bytes += found.bytes.len();
                kept.dictionaries.push((id, found.bytes));
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
    kept
}

/// The delivery that a ready batch came from, for judging it when the store refuses it.
pub(super) fn failed(ready: Ready, reason: String) -> Failed {
    let Ready { receipt, incoming, payload, .. } = ready;
    let batch = incoming.batch();
    let (source, rows) = (batch.header.source, batch.rows);
    let delivery = Delivery { receipt, source, rows, payload, oversize: None, withheld: None, redelivered: false };
    Failed { delivery, fault: BatchFault::new(reason, &batch.header.dictionaries) }
}
