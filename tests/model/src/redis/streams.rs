//! Streams: entries, groups, and looking at them.

use std::sync::Arc;

use super::id::Id;
use super::reply::{Bytes, Reply};
use super::stream::{Fields, Group, Stream};
use super::{Answer, Redis, Value, integer, wrong_arity};

const NEEDS_KEY: &str = "The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM \
                         option to create an empty stream automatically.";

/// An entry as an answer.
fn entry(id: Id, fields: &Fields) -> Reply {
    Reply::Array(vec![id.reply(), Reply::Array(fields.iter().cloned().map(Reply::Bulk).collect())])
}

pub(super) fn no_such_group(group: &[u8], key: &[u8]) -> Reply {
    let (group, key) = (String::from_utf8_lossy(group), String::from_utf8_lossy(key));
    Reply::Error(format!("NOGROUP No such consumer group '{group}' for key name '{key}'"))
}

impl Redis {
    pub(super) fn xadd(&mut self, args: &[Bytes]) -> Answer {
        let [key, id, fields @ ..] = args else { return Err(wrong_arity("xadd")) };
        if fields.is_empty() || !fields.len().is_multiple_of(2) {
            return Err(wrong_arity("xadd"));
        }
        let given = if &**id == b"*" { None } else { Some(Id::parse(id, 0)?) };
        if given == Some(Id::default()) {
            return Err(Reply::err("The ID specified in XADD must be greater than 0-0"));
        }
        let now = self.now;
        self.stream_at(key)?;
        if self.slot(key).is_none() {
            self.put(key, Value::Stream(Arc::default()), None);
        }
        let Some(stream) = self.stream_mut(key)? else { return Err(Reply::err("no such key")) };
        if stream.last == Id::MAX {
            return Err(Reply::err("The stream has exhausted the last possible ID, unable to add more items"));
        }
        let id = match given {
            Some(id) if id <= stream.last => {
                return Err(Reply::err("The ID specified in XADD is equal or smaller than the target stream top item"));
            }
            Some(id) => id,
            None if now > stream.last.ms => Id { ms: now, seq: 0 },
            None => stream.last.next().unwrap_or(Id::MAX),
        };
        stream.entries.insert(id, fields.into());
        stream.last = id;
        stream.added += 1;
        Ok(id.reply())
    }

    pub(super) fn xlen(&self, args: &[Bytes]) -> Answer {
        let [key] = args else { return Err(wrong_arity("xlen")) };
        Ok(Reply::count(self.stream_at(key)?.map_or(0, |stream| stream.entries.len())))
    }

