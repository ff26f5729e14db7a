//! Sets of series: how new series get their ids. A set has up to 64 series of one GPU and one workload, whose metrics are a list that many
//! sets share; the id of a series is that of its set * 64 and its place in the list. So a series costs a few bytes, and ids never change:
//! lists only grow.
//!
//! What is missing is added in a transaction that holds the locks of the GPUs concerned, after another look: whoever registers the same
//! series at the same time finds them. A rolled back commit leaves at worst a series without samples.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::Result;
use super::pool::Session;
use super::types::clean;
use crate::batch::Dictionary;
use crate::model::{Digest, Gpu, GpuId, Series, SeriesId, catalogue_name, names_of};
use crate::store::chunk::Ids;

/// Series of a set, at most.
const PLACES: usize = 64;
/// Bytes of texts in the parameters of one statement.
const STATEMENT_BYTES: usize = 4 << 20;
/// Stands for no workload: ids begin at 1.
const NO_WORKLOAD: i32 = 0;

/// The inner questions are fenced off (OFFSET 0) here and below, so that the index is asked for each key, whatever the planner thinks of a table
/// that it has no statistics of: comparing each row of it with each key takes seconds where a fleet is new.
const SELECT_SETS: &str = "SELECT t.id, t.gpu_id, coalesce(t.workload_id, 0), l.metrics \
     FROM unnest($1::bigint[]) AS g (id) \
    CROSS JOIN LATERAL (SELECT * FROM series_set WHERE gpu_id = g.id OFFSET 0) AS t \
     JOIN metric_list l ON l.id = t.list_id \
    WHERE coalesce(t.workload_id, 0) IN (SELECT unnest($2::int[])) ORDER BY t.id";
/// In the order in which they are given.
const LOCK_GPUS: &str = "SELECT g.id FROM unnest($1::bigint[]) AS n (id) CROSS JOIN LATERAL (SELECT id FROM gpu WHERE id = n.id FOR NO KEY UPDATE) AS g";

/// Who used a GPU, with further labels.
struct Workload {
    namespace: String,
    pod: String,
    container: String,
    labels: Vec<(String, String)>,
}

impl Workload {
    fn of(series: Series) -> Option<Self> {
        let Series { namespace, pod, container, labels, .. } = series;
        let is_none = namespace.is_empty() && pod.is_empty() && container.is_empty() && labels.is_empty();
        (!is_none).then_some(Self { namespace, pod, container, labels })
    }

    fn key(&self) -> u128 {
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let parts: Vec<&[u8]> =
            [&self.namespace, &self.pod, &self.container].into_iter().chain(labels).map(|text| text.as_bytes()).collect();
        Digest::of_parts(&parts).to_u128()
    }

    fn text_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.namespace.len() + self.pod.len() + self.container.len() + labels
    }

    /// The further labels as an object; `None` where there are none.
    fn labels(&self) -> Option<serde_json::Value> {
        let pair =
            |(name, value): &(String, String)| (clean(name).into_owned(), serde_json::Value::from(clean(value).into_owned()));
        (!self.labels.is_empty()).then(|| self.labels.iter().map(pair).collect())
    }
}

/// A metric by the catalogue's name, and the name by which it came.
struct Metric {
    name: String,
    alias: String,
}

impl Metric {
    fn of(alias: String) -> Self {
        Self { name: catalogue_name(&alias).to_owned(), alias }
    }

    fn key(&self) -> Digest {
        Self::key_of(&self.name, &self.alias)
    }

    fn key_of(name: &str, alias: &str) -> Digest {
        Digest::of_parts(&[name.as_bytes(), alias.as_bytes()])
    }

    /// The keys of the same metric, by whichever name it came.
    fn keys(&self) -> Vec<Digest> {
        let others = names_of(&self.name).iter().filter(|name| **name != self.alias);
        std::iter::once(self.alias.as_str()).chain(others.copied()).map(|alias| Self::key_of(&self.name, alias)).collect()
    }
}

/// The ids of a metric: first the one that it has by the name by which it came, then those by its other names. A set has one of them.
type MetricIds = Vec<i32>;

/// A series to be found, by the keys of what it consists of.
struct Wanted {
    key: u128,
    gpu: u128,
    workload: Option<u128>,
    metric: Digest,
}

