//! Which faults come, in which order: decided by the seed alone.

use std::collections::VecDeque;
use std::time::Duration;

use crate::settings::Settings;
use crate::support::app::Seeded;

/// The kinds of faults. Those up to `reshard` need a cluster.
pub const KINDS: [&str; 15] = [
    "lost-writes",
    "partition",
    "shard-down",
    "fail-over",
    "reshard",
    "kill-primary",
    "freeze-primary",
    "flush",
    "crash-postgres",
    "restart-postgres",
    "kill-collector",
    "kill-streamer",
    "cut-streamers",
    "silence-streamers",
    "script-flush",
];
/// How many of them need a cluster.
const CLUSTER_ONLY: usize = 5;

/// A fault that is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: &'static str,
    /// Where.
    pub shard: usize,
    /// For how long.
    pub time: Duration,
    /// What else has to be chosen.
    pub choice: u64,
}

/// The faults to come, without an end.
pub struct Plan {
    random: Seeded,
    kinds: Vec<&'static str>,
    shards: u64,
    round: VecDeque<Fault>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(settings: &Settings, shards: usize) -> Self {
        let possible = KINDS[if settings.single { CLUSTER_ONLY } else { 0 }..].iter().copied();
        let kinds = possible.filter(|kind| settings.only.is_empty() || settings.only.iter().any(|only| only == kind)).collect();
        Self { random: Seeded(settings.seed), kinds, shards: shards as u64, round: VecDeque::new() }
    }

    /// The next one: each kind once (a primary's death once for each shard) before any comes again.
    pub fn next(&mut self) -> Option<Fault> {
        if self.round.is_empty() {
            let mut round = Vec::new();
            for kind in self.kinds.clone() {
                let shards = if kind == "kill-primary" { 0..self.shards } else { self.random.one(self.shards) };
                for shard in shards {
                    let time = Duration::from_millis(match kind {
                        "kill-primary" => 300 + self.random.below(5_000),
                        "freeze-primary" => 2_000 + self.random.below(6_000),
                        "partition" => 4_000 + self.random.below(4_000),
                        "shard-down" => 3_000 + self.random.below(5_000),
                        "lost-writes" => 2_000 + self.random.below(2_000),
                        "cut-streamers" | "silence-streamers" => 2_000 + self.random.below(7_000),
                        _ => 200 + self.random.below(3_000),
                    });
                    round.push(Fault { kind, shard: shard as usize, time, choice: self.random.below(1 << 30) });
                }
            }
            while !round.is_empty() {
                self.round.push_back(round.swap_remove(self.random.below(round.len() as u64) as usize));
            }
        }
        self.round.pop_front()
    }
}

impl Seeded {
    fn one(&mut self, of: u64) -> std::ops::Range<u64> {
        let one = self.below(of);
        one..one + 1
    }
}
