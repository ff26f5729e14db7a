//! What must hold after every step, and what must have happened in the end.

use crate::messages::{CLAIM_IDLE, Health};
use crate::model::{RowRange, RowSet};
use crate::places::Shop;
use crate::shape::Role;
use crate::streamer::Until;
use crate::world::{Node, World};

impl Shop {
    /// The store that the group commits to, also while another one is in its place.
    pub(crate) fn own(&self) -> &crate::ledger::Ledger {
        self.former.as_ref().unwrap_or(&self.ledger)
    }
}

impl World {
    /// Looks at what the last step may have changed.
    pub(crate) fn check(&mut self) {
        self.check_bounds();
        self.check_claims();
        if !std::mem::take(&mut self.net.touched) {
            return;
        }
        self.check_buried();
        for group in 0..self.shape.groups {
            let shop = &self.net.shops[usize::from(group)];
            // Until somebody has noticed, and has all sources sent again.
            if shop.older {
                continue;
            }
            let ledger = shop.own();
            let mut wrong = None;
            for source in &self.shape.sources {
                let id = source.id;
                let server = &self.net.places[id.partition(self.net.partitions).index()].server;
                let account = ledger.account(id);
                if let Some(row) = account.and_then(crate::ledger::Account::written_twice) {
                    wrong = Some(format!("never twice: row {row} of source {id} is stored twice"));
                }
                let (committed, settled) = (server.committed(group, id), ledger.settled(id));
                if committed > settled {
                    wrong = Some(format!("committed is true: {id} is committed up to {committed}, and settled up to {settled}"));
                }
                let mut gone = RowSet::from(RowRange { first: 0, end: server.position(id).map_or(0, |at| at.row) });
                if let Some(account) = account {
                    gone = gone.minus(&account.covered).minus(&account.dead);
                }
                if !gone.is_empty() {
                    gone =
                        gone.minus(&server.to_come(group).filter(|entry| entry.source == id).map(|entry| entry.rows).collect());
                }
                if !gone.is_empty() {
                    wrong = Some(format!(
                        "nothing lost: rows {gone} of source {id} are not stored, not in the queue, and not sent again"
                    ));
                }
            }
            if let Some(wrong) = wrong {
                self.net.violated(|| wrong);
            }
        }
    }

    fn check_bounds(&mut self) {
        let mut wrong = None;
        for (number, node) in self.nodes.iter().enumerate() {
            match node {
                Node::Streamer(streamer) => {
                    let (most, size) = streamer.most_in_flight();
                    if most > size {
                        wrong = Some(format!("bounded memory: node {number} has {most} batches in flight, and may have {size}"));
                    }
                }
                Node::Collector(collector) => {
                    if let Some(what) = collector.exceeds() {
                        wrong = Some(format!("bounded memory: node {number}: {what}"));
                    }
                }
                Node::Down => {}
            }
        }
        if let Some(wrong) = wrong {
            self.net.violated(|| wrong);
        }
    }

    /// What a healthy collector has in hand is not taken from it.
    fn check_claims(&mut self) {
        for (partition, id, from, by) in std::mem::take(&mut self.net.claims) {
            let Some(Node::Collector(collector)) = self.nodes.get(from) else { continue };
            let old = self.started_at[from] + 3 * CLAIM_IDLE < self.net.now;
            if from != by
                && old
                && collector.has_in_hand(partition, id)
                && !self.net.was_disturbed(from, partition, 3 * CLAIM_IDLE)
            {
                self.net
                    .violated(|| format!("claims are kept: entry {id} is in the hands of node {from}, and node {by} claims it"));
            }
        }
    }

    /// What can be stored becomes no dead letter before several attempts to decode it have come to nothing, each after another delivery.
    fn check_buried(&mut self) {
        for (source, rows) in std::mem::take(&mut self.net.buried) {
            let found = self.shape.sources.iter().find(|known| known.id == source);
            let bad = found.and_then(|source| source.bad).is_some_and(|(row, health)| {
                rows.first <= row && row < rows.end && matches!(health, Health::Damaged | Health::Bad | Health::Killer)
            });
            let again = self.net.redelivered.get(&(source, rows)).copied().unwrap_or(0);
            if !bad && again < 2 {
                self.net.violated(|| {
                    format!("no good batch is buried: rows {rows} of source {source}, delivered again {again} times")
                });
            }
        }
    }

    /// What is still missing when nothing goes wrong any more; `None`: everything is stored, and the queue is empty.
    pub(crate) fn missing(&self) -> Option<String> {
        for group in 0..self.shape.groups {
            let shop = &self.net.shops[usize::from(group)];
            for source in &self.shape.sources {
                let settled = shop.own().settled(source.id);
                if settled < source.rows {
                    return Some(format!("source {} is stored up to {settled} of {} by group {group}", source.id, source.rows));
                }
            }
            for (partition, place) in self.net.places.iter().enumerate() {
                let backlog = place.server.backlog(group);
                if backlog.entries > 0 {
                    return Some(format!("{backlog:?} wait for group {group} at {partition}"));
                }
            }
        }
        for (number, (node, role)) in self.nodes.iter().zip(&self.shape.roles).enumerate() {
            match (node, role) {
                (Node::Streamer(streamer), Role::Streamer(sources, _))
                    if !streamer.is_done() && sources.iter().any(|source| source.until != Until::Followed) =>
                {
                    return Some(format!("node {number} is not done: {}", streamer.describe()));
                }
                (Node::Down, _) => return Some(format!("node {number} is down")),
                _ => {}
            }
        }
        None
    }
}