/// A series to be found, by the ids of what it consists of.
struct Sought {
    key: u128,
    gpu: GpuId,
    workload: i32,
    metric: Digest,
}

/// Series to be found, and what they consist of, each once.
#[derive(Default)]
struct Parts {
    series: Vec<Wanted>,
    gpus: BTreeMap<u128, Gpu>,
    workloads: BTreeMap<u128, Workload>,
    metrics: BTreeMap<Digest, Metric>,
}

impl Parts {
    fn new(cluster: &str, dictionary: &Dictionary, wanted: &BTreeMap<u128, usize>) -> Self {
        let mut parts = Self::default();
        for (key, index) in wanted {
            let Some(mut series) = dictionary.get(*index) else { continue };
            let gpu = series.gpu.key(cluster).to_u128();
            parts.gpus.entry(gpu).or_insert_with(|| std::mem::take(&mut series.gpu));
            let metric = Metric::of(std::mem::take(&mut series.metric));
            let metric_key = metric.key();
            parts.metrics.entry(metric_key).or_insert(metric);
            let workload = Workload::of(series).map(|workload| (workload.key(), workload));
            parts.series.push(Wanted { key: *key, gpu, workload: workload.as_ref().map(|(key, _)| *key), metric: metric_key });
            parts.workloads.extend(workload);
        }
        parts
    }
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    id: i64,
    metrics: Vec<i32>,
}

impl Set {
    fn series(&self, metric: &MetricIds) -> Option<SeriesId> {
        let place = self.metrics.iter().position(|known| metric.contains(known))?;
        Some(SeriesId::from_store(self.id * PLACES as i64 + place as i64))
    }
}

/// The sets of GPUs and workloads.
type Sets = HashMap<(GpuId, i32), Vec<Set>>;

/// The ids of series that are not in the table `series`; new ones are registered. Outside of any transaction.
pub(super) async fn resolve(
    session: &Session,
    cluster: &str,
    dictionary: &Dictionary,
    wanted: &BTreeMap<u128, usize>,
) -> Result<HashMap<u128, Ids>> {
    let parts = Parts::new(cluster, dictionary, wanted);
    let gpus = gpu_ids(session, cluster, &parts.gpus).await?;
    let metrics = metric_ids(session, &parts.metrics).await?;
    let workloads = workload_ids(session, &parts.workloads).await?;
    let vanished = || session.unavailable("what a series consists of vanished while it was registered".to_owned());
    let mut sought = Vec::with_capacity(parts.series.len());
    for Wanted { key, gpu, workload, metric } in &parts.series {
        let workload = match workload {
            Some(key) => *workloads.get(key).ok_or_else(vanished)?,
            None => NO_WORKLOAD,
        };
        sought.push(Sought { key: *key, gpu: *gpus.get(gpu).ok_or_else(vanished)?, workload, metric: *metric });
    }
    let sets = select_sets(session, &sought).await?;
    let mut ids = ids_of(&sought, &sets, &metrics);
    sought.retain(|series| !ids.contains_key(&series.key));
    if !sought.is_empty() {
        let (sets, metrics) = register(session, &sought, &parts.metrics).await?;
        ids.extend(ids_of(&sought, &sets, &metrics));
    }
    Ok(ids)
}

fn ids_of(sought: &[Sought], sets: &Sets, metrics: &HashMap<Digest, MetricIds>) -> HashMap<u128, Ids> {
    let find = |of: &Sought| {
        let metric = metrics.get(&of.metric)?;
        let series = sets.get(&(of.gpu, of.workload))?.iter().find_map(|set| set.series(metric))?;
        Some((of.key, Ids { series, gpu: of.gpu }))
    };
    sought.iter().filter_map(find).collect()
}

/// The sets of the GPUs and workloads of these series.
async fn select_sets(session: &Session, sought: &[Sought]) -> Result<Sets> {
    let gpus: BTreeSet<GpuId> = sought.iter().map(|series| series.gpu).collect();
    let workloads: BTreeSet<i32> = sought.iter().map(|series| series.workload).collect();
    let (gpus, workloads): (Vec<GpuId>, Vec<i32>) = (gpus.into_iter().collect(), workloads.into_iter().collect());
    let mut sets = Sets::new();
    for row in session.query(SELECT_SETS, &[&gpus, &workloads]).await? {
        let set = Set { id: row.get(0), metrics: row.get(3) };
        sets.entry((row.get(1), row.get(2))).or_default().push(set);
    }
    Ok(sets)
}

