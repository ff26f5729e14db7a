//! A history is whole, whatever becomes of its chunks while it is read; what it is read with is given back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use telemetry::model::{SeriesId, TimeMs};
use telemetry::query::{Limits, Params, Query, QueryError, Telemetry, TelemetryRequest};
use telemetry::store::sqlite::SqliteStore;
use telemetry::store::{GpuFilter, Ids, Limit, Reader, SeriesFilter, SnapshotFor, Store, StoreError};

use super::rows::*;
use crate::support::app::wait_for;
use crate::support::postgres::{Database, Server};

/// Puts one chunk in the place of all that a series has in so many seconds, as one transaction.
pub async fn rewrite(database: &Database, seconds: i64) {
    let sql = format!(
        "WITH old AS (DELETE FROM sample_chunk RETURNING *), \
         samples AS ( \
             SELECT o.series_id, o.id, u.i, u.value, extract(epoch FROM o.t_min)::bigint / {seconds} AS part, \
                    o.t_min + coalesce(u.offset_ms, (u.i - 1) * o.step_ms) * interval '1 ms' AS ts \
               FROM old o CROSS JOIN LATERAL unnest(o.offsets, o.\"values\") WITH ORDINALITY u (offset_ms, value, i)), \
         placed AS (SELECT s.*, min(s.ts) OVER (PARTITION BY s.series_id, s.part) AS first FROM samples s) \
         INSERT INTO sample_chunk (id, series_id, t_min, t_max, n, offsets, \"values\") \
         SELECT max(id), series_id, first, max(ts), count(*), \
                array_agg((extract(epoch FROM ts - first) * 1000)::int ORDER BY ts, id, i), array_agg(value ORDER BY ts, id, i) \
           FROM placed GROUP BY series_id, part, first"
    );
    database.client().await.execute(&sql, &[]).await.expect("rewritten");
}

/// Three series of one GPU, 3,000 s each, in 30 chunks a series.
pub fn content() -> Content {
    let row = |at: i64| sample(u32::try_from(at % 3).unwrap(), DAY + 3_600_000 + at / 3 * 1000, at as f64 * 0.5);
    Content::new("a", (0..9000).map(row).collect())
}

async fn stored() -> (Database, Content) {
    let (database, content) = (Server::shared().database().await, content());
    let store = database.store();
    for part in 0..30 {
        store.commit(&[content.batch(part * 300..(part + 1) * 300)]).await.expect("stored");
    }
    (database, content)
}

/// Begins to read the GPU's history, in slices of about 1,200 samples.
pub async fn begin(reader: Arc<dyn Reader>, order: &str) -> Telemetry {
    let query = Query::new(reader, None, Limits::default());
    let params = Params::parse(Some(&format!("limit=600&order={order}&start_time=2025-01-15T00:00:00Z"))).unwrap();
    let request = TelemetryRequest::parse(params, "GPU-0", &query, TimeMs::now()).unwrap();
    let gpu = query.gpu("GPU-0", None).await.unwrap();
    query.telemetry(&gpu, &request).await.unwrap()
}

/// What is left of a history, each (series, time, value) with how often it comes.
pub async fn rest(telemetry: &mut Telemetry, read: &mut BTreeMap<(String, i64, u64), usize>) -> usize {
    let mut blocks = 0;
    while let Some(samples) = telemetry.next().await.unwrap() {
        note(telemetry, samples, read);
        blocks += 1;
    }
    blocks
}

pub fn note(telemetry: &Telemetry, samples: telemetry::query::Samples, read: &mut BTreeMap<(String, i64, u64), usize>) {
    for sample in samples {
        let metric = telemetry.series()[sample.series as usize].row.metric.clone();
        *read.entry((metric, sample.time.as_millis(), sample.value.to_bits())).or_default() += 1;
    }
}

