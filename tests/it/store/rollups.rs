//! Rollups say what the samples say, bit for bit: to the API and to SQL, before anything is packed, after, with what comes late, and when
//! that is packed too. What they must say is asked of a second store, which has the same samples and is never packed.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use telemetry::model::{GpuId, TimeMs};
use telemetry::query::{AggregateRequest, Limits, Params, Query, TelemetryRequest};
use telemetry::store::{Level, Limit, Needs, Reader, SeriesFilter, SnapshotFor, Store};
use tokio_postgres::Client;

use super::histories::runner;
use super::maintenance::pack;
use super::rows::*;
use crate::support::app::App;
use crate::support::postgres::{Database, PASSWORD, Server};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY_MS: i64 = 24 * HOUR;

/// A day gets tables for rollups when it has many samples: here it has them from the beginning.
async fn partitions(client: &Client) {
    for table in ["sample_rollup_5m", "sample_rollup_1h"] {
        for day in [15, 16] {
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {table}_202501{day} PARTITION OF {table} \
                 FOR VALUES FROM ('2025-01-{day} 00:00:00+00') TO ('2025-01-{} 00:00:00+00')",
                day + 1
            );
            client.batch_execute(&sql).await.expect("a partition");
        }
    }
}

/// Metrics of each kind that the catalogue knows.
async fn name_metrics(client: &Client) {
    for (from, to) in [
        ("METRIC_1", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"),
        ("METRIC_2", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"),
        ("METRIC_3", "DCGM_FI_DEV_POWER_USAGE"),
    ] {
        for table in ["UPDATE series SET metric", "UPDATE metric SET name"] {
            let column = table.rsplit(' ').next().expect("a column");
            client.execute(&format!("{table} = $2 WHERE {column} = $1"), &[&from, &to]).await.expect("named");
        }
    }
}

/// A value of a series: gauges, a counter that is reset, a mask, and decimals; of one series now and then one that is none.
fn value(series: u32, at: i64, odd: bool) -> f64 {
    let noise = (at * 7919 + i64::from(series) * 104_729) % 1000;
    match series % 5 {
        0 => noise as f64 / 10.0,
        1 => (at % 97 * 1_000_003) as f64,
        2 => f64::from(1 << (noise % 5)),
        3 => 300.0 + noise as f64 / 1000.0,
        _ if odd && noise % 31 == 0 => 0.1 + 0.2,
        _ => 42.0,
    }
}

/// A store that is packed, and one with the same samples that is not.
struct Two {
    packed: (Database, Arc<dyn Store>, Client),
    plain: (Database, Arc<dyn Store>, Client),
    contents: usize,
}

impl Two {
    async fn new() -> Self {
        let one = async || {
            let database = Server::shared().database().await;
            let store: Arc<dyn Store> = Arc::new(database.store());
            let client = database.client().await;
            client.batch_execute("SET jit = off").await.expect("set");
            (database, store, client)
        };
        let two = Self { packed: one().await, plain: one().await, contents: 0 };
        partitions(&two.packed.2).await;
        two
    }

    async fn commit(&mut self, rows: Vec<Row>) {
        self.contents += 1;
        let content = Content::new(&format!("content {}", self.contents), rows);
        for (_, store, client) in [&self.packed, &self.plain] {
            // Few scrapes a commit become slabs, many become chunks.
            let size = if self.contents % 2 == 1 { 400 } else { 5000 };
            for begin in (0..content.rows.len()).step_by(size) {
                store.commit(&[content.batch(begin..content.rows.len().min(begin + size))]).await.expect("stored");
            }
            name_metrics(client).await;
        }
    }

    async fn pack(&self, until: i64) {
        pack(&*self.packed.1, until).await;
    }

    async fn compare(&self, questions: &[String], what: &str) {
        let (packed, plain) = (query(&self.packed.0), query(&self.plain.0));
        for question in questions {
            let (mine, theirs) = (answer(&packed, question).await, answer(&plain, question).await);
            assert_eq!(mine, theirs, "{what}: {question}");
        }
    }

    async fn compare_sql(&self, what: &str) {
        for (name, length) in [("5m", "5 minutes"), ("1h", "1 hour")] {
            let grouped = format!(
                "SELECT to_jsonb(b)::text FROM ( \
                   SELECT date_bin('{length}', ts, '1970-01-01 00:00:00+00') AS ts, cluster, hostname, gpu_uuid, gpu_index, device, model, \
                          metric_name, count(*), min(value), max(value), sum(value::numeric)::float8 AS sum, \
                          (array_agg(value ORDER BY ts))[1] AS first, (array_agg(value ORDER BY ts DESC))[1] AS last, \
                          CASE metric_name WHEN 'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION' THEN sum(grown)::float8 END AS increase, \
                          CASE metric_name WHEN 'DCGM_FI_DEV_CLOCKS_EVENT_REASONS' THEN bit_or(value::bigint) END AS bits, \
                          namespace, pod, container, mig_profile, mig_instance, labels \
                     FROM (SELECT *, CASE WHEN before IS NULL THEN 0 WHEN value >= before THEN value::numeric - before::numeric \
                                          ELSE value::numeric END AS grown \
                             FROM (SELECT *, lag(value) OVER (PARTITION BY gpu_uuid, metric_name, namespace, \
                                                              date_bin('{length}', ts, '1970-01-01 00:00:00+00') ORDER BY ts) AS before \
                                     FROM samples) s) s \
                    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, namespace, pod, container, mig_profile, mig_instance, labels) b ORDER BY 1"
            );
            let all = "2025-01-01', '2025-02-01";
            let views = [format!("samples_{name}"), format!("samples_{name}_between('{all}')")];
            let expected = texts(&self.plain.2, &grouped).await;
            assert!(!expected.is_empty());
            for view in views {
                let sql = format!("SELECT (to_jsonb(v) - 'avg' - 'metric_alias')::text FROM {view} v ORDER BY 1");
                for client in [&self.packed.2, &self.plain.2] {
                    let found = texts(client, &sql).await;
                    let differs = found.iter().zip(&expected).find(|(one, other)| one != other);
                    assert_eq!((found.len(), differs), (expected.len(), None), "{what}: {view}");
                }
                let sql = format!("SELECT count(*)::text FROM {view} WHERE avg < min OR avg > max");
                assert_eq!(texts(&self.packed.2, &sql).await, ["0"], "a mean lies between the least and the greatest value");
            }
        }
    }
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.expect(what).get(0)
}

fn query(database: &Database) -> Query {
    Query::new(Arc::new(database.store()), None, Limits::default())
}

/// Everything that is answered: `gpu GPU-0 …` or `aggregate …`.
async fn answer(query: &Query, question: &str) -> String {
    let (what, text) = question.split_once(' ').expect("a question");
    let params = Params::parse(Some(text)).expect("parameters");
    let now = TimeMs::from_millis(DAY + 2 * DAY_MS);
    if what == "aggregate" {
        let request = AggregateRequest::parse(params, query, now).expect("a question");
        return format!("{:?}", query.aggregate(&request).await.expect("an answer").rows);
    }
    let request = TelemetryRequest::parse(params, what, query, now).expect("a question");
    let mut telemetry = query.telemetry(&query.gpu(what, None).await.expect("a GPU"), &request).await.expect("an answer");
    let mut rows = String::new();
    while let Some(some) = telemetry.next().await.expect("samples") {
        let series = Arc::clone(telemetry.series());
        rows.extend(some.map(|one| format!("{} {:?} {:?}\n", series[one.series as usize].row.metric, one.time, one.value)));
    }
    rows
}

fn time(ms: i64) -> String {
    TimeMs::from_millis(DAY + ms).to_string()
}

/// A question of each kind, for ranges that begin and end somewhere.
fn questions(from: i64, to: i64, step: &str) -> Vec<String> {
    let range = format!("start_time={}&end_time={}", time(from), time(to));
    let mut all = Vec::new();
    for agg in ["avg", "min", "max", "sum", "count", "last", "p95"] {
        all.push(format!("GPU-0 {range}&step={step}&agg={agg}"));
        for (by, metric) in [("hostname", "METRIC_0"), ("gpu", "METRIC_4"), ("namespace", "DCGM_FI_DEV_POWER_USAGE")] {
            all.push(format!("aggregate metric={metric}&{range}&step={step}&agg={agg}&group_by={by}&limit=10000"));
        }
    }
    all.push(format!("aggregate metric=METRIC_0&{range}"));
    all.push(format!("GPU-1 {range}&step={step}&order=desc"));
    all
}

/// Scrapes of two GPUs from one time on, every so often.
fn scrapes(from: i64, n: i64, every: i64, odd: bool) -> Vec<Row> {
    let ticks = (0..n).flat_map(|tick| (0..10).map(move |series| (tick, series)));
    // Some series are a little later than others, and one is silent now and then.
    let of = |(tick, series): (i64, u32)| {
        let late = i64::from(series % 3) * 500;
        (series != 5 || tick % 200 < 150).then(|| sample(series, DAY + from + tick * every + late, value(series, tick, odd)))
    };
    ticks.filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_before_and_after_packing_and_with_what_comes_late() {
    let mut two = Two::new().await;
    two.commit(scrapes(18 * HOUR, 8 * 240, 15_000, true)).await;
    let mut all = Vec::new();
    for (from, to, step) in [
        (22 * HOUR, 26 * HOUR, "5m"),
        (22 * HOUR, 30 * HOUR, "1h"),
        (22 * HOUR + 7 * MINUTE + 3, 25 * HOUR + 1, "15m"),
        (0, 2 * DAY_MS, "2h"),
    ] {
        all.extend(questions(from, to, step));
    }
    two.compare(&all, "before packing").await;
    two.compare_sql("before packing").await;

    // The first day is over, and an hour of the second.
    two.pack(DAY + 25 * HOUR).await;
    for table in ["sample_rollup_5m", "sample_rollup_1h"] {
        assert!(count(&two.packed.2, table).await > 0, "{table}");
    }
    let unpacked = count(&two.packed.2, "sample_chunk").await + count(&two.packed.2, "sample_slab").await;
    assert!(unpacked > 0, "the last hour is not closed");
    two.compare(&all, "packed").await;
    two.compare_sql("packed").await;

    // A conflict, a sample between others, and one of a series that had none there.
    let late = |at: i64| DAY + 22 * HOUR + at;
    two.commit(vec![sample(0, late(15_000), 1e6), sample(3, late(20 * MINUTE + 7), 1e5), sample(5, late(45 * MINUTE), 5.5)])
        .await;
    two.compare(&all, "with what came late").await;
    // Two values at one time: which of them is the first or the last is not said by SQL.
    two.pack(DAY + 25 * HOUR).await;
    two.compare(&all, "packed again").await;
    two.commit(scrapes(26 * HOUR, 240, 15_000, false)).await;
    two.pack(DAY + 3 * DAY_MS).await;
    assert_eq!(count(&two.packed.2, "sample_chunk").await + count(&two.packed.2, "sample_slab").await, 0);
    two.compare(&all, "all is packed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_late_is_in_the_views_at_once() {
    let mut two = Two::new().await;
    two.commit(scrapes(22 * HOUR, 2 * 240, 15_000, false)).await;
    two.pack(DAY + 2 * DAY_MS).await;
    two.compare_sql("packed").await;
    two.commit(vec![sample(0, DAY + 22 * HOUR + 7, 1e6), sample(3, DAY + 22 * HOUR + 20 * MINUTE + 7, 1e5)]).await;
    two.compare_sql("with what came late").await;
    two.pack(DAY + 2 * DAY_MS).await;
    two.compare_sql("packed again").await;
}

/// Without the samples, rollups still answer: so it is they that answer with them, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_are_what_answers() {
    let mut two = Two::new().await;
    two.commit(scrapes(20 * HOUR, 4 * 240, 15_000, false)).await;
    two.pack(DAY + 2 * DAY_MS).await;
    two.packed.2.batch_execute("DELETE FROM sample_packed").await.expect("deleted");
    let mut all = questions(20 * HOUR, 24 * HOUR - 1, "5m");
    all.extend(questions(20 * HOUR, 24 * HOUR - 1, "1h"));
    all.extend(questions(20 * HOUR + 5 * MINUTE, 23 * HOUR - 1, "2h"));
    // Only they know percentiles.
    all.retain(|question| !question.contains("agg=p95"));
    two.compare(&all, "without samples").await;
    two.compare_sql("without samples").await;
    // An hour in which something lies that is not packed is read as samples, which are gone.
    let gpu = query(&two.packed.0).gpu("GPU-0", None).await.unwrap();
    let ids: Vec<GpuId> = gpu.ids.keys().copied().collect();
    two.commit(vec![sample(0, DAY + 21 * HOUR + 7, 4.0)]).await;
    let store = two.packed.0.store();
    let filter = SeriesFilter { gpu_ids: Some(ids), metrics: vec!["METRIC_0".to_owned()], ..SeriesFilter::default() };
    let series = store.series(&filter, Default::default(), Limit::rows(10)).await.unwrap();
    let wanted: Vec<_> = series.iter().map(|series| series.ids()).collect();
    assert_eq!(wanted.len(), 1);
    let mut snapshot = store.snapshot(SnapshotFor::Page, std::time::Duration::from_secs(10)).await.unwrap();
    let needs = Needs { sum: true, max: true, last: true };
    let (from, before) = (TimeMs::from_millis(DAY + 20 * HOUR), TimeMs::from_millis(DAY + 24 * HOUR));
    let rolled = snapshot.rollups(&wanted, Level::Hour, needs, (from, before)).await.unwrap();
    let begins: Vec<i64> =
        rolled.series.iter().flat_map(|(_, all)| all).map(|one| (one.begin.as_millis() - DAY) / HOUR).collect();
    assert_eq!(begins, [20, 22, 23]);
    let unrolled: Vec<(i64, i64)> = rolled
        .unrolled
        .iter()
        .map(|part| ((part.from.as_millis() - DAY) / HOUR, (part.before.as_millis() - DAY) / HOUR))
        .collect();
    assert_eq!(unrolled, [(21, 22)]);
}

/// Hours are joined in blocks as they are packed, and days when they are over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_lasts_is_rolled_up_by_the_hour() {
    let mut two = Two::new().await;
    let mut most = 0;
    for hour in 0..7 {
        two.commit(scrapes(hour * HOUR, 240, 15_000, hour == 3)).await;
        two.pack(DAY + (hour + 1) * HOUR).await;
        let covers = count(&two.packed.2, "sample_rollup_5m WHERE series_last = 9223372036854775807").await;
        most = most.max(covers);
        let rolled = questions(0, (hour + 1) * HOUR - 1, "1h");
        two.compare(&rolled, "hour by hour").await;
    }
    assert!((2..=6).contains(&most), "two GPUs, in up to three blocks: {most}");
    two.compare_sql("hour by hour").await;
    two.pack(DAY + 2 * DAY_MS).await;
    two.compare(&questions(0, 7 * HOUR, "1h"), "the day is over").await;
    two.compare_sql("the day is over").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_views_may_be_read_and_look_only_at_the_days_concerned() {
    let mut two = Two::new().await;
    two.commit(scrapes(22 * HOUR, 4 * 240, 15_000, true)).await;
    two.pack(DAY + 3 * DAY_MS).await;
    let (database, _, client) = &two.packed;
    let role = format!("reader_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("a role");
    App::new("", &database.url).run(&["migrate", "--grant-read", &role]).exits(0);
    let reader = Database { url: database.url.replace("//postgres:", &format!("//{role}:")) }.client().await;
    for name in ["5m", "1h"] {
        let between = format!("samples_{name}_between('2025-01-15 22:30:00+00', '2025-01-15 23:30:00+00')");
        for from in [format!("samples_{name}"), between.clone()] {
            let rows = count(&reader, &from).await;
            assert!(rows > 0 && rows == count(client, &from).await, "{from}");
        }
        for client in [client, &reader] {
            let plan = texts(client, &format!("EXPLAIN SELECT * FROM {between} WHERE gpu_uuid = 'GPU-1'")).await.join("\n");
            assert!(plan.contains(&format!("sample_rollup_{name}_20250115")), "{plan}");
            // Whether rollups hold is asked of other days, too; their samples are not read.
            assert!(!plan.contains("sample_packed_20250116") && !plan.contains("Function Scan on samples"), "{plan}");
        }
    }
    for table in ["sample_rollup_5m", "sample_rollup_1h", "metric_kind"] {
        let refused = reader.query(&format!("SELECT FROM {table}"), &[]).await.expect_err(table);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{table}: {refused}");
    }
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("dropped");
}

/// What is committed and packed, one after the other: samples (series, minute of two days, how many, a second apart each), or up to which
/// hour is packed.
#[derive(Clone, Debug)]
enum Event {
    Commit(Vec<(u32, i64, i64)>),
    Pack(i64),
}

fn history() -> impl Strategy<Value = (Vec<Event>, Vec<(i64, i64, usize)>)> {
    let bursts = prop::collection::vec((0u32..10, 18 * 60i64..30 * 60, 1i64..400), 1..12);
    let event = prop_oneof![2 => bursts.prop_map(Event::Commit), 1 => (19i64..50).prop_map(Event::Pack)];
    let asked = (17 * HOUR..30 * HOUR, 1..13 * HOUR, 0usize..5);
    (prop::collection::vec(event, 1..7), prop::collection::vec(asked, 2))
}

#[test]
fn random_questions_to_random_histories() {
    let (runtime, _) = runner();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 12,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&history(), |(events, asked)| {
        runtime.block_on(async {
            let mut two = Two::new().await;
            two.commit(scrapes(20 * HOUR, 60, 60_000, false)).await;
            let mut all = Vec::new();
            for (from, length, step) in &asked {
                all.extend(questions(*from, from + length, ["5m", "10m", "1h", "3h", "1d"][*step]));
            }
            for event in &events {
                match event {
                    Event::Commit(bursts) => {
                        let rows = |(series, minute, n): &(u32, i64, i64)| {
                            let (series, minute) = (*series, *minute);
                            (0..*n).map(move |i| {
                                sample(series, DAY + minute * MINUTE + i * 1000, value(series, minute + i, i % 50 == 3))
                            })
                        };
                        two.commit(bursts.iter().flat_map(rows).collect()).await;
                    }
                    Event::Pack(hour) => two.pack(DAY + hour * HOUR).await,
                }
                two.compare(&all, "so far").await;
            }
            Ok(())
        })
    });
    result.expect("every question is answered alike");
}