/// Adds what is missing; returns the sets of the GPUs concerned, and the ids of metrics.
async fn register(
    session: &Session,
    missing: &[Sought],
    metrics: &BTreeMap<Digest, Metric>,
) -> Result<(Sets, HashMap<Digest, MetricIds>)> {
    let gpus: Vec<GpuId> = missing.iter().map(|series| series.gpu).collect::<BTreeSet<_>>().into_iter().collect();
    insert_blocks(session, &gpus).await?;
    // What is updated is found by the index, too.
    session.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL enable_seqscan = off").await?;
    if session.query(LOCK_GPUS, &[&gpus]).await?.len() < gpus.len() {
        return Err(session.unavailable("a GPU vanished while its series were registered".to_owned()));
    }
    // Whoever had the locks before may have added a metric by another of its names.
    let metrics = metric_ids(session, metrics).await?;
    let mut sets = select_sets(session, missing).await?;
    let mut of_sets: BTreeMap<(GpuId, i32), Vec<&MetricIds>> = BTreeMap::new();
    for series in missing {
        let ids = metrics.get(&series.metric);
        let ids = ids.ok_or_else(|| session.unavailable("a metric vanished while its series were registered".to_owned()))?;
        of_sets.entry((series.gpu, series.workload)).or_default().push(ids);
    }
    let (mut grown, mut new) = (Vec::new(), Vec::new());
    for (of, metrics) in of_sets {
        let growth = grow(sets.entry(of).or_default(), metrics);
        grown.extend(growth.grown);
        new.extend(growth.new.into_iter().map(|metrics| (of, metrics)));
    }
    let lists = list_ids(session, grown.iter().map(|set| &set.metrics).chain(new.iter().map(|(_, metrics)| metrics))).await?;
    update_sets(session, &grown, &lists).await?;
    for (of, set) in insert_sets(session, new, &lists).await? {
        sets.entry(of).or_default().push(set);
    }
    session.batch("COMMIT").await?;
    Ok((sets, metrics))
}

/// What becomes of the sets of a GPU and workload.
#[derive(Debug, Default, PartialEq, Eq)]
struct Growth {
    /// Sets that have metrics more.
    grown: Vec<Set>,
    /// The metrics of new sets.
    new: Vec<Vec<i32>>,
}

/// Adds metrics to the sets of a GPU and workload. Those that come together are in the order of their ids, so that lists are alike.
fn grow(sets: &mut [Set], mut metrics: Vec<&MetricIds>) -> Growth {
    metrics.sort_unstable();
    let mut missing: Vec<i32> = Vec::new();
    for ids in metrics {
        let is_known = sets.iter().flat_map(|set| &set.metrics).chain(&missing).any(|known| ids.contains(known));
        missing.extend(ids.first().filter(|_| !is_known));
    }
    let mut growth = Growth::default();
    for set in sets {
        let room = PLACES.saturating_sub(set.metrics.len()).min(missing.len());
        if room > 0 {
            set.metrics.extend(missing.drain(..room));
            growth.grown.push(set.clone());
        }
    }
    growth.new = missing.chunks(PLACES).map(<[i32]>::to_vec).collect();
    growth
}

/// The ids of lists by their metrics; new ones are added.
async fn list_ids<'a>(session: &Session, lists: impl Iterator<Item = &'a Vec<i32>>) -> Result<HashMap<Vec<i32>, i32>> {
    let key = |metrics: &[i32]| Digest::of(&metrics.iter().flat_map(|metric| metric.to_le_bytes()).collect::<Vec<u8>>());
    let lists: BTreeMap<Digest, &Vec<i32>> = lists.map(|metrics| (key(metrics), metrics)).collect();
    let keys: Vec<Digest> = lists.keys().copied().collect();
    let mut ids: HashMap<Vec<i32>, i32> = HashMap::new();
    for attempt in 0..2 {
        let rows = session.query("SELECT metrics, id FROM metric_list WHERE key = ANY($1)", &[&keys]).await?;
        ids.extend(rows.iter().map(|row| (row.get::<_, Vec<i32>>(0), row.get::<_, i32>(1))));
        let new: Vec<(&Digest, &&Vec<i32>)> = lists.iter().filter(|(_, metrics)| !ids.contains_key(**metrics)).collect();
        if new.is_empty() || attempt > 0 {
            break;
        }
        // Sorted by key: everybody inserts in one order.
        let keys: Vec<Digest> = new.iter().map(|(key, _)| **key).collect();
        let texts: Vec<String> = new.iter().map(|(_, metrics)| array_text(metrics)).collect();
        session
            .execute(
                "INSERT INTO metric_list (key, metrics) SELECT n.key, n.metrics::int[] FROM unnest($1::uuid[], $2::text[]) AS n (key, metrics) \
                  ORDER BY n.key ON CONFLICT (key) DO NOTHING",
                &[&keys, &texts],
            )
            .await?;
    }
    Ok(ids)
}

