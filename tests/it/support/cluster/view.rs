//! What a cluster says of itself.

use std::ops::RangeInclusive;

use super::Cluster;

/// A node, as another sees it (or itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: usize,
    /// The number of its primary; `None` for a primary.
    pub of: Option<usize>,
    /// Whether it counts as failed, surely or maybe.
    pub fails: bool,
    pub slots: Vec<RangeInclusive<u16>>,
}

impl Cluster {
    /// The members, as a node that runs and has a quorum sees them; empty where there is none.
    pub fn members(&self) -> Vec<Member> {
        let places = self.places();
        let seen = places.iter().filter(|place| place.node.runs()).find_map(|place| {
            let said = place.node.try_commands(&[&["CLUSTER", "INFO"], &["CLUSTER", "NODES"]]).ok()?;
            said.contains("cluster_state:ok").then_some(said)
        });
        seen.map_or_else(Vec::new, |said| self.parse(&said))
    }

    fn parse(&self, said: &str) -> Vec<Member> {
        let places = self.places();
        let number = |id: &str| places.iter().position(|place| place.id == id);
        let member = |line: &str| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let (id, flags, primary) = (*cells.first()?, *cells.get(2)?, *cells.get(3)?);
            // `[slot->-node]` is one on its way.
            let slots = cells.iter().skip(8).filter(|cell| !cell.starts_with('[')).map(|cell| {
                let (first, last) = cell.split_once('-').unwrap_or((cell, cell));
                first.parse().unwrap()..=last.parse().unwrap()
            });
            Some(Member { node: number(id)?, of: number(primary), fails: flags.contains("fail"), slots: slots.collect() })
        };
        said.lines().filter(|line| !line.starts_with("cluster_")).filter_map(member).collect()
    }

    /// The primaries that own slots and do not count as failed.
    pub fn masters(&self) -> Vec<usize> {
        let mut members = self.members();
        members.retain(|member| member.of.is_none() && !member.fails && !member.slots.is_empty());
        members.iter().map(|member| member.node).collect()
    }

    /// The replicas of a primary.
    pub fn replicas_of(&self, node: usize) -> Vec<usize> {
        self.members().iter().filter(|member| member.of == Some(node)).map(|member| member.node).collect()
    }

    /// Who owns a slot.
    pub fn owner_of(&self, slot: u16) -> Option<usize> {
        let owns = |member: &Member| !member.fails && member.slots.iter().any(|range| range.contains(&slot));
        self.members().iter().find(|member| owns(member)).map(|member| member.node)
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        let place = self.places().into_iter().find(|place| place.node.runs()).expect("a node that runs");
        place.node.command(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// Waits until every node that is not dead is content and sees the same, every slot is owned, and every replica is in step.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        self.wait_for("a cluster that is whole", || {
            self.close_slots();
            self.is_whole()
        });
    }

    /// See [`Cluster::wait_until_whole`].
    pub fn is_whole(&self) -> bool {
        let places = self.places();
        let mut seen = Vec::new();
        for place in places.iter().filter(|place| !place.node.is_dead()) {
            let all: [&[&str]; 3] = [&["CLUSTER", "INFO"], &["CLUSTER", "NODES"], &["INFO", "replication"]];
            let Ok(said) = place.node.try_commands(&all) else { return false };
            if !said.contains("cluster_state:ok") || said.contains("master_link_status:down") {
                return false;
            }
            let (nodes, replication) = said.split_once("# Replication").unwrap_or((&said, ""));
            let mut members = self.parse(nodes);
            members.sort_by_key(|member| member.node);
            let myself = members.iter().find(|member| places[member.node].id == place.id);
            let replica = replication.contains("role:slave");
            if myself.is_none_or(|myself| myself.of.is_some() != replica) || members.iter().any(|member| member.fails) {
                return false;
            }
            seen.push(members);
        }
        let owned: usize = seen.first().into_iter().flatten().flat_map(|member| &member.slots).map(ExactSizeIterator::len).sum();
        owned == 16_384 && seen.windows(2).all(|pair| pair[0] == pair[1])
    }
}
