//! [`CollectContext`]: what all tasks of a collector have in common.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::dictionaries::{Cache, Fetching};
use super::held_back::HeldBack;
use super::memory::{Budget, Share};
use crate::config::Config;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::runtime::Lifecycle;
use crate::store::{Incoming, Store};
use crate::transport::{Consumer, Inspector, Receipt, Redelivery};

/// First and longest wait between attempts at a store that is away.
const STORE_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A decoded batch on its way to a writer.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) receipt: Receipt,
    pub(super) incoming: Incoming,
    pub(super) payload: bytes::Bytes,
    /// What it has of the budget of memory, until it is stored.
    pub(super) memory: Vec<Share>,
}

/// What readers, writers and those who look after failed batches have in common: configuration, queue, store, and what is in hand.
pub(super) struct CollectContext {
    pub(super) config: Arc<Config>,
    pub(super) lifecycle: Lifecycle,
    pub(super) queue: Arc<dyn Consumer>,
    pub(super) inspector: Arc<dyn Inspector>,
    pub(super) store: Arc<dyn Store>,
    pub(super) dictionaries: Cache,
    pub(super) fetching: Fetching,
    pub(super) budget: Budget,
    pub(super) in_hand: InHand,
    pub(super) held_back: HeldBack,
    /// Held while something is decoded that was delivered before.
    pub(super) careful: tokio::sync::Mutex<()>,
    /// Held by who has a large payload of an entry that was delivered before, until it has a share of the budget or of what is buried.
    pub(super) rereading: tokio::sync::Mutex<()>,
}

/// The receipts of what this process works on, by partition and entry, so that their idle time can be kept low.
#[derive(Default)]
pub(super) struct InHand(Mutex<HashMap<Partition, BTreeMap<String, Receipt>>>);

impl InHand {
    pub(super) fn add(&self, receipt: &Receipt) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(receipt.partition).or_default().insert(receipt.entry.clone(), receipt.clone());
    }

    pub(super) fn remove(&self, receipts: &[Receipt]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for receipt in receipts {
            if let Some(entries) = held.get_mut(&receipt.partition)
                // It may have been delivered again, over another connection.
                && entries.get(&receipt.entry) == Some(receipt)
            {
                entries.remove(&receipt.entry);
            }
        }
    }

    pub(super) fn of(&self, partition: Partition) -> Vec<Receipt> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&partition).map(|entries| entries.values().cloned().collect()).unwrap_or_default()
    }
}

impl CollectContext {
    /// Sleeps, or gives up where the process is to end: `false`.
    pub(super) async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.lifecycle.draining().cancelled_owned() => false,
        }
    }

    /// Lets entries go unacknowledged: they stay in the queue, and come again later.
    pub(super) fn let_go(&self, receipts: Vec<Receipt>) {
        self.in_hand.remove(&receipts);
        let mut by_partition: BTreeMap<Partition, Vec<Receipt>> = BTreeMap::new();
        for receipt in receipts {
            by_partition.entry(receipt.partition).or_default().push(receipt);
        }
        for (partition, receipts) in by_partition {
            self.queue.let_go(partition, &receipts, Redelivery::AfterIdle);
        }
    }

    /// Between attempts at a store that is away.
    pub(super) fn store_backoff() -> Backoff {
        Backoff::new(STORE_WAIT.0, STORE_WAIT.1)
    }
}
