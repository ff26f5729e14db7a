//! `simulate`: runs schedules until the time is over. A schedule that fails is shortened and printed, with its seed.
//!
//! `simulate [--seconds N] [--seed S] [--go-on]` (the last: not only the first that fails), `simulate --schedule SEED` or `simulate --choices 0,1,…` (one, with all that happens), `simulate
//! --mutants [--seed S]`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use telemetry_simulation::mutants::{find, invariant, shortened};
use telemetry_simulation::planted::Planted;
use telemetry_simulation::schedule::{Choices, nth_seed};
use telemetry_simulation::world::run;

/// Schedules in which a planted fault has to be found.
const MOST_SCHEDULES: u64 = 20_000;
/// Runs that shortening may take.
const TRIES: u32 = 1_000;

enum Task {
    Run { seconds: u64, seed: u64, go_on: bool },
    Schedule(Choices),
    Mutants { seed: u64 },
}

fn task() -> Result<Task, String> {
    let (mut seconds, mut seed, mut schedule, mut mutants, mut go_on) = (60, 1, None, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{arg} {value}: not a number"))
        };
        match arg.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = number()?,
            "--schedule" => schedule = Some(Choices::of_seed(number()?)),
            "--choices" => {
                let list = args.next().unwrap_or_default();
                let list: Result<_, _> = list.split(',').map(|choice| choice.trim().parse()).collect();
                schedule = Some(Choices::of_list(list.map_err(|_| "--choices needs numbers: 0,1,0".to_owned())?));
            }
            "--mutants" => mutants = true,
            "--go-on" => go_on = true,
            _ => {
                return Err(format!(
                    "{arg} is not known; there are --seconds N, --seed S, --go-on, --schedule SEED, --choices LIST, --mutants"
                ));
            }
        }
    }
    Ok(match schedule {
        Some(choices) => Task::Schedule(choices),
        None if mutants => Task::Mutants { seed },
        None => Task::Run { seconds, seed, go_on },
    })
}

fn main() -> ExitCode {
    // What a core asserts is reported as what was wrong.
    std::panic::set_hook(Box::new(|_| {}));
    match task() {
        Ok(Task::Run { seconds, seed, go_on }) => run_for(seconds, seed, go_on),
        Ok(Task::Schedule(choices)) => show(choices),
        Ok(Task::Mutants { seed }) => mutants(seed),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_for(seconds: u64, seed: u64, go_on: bool) -> ExitCode {
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (mut schedules, mut steps, mut simulated, mut failures) = (0, 0, 0, 0);
    while began.elapsed() < limit {
        let one = nth_seed(seed, schedules);
        let report = run(Choices::of_seed(one), None, false);
        (schedules, steps, simulated) = (schedules + 1, steps + report.steps, simulated + report.simulated);
        if let Some(violation) = report.violation {
            if go_on {
                failures += 1;
                println!("schedule {schedules}, seed {one}: {}", violation.lines().next().unwrap_or_default());
                continue;
            }
            println!("schedule {schedules} of seed {seed} fails: {violation}");
            fail(one, report.choices, None, &violation);
            return ExitCode::FAILURE;
        }
    }
    let taken = began.elapsed().as_secs_f64();
    let hours = simulated as f64 / 3_600_000.0;
    println!(
        "{schedules} schedules of seed {seed} in {taken:.0} s ({:.0} a second): {steps} steps, {hours:.1} hours simulated ({:.0} \
         a second of ours); {}",
        schedules as f64 / taken,
        hours * 3600.0 / taken,
        if failures == 0 { "every invariant holds".to_owned() } else { format!("{failures} schedules fail") },
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a schedule that fails: its seed, and what happens in the shortened one.
fn fail(seed: u64, choices: Vec<u32>, planted: Option<Planted>, violation: &str) {
    let before = choices.len();
    let short = shortened(choices, planted, violation, TRIES);
    let report = run(Choices::of_list(short.clone()), planted, true);
    println!(
        "its seed is {seed} (`simulate --schedule {seed}` shows all of it); shortened from {before} choices to {}:",
        short.len()
    );
    for line in &report.lines {
        println!("{line}");
    }
    println!("{}", report.violation.unwrap_or_default());
    let list: Vec<_> = short.iter().map(ToString::to_string).collect();
    println!("again: simulate --choices {}", list.join(","));
}

fn show(choices: Choices) -> ExitCode {
    let report = run(choices, None, true);
    for line in &report.lines {
        println!("{line}");
    }
    println!("{} steps, {} ms, digest {:016x}", report.steps, report.simulated, report.digest);
    match report.violation {
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn mutants(seed: u64) -> ExitCode {
    let mut missed = 0;
    println!("{:<64} {:<22} {:>9}  seed", "planted fault", "found by", "schedules");
    for planted in Planted::ALL {
        match find(planted, seed, MOST_SCHEDULES) {
            Some(found) => {
                println!("{:<64} {:<22} {:>9}  {}", planted.text(), invariant(&found.violation), found.schedules, found.seed);
            }
            None => {
                missed += 1;
                println!("{:<64} {:<22} {MOST_SCHEDULES:>9}", planted.text(), "NOT FOUND");
            }
        }
    }
    println!("{} of {} planted faults are found", Planted::ALL.len() - missed, Planted::ALL.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
