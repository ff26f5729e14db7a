//! The suite on PostgreSQL, and what is PostgreSQL's alone: the schema, its SQL, its errors, its crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use telemetry::model::{Reason, SourceId};
use telemetry::store::postgres::PostgresStore;
use telemetry::store::{Incoming, Reader, Store, StoreError};

use super::rows::*;
use super::{conformance, histories, names, once, reading, retention};
use crate::support::postgres::{Database, Server, free_port};

pub struct Postgres(pub Database);

impl Postgres {
    pub async fn new() -> Self {
        Self(Server::shared().database().await)
    }
}

#[async_trait]
impl Harness for Postgres {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.store())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.0.store())
    }

    async fn conflicts(&self, limit: usize) -> (Vec<(i64, Vec<f64>)>, bool) {
        conflicts_of(&self.0.store(), limit).await
    }

    async fn samples(&self) -> Multiset {
        let sql = "SELECT cluster, gpu_uuid, metric_name, (extract(epoch FROM ts) * 1000)::bigint, value, count(*), \
                   float8send(value) FROM samples GROUP BY 1, 2, 3, 4, 5, 7";
        let rows = self.0.client().await.query(sql, &[]).await.expect("samples");
        let key = |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get::<_, f64>(4).to_bits());
        rows.iter().map(|row| (key(row), row.get::<_, i64>(5) as usize)).collect()
    }

    async fn rejected(&self) -> Vec<(SourceId, u64, u64, Reason)> {
        let sql = "SELECT replace(source_id::text, '-', ''), \"row\", line, reason FROM rejected_rows ORDER BY 1, 2";
        let rows = self.0.client().await.query(sql, &[]).await.expect("rejects");
        let reason = |name: &str| Reason::ALL.into_iter().find(|reason| reason.name() == name).expect("a reason");
        rows.iter()
            .map(|row| {
                let source = row.get::<_, &str>(0).parse().expect("an id");
                (source, row.get::<_, i64>(1) as u64, row.get::<_, i64>(2) as u64, reason(row.get(3)))
            })
            .collect()
    }
}

super::suite! { Postgres::new }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrate_at_once_and_again() {
    let database = Server::shared().empty_database().await;
    let stores: Vec<Arc<PostgresStore>> = (0..8).map(|_| Arc::new(database.store())).collect();
    let work = stores.iter().map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move { store.migrate().await })
    });
    for done in join_all(work).await {
        done.expect("no panic").expect("migrated");
    }
    let id = stores[0].id().await.expect("an id");
    stores[1].migrate().await.expect("nothing to do");
    assert_eq!(stores[7].id().await.expect("an id"), id);
    assert_eq!(id.len(), 36);
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_refused_in_words() {
    let database = Server::shared().empty_database().await;
    let store = database.store();
    let missing = store.commit(&[Content::new("a", plain(5)).all()]).await.expect_err("no schema");
    assert!(matches!(&missing, StoreError::Schema(said) if said.contains("telemetry migrate")), "{missing}");

    store.migrate().await.expect("migrated");
    let client = database.client().await;
    client.batch_execute("INSERT INTO schema_migration VALUES (99, 'later', 'x')").await.expect("a later version");
    let newer = store.migrate().await.expect_err("newer");
    let said = newer.to_string();
    assert!(
        matches!(newer, StoreError::Version(_))
            && said.contains("99")
            && said.contains("know versions up to")
            && said.contains("upgrade"),
        "{said}"
    );

    client
        .batch_execute("DELETE FROM schema_migration WHERE version = 99; UPDATE schema_migration SET checksum = 'other'")
        .await
        .expect("ok");
    let changed = store.migrate().await.expect_err("changed");
    assert!(matches!(&changed, StoreError::Version(said) if said.contains("checksum other")), "{changed}");
}

#[tokio::test]
async fn another_store_is_noticed_in_every_commit() {
    let database = Server::shared().database().await;
    let (store, other) = (database.store(), database.store());
    let content = Content::new("a", plain(50));
    store.commit(&[content.batch(0..10)]).await.expect("stored");
    // Made anew behind our back, with our connections still open, by another collector.
    database.client().await.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.expect("dropped");
    let gone = store.commit(&[content.batch(10..20)]).await.expect_err("no schema");
    assert!(matches!(gone, StoreError::Schema(_)), "{gone}");
    other.migrate().await.expect("migrated");
    for range in [0..10, 20..30] {
        let error = store.commit(&[content.batch(range)]).await.expect_err("another store");
        assert!(matches!(error, StoreError::OtherStore { .. }), "{error}");
    }
    assert!(matches!(store.id().await, Err(StoreError::OtherStore { .. })));
    assert!(Store::ledger(&other).await.expect("a ledger").is_empty(), "nothing was written there");
}

