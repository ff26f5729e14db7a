//! Entries in a version of the format that this collector does not know: edges were upgraded first. They are kept from being
//! delivered again and again, and stay in the queue for a newer collector.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::DecodeError;
use crate::model::Partition;
use crate::runtime::observe;
use crate::transport::Receipt;

/// How often it is said that entries are held back, and which of them are due is looked for.
pub(super) const EVERY: Duration = Duration::from_secs(30);
/// After so many times `redis.claim_idle` entries are let go, so that a newer collector beside this one can claim them.
pub(super) const LET_GO_AFTER: u32 = 10;

#[derive(Default)]
struct Entries {
    /// Since when, by partition and id.
    entries: BTreeMap<(Partition, String), (Instant, Receipt)>,
    said: Option<Instant>,
}

/// The entries that are held back.
#[derive(Default)]
pub(super) struct HeldBack(Mutex<Entries>);

impl HeldBack {
    /// Holds an entry back. Its claim is kept, as for everything in hand.
    pub(super) fn add(&self, receipt: Receipt, error: &DecodeError) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = receipt.partition;
        held.entries.insert((partition, receipt.entry.clone()), (Instant::now(), receipt));
        observe::held_back(held.entries.len());
        if held.said.is_none_or(|said| said.elapsed() >= EVERY) {
            held.said = Some(Instant::now());
            let entries = held.entries.len();
            tracing::warn!(%partition, entries, "entries stay in the queue until a newer collector reads them: {error}");
        }
    }

    /// Takes what has been held back for so long. What another connection has read meanwhile is that one's.
    pub(super) fn take_due(&self, patience: Duration) -> Vec<Receipt> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        held.entries.retain(|_, (since, receipt)| {
            let stays = since.elapsed() < patience;
            if !stays {
                due.push(receipt.clone());
            }
            stays
        });
        observe::held_back(held.entries.len());
        due
    }
}
