//! Checks the protocol: `telemetry-model [quick|large] [part of a name]`. The whole may take `TELEMETRY_MODEL_SECONDS` (900), which the
//! sizes share; each may come to states `TELEMETRY_MODEL_STATES` times, about.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use telemetry_model::suite::{self, Limits, Shares};

/// Seconds that the whole may take, where nothing else is said.
const SECONDS: u64 = 900;

fn number(name: &str) -> Result<Option<u64>, String> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{name} is {text:?}, which is not a whole number"))
}

/// The most memory that this process has had so far, MB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024 / 1_000_000)
}

fn check() -> Result<bool, String> {
    let mut args = std::env::args().skip(1);
    let sizes = match args.next().as_deref() {
        None | Some("quick") => suite::quick(),
        Some("large") => suite::large(),
        Some(other) => return Err(format!("there is no suite {other}: say quick or large")),
    };
    let part = args.next().unwrap_or_default();
    let sizes: Vec<_> = sizes.into_iter().filter(|bounds| bounds.name.contains(&part)).collect();
    if sizes.is_empty() {
        return Err(format!("no size of this suite has {part:?} in its name"));
    }
    let seconds = Duration::from_secs(number("TELEMETRY_MODEL_SECONDS")?.unwrap_or(SECONDS));
    let most = number("TELEMETRY_MODEL_STATES")?.and_then(|states| usize::try_from(states).ok()).unwrap_or(usize::MAX);
    let (begun, count) = (Instant::now(), sizes.len());
    let (mut shares, mut fine, mut complete, mut states) = (Shares::new(seconds, count), true, 0, 0);
    for bounds in sizes {
        let name = bounds.name;
        let time = shares.next(begun.elapsed());
        let outcome = suite::check(bounds, None, Limits { states: most, time, ..Limits::default() });
        println!("{name}: {outcome}");
        fine &= outcome.broken.is_empty();
        complete += usize::from(outcome.is_complete);
        states += outcome.states;
    }
    let memory = peak_memory().map(|memory| format!(", {memory} MB of memory at most")).unwrap_or_default();
    let took = begun.elapsed().as_secs_f64();
    println!("{states} states in {took:.1} s, {complete} of {count} sizes to the end{memory}");
    println!("{}", if fine { "all properties hold in each of these states" } else { "NOT ALL PROPERTIES HOLD" });
    Ok(fine)
}

fn main() -> ExitCode {
    match check() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
