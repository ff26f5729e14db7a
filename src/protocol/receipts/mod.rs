//! The life of a receipt in a collector, from the delivery of its entry to the acknowledgement: [`Receipts`].
//!
//! A task that has a delivery takes it up, carries out the [`Step`] it is told, and tells the outcome as the next [`Event`], until it has
//! handed the delivery on or there is nothing left to do. What concerns several receipts (a group that was committed, or refused) is told of
//! all at once. Nothing is acknowledged that is not in the store; what is in hand has its claim kept; what cannot go on is let go, so that it
//! comes again, or becomes a dead letter that the store keeps.
//!
//! | the batch | becomes |
//! |---|---|
//! | can be decoded | committed in a group, and acknowledged |
//! | was delivered before | the same, but each attempt to decode it is noted before and forgotten after; after too many, buried undecoded |
//! | is damaged | buried with others, then acknowledged |
//! | fails for a reason that may pass | a suspect: tried again alone, with rests, buried when it has failed often enough |
//! | is in an unknown version, or a damaged chunk hides it | held back: it stays pending, and is let go after a while |
//! | cannot be acknowledged | let go at once: it is delivered again, and found stored |

mod acknowledgement;
mod life;
mod store_access;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Partition, Partitions, SourceId};

pub use acknowledgement::{ACKNOWLEDGE_TRIES, Acknowledgement, Unacknowledged};
pub use life::{Decoded, Event, FEWEST_ATTEMPTS, Grounds, Redelivery, Refusal, Stage, Step};
use life::{Life, Turn};
pub use store_access::{Comparison, Marked, OtherStore, StoreAttempts, StoreMark, compare, same_mark};

/// Suspects that are tried again at the same time.
pub const MAX_SUSPECTS: usize = 16;
/// Bytes of their payloads.
pub const MAX_SUSPECT_BYTES: usize = 16 << 20;
/// After so many times `claim_idle` what is held back is let go, so that a newer collector beside this one can claim it.
pub const LET_GO_AFTER: u32 = 10;
/// Claims are kept so many times within `claim_idle`.
const KEEPS_WITHIN_IDLE: u32 = 3;

/// Proof that an entry was read. It dies with the connection it came over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt<E> {
    /// The partition.
    pub partition: Partition,
    /// The entry's id.
    pub entry: E,
    /// Which connection (in the order they were made) read it.
    pub epoch: u64,
}

/// What the life of receipts depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How many partitions the queue has.
    pub partitions: Partitions,
    /// After so many failures a batch becomes a dead letter (`collect.dead_after`).
    pub dead_after: u32,
    /// What nobody has kept for so long may be claimed by others (`redis.claim_idle`).
    pub claim_idle: Duration,
}

impl Settings {
    /// How often the claims of what is in hand are kept.
    #[must_use]
    pub fn keep_every(&self) -> Duration {
        self.claim_idle / KEEPS_WITHIN_IDLE
    }

    /// How long what is held back is kept from others.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.claim_idle * LET_GO_AFTER
    }
}

/// What counts of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arrival<E> {
    /// Its receipt.
    pub receipt: Receipt<E>,
    /// Bytes of its payload.
    pub bytes: usize,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether its payload is longer than any can be, and was not read.
    pub oversize: bool,
    /// Whether its payload was left in the queue for now.
    pub withheld: bool,
}

/// What to do with a group that the store does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// One of several is the reason: commit each alone, in their order.
    Parted,
    /// It was one: go on with it.
    One(Step),
}

/// Entries of one partition that are let go: they stay pending, and come again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LetGo<E> {
    /// The partition.
    pub partition: Partition,
    /// Their receipts.
    pub receipts: Vec<Receipt<E>>,
    /// When they come again.
    pub redelivery: Redelivery,
}

/// The receipts of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hand<E> {
    /// The newest connection that something was delivered over.
    epoch: u64,
    /// By entry; of each those of several connections, in their order, as long as they are worked on.
    lives: BTreeMap<E, Vec<Life>>,
}

/// The receipts of what a collector works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipts<E> {
    settings: Settings,
    hands: BTreeMap<Partition, Hand<E>>,
    suspects: usize,
    suspect_bytes: usize,
    held_back: usize,
}

