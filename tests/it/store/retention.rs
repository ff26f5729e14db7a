//! Retention: days that are past their time are gone, what comes late for them is expired and counted, whoever reads, commits or is
//! interrupted meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use telemetry::model::TimeMs;
use telemetry::store::maintenance::retention::{self, Keeping, Retired, Retirement};
use telemetry::store::{Committed, Store};
use tokio_postgres::Client;

use super::rows::*;
use crate::support::app::wait_for;
use crate::support::postgres::{Database, Server};

const DAY_MS: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
/// Noon of the day after `DAY`: what is kept for a day begins with `DAY`.
const NOW: i64 = DAY + DAY_MS + DAY_MS / 2;

fn keeping(raw: u64) -> Keeping {
    Keeping { raw: Some(Duration::from_secs(raw * 86_400)), ..Keeping::default() }
}

async fn retire_as(store: &dyn Store, keeping: &Keeping, now: i64) -> Retired {
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    retention::retire(&mut *maintained, keeping, TimeMs::from_millis(now)).await.expect("it goes")
}

/// Drops what is before `DAY`.
async fn retire(store: &dyn Store) -> Retired {
    retire_as(store, &keeping(1), NOW).await
}

/// The days that are gone; none is left.
fn gone(retired: &Retired) -> Vec<String> {
    assert_eq!(retired.delayed, Vec::<String>::new());
    retired.gone.iter().map(|held| held.date()).collect()
}

/// Two samples an hour of 6 series on these days, of which 0 is `DAY`.
fn days(name: &str, days: std::ops::Range<i64>) -> Content {
    let times = days.flat_map(|day| (0..48).map(move |half| DAY + day * DAY_MS + half * HOUR / 2));
    Content::new(
        name,
        times.flat_map(|time| (0..6).map(move |n| sample(n, time, f64::from(n) + (time / HOUR % 50) as f64))).collect(),
    )
}

/// The same of GPUs that nobody else has: nothing is looked up before the transaction.
fn of_other_gpus(mut content: Content) -> Content {
    for row in &mut content.rows {
        if let Row::Sample { series, .. } = row {
            *series += 100;
        }
    }
    content
}

async fn commit(store: &dyn Store, content: &Content) -> Committed {
    store.commit(&[content.all()]).await.expect("a commit")
}

/// (valid, duplicate, expired, conflict) of a source.
async fn account(store: &dyn Store, content: &Content) -> (u64, u64, u64, u64) {
    let entry = ledger(store).await.into_iter().find(|entry| entry.source == content.source).expect("it is there");
    (entry.valid, entry.duplicate, entry.expired, entry.conflict)
}

/// 288 samples a day.
const OF_A_DAY: u64 = 6 * 48;

pub async fn what_is_past_its_time_goes_and_what_comes_late_is_counted(h: &dyn Harness) {
    let store = h.open();
    let content = days("a", -2..1);
    commit(&*store, &content).await;
    assert_eq!(
        gone(&retire_as(&*store, &Keeping::default(), NOW).await),
        Vec::<String>::new(),
        "retention is off unless it is set"
    );
    assert_eq!(h.samples().await, content.samples());

    assert_eq!(gone(&retire(&*store).await), ["2025-01-13", "2025-01-14"]);
    let kept = days("kept", 0..1).samples();
    assert_eq!(h.samples().await, kept);
    assert_eq!(gone(&retire(&*store).await), Vec::<String>::new(), "there is nothing left to do");

    // Another export, with samples that were stored and dropped, and such that never came; within it a conflict and a repetition.
    let mut late = days("late", -3..1);
    late.rows.extend([sample(0, DAY - HOUR, 7.5), sample(0, DAY - HOUR, 7.5), sample(1, DAY + 1, 1.0)]);
    let done = h.open().commit(&[late.batch(0..700), late.batch(700..late.rows.len())]).await.expect("a commit");
    assert_eq!(
        (done.stored.values().sum::<u64>(), done.duplicate, done.expired, done.conflict),
        (1, OF_A_DAY, 3 * OF_A_DAY + 2, 0)
    );
    let account_of_late = (4 * OF_A_DAY + 3, OF_A_DAY, 3 * OF_A_DAY + 2, 0);
    assert_eq!(account(&*store, &late).await, account_of_late);
    let one = Content::new("one", vec![sample(1, DAY + 1, 1.0)]).samples();
    assert_eq!(h.samples().await, union(&kept, &one));

    // Everything once more: nothing is counted twice, neither what was stored and dropped nor what was expired.
    let done = h.open().commit(&[late.all(), content.all()]).await.expect("a commit");
    assert_eq!((done.stored.values().sum::<u64>(), done.expired), (0, 0));
    assert_eq!(account(&*store, &late).await, account_of_late);
    assert_eq!(account(&*store, &content).await, (3 * OF_A_DAY, 0, 0, 0));
    assert_eq!(h.samples().await, union(&kept, &one));
    // What is kept longer from now on was dropped for good.
    retire_as(&*store, &keeping(30), NOW).await;
    let again = Content::new("again", vec![sample(0, DAY - 1, 1.0)]);
    assert_eq!(commit(&*store, &again).await.expired, 1);
}

