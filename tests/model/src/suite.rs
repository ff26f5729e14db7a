//! The sizes at which the model is checked, and checking it.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker as _, Model as _};

use crate::system::{Bounds, Fault, Protocol, Troubles};

/// How far a check goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How often a state may be come to, about; each is come to a few times.
    pub states: usize,
    /// Time.
    pub time: Duration,
    /// Threads.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Two at least: one alone does not look at the time.
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        Self { states: usize::MAX, time: Duration::from_secs(3_600), threads }
    }
}

/// Time that is shared among sizes: a size that takes all of its share takes nothing from those to come, and they share what it leaves.
#[derive(Debug)]
pub struct Shares {
    whole: Duration,
    left: u32,
}

impl Shares {
    /// Time for that many sizes.
    #[must_use]
    pub fn new(whole: Duration, sizes: usize) -> Self {
        Self { whole, left: u32::try_from(sizes).unwrap_or(u32::MAX) }
    }

    /// The next size's share, when so much of the whole is gone.
    pub fn next(&mut self, gone: Duration) -> Duration {
        let share = self.whole.saturating_sub(gone) / self.left.max(1);
        self.left = self.left.saturating_sub(1);
        share
    }
}

/// What a check came to.
#[derive(Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// How many steps the longest of the shortest ways to a state has.
    pub depth: usize,
    /// States of Redis among them.
    pub redis: usize,
    /// Times that an operation was worked out; else it was remembered.
    pub worked_out: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether there is no further state.
    pub is_complete: bool,
    /// Properties that do not hold, each with the steps to a state in which it does not.
    pub broken: Vec<(&'static str, String)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, depth, redis, worked_out, .. } = self;
        write!(f, "{states} states ({}), up to {depth} steps, ", if self.is_complete { "all" } else { "not all" })?;
        write!(f, "{redis} states of Redis, {worked_out} operations worked out, {:.1} s", self.took.as_secs_f64())?;
        for (property, steps) in &self.broken {
            write!(f, "\n  not so: {property}, after\n{steps}")?;
        }
        Ok(())
    }
}

/// Nothing goes wrong but that one collector claims what another one is working on.
const NONE: Troubles =
    Troubles { failovers: 0, flushes: 0, losses: 0, late: 0, streamer_crashes: 0, collector_crashes: 0, claims: 1 };

/// The sizes that every change is checked at.
#[must_use]
pub fn quick() -> Vec<Bounds> {
    vec![
        Bounds::new("nothing goes wrong", &[0, 1], 1, NONE),
        Bounds::new("nothing goes wrong, two collectors", &[0], 2, Troubles { claims: 3, ..NONE }),
        Bounds::new("failover", &[0, 1], 1, Troubles { failovers: 1, claims: 0, ..NONE }),
        Bounds::new("failover, two collectors", &[0], 2, Troubles { failovers: 1, ..NONE }),
        Bounds::new("flush, late", &[0], 1, Troubles { flushes: 1, losses: 1, late: 2, ..NONE }),
        Bounds::new("two streamers of a source", &[0, 0], 1, Troubles { losses: 1, late: 1, claims: 0, ..NONE }),
        Bounds::new("crashes", &[0], 2, Troubles { streamer_crashes: 1, collector_crashes: 1, ..NONE }),
    ]
}

/// The sizes of a proof.
#[must_use]
pub fn large() -> Vec<Bounds> {
    let everything =
        Troubles { failovers: 1, flushes: 1, losses: 1, late: 2, streamer_crashes: 1, collector_crashes: 1, claims: 1 };
    vec![
        Bounds::new("two sources, two collectors", &[0, 1], 2, NONE),
        Bounds::new("two streamers of a source, failover", &[0, 0], 1, Troubles { failovers: 1, losses: 1, late: 1, ..NONE }),
        Bounds::new("crashes, late", &[0], 2, Troubles { losses: 1, late: 1, streamer_crashes: 1, collector_crashes: 1, ..NONE }),
        Bounds::new("everything once, one source, one collector", &[0], 1, everything),
        Bounds::new("two sources, failover", &[0, 1], 2, Troubles { failovers: 1, ..NONE }),
        Bounds::new("everything once, one source", &[0], 2, everything),
        Bounds::new("everything once, two streamers of a source", &[0, 0], 2, everything),
        Bounds::new("everything once", &[0, 1], 2, everything),
    ]
}

/// Checks a size.
#[must_use]
pub fn check(bounds: Bounds, fault: Option<Fault>, limits: Limits) -> Outcome {
    run(Protocol::new(bounds, fault), limits)
}

/// Looks for a state in which that property does not hold, since a fault is planted. One thread does, which comes to the states in the same
/// order each time.
#[must_use]
pub fn find(bounds: Bounds, fault: Fault, property: &'static str) -> Outcome {
    run(Protocol::new(bounds, Some(fault)).only(property), Limits { threads: 1, ..Limits::default() })
}

fn run(protocol: Protocol, limits: Limits) -> Outcome {
    let begun = Instant::now();
    let checker = protocol.checker().threads(limits.threads).timeout(limits.time);
    let checker = checker.target_state_count(limits.states).spawn_bfs().join();
    let took = begun.elapsed();
    let (redis, worked_out) = checker.model().engine().counts();
    let mut broken: Vec<(&'static str, String)> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            let steps: Vec<String> = path.into_actions().iter().map(|step| format!("    {step:?}")).collect();
            (property, steps.join("\n"))
        })
        .collect();
    broken.sort_by_key(|(property, _)| *property);
    if let (Some((_, steps)), Some(stuck)) = (broken.iter_mut().find(|(name, _)| *name == "never stuck"), checker.model().stuck())
    {
        steps.push_str("\n  from where it comes to\n");
        steps.push_str(&stuck);
    }
    let is_complete = took < limits.time && checker.state_count() < limits.states && broken.is_empty();
    Outcome { states: checker.unique_state_count(), depth: checker.max_depth(), redis, worked_out, took, is_complete, broken }
}
