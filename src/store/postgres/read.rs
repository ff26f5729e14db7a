//! What readers ask (see [`Reader`]): lists from the tables of GPUs and series. Samples are read in `snapshot`.
//!
//! A reader that goes away leaves its session unfinished, so its connection is closed; the server looks for that while it works
//! (`client_connection_check_interval`, set in `pool`) and ends the statement.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream};

use super::blocks::Seen;
use super::error::Result;
use super::pool::Session;
use super::snapshot::PostgresSnapshot;
use super::types::clean;
use super::{PostgresStore, ledger, standby};
use crate::model::{GpuId, SeriesId, SourceId, TimeMs};
use crate::store::{
    self, ClusterSummary, GpuFilter, GpuPlace, GpuSummary, HostSummary, Limit, Reader, SeriesFilter, SeriesRow, Snapshot,
    SnapshotFor, SourceLedger, Standby, Texts,
};

/// A board with MIG slices is one GPU; one without a uuid is told by its place.
const ONE_GPU: &str = "CASE WHEN g.uuid = '' THEN 'at ' || g.hostname || ':' || coalesce(g.gpu_index::text, '') ELSE g.uuid END";

/// The id of a series in a set begins with the set's id; this many bits of it say the place.
const SET_BITS: u32 = 6;

/// The series of sets, with their set and place: the order of these is that of their ids, and the index of sets has it.
const SET_MEMBERS: &str = "SELECT t.id * 64 + e.place - 1 AS id, t.id AS set_id, e.place, t.gpu_id, m.name AS metric, \
     w.namespace, w.pod, w.container \
     FROM series_set t JOIN metric_list l ON l.id = t.list_id \
    CROSS JOIN LATERAL unnest(l.metrics) WITH ORDINALITY e (metric_id, place) \
     JOIN metric m ON m.id = e.metric_id LEFT JOIN workload w ON w.id = t.workload_id";

/// A parameter whose type is known without asking the server.
trait Value: ToSql + Sync + Send + 'static {
    const TYPE: Type;
}

impl Value for i32 {
    const TYPE: Type = Type::INT4;
}
impl Value for i64 {
    const TYPE: Type = Type::INT8;
}
impl Value for SeriesId {
    const TYPE: Type = Type::INT8;
}
impl Value for Vec<GpuId> {
    const TYPE: Type = Type::INT8_ARRAY;
}
impl Value for String {
    const TYPE: Type = Type::TEXT;
}
impl Value for Vec<String> {
    const TYPE: Type = Type::TEXT_ARRAY;
}
impl Value for TimeMs {
    const TYPE: Type = Type::TIMESTAMPTZ;
}

/// Conditions and their parameters.
#[derive(Default)]
struct Conditions {
    text: String,
    values: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
}

impl Conditions {
    /// Adds a condition; `?` in it stands for the value.
    fn add<V: Value>(&mut self, condition: &str, value: V) {
        let parameter = self.parameter(value);
        self.text.push_str(" AND ");
        self.text.push_str(&condition.replace('?', &parameter));
    }

    fn parameter<V: Value>(&mut self, value: V) -> String {
        self.values.push((Box::new(value), V::TYPE));
        format!("${}", self.values.len())
    }

    fn gpus(&mut self, filter: &GpuFilter) {
        let texts = [
            ("g.cluster = ?", &filter.cluster),
            ("g.hostname = ?", &filter.hostname),
            ("g.model = ?", &filter.model),
            ("g.uuid = ?", &filter.uuid),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                self.add(condition, clean(value).into_owned());
            }
        }
        if let Some(index) = filter.index {
            // A greater one is not in the store: no row has -1.
            self.add("g.gpu_index = ?", i32::try_from(index).unwrap_or(-1));
        }
    }

    fn used_in(&mut self, namespace: Option<&String>, seen: Seen) {
        if let Some(namespace) = namespace {
            let sets =
                "UNION ALL SELECT t.gpu_id FROM series_set t JOIN workload w ON w.id = t.workload_id WHERE w.namespace = ?";
            let sets = if seen.has_blocks { sets } else { "" };
            let condition = format!("g.id IN (SELECT s.gpu_id FROM series s WHERE s.namespace = ? {sets})");
            self.add(&condition, clean(namespace).into_owned());
        }
    }

    /// The rows of a query that ends with a limit of rows.
    async fn rows<T: Texts>(&self, session: Session, sql: &str, limit: Limit, row: fn(&Row) -> T) -> Result<Vec<T>> {
        let statement = session.prepare(sql).await?;
        let values = self.values.iter().map(|(value, _)| &**value as &(dyn ToSql + Sync));
        let rows = session.within(session.raw().query_raw(&statement, values)).await?;
        within(session, rows, limit, row).await
    }

    /// The same of a query whose best plan depends on how much it asks for: it is planned each time, in the same round trip.
    async fn rows_planned_anew<T: Texts>(&self, session: Session, sql: &str, limit: Limit, row: fn(&Row) -> T) -> Result<Vec<T>> {
        let values = self.values.iter().map(|(value, type_)| (&**value as &(dyn ToSql + Sync), type_.clone()));
        let rows = session.within(session.raw().query_typed_raw(sql, values)).await?;
        within(session, rows, limit, row).await
    }
}

