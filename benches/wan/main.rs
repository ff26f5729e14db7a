//! `make bench-wan`: `telemetry stream` over a long line to Redis, and over one that is dead. Prints two tables.
//!
//! A relay in this process adds the time, and no limit: what is measured is what the streamer does while it waits. BENCH_ROWS rows
//! (6,000,000 unless given), BENCH_RUNS runs (3) of each length in turn: medians. WAN_CUT_SECONDS (180) of a dead line.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with a panic")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

mod dead;
mod long;
#[expect(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../pipeline/measure.rs"]
mod measure;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --list` must not measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let from = |name: &str, otherwise: u64| std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"));
    let (rows, runs, cut) = (from("BENCH_ROWS", 6_000_000), from("BENCH_RUNS", 3), from("WAN_CUT_SECONDS", 180));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{}; {}\n", measure::today(), measure::machine());
    let well = runtime.block_on(async {
        let fast = runs == 0 || long::run(rows, usize::try_from(runs).unwrap()).await;
        let flat = cut == 0 || dead::run(rows, cut).await;
        fast && flat
    });
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