pub async fn conflicts_of_days_that_are_gone_are_forgotten(h: &dyn Harness) {
    let store = h.open();
    let content = Content::new(
        "a",
        [DAY - HOUR, DAY + HOUR].iter().flat_map(|time| [sample(0, *time, 1.0), sample(0, *time, 2.0)]).collect(),
    );
    assert_eq!(commit(&*store, &content).await.conflict, 2);
    retire(&*store).await;
    assert_eq!(h.conflicts(10).await, (vec![(DAY + HOUR, vec![1.0, 2.0])], false));
}

async fn place() -> (Database, Arc<dyn Store>, Client) {
    let database = Server::shared().database().await;
    let store: Arc<dyn Store> = Arc::new(database.store());
    let client = database.client().await;
    (database, store, client)
}

/// Tables of samples (but slabs) that are named after a day, attached or not.
async fn tables(client: &Client) -> Vec<String> {
    let sql = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^sample_(chunk|packed|rollup_5m|rollup_1h)_[0-9]{8}$' ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
}

const KEPT: [&str; 1] = ["sample_chunk_20250115"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_days_go_and_what_lasts_is_packed_as_before() {
    let (_database, store, client) = place().await;
    commit(&*store, &days("a", -2..1)).await;
    super::maintenance::pack(&*store, NOW).await;
    assert!(count(&client, "sample_packed").await > 0);
    assert_eq!(gone(&retire(&*store).await), ["2025-01-13", "2025-01-14"]);
    assert_eq!(tables(&client).await, ["sample_chunk_20250115", "sample_packed_20250115"]);
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64);
    super::maintenance::pack(&*store, NOW).await;
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_snapshot_is_not_disturbed_and_the_day_goes_later() {
    let (database, store, client) = place().await;
    let content = days("a", -1..1);
    commit(&*store, &content).await;
    let reader = database.client().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM sample_chunk LIMIT 1").await.unwrap();

    // The first half is done, the second one waits for the reader; and so does the second attempt.
    for _ in 0..2 {
        let retired = retire(&*store).await;
        assert_eq!(retired.gone, []);
        assert_eq!(retired.delayed.len(), 1);
        assert!(
            retired.delayed[0].contains("sample_chunk_20250114") && retired.delayed[0].contains("a later round"),
            "{retired:?}"
        );
        assert_eq!(count(&reader, "samples").await, 2 * OF_A_DAY as i64, "the reader has what it had");
    }
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64, "everybody else has what is kept");
    let late = days("late", -1..1);
    let done = commit(&*store, &late).await;
    assert_eq!((done.expired, done.duplicate), (OF_A_DAY, OF_A_DAY));

    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(gone(&retire(&*store).await), ["2025-01-14"]);
    assert_eq!(tables(&client).await, KEPT);
}

