//! Series and GPUs: from what dictionaries say to the ids that chunks carry.
//!
//! Those that earlier programs have made are rows of the table `series`, found by their keys; new ones are registered in `sets`, outside of
//! the commit's transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::error::Result;
use super::pool::Session;
use super::{live, sets};
use crate::batch::Dictionary;
use crate::model::{DictionaryId, Digest};
use crate::store::Incoming;
use crate::store::chunk::{Day, Ids, Resolved};

/// Caches of ids and partitions in the database. They are emptied whenever a connection has to be made: the database behind it may have been restored or
/// failed over meanwhile, and ids that were seen may not be there any more.
pub(super) struct Caches {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    /// How often the caches were emptied.
    epoch: u64,
    /// Series that were asked for lately, and those that were before these: who is among them and asked for again is moved over.
    series: HashMap<u128, Ids>,
    former_series: HashMap<u128, Ids>,
    dictionaries: HashMap<(String, DictionaryId), KnownDictionary>,
    /// Series in `dictionaries`.
    entries: usize,
    /// How often dictionaries were asked for.
    asked: u64,
    /// Days that have a partition.
    days: std::collections::HashSet<Day>,
    /// Whether the form of `live` is announced.
    announced: bool,
    /// Whether there is something in the table `series`, where that is known. It is not added to once `live` is announced.
    has_former_series: Option<bool>,
}

/// Only the ids are kept: how large a dictionary is, is for the collector to bound.
struct KnownDictionary {
    dictionary: Weak<Dictionary>,
    ids: Resolved,
    /// The count of [`Inner::asked`] when it was asked for last.
    used: u64,
}

impl Caches {
    /// At most `limit` series are kept in whole dictionaries, and a quarter as many singly.
    pub(super) fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the caches.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        *inner = Inner { epoch: inner.epoch + 1, ..Inner::default() };
    }

    /// A number that changes when the caches are emptied: what was learned before must not be added after.
    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// The days among these that are not known to have a partition.
    pub(super) fn unknown_days(&self, days: impl Iterator<Item = Day>) -> Vec<Day> {
        let inner = self.lock();
        days.filter(|day| !inner.days.contains(day)).collect()
    }

    /// Adds days that have a partition.
    pub(super) fn know_days(&self, epoch: u64, days: &[Day]) {
        let mut inner = self.lock();
        if inner.epoch == epoch {
            inner.days.extend(days);
        }
    }

    /// Whether the form of `live` is known to be announced.
    pub(super) fn is_announced(&self) -> bool {
        self.lock().announced
    }

    /// Adds that the form of `live` is announced.
    pub(super) fn know_announced(&self, epoch: u64) {
        let mut inner = self.lock();
        inner.announced |= inner.epoch == epoch;
    }

    /// A dictionary's ids, where it is the very same that was resolved before: a digest that an edge chose proves nothing.
    fn dictionary(&self, cluster: &str, digest: DictionaryId, dictionary: &Arc<Dictionary>) -> Option<Resolved> {
        let mut inner = self.lock();
        inner.asked += 1;
        let asked = inner.asked;
        let known = inner.dictionaries.get_mut(&(cluster.to_owned(), digest))?;
        known.used = asked;
        // As long as there is a reference of whichever kind, no other dictionary has its address.
        std::ptr::eq(known.dictionary.as_ptr(), Arc::as_ptr(dictionary)).then(|| Arc::clone(&known.ids))
    }

    fn know_dictionary(&self, epoch: u64, cluster: &str, digest: DictionaryId, dictionary: &Arc<Dictionary>, ids: &Resolved) {
        let mut inner = self.lock();
        if inner.epoch != epoch || ids.len() > self.limit {
            return;
        }
        let key = (cluster.to_owned(), digest);
        if let Some(old) = inner.dictionaries.remove(&key) {
            inner.entries -= old.ids.len();
        }
        while inner.entries + ids.len() > self.limit && inner.drop_dictionary() {}
        inner.entries += ids.len();
        let known = KnownDictionary { dictionary: Arc::downgrade(dictionary), ids: Arc::clone(ids), used: inner.asked };
        inner.dictionaries.insert(key, known);
    }

    fn know_series(&self, epoch: u64, found: &HashMap<u128, Ids>) {
        let mut inner = self.lock();
        if inner.epoch == epoch {
            for (key, ids) in found {
                inner.know_series(*key, *ids, self.limit / 8);
            }
        }
    }

    /// Those of these keys that are known.
    fn known_series(&self, keys: &[u128]) -> HashMap<u128, Ids> {
        let mut inner = self.lock();
        let mut known = HashMap::new();
        for key in keys {
            if let Some(ids) = inner.series.get(key) {
                known.insert(*key, *ids);
            } else if let Some(ids) = inner.former_series.remove(key) {
                known.insert(*key, ids);
                inner.know_series(*key, ids, self.limit / 8);
            }
        }
        known
    }
}

impl Inner {
    /// Lets go of one dictionary: one that nobody has any more, or the one that was not asked for for longest. `false`: there is none.
    fn drop_dictionary(&mut self) -> bool {
        let oldest = self.dictionaries.iter().min_by_key(|(_, known)| (known.dictionary.strong_count() > 0, known.used));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
        if let Some(old) = self.dictionaries.remove(&key) {
            self.entries -= old.ids.len();
        }
        true
    }