impl<E: Ord + Clone> Receipts<E> {
    /// No receipts yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, hands: BTreeMap::new(), suspects: 0, suspect_bytes: 0, held_back: 0 }
    }

    /// What they depend on.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Deliveries of one read. All of them are in hand from now on: the last may have to wait for the first. What another connection had
    /// delivered before is replaced, and its claim is kept for the new receipt only.
    pub fn delivered(&mut self, arrivals: impl IntoIterator<Item = Arrival<E>>) {
        for arrival in arrivals {
            self.remove(&arrival.receipt);
            let life = Life::new(&arrival);
            let Receipt { partition, entry, epoch } = arrival.receipt;
            let hand = self.hands.entry(partition).or_insert_with(|| Hand { epoch, lives: BTreeMap::new() });
            hand.epoch = hand.epoch.max(epoch);
            hand.lives.entry(entry).or_default().push(life);
        }
    }

    /// Something happened to a receipt; what to do next.
    pub fn happened(&mut self, receipt: &Receipt<E>, event: Event) -> Step {
        let dead_after = self.settings.dead_after;
        let Some(life) = self.life(receipt) else {
            debug_assert!(false, "{event:?} of a receipt that is out of hand");
            return Step::Fail;
        };
        let turn = life.happened(event, dead_after);
        let released = (life.suspect && life.is_judged(event)).then(|| {
            life.suspect = false;
            life.bytes
        });
        if let Some(bytes) = released {
            self.release_place(bytes);
        }
        match turn {
            Turn::Doubt => self.doubt(receipt),
            Turn::Step(Step::Gone) => {
                self.remove(receipt);
                Step::Gone
            }
            Turn::Step(step) => {
                if let Event::HeldBack { .. } = event {
                    self.hold_back(receipt);
                }
                step
            }
        }
    }

    /// The store has a group, or a suspect alone, and these sources of it are settled so far. What to acknowledge.
    pub fn committed(&mut self, group: &[Receipt<E>], settled: &[(SourceId, u64)]) -> Vec<Acknowledgement<E>> {
        for receipt in group {
            if let Some(life) = self.life(receipt) {
                life.stage = Stage::Stored;
            }
        }
        Acknowledgement::by_partition(group, settled, self.settings.partitions)
    }

    /// The store has dead letters of these, and these sources of theirs are settled so far. What to acknowledge.
    pub fn buried(&mut self, group: &[Receipt<E>], settled: &[(SourceId, u64)]) -> Vec<Acknowledgement<E>> {
        self.committed(group, settled)
    }

    /// The store does not take a group, though it can be reached.
    pub fn refused(&mut self, group: &[Receipt<E>], refusal: Refusal) -> Refused {
        match group {
            [receipt] => Refused::One(self.happened(receipt, Event::Refused(refusal))),
            _ => Refused::Parted,
        }
    }

    /// The process is to end before the writers could commit a group: it is out of hand, and stays pending.
    pub fn abandoned(&mut self, group: &[Receipt<E>]) {
        for receipt in group {
            self.remove(receipt);
        }
    }

    /// The queue has taken an acknowledgement: its entries are out of hand.
    pub fn acknowledged(&mut self, acknowledgement: &Acknowledgement<E>) {
        for receipt in &acknowledgement.receipts {
            self.remove(receipt);
        }
    }

    /// An acknowledgement failed. That is no loss: what is delivered again is found stored.
    pub fn not_acknowledged(&mut self, acknowledgement: &mut Acknowledgement<E>) -> Unacknowledged {
        if let Some(rest) = acknowledgement.failed() {
            return Unacknowledged::Again(rest);
        }
        // Out of hand before it is let go: what comes again has the same receipt, and is in hand again.
        self.acknowledged(acknowledgement);
        Unacknowledged::LetGo(Redelivery::AtOnce)
    }

    /// What has been held back for so long that it is out of hand now: let it go.
    pub fn due(&mut self, now: Duration) -> Vec<LetGo<E>> {
        let patience = self.settings.patience();
        let is_due = |stage| matches!(stage, Stage::HeldBack(since) if now.saturating_sub(since) >= patience);
        let mut due = BTreeMap::<_, Vec<_>>::new();
        for (receipt, _) in self.stages().filter(|(_, stage)| is_due(*stage)) {
            due.entry(receipt.partition).or_default().push(receipt);
        }
        for receipt in due.values().flatten() {
            self.remove(receipt);
        }
        let let_go = |(partition, receipts)| LetGo { partition, receipts, redelivery: Redelivery::AfterIdle };
        due.into_iter().map(let_go).collect()
    }

    /// Whose claim is to be kept in a partition, so that no other consumer takes it: everything in hand that the newest connection has read.
    /// What an earlier one has read is delivered again, or is another one's.
    #[must_use]
    pub fn in_hand(&self, partition: Partition) -> Vec<Receipt<E>> {
        let Some(hand) = self.hands.get(&partition) else { return Vec::new() };
        let newest = hand.lives.iter().filter(|(_, lives)| lives.iter().any(|life| life.epoch == hand.epoch));
        newest.map(|(entry, _)| Receipt { partition, entry: entry.clone(), epoch: hand.epoch }).collect()
    }

    /// How many entries are held back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.held_back
    }

    /// Every receipt that is in hand or still worked on, and how far it is.
    pub fn stages(&self) -> impl Iterator<Item = (Receipt<E>, Stage)> {
        self.hands.iter().flat_map(|(&partition, hand)| {
            hand.lives.iter().flat_map(move |(entry, lives)| {
                let receipt = move |life: &Life| Receipt { partition, entry: entry.clone(), epoch: life.epoch };
                lives.iter().map(move |life| (receipt(life), life.stage))
            })
        })
    }

    fn life(&mut self, receipt: &Receipt<E>) -> Option<&mut Life> {
        let lives = self.hands.get_mut(&receipt.partition)?.lives.get_mut(&receipt.entry)?;
        lives.iter_mut().find(|life| life.epoch == receipt.epoch)
    }

    fn remove(&mut self, receipt: &Receipt<E>) {
        let Some(hand) = self.hands.get_mut(&receipt.partition) else { return };
        let Some(lives) = hand.lives.get_mut(&receipt.entry) else { return };
        let Some(at) = lives.iter().position(|life| life.epoch == receipt.epoch) else { return };
        let life = lives.remove(at);
        if lives.is_empty() {
            hand.lives.remove(&receipt.entry);
        }
        self.held_back -= usize::from(matches!(life.stage, Stage::HeldBack(_)));
        if life.suspect {
            self.release_place(life.bytes);
        }
    }

    /// It is judged by a task of its own, if there is room; else it stays in the queue, and is delivered again later.
    fn doubt(&mut self, receipt: &Receipt<E>) -> Step {
        let room = if self.suspects < MAX_SUSPECTS { MAX_SUSPECT_BYTES - self.suspect_bytes } else { 0 };
        if let Some(life) = self.life(receipt)
            && weight(life.bytes) <= room
        {
            let bytes = weight(life.bytes);
            let step = life.begin_judging();
            self.suspects += 1;
            self.suspect_bytes += bytes;
            return step;
        }
        self.remove(receipt);
        Step::LetGo(Redelivery::AfterIdle)
    }

    /// One entry is held back once, for the newest connection that read it: what an earlier one had read died with that connection, and letting
    /// go of that would let go of nothing.
    fn hold_back(&mut self, receipt: &Receipt<E>) {
        self.held_back += 1;
        let lives = self.hands.get(&receipt.partition).and_then(|hand| hand.lives.get(&receipt.entry));
        let held_back = lives.into_iter().flatten().filter(|life| matches!(life.stage, Stage::HeldBack(_)));
        let mut epochs: Vec<_> = held_back.map(|life| life.epoch).collect();
        epochs.sort_unstable();
        epochs.pop();
        for epoch in epochs {
            self.remove(&Receipt { epoch, ..receipt.clone() });
        }
    }

    fn release_place(&mut self, bytes: usize) {
        self.suspects -= 1;
        self.suspect_bytes -= weight(bytes);
    }
}

/// What a payload takes of the bytes of suspects: one that is longer than all of them may still be judged, alone.
fn weight(bytes: usize) -> usize {
    bytes.clamp(1, MAX_SUSPECT_BYTES)
}
