//! A second PostgreSQL server that follows the first: read from, and taking over.

use serde_json::{Value, json};

use crate::serve::Serving;
use crate::support::app::{App, Holds, wait_for};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::redis::RedisServer;

async fn has(database: &Database, sql: &str) -> bool {
    let (client, sql) = (database.client().await, sql.to_owned());
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

/// The collector has both servers in its URL. Its primary dies in the middle of a file, and the standby, which has every commit, takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_goes_on_after_a_failover_with_exactly_the_rows() {
    let (redis, primary) = (RedisServer::start(), Server::start());
    let database = primary.empty_database().await;
    let standby = primary.standby();
    let copy = Database { url: standby.url(&database.name()) };
    let client = database.client().await;
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    wait_for("a synchronous standby", || {
        has(&database, "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'")
    })
    .await;

    let both = format!(
        "postgres://postgres:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs=read-write",
        primary.port,
        standby.port,
        database.name()
    );
    let app = App::new(&redis.url(), &both);
    let mut collect = app.start(&["collect"]);
    let (csv, holds) = app.export("a.csv", 10, 600, 1);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "lab", "--until", "stored", "--rate", "10000"]);
    wait_for("some rows", || async { Holds::stored(&copy, "lab").await.rows() > 0 }).await;
    primary.crash();
    standby.promote();
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    assert!(Holds::stored(&copy, "lab").await == holds, "exactly the rows");
    let report: Value = serde_json::from_str(&app.run(&["audit", "--json"]).exits(0).stdout).unwrap();
    assert_eq!(report["closes"], json!(true), "{report}");
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reads_from_a_standby_and_says_how_far_it_is_behind() {
    let primary = Server::start();
    let database = primary.empty_database().await;
    let redis = RedisServer::start();
    let app = App::new(&redis.url(), &database.url);
    let collect = app.start(&["collect"]);
    let (csv, holds) = app.export("a.csv", 2, 20, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "lab", "--until", "stored"]).exits(0);
    drop(collect);
    let standby = primary.standby();
    let copy = Database { url: standby.url(&database.name()) };
    database.client().await.batch_execute("CREATE TABLE a_commit_that_is_replayed ()").await.unwrap();
    wait_for("that commit", || has(&copy, "SELECT to_regclass('a_commit_that_is_replayed') IS NOT NULL")).await;
    let app = app.with("TELEMETRY__STORE__READ_URL", &copy.url);

    let shown = app.run(&["check"]).exits(0).stdout;
    assert!(shown.contains("reading   standby       a standby, 0."), "{shown}");
    assert!(shown.contains("the same as at DATABASE_URL"), "{shown}");
    let serving = Serving::start(app, &["serve"]).await;
    let pipeline = || serving.ask("/api/v1/pipeline").json();
    wait_for("a standby that has caught up", || async { pipeline()["standby"]["behind_seconds"] == json!(0.0) }).await;
    assert_eq!(pipeline()["sources"][0]["stored"], json!(holds.rows()));
    let (status, ready) = serving.role.get("/readyz").unwrap();
    assert!(
        status == 200 && ready.starts_with("ready\npostgresql: a standby, 0.") && ready.ends_with(" s behind its primary\n"),
        "{ready}"
    );
    assert!(serving.role.metric("telemetry_store_standby_behind_seconds").is_some());

    // The primary is away: what was replicated is answered, and that it grows old is not hidden.
    primary.crash();
    wait_for("how old it is", || async { pipeline()["standby"]["behind_seconds"].as_f64().is_some_and(|behind| behind > 0.1) })
        .await;
    assert_eq!(serving.ask("/api/v1/gpus").status, 200);
    wait_for("the metric", || async {
        serving.role.metric("telemetry_store_standby_behind_seconds").is_some_and(|behind| behind > 0.1)
    })
    .await;
    standby.promote();
    wait_for("a primary", || async { pipeline()["standby"].is_null() }).await;
    wait_for("a plain answer", || async { serving.role.get("/readyz").is_some_and(|(_, ready)| ready == "ready\n") }).await;
}
