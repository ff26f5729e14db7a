//! [`CollectContext`]: what all tasks of a collector have in common.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dictionaries::{Cache, Fetching};
use super::held_back::{HeldBack, Obstacle};
use super::memory::{Budget, Share};
use crate::config::Config;
use crate::protocol::receipts::{Event, Receipts, Step};
use crate::runtime::Lifecycle;
use crate::store::{Incoming, Store};
use crate::transport::{Consumer, Inspector, Receipt};

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
    /// What is in hand, and what becomes of it.
    pub(super) receipts: Mutex<Receipts<String>>,
    pub(super) held_back: HeldBack,
    /// When the collector began.
    pub(super) began: Instant,
    /// Held while something is decoded that was delivered before.
    pub(super) careful: tokio::sync::Mutex<()>,
    /// Whether the store was compared with a part of the queue only, or not at all since it was away.
    pub(super) to_be_compared: AtomicBool,
    /// Held by who has a large payload of an entry that was delivered before, until it has a share of the budget or of what is buried.
    pub(super) rereading: tokio::sync::Mutex<()>,
}

impl CollectContext {
    /// Sleeps, or gives up where the process is to end: `false`.
    pub(super) async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.lifecycle.draining().cancelled_owned() => false,
        }
    }

    /// The receipts of what is in hand.
    pub(super) fn receipts(&self) -> MutexGuard<'_, Receipts<String>> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happened to a receipt; what to do next.
    pub(super) fn happened(&self, receipt: &Receipt, event: Event) -> Step {
        self.receipts().happened(receipt, event)
    }

    /// Holds an entry back. Its claim is kept, as for everything in hand.
    pub(super) fn hold_back(&self, receipt: &Receipt, obstacle: &Obstacle) {
        let mut receipts = self.receipts();
        receipts.happened(receipt, Event::HeldBack { now: self.began.elapsed() });
        self.held_back.tell(receipt.partition, receipts.held_back(), obstacle);
    }
}
