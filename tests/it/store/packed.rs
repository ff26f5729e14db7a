//! Packed rows are read as the chunks that they replace: by the API, by SQL, and by a commit that looks whether rows are stored. They are
//! made here by an encoder of its own, in the plainest of their forms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use telemetry::model::{GpuId, SeriesId, TimeMs};
use telemetry::query::{AggregateRequest, LatestRequest, Limits, Params, Query, TelemetryRequest};
use telemetry::store::{ChunkRange, Limit, Reader, SeriesFilter, SnapshotFor, Store, StoreError};
use tokio_postgres::Client;

use super::rows::*;
use crate::support::app::App;
use crate::support::postgres::{Database, PASSWORD, Server};

const DAY_MS: i64 = 86_400_000;

fn bits(value: u64, width: usize) -> String {
    if width == 0 { String::new() } else { format!("{value:0width$b}") }
}

/// A series of a packed row: its id, how many ms after the row's times it has its samples, its values.
type Column = (i64, u64, Vec<f64>);

/// Writes a packed row: times as offsets of 27 bits, values as their patterns.
async fn insert(client: &Client, gpu: i64, id: i64, times: &[i64], columns: &[Column]) {
    let (first, last) = (times[0], times[times.len() - 1]);
    let delay = if columns.iter().any(|(_, delay, _)| *delay > 0) { 20 } else { 0 };
    let shift = usize::BITS - (times.len() - 1).leading_zeros();
    let mut heads = [(48, 6), (0, 6), (0, 6), (0, 4), (delay as u64, 5), (u64::from(shift), 4), (27, 6), (1 << 27, 28), (0, 40)]
        .map(|(value, width)| bits(value, width))
        .concat();
    let mut body: String = times.iter().map(|time| bits((time - first) as u64, 27)).collect();
    for (series, after, values) in columns {
        heads += &[(64, 7), (0, 5), ((series - columns[0].0) as u64, 48), (*after, delay)].map(|(v, w)| bits(v, w)).concat();
        body.extend(values.iter().map(|value| bits(value.to_bits(), 64)));
    }
    let last = last + columns.iter().map(|(_, after, _)| *after as i64).max().expect("a column");
    let day = first.div_euclid(DAY_MS);
    let date = |day: i64| TimeMs::from_millis(day * DAY_MS).to_string()[..10].to_owned();
    let partition = format!(
        "CREATE TABLE IF NOT EXISTS sample_packed_{} PARTITION OF sample_packed FOR VALUES FROM ('{} 00:00:00+00') TO ('{} 00:00:00+00')",
        date(day).replace('-', ""),
        date(day),
        date(day + 1)
    );
    client.batch_execute(&partition).await.expect("a partition");
    let (n, k) = (times.len(), columns.len());
    let sql = format!(
        "INSERT INTO sample_packed VALUES ({gpu}, {id}, to_timestamp({first} / 1000.0), to_timestamp({last} / 1000.0), {}, {n}, {k}, \
         B'{heads}', B'{body}')",
        columns[0].0
    );
    client.batch_execute(&sql).await.expect("a packed row");
}

