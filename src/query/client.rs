//! What one client may hold of the memory for answers, so that others get in while its answers are large or it takes them slowly.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// Clients that may be known before those without a request are forgotten.
const FORGET_AT: usize = 4096;

/// One client's share of each part of the budget.
#[derive(Debug)]
pub(super) struct ClientShare {
    pub(super) sizes: [Arc<Semaphore>; 3],
    pub(super) downloads: Arc<Semaphore>,
    pub(super) written: Arc<Semaphore>,
    /// Pieces of downloads, and of what is written, at most. A single answer may have more: where it holds all of this.
    pub(super) pieces: usize,
}

/// The clients that ask.
#[derive(Debug)]
pub(super) struct Clients {
    known: Mutex<HashMap<IpAddr, Weak<ClientShare>>>,
    sizes: [usize; 3],
    pieces: usize,
}

impl Clients {
    /// Each has so many hundredths of what there is: of places for each size, and of pieces.
    pub(super) fn new(percent: usize, sizes: [usize; 3], pieces: usize) -> Self {
        let share = |all: usize| (all * percent / 100).max(1);
        Self { known: Mutex::default(), sizes: sizes.map(share), pieces: share(pieces) }
    }

    pub(super) fn share_of(&self, client: IpAddr) -> Arc<ClientShare> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = known.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        if known.len() >= FORGET_AT {
            known.retain(|_, share| share.strong_count() > 0);
        }
        let places = |count| Arc::new(Semaphore::new(count));
        let share = Arc::new(ClientShare {
            sizes: self.sizes.map(places),
            downloads: places(self.pieces),
            written: places(self.pieces),
            pieces: self.pieces,
        });
        known.insert(client, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_without_a_request_is_forgotten() {
        let clients = Clients::new(50, [16, 4, 1], 512);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let asks = clients.share_of(address(0));
        assert!(Arc::ptr_eq(&asks, &clients.share_of(address(0))));
        assert_eq!(asks.sizes.each_ref().map(|size| size.available_permits()), [8, 2, 1]);
        for n in 1..10_000 {
            clients.share_of(address(n));
        }
        assert!(clients.known.lock().unwrap().len() <= FORGET_AT);
        assert!(Arc::ptr_eq(&asks, &clients.share_of(address(0))));
    }
}
