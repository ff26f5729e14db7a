//! Slabs: read by block and in few rows, packed, and whole wherever that is interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use telemetry::model::TimeMs;
use telemetry::store::maintenance::{Scope, pack_day};
use telemetry::store::postgres::PostgresStore;
use telemetry::store::{ChunkRange, Ids, Latest, Limit, Reader, SeriesFilter, SnapshotFor, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::maintenance::{AtOnce, DAY_MS, HOUR, Held, count, held, live, pack, place, scope, scrapes, unpacked};
use super::rows::*;
use crate::support::app::wait_for;
use crate::support::postgres::Database;

/// The series of a metric.
async fn series_of(store: &dyn Reader, metric: &str) -> Vec<Ids> {
    let filter = SeriesFilter { metrics: vec![metric.to_owned()], ..SeriesFilter::default() };
    let series = store.series(&filter, telemetry::model::SeriesId::default(), Limit::rows(100_000)).await.expect("series");
    series.iter().map(telemetry::store::SeriesRow::ids).collect()
}

async fn latest(store: &dyn Reader, series: &[Ids]) -> Vec<Latest> {
    let mut snapshot = store.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.expect("a snapshot");
    let mut latest = snapshot.latest(series, TimeMs::MIN, TimeMs::MAX).await.expect("the newest");
    latest.sort_by_key(|latest| latest.series);
    latest
}

/// Rows of slabs that were fetched through their index, as far as sessions have reported it: those that have ended have.
async fn fetched(client: &Client) -> i64 {
    let sql = "SELECT pg_stat_clear_snapshot()::text, coalesce(sum(idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables \
               WHERE relname LIKE 'sample_slab_%'";
    client.query_one(sql, &[]).await.expect("statistics").get(1)
}

async fn sessions(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.query_one(sql, &[]).await.expect("a count").get(0)
}

/// How many rows of slabs a question reads.
async fn rows_read<T>(database: &Database, question: impl AsyncFnOnce(PostgresStore) -> T) -> (i64, T) {
    let client = database.client().await;
    wait_for("the end of the others", || async { sessions(&client).await == 0 }).await;
    let before = fetched(&client).await;
    let answer = question(database.store()).await;
    wait_for("the end of the session", || async { sessions(&client).await == 0 }).await;
    (fetched(&client).await - before, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_newest_and_an_hour_of_a_gpu_are_found_in_few_slabs() {
    let (database, store, client) = place().await;
    // 40 GPUs: three blocks, as ids begin with 1. Two hours, a slab of each block a tick.
    live(&*store, &scrapes("a", 40, DAY, 120, 60_000), 200).await;
    assert_eq!(count(&client, "sample_slab").await, 3 * 120);
    drop((store, client));

    let (read, newest) = rows_read(&database, async |store| latest(&store, &series_of(&store, "METRIC_1").await).await).await;
    assert_eq!(newest.len(), 40);
    assert!(newest.iter().all(|latest| latest.time == TimeMs::from_millis(DAY + 119 * 60_000)), "{newest:?}");
    assert_eq!(read, 3, "the last slab of each block");

    let hour = ChunkRange {
        begins_from: TimeMs::from_millis(DAY),
        begins_before: TimeMs::from_millis(DAY + 2 * HOUR),
        ends_from: TimeMs::from_millis(DAY + HOUR),
        ends_before: TimeMs::MAX,
    };
    let (read, samples) = rows_read(&database, async |store| {
        let series = [series_of(&store, "METRIC_1").await[7]];
        let mut snapshot = store.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.expect("a snapshot");
        let chunks = snapshot.chunks(&series, &hour, 1000).await.expect("chunks").expect("they are few");
        chunks.iter().map(|chunk| chunk.times.len()).sum::<usize>()
    })
    .await;
    assert_eq!(samples, 60);
    assert!((1..=60).contains(&read), "{read} slabs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_that_are_silent_for_long_are_found_wherever_they_are() {
    let (database, store, client) = place().await;
    let at = |minute: i64| DAY + minute * 60_000;
    // Series 3 is silent after a while, series 4 comes late (in a later slab, with older times), series 6 is packed, series 7 in a chunk.
    let mut rows = vec![sample(6, at(-90), 6.0), sample(6, at(-80), 6.5)];
    live(&*store, &Content::new("packed", rows.clone()), 10).await;
    pack(&*store, DAY).await;
    rows = (0..40).map(|minute| sample(7, at(minute), minute as f64)).collect();
    live(&*store, &Content::new("long", rows), 100).await;
    rows = vec![sample(3, at(1), 3.0), sample(3, at(1), 3.5), sample(4, at(50), 4.0)];
    live(&*store, &Content::new("early", rows), 10).await;
    for minute in 60..90 {
        live(&*store, &Content::new(&format!("{minute}"), vec![sample(1, at(minute), minute as f64)]), 10).await;
    }
    live(&*store, &Content::new("late", vec![sample(4, at(20), 4.5), sample(5, at(30), 5.0)]), 10).await;
    assert!(count(&client, "sample_chunk").await == 1 && count(&client, "sample_packed").await == 1);

    let expected = [(1, 89, 89.0), (3, 1, 3.5), (4, 50, 4.0), (5, 30, 5.0), (6, -80, 6.5), (7, 39, 39.0)];
    let reader = database.store();
    for (number, minute, value) in expected {
        let told = series(number);
        let of_metric = series_of(&reader, &told.metric).await;
        let newest = latest(&reader, &of_metric).await;
        let found = newest.iter().find(|latest| (latest.time.as_millis(), latest.value) == (at(minute), value));
        assert!(found.is_some(), "series {number}: {newest:?}");
    }
    let mut all = Vec::new();
    for metric in 0..5 {
        all.extend(series_of(&reader, &format!("METRIC_{metric}")).await);
    }
    assert_eq!(latest(&reader, &all).await.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_that_are_wanted_are_bounded_and_those_read_in_vain_too() {
    let (database, store, _client) = place().await;
    live(&*store, &scrapes("a", 16, DAY, 100, 1000), 80).await;
    let reader = database.store();
    let series = [series_of(&reader, "METRIC_1").await[3]];
    let all =
        ChunkRange { begins_from: TimeMs::MIN, begins_before: TimeMs::MAX, ends_from: TimeMs::MIN, ends_before: TimeMs::MAX };
    for (most, is_answered) in [(100, true), (99, false)] {
        let mut snapshot = reader.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.expect("a snapshot");
        assert_eq!(snapshot.chunks(&series, &all, most).await.expect("an answer").is_some(), is_answered, "{most}");
    }
    let mut snapshot = reader.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.expect("a snapshot");
    let spans = snapshot.spans(&series, &all).await.expect("spans");
    assert_eq!(spans.len(), 1);
    assert_eq!((spans[0].first.as_millis(), spans[0].last.as_millis()), (DAY, DAY + 99_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_slabs_go_into_packed_hours_and_the_later_value_counts() {
    let (_database, store, client) = place().await;
    live(&*store, &scrapes("a", 20, DAY, 12 * 12, 300_000), 100).await;
    pack(&*store, DAY + 10 * HOUR).await;
    assert_eq!(unpacked(&client, "true").await, 2 * 12 * 100, "the last two hours are open");
    // Twice at one time of two GPUs: over what is packed, and over what is in a slab.
    let late = |name: &str, more: f64| {
        let rows =
            [0, 7].iter().flat_map(|series| [3, 11].map(|hour| sample(*series, DAY + hour * HOUR, more + f64::from(*series))));
        Content::new(name, rows.chain([sample(7, DAY + 3 * HOUR + 7, more)]).collect())
    };
    live(&*store, &late("b", 1000.0), 5).await;
    live(&*store, &late("c", 2000.0), 5).await;
    let before = held(&client).await;
    let others = "SELECT string_agg(ctid::text, ' ' ORDER BY ctid) FROM sample_packed \
                  WHERE t_min >= '2025-01-15 03:00+00' AND t_max < '2025-01-15 04:00+00' AND gpu_id NOT IN \
                  (SELECT id FROM gpu WHERE uuid IN ('GPU-0', 'GPU-1'))";
    let was: String = client.query_one(others, &[]).await.unwrap().get(0);
    pack(&*store, DAY + 10 * HOUR).await;
    assert_eq!(held(&client).await, before);
    assert_eq!(unpacked(&client, "t_min < '2025-01-15 10:00+00'").await, 0);
    assert_eq!(client.query_one(others, &[]).await.unwrap().get::<_, String>(0), was, "rows of other GPUs stay where they are");

    pack(&*store, DAY + DAY_MS).await;
    assert_eq!(held(&client).await, before);
    assert_eq!(unpacked(&client, "true").await, 0);
    // What is given back stays so: the day has nothing that anybody would look at again.
    let size = "SELECT pg_relation_size('sample_slab_20250115') + pg_relation_size('sample_chunk_20250115')";
    assert_eq!(client.query_one(size, &[]).await.unwrap().get::<_, i64>(0), 0);
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    assert_eq!(maintained.days(&scope(DAY + 2 * DAY_MS)).await.expect("days"), []);
}

/// A relay to PostgreSQL that ends all connections once their clients have sent so many statements.
struct Limited {
    port: u16,
    left: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Limited {
    async fn to(port: u16, statements: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicI64::new(statements));
        let counted = Arc::clone(&left);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if counted.load(Ordering::Relaxed) > 0 {
                    tokio::spawn(relay(client, port, Arc::clone(&counted)));
                }
            }
        });
        Self { port: own, left, task }
    }

    /// Whether there were more statements than that.
    fn has_ended_it(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 0
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what a client says, message by message, up to the last statement that it may send: that one is carried out, and its answer is
/// lost.
async fn relay(client: TcpStream, to: u16, left: Arc<AtomicI64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forwards = async {
        let mut is_started = false;
        loop {
            // The first messages have no type. Of those, only the one that asks for TLS is followed by another.
            let mut kind = [0; 1];
            if is_started {
                from_client.read_exact(&mut kind).await?;
            }
            let length = from_client.read_i32().await?;
            let mut body = vec![0; usize::try_from(length - 4).unwrap_or_default()];
            from_client.read_exact(&mut body).await?;
            let mut message = if is_started { kind.to_vec() } else { Vec::new() };
            message.extend(length.to_be_bytes());
            message.extend(&body);
            to_server.write_all(&message).await?;
            let is_request_for_tls = !is_started && body.len() == 4;
            is_started |= !is_request_for_tls;
            // Query, Execute, CopyDone.
            if [b'Q', b'E', b'c'].contains(&kind[0]) && left.fetch_sub(1, Ordering::Relaxed) <= 1 {
                return std::io::Result::Ok(());
            }
        }
    };
    tokio::select! {
        _ = forwards => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Puts the rows back that were there before.
async fn put_back(client: &Client) {
    let tables = ["sample_chunk", "sample_slab", "sample_packed"];
    let statements: Vec<String> =
        tables.iter().map(|table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}")).collect();
    client.batch_execute(&statements.join("; ")).await.expect("put back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrite_that_ends_at_any_statement_leaves_every_sample_once() {
    let (database, store, client) = place().await;
    // Two blocks; packed hours, slabs and a chunk over them, with another value at the same times; an open hour.
    live(&*store, &scrapes("a", 20, DAY, 3, HOUR), 100).await;
    pack(&*store, DAY + 2 * HOUR).await;
    let again = |name: &str, value: f64| Content::new(name, vec![sample(0, DAY, value), sample(90, DAY + 5, value)]);
    live(&*store, &again("b", 1000.0), 2).await;
    live(&*store, &again("c", 2000.0), 2).await;
    live(&*store, &Content::new("d", (0..40).map(|at| sample(1, DAY + at * 1000, 0.5)).collect()), 40).await;
    for table in ["sample_chunk", "sample_slab", "sample_packed"] {
        client.batch_execute(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}")).await.unwrap();
    }
    let (before, all) = (held(&client).await, unpacked(&client, "true").await);
    drop(store);
    let small = Scope { batch_samples: 300, ..scope(DAY + DAY_MS) };
    let port: u16 = database.url.split(':').nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    let (mut statements, mut committed) = (0, 0);
    loop {
        statements += 1;
        let line = Limited::to(port, statements).await;
        let through = Database { url: database.url.replace(&format!(":{port}/"), &format!(":{}/", line.port)) };
        let store = through.store();
        let done = async {
            let mut maintained = store.maintain(true).await?.expect("it waits for it");
            for day in maintained.days(&small).await? {
                pack_day(&mut *maintained, &day, &small, &mut AtOnce).await?;
            }
            telemetry::store::Result::Ok(())
        };
        let done = done.await;
        // Whatever the server was told last, it has done or not when its session ends.
        drop(store);
        wait_for("the end of the session", || async { sessions(&client).await == 0 }).await;
        let now: Held = held(&client).await;
        assert!(now == before, "after {statements} statements");
        committed += i64::from(unpacked(&client, "true").await < all);
        if !line.has_ended_it() {
            done.expect("packed");
            break;
        }
        put_back(&client).await;
    }
    assert!(statements > 30 && committed > 1, "{statements} statements, {committed} times with something committed");
    assert_eq!(unpacked(&client, "true").await, 0);
}
