//! Checks the protocol: `telemetry-model [quick|large] [part of a name]`. The whole may take `TELEMETRY_MODEL_SECONDS`, and each size about
//! `TELEMETRY_MODEL_STATES` states.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use telemetry_model::suite::{self, Limits};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let sizes = match args.next().as_deref() {
        None | Some("quick") => suite::quick(),
        Some("large") => suite::large(),
        Some(other) => {
            eprintln!("error: there is no suite {other}: quick or large");
            return ExitCode::from(2);
        }
    };
    let part = args.next().unwrap_or_default();
    let (begun, mut fine, mut states) = (Instant::now(), true, 0);
    let seconds = Duration::from_secs(number("TELEMETRY_MODEL_SECONDS").unwrap_or(900));
    for bounds in sizes.into_iter().filter(|bounds| bounds.name.contains(&part)) {
        let time = seconds.saturating_sub(begun.elapsed());
        let most = number("TELEMETRY_MODEL_STATES").map_or(usize::MAX, |states| usize::try_from(states).unwrap_or(usize::MAX));
        let name = bounds.name;
        let outcome = suite::check(bounds, None, Limits { states: most, time, ..Limits::default() });
        println!("{name}: {outcome}");
        fine &= outcome.broken.is_empty();
        states += outcome.states;
    }
    println!(
        "{states} states in {:.1} s: {}",
        begun.elapsed().as_secs_f64(),
        if fine { "all properties hold" } else { "NOT SO" }
    );
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