    pub(super) fn xrange(&self, args: &[Bytes]) -> Answer {
        let [key, from, to, options @ ..] = args else { return Err(wrong_arity("xrange")) };
        let (from, to) = (Id::start(from)?, Id::end(to)?);
        let count = match options {
            [] => i64::MAX,
            [option, count] if &**option == b"COUNT" => integer(count)?.max(0),
            _ => return Err(Reply::err("syntax error")),
        };
        let Some(stream) = self.stream_at(key)? else { return Ok(Reply::Array(Vec::new())) };
        if count == 0 {
            return Ok(Reply::Nil);
        }
        if from > to {
            return Ok(Reply::Array(Vec::new()));
        }
        let entries = stream.entries.range(from..=to).take(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(Reply::Array(entries.map(|(id, fields)| entry(*id, fields)).collect()))
    }

    pub(super) fn xtrim(&mut self, args: &[Bytes]) -> Answer {
        let [key, strategy, exactly, threshold] = args else { return Err(wrong_arity("xtrim")) };
        if &**exactly != b"=" {
            return Err(Reply::err("syntax error"));
        }
        let (from, longest) = match &**strategy {
            b"MINID" => (Id::parse(threshold, 0)?, usize::MAX),
            b"MAXLEN" => {
                let longest = usize::try_from(integer(threshold)?);
                (Id::default(), longest.map_err(|_| Reply::err("The MAXLEN argument must be >= 0."))?)
            }
            _ => return Err(Reply::err("syntax error")),
        };
        let Some(stream) = self.stream_mut(key)? else { return Ok(Reply::Int(0)) };
        let mut gone = 0;
        while let Some(first) = stream.entries.first_entry() {
            let goes = *first.key() < from;
            if !goes && stream.entries.len() <= longest {
                break;
            }
            stream.entries.pop_first();
            gone += 1;
        }
        Ok(Reply::count(gone))
    }

    pub(super) fn xdel(&mut self, args: &[Bytes]) -> Answer {
        let [key, ids @ ..] = args else { return Err(wrong_arity("xdel")) };
        let Some(stream) = self.stream_mut(key)? else { return Ok(Reply::Int(0)) };
        let ids = ids.iter().map(|id| Id::parse(id, 0)).collect::<Result<Vec<_>, _>>()?;
        let mut gone = 0;
        for id in ids {
            if stream.entries.remove(&id).is_some() {
                stream.max_deleted = stream.max_deleted.max(id);
                gone += 1;
            }
        }
        Ok(Reply::count(gone))
    }

    pub(super) fn xinfo(&self, args: &[Bytes]) -> Answer {
        let [what, key, rest @ ..] = args else { return Err(wrong_arity("xinfo")) };
        // Of a key of another type as well.
        if self.slot(key).is_none() {
            return Err(Reply::err("no such key"));
        }
        let Some(stream) = self.stream_at(key)? else { return Err(Reply::err("no such key")) };
        match (&**what, rest) {
            (b"STREAM", []) => Ok(info(stream)),
            (b"GROUPS", []) => {
                Ok(Reply::Array(stream.groups.iter().map(|(name, group)| self.group_info(stream, name, group)).collect()))
            }
            (b"CONSUMERS", [group]) => {
                let found = stream.groups.get(group).ok_or_else(|| no_such_group(group, key))?;
                let one = |(name, seen): (&Bytes, &u64)| {
                    Reply::Array(vec![
                        Reply::bulk("name"),
                        Reply::Bulk(name.clone()),
                        Reply::bulk("pending"),
                        Reply::count(found.pending_of(name)),
                        Reply::bulk("idle"),
                        Reply::Int(self.now.saturating_sub(*seen) as i64),
                    ])
                };
                Ok(Reply::Array(found.consumers.iter().map(one).collect()))
            }
            _ => Err(Reply::err("unknown subcommand")),
        }
    }

    fn group_info(&self, stream: &Stream, name: &Bytes, group: &Group) -> Reply {
        let number = |number: Option<i64>| number.map_or(Reply::Nil, Reply::Int);
        Reply::Array(vec![
            Reply::bulk("name"),
            Reply::Bulk(name.clone()),
            Reply::bulk("consumers"),
            Reply::count(group.consumers.len()),
            Reply::bulk("pending"),
            Reply::count(group.pending.len()),
            Reply::bulk("last-delivered-id"),
            group.last.reply(),
            Reply::bulk("entries-read"),
            number(group.read),
            Reply::bulk("lag"),
            number(stream.lag(group, self.version)),
        ])
    }

    pub(super) fn xgroup(&mut self, args: &[Bytes]) -> Answer {
        let [what, key, group, rest @ ..] = args else { return Err(wrong_arity("xgroup")) };
        let makes_stream = &**what == b"CREATE" && rest.iter().skip(1).any(|option| &**option == b"MKSTREAM");
        match self.stream_at(key)? {
            None if !makes_stream => return Err(Reply::err(NEEDS_KEY)),
            Some(stream) if matches!(&**what, b"SETID" | b"DELCONSUMER") && !stream.groups.contains_key(group) => {
                return Err(no_such_group(group, key));
            }
            _ => {}
        }
        match (&**what, rest) {
            (b"CREATE", [id, options @ ..]) => self.create_group(key, group, id, options),
            (b"SETID", [id]) => {
                // The bounds of a range are ids here.
                let id = match &**id {
                    b"-" => Id::default(),
                    b"+" => Id::MAX,
                    id => Id::parse(id, 0)?,
                };
                if let Some(group) = self.stream_mut(key)?.and_then(|stream| stream.groups.get_mut(group)) {
                    (group.last, group.read) = (id, None);
                }
                Ok(Reply::ok())
            }
            (b"DESTROY", []) => {
                let gone = self.stream_mut(key)?.is_some_and(|stream| stream.groups.remove(group).is_some());
                Ok(Reply::Int(i64::from(gone)))
            }
            (b"DELCONSUMER", [consumer]) => {
                let Some(group) = self.stream_mut(key)?.and_then(|stream| stream.groups.get_mut(group)) else {
                    return Ok(Reply::Int(0));
                };
                let pending = group.pending_of(consumer);
                group.consumers.remove(consumer);
                group.pending.retain(|_, pending| pending.consumer != *consumer);
                Ok(Reply::count(pending))
            }
            _ => Err(Reply::err("unknown subcommand")),
        }
    }

    fn create_group(&mut self, key: &Bytes, group: &Bytes, id: &Bytes, options: &[Bytes]) -> Answer {
        let read = match options.iter().position(|option| &**option == b"ENTRIESREAD") {
            Some(at) => Some(integer(options.get(at + 1).map_or(b"", |read| read))?),
            None => None,
        };
        let last = match &**id {
            b"$" => self.stream_at(key)?.map_or(Id::default(), |stream| stream.last),
            id => Id::parse(id, 0)?,
        };
        if self.slot(key).is_none() {
            self.put(key, Value::Stream(Arc::default()), None);
        }
        let Some(stream) = self.stream_mut(key)? else { return Err(Reply::err(NEEDS_KEY)) };
        if stream.groups.contains_key(group) {
            return Err(Reply::Error("BUSYGROUP Consumer Group name already exists".to_owned()));
        }
        stream.groups.insert(group.clone(), Group { last, read, ..Group::default() });
        Ok(Reply::ok())
    }
}

/// What XINFO STREAM says. The shape of the tree inside is not ours.
fn info(stream: &Stream) -> Reply {
    let edge = |found: Option<(&Id, &Fields)>| found.map_or(Reply::Nil, |(id, fields)| entry(*id, fields));
    Reply::Array(vec![
        Reply::bulk("length"),
        Reply::count(stream.entries.len()),
        Reply::bulk("radix-tree-keys"),
        Reply::Int(i64::from(!stream.entries.is_empty())),
        Reply::bulk("radix-tree-nodes"),
        Reply::Int(1 + i64::from(!stream.entries.is_empty())),
        Reply::bulk("last-generated-id"),
        stream.last.reply(),
        Reply::bulk("max-deleted-entry-id"),
        stream.max_deleted.reply(),
        Reply::bulk("entries-added"),
        Reply::Int(stream.added),
        Reply::bulk("recorded-first-entry-id"),
        stream.first().reply(),
        Reply::bulk("groups"),
        Reply::count(stream.groups.len()),
        Reply::bulk("first-entry"),
        edge(stream.entries.first_key_value()),
        Reply::bulk("last-entry"),
        edge(stream.entries.last_key_value()),
    ])
}

/// As [`entry`], for deliveries.
pub(super) fn delivered(id: Id, fields: &Fields) -> Reply {
    entry(id, fields)
}