/// Packs the chunks and slabs of a day: those of a GPU with the same times (or the same a constant time later) as one row, in one transaction.
pub async fn pack(client: &Client, day: i64) {
    type Samples = (Vec<i64>, Vec<f64>);
    type Begun = (i64, i64, Vec<f64>);
    let of_day =
        format!("t_min >= to_timestamp({}) AND t_min < to_timestamp({})", day * DAY_MS / 1000, (day + 1) * DAY_MS / 1000);
    let sql = format!(
        "WITH chunks AS (DELETE FROM sample_chunk WHERE {of_day} RETURNING *), slabs AS (DELETE FROM sample_slab WHERE {of_day} RETURNING *), \
         old AS (SELECT c.series_id, c.id, c.t_min, coalesce(u.offset_ms, (u.i - 1) * c.step_ms) AS offset_ms, u.value, u.i \
                   FROM chunks c CROSS JOIN LATERAL unnest(c.offsets, c.\"values\") WITH ORDINALITY u (offset_ms, value, i) \
                 UNION ALL \
                 SELECT b.series_first + u.series, b.id, b.t_min, coalesce(u.offset_ms, 0), u.value, u.i \
                   FROM slabs b CROSS JOIN LATERAL unnest(b.series, b.offsets, b.\"values\") WITH ORDINALITY u (series, offset_ms, value, i)) \
         SELECT s.gpu_id, o.series_id, max(o.id) OVER (PARTITION BY s.gpu_id), \
                (extract(epoch FROM o.t_min) * 1000)::bigint + o.offset_ms AS ms, o.value \
           FROM old o JOIN series_all s ON s.id = o.series_id ORDER BY 1, 2, ms, o.id, o.i"
    );
    client.batch_execute("BEGIN").await.expect("begun");
    let mut series: BTreeMap<(i64, i64, i64), Samples> = BTreeMap::new();
    for row in client.query(&sql, &[]).await.expect("chunks") {
        let (times, values) = series.entry((row.get(0), row.get(1), row.get(2))).or_default();
        times.push(row.get(3));
        values.push(row.get(4));
    }
    let mut rows: BTreeMap<(i64, i64, Vec<i64>), Vec<Begun>> = BTreeMap::new();
    for ((gpu, id, max), (times, values)) in series {
        let shape = times.iter().map(|time| time - times[0]).collect();
        rows.entry((gpu, max, shape)).or_default().push((id, times[0], values));
    }
    for ((gpu, id, shape), columns) in rows {
        let first = columns.iter().map(|(_, begin, _)| *begin).min().expect("a column");
        let times: Vec<i64> = shape.iter().map(|offset| first + offset).collect();
        let columns: Vec<Column> =
            columns.into_iter().map(|(series, begin, values)| (series, (begin - first) as u64, values)).collect();
        insert(client, gpu, id, &times, &columns).await;
    }
    client.batch_execute("COMMIT").await.expect("committed");
}

/// Two GPUs with five metrics each, over the end of a day: regular and irregular times, a series that is a little later than others, one
/// that is silent on the second day, odd values, and conflicts, of which the later value counts.
async fn stored() -> (Database, Vec<Content>) {
    let mut rows = Vec::new();
    for at in 0..400i64 {
        let time = DAY + DAY_MS - 200_000 + at * 1000;
        for series in (0..10).filter(|series| *series != 8 || at < 150) {
            let time = time + if series == 2 { 350 } else { 0 } + if series == 3 { at * at % 7 } else { 0 };
            let value = [at as f64, 0.1 + at as f64 * 0.2, -0.0, 5e-324, -1.5e300][(at % 5) as usize];
            rows.push(sample(series, time, value));
        }
    }
    let again = |series, value| sample(series, DAY + DAY_MS - 190_000, value);
    let contents = vec![Content::new("a", rows), Content::new("b", vec![again(0, 77.0), again(6, 78.0)])];
    let database = Server::shared().database().await;
    let store = database.store();
    for content in &contents {
        for begin in (0..content.rows.len()).step_by(700) {
            store.commit(&[content.batch(begin..content.rows.len().min(begin + 700))]).await.expect("stored");
        }
    }
    (database, contents)
}