#[tokio::test]
async fn a_database_that_was_put_back_is_noticed_by_whoever_was_idle() {
    let server = Server::shared();
    let database = server.database().await;
    let content = Content::new("a", plain(50));
    database.store().commit(&[content.batch(0..10)]).await.expect("stored");
    let (backup, other_backup) = (server.copy(&database).await, server.copy(&database).await);
    let store = database.store();
    store.commit(&[content.batch(10..20)]).await.expect("stored");
    // Nobody asks while that is done: no connection fails, they are just made anew.
    server.put_back(&database, &backup).await;
    let older = store.commit(&[content.batch(20..30)]).await.expect_err("it has to be compared first");
    assert!(older.is_transient() && older.to_string().contains("it may be an older state"), "{older}");
    assert_eq!(store.settled(&[content.source]).await.expect("settled"), [(content.source, 10)], "nothing was written");
    // It is said once: whoever is told compares the store, and goes on or ends.
    store.commit(&[content.batch(10..20)]).await.expect("stored");
    assert_eq!(store.settled(&[content.source]).await.expect("settled"), [(content.source, 20)]);
    // So it is to who asks which store it is without comparing what it has.
    let id = store.id_if_unchanged().await.expect("it is the same");
    server.put_back(&database, &other_backup).await;
    let older = store.id_if_unchanged().await.expect_err("it has to be compared first");
    assert!(older.is_transient() && older.to_string().contains("it may be an older state"), "{older}");
    assert_eq!([store.id().await.expect("an id"), store.id_if_unchanged().await.expect("an id")], [id.clone(), id]);
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let server = Server::shared();
    let good = server.url("postgres");
    let cases = [
        (good.replace("a-secret-of-tests", "hunter2"), false, "password"),
        (good.replace(":a-secret-of-tests", ""), false, "password"),
        (server.url("no_such_database"), false, "no_such_database"),
        (format!("postgres://u:hunter2@127.0.0.1:{}/t", free_port()), true, "refused"),
        ("postgres://u:hunter2@no-such-host.invalid/t".to_owned(), true, "lookup"),
    ];
    for (url, transient, says) in cases {
        let error = Database { url }.store().ping().await.expect_err("unreachable");
        let said = error.to_string();
        assert_eq!(error.is_transient(), transient, "{said}");
        assert!(matches!(error, StoreError::Refused { .. } | StoreError::Unavailable { .. }), "{said}");
        assert!(said.to_lowercase().contains(says), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let mut config = Server::shared().database().await.config();
    config.url = config.url_with("wrong");
    config.password = Some("a-secret-of-tests".to_owned().into());
    PostgresStore::connect(&config).expect("a configuration").ping().await.expect("the given password wins");
    let database = Server::shared().database().await;
    let client = database.client().await;
    let role = format!("reader_{}", std::process::id());
    client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        .await
        .expect("a role");
    let reader = Database { url: database.url.replace("postgres:a-secret-of-tests", &format!("{role}:x")) };
    let error = reader.store().commit(&[Content::new("a", plain(5)).all()]).await.expect_err("no right");
    let StoreError::Refused { reason, .. } = error else { panic!("{error}") };
    for words in ["permission denied", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES", "sample_chunk", "telemetry check"] {
        assert!(reason.contains(words), "{reason}");
    }
    assert!(!reason.contains("migrate"), "which would not help: {reason}");
}

trait WithPassword {
    fn url_with(&self, password: &str) -> secrecy::SecretString;
}

impl WithPassword for telemetry::config::Postgres {
    fn url_with(&self, password: &str) -> secrecy::SecretString {
        use secrecy::ExposeSecret;
        self.url.expose_secret().replace("a-secret-of-tests", password).into()
    }
}

#[tokio::test]
async fn sql_users_see_what_they_expect() {
    let h = Postgres::new().await;
    let mut rows: Vec<Row> = (0..400).map(|at| sample(at % 3, DAY + i64::from(at / 3) * 1_000_000, f64::from(at))).collect();
    rows.push(sample(1, DAY + 5 * 86_400_000 + 1, -1.0));
    let content = Content::new("a", rows);
    h.open().commit(&[content.all()]).await.expect("stored");
    let client = h.0.client().await;
    let between = "samples_between(to_timestamp(1736935200), to_timestamp(1736938200))"; // 10:00 to 10:50
    let bounds = "min(ts) = to_timestamp(1736935200), max(ts) = to_timestamp(1736938200)";
    let row = client.query_one(&format!("SELECT count(*), {bounds} FROM {between}"), &[]).await.expect("rows");
    let (from, to) = (1_736_935_200_000, 1_736_938_200_000);
    let expected: usize = content.samples().iter().filter(|(key, _)| (from..=to).contains(&key.3)).map(|(_, n)| n).sum();
    assert_eq!((row.get::<_, i64>(0) as usize, row.get(1), row.get(2)), (expected, true, true), "both bounds are included");

    let plan = client.query(&format!("EXPLAIN SELECT * FROM {between}"), &[]).await.expect("a plan");
    let plan: String = plan.iter().map(|row| format!("{}\n", row.get::<_, &str>(0))).collect();
    assert!(plan.contains("sample_chunk_20250115") && !plan.contains("Function Scan on samples_between"), "{plan}");
    assert!(!plan.contains("sample_chunk_20250116") && !plan.contains("sample_chunk_20250120"), "{plan}");

    let nulls = "SELECT count(*) FILTER (WHERE namespace IS NULL), count(*) FILTER (WHERE namespace = 'research'), count(pod), count(*) FROM samples";
    let row = client.query_one(nulls, &[]).await.expect("rows");
    let counts: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(counts[2], 0);
    assert!(counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == counts[3] && counts[3] == 401);
    let seen = "SELECT count(*) FROM gpu g JOIN gpu_block b ON b.id = g.id >> 4 \
                 WHERE (b.first_seen[(g.id & 15) + 1], b.last_seen[(g.id & 15) + 1]) = \
                       (SELECT min(ts), max(ts) FROM samples s WHERE s.gpu_uuid = g.uuid)";
    assert_eq!(client.query_one(seen, &[]).await.expect("rows").get::<_, i64>(0), 1);
    let kinds = "SELECT count(*) FILTER (WHERE offsets IS NULL) > 0, bool_and(n = cardinality(\"values\")) FROM sample_chunk";
    let row = client.query_one(kinds, &[]).await.expect("rows");
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
}

#[tokio::test]
async fn a_day_that_was_dropped_is_made_again() {
    let h = Postgres::new().await;
    let (store, content) = (h.open(), Content::new("a", plain(50)));
    store.commit(&[content.batch(0..20)]).await.expect("stored");
    h.0.client().await.batch_execute("DROP TABLE sample_chunk_20250115, sample_slab_20250115").await.expect("dropped");
    store.commit(&[content.batch(20..50)]).await.expect("stored");
    let rest = Content { rows: content.rows[20..].to_vec(), ..content };
    assert_eq!(h.samples().await, rest.samples());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_in_the_middle_of_commits_lose_and_double_nothing() {
    let server = Arc::new(Server::start());
    let database = server.empty_database().await;
    database.store().migrate().await.expect("migrated");
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|writer| {
        let (database, stop) = (database.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let store = database.store();
            let (mut content, mut failures) = (Content::new(&format!("writer {writer}"), Vec::new()), 0u32);
            while !stop.load(Ordering::Relaxed) || content.rows.is_empty() {
                let from = content.rows.len();
                content
                    .rows
                    .extend((from..from + 50).map(|at| sample((at % 10) as u32, DAY + at as i64 * 997, f64::from(writer))));
                let group = [content.batch(from..from + 20), content.batch(from + 20..from + 50)];
                while let Err(error) = store.commit(&group).await {
                    assert!(error.is_transient(), "{error}");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            (content, failures)
        })
    });
    let writers: Vec<_> = writers.collect();
    let crasher = Arc::clone(&server);
    tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            crasher.crash();
            crasher.start_again();
        }
    })
    .await
    .expect("crashes");
    stop.store(true, Ordering::Relaxed);
    let (mut expected, mut failed) = (Multiset::new(), 0);
    for writer in writers {
        let (content, failures) = writer.await.expect("no panic");
        expected = union(&expected, &content.samples());
        failed += failures;
    }
    assert!(failed > 0, "nothing was interrupted");
    assert_eq!(Postgres(database.clone()).samples().await, expected);
    ledger(&database.store()).await;
}