/// What is read until the texts come to the limit. The rest is left unread, and the session is not used again.
async fn within<T: Texts>(session: Session, rows: RowStream, limit: Limit, row: fn(&Row) -> T) -> Result<Vec<T>> {
    let mut rows = pin!(rows);
    let (mut read, mut bytes) = (Vec::new(), 0);
    while let Some(next) = session.within(rows.try_next()).await? {
        let next = row(&next);
        bytes += next.text_bytes();
        read.push(next);
        if bytes >= limit.bytes {
            return Ok(read);
        }
    }
    session.done();
    Ok(read)
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn count(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).unsigned_abs()
}

impl PostgresStore {
    async fn seen(&self, session: &Session) -> Result<Seen> {
        Ok(Seen { has_blocks: self.forms(session).await?.slabs })
    }
}

#[async_trait]
impl Reader for PostgresStore {
    async fn clusters(&self) -> store::Result<Vec<ClusterSummary>> {
        let session = self.connections.session().await?;
        let seen = self.seen(&session).await?;
        let sql = format!(
            "SELECT g.cluster, count(DISTINCT g.hostname), count(DISTINCT {ONE_GPU}), min(g.first_seen), max(g.last_seen) \
               FROM {} GROUP BY g.cluster ORDER BY g.cluster COLLATE \"C\"",
            seen.gpus("")
        );
        let found = session.query(&sql, &[]).await?;
        session.done();
        let summary = |row: &Row| ClusterSummary {
            cluster: row.get(0),
            hosts: count(row, 1),
            gpus: count(row, 2),
            first_seen: row.get(3),
            last_seen: row.get(4),
        };
        Ok(found.iter().map(summary).collect())
    }

    async fn hosts(&self, filter: &GpuFilter, after: Option<(&str, &str)>, limit: Limit) -> store::Result<Vec<HostSummary>> {
        let session = self.connections.session().await?;
        let seen = self.seen(&session).await?;
        let mut where_ = Conditions::default();
        where_.gpus(filter);
        where_.used_in(filter.namespace.as_ref(), seen);
        if let Some((cluster, hostname)) = after {
            let cluster = where_.parameter(cluster.to_owned());
            where_.add(&format!("(g.cluster COLLATE \"C\", g.hostname COLLATE \"C\") > ({cluster}, ?)"), hostname.to_owned());
        }
        let rows = where_.parameter(rows(limit.rows));
        let sql = format!(
            "SELECT g.cluster, g.hostname, count(DISTINCT {ONE_GPU}), min(g.first_seen), max(g.last_seen) \
               FROM {} GROUP BY g.cluster, g.hostname \
              ORDER BY g.cluster COLLATE \"C\", g.hostname COLLATE \"C\" LIMIT {rows}",
            seen.gpus(&where_.text)
        );
        let summary = |row: &Row| HostSummary {
            cluster: row.get(0),
            hostname: row.get(1),
            gpus: count(row, 2),
            first_seen: row.get(3),
            last_seen: row.get(4),
        };
        Ok(where_.rows(session, &sql, limit, summary).await?)
    }

    async fn gpus(&self, filter: &GpuFilter, after: Option<&GpuPlace>, limit: Limit) -> store::Result<Vec<GpuSummary>> {
        let session = self.connections.session().await?;
        let seen = self.seen(&session).await?;
        let mut where_ = Conditions::default();
        where_.gpus(filter);
        where_.used_in(filter.namespace.as_ref(), seen);
        let order = "g.cluster COLLATE \"C\", g.hostname COLLATE \"C\", coalesce(g.gpu_index, -1), g.uuid COLLATE \"C\", \
                     g.mig_instance COLLATE \"C\"";
        if let Some(place) = after {
            let index = place.index.map_or(-1, |index| i32::try_from(index).unwrap_or(i32::MAX));
            let known = [
                where_.parameter(place.cluster.clone()),
                where_.parameter(place.hostname.clone()),
                where_.parameter(index),
                where_.parameter(place.uuid.clone()),
            ];
            where_.add(&format!("({order}) > ({}, ?)", known.join(", ")), place.mig_instance.clone());
        }
        let rows = where_.parameter(rows(limit.rows));
        // What is said of it is what the description says that was seen last.
        let place = "g.cluster, g.hostname, g.gpu_index, g.uuid, g.mig_instance";
        let sql = format!(
            "SELECT {place}, p.ids, g.device, g.model, g.driver_version, g.pci_bus_id, g.mig_profile, p.first_seen, p.last_seen \
               FROM (SELECT array_agg(g.id ORDER BY g.last_seen, g.id) AS ids, min(g.first_seen) AS first_seen, \
                            max(g.last_seen) AS last_seen \
                       FROM {} GROUP BY {place} ORDER BY {order} LIMIT {rows}) p \
               JOIN gpu g ON g.id = p.ids[cardinality(p.ids)] ORDER BY {order}",
            seen.gpus(&where_.text)
        );
        Ok(where_.rows(session, &sql, limit, gpu).await?)
    }

