//! `telemetry check`: checks everything that the roles need, once, step by step, and prints what is wrong and what to do.

use std::fmt::Display;
use std::sync::Arc;

use serde::Serialize;

use crate::cli;
use crate::config::{Config, ConfigError, Postgres, Redis};
use crate::diagnosis::{Outcome, Step};
use crate::printable;
use crate::protocol::receipts::same_mark;
use crate::roles::retention::{Budget, Fullness, REMEDY};
use crate::roles::{collect, say};
use crate::runtime::Exit;
use crate::store::Store as _;
use crate::store::postgres::{self, PostgresStore, Use};
use crate::transport::redis::{self, Side};

/// The steps of one service.
#[derive(Debug, Serialize)]
struct Part {
    service: &'static str,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    failed: usize,
    warnings: usize,
    parts: Vec<Part>,
}

/// Runs the command: `Exit::Failed` where something failed, `Exit::Misconfigured` where the configuration itself is wrong.
pub async fn run(config: Arc<Config>, what: cli::Check) -> anyhow::Result<Exit> {
    if config.redis.url.is_none() && config.postgres.url.is_none() && config.store.read_url.is_none() {
        return Err(ConfigError::usage(
            "nothing to check: set REDIS_URL, DATABASE_URL, or both (or url under [redis] and [postgres])",
        )
        .into());
    }
    // What is wrong with the configuration itself; a service that cannot be reached because of that has no steps.
    let mut wrong = Vec::new();
    let redis = config.redis.url.as_ref().and_then(|_| valid(config.redis(), &mut wrong));
    let postgres = config.postgres.url.as_ref().and_then(|_| valid(super::postgres(&config), &mut wrong));
    valid(config.http(), &mut wrong);
    let reading = config.store.read_url.as_ref().and_then(|_| valid(super::postgres_to_read(&config), &mut wrong));
    let misconfigured = !wrong.is_empty();
    let mut parts = vec![Part { service: "config", steps: configuration(wrong) }];
    // An edge has no store, and needs fewer permissions in Redis.
    let side = if config.postgres.url.is_some() { Side::Central } else { Side::Edge };
    if let Some(redis) = &redis {
        parts.push(Part { service: "redis", steps: redis::diagnose(redis, side).await });
    }
    if let Some(postgres) = &postgres {
        let mut steps = postgres::diagnose(postgres, Use::Writing).await;
        if let Some(redis) = &redis {
            steps.extend(same_store(redis, postgres).await);
        }
        if let Some(allowed) = config.store.disk_budget {
            steps.extend(disk_budget(postgres, allowed).await);
        }
        if what.store {
            steps.extend(every_row(postgres).await);
        }
        parts.push(Part { service: "postgres", steps });
    }
    if let Some(reading) = &reading {
        let mut steps = postgres::diagnose(reading, Use::Reading).await;
        if let Some(postgres) = &postgres {
            steps.extend(copy_of(postgres, reading).await);
        }
        parts.push(Part { service: "reading", steps });
    }
    let count = |outcome| parts.iter().flat_map(|part| &part.steps).filter(|step| step.outcome == outcome).count();
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    let report = Report { good: failed == 0, failed, warnings, parts };
    if what.json {
        super::print_json(&report)?;
    } else {
        super::print(&lines(&report))?;
    }
    Ok(match (report.good, misconfigured) {
        (true, _) => Exit::Done,
        (false, false) => Exit::Failed,
        (false, true) => Exit::Misconfigured,
    })
}

/// Whether the store is the one that the group commits to, where both can be asked. That they cannot is said elsewhere.
async fn same_store(redis: &Redis, postgres: &Postgres) -> Option<Step> {
    let store = PostgresStore::connect(postgres).ok()?;
    let marks = redis::store_marks(redis).await.ok()?;
    let mark = marks.first()?;
    let id = store.id().await.ok()?;
    let other = marks.iter().find_map(|mark| same_mark(&id, mark).err());
    Some(match other {
        Some(other) => Step::failed("store", collect::what_is_other(store.kind(), &other), collect::remedy(store.kind())),
        None => Step::ok("store", format!("{mark} is the one that the group {} commits to", redis.group)),
    })
}

/// Whether what is read from is a copy of the store, where both can be asked. That they cannot is said elsewhere.
async fn copy_of(postgres: &Postgres, reading: &Postgres) -> Option<Step> {
    let id = PostgresStore::connect(postgres).ok()?.id().await.ok()?;
    let copy = PostgresStore::connect(reading).ok()?.id().await.ok()?;
    Some(if id == copy {
        Step::ok("store", format!("{copy}, the same as at DATABASE_URL"))
    } else {
        Step::failed(
            "store",
            format!("{copy} is another store than the one at DATABASE_URL ({id})"),
            "point store.read_url at a standby of DATABASE_URL, or at the same server",
        )
    })
}

