//! How the primaries are set: version, eviction, memory, persistence, replicas, clock.

use std::sync::Arc;
use std::time::Duration;

use super::super::client::{Conn, Credentials, Info, NEEDED};
use super::super::error::NO_WRITES;
use super::super::shared::Shared;
use super::{SKEW, Side, clock, key, ms, partition_on, parts};
use crate::address::redis::Address;
use crate::diagnosis::{Outcome, Step};
use crate::transport::{Result, TransportError};

/// The share of maxmemory above which a server is warned of.
const MEMORY: f64 = 0.8;

/// What was found of one primary.
pub(super) struct Looked {
    server: Address,
    round_trip: Duration,
    steps: Vec<Step>,
}

/// Asks a primary.
pub(super) async fn look(shared: &Arc<Shared>, server: &Address, side: Side) -> Looked {
    let (round_trip, steps) = match ask(shared, server, side).await {
        Ok(asked) => asked,
        Err(error) => (Duration::ZERO, vec![Step::failed("server", error.to_string(), "")]),
    };
    Looked { server: server.clone(), round_trip, steps }
}

async fn ask(shared: &Arc<Shared>, server: &Address, side: Side) -> Result<(Duration, Vec<Step>)> {
    let conn = Conn::dial(shared, server, Credentials::Server).await?;
    let info = conn.info("server").await?;
    let (round_trip, ahead) = clock(&conn).await?;
    let memory_info = conn.info("memory").await?;
    let mut steps = vec![
        version(&info),
        eviction(&memory_info),
        memory(&memory_info),
        persistence(&conn.info("persistence").await?),
        replication(&conn.info("replication").await?),
        skew(round_trip, ahead),
    ];
    steps.extend(writes(shared, &conn, side).await?);
    Ok((round_trip, steps))
}

/// Whether it accepts writes: one that changes nothing (a lease or a dictionary that is nobody's is deleted) is refused as any other would
/// be. What else may be said of it (a replica, a missing right, a slot that nobody serves) other steps say.
async fn writes(shared: &Arc<Shared>, conn: &Conn, side: Side) -> Result<Option<Step>> {
    let Some(own) = partition_on(shared, conn.address()) else { return Ok(None) };
    let nobodys = key(shared, own, if side == Side::Edge { "lease:0" } else { "dict:0" });
    Ok(match conn.call("DEL", vec![nobodys.into()]).await {
        Ok(_) => Some(Step::ok("writes", "accepted")),
        Err(TransportError::Unavailable { reason, .. }) if reason.starts_with(NO_WRITES) => {
            let (seen, todo) = parts(&reason);
            Some(Step::failed("writes", seen, todo))
        }
        Err(_) => None,
    })
}

fn version(info: &Info) -> Step {
    if !info.is_new_enough() {
        return Step::failed("version", format!("it is {}", info.product()), NEEDED);
    }
    Step::ok("version", info.product())
}

fn eviction(info: &Info) -> Step {
    match info.field("maxmemory_policy") {
        "noeviction" => Step::ok("eviction", "noeviction"),
        "" => Step::warning("eviction", "the server does not report its policy", "it must be maxmemory-policy noeviction"),
        other => Step::failed(
            "eviction",
            format!("maxmemory-policy is {other}: a full Redis would discard parts of the queue (eviction)"),
            "set maxmemory-policy noeviction",
        ),
    }
}

fn memory(info: &Info) -> Step {
    let number = |field: &str| info.field(field).parse::<f64>().unwrap_or(0.0);
    let (used, most) = (number("used_memory"), number("maxmemory"));
    let mib = |bytes: f64| format!("{:.0} MiB", bytes / 1_048_576.0);
    if most == 0.0 {
        let seen = format!("{} used, without a limit: the system may kill Redis when memory runs out", mib(used));
        return Step::warning("memory", seen, "set maxmemory to what the machine can spare");
    }
    let seen = format!("{} of {} used", mib(used), mib(most));
    let todo = "streamers wait when it is full: look at the collectors' lag, or raise maxmemory";
    if used >= most {
        return Step::failed("memory", format!("{seen}: it is full and accepts no more data"), todo);
    }
    if used / most > MEMORY {
        return Step::warning("memory", seen, todo);
    }
    Step::ok("memory", seen)
}

fn persistence(info: &Info) -> Step {
    if info.field("aof_enabled") == "1" {
        return match info.field("aof_last_write_status") {
            "ok" | "" => Step::ok("persistence", "append-only file"),
            _ => Step::failed("persistence", "the append-only file cannot be written", "check the disk of the server"),
        };
    }
    Step::warning(
        "persistence",
        "no append-only file: a restart loses what is queued (streamers with the source send it again)",
        "set appendonly yes",
    )
}

fn replication(info: &Info) -> Step {
    if info.field("role") == "slave" {
        return Step::failed("replicas", "it is a replica and accepts no writes", "use the primary's address in redis.url");
    }
    match info.field("connected_slaves") {
        "0" | "" => Step::warning("replicas", "none: if it fails, its partitions wait until it is back", "run a replica of it"),
        n => Step::ok("replicas", format!("{n} connected")),
    }
}

fn skew(round_trip: Duration, ahead: f64) -> Step {
    // Adding 0 makes 0 of -0.
    let against = (ahead * 1000.0).round() + 0.0;
    let seen = format!("{against:+.0} ms against ours (± {}), round trip {}", ms(round_trip / 2), ms(round_trip));
    if ahead.abs() > SKEW {
        return Step::warning(
            "clock",
            seen,
            "run NTP on both sides: one-way latencies are unreliable until then (times of samples are not affected)",
        );
    }
    Step::ok("clock", seen)
}

/// One line for each thing where all are alike and well; where they are not, those that are not.
pub(super) fn summary(mut looked: Vec<Looked>, cluster: bool) -> Vec<Step> {
    // The farthest first: its clock stands for all where all are well.
    looked.sort_by_key(|one| std::cmp::Reverse(one.round_trip));
    let mut steps: Vec<Step> = Vec::new();
    let mut names: Vec<&'static str> = Vec::new();
    for name in looked.iter().flat_map(|one| &one.steps).map(|step| step.name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let found: Vec<(&Address, &Step)> = looked
            .iter()
            .flat_map(|one| one.steps.iter().filter(|step| step.name == name).map(move |step| (&one.server, step)))
            .collect();
        let wrong: Vec<_> = found.iter().filter(|(_, step)| step.outcome != Outcome::Ok).collect();
        match wrong.as_slice() {
            [] if name == "clock" => steps.extend(found.first().map(|(_, step)| (*step).clone())),
            [] => {
                let mut seen: Vec<&str> = found.iter().map(|(_, step)| step.seen.as_str()).collect();
                seen.sort_unstable();
                seen.dedup();
                steps.push(Step::ok(name, seen.join(" · ")));
            }
            [(_, first), rest @ ..] if wrong.len() == found.len() && rest.iter().all(|(_, step)| step == first) => {
                steps.push((*first).clone());
            }
            some => steps.extend(some.iter().map(|(server, step)| {
                let mut step = (*step).clone();
                if cluster {
                    step.seen = format!("{server}: {}", step.seen);
                }
                step
            })),
        }
    }
    steps
}
