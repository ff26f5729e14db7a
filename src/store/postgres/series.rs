//! Series and GPUs: from what dictionaries say to the ids that chunks carry.
//!
//! New ones are registered outside of the commit's transaction, sorted by key and `ON CONFLICT DO NOTHING`, so that collectors
//! that meet the same new series at once wait for each other at most for one statement. A rolled back commit leaves at worst a
//! series without samples.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::error::Result;
use super::pool::Session;
use super::types::clean;
use crate::batch::Dictionary;
use crate::model::{DictionaryId, Digest, Gpu, Series};
use crate::store::Incoming;
use crate::store::chunk::{Day, Ids, Resolved};

/// Bytes of texts in the parameters of one statement.
const STATEMENT_BYTES: usize = 4 << 20;

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
    series: HashMap<u128, Ids>,
    /// Only the ids are kept: how large a dictionary is, is for the collector to bound.
    dictionaries: HashMap<(String, DictionaryId), (Weak<Dictionary>, Resolved)>,
    /// Series in `dictionaries`.
    entries: usize,
    /// Days that have a partition.
    days: std::collections::HashSet<Day>,
}

impl Caches {
    /// At most `limit` series are kept, and as many again in whole dictionaries.
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

    /// A dictionary's ids, where it is the very same that was resolved before: a digest that an edge chose proves nothing.
    fn dictionary(&self, cluster: &str, digest: DictionaryId, dictionary: &Arc<Dictionary>) -> Option<Resolved> {
        let inner = self.lock();
        let (known, ids) = inner.dictionaries.get(&(cluster.to_owned(), digest))?;
        // As long as there is a reference of whichever kind, no other dictionary has its address.
        std::ptr::eq(known.as_ptr(), Arc::as_ptr(dictionary)).then(|| Arc::clone(ids))
    }

    fn know_dictionary(&self, epoch: u64, cluster: &str, digest: DictionaryId, dictionary: &Arc<Dictionary>, ids: &Resolved) {
        let mut inner = self.lock();
        if inner.epoch != epoch || ids.len() > self.limit {
            return;
        }
        if inner.entries + ids.len() > self.limit {
            inner.dictionaries.clear();
            inner.entries = 0;
        }
        inner.entries += ids.len();
        let known = (Arc::downgrade(dictionary), Arc::clone(ids));
        if let Some((_, old)) = inner.dictionaries.insert((cluster.to_owned(), digest), known) {
            inner.entries -= old.len();
        }
    }