/// How much of the disk budget is used, where the store says how large it is. That it cannot be asked is said elsewhere.
async fn disk_budget(postgres: &Postgres, allowed: u64) -> Option<Step> {
    let sizes = PostgresStore::connect(postgres).ok()?.form_sizes().await.ok()?;
    let budget = Budget::new(&sizes, allowed);
    Some(match budget.fullness() {
        Fullness::Fine => Step::ok("disk budget", budget.describe()),
        Fullness::Near | Fullness::Over => Step::warning("disk budget", budget.describe(), REMEDY),
    })
}

/// Reads every row of samples in the store.
async fn every_row(postgres: &Postgres) -> Vec<Step> {
    let verified = match PostgresStore::connect(postgres) {
        Ok(store) => store.verify().await,
        Err(error) => Err(error),
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => return vec![Step::failed("samples", error.to_string(), "the steps above say what to do")],
    };
    let chunks = say::counted(verified.chunks, "chunk", "chunks");
    let slabs = say::counted(verified.slabs, "slab", "slabs");
    let packed = say::counted(verified.packed, "packed row", "packed rows");
    let seen = format!("{} in {chunks}, {slabs} and {packed} can be read", say::counted(verified.samples, "sample", "samples"));
    let damaged = verified.damaged.into_iter().map(|what| {
        let (what, todo) =
            what.split_once(". ").map(|(what, todo)| (what.to_owned(), todo.to_owned())).unwrap_or((what, String::new()));
        Step::failed("samples", what, todo)
    });
    std::iter::once(Step::ok("samples", seen)).chain(damaged).collect()
}

/// A part of the configuration, or what is wrong with it.
fn valid<T, E: Display>(part: Result<T, E>, wrong: &mut Vec<String>) -> Option<T> {
    part.map_err(|error| wrong.push(error.to_string())).ok()
}

fn configuration(wrong: Vec<String>) -> Vec<Step> {
    if wrong.is_empty() {
        return vec![Step::ok("settings", "every key and variable is known and valid")];
    }
    let step = |why| Step::failed("settings", why, "`telemetry config show` shows where each value came from");
    wrong.into_iter().map(step).collect()
}

/// Column at which the text of a line begins.
const INDENT: usize = 33;
/// Column at which the text of a line ends.
const WIDTH: usize = 120;

/// Breaks a text between words, so that it fits between [`INDENT`] and [`WIDTH`].
fn wrapped(text: &str) -> String {
    let (mut broken, mut column) = (String::new(), INDENT);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > INDENT && column + 1 + length > WIDTH {
            broken.push_str(&format!("\n{:INDENT$}", ""));
            column = INDENT;
        } else if column > INDENT {
            broken.push(' ');
            column += 1;
        }
        broken.push_str(word);
        column += length;
    }
    broken
}

/// One line per step that has not succeeded, with the remedy below it. Steps that have succeeded share lines, so that the whole
/// report fits on a screen.
fn lines(report: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in &report.parts {
        // Whether the next step may be appended to the last line.
        let mut open = false;
        for step in &part.steps {
            let plain = step.outcome == Outcome::Ok && step.todo.is_empty();
            let more = format!(" · {}: {}", step.name, printable::line(&step.seen));
            match lines.last_mut() {
                Some(last) if open && plain && last.chars().count() + more.chars().count() <= WIDTH => last.push_str(&more),
                _ => lines.extend(step_lines(part.service, step)),
            }
            open = plain;
        }
    }
    let plural = if report.warnings == 1 { "" } else { "s" };
    lines.push(match (report.failed, report.warnings) {
        (0, 0) => "Everything is in order.".to_owned(),
        (0, warnings) => format!("No failures, {warnings} warning{plural}."),
        (failed, warnings) => format!("{failed} failed, {warnings} warning{plural}."),
    });
    lines.join("\n") + "\n"
}

fn step_lines(service: &str, step: &Step) -> Vec<String> {
    let outcome = match step.outcome {
        Outcome::Ok => "ok",
        Outcome::Warning => "warning",
        Outcome::Failed => "FAILED",
    };
    let mut text = format!("{outcome:<8} {service:<9} {:<13} {}", step.name, wrapped(&printable::line(&step.seen)));
    if !step.todo.is_empty() {
        text.push_str(&format!("\n{:INDENT$}{}", "", wrapped(&printable::line(&format!("→ {}", step.todo)))));
    }
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_stands_out_and_says_what_to_do() {
        let steps = vec![
            Step::ok("DNS", "h is 10.0.0.1"),
            Step::failed("TCP", "h:1 refused the connection", "check the port"),
            Step::ok("version", "7"),
            Step::ok("memory", "1 MiB"),
            Step::ok("rights", "x ".repeat(40).trim_end()),
        ];
        let report = Report { good: false, failed: 1, warnings: 0, parts: vec![Part { service: "redis", steps }] };
        let text = lines(&report);
        assert!(text.contains("ok       redis     DNS"), "{text}");
        assert!(text.contains("FAILED   redis     TCP           h:1 refused the connection\n"), "{text}");
        assert!(
            text.contains("ok       redis     version       7 · memory: 1 MiB\nok       redis     rights        x x"),
            "{text}"
        );
        assert!(text.contains("→ check the port\n") && text.ends_with("1 failed, 0 warnings.\n"), "{text}");
    }
}
