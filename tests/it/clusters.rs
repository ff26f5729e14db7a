//! Clusters and Sentinels themselves: what other tests do to them is what they say it is.

use crate::support::app::App;
use crate::support::cluster::{Cluster, Endpoints, Options};
use crate::support::sentinel::{SERVICE, Sentinel};

const KEY: &str = "{t:3}:stream";

fn add(cluster: &Cluster, slot: u16, entries: usize) {
    let owner = cluster.owner_of(slot).unwrap();
    for _ in 0..entries {
        cluster.command(owner, &["XADD", KEY, "*", "d", "x"]);
    }
}

fn length(cluster: &Cluster, slot: u16) -> String {
    cluster.command(cluster.owner_of(slot).unwrap(), &["XLEN", KEY])
}

#[test]
fn a_cluster_is_made_and_fails_over() {
    let cluster = Cluster::start();
    assert_eq!(cluster.masters().len(), 3);
    let slot = cluster.slot_of(KEY);
    add(&cluster, slot, 3);
    let other = cluster.masters().into_iter().find(|node| Some(*node) != cluster.owner_of(slot)).unwrap();
    let moved = cluster.command(other, &["XLEN", KEY]);
    assert!(moved.starts_with(&format!("MOVED {slot} localhost:")), "{moved}");

    let primary = cluster.owner_of(slot).unwrap();
    let replicas = cluster.replicas_of(primary);
    assert_eq!(replicas.len(), 1);
    cluster.kill(primary);
    assert_eq!(cluster.wait_for_successor(primary, &replicas), replicas[0]);
    cluster.restart(primary);
    cluster.wait_until_whole();
    assert_eq!(length(&cluster, slot), "3");
    assert_eq!(cluster.fail_over(replicas[0]), primary);
    cluster.wait_until_whole();
}

#[test]
fn a_frozen_primary_is_succeeded_and_follows() {
    let cluster = Cluster::start_with(Options { endpoints: Endpoints::Ip, full_coverage: true, ..Options::default() });
    let slot = cluster.slot_of(KEY);
    add(&cluster, slot, 1);
    let primary = cluster.owner_of(slot).unwrap();
    let other = cluster.masters().into_iter().find(|node| *node != primary).unwrap();
    let moved = cluster.command(other, &["XLEN", KEY]);
    assert!(moved.starts_with(&format!("MOVED {slot} 127.0.0.1:")), "{moved}");
    let replicas = cluster.replicas_of(primary);
    cluster.freeze(primary);
    assert_eq!(cluster.wait_for_successor(primary, &replicas), replicas[0]);
    cluster.thaw(primary);
    cluster.wait_until_whole();
    assert_eq!(cluster.replicas_of(replicas[0]), [primary]);
}

#[test]
fn a_failover_loses_what_a_broken_replication_did_not_copy() {
    let cluster = Cluster::start();
    let slot = cluster.slot_of(KEY);
    add(&cluster, slot, 2);
    let primary = cluster.owner_of(slot).unwrap();
    let replicas = cluster.replicas_of(primary);
    assert_eq!(cluster.command(primary, &["WAIT", "1", "5000"]), "1");
    cluster.break_replication(replicas[0]);
    add(&cluster, slot, 5);
    assert_eq!(length(&cluster, slot), "7");
    cluster.kill(primary);
    cluster.wait_for_successor(primary, &replicas);
    assert_eq!(length(&cluster, slot), "2");
    cluster.mend_replication(replicas[0]);
    cluster.restart(primary);
    cluster.wait_until_whole();
    assert_eq!(length(&cluster, slot), "2");
}

#[test]
fn slots_move_and_nodes_come_and_go() {
    let cluster = Cluster::start_with(Options { secure: false, endpoints: Endpoints::Unknown, ..Options::default() });
    // What the program is told is enough for its configuration.
    App::new("", "").with_all(cluster.variables()).run(&["config", "check"]).exits(0);
    let slot = cluster.slot_of(KEY);
    add(&cluster, slot, 2);
    let other = cluster.masters().into_iter().find(|node| Some(*node) != cluster.owner_of(slot)).unwrap();
    let moved = cluster.command(other, &["XLEN", KEY]);
    assert!(moved.starts_with(&format!("MOVED {slot} :")), "{moved}");
    cluster.move_slot(slot, other);
    assert_eq!(length(&cluster, slot), "2");

    let grown = cluster.add_primary();
    let replica = cluster.add_replica(grown);
    cluster.move_slot(slot, grown);
    assert_eq!((cluster.owner_of(slot), cluster.replicas_of(grown)), (Some(grown), vec![replica]));
    assert_eq!(length(&cluster, slot), "2");
    cluster.move_slot(slot, other);
    cluster.remove(replica);
    cluster.remove(grown);
    assert_eq!(length(&cluster, slot), "2");
}

#[test]
fn sentinels_make_another_primary() {
    let all = Sentinel::start(true);
    let said = all.sentinels()[1].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
    assert!(all.variables()[0].1.contains(SERVICE) && said.starts_with("127.0.0.1\n"), "{said}");
    let first = all.primary().unwrap();
    all.servers()[first].kill();
    let second = all.wait_for_successor(Some(first));
    all.servers()[first].restart();
    all.wait_until_whole();
    assert_ne!(all.fail_over(), second);
    all.wait_until_whole();
}
