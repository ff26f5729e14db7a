//! Reading from a standby, which ends what holds it up; and how far it says that it is behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use telemetry::store::{Reader, Store};

use super::rows::*;
use super::snapshots::{begin, content, note, rest, rewrite, wanted};
use crate::support::app::wait_for;
use crate::support::postgres::{Database, Server};

/// A primary with these settings, a database in it with a content, and a standby that has all of it.
async fn pair(settings: &[&str], content: &Content) -> (Server, Server, Database, Database) {
    let primary = Server::start();
    let admin = Database { url: primary.url("postgres") }.client().await;
    for setting in settings {
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.expect("set");
    }
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("reloaded");
    let database = primary.empty_database().await;
    let store = database.store();
    store.migrate().await.expect("the schema");
    for part in 0..30 {
        store.commit(&[content.batch(part * 300..(part + 1) * 300)]).await.expect("stored");
    }
    let standby = primary.standby();
    let copy = Database { url: standby.url(&database.name()) };
    caught_up(&database, &copy).await;
    (primary, standby, database, copy)
}

/// Waits until the standby has replayed what its primary has written by now.
async fn caught_up(primary: &Database, copy: &Database) {
    let lsn: String = primary.client().await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let client = &copy.client().await;
    let sql = &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
    wait_for("a standby that has caught up", || async { client.query_one(sql, &[]).await.unwrap().get(0) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_whole_though_the_standby_ends_what_is_read() {
    let content = content();
    let (_primary, _standby, database, copy) = pair(&["max_standby_streaming_delay = 0"], &content).await;
    for order in ["asc", "desc"] {
        let mut telemetry = begin(Arc::new(copy.store()), order).await;
        let mut read = BTreeMap::new();
        let first = telemetry.next().await.unwrap().expect("samples");
        note(&telemetry, first, &mut read);
        // What the snapshot needs is removed, twice, and the standby does not wait.
        for seconds in [86_400, 600] {
            rewrite(&database, seconds).await;
            database.client().await.batch_execute("VACUUM sample_chunk").await.expect("removed");
            caught_up(&database, &copy).await;
            let block = telemetry.next().await.unwrap().expect("samples");
            note(&telemetry, block, &mut read);
        }
        rest(&mut telemetry, &mut read).await;
        assert!(read == wanted(&content), "{order}: each sample that was stored, once");
    }
    let sql = "SELECT sum(confl_snapshot)::bigint FROM pg_stat_database_conflicts";
    let client = &copy.client().await;
    wait_for("conflicts", || async { client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_says_how_far_it_is_behind() {
    let content = content();
    let (primary, standby, database, copy) = pair(&[], &content).await;
    assert_eq!(database.store().standby().await.expect("an answer"), None);
    let reader = copy.store();
    let behind = || async { reader.standby().await.expect("an answer").expect("a standby").behind };
    let more = |name: &str| Content::new(name, vec![sample(1, DAY, 1.0)]).all();
    database.store().commit(&[more("one")]).await.expect("a commit");
    caught_up(&database, &copy).await;
    wait_for("a standby that has caught up", || async { behind().await == Some(Duration::ZERO) }).await;

    let client = copy.client().await;
    client.batch_execute("SELECT pg_wal_replay_pause()").await.expect("paused");
    database.store().commit(&[more("two")]).await.expect("a commit");
    wait_for("a standby that is behind", || async { behind().await > Some(Duration::from_millis(100)) }).await;
    client.batch_execute("SELECT pg_wal_replay_resume()").await.expect("resumed");
    wait_for("a standby that has caught up", || async { behind().await == Some(Duration::ZERO) }).await;

    // Nothing comes any more: it is behind by more and more.
    primary.crash();
    wait_for("a standby that is alone", || async { behind().await > Some(Duration::from_millis(100)) }).await;
    standby.promote();
    wait_for("a primary", || async { reader.standby().await.expect("an answer").is_none() }).await;
}
