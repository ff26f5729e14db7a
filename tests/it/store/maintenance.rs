//! Maintenance of PostgreSQL: what is packed are the same samples, whoever else is at work; and where it is interrupted, too.
//!
//! Samples are read here from the rows themselves, chunks and packed ones, and not by the reader under test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use telemetry::model::{GpuId, SeriesId, TimeMs};
use telemetry::store::maintenance::{DayState, Maintenance, Pace, Packed, Scope, pack_day};
use telemetry::store::packed::{Bits, Rectangle, Row as PackedRow};
use telemetry::store::{Result, Store};
use tokio_postgres::Client;

use super::rows::*;
use crate::support::app::{App, Seeded, wait_for};
use crate::support::postgres::{Database, Server};

pub const HOUR: i64 = 3_600_000;
pub const DAY_MS: i64 = 24 * HOUR;

/// Goes on at once.
pub struct AtOnce;

#[async_trait]
impl Pace for AtOnce {
    async fn pause(&mut self, _: &mut dyn Maintenance, _: &Packed) -> Result<bool> {
        Ok(true)
    }
}

pub fn scope(until: i64) -> Scope {
    Scope { until: TimeMs::from_millis(until), max_samples: 200_000, batch_samples: 1000 }
}

/// Packs everything before a time; what was done.
pub async fn pack(store: &dyn Store, until: i64) -> Packed {
    let scope = scope(until);
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    let mut all = Packed::default();
    for day in maintained.days(&scope).await.expect("days") {
        all.add(pack_day(&mut *maintained, &day, &scope, &mut AtOnce).await.expect("packed"));
    }
    all
}

fn bits(text: &str) -> Bits {
    let mut bytes = vec![0; text.len().div_ceil(8)];
    for (at, _) in text.bytes().enumerate().filter(|(_, bit)| *bit == b'1') {
        bytes[at / 8] |= 0x80 >> (at % 8);
    }
    Bits { len: text.len(), bytes }
}

/// A row's id, its series, and times and bits of its values.
type HeldRow = (i64, i64, Vec<(i64, u64)>);

/// What the rows of a store hold.
#[derive(Debug, PartialEq)]
pub struct Held {
    /// Every sample: series, time, bits of the value.
    pub samples: Vec<(i64, i64, u64)>,
    /// Of each series and time the value that counts: of the row with the greatest id the last one.
    pub counts: BTreeMap<(i64, i64), u64>,
}

/// The samples of slabs, each as a row of its own: they are in the order that decides.
async fn slab_rows(client: &Client) -> Vec<HeldRow> {
    let slabs = client
        .query(
            "SELECT l.id, l.series_first + u.series, (extract(epoch FROM l.t_min) * 1000)::bigint + coalesce(u.ms, 0), u.value \
               FROM sample_slab l CROSS JOIN LATERAL unnest(l.series, l.offsets, l.\"values\") WITH ORDINALITY u (series, ms, value, i) \
              ORDER BY l.id, u.i",
            &[],
        )
        .await
        .unwrap();
    slabs.iter().map(|row| (row.get(0), row.get(1), vec![(row.get(2), row.get::<_, f64>(3).to_bits())])).collect()
}

