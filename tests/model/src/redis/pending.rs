//! Streams: reading for a group, and what is pending.

use std::collections::BTreeMap;

use super::id::Id;
use super::reply::{Bytes, Reply};
use super::stream::{Group, Pending, Stream};
use super::streams::delivered;
use super::{Answer, Redis, integer, wrong_arity};

/// Entries that one XAUTOCLAIM looks at for each that it may claim.
const ATTEMPTS: i64 = 10;

fn no_group(key: &[u8], group: &[u8], then: &str) -> Reply {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Reply::Error(format!("NOGROUP No such key '{key}' or consumer group '{group}'{then}"))
}

impl Redis {
    fn group_mut(&mut self, key: &Bytes, group: &Bytes, then: &str) -> Result<(&mut Stream, Group), Reply> {
        let found = self.stream_mut(key)?.and_then(|stream| {
            let found = stream.groups.remove(group)?;
            Some((stream, found))
        });
        found.ok_or_else(|| no_group(key, group, then))
    }

    /// XREADGROUP GROUP group consumer [COUNT n] [BLOCK ms] STREAMS key >. Never waits.
    pub(super) fn xreadgroup(&mut self, args: &[Bytes]) -> Answer {
        let [_, name, consumer, options @ ..] = args else { return Err(wrong_arity("xreadgroup")) };
        let [options @ .., _, key, _] = options else { return Err(wrong_arity("xreadgroup")) };
        let mut count = usize::MAX;
        for option in options.chunks_exact(2).filter(|option| &*option[0] == b"COUNT") {
            count = usize::try_from(integer(&option[1])?).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
        }
        let (now, version) = (self.now, self.version);
        let (stream, mut group) = self.group_mut(key, name, " in XREADGROUP with GROUP option")?;
        let after = group.last.next();
        let ids: Vec<Id> =
            after.into_iter().flat_map(|from| stream.entries.range(from..)).map(|(id, _)| *id).take(count).collect();
        if version.consumers_at_once || !ids.is_empty() {
            group.consumers.insert(consumer.clone(), now);
        }
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            group.read = stream.read_after(&group, id, version);
            group.last = id;
            group.pending.insert(id, Pending { consumer: consumer.clone(), at: now, count: 1 });
            entries.extend(stream.entries.get(&id).map(|fields| delivered(id, fields)));
        }
        stream.groups.insert(name.clone(), group);
        if entries.is_empty() {
            return Ok(Reply::Nil);
        }
        Ok(Reply::Array(vec![Reply::Array(vec![Reply::Bulk(key.clone()), Reply::Array(entries)])]))
    }

    pub(super) fn xack(&mut self, args: &[Bytes]) -> Answer {
        let [key, group, ids @ ..] = args else { return Err(wrong_arity("xack")) };
        // An acknowledgement of nothing changes nothing, and copies nothing.
        let Some(group) = self.stream_mut(key)?.and_then(|stream| stream.groups.get_mut(group)) else { return Ok(Reply::Int(0)) };
        let ids = ids.iter().map(|id| Id::parse(id, 0)).collect::<Result<Vec<_>, _>>()?;
        Ok(Reply::count(ids.iter().filter(|id| group.pending.remove(id).is_some()).count()))
    }

    pub(super) fn xpending(&self, args: &[Bytes]) -> Answer {
        let [key, name, range @ ..] = args else { return Err(wrong_arity("xpending")) };
        let range = match range {
            [] => None,
            [from, to, count, consumer @ ..] if consumer.len() <= 1 => {
                let count = usize::try_from(integer(count)?).unwrap_or(0);
                Some((Id::start(from)?, Id::end(to)?, count, consumer.first()))
            }
            _ => return Err(Reply::err("syntax error")),
        };
        let group = self.stream_at(key)?.and_then(|stream| stream.groups.get(name)).ok_or_else(|| no_group(key, name, ""))?;
        let Some((from, to, count, consumer)) = range else { return Ok(pending_summary(group)) };
        if from > to {
            return Ok(Reply::Array(Vec::new()));
        }
        let whose = |pending: &Pending| consumer.is_none_or(|consumer| pending.consumer == *consumer);
        let found = group.pending.range(from..=to).filter(|(_, pending)| whose(pending)).take(count);
        let one = |(id, pending): (&Id, &Pending)| {
            Reply::Array(vec![
                id.reply(),
                Reply::Bulk(pending.consumer.clone()),
                Reply::Int(self.now.saturating_sub(pending.at) as i64),
                Reply::Int(pending.count),
            ])
        };
        Ok(Reply::Array(found.map(one).collect()))
    }

    /// XCLAIM key group consumer idle id [JUSTID]: of one entry.
    pub(super) fn xclaim(&mut self, args: &[Bytes]) -> Answer {
        let [key, name, consumer, idle, id, options @ ..] = args else { return Err(wrong_arity("xclaim")) };
        let (now, version) = (self.now, self.version);
        let just_id = options.iter().any(|option| &**option == b"JUSTID");
        if self.stream_at(key)?.is_none_or(|stream| !stream.groups.contains_key(name)) {
            return Err(no_group(key, name, ""));
        }
        let idle = integer(idle).map_err(|_| Reply::err("Invalid min-idle-time argument for XCLAIM"))?.max(0);
        let Ok(id) = Id::parse(id, 0) else {
            return Err(Reply::err(&format!("Unrecognized XCLAIM option '{}'", String::from_utf8_lossy(id))));
        };
        let (stream, mut group) = self.group_mut(key, name, "")?;
        if version.consumers_at_once {
            group.consumers.insert(consumer.clone(), now);
        }
        let mut claimed = Vec::new();
        if !stream.entries.contains_key(&id) {
            group.pending.remove(&id);
        } else if let Some(pending) = group.pending.get_mut(&id)
            && now.saturating_sub(pending.at) as i64 >= idle
        {
            group.consumers.insert(consumer.clone(), now);
            *pending = Pending { consumer: consumer.clone(), at: now, count: pending.count + i64::from(!just_id) };
            claimed.push(claimed_entry(stream, id, just_id));
        }
        stream.groups.insert(name.clone(), group);
        Ok(Reply::Array(claimed))
    }

    /// XAUTOCLAIM key group consumer idle from [COUNT n] [JUSTID].
    pub(super) fn xautoclaim(&mut self, args: &[Bytes]) -> Answer {
        let [key, name, consumer, idle, from, options @ ..] = args else { return Err(wrong_arity("xautoclaim")) };
        let idle = integer(idle).map_err(|_| Reply::err("Invalid min-idle-time argument for XAUTOCLAIM"))?.max(0);
        let from = Id::start(from)?;
        let just_id = options.iter().any(|option| &**option == b"JUSTID");
        let mut left = match options {
            [option, count, ..] if &**option == b"COUNT" => integer(count)?,
            _ => 100,
        };
        if left < 1 {
            return Err(Reply::err("COUNT must be > 0"));
        }
        let (now, version) = (self.now, self.version);
        self.stream_at(key)?;
        let (stream, mut group) = self.group_mut(key, name, "")?;
        if version.consumers_at_once {
            group.consumers.insert(consumer.clone(), now);
        }
        let (mut attempts, mut claimed, mut deleted) = (left * ATTEMPTS, Vec::new(), Vec::new());
        let listed: Vec<Id> = group.pending.range(from..).map(|(id, _)| *id).collect();
        let mut listed = listed.into_iter();
        while attempts > 0 && left > 0 {
            attempts -= 1;
            let Some(id) = listed.next() else { break };
            if !stream.entries.contains_key(&id) {
                group.pending.remove(&id);
                deleted.push(id.reply());
                left -= 1;
                continue;
            }
            let Some(pending) = group.pending.get_mut(&id) else { continue };
            if (now.saturating_sub(pending.at) as i64) < idle {
                continue;
            }
            group.consumers.insert(consumer.clone(), now);
            *pending = Pending { consumer: consumer.clone(), at: now, count: pending.count + i64::from(!just_id) };
            claimed.push(claimed_entry(stream, id, just_id));
            left -= 1;
        }
        let next = listed.next().unwrap_or_default();
        stream.groups.insert(name.clone(), group);
        Ok(Reply::Array(vec![next.reply(), Reply::Array(claimed), Reply::Array(deleted)]))
    }
}

fn claimed_entry(stream: &Stream, id: Id, just_id: bool) -> Reply {
    match stream.entries.get(&id) {
        Some(fields) if !just_id => delivered(id, fields),
        _ => id.reply(),
    }
}

fn pending_summary(group: &Group) -> Reply {
    let (Some(first), Some(last)) = (group.pending.keys().next(), group.pending.keys().next_back()) else {
        return Reply::Array(vec![Reply::Int(0), Reply::Nil, Reply::Nil, Reply::Nil]);
    };
    let mut counts = BTreeMap::<&Bytes, usize>::new();
    for pending in group.pending.values() {
        *counts.entry(&pending.consumer).or_default() += 1;
    }
    let counts =
        counts.into_iter().map(|(name, count)| Reply::Array(vec![Reply::Bulk(name.clone()), Reply::bulk(count.to_string())]));
    Reply::Array(vec![Reply::count(group.pending.len()), first.reply(), last.reply(), Reply::Array(counts.collect())])
}
