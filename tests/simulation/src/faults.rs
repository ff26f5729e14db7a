//! What goes wrong beside single calls: nodes, servers and stores that end, freeze, are cut off, are full, or come back as something else.

use crate::messages::{Event, Ms, NodeId};
use crate::shape::Role;
use crate::streamer::Source;
use crate::world::World;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node's process ends, and starts again later.
    Crash,
    /// A node does nothing for a while, and goes on.
    Freeze,
    /// A node does not reach a server for a while.
    Cut,
    /// A server does nothing for a while, and goes on.
    FreezeServer,
    /// A server's process ends, and starts again with all it had.
    Restart,
    /// A server's replica takes over, with another clock.
    FailOver,
    /// A server is emptied.
    Flush,
    /// A server has no memory left for a while.
    OutOfMemory,
    /// A server accepts no writes for a while.
    NoWrites,
    /// A store is away for a while.
    StoreAway,
    /// A store ends every session, and is there again at once.
    StoreRestart,
    /// A store becomes an older state of itself.
    Restore,
    /// Another store is in the place of one for a while.
    OtherStore,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Crash,
        Self::Freeze,
        Self::Cut,
        Self::FreezeServer,
        Self::Restart,
        Self::FailOver,
        Self::Flush,
        Self::OutOfMemory,
        Self::NoWrites,
        Self::StoreAway,
        Self::StoreRestart,
        Self::Restore,
        Self::OtherStore,
    ];
}

impl World {
    /// Something goes wrong, and the next time is set.
    pub(crate) fn fault(&mut self) {
        let kinds = self.shape.faults.clone();
        let every = self.shape.fault_every;
        let wait = every / 2 + every * Ms::from(self.net.choices.below(8)) / 8;
        self.net.schedule(self.net.now + wait, Event::Fault);
        if kinds.is_empty() {
            return;
        }
        // The first choice is that nothing goes wrong.
        let chosen = self.net.choices.below(u32::try_from(kinds.len() + 1).unwrap_or(1)) as usize;
        let Some(kind) = chosen.checked_sub(1).and_then(|at| kinds.get(at)).copied() else { return };
        self.happens(kind);
    }

    fn one_of(&mut self, count: usize) -> usize {
        self.net.choices.below(u32::try_from(count).unwrap_or(1)) as usize
    }

    fn for_a_while(&mut self) -> Ms {
        [1_000, 4_000, 15_000, 40_000][self.one_of(4)]
    }

    fn happens(&mut self, kind: Kind) {
        let node: NodeId = self.one_of(self.shape.roles.len());
        let partition = self.one_of(self.shape.partitions);
        let time = self.for_a_while();
        let now = self.net.now;
        let group = match &self.shape.roles[node] {
            Role::Collector(group) => usize::from(*group),
            Role::Streamer(..) => 0,
        };
        self.net.trace.line(now, format_args!("{kind:?} (node {node}, server {partition}, {time} ms)"));
        self.net.touched = true;
        let place = &mut self.net.places[partition];
        match kind {
            Kind::Crash => self.crash(node, time),
            Kind::Freeze => self.net.frozen_until[node] = self.net.frozen_until[node].max(now + time),
            Kind::Cut => self.net.cut(node, partition, time),
            Kind::FreezeServer => place.frozen_until = place.frozen_until.max(now + time),
            Kind::Restart => {
                place.down_until = place.down_until.max(now + time);
                self.net.break_all_to(partition);
            }
            Kind::FailOver => {
                place.server.fail_over();
                place.down_until = place.down_until.max(now + time / 4);
                place.server.clock_ahead = [0, -20_000, -300_000, -300_000][self.net.choices.below(4) as usize];
                self.net.break_all_to(partition);
            }
            Kind::Flush => place.server.flush(),
            Kind::OutOfMemory => {
                place.server.out_of_memory = true;
                self.net.schedule(now + time, Event::Recover(partition));
            }
            Kind::NoWrites => {
                place.server.no_writes = true;
                self.net.schedule(now + time, Event::Recover(partition));
            }
            Kind::StoreAway | Kind::StoreRestart => {
                let shop = &mut self.net.shops[group];
                shop.run += 1;
                shop.away_until = now + if kind == Kind::StoreAway { time } else { 0 };
            }
            Kind::Restore => {
                let back = self.net.choices.below(2) == 1;
                let away = self.net.choices.below(2) == 1;
                let shop = &mut self.net.shops[group];
                if shop.former.is_some() {
                    return;
                }
                if !back {
                    shop.backup = shop.ledger.clone();
                    return;
                }
                // Collectors know an older state by what was committed. Rows behind a gap are not: docs/protocol.md says so.
                let older = |source: &Source| {
                    let place = &self.net.places[source.id.partition(self.net.partitions).index()];
                    place.server.committed(crate::queue::Group::try_from(group).unwrap_or(0), source.id)
                        > shop.backup.settled(source.id)
                };
                if !self.shape.sources.iter().any(|source| older(source)) {
                    return;
                }
                shop.ledger = shop.backup.clone();
                shop.older = true;
                shop.run += 1;
                shop.away_until = now + if away { time } else { 0 };
            }
            Kind::OtherStore => {
                let shop = &mut self.net.shops[group];
                // Before it is said which store it is, any store is the right one.
                let said =
                    self.net.places.iter().all(|place| {
                        place.server.mark(crate::queue::Group::try_from(group).unwrap_or(0)).0 == Some(shop.ledger.id)
                    });
                if shop.former.is_none() && said {
                    let other = crate::ledger::Ledger::new(shop.ledger.id + 100);
                    shop.former = Some(std::mem::replace(&mut shop.ledger, other));
                    shop.run += 1;
                    self.net.schedule(now + time, Event::Operator);
                }
            }
        }
    }
}