    async fn series(&self, filter: &SeriesFilter, after: SeriesId, limit: Limit) -> store::Result<Vec<SeriesRow>> {
        let session = self.connections.session().await?;
        let seen = self.seen(&session).await?;
        let (first_seen, last_seen, blocks) = seen.times();
        let after_set = after.to_store() >> SET_BITS;
        let mut where_ = Conditions::default();
        where_.add("s.id > ?", after);
        where_.gpus(&filter.gpus);
        if let Some(ids) = &filter.gpu_ids {
            where_.add("s.gpu_id = ANY(?)", ids.clone());
        }
        if !filter.metrics.is_empty() {
            let metrics: Vec<String> = filter.metrics.iter().map(|metric| clean(metric).into_owned()).collect();
            where_.add("s.metric = ANY(?)", metrics);
        }
        for (condition, value) in [("s.namespace = ?", &filter.gpus.namespace), ("s.pod = ?", &filter.pod)] {
            if let Some(value) = value {
                where_.add(condition, clean(value).into_owned());
            }
        }
        if let Some(since) = filter.seen_since {
            where_.add(&format!("{last_seen} >= ?"), since);
        }
        let rows = where_.parameter(rows(limit.rows));
        // Each form by itself, in the order of its own index, so that a page ends where it is full.
        let of = |series: &str, order: &str| {
            format!(
                "(SELECT s.id, s.gpu_id, s.metric, coalesce(s.namespace, ''), coalesce(s.pod, ''), coalesce(s.container, '') \
                    FROM {series} s JOIN gpu g ON g.id = s.gpu_id{blocks} \
                   WHERE {first_seen} IS NOT NULL{} ORDER BY {order} LIMIT {rows})",
                where_.text
            )
        };
        let mut sql = of("series", "s.id");
        if seen.has_blocks {
            let members = format!("({SET_MEMBERS} WHERE t.id >= {after_set})");
            sql = format!("{sql} UNION ALL {} ORDER BY id LIMIT {rows}", of(&members, "s.set_id, s.place"));
        }
        let series = |row: &Row| SeriesRow {
            id: row.get(0),
            gpu_id: row.get(1),
            metric: row.get(2),
            namespace: row.get(3),
            pod: row.get(4),
            container: row.get(5),
        };
        Ok(where_.rows_planned_anew(session, &sql, limit, series).await?)
    }

    async fn metrics(&self, after: &str, limit: Limit) -> store::Result<Vec<String>> {
        let session = self.connections.session().await?;
        let mut where_ = Conditions::default();
        where_.add("metric COLLATE \"C\" > ?", after.to_owned());
        let rows = where_.parameter(rows(limit.rows));
        let sets = if self.seen(&session).await?.has_blocks { "UNION ALL SELECT name FROM metric" } else { "" };
        let sql = format!(
            "SELECT metric FROM (SELECT metric FROM series {sets}) s WHERE true{} \
              GROUP BY metric ORDER BY metric COLLATE \"C\" LIMIT {rows}",
            where_.text
        );
        Ok(where_.rows(session, &sql, limit, |row| row.get(0)).await?)
    }

    async fn snapshot(&self, purpose: SnapshotFor, patience: Duration) -> store::Result<Box<dyn Snapshot>> {
        Ok(Box::new(PostgresSnapshot::new(self, purpose, patience).await?))
    }

    async fn ledger(&self, after: Option<SourceId>, limit: Limit) -> store::Result<Vec<SourceLedger>> {
        let session = self.connections.session().await?;
        Ok(ledger::some(session, after, limit).await?)
    }

    async fn ready(&self) -> store::Result<()> {
        let session = self.ping_connection.session().await?;
        super::migrate::check_current(&session).await?;
        session.done();
        Ok(())
    }

    async fn standby(&self) -> store::Result<Option<Standby>> {
        let session = self.ping_connection.session().await?;
        let rows = session.query(standby::BEHIND, &[]).await?;
        session.done();
        Ok(rows.first().and_then(standby::read))
    }
}

fn gpu(row: &Row) -> GpuSummary {
    GpuSummary {
        place: GpuPlace {
            cluster: row.get(0),
            hostname: row.get(1),
            index: row.get::<_, Option<i32>>(2).and_then(|index| u32::try_from(index).ok()),
            uuid: row.get(3),
            mig_instance: row.get(4),
        },
        ids: row.get(5),
        device: row.get(6),
        model: row.get(7),
        driver_version: row.get(8),
        pci_bus_id: row.get(9),
        mig_profile: row.get(10),
        first_seen: row.get(11),
        last_seen: row.get(12),
    }
}