/// A measurement, not a test: `cargo test --release --test it store::postgres::rate -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rate() {
    const SERIES: usize = 2470;
    let h = Postgres::new().await;
    let rows: Vec<Row> = (0..1_048_576)
        .map(|at| sample((at % SERIES) as u32, DAY + (at / SERIES) as i64 * 10_000 + (at % 7) as i64, at as f64 * 0.25))
        .collect();
    let content = Content::new("fast", rows);
    let batches: Vec<Incoming> = (0..16).map(|at| content.batch(at * 65_536..(at + 1) * 65_536)).collect();
    let store = h.open();
    let mut slices: BTreeMap<usize, Duration> = BTreeMap::new();
    let begun = Instant::now();
    for (at, group) in batches.chunks(4).enumerate() {
        let group_begun = Instant::now();
        store.commit(group).await.expect("stored");
        slices.insert(at, group_begun.elapsed());
    }
    let took = begun.elapsed();
    println!("committed {} samples/s; groups {slices:?}", (1_048_576.0 / took.as_secs_f64()) as u64);
    let begun = Instant::now();
    let done = store.commit(&batches[..4]).await.expect("again");
    println!("again: {} duplicates in {:?}", done.duplicate, begun.elapsed());
    let client = h.0.client().await;
    let begun = Instant::now();
    let row = client
        .query_one("SELECT count(*), pg_total_relation_size('sample_chunk_20250115') FROM samples", &[])
        .await
        .expect("a count");
    println!("{} samples in {} bytes, counted in {:?}", row.get::<_, i64>(0), row.get::<_, i64>(1), begun.elapsed());
}