pub fn wanted(content: &Content) -> BTreeMap<(String, i64, u64), usize> {
    content.samples().into_iter().map(|((_, _, metric, time, value), n)| ((metric, time, value), n)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_whole_while_its_chunks_are_rewritten() {
    for order in ["asc", "desc"] {
        let (database, content) = stored().await;
        let mut telemetry = begin(Arc::new(database.store()), order).await;
        let mut read = BTreeMap::new();
        let first = telemetry.next().await.unwrap().expect("samples");
        note(&telemetry, first, &mut read);
        // Several chunks become one, and then a packed row.
        rewrite(&database, 86_400).await;
        let second = telemetry.next().await.unwrap().expect("samples");
        note(&telemetry, second, &mut read);
        super::packed::pack(&database.client().await, DAY / 86_400_000).await;
        let blocks = rest(&mut telemetry, &mut read).await;
        assert!(blocks >= 3, "{order}: read in slices: {blocks}");
        let expected = wanted(&content);
        assert_eq!(read.values().sum::<usize>(), 9000, "{order}: each sample once");
        assert!(read == expected, "{order}: the samples that were stored");
    }
}

/// Transactions that are open in a database and do nothing.
async fn open_transactions(client: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    client.query_one(sql, &[]).await.expect("a count").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_pauses_holds_no_transaction_and_is_whole() {
    for order in ["asc", "desc"] {
        let (database, content) = stored().await;
        let client = database.client().await;
        let mut telemetry = begin(Arc::new(database.store()), order).await;
        let mut read = BTreeMap::new();
        for seconds in [700, 86_400, 50] {
            let some = telemetry.next().await.unwrap().expect("samples");
            note(&telemetry, some, &mut read);
            assert_eq!(open_transactions(&client).await, 1, "one for all slices");
            telemetry.pause();
            wait_for("the end of the transaction", || async { open_transactions(&client).await == 0 }).await;
            rewrite(&database, seconds).await;
        }
        rest(&mut telemetry, &mut read).await;
        assert!(read == wanted(&content), "{order}");
        wait_for("the end of the transaction", || async { open_transactions(&client).await == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_gives_its_connection_back_unless_it_was_broken_off() {
    let (database, _) = stored().await;
    let (client, store) = (database.client().await, database.store());
    let listed = store.series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(1)).await.expect("series");
    let ids: Vec<Ids> = listed.iter().map(|series| series.ids()).collect();
    let newest = async || {
        let mut snapshot = store.snapshot(SnapshotFor::Page, Duration::ZERO).await.expect("a snapshot");
        snapshot.latest(&ids, TimeMs::MIN, TimeMs::MAX).await.map(|newest| newest.len())
    };
    let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let pids = async || client.query(sessions, &[]).await.unwrap().iter().map(|row| row.get(0)).collect::<Vec<i32>>();
    assert_eq!(newest().await.unwrap(), 1);
    let before = pids().await;
    for _ in 0..20 {
        assert_eq!(newest().await.unwrap(), 1);
    }
    assert_eq!(pids().await, before, "the same session each time");
    wait_for("the end of the transaction", || async { open_transactions(&client).await == 0 }).await;
    // A statement that waits for a lock is broken off: its session ends.
    let mut blocker = database.client().await;
    let transaction = blocker.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE sample_chunk IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut snapshot = store.snapshot(SnapshotFor::Page, Duration::ZERO).await.expect("a snapshot");
    let waiting = tokio::time::timeout(Duration::from_millis(50), snapshot.latest(&[], TimeMs::MIN, TimeMs::MAX));
    waiting.await.expect_err("it waits");
    let over = snapshot.latest(&[], TimeMs::MIN, TimeMs::MAX).await.expect_err("the snapshot is over");
    assert!(over.to_string().contains("broken off"), "{over}");
    drop(snapshot);
    transaction.commit().await.unwrap();
    wait_for("the end of the session", || async { pids().await.iter().all(|pid| !before.contains(pid)) }).await;
    assert_eq!(newest().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_leave_connections_to_others() {
    let (database, _) = stored().await;
    let dir = tempfile::tempdir().unwrap();
    let postgres: Arc<dyn Reader> = Arc::new(database.store());
    let sqlite: Arc<dyn Reader> = Arc::new(SqliteStore::open(dir.path()).unwrap());
    for (reader, limit) in [(postgres, "postgres.download_percent"), (sqlite, "SQLite")] {
        let download = async || reader.snapshot(SnapshotFor::Download, Duration::ZERO).await;
        let held = [download().await.unwrap(), download().await.unwrap()];
        let Err(StoreError::Busy(said)) = download().await.map(|_| ()) else { panic!("{limit}: a third one of two") };
        assert!(said.contains(limit), "{said}");
        let page = reader.snapshot(SnapshotFor::Page, Duration::ZERO).await.unwrap();
        assert!(reader.gpus(&GpuFilter::default(), None, Limit::rows(1)).await.is_ok());
        let other = reader.snapshot(SnapshotFor::Page, Duration::ZERO).await.unwrap();
        let busy = reader.snapshot(SnapshotFor::Page, Duration::ZERO).await.map(|_| ()).expect_err("all are in use");
        assert!(busy.is_transient(), "{busy}");
        assert!(matches!(QueryError::from(busy), QueryError::Unavailable { brief, .. } if brief.contains("connections")));
        drop((held, page, other));
        download().await.unwrap();
    }
}
