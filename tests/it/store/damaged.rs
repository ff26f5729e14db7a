//! A chunk that is damaged is an error for whoever reads it, and never taken for one that is not there: readers, and a commit that
//! looks whether rows are stored.

use std::sync::Arc;
use std::time::Duration;

use telemetry::model::TimeMs;
use telemetry::query::{Limits, Params, Query, QueryError};
use telemetry::store::sqlite::SqliteStore;
use telemetry::store::{ChunkRange, Limit, Reader, SeriesFilter, SnapshotFor, Store, StoreError};

use super::rows::*;
use crate::support::postgres::Server;

const EVERYTHING: ChunkRange =
    ChunkRange { begins_from: TimeMs::MIN, begins_before: TimeMs::MAX, ends_from: TimeMs::MIN, ends_before: TimeMs::MAX };

/// One series at times that have no step, so that every time is stored; few enough to be stored uncompressed, or many.
fn content(n: i64) -> Content {
    Content::new("a", (0..n).map(|at| sample(0, DAY + at * 1000 + at % 3, at as f64 * 0.1)).collect())
}

/// Everybody who reads chunks names the one that is damaged, and says these words.
async fn everybody_says(store: &Arc<dyn Store>, reader: &Arc<dyn Reader>, content: &Content, says: &[&str]) {
    let series =
        reader.series(&SeriesFilter::default(), telemetry::model::SeriesId::default(), Limit::rows(10)).await.unwrap()[0].ids();
    let snapshot = async || reader.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.unwrap();
    let by_store = [
        ("chunks", snapshot().await.chunks(&[series], &EVERYTHING, usize::MAX).await.map(|_| ())),
        ("few chunks", snapshot().await.chunks(&[series], &EVERYTHING, 1_000_000).await.map(|_| ())),
        ("latest", snapshot().await.latest(&[series], TimeMs::MIN, TimeMs::MAX).await.map(|_| ())),
        ("the overlap check", store.commit(&[content.all()]).await.map(|_| ())),
        ("that of a sibling", store.commit(&[content.sibling("b").all()]).await.map(|_| ())),
    ];
    let query = Query::new(Arc::clone(reader), None, Limits::default());
    let params = |text: &str| Params::parse(Some(text)).unwrap();
    let latest = telemetry::query::LatestRequest::parse(params("cluster=edge"), &query).unwrap();
    let times = "start_time=2025-01-15T00:00:00Z&end_time=2025-01-15T01:00:00Z";
    let question = params(&format!("metric=METRIC_0&step=5m&{times}"));
    let aggregate = telemetry::query::AggregateRequest::parse(question, &query, TimeMs::from_millis(DAY)).unwrap();
    let by_query = [
        ("a page of latest", query.latest(&latest).await.map(|_| ())),
        ("aggregates", query.aggregate(&aggregate).await.map(|_| ())),
    ];
    let mut errors = Vec::new();
    for (who, outcome) in by_store {
        match outcome {
            Err(StoreError::DamagedChunk(said)) => errors.push((who, said)),
            other => panic!("{who}, {says:?}: {other:?}"),
        }
    }
    for (who, outcome) in by_query {
        match outcome {
            Err(QueryError::Internal(said)) => errors.push((who, said)),
            other => panic!("{who}, {says:?}: {other:?}"),
        }
    }
    for (who, said) in errors {
        for words in says {
            assert!(said.contains(words), "{who}: `{said}` without `{words}`");
        }
        assert!(said.contains("DELETE FROM"), "{who}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgresql_each_reader_names_it() {
    let database = Server::shared().database().await;
    let (store, reader): (Arc<dyn Store>, Arc<dyn Reader>) = (Arc::new(database.store()), Arc::new(database.store()));
    let content = content(40).of_family("f");
    store.commit(&[content.all()]).await.expect("stored");
    let client = database.client().await;
    client.batch_execute("CREATE TABLE undamaged AS SELECT * FROM sample_chunk").await.unwrap();
    let id: i64 = client.query_one("SELECT id FROM sample_chunk", &[]).await.unwrap().get(0);
    let ledger_before = ledger(&*store).await;
    for (damage, says) in [
        ("offsets = offsets[1:39]", "39 times for 40 values"),
        ("offsets = offsets || ARRAY[50000]", "41 times for 40 values"),
        ("offsets[7] = NULL", "null"),
        ("offsets[7] = offsets[8] + 1", "not in order"),
        ("offsets[40] = offsets[40] + 1", "begin and end"),
        ("offsets[1] = -1", "begin and end"),
        ("offsets = ARRAY[offsets, offsets]", "one dimension"),
        ("offsets = NULL", "neither offsets nor a step"),
        ("offsets = NULL, step_ms = 999", "begin and end"),
        ("offsets = NULL, step_ms = -1000", "not in order"),
        ("\"values\" = \"values\"[1:39]", "40 samples, and has 39 values"),
        ("\"values\"[3] = NULL", "null"),
        ("\"values\" = '{}'", "no values"),
        ("n = 41", "41 samples, and has 40 values"),
        ("n = -1", "-1 samples"),
        ("t_max = t_max + interval '1 s'", "begin and end"),
    ] {
        client.batch_execute(&format!("UPDATE sample_chunk SET {damage}")).await.expect(damage);
        let named = format!("chunk {id} of series ");
        everybody_says(&store, &reader, &content, &[says, &named, "sample_chunk_20250115", "PostgreSQL at "]).await;
        client.batch_execute("DELETE FROM sample_chunk; INSERT INTO sample_chunk SELECT * FROM undamaged").await.unwrap();
    }
    let mut ledger_now = ledger(&*store).await;
    // A source may be known by name before the first of its rows is covered.
    ledger_now.retain(|source| !source.covered.is_empty());
    assert_eq!(ledger_now, ledger_before, "what could not be looked up was not entered");
    let done = store.commit(&[content.sibling("b").all()]).await.expect("it is whole again");
    assert_eq!((done.duplicate, done.stored.len()), (40, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgresql_each_reader_names_a_slab() {
    let database = Server::shared().database().await;
    let (store, reader): (Arc<dyn Store>, Arc<dyn Reader>) = (Arc::new(database.store()), Arc::new(database.store()));
    let content = content(20).of_family("f");
    store.commit(&[content.all()]).await.expect("stored");
    let client = database.client().await;
    client.batch_execute("CREATE TABLE undamaged AS SELECT * FROM sample_slab").await.unwrap();
    let id: i64 = client.query_one("SELECT id FROM sample_slab", &[]).await.unwrap().get(0);
    for (damage, says) in [
        ("offsets = offsets[1:19]", "19 times for 20 values"),
        ("offsets[7] = NULL", "null"),
        ("offsets[7] = offsets[8] + 1", "not in order"),
        ("offsets[20] = offsets[20] + 1", "begin and end"),
        ("offsets = NULL", "begin and end"),
        ("series = series[1:19]", "19 series for 20 values"),
        ("series[1] = 1", "series are not in order"),
        ("series[3] = 5", "series are not in order"),
        ("\"values\" = \"values\"[1:19]", "20 samples, and has 19 values"),
        ("\"values\" = '{}'", "no values"),
        ("n = 21", "21 samples, and has 20 values"),
        ("t_max = t_max + interval '1 s'", "begin and end"),
    ] {
        client.batch_execute(&format!("UPDATE sample_slab SET {damage}")).await.expect(damage);
        let named = format!("slab {id} of block 0 in sample_slab_20250115");
        everybody_says(&store, &reader, &content, &[says, &named, "PostgreSQL at "]).await;
        client.batch_execute("DELETE FROM sample_slab; INSERT INTO sample_slab SELECT * FROM undamaged").await.unwrap();
    }
    let done = store.commit(&[content.sibling("b").all()]).await.expect("it is whole again");
    assert_eq!((done.duplicate, done.stored.len()), (20, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_each_reader_names_it() {
    for n in [5, 400] {
        let directory = tempfile::tempdir().unwrap();
        let opened = Arc::new(SqliteStore::open(directory.path()).unwrap());
        let (store, reader): (Arc<dyn Store>, Arc<dyn Reader>) = (opened.clone(), opened);
        let content = content(n).of_family("f");
        store.commit(&[content.all()]).await.expect("stored");
        let connection = rusqlite::Connection::open(directory.path().join("telemetry.sqlite")).unwrap();
        connection.execute_batch("CREATE TABLE undamaged AS SELECT * FROM chunk").unwrap();
        let ledger_before = ledger(&*store).await;
        let kind_of_half = if n == 5 { "bytes of values" } else { "unpacked" };
        for (damage, says) in [
            ("data = substr(data, 1, length(data) / 2 + 3)", kind_of_half),
            ("data = x''", "empty"),
            ("data = x'07'", "unknown kind 7"),
            ("data = x'00'", "cut off"),
            ("data = x'0080808080808080808080808080808080'", "cut off"),
            ("data = 'text'", "column data"),
            ("n = n + 1", "samples"),
            ("n = n - 1", "bytes of values"),
            ("n = 0", "0 samples"),
            ("n = -1", "-1 samples"),
            ("n = 1000000000000", "1000000000000 samples"),
            ("n = 'many'", "column n"),
            ("t_max = t_max + 1", "begin and end"),
        ] {
            connection.execute_batch(&format!("UPDATE chunk SET {damage}")).expect(damage);
            everybody_says(&store, &reader, &content, &[says, "chunk 1 of series ", directory.path().to_str().unwrap()]).await;
            connection.execute_batch("DELETE FROM chunk; INSERT INTO chunk SELECT * FROM undamaged").unwrap();
        }
        assert_eq!(ledger(&*store).await, ledger_before, "what could not be looked up was not entered");
        let done = store.commit(&[content.sibling("b").all()]).await.expect("it is whole again");
        assert_eq!((done.duplicate, done.stored.len()), (n.unsigned_abs(), 0));
    }
}
