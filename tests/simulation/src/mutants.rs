//! Shows that the simulation can fail: each planted fault is to be found.

use crate::planted::Planted;
use crate::schedule::{Choices, nth_seed, shorten};
use crate::world::run;

/// How a planted fault was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// After how many schedules.
    pub schedules: u64,
    /// The seed of the one that failed.
    pub seed: u64,
    /// What was wrong.
    pub violation: String,
    /// The choices that were made.
    pub choices: Vec<u32>,
}

/// Runs schedules with a fault planted until one fails; `None` where so many find nothing.
#[must_use]
pub fn find(planted: Planted, seed: u64, most: u64) -> Option<Found> {
    (0..most).find_map(|n| {
        let seed = nth_seed(seed, n);
        let report = run(Choices::of_seed(seed), Some(planted), false);
        let found = |violation| Found { schedules: n + 1, seed, violation, choices: report.choices.clone() };
        report.violation.clone().map(found)
    })
}

/// Shortens choices that fail, as long as they fail in the same way: what is before the colon of what was wrong is the same.
#[must_use]
pub fn shortened(choices: Vec<u32>, planted: Option<Planted>, violation: &str, tries: u32) -> Vec<u32> {
    let way = invariant(violation);
    shorten(choices, tries, |list| {
        let report = run(Choices::of_list(list.to_vec()), planted, false);
        report.violation.is_some_and(|other| invariant(&other) == way)
    })
}

/// The invariant that does not hold.
#[must_use]
pub fn invariant(violation: &str) -> &str {
    violation.split(':').next().unwrap_or_default()
}
