//! Whether the keys of the queue are what they should be: of the right type, a stream that takes entries, groups that are delivered to. What
//! is not is named with the commands that mend it, as they are typed at redis-cli's prompt.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fred::types::Value;
use futures_util::future::join_all;

use super::super::client::{Conn, Credentials};
use super::super::malformed::{KeyKind, quoted, shown};
use super::super::marks::{GENERATION, MARK, MarkFields, mark, mark_todo};
use super::super::reply;
use super::super::shared::Shared;
use super::{Side, parts};
use crate::address::redis::Address;
use crate::diagnosis::Step;
use crate::model::Partition;
use crate::transport::{Result, TransportError};

/// The greatest id that an entry can have: a stream that had it takes no entry any more.
const GREATEST: &str = "18446744073709551615-18446744073709551615";
/// Entries that are named to be deleted; where there are more, the check is run again.
const DELETED_AT_ONCE: usize = 10;
/// How far ahead of the server's clock an id may be that a clock explains, ms.
const AHEAD: u64 = 86_400_000;

/// Looks at every partition whose server answers. Streamers may not look into streams, so what is there is looked at for the centre only.
pub(super) async fn look(shared: &Arc<Shared>, away: &[Address], side: Side) -> Vec<Step> {
    let (conns, served) = reach(shared, away).await;
    let looked = join_all(served.iter().filter_map(|(partition, server)| {
        let conn = conns.get(server)?;
        Some(async { one(shared, conn, *partition, side).await })
    }))
    .await;
    let all = looked.len() == usize::from(shared.config.partitions.count()) && looked.iter().all(Option::is_some);
    let steps: Vec<Step> = looked.into_iter().flatten().flatten().collect();
    // Of what could not be asked nothing is said: other steps name the reason.
    if steps.is_empty() && all { vec![Step::ok("queue", "its keys are what they should be")] } else { steps }
}

/// Connections to the servers that answer, and which of them has which partition.
async fn reach(shared: &Arc<Shared>, away: &[Address]) -> (HashMap<Address, Conn>, Vec<(Partition, Address)>) {
    let mut conns: HashMap<Address, Conn> = HashMap::new();
    let mut served: Vec<(Partition, Address)> = Vec::new();
    for partition in shared.config.partitions {
        let Ok(server) = shared.topology.place(shared, partition).await else { continue };
        if away.contains(&server) {
            continue;
        }
        if !conns.contains_key(&server) {
            // That it cannot be asked is said elsewhere.
            let Ok(conn) = Conn::dial(shared, &server, Credentials::Server).await else { continue };
            conns.insert(server.clone(), conn);
        }
        served.push((partition, server));
    }
    (conns, served)
}

