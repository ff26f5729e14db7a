//! The program on a Redis Cluster with TLS and an ACL, and behind Sentinels: exactly the rows, whatever happens to a node.

use crate::support::app::{App, Holds, PATIENCE, Role, wait_for};
use crate::support::cluster::{Cluster, Endpoints, Options};
use crate::support::postgres::{Database, Server};
use crate::support::sentinel::Sentinel;

fn app(variables: Vec<(String, String)>, database: &str) -> App {
    variables.into_iter().fold(App::new("", database), |app, (name, value)| app.with(&name, &value))
}

/// Four files, each of which ends in a while; what they hold together; and the streamer of all.
fn stream(edge: &App) -> (Role, Holds) {
    let (mut files, mut holds) = (Vec::new(), Holds::default());
    for n in 0..4 {
        let (file, has) = edge.export(&format!("{n}.csv"), 20, 60, 100 + n);
        files.push(file);
        holds = holds.plus(&has);
    }
    let mut arguments = vec!["stream", "--cluster", "edge", "--rate", "3000", "--until", "stored", "--csv"];
    arguments.extend(files.iter().map(String::as_str));
    (edge.start(&arguments), holds)
}

async fn some_are_stored(database: &Database, more_than: i64) {
    wait_for("rows in the store", || async { Holds::stored(database, "edge").await.rows() > more_than }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_what_a_cluster_does() {
    let cluster = Cluster::start();
    let database = Server::shared().empty_database().await;
    let (edge, central) = (app(cluster.variables(), ""), app(cluster.variables(), &database.url));
    let _collectors = [central.start(&["collect"]), central.start(&["collect"])];
    let (mut streamer, holds) = stream(&edge);
    some_are_stored(&database, 0).await;

    let slot = cluster.slot_of("{telemetry:0}:stream");
    let owner = cluster.owner_of(slot).unwrap();
    let replicas = cluster.replicas_of(owner);
    cluster.kill(owner);
    cluster.wait_for_successor(owner, &replicas);
    cluster.restart(owner);
    cluster.wait_until_whole();
    some_are_stored(&database, Holds::stored(&database, "edge").await.rows()).await;

    let owner = cluster.owner_of(slot).unwrap();
    let other = cluster.masters().into_iter().find(|node| *node != owner).unwrap();
    cluster.move_slot(slot, other);
    some_are_stored(&database, Holds::stored(&database, "edge").await.rows()).await;

    assert_eq!(streamer.wait(), 0, "{}", streamer.log());
    holds.arrive(&database, "edge").await;
    central.run(&["audit"]).exits(0);
    assert!(!streamer.log().contains("s3cr#t"), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_gone_holds_up_only_its_own() {
    let cluster = Cluster::start_with(Options { endpoints: Endpoints::Unknown, ..Options::default() });
    let database = Server::shared().empty_database().await;
    let dead = cluster.owner_of(cluster.slot_of("{telemetry:0}:stream")).unwrap();
    for node in cluster.replicas_of(dead).into_iter().chain([dead]) {
        cluster.kill(node);
    }
    // Everybody begins while it is gone, at a node that is there.
    let seed = cluster.url(cluster.masters().into_iter().find(|node| *node != dead).unwrap());
    let (edge, central) = (app(cluster.variables(), ""), app(cluster.variables(), &database.url));
    let (edge, central) = (edge.with("REDIS_URL", &seed), central.with("REDIS_URL", &seed));
    let _collector = central.start(&["collect"]);
    let mut expected = Holds::default();
    let mut streamers = Vec::new();
    for n in 0..12 {
        let (file, has) = edge.export(&format!("{n}.csv"), 2, 20, 200 + n);
        expected = expected.plus(&has);
        streamers.push(edge.start(&["stream", "--cluster", "edge", "--csv", &file]));
    }
    let mut ended = 0;
    let began = std::time::Instant::now();
    while ended < 4 {
        assert!(began.elapsed() < PATIENCE, "only {ended} ended:\n{}", streamers[0].log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        ended = streamers.iter_mut().filter_map(Role::ended).map(|status| assert!(status.success())).count();
    }
    wait_for("their rows", || async { Holds::stored(&database, "edge").await.rows() >= 4 * expected.rows() / 12 }).await;
    assert!(streamers.iter_mut().any(|streamer| streamer.ended().is_none()), "some of them wait for the shard");
    for node in cluster.places().iter().enumerate().map(|(n, _)| n).filter(|n| !cluster.place(*n).node.runs()) {
        cluster.restart(node);
    }
    for streamer in &mut streamers {
        assert_eq!(streamer.wait(), 0, "{}", streamer.log());
    }
    expected.arrive(&database, "edge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_are_followed() {
    let sentinel = Sentinel::start(true);
    let database = Server::shared().empty_database().await;
    let (edge, central) = (app(sentinel.variables(), ""), app(sentinel.variables(), &database.url));
    let _collector = central.start(&["collect"]);
    let (mut streamer, holds) = stream(&edge);
    some_are_stored(&database, 0).await;
    let before = sentinel.primary();
    sentinel.servers()[before.unwrap()].kill();
    sentinel.wait_for_successor(before);
    assert_eq!(streamer.wait(), 0, "{}", streamer.log());
    holds.arrive(&database, "edge").await;
}