/// Reads every row in one statement each, in one snapshot.
pub async fn held(client: &Client) -> Held {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let chunks = client
        .query(
            "SELECT id, series_id, (extract(epoch FROM t_min) * 1000)::bigint, step_ms, offsets, \"values\" FROM sample_chunk",
            &[],
        )
        .await
        .unwrap();
    let mut rows: Vec<HeldRow> = Vec::new();
    for row in &chunks {
        let (begin, step, offsets): (i64, Option<i32>, Option<Vec<i32>>) = (row.get(2), row.get(3), row.get(4));
        let values: Vec<f64> = row.get(5);
        let time = |i: usize| match &offsets {
            Some(offsets) => begin + i64::from(offsets[i]),
            None => begin + i as i64 * i64::from(step.unwrap()),
        };
        let samples = values.iter().enumerate().map(|(i, value)| (time(i), value.to_bits())).collect();
        rows.push((row.get(0), row.get(1), samples));
    }
    rows.extend(slab_rows(client).await);
    let packed = client
        .query(
            "SELECT gpu_id, id, (extract(epoch FROM t_min) * 1000)::bigint, (extract(epoch FROM t_max) * 1000)::bigint, series_first, n, k, \
                    heads::text, bits::text FROM sample_packed",
            &[],
        )
        .await
        .unwrap();
    for row in &packed {
        let read = PackedRow {
            gpu: GpuId::from_store(row.get(0)),
            id: row.get(1),
            t_min: TimeMs::from_millis(row.get(2)),
            t_max: TimeMs::from_millis(row.get(3)),
            series_first: SeriesId::from_store(row.get(4)),
            n: row.get(5),
            k: row.get(6),
            heads: bits(row.get(7)),
            bits: bits(row.get(8)),
        };
        for chunk in Rectangle::from_row(&read).unwrap().chunks(|_| true).unwrap() {
            let samples =
                chunk.times.iter().zip(&chunk.values).map(|(time, value)| (time.as_millis(), value.to_bits())).collect();
            rows.push((chunk.id, chunk.series.to_store(), samples));
        }
    }
    client.batch_execute("COMMIT").await.unwrap();
    // Stable: those of one slab stay in their order.
    rows.sort_by_key(|(id, _, _)| *id);
    let (mut samples, mut counts) = (Vec::new(), BTreeMap::new());
    for (_, series, of_row) in rows {
        for (time, value) in of_row {
            samples.push((series, time, value));
            counts.insert((series, time), value);
        }
    }
    samples.sort_unstable();
    Held { samples, counts }
}

pub async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
}