/// See [`super::store_marks`].
pub(super) async fn marks(shared: &Arc<Shared>) -> BTreeSet<String> {
    let (conns, served) = reach(shared, &[]).await;
    let field = MarkFields::of(&shared.config.group).mark;
    let asked = served.iter().filter_map(|(partition, server)| {
        let call = conns.get(server)?.call("HGET", texts(&[&shared.keys.meta(*partition), &field]));
        Some(async { mark(&call.await.ok()?) })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What is wrong with the keys of a partition; `None` where it does not answer.
async fn one(shared: &Shared, conn: &Conn, partition: Partition, side: Side) -> Option<Vec<Step>> {
    let keys = &shared.keys;
    let (stream, positions, dicts) = (keys.stream(partition), keys.positions(partition), keys.dicts(partition));
    let committed = keys.committed(partition, &shared.config.group);
    // What each side may ask of each.
    let typed: [(&'static str, Vec<&str>); 4] = match side {
        Side::Edge => {
            [("XLEN", vec![&stream]), ("HGET", vec![&positions, "0"]), ("HLEN", vec![&dicts]), ("HGET", vec![&committed, "0"])]
        }
        Side::Central => {
            [("XLEN", vec![&stream]), ("HLEN", vec![&positions]), ("HGET", vec![&dicts, "0"]), ("HGET", vec![&committed, "0"])]
        }
    };
    let mut steps = Vec::new();
    for answer in join_all(typed.into_iter().map(|(command, words)| conn.call(command, texts(&words)))).await {
        if let Err(error) = answer {
            steps.push(blocked(&error)?);
        }
    }
    let fields = MarkFields::of(&shared.config.group);
    for (what, field) in [(MARK, &fields.mark), (GENERATION, &fields.generation)] {
        steps.extend(malformed_mark(shared, conn, partition, what, field).await);
    }
    if side == Side::Central && steps.is_empty() {
        steps.extend(entries(shared, conn, &stream).await.ok()?);
    }
    Some(steps)
}

fn blocked(error: &TransportError) -> Option<Step> {
    let TransportError::Blocked { reason, .. } = error else { return None };
    let (seen, todo) = parts(reason);
    Some(Step::failed("queue", seen, todo))
}

/// Whether the store's mark, or its generation, can be believed.
async fn malformed_mark(shared: &Shared, conn: &Conn, partition: Partition, what: &str, field: &str) -> Option<Step> {
    let key = shared.keys.meta(partition);
    // The number of partitions is in the same key, and is looked at before.
    let value = conn.call("HGET", texts(&[&key, field])).await.ok().filter(|value| !value.is_null())?;
    if mark(&value).is_some() {
        return None;
    }
    let todo = mark_todo(what, &key, field);
    let seen =
        format!("{what} ({key}, {}) is malformed and not believed: {}", quoted(field.as_bytes()), shown(reply::raw(&value)));
    Some(Step::warning("queue", seen, todo))
}

/// Whether the stream takes entries, and every group is given them.
async fn entries(shared: &Shared, conn: &Conn, stream: &str) -> Result<Vec<Step>> {
    if reply::number(&conn.call("EXISTS", texts(&[stream])).await?)? == 0 {
        return Ok(Vec::new());
    }
    let info: HashMap<String, Value> = named(conn.call("XINFO", texts(&["STREAM", stream])).await?);
    let last = info.get("last-generated-id").map(reply::text).transpose()?.unwrap_or_default();
    let mut groups = Vec::new();
    for group in reply::list(conn.call("XINFO", texts(&["GROUPS", stream])).await?) {
        let group = named(group);
        if let (Some(name), Some(at)) = (group.get("name"), group.get("last-delivered-id")) {
            groups.push((reply::raw(name).to_vec(), reply::text(at)?));
        }
    }
    if last == GREATEST {
        let added = info.get("entries-added").map(reply::number).transpose()?;
        return Ok(vec![exhausted(conn, stream, added, &groups).await?]);
    }
    let ahead = groups.iter().filter(|(_, at)| order(at) > order(&last)).map(|(name, at)| {
        let ours = name == shared.config.group.as_str().as_bytes();
        let name = quoted(name);
        let seen = format!(
            "the consumer group {name} of {stream} stands at {at}, ahead of the stream's last entry ({last}): nothing is delivered to it, \
             and what it has not read is kept"
        );
        let todo = set_back(stream, &name);
        if ours { Step::failed("groups", seen, todo) } else { Step::warning("groups", seen, todo) }
    });
    Ok(ahead.collect())
}

/// A stream that takes nothing more, and how it takes entries again: those with ids of the far future go, the next id is that of the clock,
/// and groups that stand ahead of it begin again with what is left.
async fn exhausted(conn: &Conn, stream: &str, added: Option<u64>, groups: &[(Vec<u8>, String)]) -> Result<Step> {
    let time = reply::list(conn.call("TIME", Vec::new()).await?);
    let now = time.first().map_or(Ok(0), reply::number)? * 1000;
    let (from, count) = ((now + AHEAD).to_string(), (DELETED_AT_ONCE + 1).to_string());
    let future = reply::list(conn.call("XRANGE", texts(&[stream, &from, "+", "COUNT", &count])).await?);
    let ids: Vec<String> = future
        .into_iter()
        .filter_map(|entry| reply::list(entry).first().and_then(Value::as_string))
        .take(DELETED_AT_ONCE + 1)
        .collect();
    let mut commands = Vec::new();
    if !ids.is_empty() {
        commands.push(format!("XDEL {stream} {}", ids[..ids.len().min(DELETED_AT_ONCE)].join(" ")));
    }
    if ids.len() > DELETED_AT_ONCE {
        commands.push("then run this check again: there are more of them".to_owned());
    } else {
        let id = format!("{now}-0");
        let added = added.map(|added| format!(" ENTRIESADDED {added} MAXDELETEDID {id}")).unwrap_or_default();
        commands.push(format!("XSETID {stream} {id}{added}"));
        let ahead = groups.iter().filter(|(_, at)| order(at) > (now, 0));
        commands.extend(ahead.map(|(name, _)| format!("XGROUP SETID {stream} {} 0", quoted(name))));
    }
    let seen = format!(
        "the stream {stream} takes no entry any more: it was given one with the greatest id there is, and its sources wait"
    );
    Ok(Step::failed("queue", seen, commands.join(" · ")))
}

/// The command after which everything that is left in a stream is delivered to a group.
pub(in super::super) fn set_back(stream: &str, group: &str) -> String {
    format!(
        "XGROUP SETID {stream} {group} 0; everything that is left is then delivered, and what is stored already is not stored twice"
    )
}

fn order(id: &str) -> (u64, u64) {
    super::super::consume::order(id).unwrap_or_default()
}

/// Arguments of a command.
fn texts(words: &[&str]) -> Vec<Value> {
    words.iter().map(|word| Value::from(*word)).collect()
}

/// Fields by their names.
fn named(value: Value) -> HashMap<String, Value> {
    reply::pairs(value).into_iter().filter_map(|(name, value)| Some((name.as_string()?, value))).collect()
}

/// A number of partitions that is none, and what to do.
pub(super) fn no_number(shared: &Shared, partition: Partition, found: &[u8]) -> Step {
    let (key, ours) = (shared.keys.meta(partition), shared.config.partitions);
    let seen = format!("the number of partitions in {key} is malformed and not believed: {}", shown(found));
    Step::warning(KeyKind::Partitions.name(), seen, format!("HSET {key} partitions {ours}"))
}
