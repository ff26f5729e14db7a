//! `make chaos`: everything runs for real, everything that can fail is made to fail, and every row is stored exactly once.
//!
//! The release binary streams growing and finished files through a Redis Cluster (TLS, ACL) into PostgreSQL, while faults come in an
//! order that the seed decides (`SEED=n` repeats it). Each fault meets a system that has recovered from the one before. In the end
//! rows and sums per file are compared with the files. settings.rs says what can be set, plan.rs which faults there are.
#![expect(clippy::unwrap_used, reason = "what cannot be done ends the run")]
#![expect(clippy::print_stdout, reason = "it talks to a person")]

mod data;
mod faults;
mod lab;
mod network;
mod plan;
mod queue;
mod roles;
mod settings;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../it/support/mod.rs"]
mod support;
mod table;
mod verdict;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use lab::Lab;
use plan::Plan;
use settings::Settings;
use table::Table;

fn main() -> ExitCode {
    // `cargo test --benches` and the like must not run it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(why) => {
            println!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let mut dir = tempfile::Builder::new().prefix("telemetry-chaos-").tempdir().unwrap();
    // Kept unless all is well, also when somebody interrupts.
    dir.disable_cleanup(true);
    println!("SEED={}  {} s, logs in {}", settings.seed, settings.time.as_secs(), dir.path().display());
    let mut table = Table::default();
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| run(&settings, dir.path(), &mut table)));
    println!("\n{}", table.text());
    let well = match done {
        Ok(problems) if problems.is_empty() => true,
        Ok(problems) => {
            println!("{} problems:\n- {}", problems.len(), problems.join("\n- "));
            false
        }
        Err(_) => {
            println!("the run itself failed; what it said is above");
            false
        }
    };
    if well {
        println!("exactly the rows, exactly the sums");
        dir.disable_cleanup(false);
        return ExitCode::SUCCESS;
    }
    println!("FAILED: SEED={}, the logs are in {}", settings.seed, dir.path().display());
    ExitCode::FAILURE
}

/// Runs it all; gives what went wrong.
fn run(settings: &Settings, dir: &std::path::Path, table: &mut Table) -> Vec<String> {
    let mut lab = Lab::start(settings, dir);
    let mut plan = Plan::new(settings, lab.queue.shards());
    let mut lost: Vec<queue::Lost> = Vec::new();
    let settled = lab.wait(|lab| !lab.marks().is_empty() && !lab.covered().is_empty());
    if !settled {
        lab.problem("nothing arrives in the store, before any fault".to_owned());
    }
    while settled && lab.began.elapsed() < settings.time {
        let Some(fault) = plan.next() else { break };
        let at = lab.began.elapsed().as_secs_f64();
        let happened = lab.inflict(&fault);
        let mended = happened.mended.unwrap_or_else(std::time::Instant::now);
        let marks = lab.marks();
        let recovered = lab.wait(|lab| lab.behind(&marks).is_empty());
        let took = mended.elapsed();
        println!("{at:7.1} s  {:<18} {}; all is stored again after {:.1} s", fault.kind, happened.said, took.as_secs_f64());
        table.add(fault.kind, took, happened.lost.as_ref());
        if !recovered {
            let what = format!("{}: still not stored: {}\n{}", fault.kind, lab.behind(&marks).join(", "), lab.queue.logs());
            lab.problem(what);
            break;
        }
        let whole = lab.wait(|lab| lab.queue.is_whole());
        if !whole {
            let what = format!("{}: Redis is not whole again:\n{}", fault.kind, lab.queue.logs());
            lab.problem(what);
            break;
        }
        if let Some(one) = happened.lost {
            let again = lab.queue.sent_again(&one);
            println!("{:>12}of these rows, {} of {} sources have been sent again by now", "", again.rows(), again.sources.len());
            lost.push(one);
        }
        lab.rest(Duration::from_millis(1000));
    }
    let verdict = lab.judge(&lost);
    table.verdict = Some(verdict);
    std::fs::write(dir.join("postgres.log"), lab.server.log()).unwrap();
    std::mem::take(&mut lab.problems)
}