fn array_text(numbers: &[i32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

fn list_of(session: &Session, lists: &HashMap<Vec<i32>, i32>, metrics: &[i32]) -> Result<i32> {
    lists
        .get(metrics)
        .copied()
        .ok_or_else(|| session.unavailable("a list of metrics vanished while it was registered".to_owned()))
}

async fn update_sets(session: &Session, grown: &[Set], lists: &HashMap<Vec<i32>, i32>) -> Result<()> {
    if grown.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = grown.iter().map(|set| set.id).collect();
    let lists = grown.iter().map(|set| list_of(session, lists, &set.metrics)).collect::<Result<Vec<i32>>>()?;
    session
        .execute(
            "UPDATE series_set t SET list_id = n.list_id FROM unnest($1::bigint[], $2::int[]) AS n (id, list_id) WHERE t.id = n.id",
            &[&ids, &lists],
        )
        .await?;
    Ok(())
}

/// Adds sets, and returns them.
async fn insert_sets(
    session: &Session,
    new: Vec<((GpuId, i32), Vec<i32>)>,
    lists: &HashMap<Vec<i32>, i32>,
) -> Result<Vec<((GpuId, i32), Set)>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let gpus: Vec<GpuId> = new.iter().map(|((gpu, _), _)| *gpu).collect();
    let workloads: Vec<i32> = new.iter().map(|((_, workload), _)| *workload).collect();
    let list_ids = new.iter().map(|(_, metrics)| list_of(session, lists, metrics)).collect::<Result<Vec<i32>>>()?;
    let rows = session
        .query(
            "INSERT INTO series_set (gpu_id, list_id, workload_id) \
             SELECT n.gpu_id, n.list_id, nullif(n.workload_id, 0) \
               FROM unnest($1::bigint[], $2::int[], $3::int[]) WITH ORDINALITY AS n (gpu_id, list_id, workload_id, place) \
              ORDER BY n.place RETURNING gpu_id, coalesce(workload_id, 0), list_id, id",
            &[&gpus, &list_ids, &workloads],
        )
        .await?;
    // New sets of one GPU and workload have different lists.
    let ids: HashMap<(GpuId, i32, i32), i64> =
        rows.iter().map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3))).collect();
    let with_id = |(((gpu, workload), metrics), list): (((GpuId, i32), Vec<i32>), i32)| {
        let id = ids.get(&(gpu, workload, list)).copied();
        let id = id.ok_or_else(|| session.unavailable("a set of series vanished while it was registered".to_owned()))?;
        Ok(((gpu, workload), Set { id, metrics }))
    };
    new.into_iter().zip(list_ids).map(with_id).collect()
}

/// Ids by keys.
async fn ids_by_key<I: for<'a> tokio_postgres::types::FromSql<'a>>(
    session: &Session,
    table: &str,
    keys: &[Digest],
) -> Result<HashMap<u128, I>> {
    let sql = format!(
        "SELECT t.key, t.id FROM unnest($1::uuid[]) AS k (key) CROSS JOIN LATERAL (SELECT key, id FROM {table} WHERE key = k.key OFFSET 0) AS t"
    );
    let rows = session.query(&sql, &[&keys]).await?;
    Ok(rows.iter().map(|row| (row.get::<_, Digest>(0).to_u128(), row.get(1))).collect())
}

