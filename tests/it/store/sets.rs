//! Sets of series: ids that never change, whoever registers, in whatever order; what a series costs; and how SQL finds samples by them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use telemetry::model::{Gpu, Series};
use telemetry::store::{GpuFilter, Limit, Reader, SeriesFilter, Store};
use tokio_postgres::Client;

use super::packed::pack;
use super::rows::{DAY, batch};
use super::upgrade::made_by_0_1_0;
use crate::support::postgres::{Database, PASSWORD, Server};

const DAY_MS: i64 = 86_400_000;

/// A metric of a GPU, as one of some workloads used it; 0 is none.
fn series(gpu: u32, metric: u32, workload: u32) -> Series {
    let text = |name: &str| if workload == 0 { String::new() } else { format!("{name}-{workload}") };
    Series {
        metric: format!("METRIC_{metric}"),
        gpu: Gpu {
            uuid: format!("GPU-{gpu:05}"),
            hostname: format!("host-{:04}", gpu / 8),
            index: Some(gpu % 8),
            model: "H100".into(),
            ..Gpu::default()
        },
        namespace: text("namespace"),
        pod: text("pod"),
        labels: if workload.is_multiple_of(2) { Vec::new() } else { vec![("job".into(), format!("job-{workload}"))] },
        ..Series::default()
    }
}

/// What tells a series from others.
type Identity = (String, String, Option<String>, Option<String>, Option<String>);

/// The series that are registered, by id.
async fn registered(client: &Client) -> BTreeMap<i64, Identity> {
    let sql = "SELECT s.id, g.uuid, s.metric, s.namespace, s.pod, s.labels::text FROM series_all s JOIN gpu g ON g.id = s.gpu_id";
    let rows = client.query(sql, &[]).await.expect("series");
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4), row.get(5)))).collect();
    assert_eq!(found.len(), rows.len(), "an id is that of one series");
    assert_eq!(found.values().collect::<BTreeSet<_>>().len(), rows.len(), "and a series has one id");
    found
}

