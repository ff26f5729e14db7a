//! Whether the user may do what the roles do. Redis 7 says so without doing it (ACL DRYRUN), if the user may ask that.

use std::sync::Arc;

use super::super::client::{Conn, Credentials};
use super::super::shared::Shared;
use super::super::{reply, topology};
use super::{Side, texts};
use crate::address::redis::Address;
use crate::diagnosis::Step;
use crate::model::Partition;
use crate::transport::{Result, TransportError};

/// What both sides do. A word that begins with `@` stands for a key of that kind: a user may have each command on its own keys only, as
/// in charts/redis-cluster/acl.yaml.
const BOTH: &[&[&str]] = &[
    &["INFO"],
    &["PING"],
    &["TIME"],
    &["SCRIPT", "LOAD", "return 1"],
    &["EVAL", "return 1", "1", "@stream"],
    &["EVALSHA", "0", "1", "@stream"],
    &["EXISTS", "@stream"],
    &["XLEN", "@stream"],
    &["XINFO", "GROUPS", "@stream"],
    &["XGROUP", "CREATE", "@stream", "g", "0", "MKSTREAM"],
    &["HGET", "@committed:g", "f"],
    &["HGET", "@meta", "f"],
    &["HSET", "@meta", "f", "v"],
];
/// Streamers.
const EDGE: &[&[&str]] = &[
    &["WAIT", "0", "1"],
    &["XADD", "@stream", "*", "f", "v"],
    &["HGET", "@positions", "f"],
    &["HSET", "@positions", "f", "v"],
    &["HLEN", "@dicts"],
    &["HSET", "@dicts", "f", "v"],
    &["EXISTS", "@dict:0"],
    &["SETNX", "@dict:0", "v"],
    &["GET", "@lease:0"],
    &["SET", "@lease:0", "v"],
    &["PEXPIRE", "@lease:0", "1"],
    &["DEL", "@lease:0"],
    &["LRANGE", "@registry:0", "0", "-1"],
    &["RPUSH", "@registry:0", "v"],
];
/// Collectors, and those who look.
const CENTRAL: &[&[&str]] = &[
    &["XINFO", "STREAM", "@stream"],
    &["XPENDING", "@stream", "g"],
    &["XTRIM", "@stream", "MINID", "0"],
    &["XRANGE", "@stream", "-", "+"],
    &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "@stream", ">"],
    &["XACK", "@stream", "g", "0-1"],
    &["XCLAIM", "@stream", "g", "c", "0", "0-1"],
    &["XAUTOCLAIM", "@stream", "g", "c", "0", "0"],
    &["XGROUP", "DELCONSUMER", "@stream", "g", "c"],
    &["XGROUP", "DESTROY", "@stream", "g"],
    &["XINFO", "CONSUMERS", "@stream", "g"],
    &["HSCAN", "@positions", "0"],
    &["HSCAN", "@committed:g", "0"],
    &["HMGET", "@committed:g", "f"],
    &["HSET", "@committed:g", "f", "v"],
    &["HDEL", "@positions", "f"],
    &["HDEL", "@committed:g", "f"],
    &["HKEYS", "@committed:g"],
    &["HEXISTS", "@positions", "f"],
    &["HLEN", "@positions"],
    &["DEL", "@positions", "@committed:g"],
    &["HDEL", "@meta", "f"],
    &["HGET", "@dicts", "f"],
    &["HGETALL", "@dicts"],
    &["HDEL", "@dicts", "f"],
    &["GET", "@dict:0"],
    &["DEL", "@dict:0"],
];

/// Asks each primary (their users are each their own).
pub(super) async fn look(shared: &Arc<Shared>, primaries: &[Address], side: Side) -> Vec<Step> {
    let cluster = shared.topology.current().is_some_and(|known| matches!(known.kind, topology::Kind::Cluster(_)));
    let mut steps = Vec::new();
    for server in primaries {
        match ask(shared, server, side, cluster).await {
            Ok(None) => {}
            Ok(Some(missing)) => steps.push(missing),
            Err(TransportError::Refused { .. } | TransportError::Corrupt(_)) => {
                return vec![Step::warning(
                    "rights",
                    "cannot be looked up beforehand: the user may not ask (ACL DRYRUN, Redis 7), or the server is older",
                    "a role that misses a right names it when it starts",
                )];
            }
            Err(error) => steps.push(Step::failed("rights", error.to_string(), "")),
        }
    }
    if steps.is_empty() {
        let who = if side == Side::Edge { "a streamer does" } else { "collectors and the API do" };
        steps.push(Step::ok("rights", format!("everything that {who} is permitted on {}", shared.who.patterns)));
    }
    steps
}

/// What is missing.
async fn ask(shared: &Arc<Shared>, server: &Address, side: Side, cluster: bool) -> Result<Option<Step>> {
    let conn = Conn::dial(shared, server, Credentials::Server).await?;
    let stream = shared.keys.stream(Partition::FIRST);
    let tag = stream.trim_end_matches("stream");
    let of_side = if side == Side::Edge { EDGE } else { CENTRAL };
    let mut wanted: Vec<&[&str]> = BOTH.iter().chain(of_side).copied().collect();
    if cluster {
        wanted.push(&["CLUSTER", "SLOTS"]);
    }
    let (mut commands, mut keys) = (Vec::new(), false);
    for call in wanted {
        let call_words =
            call.iter().map(|word| word.strip_prefix('@').map_or_else(|| (*word).to_owned(), |kind| format!("{tag}{kind}")));
        let words: Vec<String> = ["DRYRUN".to_owned(), shared.who.user.clone()].into_iter().chain(call_words).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = reply::text(&conn.call("ACL", texts(&words)).await?)?;
        if said == "OK" {
            continue;
        }
        if said.contains("key") {
            keys = true;
        } else if !commands.contains(&call[0]) {
            commands.push(call[0]);
        }
    }
    if commands.is_empty() && !keys {
        return Ok(None);
    }
    let mut missing = Vec::new();
    let mut grant: Vec<String> = Vec::new();
    if !commands.is_empty() {
        missing.push(format!("the command{} {}", if commands.len() > 1 { "s" } else { "" }, commands.join(", ")));
        grant.extend(commands.iter().map(|command| format!("+{}", command.to_lowercase())));
    }
    if keys {
        missing.push(format!("the keys {}", shared.who.patterns));
        grant.push(shared.who.patterns.clone());
    }
    Ok(Some(Step::failed(
        "rights",
        format!("{server}: user `{}` has no permission for {}", shared.who.user, missing.join(" and ")),
        format!("ACL SETUSER {} {}", shared.who.user, grant.join(" ")),
    )))
}