    fn know_series(&self, epoch: u64, found: &HashMap<u128, Ids>) {
        let mut inner = self.lock();
        if inner.epoch != epoch || found.len() > self.limit {
            return;
        }
        if inner.series.len() + found.len() > self.limit {
            inner.series.clear();
        }
        inner.series.extend(found);
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
    let keys: Vec<u128> = dictionary.series.iter().map(|series| series.key(cluster).to_u128()).collect();
    let mut found: HashMap<u128, Ids> = {
        let inner = caches.lock();
        keys.iter().filter_map(|key| Some((*key, *inner.series.get(key)?))).collect()
    };
    // Sorted by key: everybody inserts in one order.
    let mut missing: BTreeMap<u128, &Series> =
        keys.iter().copied().zip(&dictionary.series).filter(|(key, _)| !found.contains_key(key)).collect();
    if !missing.is_empty() {
        let mut learned = select_series(session, &missing).await?;
        missing.retain(|key, _| !learned.contains_key(key));
        if !missing.is_empty() {
            for some in in_parts(&missing) {
                insert_series(session, cluster, &some).await?;
            }
            learned.extend(select_series(session, &missing).await?);
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

/// Series in the same order, as many as one statement takes: its parameters are copies of their texts.
fn in_parts<'a>(series: &BTreeMap<u128, &'a Series>) -> Vec<BTreeMap<u128, &'a Series>> {
    let mut parts: Vec<BTreeMap<u128, &Series>> = Vec::new();
    let mut bytes = 0;
    for (key, one) in series {
        bytes += one.text_bytes();
        match parts.last_mut() {
            Some(part) if bytes <= STATEMENT_BYTES => {
                part.insert(*key, one);
            }
            _ => {
                bytes = one.text_bytes();
                parts.push(BTreeMap::from([(*key, *one)]));
            }
        }
    }
    parts
}

async fn select_series(session: &Session, wanted: &BTreeMap<u128, &Series>) -> Result<HashMap<u128, Ids>> {
    let keys: Vec<Digest> = wanted.keys().map(|key| Digest::from_u128(*key)).collect();
    let rows = session.query("SELECT key, id, gpu_id FROM series WHERE key = ANY($1)", &[&keys]).await?;
    Ok(rows.iter().map(|row| (row.get::<_, Digest>(0).to_u128(), Ids { series: row.get(1), gpu: row.get(2) })).collect())
}

async fn insert_series(session: &Session, cluster: &str, new: &BTreeMap<u128, &Series>) -> Result<()> {
    let gpus: BTreeMap<u128, &Gpu> = new.values().map(|series| (series.gpu.key(cluster).to_u128(), &series.gpu)).collect();
    insert_gpus(session, cluster, &gpus).await?;
    let keys: Vec<Digest> = new.keys().map(|key| Digest::from_u128(*key)).collect();
    let gpu_keys: Vec<Digest> = new.values().map(|series| series.gpu.key(cluster)).collect();
    let text = |of: fn(&Series) -> &String| new.values().map(|series| clean(of(series)).into_owned()).collect::<Vec<_>>();
    let labels: Vec<Option<serde_json::Value>> = new.values().map(|series| labels_of(series)).collect();
    session
        .execute(
            "INSERT INTO series (key, gpu_id, metric, namespace, pod, container, labels) \
             SELECT n.key, g.id, n.metric, nullif(n.namespace, ''), nullif(n.pod, ''), nullif(n.container, ''), n.labels \
               FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[]) \
                    AS n (key, gpu_key, metric, namespace, pod, container, labels) \
               JOIN gpu g ON g.key = n.gpu_key \
              ORDER BY n.key \
             ON CONFLICT (key) DO NOTHING",
            &[
                &keys,
                &gpu_keys,
                &text(|s| &s.metric),
                &text(|s| &s.namespace),
                &text(|s| &s.pod),
                &text(|s| &s.container),
                &labels,
            ],
        )
        .await?;
    Ok(())
}

/// The further labels as an object; `None` where there are none.
fn labels_of(series: &Series) -> Option<serde_json::Value> {
    (!series.labels.is_empty()).then(|| {
        series
            .labels
            .iter()
            .map(|(name, value)| (clean(name).into_owned(), serde_json::Value::from(clean(value).into_owned())))
            .collect()
    })
}

async fn insert_gpus(session: &Session, cluster: &str, gpus: &BTreeMap<u128, &Gpu>) -> Result<()> {
    let keys: Vec<Digest> = gpus.keys().map(|key| Digest::from_u128(*key)).collect();
    let text = |of: fn(&Gpu) -> &String| gpus.values().map(|gpu| clean(of(gpu)).into_owned()).collect::<Vec<_>>();
    // An index that PostgreSQL's int cannot hold is none of a real GPU; the key still tells such GPUs apart.
    let indices: Vec<Option<i32>> = gpus.values().map(|gpu| gpu.index.and_then(|index| i32::try_from(index).ok())).collect();
    session
        .execute(
            "INSERT INTO gpu (key, cluster, uuid, hostname, gpu_index, device, model, driver_version, pci_bus_id, mig_profile, mig_instance) \
             SELECT n.key, $2, n.uuid, n.hostname, n.gpu_index, n.device, n.model, n.driver, n.pci, n.profile, n.instance \
               FROM unnest($1::uuid[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[]) \
                    AS n (key, uuid, hostname, gpu_index, device, model, driver, pci, profile, instance) \
              WHERE NOT EXISTS (SELECT FROM gpu g WHERE g.key = n.key) \
              ORDER BY n.key \
             ON CONFLICT (key) DO NOTHING",
            &[
                &keys,
                &clean(cluster),
                &text(|g| &g.uuid),
                &text(|g| &g.hostname),
                &indices,
                &text(|g| &g.device),
                &text(|g| &g.model),
                &text(|g| &g.driver_version),
                &text(|g| &g.pci_bus_id),
                &text(|g| &g.mig_profile),
                &text(|g| &g.mig_instance),
            ],
        )
        .await?;
    Ok(())
}
