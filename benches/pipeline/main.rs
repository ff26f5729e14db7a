//! `make bench`: everything in one run, beside what a user would do without us. Prints the table and writes docs/benchmarks.md.
//!
//! BENCH_ROWS (2,000,000 unless given) rows of a generated export, BENCH_RUNS (3) runs of each contestant in turn: medians. BENCH_ONLY
//! (ingest, query, fleet) measures one part. Real Redis
//! and PostgreSQL are started for it, with the settings of the tests (no fsync: for everybody).
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with a panic")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

mod fleet;
mod ingest;
mod measure;
mod query;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/support/mod.rs"]
mod support;

use measure::{Table, number};

/// Rows of what is published.
const ROWS: u64 = 2_000_000;

/// How much is measured.
pub struct Size {
    /// Of the export.
    pub rows: u64,
    /// Of each contestant.
    pub runs: usize,
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` must not measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let from = |name: &str, otherwise: u64| std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"));
    let size = Size { rows: from("BENCH_ROWS", ROWS), runs: usize::try_from(from("BENCH_RUNS", 3)).unwrap() };
    let only = std::env::var("BENCH_ONLY").ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut table = Table::default();
    runtime.block_on(async {
        let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
        if is_wanted("ingest") {
            ingest::run(&size, &mut table).await;
        }
        if is_wanted("query") {
            query::run(&mut table).await;
        }
        if is_wanted("fleet") {
            fleet::run(&mut table).await;
        }
    });
    let text = table.text();
    println!("{text}");
    if size.rows != ROWS || only.is_some() {
        eprintln!("docs/benchmarks.md is written for all parts and {} rows only", number(ROWS as f64));
        return;
    }
    let head = format!(
        "# Measured\n\n<!-- Written by `make bench`. -->\n\n{}; {}. Redis, PostgreSQL and the program share the machine, which may be noisy:\ncompare \
         within a line, not between runs.\n\n- Ingest: {} rows of `telemetry generate`, {} runs of each contestant in turn, medians; bytes are of the last run, \
         memory is the most seen.\n- Questions: 640 GPUs, an hour at 30 s, medians of 21; downloads: medians of 5.\n- PostgreSQL with 64 MiB of shared buffers and \
         without fsync, for everybody. `\\copy` reads the same file into a flat table of its 12\n  columns. *narrow* is a table (ts, uuid, metric_name, value), \
         indexed by (uuid, ts); *numbers* is (ts, gpu int, metric int, value), indexed by\n  (gpu, ts), whose reader has to look names up.\n- The data is made up: \
         half of its metrics hardly change, so bytes a sample are those of a quiet fleet; a *busy run* has noise in the other half, \
         and irregular times. CPU of servers is that of all their processes.\n\n",
        measure::today(),
        measure::machine(),
        number(size.rows as f64),
        size.runs
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks.md");
    std::fs::write(path, format!("{head}{text}")).unwrap();
    eprintln!("written to {path}");
}
