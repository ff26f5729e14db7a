//! The budget of memory: what is decoded and not yet stored, all partitions together.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

/// A unit of the budget, bytes.
const UNIT: usize = 1 << 10;
/// What decoding takes at most for each byte of a frame: a number of one byte becomes one of eight, and a row of three columns.
const UNFOLDS: usize = 12;

/// The budget. What is in hand has a share of it, from before it is decoded until it is stored.
pub(super) struct Budget {
    units: usize,
    free: Arc<Semaphore>,
    /// Who takes several shares in turn does so alone: two that have a part each would wait for each other.
    turn: Mutex<()>,
}

/// A share of the budget, given back when it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<OwnedSemaphorePermit>);

/// What one batch and its dictionaries take, one after the other.
pub(super) struct Taking<'a> {
    budget: &'a Budget,
    /// Gives back some of what nobody has in hand; `false` if there is nothing more of it.
    make_room: &'a (dyn Fn() -> bool + Send + Sync),
    _turn: MutexGuard<'a, ()>,
    /// Units that this one has.
    own: usize,
}

/// A batch needs more than there is altogether.
#[derive(Debug)]
pub(super) struct TooMuch;

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).max(1)
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let units = units(bytes).min(u32::MAX as usize);
        Self { units, free: Arc::new(Semaphore::new(units)), turn: Mutex::new(()) }
    }

    /// Waits for the turn to take; `make_room` gives back some of what nobody has in hand, and says whether there was any.
    pub(super) async fn begin<'a>(&'a self, make_room: &'a (dyn Fn() -> bool + Send + Sync)) -> Taking<'a> {
        Taking { budget: self, make_room, _turn: self.turn.lock().await, own: 0 }
    }
}

impl Taking<'_> {
    /// Waits until so much is free for decoding a frame of so many bytes, which then takes `actual` bytes by its own account.
    pub(super) async fn decode<T, E: From<TooMuch>>(
        &mut self,
        frame: usize,
        decode: impl FnOnce() -> Result<T, E>,
        actual: impl FnOnce(&T) -> usize,
    ) -> Result<(T, Share), E> {
        let left = self.budget.units.saturating_sub(self.own);
        if left == 0 {
            return Err(TooMuch.into());
        }
        let mut permit = self.acquire(units(frame.saturating_mul(UNFOLDS)).min(left)).await;
        let decoded = decode()?;
        let needs = units(actual(&decoded));
        if needs > left {
            return Err(TooMuch.into());
        }
        match needs.checked_sub(permit.num_permits()) {
            Some(0) => {}
            Some(more) => permit.merge(self.acquire(more).await),
            None => drop(permit.split(permit.num_permits() - needs)),
        }
        self.own += needs;
        Ok((decoded, Share(Arc::new(permit))))
    }

    /// Counts what it has of what is in memory already.
    pub(super) fn count(&mut self, share: &Share) {
        self.own += share.0.num_permits();
    }

    async fn acquire(&self, units: usize) -> OwnedSemaphorePermit {
        // Never more than u32::MAX: the whole budget is not.
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        loop {
            if let Ok(permit) = self.budget.free.clone().try_acquire_many_owned(units) {
                return permit;
            }
            // What only the cache has is let go before waiting for what others have in hand, which ends when it is stored.
            if !(self.make_room)() {
                break;
            }
        }
        let permit = self.budget.free.clone().acquire_many_owned(units).await;
        permit.expect("the semaphore of the budget is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_hand_stays_within_the_budget() {
        let (budget, make_room) = (Budget::new(100 << 10), || false);
        let free = || budget.free.available_permits();
        let take = async |taking: &mut Taking<'_>, frame: usize, actual: usize| {
            taking.decode::<_, TooMuch>(frame, || Ok(()), |()| actual).await
        };
        let mut taking = budget.begin(&make_room).await;
        let first = take(&mut taking, 1 << 20, 60 << 10).await.expect("there is room");
        assert_eq!(free(), 40, "what was not needed is given back");
        let second = take(&mut taking, 1, 30 << 10).await.expect("more than it looked like");
        assert_eq!(free(), 10);
        assert!(take(&mut taking, 1, 20 << 10).await.is_err(), "one batch cannot have more than there is");
        drop(taking);
        let mut taking = budget.begin(&make_room).await;
        let waits = take(&mut taking, 5 << 10, 50 << 10);
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending(), "it waits for what others have");
        drop(first);
        waits.await.expect("room again");
        drop(second);
    }
}
