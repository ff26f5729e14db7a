//! /api/v1/pipeline on a Redis Cluster: what is away takes only itself with it.

use serde_json::Value;

use super::Serving;
use crate::support::app::{App, wait_for};
use crate::support::cluster::Cluster;
use crate::support::postgres::Server;

fn partitions(serving: &Serving) -> Vec<Value> {
    let pipeline = serving.ask("/api/v1/pipeline").json();
    pipeline["partitions"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_away_hides_no_other() {
    let cluster = Cluster::start();
    let database = Server::shared().empty_database().await;
    let app = App::new("", &database.url).with_all(cluster.variables());
    app.run(&["migrate"]).exits(0);
    // Batches that nobody collects: what the other shards have must still be told.
    let files: Vec<String> = (0..12).map(|n| app.export(&format!("{n}.csv"), 1, 5, n).0).collect();
    let stream: Vec<&str> =
        ["stream", "--until", "queued", "--csv"].into_iter().chain(files.iter().map(String::as_str)).collect();
    app.run(&stream).exits(0);
    let serving = Serving::start(app, &["serve"]).await;
    wait_for("the queue", || async {
        partitions(&serving).iter().all(|one| one["backlog"].is_u64()) && !partitions(&serving).is_empty()
    })
    .await;
    let before = partitions(&serving);
    assert!(before.iter().filter(|one| one["backlog"] != 0).count() > 2, "{before:?}");

    let owner = cluster.owner_of(cluster.slot_of("{telemetry:0}:stream")).unwrap();
    for node in cluster.replicas_of(owner) {
        cluster.kill(node);
    }
    cluster.kill(owner);
    wait_for("the fault", || async { partitions(&serving).iter().any(|one| one["error"].is_string()) }).await;
    let after = partitions(&serving);
    assert_eq!(after.len(), before.len());
    let (away, there): (Vec<&Value>, Vec<&Value>) = after.iter().partition(|one| one["error"].is_string());
    assert!(!away.is_empty() && there.len() > away.len(), "{after:?}");
    for one in there {
        let earlier = &before[usize::try_from(one["partition"].as_u64().unwrap()).unwrap()];
        assert_eq!(one["backlog"], earlier["backlog"], "{one}");
    }
    for one in away {
        assert!(one["backlog"].is_null() && !one["error"].as_str().unwrap().contains("localhost"), "{one}");
    }
}