    /// Adds a series; of those asked for lately there are no more than `limit`.
    fn know_series(&mut self, key: u128, ids: Ids, limit: usize) {
        if self.series.len() >= limit {
            self.former_series = std::mem::take(&mut self.series);
        }
        self.series.insert(key, ids);
    }
}

/// The ids of every dictionary of every batch of a group.
pub(super) async fn resolve(session: &Session, caches: &Caches, group: &[Incoming]) -> Result<Vec<Vec<Resolved>>> {
    let mut resolved = Vec::with_capacity(group.len());
    for incoming in group {
        let header = &incoming.batch().header;
        let mut ids = Vec::with_capacity(incoming.dictionaries().len());
        for (digest, dictionary) in header.dictionaries.iter().zip(incoming.dictionaries()) {
            if let Some(known) = caches.dictionary(&header.cluster, *digest, dictionary) {
                ids.push(known);
                continue;
            }
            let epoch = caches.epoch();
            let learned = resolve_dictionary(session, caches, epoch, &header.cluster, dictionary).await?;
            caches.know_dictionary(epoch, &header.cluster, *digest, dictionary, &learned);
            ids.push(learned);
        }
        resolved.push(ids);
    }
    Ok(resolved)
}

async fn resolve_dictionary(
    session: &Session,
    caches: &Caches,
    epoch: u64,
    cluster: &str,
    dictionary: &Dictionary,
) -> Result<Resolved> {
    let keys: Vec<u128> = dictionary.iter().map(|series| series.key(cluster).to_u128()).collect();
    let mut found = caches.known_series(&keys);
    let mut missing: BTreeMap<u128, usize> = keys.iter().copied().zip(0..).filter(|(key, _)| !found.contains_key(key)).collect();
    if !missing.is_empty() {
        // From then on, nothing is added to the table `series`: what is not in it is in sets.
        live::announce(session, caches).await?;
        let mut learned = HashMap::new();
        if has_former_series(session, caches, epoch).await? {
            learned = select_series(session, cluster, dictionary, &missing).await?;
            missing.retain(|key, _| !learned.contains_key(key));
        }
        if !missing.is_empty() {
            learned.extend(sets::resolve(session, cluster, dictionary, &missing).await?);
        }
        caches.know_series(epoch, &learned);
        found.extend(learned);
    }
    keys.iter()
        .map(|key| {
            found.get(key).copied().ok_or_else(|| session.unavailable("a series vanished while it was registered".to_owned()))
        })
        .collect()
}

/// Whether there is something in the table `series`.
async fn has_former_series(session: &Session, caches: &Caches, epoch: u64) -> Result<bool> {
    if let Some(known) = caches.lock().has_former_series {
        return Ok(known);
    }
    let some = !session.query("SELECT FROM series LIMIT 1", &[]).await?.is_empty();
    let mut inner = caches.lock();
    if inner.epoch == epoch {
        inner.has_former_series = Some(some);
    }
    Ok(some)
}

/// Those of these series that are in the table `series`, under whichever name of their metric.
async fn select_series(
    session: &Session,
    cluster: &str,
    dictionary: &Dictionary,
    wanted: &BTreeMap<u128, usize>,
) -> Result<HashMap<u128, Ids>> {
    let names: Vec<(u128, Vec<Digest>)> =
        wanted.iter().filter_map(|(key, index)| Some((*key, dictionary.get(*index)?.keys(cluster)))).collect();
    let keys: Vec<Digest> = names.iter().flat_map(|(_, keys)| keys).copied().collect();
    let rows = session.query("SELECT key, id, gpu_id FROM series WHERE key = ANY($1)", &[&keys]).await?;
    let ids: HashMap<Digest, Ids> = rows.iter().map(|row| (row.get(0), Ids { series: row.get(1), gpu: row.get(2) })).collect();
    Ok(names.iter().filter_map(|(key, keys)| Some((*key, *keys.iter().find_map(|key| ids.get(key))?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GpuId, SeriesId};

    fn ids(n: i64) -> Ids {
        Ids { series: SeriesId::from_store(n), gpu: GpuId::from_store(n) }
    }

    #[test]
    fn a_full_cache_lets_go_of_what_is_not_used() {
        let caches = Caches::new(50);
        let dictionaries: Vec<_> = (0..40).map(|n| (DictionaryId::of(&[n]), Arc::new(Dictionary::default()))).collect();
        let resolved: Resolved = (0..10).map(ids).collect();
        let mut asked = 0;
        for (digest, dictionary) in &dictionaries {
            // The first is used all the time.
            for (digest, dictionary) in [&dictionaries[0], &(*digest, Arc::clone(dictionary))] {
                if caches.dictionary("c", *digest, dictionary).is_none() {
                    asked += 1;
                    caches.know_dictionary(0, "c", *digest, dictionary, &resolved);
                }
            }
            assert!(caches.lock().entries <= 50);
        }
        assert_eq!(asked, 40, "each is asked for once");
        let another = Arc::new(Dictionary::default());
        assert!(caches.dictionary("c", dictionaries[0].0, &another).is_none(), "a digest alone proves nothing");

        let caches = Caches::new(80);
        let mut asked = 0;
        for n in 1..400u128 {
            for key in [0, n] {
                if caches.known_series(&[key]).is_empty() {
                    asked += 1;
                    caches.know_series(0, &HashMap::from([(key, ids(1))]));
                }
            }
            let inner = caches.lock();
            assert!(inner.series.len() + inner.former_series.len() <= 20);
        }
        assert_eq!(asked, 400, "each is asked for once");
    }
}