/// Everything that the API and SQL say.
async fn said(reader: Arc<dyn Reader>, client: &Client) -> Vec<(String, String)> {
    let query = Query::new(reader, None, Limits::default());
    let params = |text: &str| Params::parse(Some(text)).unwrap();
    let mut said = Vec::new();
    let range = "start_time=2025-01-15T00:00:00Z&end_time=2025-01-16T23:00:00Z";
    for gpu in ["GPU-0", "GPU-1"] {
        for more in ["order=asc", "order=desc", "limit=600", "order=desc&limit=600", "metric=METRIC_2", "step=1m&agg=last"] {
            let request =
                TelemetryRequest::parse(params(&format!("{range}&{more}")), gpu, &query, TimeMs::from_millis(DAY)).unwrap();
            let mut telemetry = query.telemetry(&query.gpu(gpu, None).await.unwrap(), &request).await.unwrap();
            let mut samples = Vec::new();
            while let Some(some) = telemetry.next().await.unwrap() {
                samples.extend(some);
            }
            assert!(!samples.is_empty());
            said.push((format!("{gpu} {more}"), format!("{samples:?}")));
        }
    }
    let latest = LatestRequest::parse(params("limit=1000"), &query).unwrap();
    said.push(("latest".to_owned(), format!("{:?}", query.latest(&latest).await.unwrap().rows)));
    for text in ["metric=METRIC_1&step=1m&group_by=hostname", "metric=METRIC_3&group_by=gpu"] {
        let request = AggregateRequest::parse(params(&format!("{text}&{range}")), &query, TimeMs::from_millis(DAY)).unwrap();
        said.push((text.to_owned(), format!("{:?}", query.aggregate(&request).await.unwrap().rows)));
    }
    let between = "samples_between('2025-01-15 23:59:00.35+00', '2025-01-16 00:01:00+00')";
    for from in ["samples", between] {
        let sql = format!("SELECT x::text, float8send(value)::text FROM {from} x ORDER BY 1, 2");
        let rows = client.query(&sql, &[]).await.expect("rows");
        assert!(!rows.is_empty());
        let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        said.push((from.to_owned(), format!("{rows:?}")));
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_rows_say_what_the_chunks_said() {
    let (database, contents) = stored().await;
    let client = database.client().await;
    let before = said(Arc::new(database.store()), &client).await;
    for day in [1, 0] {
        pack(&client, DAY / DAY_MS + day).await;
        for (old, new) in before.iter().zip(said(Arc::new(database.store()), &client).await) {
            assert_eq!(*old, new, "day {day} is packed");
        }
    }
    let chunks: i64 = client.query_one("SELECT count(*) FROM sample_chunk", &[]).await.unwrap().get(0);
    assert_eq!(chunks, 0);
    // What is sent again, under whatever name, is found there.
    let store = database.store();
    for content in &contents {
        store.commit(&[content.all()]).await.expect("a redelivery");
        let sibling = store.commit(&[content.sibling(&format!("copy of {}", content.cluster)).all()]).await.expect("a sibling");
        assert_eq!(sibling.stored.values().sum::<u64>(), 0);
    }
    let chunks: i64 = client.query_one("SELECT count(*) FROM sample_chunk", &[]).await.unwrap().get(0);
    assert_eq!(chunks, 0, "nothing was stored again");
    // A later sample, and a conflict, count beside packed ones.
    let late = Content::new("late", vec![sample(0, DAY + DAY_MS + 300_000, 5.0), sample(1, DAY + DAY_MS + 199_000, 6.0)]);
    store.commit(&[late.all()]).await.expect("stored");
    let query = Query::new(Arc::new(database.store()), None, Limits::default());
    let latest = query.latest(&LatestRequest::parse(Params::parse(None).unwrap(), &query).unwrap()).await.unwrap();
    let value = |metric: &str| latest.rows.iter().find(|row| row.series.metric == metric).unwrap().value;
    assert_eq!((value("METRIC_0"), value("METRIC_1")), (5.0, 6.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_samples_are_counted_before_they_are_decoded_and_damage_is_named() {
    let (database, _) = stored().await;
    let client = database.client().await;
    pack(&client, DAY / DAY_MS).await;
    let store = database.store();
    let series = store.series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(100)).await.unwrap();
    let wanted: Vec<_> = series.iter().take(2).map(|series| series.ids()).collect();
    let (from, before) = (TimeMs::MIN, TimeMs::MAX);
    let range = ChunkRange { begins_from: from, begins_before: before, ends_from: from, ends_before: before };
    let chunks = async |max| {
        let mut snapshot = store.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.unwrap();
        snapshot.chunks(&wanted, &range, max).await
    };
    let all = chunks(usize::MAX).await.unwrap().unwrap();
    let samples: usize = all.iter().map(|chunk| chunk.times.len()).sum();
    assert!(samples >= 800);
    assert_eq!(chunks(samples).await.unwrap().unwrap().len(), all.len());
    assert_eq!(chunks(samples - 1).await.unwrap(), None);
    let gpu: GpuId = wanted[0].gpu;
    client.batch_execute(&format!("UPDATE sample_packed SET n = n - 1 WHERE gpu_id = {gpu}")).await.unwrap();
    let Err(StoreError::DamagedChunk(damage)) = chunks(usize::MAX).await else { panic!("it is damaged") };
    for words in ["packed row", &format!("of GPU {gpu}"), "sample_packed_20250115", "DELETE FROM", "telemetry replay"] {
        assert!(damage.contains(words), "`{words}` is not in: {damage}");
    }
    // What the message says removes it.
    let (begin, end) = (damage.find("DELETE FROM").unwrap(), damage.find("), and send").unwrap());
    while let Err(StoreError::DamagedChunk(damage)) = chunks(usize::MAX).await {
        let (begin, end) = (damage.find("DELETE FROM").unwrap(), damage.find("), and send").unwrap());
        assert_eq!(client.execute(&damage[begin..end], &[]).await.unwrap(), 1);
    }
    assert!(begin < end && !chunks(usize::MAX).await.unwrap().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_read_uses_the_views_and_nothing_else() {
    let (database, _) = stored().await;
    let client = database.client().await;
    pack(&client, DAY / DAY_MS).await;
    let role = format!("reader_{}", database.name());
    let app = App::new("", &database.url);
    app.run(&["migrate", "--grant-read", &role]).exits(2).says(&[&role, "CREATE ROLE"]);
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("a role");
    let done = app.run(&["migrate", "--grant-read", &role]).exits(0);
    assert!(done.stdout.contains(&role), "{}", done.stdout);
    app.run(&["migrate", "--grant-read", &role]).exits(0);
    let reader = Database { url: database.url.replace("//postgres:", &format!("//{role}:")) };
    let reader = reader.client().await;
    let user: String = reader.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(user, role);
    let hour = "samples_between('2025-01-15 23:58:00+00', '2025-01-15 23:59:00+00')";
    for from in ["samples WHERE metric_name = 'METRIC_2'", hour, "series_all", "rejected_rows"] {
        let sql = format!("SELECT count(*) FROM {from}");
        let own: i64 = reader.query_one(&sql, &[]).await.expect(from).get(0);
        let others: i64 = client.query_one(&sql, &[]).await.expect(from).get(0);
        assert_eq!(own, others, "{from}");
    }
    let tables = "sample_chunk sample_slab sample_packed sample_packed_20250115 gpu gpu_block series series_set metric metric_list workload \
                  source store dead_letter";
    for table in tables.split(' ') {
        let refused = reader.query(&format!("SELECT FROM {table}"), &[]).await.expect_err(table);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{table}: {refused}");
    }
    for write in ["INSERT INTO samples DEFAULT VALUES", "DELETE FROM sample_chunk", "CREATE TABLE x ()"] {
        assert!(reader.execute(write, &[]).await.is_err(), "{write}");
    }
    // Only the day that is asked for is looked at, also for that role: the function is unfolded.
    for client in [&client, &reader] {
        let plan = client.query(&format!("EXPLAIN SELECT * FROM {hour}"), &[]).await.unwrap();
        let plan: String = plan.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
        assert!(plan.contains("sample_chunk_20250115") || plan.contains("sample_packed_20250115"), "{plan}");
        assert!(!plan.contains("20250116") && !plan.contains("Function Scan on samples_between"), "{plan}");
    }
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_of_a_user_survives_the_new_columns() {
    let database = Server::shared().empty_database().await;
    let client = database.client().await;
    let store = database.store();
    store.migrate().await.expect("migrated");
    let rollups = "DROP TABLE sample_rollup_5m, sample_rollup_1h, metric_kind CASCADE; \
                   DROP FUNCTION samples_5m_between, samples_1h_between, rollup_columns, hour_of_day, hour_at, day_of, float8_of_sum CASCADE";
    client.batch_execute(rollups).await.expect("dropped");
    // As before the migration: the function as it was, and a view that uses it.
    let former = include_str!("../../../src/store/postgres/migrations/0003_prune.sql");
    let undo = "DROP TABLE gpu_block, series_set, metric, metric_list, workload, sample_slab CASCADE; \
                DROP FUNCTION refuse_older_collectors CASCADE; \
                DROP VIEW IF EXISTS samples; DROP FUNCTION IF EXISTS samples_between; DROP VIEW IF EXISTS sample_place, packed_sample; \
                DROP FUNCTION float8_of_bits; DROP TABLE sample_packed; DELETE FROM schema_step WHERE version >= 6";
    client.batch_execute(undo).await.expect("undone");
    client.batch_execute(former).await.expect("the former function");
    let view = "CREATE VIEW mine AS SELECT ts, value FROM samples_between('2025-01-15', '2025-01-17')";
    client.batch_execute(view).await.expect("a view");
    store.migrate().await.expect("migrated again");
    store.commit(&[Content::new("a", vec![sample(0, DAY, 1.0), sample(0, DAY + 1000, 2.0)]).all()]).await.expect("stored");
    pack(&client, DAY / DAY_MS).await;
    let rows = client.query("SELECT value FROM mine ORDER BY ts", &[]).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<f64>>(), [1.0, 2.0]);
    let labels: String = client.query_one("SELECT DISTINCT labels::text FROM samples", &[]).await.expect("labels").get(0);
    assert_eq!(labels, r#"{"job": "dcgm"}"#);
}