/// Samples in rows as they were committed: chunks and slabs.
pub async fn unpacked(client: &Client, condition: &str) -> i64 {
    let sum = |table| format!("(SELECT coalesce(sum(n), 0)::bigint FROM {table} WHERE {condition})");
    let sql = format!("SELECT {} + {}", sum("sample_chunk"), sum("sample_slab"));
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

/// Scrape by scrape: `ticks` of 5 series of each of `gpus` GPUs.
pub fn scrapes(name: &str, gpus: u32, from: i64, ticks: i64, step: i64) -> Content {
    let ticks = (0..ticks).flat_map(|tick| (0..gpus * 5).map(move |series| (tick, series)));
    Content::new(
        name,
        ticks.map(|(tick, series)| sample(series, from + tick * step, f64::from(series) + (tick % 7) as f64 / 4.0)).collect(),
    )
}

/// Commits it in pieces, as it comes live.
pub async fn live(store: &dyn Store, content: &Content, rows: usize) {
    let mut from = 0;
    while from < content.rows.len() {
        let to = (from + rows).min(content.rows.len());
        store.commit(&[content.batch(from..to)]).await.expect("a commit");
        from = to;
    }
}

pub async fn place() -> (Database, Arc<dyn Store>, Client) {
    let database = Server::shared().database().await;
    let store: Arc<dyn Store> = Arc::new(database.store());
    let client = database.client().await;
    (database, store, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_samples_in_few_rows_and_late_ones_touch_only_their_gpu() {
    let (_database, store, client) = place().await;
    live(&*store, &scrapes("a", 3, DAY, 96, 15 * 60_000), 15).await;
    // Another value at the same time: the later one counts.
    live(&*store, &Content::new("b", vec![sample(1, DAY + 15 * 60_000, 77.0), sample(1, DAY + 15 * 60_000, 78.0)]), 1).await;
    let before = held(&client).await;
    assert!(unpacked(&client, "true").await > 1000 && count(&client, "sample_slab").await >= 96);

    let done = pack(&*store, DAY + 2 * DAY_MS).await;
    assert_eq!((done.samples, done.damaged, done.delayed), (before.samples.len() as u64, vec![], vec![]));
    assert_eq!(held(&client).await, before);
    assert_eq!(unpacked(&client, "true").await, 0);
    assert!(count(&client, "sample_packed").await <= 3 * 4, "{}", count(&client, "sample_packed").await);
    assert_eq!(pack(&*store, DAY + 2 * DAY_MS).await, Packed::default(), "there is nothing left to do");

    let places = "SELECT string_agg(ctid::text, ' ' ORDER BY ctid) FROM sample_packed WHERE gpu_id <> \
                  (SELECT min(id) FROM gpu WHERE uuid = 'GPU-0')";
    let others: String = client.query_one(places, &[]).await.unwrap().get(0);
    live(&*store, &Content::new("late", vec![sample(1, DAY + 5 * HOUR + 7, 5.0), sample(1, DAY + 15 * 60_000, 79.0)]), 1).await;
    let before = held(&client).await;
    let done = pack(&*store, DAY + 2 * DAY_MS).await;
    assert!(done.samples > 2 && done.samples <= 5 * 97 + 4, "{done:?}");
    assert_eq!(held(&client).await, before);
    assert_eq!(
        client.query_one(places, &[]).await.unwrap().get::<_, String>(0),
        others,
        "rows of other GPUs stay where they are"
    );
    assert_eq!(unpacked(&client, "true").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_lasts_is_packed_by_the_hour_and_as_a_whole_when_it_is_over() {
    let (_database, store, client) = place().await;
    live(&*store, &scrapes("a", 2, DAY, 12 * 60, 60_000), 10).await;
    let before = held(&client).await;
    pack(&*store, DAY + 6 * HOUR).await;
    assert_eq!(held(&client).await, before);
    let hour = "date_trunc('hour', t_min) <> date_trunc('hour', t_max)";
    assert_eq!(count(&client, &format!("sample_packed WHERE {hour}")).await, 0, "rows of one hour each");
    assert_eq!(unpacked(&client, "t_min < '2025-01-15 06:00:00+00'").await, 0);
    assert_eq!(unpacked(&client, "true").await, 2 * 5 * 6 * 60, "what is not closed stays as it is");
    let hours = count(&client, "sample_packed").await;
    pack(&*store, DAY + DAY_MS).await;
    assert_eq!(held(&client).await, before);
    assert_eq!(unpacked(&client, "true").await, 0);
    assert!(count(&client, "sample_packed").await < hours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_maintains_and_makes_way_for_who_waits() {
    let (_database, store, _client) = place().await;
    let mut one = store.maintain(false).await.expect("no error").expect("nobody else does");
    assert!(store.maintain(false).await.expect("no error").is_none());
    assert!(!one.is_wanted().await.expect("an answer"));
    let other = Arc::clone(&store);
    let waiting = tokio::spawn(async move { other.maintain(true).await.map(|maintained| maintained.is_some()) });
    let one = tokio::sync::Mutex::new(one);
    wait_for("somebody who waits", || async { one.lock().await.is_wanted().await.expect("an answer") }).await;
    drop(one);
    assert!(waiting.await.expect("no panic").expect("no error"));
    assert!(store.maintain(true).await.expect("no error").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_maintenance_at_once_lose_nothing() {
    let (_database, store, client) = place().await;
    let contents: Vec<Content> = (0..4).map(|at| scrapes(&format!("s{at}"), 3, DAY + at * 17, 60, 60_000)).collect();
    let expected: usize = contents.iter().map(|content| content.rows.len()).sum();
    let over = Arc::new(AtomicBool::new(false));
    let maintaining = {
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        tokio::spawn(async move {
            let mut packed = 0;
            while !over.load(Ordering::Relaxed) {
                packed += pack(&*store, DAY + 2 * DAY_MS).await.samples;
            }
            packed
        })
    };
    let committing: Vec<_> = contents
        .into_iter()
        .map(|content| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { live(&*store, &content, 15).await })
        })
        .collect();
    let watching = {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                let now = held(&client).await.samples.len();
                assert!(now >= most, "{most} samples were there, and now {now} are");
                most = now;
            }
            client
        })
    };
    for task in committing {
        task.await.expect("a commit");
    }
    over.store(true, Ordering::Relaxed);
    assert!(maintaining.await.expect("no panic") > 0);
    let client = watching.await.expect("no sample went away");
    pack(&*store, DAY + 2 * DAY_MS).await;
    let held = held(&client).await;
    assert_eq!((held.samples.len(), held.counts.len()), (expected, expected), "each sample once");
    assert_eq!(unpacked(&client, "true").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_slab_is_named_and_the_rest_is_packed() {
    let (database, store, client) = place().await;
    live(&*store, &scrapes("a", 2, DAY, 40, 60_000), 10).await;
    // Three values at one time, of which the damaged slab has the second.
    live(&*store, &Content::new("b", (1..=3).map(|value| sample(0, DAY, f64::from(value))).collect()), 1).await;
    let before = held(&client).await;
    let id: i64 = client
        .query_one("SELECT id FROM sample_slab WHERE \"values\" = '{2}' AND t_min = '2025-01-15' ORDER BY id DESC LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    client.batch_execute(&format!("UPDATE sample_slab SET n = 7 WHERE id = {id}")).await.unwrap();
    let app = App::new("", &database.url);
    let done = app.run(&["check", "--store"]).exits(1);
    assert!(
        done.stdout.contains(&format!("slab {id} of block")) && done.stdout.contains("402 samples in 0 chunks, 42 slabs"),
        "{}",
        done.stdout
    );
    let done = app.run(&["compact"]).exits(1);
    assert!(done.stderr.contains(&format!("slab {id} of block")) && done.stderr.contains("7 samples"), "{}", done.stderr);
    assert_eq!(count(&client, "sample_slab").await, 1, "{}", done.stdout);
    client.batch_execute(&format!("UPDATE sample_slab SET n = 1 WHERE id = {id}")).await.unwrap();
    assert_eq!(held(&client).await, before);
    app.run(&["compact"]).exits(0);
    assert_eq!(unpacked(&client, "true").await, 0);
    assert_eq!(held(&client).await, before, "the mended slab is in its place in the order");
    let done = app.run(&["check", "--store"]).exits(0);
    assert!(done.stdout.contains("403 samples in 0 chunks, 0 slabs"), "{}", done.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_is_named_and_the_rest_is_packed() {
    let (database, store, client) = place().await;
    // Long runs: two series have a chunk each, then one more at the same times.
    let long = |name: &str, series: u32, value: f64| {
        Content::new(name, (0..40).map(|at| sample(series, DAY + at * 60_000, value + at as f64)).collect())
    };
    for (name, series, value) in [("a", 0, 0.0), ("b", 5, 0.0), ("c", 0, 100.0), ("d", 0, 200.0)] {
        live(&*store, &long(name, series, value), 40).await;
    }
    let before = held(&client).await;
    assert_eq!(count(&client, "sample_chunk").await, 4);
    let id: i64 = client.query_one("SELECT id FROM sample_chunk WHERE \"values\"[1] = 100", &[]).await.unwrap().get(0);
    client.batch_execute(&format!("UPDATE sample_chunk SET n = 7 WHERE id = {id}")).await.unwrap();
    let app = App::new("", &database.url);
    let done = app.run(&["check", "--store"]).exits(1);
    assert!(
        done.stdout.contains(&format!("chunk {id} of series")) && done.stdout.contains("120 samples in 3 chunks"),
        "{}",
        done.stdout
    );
    let done = app.run(&["compact"]).exits(1);
    assert!(done.stderr.contains(&format!("chunk {id} of series")) && done.stderr.contains("7 samples"), "{}", done.stderr);
    assert_eq!(count(&client, "sample_chunk").await, 1, "{}", done.stdout);
    client.batch_execute(&format!("UPDATE sample_chunk SET n = 40 WHERE id = {id}")).await.unwrap();
    assert_eq!(held(&client).await, before);
    app.run(&["compact"]).exits(0);
    assert_eq!(unpacked(&client, "true").await, 0);
    assert_eq!(held(&client).await, before, "the mended chunk is in its place in the order");
    let done = app.run(&["check", "--store"]).exits(0);
    assert!(done.stdout.contains("160 samples in 0 chunks"), "{}", done.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_partition_delays_only_itself() {
    let (database, store, client) = place().await;
    live(&*store, &scrapes("a", 1, DAY - 2 * HOUR, 4, HOUR), 5).await;
    let before = held(&client).await;
    let mut user = database.client().await;
    let transaction = user.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE sample_chunk_20250114 IN SHARE MODE").await.unwrap();
    let app = App::new("", &database.url);
    let done = app.run(&["compact"]).exits(1);
    assert!(done.stderr.contains("sample_chunk_20250114") && done.stderr.contains("left for later"), "{}", done.stderr);
    assert_eq!(unpacked(&client, "t_min < '2025-01-15 00:00:00+00'").await, 10);
    assert_eq!(unpacked(&client, "t_min >= '2025-01-15 00:00:00+00'").await, 0);
    transaction.rollback().await.unwrap();
    app.run(&["compact"]).exits(0);
    assert_eq!(unpacked(&client, "true").await, 0);
    assert_eq!(held(&client).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compact_that_is_killed_leaves_every_sample_where_it_is_found() {
    let (database, store, client) = place().await;
    let mut random = Seeded::from_environment(7);
    let app = App::new("", &database.url);
    for round in 0..6 {
        let content = scrapes(&format!("r{round}"), 20, DAY + round * 13, 6, 4 * HOUR);
        live(&*store, &content, 100).await;
        let before = held(&client).await;
        let mut child = app.command(&["compact"]).spawn().expect("it starts");
        tokio::time::sleep(std::time::Duration::from_millis(20 + random.below(400))).await;
        child.kill().expect("it is killed, or has ended");
        child.wait().expect("it has ended");
        assert_eq!(held(&client).await, before, "round {round}");
    }
    let before = held(&client).await;
    app.run(&["compact"]).exits(0);
    assert_eq!(held(&client).await, before);
    assert_eq!(unpacked(&client, "true").await, 0);
}

#[track_caller]
fn nothing(app: &App, arguments: &[&str]) {
    let done = app.run(arguments).exits(0);
    assert!(done.stdout.starts_with("Nothing to pack before "), "{}", done.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_it_would_do_and_what_it_did() {
    let (database, store, client) = place().await;
    let app = App::new("", &database.url);
    nothing(&app, &["compact"]);
    live(&*store, &scrapes("a", 2, DAY, 40, 60_000), 10).await;
    let done = app.run(&["compact", "--dry-run"]).exits(0);
    assert!(
        done.stdout.contains("2025-01-15") && done.stdout.contains("400") && done.stdout.contains("Nothing was changed"),
        "{}",
        done.stdout
    );
    assert_eq!(unpacked(&client, "true").await, 400);
    nothing(&app, &["compact", "--until", "2025-01-15T00:00:00Z"]);
    app.run(&["compact", "--until", "2525-01-15T00:00:00Z"]).exits(2).says(&["--until", "in the future"]);
    let done = app.run(&["compact"]).exits(0);
    assert!(done.stdout.contains("2025-01-15") && done.stdout.contains("400"), "{}", done.stdout);
    assert_eq!(unpacked(&client, "true").await, 0);
    nothing(&app, &["compact"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_samples_than_one_rewrite_may_hold_are_packed_in_parts() {
    let (_database, store, client) = place().await;
    // All within a minute, so that no border of hours parts them.
    let rows: Vec<Row> = (0..5000).map(|at| sample(0, DAY + at % 100, at as f64)).collect();
    live(&*store, &Content::new("a", rows), 500).await;
    let before = held(&client).await;
    let small = Scope { max_samples: 1200, ..scope(DAY + 2 * DAY_MS) };
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    let days: Vec<DayState> = maintained.days(&small).await.expect("days");
    let plan = maintained.plan(&days[0], &small).await.expect("a plan");
    assert!(plan.batches.len() >= 4 && plan.batches.iter().all(|batch| batch.samples() <= 1200), "{plan:?}");
    let done = pack_day(&mut *maintained, &days[0], &small, &mut AtOnce).await.expect("packed");
    assert_eq!(done.samples, 5000);
    assert_eq!(held(&client).await, before);
    assert!(maintained.days(&small).await.expect("days").is_empty());
}
