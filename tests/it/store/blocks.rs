//! How a live fleet is committed to PostgreSQL: slabs, and the blocks of GPUs that say what may be compared.

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::join_all;
use telemetry::store::{Committed, GpuFilter, Incoming, Limit, Store};
use tokio_postgres::Client;

use super::postgres::Postgres;
use super::rows::*;
use crate::support::app::wait_for;

/// Scrapes of GPUs with five series each, a second apart.
fn scrapes(gpus: Range<u32>, ticks: Range<i64>) -> Vec<Row> {
    let series = gpus.start * 5..gpus.end * 5;
    ticks.flat_map(|tick| series.clone().map(move |n| sample(n, DAY + tick * 1000, f64::from(n) + tick as f64 * 0.25))).collect()
}

async fn commit(store: &dyn Store, group: &[Incoming]) -> Committed {
    store.commit(group).await.expect("a commit")
}

async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.expect("a count").get(0)
}

/// Puts the samples of slabs into chunks of one sample each, as release 0.1.0 wrote them.
const INTO_CHUNKS: &str = "INSERT INTO sample_chunk (series_id, t_min, t_max, n, step_ms, \"values\") \
     SELECT s.series_first + u.series, ts, ts, 1, 0, ARRAY[u.value] \
       FROM sample_slab s CROSS JOIN LATERAL unnest(s.series, s.offsets, s.\"values\") u (series, ms, value) \
      CROSS JOIN LATERAL (SELECT s.t_min + coalesce(u.ms, 0) * interval '1 ms') t (ts) ORDER BY s.id; \
     DELETE FROM sample_slab";

#[tokio::test]
async fn short_runs_of_neighbours_share_a_row() {
    let h = Postgres::new().await;
    let mut rows: Vec<Row> = (0..40).map(|tick| sample(0, DAY + tick * 1000, tick as f64)).collect();
    rows.extend(scrapes(1..16, 0..3));
    // The next day.
    rows.extend(scrapes(1..16, 86_400..86_401));
    let content = Content::new("a", rows);
    commit(&*h.open(), &[content.all()]).await;
    assert_eq!(h.samples().await, content.samples());
    let client = h.0.client().await;
    assert_eq!(count(&client, "sample_chunk").await, 1, "the long run");
    // Ids of GPUs begin at 1, and a block has 16.
    assert_eq!((count(&client, "sample_slab").await, count(&client, "gpu_block").await), (4, 2));
}

/// PostgreSQL compresses only rows of more than 2 KB: those of a few scrapes would not be.
#[tokio::test]
async fn a_row_of_few_samples_is_compressed() {
    let h = Postgres::new().await;
    let contents = [("one scrape", scrapes(0..15, 0..1)), ("parts of two", scrapes(0..10, 1..3))]
        .map(|(name, rows)| Content::new(name, rows));
    for content in &contents {
        commit(&*h.open(), &[content.all()]).await;
    }
    let sql = "SELECT n, pg_column_size(\"values\")::bigint, pg_column_size(s.*)::bigint FROM sample_slab s ORDER BY id";
    let rows = h.0.client().await.query(sql, &[]).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [75, 100]);
    for row in rows {
        let (n, values, whole) = (i64::from(row.get::<_, i32>(0)), row.get::<_, i64>(1), row.get::<_, i64>(2));
        assert!(values < 5 * n && whole < 11 * n, "{n} samples: {values} bytes of values, {whole} of the row");
    }
}

/// Who knows the marks of a block needs nothing of what is stored: here nobody could read it.
#[tokio::test]
async fn what_comes_live_is_written_without_reading_a_slab() {
    let h = Postgres::new().await;
    let (one, other) = (h.open(), h.open());
    let client = h.0.client().await;
    let spoil = async || client.batch_execute("UPDATE sample_slab SET n = 0").await.expect("spoilt");
    // Two GPUs of a block in turn, in batches that end in the middle of a scrape.
    let contents = [0, 1].map(|gpu| Content::new(&format!("file {gpu}"), scrapes(gpu..gpu + 1, 0..6)));
    for at in (0..30).step_by(3) {
        for content in &contents {
            assert_eq!(commit(&*one, &[content.batch(at..at + 3)]).await.stored["edge"], 3);
            spoil().await;
        }
    }
    // By two collectors, a scrape each time.
    let contents = [2, 3].map(|gpu| Content::new(&format!("file {gpu}"), scrapes(gpu..gpu + 1, 6..12)));
    for at in (0..30).step_by(5) {
        for (content, store) in contents.iter().zip([&one, &other]) {
            assert_eq!(commit(&**store, &[content.batch(at..at + 5)]).await.stored["edge"], 5);
            spoil().await;
        }
    }
    // What is in doubt is read.
    let again = Content::new("again", scrapes(0..1, 3..4)).all();
    let error = one.commit(&[again]).await.expect_err("it has to be compared");
    assert!(error.to_string().contains("sample_slab_20250115 is damaged"), "{error}");
}

