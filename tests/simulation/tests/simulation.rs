//! The simulation as every `make test` runs it: thousands of schedules hold, each planted fault is found, and nothing but the seed decides.

use telemetry_simulation::mutants::{find, shortened};
use telemetry_simulation::planted::Planted;
use telemetry_simulation::schedule::{Choices, nth_seed};
use telemetry_simulation::world::run;

/// Schedules of each part; the parts run at the same time.
const SCHEDULES: u64 = 1_250;

fn holds(part: u64) {
    for n in part * SCHEDULES..(part + 1) * SCHEDULES {
        let seed = nth_seed(1, n);
        let report = run(Choices::of_seed(seed), None, false);
        if let Some(violation) = report.violation {
            let short = shortened(report.choices, None, &violation, 500);
            let lines = run(Choices::of_list(short), None, true).lines.join("\n");
            panic!("the schedule of seed {seed} fails: {violation}\n{lines}");
        }
    }
}

#[test]
fn the_first_quarter_holds() {
    holds(0);
}

#[test]
fn the_second_quarter_holds() {
    holds(1);
}

#[test]
fn the_third_quarter_holds() {
    holds(2);
}

#[test]
fn the_last_quarter_holds() {
    holds(3);
}

fn finds(part: usize) {
    let planted = Planted::ALL.into_iter().skip(part).step_by(2);
    let missed: Vec<_> = planted.filter(|planted| find(*planted, 1, 10_000).is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn every_planted_fault_is_found() {
    finds(0);
}

#[test]
fn every_other_planted_fault_is_found() {
    finds(1);
}

#[test]
fn what_fails_is_shortened_and_still_fails() {
    let planted = Planted::GroupAtTheEnd;
    let found = find(planted, 1, 5_000).expect("it is found");
    let before = found.choices.len();
    let short = shortened(found.choices, Some(planted), &found.violation, 2_000);
    assert!(short.len() < before, "{} of {before} choices are left", short.len());
    assert!(run(Choices::of_list(short), Some(planted), false).violation.is_some());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        let [first, second] = [true, false].map(|lines| run(Choices::of_seed(seed), None, lines));
        assert_eq!((first.digest, first.steps, &first.choices), (second.digest, second.steps, &second.choices), "seed {seed}");
        let listed = run(Choices::of_list(first.choices), None, false);
        assert_eq!(first.digest, listed.digest, "the list of its choices is the schedule of seed {seed}");
    }
}

/// A process of its own has its own addresses, clock and hash seeds: none of them shows.
#[test]
fn another_process_gives_the_same_trace() {
    let trace = || {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_simulate")).args(["--schedule", "7"]).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let (first, second) = (trace(), trace());
    assert!(first == second && first.lines().count() > 50, "two processes differ, or show nothing:\n{first}");
    let here = run(Choices::of_seed(7), None, false);
    assert!(first.contains(&format!("digest {:016x}", here.digest)), "this process differs:\n{first}");
}