/// The keys that are missing in what was found.
fn missing<I>(keys: &[Digest], found: &HashMap<u128, I>) -> Vec<Digest> {
    keys.iter().copied().filter(|key| !found.contains_key(&key.to_u128())).collect()
}

/// Cuts rows into pieces, whose texts are not too long for one statement.
fn pieces<T>(rows: Vec<T>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut pieces, mut last, mut sum) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let more = bytes(&row);
        if !last.is_empty() && sum + more > STATEMENT_BYTES {
            pieces.push(std::mem::take(&mut last));
            sum = 0;
        }
        sum += more;
        last.push(row);
    }
    pieces.push(last);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

async fn metric_ids(session: &Session, metrics: &BTreeMap<Digest, Metric>) -> Result<HashMap<Digest, MetricIds>> {
    let keys: BTreeSet<Digest> = metrics.values().flat_map(Metric::keys).collect();
    let keys: Vec<Digest> = keys.into_iter().collect();
    let mut found: HashMap<u128, i32> = ids_by_key(session, "metric", &keys).await?;
    let own: Vec<Digest> = metrics.keys().copied().collect();
    let new = missing(&own, &found);
    let rows = new.iter().filter_map(|key| Some((*key, metrics.get(key)?))).collect();
    for piece in pieces(rows, |(_, metric): &(Digest, &Metric)| metric.name.len() + metric.alias.len()) {
        let keys: Vec<Digest> = piece.iter().map(|(key, _)| *key).collect();
        let text =
            |of: fn(&Metric) -> &String| piece.iter().map(|(_, metric)| clean(of(metric)).into_owned()).collect::<Vec<_>>();
        session
            .execute(
                "INSERT INTO metric (key, name, alias) SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) AS n (key, name, alias) \
                  ORDER BY n.key ON CONFLICT (key) DO NOTHING",
                &[&keys, &text(|metric| &metric.name), &text(|metric| &metric.alias)],
            )
            .await?;
    }
    if !new.is_empty() {
        found.extend(ids_by_key(session, "metric", &keys).await?);
    }
    let of = |metric: &Metric| metric.keys().iter().filter_map(|key| found.get(&key.to_u128()).copied()).collect();
    Ok(metrics.iter().map(|(key, metric)| (*key, of(metric))).collect())
}

async fn workload_ids(session: &Session, workloads: &BTreeMap<u128, Workload>) -> Result<HashMap<u128, i32>> {
    if workloads.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<Digest> = workloads.keys().map(|key| Digest::from_u128(*key)).collect();
    let mut found = ids_by_key(session, "workload", &keys).await?;
    let new = missing(&keys, &found);
    let rows = new.iter().filter_map(|key| Some((*key, workloads.get(&key.to_u128())?))).collect();
    for piece in pieces(rows, |(_, workload): &(Digest, &Workload)| workload.text_bytes()) {
        let keys: Vec<Digest> = piece.iter().map(|(key, _)| *key).collect();
        let text = |of: fn(&Workload) -> &String| piece.iter().map(|(_, w)| clean(of(w)).into_owned()).collect::<Vec<_>>();
        let labels: Vec<Option<serde_json::Value>> = piece.iter().map(|(_, workload)| workload.labels()).collect();
        session
            .execute(
                "INSERT INTO workload (key, namespace, pod, container, labels) \
                 SELECT n.key, nullif(n.namespace, ''), nullif(n.pod, ''), nullif(n.container, ''), n.labels \
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[]) AS n (key, namespace, pod, container, labels) \
                  ORDER BY n.key ON CONFLICT (key) DO NOTHING",
                &[&keys, &text(|w| &w.namespace), &text(|w| &w.pod), &text(|w| &w.container), &labels],
            )
            .await?;
    }
    if !new.is_empty() {
        found.extend(ids_by_key(session, "workload", &new).await?);
    }
    Ok(found)
}

