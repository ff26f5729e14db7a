//! Lists, from the tables of GPUs and series. SQLite compares texts by their bytes, as lists are ordered.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::error::Result;
use crate::model::SeriesId;
use crate::store::text::clean;
use crate::store::{ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Limit, SeriesFilter, SeriesRow, Texts};

/// A board with MIG slices is one GPU; one without a uuid is told by its place.
const ONE_GPU: &str = "CASE WHEN g.uuid = '' THEN 'at ' || g.hostname || ':' || coalesce(g.gpu_index, '') ELSE g.uuid END";

/// Conditions and their parameters.
#[derive(Default)]
struct Conditions {
    text: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition, with its values in the order of its question marks.
    fn add(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.text.push_str(" AND ");
        self.text.push_str(condition);
        self.values.extend(values);
    }

    fn text(&mut self, condition: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.add(condition, [Value::Text(clean(value).into_owned())]);
        }
    }

    fn gpus(&mut self, filter: &GpuFilter) {
        self.text("g.cluster = ?", filter.cluster.as_ref());
        self.text("g.hostname = ?", filter.hostname.as_ref());
        self.text("g.model = ?", filter.model.as_ref());
        self.text("g.uuid = ?", filter.uuid.as_ref());
        if let Some(index) = filter.index {
            // A greater one is not in the store: no row has -1.
            self.add("g.gpu_index = ?", [Value::Integer(i32::try_from(index).unwrap_or(-1).into())]);
        }
    }

    fn used_in(&mut self, namespace: Option<&String>) {
        self.text("EXISTS (SELECT 1 FROM series s WHERE s.gpu_id = g.id AND s.namespace = ?)", namespace);
    }

    /// The rows of a statement that ends with these conditions' values, and a limit.
    fn rows<T: Texts>(
        mut self,
        connection: &Connection,
        sql: &str,
        limit: Limit,
        row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.values.push(Value::Integer(i64::try_from(limit.rows).unwrap_or(i64::MAX)));
        let mut statement = connection.prepare_cached(sql)?;
        let (mut read, mut bytes) = (Vec::new(), 0);
        for row in statement.query_map(params_from_iter(self.values), row)? {
            let row = row?;
            bytes += row.text_bytes();
            read.push(row);
            if bytes >= limit.bytes {
                break;
            }
        }
        Ok(read)
    }
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::unsigned_abs)
}

