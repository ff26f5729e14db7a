//! A Redis Cluster: every node is looked at, on one screen.

use super::{is_documented, words};
use crate::support::app::{App, Done, wait_for};
use crate::support::cluster::{Cluster, Options};
use crate::support::node::PASSWORD;

/// Waits until `check` says all this, in words as they come however the lines are broken; then it has to fit on a screen, and what is
/// not well is in the manual.
async fn says(app: &App, code: i32, wanted: &[&str]) -> Done {
    says_without(app, code, wanted, "what it never says").await
}

async fn says_without(app: &App, code: i32, wanted: &[&str], unwanted: &str) -> Done {
    let seen = std::cell::RefCell::new(app.run(&["check"]));
    wait_for(&format!("{wanted:?}"), || async {
        let done = app.run(&["check"]);
        let said = words(&done.stdout);
        let all = wanted.iter().all(|some| said.contains(some)) && !said.contains(unwanted);
        *seen.borrow_mut() = done;
        all
    })
    .await;
    let done = seen.into_inner().exits(code);
    let (lines, widest) = (done.stdout.lines().count(), done.stdout.lines().map(|line| line.chars().count()).max());
    assert!(lines <= 24 && widest <= Some(120), "{lines} lines of {widest:?} columns:\n{}", done.stdout);
    let mut steps: Vec<String> = Vec::new();
    for line in done.stdout.lines() {
        match steps.last_mut() {
            Some(step) if line.starts_with(' ') => step.push_str(line),
            _ => steps.push(line.to_owned()),
        }
    }
    for step in steps.iter().filter(|step| step.starts_with("warning ") || step.starts_with("FAILED ")) {
        is_documented(step);
    }
    assert!(!done.stdout.contains(PASSWORD) && !done.stderr.contains(PASSWORD), "no secret");
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_looked_at() {
    let cluster = Cluster::start();
    let app = App::new("", "").with_all(cluster.variables());
    // Replicas show late in what the cluster says of its slots.
    let whole = ["3 primaries and 3 replicas, every slot has an owner", "every node is reached at the address that it announces"];
    says(&app, 0, &whole).await;

    let masters = cluster.masters();
    let announce = |node: usize, name: &str| {
        cluster.place(node).node.ok(&["CONFIG", "SET", "cluster-announce-hostname", name]);
    };
    let replica = cluster.replicas_of(masters[2])[0];
    let (lost, silent) = (cluster.place(replica), cluster.place(masters[1]));
    announce(replica, "no-such-host.invalid");
    announce(masters[1], "");
    let unreachable = format!("warning redis nodes no-such-host.invalid:{}, as the cluster announces it,", lost.client_port);
    let nameless = format!("warning redis nodes the node {} announces no host name", silent.id);
    let remedy = "does not resolve: failed to lookup address information";
    says(&app, 0, &[&unreachable, remedy, "→ check the name and DNS", "cluster-announce-hostname", &nameless]).await;

    // A primary's address matters to what is in its slots. What is wrong with several is said once.
    announce(masters[1], "no-such-host.invalid");
    let [first, second] = [&silent, &lost].map(|place| format!("no-such-host.invalid:{}", place.client_port));
    let unreachable = format!("FAILED redis nodes {first}, {second}, as the cluster announces them,");
    says(&app, 1, &[&unreachable, "→ check the name and DNS", "cluster-announce-hostname"]).await;

    announce(replica, "localhost");
    announce(masters[1], "localhost");
    says(&app, 0, &whole).await;
}

/// Whatever the others do without it: a cluster goes on with the rest, or stops.
#[tokio::test(flavor = "multi_thread")]
async fn slots_that_nobody_serves_are_counted() {
    for full_coverage in [false, true] {
        let cluster = Cluster::start_with(Options { full_coverage, ..Options::default() });
        let app = App::new("", "").with_all(cluster.variables());
        // Not the one that the URL names.
        let dead = cluster.masters().into_iter().find(|node| *node != 0).unwrap();
        for node in cluster.replicas_of(dead).into_iter().chain([dead]) {
            cluster.kill(node);
        }
        let address = format!("FAILED redis nodes localhost:{}, as the cluster announces it,", cluster.place(dead).client_port);
        // A dead node counts as failed after a while; a replica is listed until then.
        let mut wanted = vec!["slots are uncovered (no node serves them)", "→ bring the missing nodes back", &address, "refused"];
        if full_coverage {
            wanted.push("CLUSTERDOWN The cluster is down → bring the missing nodes back");
        }
        let done = says_without(&app, 1, &wanted, "warning redis nodes").await;
        let uncovered = done.stdout.split(" slots are uncovered").next().and_then(|text| text.rsplit(' ').next());
        let uncovered: u32 = uncovered.and_then(|n| n.parse().ok()).unwrap();
        assert!((5461..=5462).contains(&uncovered), "a third of them: {}", done.stdout);
    }
}
