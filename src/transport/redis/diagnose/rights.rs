//! Whether the user may do what the roles do. Redis 7 says so without doing it (ACL DRYRUN), if the user may ask that.

use std::sync::Arc;

use super::super::client::{Conn, Credentials};
use super::super::shared::Shared;
use super::super::url::Address;
use super::super::{reply, topology};
use super::{Side, texts};
use crate::diagnosis::Step;
use crate::transport::{Result, TransportError};

/// What both sides do; `K` stands for a key of ours.
const BOTH: &[&[&str]] = &[
    &["INFO"],
    &["PING"],
    &["TIME"],
    &["SCRIPT", "LOAD", "return 1"],
    &["EVAL", "return 1", "1", "K"],
    &["EVALSHA", "0", "1", "K"],
    &["EXISTS", "K"],
    &["GET", "K"],
    &["DEL", "K"],
    &["HGET", "K", "f"],
    &["HSET", "K", "f", "v"],
    &["XLEN", "K"],
    &["XRANGE", "K", "-", "+"],
    &["XINFO", "GROUPS", "K"],
    &["XPENDING", "K", "g"],
    &["XTRIM", "K", "MINID", "0"],
];
/// Streamers.
const EDGE: &[&[&str]] = &[
    &["SET", "K", "v"],
    &["PEXPIRE", "K", "1"],
    &["HLEN", "K"],
    &["LRANGE", "K", "0", "-1"],
    &["RPUSH", "K", "v"],
    &["XADD", "K", "*", "f", "v"],
    &["XGROUP", "CREATE", "K", "g", "0", "MKSTREAM"],
    &["WAIT", "0", "1"],
];
/// Collectors, and those who look.
const CENTRAL: &[&[&str]] = &[
    &["HDEL", "K", "f"],
    &["HGETALL", "K"],
    &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "K", ">"],
    &["XACK", "K", "g", "0-1"],
    &["XCLAIM", "K", "g", "c", "0", "0-1"],
    &["XAUTOCLAIM", "K", "g", "c", "0", "0"],
    &["XGROUP", "CREATE", "K", "g", "0", "MKSTREAM"],
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
        let who = if side == Side::Edge { "a streamer" } else { "streamers, collectors and the API" };
        steps.push(Step::ok("rights", format!("everything that {who} does is permitted on {}", shared.who.patterns)));
    }
    steps
}

/// What is missing.
async fn ask(shared: &Arc<Shared>, server: &Address, side: Side, cluster: bool) -> Result<Option<Step>> {
    let conn = Conn::dial(shared, server, Credentials::Server).await?;
    let key = shared.keys.stream(0);
    let mut wanted: Vec<&[&str]> = BOTH.iter().chain(EDGE).copied().collect();
    if side == Side::Central {
        wanted.extend(CENTRAL);
    }
    if cluster {
        wanted.push(&["CLUSTER", "SLOTS"]);
    }
    let (mut commands, mut keys) = (Vec::new(), false);
    for call in wanted {
        let words: Vec<&str> = ["DRYRUN", shared.who.user.as_str()]
            .into_iter()
            .chain(call.iter().map(|word| if *word == "K" { key.as_str() } else { word }))
            .collect();
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