pub(super) fn clusters(connection: &Connection) -> Result<Vec<ClusterSummary>> {
    let sql = format!(
        "SELECT g.cluster, count(DISTINCT g.hostname), count(DISTINCT {ONE_GPU}), min(g.first_seen), max(g.last_seen) \
           FROM gpu g WHERE g.first_seen IS NOT NULL GROUP BY g.cluster ORDER BY g.cluster"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| {
        Ok(ClusterSummary {
            cluster: row.get(0)?,
            hosts: count(row, 1)?,
            gpus: count(row, 2)?,
            first_seen: row.get(3)?,
            last_seen: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn hosts(
    connection: &Connection,
    filter: &GpuFilter,
    after: Option<(String, String)>,
    limit: Limit,
) -> Result<Vec<HostSummary>> {
    let mut conditions = Conditions::default();
    conditions.gpus(filter);
    conditions.used_in(filter.namespace.as_ref());
    if let Some((cluster, hostname)) = after {
        conditions.add("(g.cluster, g.hostname) > (?, ?)", [Value::Text(cluster), Value::Text(hostname)]);
    }
    let sql = format!(
        "SELECT g.cluster, g.hostname, count(DISTINCT {ONE_GPU}), min(g.first_seen), max(g.last_seen) \
           FROM gpu g WHERE g.first_seen IS NOT NULL{} GROUP BY g.cluster, g.hostname ORDER BY g.cluster, g.hostname LIMIT ?",
        conditions.text
    );
    conditions.rows(connection, &sql, limit, |row| {
        Ok(HostSummary {
            cluster: row.get(0)?,
            hostname: row.get(1)?,
            gpus: count(row, 2)?,
            first_seen: row.get(3)?,
            last_seen: row.get(4)?,
        })
    })
}

pub(super) fn gpus(
    connection: &Connection,
    filter: &GpuFilter,
    after: Option<GpuPlace>,
    limit: Limit,
) -> Result<Vec<GpuSummary>> {
    let mut conditions = Conditions::default();
    conditions.gpus(filter);
    conditions.used_in(filter.namespace.as_ref());
    let place = "g.cluster, g.hostname, coalesce(g.gpu_index, -1), g.uuid, g.mig_instance";
    if let Some(GpuPlace { cluster, hostname, index, uuid, mig_instance }) = after {
        let index = index.map_or(-1, |index| i32::try_from(index).unwrap_or(i32::MAX)).into();
        let [cluster, hostname, uuid, mig_instance] = [cluster, hostname, uuid, mig_instance].map(Value::Text);
        conditions.add(&format!("({place}) > (?, ?, ?, ?, ?)"), [cluster, hostname, Value::Integer(index), uuid, mig_instance]);
    }
    // Every way a GPU was ever described is a row; those of one place follow each other, the latest last.
    let sql = format!(
        "SELECT g.cluster, g.hostname, g.gpu_index, g.uuid, g.mig_instance, g.id, g.device, g.model, g.driver_version, \
                g.pci_bus_id, g.mig_profile, g.first_seen, g.last_seen \
           FROM gpu g WHERE g.first_seen IS NOT NULL{} ORDER BY {place}, g.last_seen, g.id",
        conditions.text
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(conditions.values))?;
    let (mut gpus, mut bytes): (Vec<GpuSummary>, usize) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let described = gpu(row)?;
        if let Some(last) = gpus.last_mut().filter(|last| last.place == described.place) {
            let mut ids = std::mem::take(&mut last.ids);
            ids.extend(&described.ids);
            let (first, newest) = (last.first_seen.min(described.first_seen), last.last_seen.max(described.last_seen));
            bytes += described.text_bytes();
            bytes -= last.text_bytes();
            *last = GpuSummary { ids, first_seen: first, last_seen: newest, ..described };
        } else if gpus.len() == limit.rows || bytes >= limit.bytes {
            break;
        } else {
            bytes += described.text_bytes();
            gpus.push(described);
        }
    }
    Ok(gpus)
}

fn gpu(row: &Row<'_>) -> rusqlite::Result<GpuSummary> {
    Ok(GpuSummary {
        place: GpuPlace {
            cluster: row.get(0)?,
            hostname: row.get(1)?,
            index: row.get::<_, Option<i64>>(2)?.and_then(|index| u32::try_from(index).ok()),
            uuid: row.get(3)?,
            mig_instance: row.get(4)?,
        },
        ids: vec![row.get(5)?],
        device: row.get(6)?,
        model: row.get(7)?,
        driver_version: row.get(8)?,
        pci_bus_id: row.get(9)?,
        mig_profile: row.get(10)?,
        first_seen: row.get(11)?,
        last_seen: row.get(12)?,
    })
}

pub(super) fn series(connection: &Connection, filter: &SeriesFilter, after: SeriesId, limit: Limit) -> Result<Vec<SeriesRow>> {
    let mut conditions = Conditions::default();
    conditions.add("s.id > ?", [Value::Integer(after.to_store())]);
    conditions.gpus(&filter.gpus);
    if let Some(ids) = &filter.gpu_ids {
        let ids = serde_json::Value::from(ids.iter().map(|id| id.to_store()).collect::<Vec<_>>()).to_string();
        conditions.add("s.gpu_id IN (SELECT value FROM json_each(?))", [Value::Text(ids)]);
    }
    if !filter.metrics.is_empty() {
        let metrics: Vec<_> = filter.metrics.iter().map(|metric| clean(metric).into_owned()).collect();
        let metrics = serde_json::Value::from(metrics).to_string();
        conditions.add("s.metric IN (SELECT value FROM json_each(?))", [Value::Text(metrics)]);
    }
    conditions.text("s.namespace = ?", filter.gpus.namespace.as_ref());
    conditions.text("s.pod = ?", filter.pod.as_ref());
    if let Some(since) = filter.seen_since {
        conditions.add("g.last_seen >= ?", [Value::Integer(since.as_millis())]);
    }
    let sql = format!(
        "SELECT s.id, s.gpu_id, s.metric, s.namespace, s.pod, s.container \
           FROM series s JOIN gpu g ON g.id = s.gpu_id WHERE g.first_seen IS NOT NULL{} ORDER BY s.id LIMIT ?",
        conditions.text
    );
    conditions.rows(connection, &sql, limit, |row| {
        Ok(SeriesRow {
            id: row.get(0)?,
            gpu_id: row.get(1)?,
            metric: row.get(2)?,
            namespace: row.get(3)?,
            pod: row.get(4)?,
            container: row.get(5)?,
        })
    })
}

pub(super) fn metrics(connection: &Connection, after: String, limit: Limit) -> Result<Vec<String>> {
    let mut conditions = Conditions::default();
    conditions.add("metric > ?", [Value::Text(after)]);
    let sql = format!("SELECT metric FROM series WHERE true{} GROUP BY metric ORDER BY metric LIMIT ?", conditions.text);
    conditions.rows(connection, &sql, limit, |row| row.get(0))
}