/// A collector that has committed to a day, and knows its partition, when the day goes; and one that was never there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_makes_a_partition_again_for_what_is_late() {
    let (database, store, client) = place().await;
    let (one, other) = (database.store(), database.store());
    commit(&one, &days("a", -1..1)).await;
    retire(&*store).await;
    for (name, store) in [("b", &one), ("c", &other)] {
        assert_eq!(commit(store, &days(name, -2..0)).await.expired, 2 * OF_A_DAY, "{name}");
    }
    assert_eq!(tables(&client).await, KEPT);
    assert_eq!(count(&client, "pg_class WHERE relkind = 'r' AND relname ~ '^sample_slab_'").await, 1, "nor one of slabs");
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64);
}

/// A commit that has begun, and read the floor, before the day goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_under_way_leaves_nothing_below_the_floor() {
    let (database, store, client) = place().await;
    commit(&*store, &days("a", -1..1)).await;
    let waits = |what: &'static str| {
        let client = &client;
        wait_for(what, move || async move {
            count(client, "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").await > 0
        })
    };

    // It has not written yet: it finds no partition, looks again, and finds the floor.
    let between = database.client().await;
    between.batch_execute("BEGIN; LOCK TABLE sample_chunk").await.unwrap();
    let committing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { commit(&*store, &of_other_gpus(days("b", -1..0))).await })
    };
    waits("a commit that waits for the table").await;
    between
        .batch_execute(
            "UPDATE store SET floor = '2025-01-15 00:00:00+00'; ALTER TABLE sample_chunk DETACH PARTITION sample_chunk_20250114; \
             DROP TABLE sample_chunk_20250114; ALTER TABLE sample_slab DETACH PARTITION sample_slab_20250114; \
             DROP TABLE sample_slab_20250114; COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(committing.await.expect("no panic").expired, OF_A_DAY);
    assert_eq!(tables(&client).await, KEPT);

    // It has written: the day waits for it, and goes with what it wrote.
    commit(&*store, &days("c", 1..2)).await;
    let late = of_other_gpus(days("d", 0..1));
    store.commit(&[late.batch(0..6)]).await.expect("a commit");
    between.batch_execute("BEGIN; SELECT FROM source FOR UPDATE").await.unwrap();
    let committing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(&[late.batch(6..late.rows.len())]).await.expect("a commit") })
    };
    waits("a commit that waits for its source").await;
    let retired = retire_as(&*store, &keeping(1), NOW + DAY_MS).await;
    assert_eq!((retired.gone.len(), retired.delayed.len()), (0, 1), "{retired:?}");
    between.batch_execute("COMMIT").await.unwrap();
    let done = committing.await.expect("no panic");
    assert_eq!((done.stored.values().sum::<u64>(), done.expired), (OF_A_DAY - 6, 0));
    assert_eq!(gone(&retire_as(&*store, &keeping(1), NOW + DAY_MS).await), ["2025-01-15"]);
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64);
    ledger(&*store).await;
}