/// Collectors of one block at once, each with a GPU of its own and some of a neighbour; then everything once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collectors_of_one_block_lose_nothing() {
    const GPUS: u32 = 6;
    let h = Arc::new(Postgres::new().await);
    let rows = |gpu: u32| {
        let mut rows = scrapes(gpu..gpu + 1, 0..24);
        rows.extend(scrapes((gpu + 1) % GPUS..(gpu + 1) % GPUS + 1, 20..26));
        rows
    };
    let contents: Vec<Content> = (0..GPUS).map(|gpu| Content::new(&format!("file {gpu}"), rows(gpu))).collect();
    let each = async |round: usize| {
        let work = contents.iter().enumerate().map(|(nth, content)| {
            let (store, content) = (h.open(), content.clone());
            tokio::spawn(async move {
                let mut begins: Vec<usize> = (0..content.rows.len()).step_by(10).collect();
                if (nth + round) % 2 == 1 {
                    begins.reverse();
                }
                for at in begins {
                    commit(&*store, &[content.batch(at..at + 10)]).await;
                }
            })
        });
        for done in join_all(work).await {
            done.expect("no panic");
        }
    };
    let all = Content::new("all", scrapes(0..GPUS, 0..26)).samples();
    for round in 0..2 {
        each(round).await;
        assert_eq!(h.samples().await, all);
        let entries = ledger(&*h.open()).await;
        assert_eq!(
            entries.iter().map(|entry| (entry.duplicate, entry.conflict)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
            (120, 0)
        );
    }
    let client = h.0.client().await;
    let times = "gpu g JOIN gpu_block b ON b.id = g.id >> 4 WHERE (b.first_seen[(g.id & 15) + 1], b.last_seen[(g.id & 15) + 1]) = \
                 (SELECT min(ts), max(ts) FROM samples s WHERE s.gpu_uuid = g.uuid)";
    assert_eq!(count(&client, times).await, i64::from(GPUS));
    assert_eq!(count(&client, "gpu_block b, unnest(b.last_seen) t WHERE t IS NOT NULL").await, i64::from(GPUS));
    let listed = h.reader().gpus(&GpuFilter::default(), None, Limit::rows(100)).await.expect("GPUs");
    let times: Vec<(i64, i64)> = listed.iter().map(|gpu| (gpu.first_seen.as_millis(), gpu.last_seen.as_millis())).collect();
    assert_eq!(times, vec![(DAY, DAY + 25_000); GPUS as usize]);
}

/// Of values in rows of different forms the later one counts.
#[tokio::test]
async fn a_conflict_of_a_slab_with_a_chunk_keeps_both_values() {
    let h = Postgres::new().await;
    // Of the second, all but one are at other times.
    let long = |name: &str, value: f64, shift: i64| {
        let one = |tick: i64| if tick == 7 { (7000, value) } else { (tick * 1000 + shift, tick as f64) };
        Content::new(name, (0..40).map(one).map(|(ms, value)| sample(0, DAY + ms, value)).collect())
    };
    let short = |name: &str, value: f64| Content::new(name, vec![sample(0, DAY + 7000, value), sample(1, DAY + 7000, 1.0)]);
    commit(&*h.open(), &[long("a", 1.5, 0).all()]).await;
    assert_eq!(commit(&*h.open(), &[short("b", 2.5).all()]).await.conflict, 1);
    assert_eq!(commit(&*h.open(), &[long("c", 3.5, 500).all()]).await.conflict, 1);
    let client = h.0.client().await;
    assert_eq!((count(&client, "sample_chunk").await, count(&client, "sample_slab").await), (2, 1));
    // A row that is said twice, and another value of it, in one batch.
    let twice = Content::new("d", [short("d", 4.5).rows, short("d", 4.5).rows, short("d", 5.5).rows].concat());
    let done = commit(&*h.open(), &[twice.all()]).await;
    assert_eq!((done.stored["edge"], done.duplicate, done.conflict), (2, 4, 2));
    assert_eq!(h.conflicts(10).await, (vec![(DAY + 7000, vec![1.5, 2.5, 3.5, 4.5, 5.5])], false));
    for content in [long("e", 1.5, 0), short("f", 2.5), long("g", 3.5, 500), twice.sibling("h")] {
        let done = commit(&*h.open(), &[content.all()]).await;
        assert_eq!((done.duplicate, done.stored.len()), (content.rows.len() as u64, 0));
    }
}

#[tokio::test]
async fn what_release_0_1_0_wrote_is_compared() {
    let h = Postgres::new().await;
    let content = Content::new("a", scrapes(0..4, 0..10));
    commit(&*h.open(), &[content.all()]).await;
    let client = h.0.client().await;
    client.batch_execute(INTO_CHUNKS).await.expect("chunks");
    assert_eq!(count(&client, "sample_chunk").await, 200);
    let mut again = Content::new("b", scrapes(0..4, 5..15));
    let Row::Sample { value, .. } = &mut again.rows[3] else { panic!("a sample") };
    *value += 1.0;
    let done = commit(&*h.open(), &[again.batch(0..77), again.batch(77..200)]).await;
    assert_eq!((done.stored["edge"], done.duplicate, done.conflict), (101, 99, 1));
    assert_eq!(h.samples().await, union(&content.samples(), &again.samples()));
}

/// Whoever rewrites rows of a block holds its lock: what is compared with them is so before or after, not in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_waits_while_the_rows_of_the_block_are_rewritten() {
    let h = Postgres::new().await;
    let content = Content::new("a", scrapes(0..2, 0..10));
    commit(&*h.open(), &[content.all()]).await;
    let (client, watch) = (h.0.client().await, h.0.client().await);
    client.batch_execute("BEGIN; SELECT FROM gpu_block FOR NO KEY UPDATE").await.expect("locked");
    let (store, again) = (h.open(), content.sibling("b").of_family("b").all());
    let waiting = tokio::spawn(async move { commit(&*store, &[again]).await });
    let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_for("a commit that waits", || async { count(&watch, waits).await == 1 }).await;
    client.batch_execute(&format!("{INTO_CHUNKS}; COMMIT")).await.expect("rewritten");
    let done = waiting.await.expect("no panic");
    assert_eq!((done.stored.len(), done.duplicate), (0, 100));
    assert_eq!(h.samples().await, content.samples());
}
