//! What `check` says of a Redis Cluster, and what a role does meanwhile.

use super::{failed, finds, warned};
use crate::support::app::{App, Role, wait_for};
use crate::support::cluster::{Cluster, Options};
use crate::support::postgres::free_port;

fn app(cluster: &Cluster) -> App {
    App::new("", "").with_all(cluster.variables())
}

/// The nodes' writes so far.
fn writes(cluster: &Cluster) -> Vec<Option<String>> {
    let of = |node: usize| cluster.place(node).node.info("persistence", "rdb_changes_since_last_save");
    cluster.masters().into_iter().map(of).collect()
}

#[test]
fn a_good_cluster_fits_on_one_screen_and_nodes_that_announce_what_nobody_reaches_are_named() {
    let cluster = Cluster::start();
    let edge = app(&cluster);
    let (csv, _) = edge.export("a.csv", 2, 10, 7);
    edge.run(&["stream", "--csv", &csv]).exits(0);
    let before = writes(&cluster);
    let done = edge.run(&["check"]).exits(0);
    let (lines, longest) = (done.stdout.lines().count(), done.stdout.lines().map(|line| line.chars().count()).max());
    assert!(lines <= 24 && longest <= Some(120), "{lines} lines, the longest has {longest:?}:\n{}", done.stdout);
    for words in ["3 primaries and 3 replicas, every slot has an owner", "every node is reached", "noeviction", "append-only"] {
        assert!(done.stdout.contains(words), "`{words}` is not in\n{}", done.stdout);
    }
    assert_eq!(writes(&cluster), before, "check changes nothing");

    let astray = *cluster.masters().iter().find(|node| **node != 0).unwrap();
    let announces = |setting: &str, value: &str, shown: &str| {
        cluster.place(astray).node.ok(&["CONFIG", "SET", setting, value]);
        cluster.wait_for("an announcement", || cluster.command(0, &["CLUSTER", "SLOTS"]).contains(shown));
    };
    let announce = "cluster-announce-hostname";
    announces(announce, "gone.invalid", "gone.invalid");
    finds(&edge, &failed("nodes", &["gone.invalid:", "does not resolve"], &[announce]));
    announces(announce, "", "?");
    finds(&edge, &warned("nodes", &[&cluster.place(astray).id, "announces no host name"], &[announce]));
    announces(announce, "localhost", "localhost");
    let (right, closed) = (cluster.place(astray).client_port.to_string(), free_port().to_string());
    announces("cluster-announce-tls-port", &closed, &closed);
    finds(&edge, &failed("nodes", &[&format!("localhost:{closed}"), "refused"], &["-tls-port"]));
    announces("cluster-announce-tls-port", &right, &right);
    cluster.wait_for("a check that is content", || edge.run(&["check"]).code == Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_nobody_serves_are_said_and_waited_for() {
    let cluster = Cluster::start_with(Options { secure: false, ..Options::default() });
    let edge = app(&cluster);
    let dead = cluster.owner_of(cluster.slot_of("{telemetry:0}:stream")).unwrap();
    let shard: Vec<usize> = cluster.replicas_of(dead).into_iter().chain([dead]).collect();
    let seed = cluster.url((0..6).find(|node| !shard.contains(node)).unwrap());
    let edge = edge.with("REDIS_URL", &seed);
    for node in &shard {
        cluster.kill(*node);
    }
    let failing = || cluster.members().iter().any(|member| member.node == dead && member.fails);
    cluster.wait_for("a shard that counts as failed", failing);
    finds(&edge, &failed("cluster", &["slots", "stand still"], &["bring the"]));

    let files: Vec<String> = (0..12).map(|n| edge.export(&format!("{n}.csv"), 1, 5, 30 + n).0).collect();
    let mut arguments = vec!["stream", "--csv"];
    arguments.extend(files.iter().map(String::as_str));
    let mut role: Role = edge.start(&arguments);
    let says = |role: &Role| role.get("/readyz").is_some_and(|(status, text)| status == 503 && text.contains("redis"));
    wait_for("a role that says it", || async { says(&role) }).await;
    assert!(role.ended().is_none(), "{}", role.log());
    for node in shard {
        cluster.restart(node);
    }
    assert_eq!(role.wait(), 0, "{}", role.log());
}