async fn count(client: &Client, from: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.expect("a count").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_kept_whatever_comes_later_in_whatever_order() {
    for seed in 0..4 {
        let database = Server::shared().database().await;
        let client = database.client().await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut all: Vec<Series> = (0..3)
            .flat_map(|gpu| (0..70).map(move |metric| (gpu, metric)))
            .flat_map(|(gpu, metric)| (0..4).map(move |workload| series(gpu, metric, workload)))
            .collect();
        all.shuffle(&mut random);
        let mut known = BTreeMap::new();
        let (mut rest, mut round) = (all.as_slice(), 0);
        while !rest.is_empty() {
            let (some, behind) = rest.split_at(random.random_range(1..=rest.len().min(200)));
            // Some that are known come along. Another collector each time: it knows nothing.
            let mut some = some.to_vec();
            some.extend(all[..all.len() - rest.len()].iter().filter(|_| random.random_bool(0.2)).cloned());
            some.shuffle(&mut random);
            database.store().commit(&[batch(&format!("{seed}-{round}"), &some, round * 10, 1)]).await.expect("stored");
            (rest, round) = (behind, round + 1);
            let now = registered(&client).await;
            assert_eq!(now.len(), all.len() - rest.len(), "seed {seed}, round {round}");
            assert!(
                known.iter().all(|(id, series)| now.get(id) == Some(series)),
                "seed {seed}, round {round}: an id has changed"
            );
            known = now;
        }
        let samples = "samples s WHERE NOT EXISTS (SELECT FROM series_all a JOIN gpu g ON g.id = a.gpu_id WHERE g.uuid = s.gpu_uuid \
                       AND a.metric = s.metric_name AND a.pod IS NOT DISTINCT FROM s.pod)";
        assert_eq!(count(&client, samples).await, 0);
        assert_eq!(count(&client, "(SELECT DISTINCT gpu_uuid, metric_name, pod FROM samples) s").await, all.len() as i64);
        assert_eq!(count(&client, "series").await, 0);
        // 70 metrics are two sets.
        assert_eq!(count(&client, "series_set").await, 3 * 4 * 2, "as few sets as there can be");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collectors_that_register_the_same_series_at_once_give_them_one_id() {
    let database = Server::shared().database().await;
    let client = database.client().await;
    let stores: Vec<_> = (0..6).map(|_| Arc::new(database.store())).collect();
    let mut all = BTreeSet::new();
    for round in 0..12u32 {
        let some: Vec<(u32, u32, u32)> = (0..90).map(|n| (round / 4 * 3 + n % 3, round * 7 + n / 3, n % 2)).collect();
        all.extend(some.iter().copied());
        let work = stores.iter().enumerate().map(|(at, store)| {
            let (store, mut some) = (Arc::clone(store), some.clone());
            some.rotate_left(at * 15);
            // Each has samples of its own, and not all of the series.
            let some: Vec<Series> = some[..75].iter().map(|(gpu, metric, workload)| series(*gpu, *metric, *workload)).collect();
            let incoming = batch(&format!("{round}-{at}"), &some, i64::from(round) * 100 + at as i64, 1);
            tokio::spawn(async move { store.commit(&[incoming]).await })
        });
        for done in join_all(work).await {
            done.expect("no panic").expect("stored");
        }
        assert_eq!(registered(&client).await.len(), all.len(), "round {round}");
    }
    assert_eq!(count(&client, "samples").await, 12 * 6 * 75);
    let wrong = "(SELECT gpu_uuid, metric_name, pod, ts, count(*) FROM samples GROUP BY 1, 2, 3, 4 HAVING count(*) > 1) s";
    assert_eq!(count(&client, wrong).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_of_a_fleet_cost_little_and_few_statements() {
    const GPUS: u32 = 1600;
    let server = Server::shared();
    let database = server.database().await;
    let client = database.client().await;
    let tables = "('gpu', 'gpu_block', 'series', 'series_set', 'metric', 'metric_list', 'workload')";
    let size =
        format!("SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relname IN {tables} AND relkind = 'r'");
    let before: i64 = client.query_one(&size, &[]).await.expect("a size").get(0);
    // Statements are written to the log of the server, which other tests share: theirs have no such name.
    let log =
        format!("ALTER DATABASE {0} SET log_statement = 'all'; ALTER DATABASE {0} SET application_name = '{0}'", database.name());
    client.batch_execute(&log).await.expect("set");
    let store = database.store();
    let said = |server: &Server| server.log().lines().filter(|line| line.contains("LOG:  execute ")).count();
    let statements = said(server);
    let all: Vec<Series> = (0..GPUS).flat_map(|gpu| (0..10).map(move |metric| series(gpu, metric, gpu / 64))).collect();
    let mut commits = 0;
    for (at, some) in all.chunks(4000).enumerate() {
        store.commit(&[batch(&format!("{at}"), some, 0, 1)]).await.expect("stored");
        commits += 1;
    }
    let statements = said(server) - statements;
    assert!(statements > 0 && statements <= commits * 60, "{statements} statements for {commits} dictionaries");
    let after: i64 = client.query_one(&size, &[]).await.expect("a size").get(0);
    let each = (after - before) as f64 / f64::from(GPUS * 10);
    assert!(each > 1.0 && each <= 120.0, "{each} bytes a series, its share of a GPU and a workload included");
    // The GPUs of a host follow each other.
    let hosts = "(SELECT hostname FROM gpu GROUP BY hostname HAVING max(id) - min(id) = 7) h";
    assert_eq!(count(&client, hosts).await, i64::from(GPUS / 8));
    assert_eq!(count(&client, "gpu_block").await, i64::from(GPUS / 16 + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_of_both_forms() {
    let database = Server::shared().database().await;
    let client = database.client().await;
    // As an earlier program left them: rows of the table `series`, with times at the GPUs.
    let former: Vec<Series> = (0..40).map(|n| series(n % 4, n / 4, 0)).collect();
    insert_former(&client, &former).await;
    let store = database.store();
    let all: Vec<Series> = (0..6).flat_map(|gpu| (5..75).map(move |metric| series(gpu, metric, gpu % 3))).collect();
    store.commit(&[batch("a", &all, 0, 2)]).await.expect("stored");
    let expected = registered(&client).await;
    let is_former = |series: &&Series| former.iter().any(|known| known.key("edge") == series.key("edge"));
    assert_eq!(expected.len(), 40 + all.iter().filter(|series| !is_former(series)).count());
    assert_eq!(count(&client, "series").await, 40);

    let page = async |filter: &SeriesFilter, rows: usize| {
        let (mut found, mut after) = (Vec::new(), Default::default());
        loop {
            let some = store.series(filter, after, Limit::rows(rows)).await.expect("series");
            let Some(last) = some.last() else { return found };
            after = last.id;
            found.extend(some);
        }
    };
    for rows in [7, 1000] {
        let found = page(&SeriesFilter::default(), rows).await;
        let ids: Vec<i64> = found.iter().map(|series| series.id.to_store()).collect();
        assert_eq!(ids, expected.keys().copied().collect::<Vec<_>>(), "{rows} a page");
        for series in &found {
            let (_, metric, namespace, pod, _) = &expected[&series.id.to_store()];
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            assert_eq!((&series.metric, &series.namespace, &series.pod), (metric, &text(namespace), &text(pod)));
        }
    }
    let of = |gpus: GpuFilter| SeriesFilter { gpus, ..SeriesFilter::default() };
    let with = |test: &dyn Fn(&Identity) -> bool| expected.values().filter(|series| test(series)).count();
    let uuid = GpuFilter { uuid: Some("GPU-00003".into()), ..GpuFilter::default() };
    assert_eq!(page(&of(uuid), 50).await.len(), with(&|series| series.0 == "GPU-00003"));
    let namespace = GpuFilter { namespace: Some("namespace-1".into()), ..GpuFilter::default() };
    assert_eq!(page(&of(namespace.clone()), 50).await.len(), with(&|series| series.2.as_deref() == Some("namespace-1")));
    let metrics = SeriesFilter { metrics: vec!["METRIC_3".into(), "METRIC_70".into()], ..SeriesFilter::default() };
    assert_eq!(page(&metrics, 3).await.len(), with(&|series| series.1 == "METRIC_3" || series.1 == "METRIC_70"));
    let names: BTreeSet<String> = expected.values().map(|series| series.1.clone()).collect();
    let read = Reader::metrics(&store, "", Limit::rows(1000)).await.expect("metrics");
    assert_eq!(read, names.into_iter().collect::<Vec<_>>());
    // GPUs by a namespace.
    let gpus = store.gpus(&namespace, None, Limit::rows(100)).await.expect("gpus");
    assert_eq!(gpus.iter().map(|gpu| gpu.place.uuid.as_str()).collect::<Vec<_>>(), ["GPU-00001", "GPU-00004"]);
}

/// Inserts series as release 0.1.0 does.
pub async fn insert_former(client: &Client, all: &[Series]) {
    for series in all {
        let gpu = &series.gpu;
        let sql = format!(
            "INSERT INTO gpu (key, cluster, uuid, hostname, gpu_index, device, model, driver_version, pci_bus_id, mig_profile, mig_instance) \
             VALUES ('{}', 'edge', '{}', '{}', {}, '', '{}', '', '', '', '') ON CONFLICT (key) DO NOTHING; \
             INSERT INTO series (key, gpu_id, metric) SELECT '{}', id, '{}' FROM gpu WHERE key = '{}'; \
             UPDATE gpu SET first_seen = '2025-01-10 12:00:00+00', last_seen = '2025-01-10 12:00:00+00'",
            gpu.key("edge"),
            gpu.uuid,
            gpu.hostname,
            gpu.index.expect("an index"),
            gpu.model,
            series.key("edge"),
            series.metric,
            gpu.key("edge"),
        );
        client.batch_execute(&sql).await.expect("inserted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_release_0_1_0_goes_on_with_its_series() {
    let (database, client) = made_by_0_1_0(2).await;
    let former: Vec<Series> = (0..12).map(|n| series(n % 3, n / 3, 0)).collect();
    insert_former(&client, &former).await;
    let chunks = "CREATE TABLE sample_chunk_20250115 PARTITION OF sample_chunk FOR VALUES FROM ('2025-01-15 00:00:00+00') TO ('2025-01-16 00:00:00+00'); \
                  INSERT INTO sample_chunk (series_id, t_min, t_max, n, step_ms, \"values\") \
                  SELECT id, '2025-01-15 00:00:10+00', '2025-01-15 00:00:12+00', 3, 1000, '{10, 11, 12}' FROM series; \
                  UPDATE gpu SET last_seen = '2025-01-15 00:00:12+00'";
    client.batch_execute(chunks).await.expect("written");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let before = registered(&client).await;
    assert_eq!(before.len(), 12);
    // Half of these series are known; two of the samples of each are stored.
    let all: Vec<Series> = (0..3).flat_map(|gpu| (2..6).map(move |metric| series(gpu, metric, 0))).collect();
    for name in ["again", "and again"] {
        store.commit(&[batch(name, &all, 11, 4)]).await.expect("stored");
        let after = registered(&client).await;
        assert!(before.iter().all(|(id, series)| after.get(id) == Some(series)), "an id has changed");
        assert_eq!((after.len(), count(&client, "series").await), (18, 12));
        assert_eq!(count(&client, "samples").await, 12 * 3 + 6 * 2 + 6 * 4);
        assert_eq!(count(&client, "samples WHERE extract(epoch FROM ts - '2025-01-15 00:00:00+00') <> value").await, 0);
    }
    store.commit(&[batch("the next day", &all, DAY_MS / 1000, 40)]).await.expect("stored");
    for day in [0, 1] {
        pack(&client, DAY / DAY_MS + day).await;
        assert_eq!(count(&client, "samples").await, 12 * 3 + 6 * 2 + 6 * 4 + 12 * 40);
    }
    let rows = "sample_packed WHERE t_min >= '2025-01-16' AND k = 4 AND series_first < 1099511627776";
    assert_eq!(count(&client, rows).await, 3, "rows with series of both forms");
    for (metric, samples) in [(2, 5), (5, 4)] {
        let samples_of = format!("samples WHERE gpu_uuid = 'GPU-00001' AND metric_name = 'METRIC_{metric}'");
        assert_eq!(count(&client, &samples_of).await, samples + 40);
    }
    assert_eq!(count(&client, "samples_between('2025-01-15 00:00:11+00', '2025-01-15 00:00:12+00')").await, 18 * 2);
    assert_eq!(count(&client, "samples WHERE extract(epoch FROM ts - '2025-01-15 00:00:00+00') <> value").await, 0);
}

/// A fleet of some GPUs with samples in every form: packed on one day, chunks and slabs on the next one.
async fn every_form() -> (Database, Client) {
    let database = Server::shared().database().await;
    let client = database.client().await;
    let store = database.store();
    let all: Vec<Series> = (0..64).flat_map(|gpu| (0..6).map(move |metric| series(gpu, metric, gpu / 8))).collect();
    store.commit(&[batch("long", &all, 0, 50)]).await.expect("stored");
    pack(&client, DAY / DAY_MS).await;
    store.commit(&[batch("chunks", &all, DAY_MS / 1000, 100)]).await.expect("stored");
    for at in 0..5 {
        store.commit(&[batch(&format!("slab {at}"), &all, DAY_MS / 1000 + 200 + at, 1)]).await.expect("stored");
    }
    client.batch_execute("ANALYZE").await.expect("analyzed");
    (database, client)
}

async fn plan(client: &Client, explain: &str, sql: &str) -> String {
    let rows = client.query(&format!("EXPLAIN {explain} {sql}"), &[]).await.expect("a plan");
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_is_found_by_the_index_of_each_form() {
    let (_database, client) = every_form().await;
    for table in ["sample_chunk", "sample_slab", "sample_packed"] {
        assert!(count(&client, table).await > 0, "{table}");
    }
    // Few rows are read as fast without an index; whether one can be used is the question.
    client.batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off").await.expect("set");
    for condition in ["gpu_uuid = 'GPU-00017'", "hostname = 'host-0003' AND gpu_index = 4 AND metric_name = 'METRIC_2'"] {
        let plan = plan(&client, "", &format!("SELECT count(*), sum(value) FROM samples WHERE {condition}")).await;
        for (table, on) in [("sample_chunk", "series_id = (("), ("sample_slab", "block_id = ("), ("sample_packed", "gpu_id = g")]
        {
            let found = plan.lines().zip(plan.lines().skip(1)).any(|(scan, condition)| {
                scan.contains("Index")
                    && scan.contains(&format!(" on {table}_2025"))
                    && condition.contains("Index Cond")
                    && condition.contains(on)
            });
            assert!(found, "{table} for {condition}:\n{plan}");
        }
    }
    let samples = count(&client, "samples WHERE gpu_uuid = 'GPU-00017'").await;
    assert_eq!(samples, 6 * (50 + 100 + 5));
    assert_eq!(count(&client, "samples WHERE gpu_uuid = 'GPU-00017' AND metric_name = 'METRIC_4'").await, 50 + 100 + 5);
    assert_eq!(count(&client, "samples WHERE namespace = 'namespace-2'").await, 8 * 6 * (50 + 100 + 5));
    assert_eq!(count(&client, "samples WHERE metric_name <> metric_alias").await, 0);
    let wrong = "samples s WHERE extract(epoch FROM ts - '2025-01-15 00:00:00+00') <> value";
    assert_eq!(count(&client, wrong).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metric_is_chosen_before_values_are_unpacked() {
    let (_database, client) = every_form().await;
    // Of each packed row and series that is left, the times are gone through once; beside that, arrays are made once a row.
    let unpacked = async |condition: &str| {
        let sql = format!("SELECT sum(value) FROM samples WHERE ts < '2025-01-16' AND {condition}");
        let plan = plan(&client, "(ANALYZE, TIMING OFF, COSTS OFF, SUMMARY OFF)", &sql).await;
        let loops =
            |line: &str| line.split("loops=").nth(1).and_then(|text| text.trim_end_matches(')').parse::<i64>().ok()).unwrap_or(0);
        // Those of the times of the row are below a plan of its own, and have no `at`.
        let all: Vec<&str> = plan.lines().filter(|line| line.contains("ProjectSet (actual")).collect();
        (all.iter().map(|line| loops(line)).sum::<i64>(), plan)
    };
    let (all, plan) = unpacked("true").await;
    let (one, _) = unpacked("metric_name = 'METRIC_3'").await;
    assert!(all > 0, "{plan}");
    assert_eq!(all - one, 64 * 5, "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_restored_is_the_same_store() {
    let (database, client) = every_form().await;
    insert_nothing_after_announcement(&client).await;
    let restored = Server::shared().empty_database().await;
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).env("PGPASSWORD", PASSWORD).output();
        done.ok().filter(|done| done.status.success())
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path");
    if Command::new("pg_dump").arg("--version").output().is_err() {
        return;
    }
    run("pg_dump", &["--file", path, &database.url]).expect("dumped");
    run("psql", &["--quiet", "--set", "ON_ERROR_STOP=1", "--file", path, &restored.url]).expect("restored");
    let copy = restored.client().await;
    let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') ORDER BY 1";
    let tables: Vec<String> = client.query(tables, &[]).await.expect("tables").iter().map(|row| row.get(0)).collect();
    assert!(tables.len() > 20);
    for table in tables {
        assert_eq!(count(&copy, &table).await, count(&client, &table).await, "{table}");
    }
    let samples = "SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) FROM samples s";
    let of = async |client: &Client| client.query_one(samples, &[]).await.expect("samples").get::<_, String>(0);
    assert_eq!(of(&copy).await, of(&client).await);
    // It goes on: ids are not given twice, and series are found.
    let before = registered(&copy).await;
    let store = restored.store();
    store.migrate().await.expect("nothing to do");
    let all: Vec<Series> = (60..70).flat_map(|gpu| (4..8).map(move |metric| series(gpu, metric, gpu / 8))).collect();
    store.commit(&[batch("more", &all, DAY_MS / 1000 + 500, 1)]).await.expect("stored");
    let after = registered(&copy).await;
    assert!(before.iter().all(|(id, series)| after.get(id) == Some(series)));
    assert_eq!(after.len() - before.len(), 4 * 2 + 6 * 4);
}

/// The older form is not written any more once the newer one is announced.
async fn insert_nothing_after_announcement(client: &Client) {
    let refused = client.batch_execute("INSERT INTO series (key, gpu_id, metric) VALUES (gen_random_uuid(), 1, 'X')").await;
    let refused = refused.expect_err("refused");
    assert!(refused.as_db_error().is_some_and(|error| error.message().contains("upgrade telemetry")), "{refused}");
}
