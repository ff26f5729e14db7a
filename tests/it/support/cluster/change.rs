//! What is done to a cluster: failovers, replication that breaks, slots that move, nodes that come and go.

use super::Cluster;
use crate::support::node::{PASSWORD, USER};

impl Cluster {
    /// Has a replica take over in good order; gives it.
    #[track_caller]
    pub fn fail_over(&self, primary: usize) -> usize {
        let replica = *self.replicas_of(primary).first().expect("a replica");
        self.place(replica).node.ok(&["CLUSTER", "FAILOVER"]);
        self.wait_for("a failover", || self.masters().contains(&replica));
        replica
    }

    /// Waits until another node has taken over from this one; gives it.
    #[track_caller]
    pub fn wait_for_successor(&self, primary: usize, among: &[usize]) -> usize {
        let successor = || self.masters().into_iter().find(|node| *node != primary && among.contains(node));
        self.wait_for("a replica to be elected", || successor().is_some());
        successor().expect("it was there")
    }

    /// Breaks a replica's replication: it cannot log in at its primary any more. (A replica that is only frozen loses nothing: it
    /// reads what waits in its socket when it wakes.)
    #[track_caller]
    pub fn break_replication(&self, replica: usize) {
        let place = self.place(replica);
        place.node.ok(&["CONFIG", "SET", "masterauth", "wrong"]);
        place.node.command(&["CLIENT", "KILL", "TYPE", "master"]);
        let down = || place.node.info("replication", "master_link_status").as_deref() == Some("down");
        self.wait_for("a replication that is broken", down);
    }

    /// Lets it log in again.
    pub fn mend_replication(&self, replica: usize) {
        self.place(replica).node.ok(&["CONFIG", "SET", "masterauth", PASSWORD]);
    }

    /// Moves a slot with its keys to another primary, key by key, while clients go on.
    #[track_caller]
    pub fn move_slot(&self, slot: u16, to: usize) {
        let from = self.owner_of(slot).expect("an owner");
        if from == to {
            return;
        }
        let (source, target, number) = (self.place(from), self.place(to), slot.to_string());
        target.node.ok(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &source.id]);
        source.node.ok(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &target.id]);
        loop {
            let keys = source.node.command(&["CLUSTER", "GETKEYSINSLOT", &number, "10"]);
            if keys.is_empty() {
                break;
            }
            let port = target.node.port.to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000"];
            if self.access.acl {
                migrate.extend(["AUTH2", USER, PASSWORD]);
            }
            migrate.push("KEYS");
            migrate.extend(keys.lines());
            let said = source.node.command(&migrate);
            assert!(["OK", "NOKEY"].contains(&said.as_str()), "{said}\n{}", self.logs());
        }
        // First who gets it, so that there is an owner at every time; then who gave it, then the others, who would hear of it anyway.
        let mut tell = vec![to, from];
        tell.extend(self.masters().into_iter().filter(|node| ![from, to].contains(node)));
        for node in tell {
            // A primary that gave its last slot has become a replica meanwhile.
            let said = self.command(node, &["CLUSTER", "SETSLOT", &number, "NODE", &target.id]);
            assert!(said == "OK" || said.contains("only with masters"), "{said}\n{}", self.logs());
        }
        self.wait_for("a slot's new owner", || self.owner_of(slot) == Some(to));
    }

    /// Closes what no move has left open. A node that was killed may find keys of a slot that it gave away (the deletion was not on disk
    /// yet), takes the slot for one that it imports, and hears nothing any more of who owns it, until an operator says so.
    pub fn close_slots(&self) {
        for place in self.places().iter().filter(|place| place.node.runs()) {
            let Ok(nodes) = place.node.try_command(&["CLUSTER", "NODES"]) else { continue };
            let open = nodes.lines().filter(|line| line.contains("myself")).flat_map(|line| line.split('[').skip(1));
            for slot in open.filter_map(|slot| slot.split_once("-<-")) {
                let _replicas_cannot = place.node.try_command(&["CLUSTER", "SETSLOT", slot.0, "STABLE"]);
            }
        }
    }

    /// Adds a primary without slots; gives it.
    #[track_caller]
    pub fn add_primary(&self) -> usize {
        let number = self.start_node();
        let places = self.places();
        let known = places[..number].iter().find(|place| place.node.runs()).expect("a node that runs");
        let [client, bus] = [known.client_port, known.bus_port].map(|port| port.to_string());
        places[number].node.ok(&["CLUSTER", "MEET", "127.0.0.1", &client, &bus]);
        self.wait_for("a new node to be known", || self.members().iter().any(|member| member.node == number));
        self.wait_until_whole();
        number
    }

    /// Adds a replica of a primary; gives it.
    #[track_caller]
    pub fn add_replica(&self, primary: usize) -> usize {
        let number = self.add_primary();
        self.place(number).node.ok(&["CLUSTER", "REPLICATE", &self.place(primary).id]);
        self.wait_until_whole();
        number
    }

    /// Removes a node that owns no slots: the others forget it, and it ends.
    #[track_caller]
    pub fn remove(&self, node: usize) {
        let gone = self.place(node);
        gone.node.kill();
        for place in self.places().iter().filter(|place| place.node.runs()) {
            place.node.ok(&["CLUSTER", "FORGET", &gone.id]);
        }
        self.wait_until_whole();
    }
}