/// Killed between the floor and the first drop, and between taking a partition away and dropping it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_interrupted_is_ended_in_the_next_round() {
    let (database, store, client) = place().await;
    commit(&*store, &days("a", -3..1)).await;
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    maintained.raise_floor(TimeMs::from_millis(DAY)).await.expect("raised");
    drop(maintained);
    assert_eq!(commit(&database.store(), &days("b", -1..0).shifted(7)).await.expired, OF_A_DAY);
    assert_eq!(tables(&client).await.len(), 4, "nothing is gone yet");

    // Marked and taken away, but still there; and one that an administrator took away, who wants to keep it.
    for (day, marked) in [("20250112", true), ("20250113", false)] {
        if marked {
            let mark = format!("COMMENT ON TABLE sample_chunk_{day} IS 'telemetry: past its time, it goes'");
            client.batch_execute(&mark).await.unwrap();
        }
        client.batch_execute(&format!("ALTER TABLE sample_chunk DETACH PARTITION sample_chunk_{day}")).await.unwrap();
    }
    // Of the day that somebody wants to keep, only what he took away stays.
    assert_eq!(gone(&retire(&*store).await), ["2025-01-12", "2025-01-13", "2025-01-14"]);
    assert_eq!(tables(&client).await, ["sample_chunk_20250113", KEPT[0]]);

    // What was begun is ended also where nothing is to go any more.
    client.batch_execute("COMMENT ON TABLE sample_chunk_20250113 IS 'telemetry: past its time, it goes'").await.unwrap();
    assert_eq!(gone(&retire_as(&*store, &Keeping::default(), NOW).await), ["2025-01-13"]);
    assert_eq!(tables(&client).await, KEPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_two_maintainers_at_once() {
    let (database, _store, client) = place().await;
    let contents: Vec<Content> = (0..4).map(|n| days(&format!("s{n}"), -3..2).shifted(n)).collect();
    let committing = contents.iter().map(|content| {
        let (store, content) = (database.store(), content.clone());
        tokio::spawn(async move {
            for from in (0..content.rows.len()).step_by(60) {
                let to = (from + 60).min(content.rows.len());
                store.commit(&[content.batch(from..to)]).await.expect("a commit");
            }
        })
    });
    let maintaining = (0..2).map(|_| {
        let store = database.store();
        tokio::spawn(async move {
            for now in [NOW - 2 * DAY_MS, NOW - DAY_MS, NOW, NOW] {
                retire_as(&store, &keeping(1), now).await;
            }
        })
    });
    for done in join_all(committing.chain(maintaining).collect::<Vec<_>>()).await {
        done.expect("no panic");
    }
    let store = database.store();
    retire(&store).await;
    assert_eq!(tables(&client).await, ["sample_chunk_20250115", "sample_chunk_20250116"]);
    assert_eq!(count(&client, "samples").await, 4 * 2 * OF_A_DAY as i64, "of what is kept, each sample once");
    for entry in ledger(&store).await {
        assert_eq!((entry.valid, entry.duplicate), (5 * OF_A_DAY, 0));
        assert!(entry.expired <= 3 * OF_A_DAY, "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_go_by_their_own_time() {
    let (_database, store, client) = place().await;
    commit(&*store, &days("a", -4..1)).await;
    client
        .batch_execute(
            "CREATE TABLE sample_rollup_5m_20250112 PARTITION OF sample_rollup_5m FOR VALUES FROM ('2025-01-12Z') TO ('2025-01-13Z');
             CREATE TABLE sample_rollup_5m_20250113 PARTITION OF sample_rollup_5m FOR VALUES FROM ('2025-01-13Z') TO ('2025-01-14Z');
             INSERT INTO sample_rollup_5m (gpu_id, t_min, t_max, series_first, series_last, n, k, hours, heads, bits) \
             SELECT 1, t, t, 1, 1, 1, 0, 0, B'', B'' FROM unnest('{2025-01-12 12:00Z,2025-01-13 12:00Z}'::timestamptz[]) t",
        )
        .await
        .unwrap();
    let keeping = Keeping { five_minutes: Some(Duration::from_secs(2 * 86_400)), ..keeping(1) };
    let mut maintained = store.maintain(true).await.expect("no error").expect("nobody else maintains it");
    let plan: Retirement = retention::look(&mut *maintained, &keeping, TimeMs::from_millis(NOW)).await.expect("a plan");
    assert_eq!((plan.days.len(), plan.floor), (6, Some(TimeMs::from_millis(DAY))), "{plan:?}");
    assert!(plan.days.iter().all(|held| held.bytes > 0), "{plan:?}");
    drop(maintained);
    assert_eq!(tables(&client).await.len(), 7, "looking changes nothing");
    let retired = retire_as(&*store, &keeping, NOW).await;
    assert_eq!((retired.gone.len(), &retired.delayed), (6, &vec![]));
    assert_eq!(tables(&client).await, KEPT);
}

/// The clock of this machine is far ahead: the server's counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ahead_drops_nothing() {
    let (_database, store, client) = place().await;
    let today = TimeMs::now().as_millis() / DAY_MS;
    let content = days("a", today - DAY / DAY_MS..today - DAY / DAY_MS + 1);
    commit(&*store, &content).await;
    assert_eq!(gone(&retire_as(&*store, &keeping(7), TimeMs::now().as_millis() + 1000 * DAY_MS).await), Vec::<String>::new());
    assert_eq!(count(&client, "samples").await, OF_A_DAY as i64);
}
