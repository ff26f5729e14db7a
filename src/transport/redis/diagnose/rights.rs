//! Whether each primary has the commands that the roles use, and the user may run them. Redis 7 says so without running any (ACL DRYRUN),
//! if the user may ask that. Where it may not, the calls are run that change nothing, and of the others it is found out at least
//! whether the server knows them: without arguments each is refused for that, before anything else is looked at.

use std::sync::Arc;

use fred::types::Value;
use futures_util::future::join_all;

use super::super::client::{Conn, Credentials};
use super::super::error::{self, NotRun};
use super::super::shared::Shared;
use super::super::{reply, topology};
use super::{Side, key, partition_on, parts};
use crate::address::redis::Address;
use crate::diagnosis::Step;
use crate::model::Partition;
use crate::transport::Result;

/// A call that a role makes. A word that begins with `@` stands for a key of that kind: a user may have each command on its own keys only,
/// as in charts/redis-cluster/acl.yaml. The names in it (a group `telemetry-check`, a source or dictionary `0`) are nobody's.
struct Call {
    words: &'static [&'static str],
    /// Whether it changes nothing as it stands here, whatever Redis holds.
    harmless: bool,
}

/// Is only asked about.
const fn asked(words: &'static [&'static str]) -> Call {
    Call { words, harmless: false }
}

/// Changes nothing: it reads little, or writes to what is not there.
const fn harmless(words: &'static [&'static str]) -> Call {
    Call { words, harmless: true }
}

/// What both sides do.
const BOTH: &[Call] = &[
    harmless(&["INFO"]),
    harmless(&["PING"]),
    harmless(&["TIME"]),
    harmless(&["SCRIPT", "LOAD", "return 1"]),
    harmless(&["EVAL", "return 1", "1", "@stream"]),
    harmless(&["EVALSHA", "0", "1", "@stream"]),
    harmless(&["EXISTS", "@stream"]),
    harmless(&["XLEN", "@stream"]),
    harmless(&["XINFO", "GROUPS", "@stream"]),
    asked(&["XGROUP", "CREATE", "@stream", "telemetry-check", "0", "MKSTREAM"]),
    harmless(&["HGET", "@committed:telemetry-check", "0"]),
    harmless(&["HGET", "@meta", "0"]),
    asked(&["HSET", "@meta", "0", "v"]),
];
/// Streamers.
const EDGE: &[Call] = &[
    harmless(&["WAIT", "0", "1"]),
    asked(&["XADD", "@stream", "*", "f", "v"]),
    harmless(&["HGET", "@positions", "0"]),
    asked(&["HSET", "@positions", "0", "v"]),
    harmless(&["HLEN", "@dicts"]),
    asked(&["HSET", "@dicts", "0", "v"]),
    harmless(&["EXISTS", "@dict:0"]),
    asked(&["SETNX", "@dict:0", "v"]),
    harmless(&["GET", "@lease:0"]),
    asked(&["SET", "@lease:0", "v"]),
    harmless(&["PEXPIRE", "@lease:0", "1"]),
    harmless(&["DEL", "@lease:0"]),
    harmless(&["LRANGE", "@registry:0", "0", "0"]),
    asked(&["RPUSH", "@registry:0", "v"]),
];
/// Collectors, and those who look.
const CENTRAL: &[Call] = &[
    asked(&["XINFO", "STREAM", "@stream"]),
    harmless(&["XPENDING", "@stream", "telemetry-check"]),
    harmless(&["XTRIM", "@stream", "MINID", "0"]),
    harmless(&["XRANGE", "@stream", "0-1", "0-1"]),
    harmless(&["XREADGROUP", "GROUP", "telemetry-check", "c", "STREAMS", "@stream", ">"]),
    harmless(&["XACK", "@stream", "telemetry-check", "0-1"]),
    harmless(&["XCLAIM", "@stream", "telemetry-check", "c", "0", "0-1"]),
    harmless(&["XAUTOCLAIM", "@stream", "telemetry-check", "c", "0", "0"]),
    harmless(&["XGROUP", "DELCONSUMER", "@stream", "telemetry-check", "c"]),
    harmless(&["XGROUP", "DESTROY", "@stream", "telemetry-check"]),
    harmless(&["XINFO", "CONSUMERS", "@stream", "telemetry-check"]),
    asked(&["HSCAN", "@positions", "0"]),
    asked(&["HSCAN", "@committed:telemetry-check", "0"]),
    harmless(&["HMGET", "@committed:telemetry-check", "0"]),
    asked(&["HSET", "@committed:telemetry-check", "0", "v"]),
    harmless(&["HDEL", "@positions", "0"]),
    harmless(&["HDEL", "@committed:telemetry-check", "0"]),
    harmless(&["HKEYS", "@committed:telemetry-check"]),
    harmless(&["HEXISTS", "@positions", "0"]),
    harmless(&["HLEN", "@positions"]),
    asked(&["DEL", "@positions", "@committed:telemetry-check"]),
    harmless(&["HDEL", "@meta", "0"]),
    harmless(&["HGET", "@dicts", "0"]),
    asked(&["HGETALL", "@dicts"]),
    harmless(&["HDEL", "@dicts", "0"]),
    harmless(&["GET", "@dict:0"]),
    harmless(&["DEL", "@dict:0"]),
];

