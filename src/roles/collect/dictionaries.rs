//! Dictionaries that were read, by id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::memory::{Share, Taking, TooMuch};
use crate::batch::{DecodeError, Dictionary, frame_bytes};
use crate::model::{DictionaryId, Partition};
use crate::transport::{Consumer, MAX_DICTIONARY_BYTES, TransportError};

/// Encoded dictionaries of one batch at most, bytes.
const MAX_FETCHED: usize = 64 << 20;
/// Those of them that each partition may have at the same time as the others.
const MAX_FETCHED_AT_ANY_TIME: usize = 1 << 20;

/// A dictionary, and its share of the memory in hand.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) dictionary: Arc<Dictionary>,
    pub(super) share: Share,
}

/// Why a batch's dictionaries could not be had.
#[derive(Debug)]
pub(super) enum LoadError {
    /// The queue cannot be asked now.
    Queue(TransportError),
    /// These are not in memory and have to be fetched.
    Absent(Vec<DictionaryId>),
    /// The queue does not have it.
    Missing(DictionaryId),
    /// It is damaged.
    Damaged(DictionaryId, DecodeError),
    /// Together they need more memory than there is.
    TooMuch,
}

impl From<TooMuch> for LoadError {
    fn from(_: TooMuch) -> Self {
        Self::TooMuch
    }
}

/// Dictionaries by id: content never changes under an id, so partitions share it. Where memory is short, those that were not used for
/// longest go first.
#[derive(Default)]
pub(super) struct Cache(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// With the count of `used` when each was used last.
    dictionaries: HashMap<DictionaryId, (Loaded, u64)>,
    used: u64,
}

/// Which part of them is let go at once.
const LET_GO: usize = 4;

impl Cache {
    /// All of these, from memory or of the bytes that were fetched.
    pub(super) async fn load(
        &self,
        ids: &[DictionaryId],
        fetched: &HashMap<DictionaryId, Bytes>,
        taking: &mut Taking<'_>,
    ) -> Result<Vec<Loaded>, LoadError> {
        // Those in memory first: from now on they stay, whatever the cache lets go.
        let mut loaded: HashMap<DictionaryId, Loaded> = HashMap::new();
        for &id in ids {
            if !loaded.contains_key(&id)
                && let Some(known) = self.get(id)
            {
                taking.count(&known.share);
                loaded.insert(id, known);
            }
        }
        let absent: Vec<_> = ids.iter().copied().filter(|id| !loaded.contains_key(id) && !fetched.contains_key(id)).collect();
        if !absent.is_empty() {
            return Err(LoadError::Absent(absent));
        }
        let mut out = Vec::with_capacity(ids.len());
        for &id in ids {
            if let Some(known) = loaded.get(&id) {
                out.push(known.clone());
                continue;
            }
            let bytes = &fetched[&id];
            let decode = || Dictionary::decode(bytes, id).map_err(|error| LoadError::Damaged(id, error));
            let (dictionary, share) = taking.decode(frame_bytes(bytes).unwrap_or_default(), decode, Dictionary::memory).await?;
            let new = Loaded { dictionary: Arc::new(dictionary), share };
            self.keep(id, new.clone());
            loaded.insert(id, new.clone());
            out.push(new);
        }
        Ok(out)
    }

    fn get(&self, id: DictionaryId) -> Option<Loaded> {
        let mut known = self.lock();
        known.used += 1;
        let now = known.used;
        let (loaded, used) = known.dictionaries.get_mut(&id)?;
        *used = now;
        Some(loaded.clone())
    }

    fn keep(&self, id: DictionaryId, loaded: Loaded) {
        let mut known = self.lock();
        known.used += 1;
        let now = known.used;
        known.dictionaries.insert(id, (loaded, now));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of a part of them, those that were not used for longest; `false`: there are none. What batches in hand refer to stays with
    /// them.
    pub(super) fn let_go(&self) -> bool {
        let mut known = self.lock();
        let mut by_use: Vec<u64> = known.dictionaries.values().map(|(_, used)| *used).collect();
        if by_use.is_empty() {
            return false;
        }
        let last = by_use.len().div_ceil(LET_GO) - 1;
        let (_, until, _) = by_use.select_nth_unstable(last);
        let until = *until;
        known.dictionaries.retain(|_, (_, used)| *used > until);
        true
    }
}

/// Fetches encoded dictionaries for batches, all partitions together. A batch may always have a few; one that needs more waits until
/// no other has so many, and gives its turn back when it is decoded. Nobody waits for the turn with a share of the budget in hand.
#[derive(Default)]
pub(super) struct Fetching(tokio::sync::Mutex<()>);

/// The encoded dictionaries of one batch.
pub(super) struct Fetched<'a> {
    fetching: &'a Fetching,
    dictionaries: HashMap<DictionaryId, Bytes>,
    total: usize,
    turn: Option<tokio::sync::MutexGuard<'a, ()>>,
}

impl Fetching {
    /// Nothing, for a batch.
    pub(super) fn begin(&self) -> Fetched<'_> {
        Fetched { fetching: self, dictionaries: HashMap::new(), total: 0, turn: None }
    }
}

impl Fetched<'_> {
    /// Those that were fetched, by id.
    pub(super) fn bytes(&self) -> &HashMap<DictionaryId, Bytes> {
        &self.dictionaries
    }

    /// Fetches these from the queue.
    pub(super) async fn fetch(
        &mut self,
        queue: &dyn Consumer,
        partition: Partition,
        ids: Vec<DictionaryId>,
    ) -> Result<(), LoadError> {
        for id in ids {
            while !self.dictionaries.contains_key(&id) {
                let most = if self.turn.is_some() { MAX_FETCHED } else { MAX_FETCHED_AT_ANY_TIME };
                let limit = most.saturating_sub(self.total).min(MAX_DICTIONARY_BYTES);
                let found = queue.dictionary_within(partition, id, limit).await.map_err(LoadError::Queue)?;
                let found = found.ok_or(LoadError::Missing(id))?;
                // Of one that is longer than any can be the first bytes do: it is found to be damaged.
                if found.length <= limit as u64 || found.length > MAX_DICTIONARY_BYTES as u64 {
                    self.total += found.bytes.len();
                    self.dictionaries.insert(id, found.bytes);
                } else if self.turn.is_some() {
                    return Err(LoadError::TooMuch);
                } else {
                    self.turn = Some(self.fetching.0.lock().await);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Budget;
    use super::*;
    use crate::model::Series;

    #[tokio::test]
    async fn where_memory_is_short_the_dictionaries_in_use_stay() {
        let encoded: Vec<_> =
            (0..40).map(|n| Dictionary::encode(&[Series { metric: format!("{n}").repeat(2000), ..Series::default() }])).collect();
        let fetched: HashMap<_, _> = encoded.iter().cloned().collect();
        let (cache, budget) = (Cache::default(), Budget::new(64 << 10));
        let make_room = || cache.let_go();
        let mut decoded = 0;
        for n in 1..40 {
            // Each batch names a new one, and the first.
            let ids = [encoded[n].0, encoded[0].0];
            decoded += ids.iter().filter(|id| cache.get(**id).is_none()).count();
            let mut taking = budget.begin(&make_room).await;
            cache.load(&ids, &fetched, &mut taking).await.expect("there is room for two");
        }
        assert_eq!(decoded, 40, "each is decoded once");
    }
}