async fn gpu_ids(session: &Session, cluster: &str, gpus: &BTreeMap<u128, Gpu>) -> Result<HashMap<u128, GpuId>> {
    let keys: Vec<Digest> = gpus.keys().map(|key| Digest::from_u128(*key)).collect();
    let mut found = ids_by_key(session, "gpu", &keys).await?;
    let new = missing(&keys, &found);
    let mut rows: Vec<(Digest, &Gpu)> = new.iter().filter_map(|key| Some((*key, gpus.get(&key.to_u128())?))).collect();
    // The GPUs of a host get ids that follow each other, so that they are in one block or two. Everybody inserts in this order.
    rows.sort_unstable_by(|(a_key, a), (b_key, b)| (&a.hostname, a.index, a_key).cmp(&(&b.hostname, b.index, b_key)));
    for piece in pieces(rows, |(_, gpu)| gpu.text_bytes()) {
        insert_gpus(session, cluster, &piece).await?;
    }
    if !new.is_empty() {
        found.extend(ids_by_key(session, "gpu", &new).await?);
    }
    Ok(found)
}

async fn insert_gpus(session: &Session, cluster: &str, gpus: &[(Digest, &Gpu)]) -> Result<()> {
    let keys: Vec<Digest> = gpus.iter().map(|(key, _)| *key).collect();
    let text = |of: fn(&Gpu) -> &String| gpus.iter().map(|(_, gpu)| clean(of(gpu)).into_owned()).collect::<Vec<_>>();
    // An index that PostgreSQL's int cannot hold is none of a real GPU; the key still tells such GPUs apart.
    let indices: Vec<Option<i32>> = gpus.iter().map(|(_, gpu)| gpu.index.and_then(|index| i32::try_from(index).ok())).collect();
    session
        .execute(
            "INSERT INTO gpu (key, cluster, uuid, hostname, gpu_index, device, model, driver_version, pci_bus_id, mig_profile, mig_instance) \
             SELECT n.key, $2, n.uuid, n.hostname, n.gpu_index, n.device, n.model, n.driver, n.pci, n.profile, n.instance \
               FROM unnest($1::uuid[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[]) \
                    WITH ORDINALITY AS n (key, uuid, hostname, gpu_index, device, model, driver, pci, profile, instance, place) \
              WHERE NOT EXISTS (SELECT FROM gpu g WHERE g.key = n.key) \
              ORDER BY n.place \
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

/// Makes the blocks of these GPUs where they are missing: also of GPUs that an older program has inserted.
async fn insert_blocks(session: &Session, gpus: &[GpuId]) -> Result<()> {
    session
        .execute(
            "INSERT INTO gpu_block (id, first_seen, last_seen) \
             SELECT n.id, array_fill(NULL::timestamptz, '{16}'), array_fill(NULL::timestamptz, '{16}') \
               FROM (SELECT DISTINCT gpu >> 4 AS id FROM unnest($1::bigint[]) AS g (gpu)) n \
              WHERE NOT EXISTS (SELECT FROM gpu_block b WHERE b.id = n.id) \
              ORDER BY n.id \
             ON CONFLICT (id) DO NOTHING",
            &[&gpus],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(id: i64, metrics: impl Iterator<Item = i32>) -> Set {
        Set { id, metrics: metrics.collect() }
    }

    #[test]
    fn sets_grow_at_their_end() {
        let of = |ids: &[i32]| ids.iter().map(|id| vec![*id]).collect::<Vec<MetricIds>>();
        let mut sets = [set(1, 1..=64), set(2, [70, 66].into_iter())];
        let growth = grow(&mut sets, of(&[90, 3, 66, 68, 90]).iter().collect());
        assert_eq!(growth, Growth { grown: vec![set(2, [70, 66, 68, 90].into_iter())], new: Vec::new() });
        assert_eq!(grow(&mut sets, of(&[3, 68]).iter().collect()), Growth::default(), "they are there");
        assert_eq!(grow(&mut sets, vec![&vec![200, 90], &vec![70, 201]]), Growth::default(), "by another name");
        let growth = grow(&mut sets, of(&(1..200).collect::<Vec<_>>()).iter().collect());
        assert_eq!(growth.grown.len(), 1);
        assert_eq!(sets[1].metrics[..4], [70, 66, 68, 90]);
        assert_eq!(growth.new.iter().map(Vec::len).collect::<Vec<_>>(), [64, 7]);
        let all: BTreeSet<i32> = sets.iter().map(|set| &set.metrics).chain(&growth.new).flatten().copied().collect();
        assert_eq!((all.len(), sets[1].metrics.len()), (199, 64), "each once");
        let growth = grow(&mut [], vec![&vec![5, 6], &vec![6, 5]]);
        assert_eq!(growth.new, [[5]], "two names that come together");
    }
}