/// What a server does not do for this user.
#[derive(Default)]
struct Missing {
    /// Commands that the server does not know.
    unknown: Vec<&'static str>,
    /// Commands that the user may not run.
    denied: Vec<&'static str>,
    /// Whether keys are out of reach.
    keys: bool,
    /// Whether some of it could not be found out.
    unsure: bool,
}

impl Missing {
    fn note(&mut self, call: &Call, why: &NotRun) {
        let command = call.words[0];
        match why {
            NotRun::Unknown(_) if !self.unknown.contains(&command) => self.unknown.push(command),
            NotRun::Denied { keys: true } => self.keys = true,
            NotRun::Denied { keys: false } if !self.denied.contains(&command) => self.denied.push(command),
            NotRun::Unknown(_) | NotRun::Denied { .. } | NotRun::Other => {}
        }
    }
}

/// Asks each primary (their users are each their own).
pub(super) async fn look(shared: &Arc<Shared>, primaries: &[Address], side: Side) -> Vec<Step> {
    let (mut steps, mut unsure) = (Vec::new(), false);
    for server in primaries {
        match ask(shared, server, side).await {
            Ok(missing) => {
                unsure |= missing.unsure;
                steps.extend(faults(shared, server, &missing));
            }
            Err(error) => steps.push(Step::failed("rights", error.to_string(), "")),
        }
    }
    if !steps.is_empty() {
        return steps;
    }
    if unsure {
        return vec![Step::warning(
            "rights",
            "some cannot be looked up beforehand: the user may not ask (ACL DRYRUN, Redis 7), or the server is older",
            "a role that misses a right names it when it starts",
        )];
    }
    let who = if side == Side::Edge { "a streamer does" } else { "collectors and the API do" };
    vec![Step::ok("rights", format!("everything that {who} is permitted on {}", shared.who.patterns))]
}

fn faults(shared: &Shared, server: &Address, missing: &Missing) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut fault = |name, reason: String| {
        let (seen, todo) = parts(&reason);
        steps.push(Step::failed(name, format!("{server}: {seen}"), todo));
    };
    if !missing.unknown.is_empty() {
        fault("commands", error::lacking(&missing.unknown));
    }
    if !missing.denied.is_empty() || missing.keys {
        let keys = missing.keys.then_some(shared.who.patterns.as_str());
        fault("rights", error::denied(&shared.who, &missing.denied, keys));
    }
    steps
}

/// What is missing on a primary.
async fn ask(shared: &Arc<Shared>, server: &Address, side: Side) -> Result<Missing> {
    let conn = Conn::dial(shared, server, Credentials::Server).await?;
    let of_side = if side == Side::Edge { EDGE } else { CENTRAL };
    let mut calls: Vec<&Call> = BOTH.iter().chain(of_side).collect();
    let cluster = shared.topology.current().is_some_and(|known| matches!(known.kind, topology::Kind::Cluster(_)));
    if cluster {
        calls.push(&Call { words: &["CLUSTER", "SLOTS"], harmless: true });
    }
    let own = partition_on(shared, server);
    let words = |call: &Call| -> Vec<String> {
        let partition = own.unwrap_or(Partition::FIRST);
        let word = |word: &&str| word.strip_prefix('@').map_or_else(|| (*word).to_owned(), |kind| key(shared, partition, kind));
        call.words.iter().map(word).collect()
    };
    let mut missing = Missing::default();
    let user = &shared.who.user;
    // Where it may not be asked, that is found out once.
    missing.unsure = dry_run(&conn, user, words(calls[0])).await?.is_none();
    let can_ask = !missing.unsure;
    let (conn, words) = (&conn, &words);
    let answers = join_all(calls.iter().map(|call| async move {
        if can_ask && let Some(said) = dry_run(conn, user, words(call)).await? {
            return Ok(said);
        }
        run(conn, call, own.is_some().then(|| words(call))).await
    }))
    .await;
    for (call, said) in calls.into_iter().zip(answers) {
        if let Err(why) = said? {
            missing.note(call, &why);
        }
    }
    Ok(missing)
}

/// What ACL DRYRUN says of a call; `None` where it cannot be asked.
async fn dry_run(conn: &Conn, user: &str, call: Vec<String>) -> Result<Option<std::result::Result<(), NotRun>>> {
    let command = call[0].clone();
    let words = ["DRYRUN".to_owned(), user.to_owned()].into_iter().chain(call).map(Value::from).collect();
    match conn.attempt_command("ACL", words).await? {
        Ok(said) => {
            let said = reply::text(&said)?;
            Ok(Some(if said == "OK" { Ok(()) } else { Err(NotRun::Denied { keys: error::is_about_keys(&said) }) }))
        }
        Err(NotRun::Unknown(name)) if name == command => Ok(Some(Err(NotRun::Unknown(name)))),
        Err(_) => Ok(None),
    }
}

/// What the server says to a call: to all of it where that changes nothing and has `words` for this server, else to its name.
async fn run(conn: &Conn, call: &Call, words: Option<Vec<String>>) -> Result<std::result::Result<(), NotRun>> {
    let (command, args) = (call.words[0], words.filter(|_| call.harmless).unwrap_or_default());
    let args = args.into_iter().skip(1).map(Value::from).collect();
    Ok(conn.attempt_command(command, args).await?.map(drop))
}
