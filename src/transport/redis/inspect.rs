//! Looking, setting back, and taking groups away that are gone. Whatever is asked of Redis at once is bounded, however much is in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fred::types::Value;

use super::consume::{ENTRY, ENTRY_TODO};
use super::malformed::{KeyKind, quoted};
use super::marks::MarkFields;
use super::{RedisTransport, reply, script};
use crate::model::{GroupId, Partition, Partitions, RowRange, SourceId};
use crate::transport::{Backlog, ConsumerState, GroupState, Inspector, PartitionState, Result, SourceState, TransportError};

/// Entries looked at in the first call of [`script::QUEUED`], and in any: Redis reads them with their payloads.
const PAGE: (u64, u64) = (16, 512);
/// Payloads that a call may make Redis read, about.
const PAGE_BYTES: u64 = 2 << 20;
/// Fields of a hash asked for at once.
const FIELDS: &str = "512";
/// Bytes of the name of a group or consumer at most.
const NAME_BYTES: usize = 512;
const WRONG_NAME: &str = "its name is not text of at most 512 bytes";

/// A server that holds a partition, as it answered just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// host:port.
    pub address: String,
    /// How long it took to answer.
    pub round_trip: Duration,
    /// Bytes that it uses.
    pub used_memory: u64,
    /// Bytes that it may use; 0 = as many as there are.
    pub max_memory: u64,
    /// What it does when they are used up; anything but `noeviction` throws parts of the queue away.
    pub policy: String,
}

/// What became of a group that was to be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retired {
    /// There is no such group.
    Unknown,
    /// It is still at work, and stays.
    Active {
        /// One of its consumers.
        consumer: String,
        /// How long ago it was heard of.
        idle: Duration,
    },
    /// It is gone.
    Done {
        /// Entries that it had not acknowledged.
        unacknowledged: u64,
        /// Entries that were kept only for it.
        trimmed: u64,
    },
}

#[async_trait]
impl Inspector for RedisTransport {
    fn partitions(&self) -> Partitions {
        self.shared.config.partitions
    }

    async fn sources(&self, partition: Partition) -> Result<Vec<SourceState>> {
        let positions = self.shared.keys.positions(partition);
        let committed = self.shared.keys.committed(partition, self.group());
        let mut states: BTreeMap<SourceId, SourceState> = BTreeMap::new();
        let state = |source| SourceState { source, position: None, committed: 0 };
        let mut cursor = String::new();
        while let Some(page) = self.scan(partition, &positions, &mut cursor).await? {
            for (field, position) in page {
                let Some(source) = self.source_in(&positions, KeyKind::Positions, &field) else { continue };
                states.entry(source).or_insert_with(|| state(source)).position = self.position_in(&positions, source, &position);
            }
        }
        cursor.clear();
        loop {
            let page = match self.scan(partition, &committed, &mut cursor).await {
                // What stands there instead of a hash says of no source that it is committed.
                Ok(None) | Err(TransportError::Blocked { .. }) => break,
                Ok(Some(page)) => page,
                Err(error) => return Err(error),
            };
            for (field, row) in page {
                let Some(source) = self.source_in(&committed, KeyKind::Committed, &field) else { continue };
                states.entry(source).or_insert_with(|| state(source)).committed = self.committed_in(&committed, source, &row);
            }
        }
        Ok(states.into_values().collect())
    }

    async fn queued(&self, partition: Partition) -> Result<Vec<(SourceId, RowRange)>> {
        let conn = self.link(partition)?.get().await?;
        let stream = self.shared.keys.stream(partition);
        let (mut queued, mut from, mut count) = (Vec::new(), String::new(), PAGE.0);
        loop {
            let args = vec![self.shared.config.group.as_str().into(), from.into(), count.to_string().into()];
            let page = reply::list(conn.run(&script::QUEUED, vec![stream.clone()], args).await?);
            let [next, bytes, entries @ ..] = page.as_slice() else { return Err(reply::unexpected("a page")) };
            for entry in entries.chunks_exact(3) {
                match (reply::exact(&entry[0]), reply::rows(reply::exact(&entry[1]), reply::exact(&entry[2]))) {
                    (Some(source), Some(rows)) => queued.push((source, rows)),
                    _ => self.shared.malformed.note(KeyKind::Entries, &format!("an entry of {stream}"), ENTRY, ENTRY_TODO),
                }
            }
            from = reply::text(next)?;
            if from.is_empty() {
                return Ok(queued);
            }
            let mean = (reply::number(bytes)? / count).max(1);
            count = (PAGE_BYTES / mean).clamp(PAGE.0, PAGE.1);
        }
    }

    async fn reset(&self, source: Option<SourceId>) -> Result<u64> {
        let partitions: Vec<Partition> = match source {
            Some(source) => vec![source.partition(self.shared.config.partitions)],
            None => self.shared.config.partitions.iter().collect(),
        };
        let mut args: Vec<Value> = vec![source.map(|s| s.to_string()).unwrap_or_default().into()];
        if source.is_none() {
            let MarkFields { mark, generation } = MarkFields::of(self.group());
            args.extend([mark.into(), generation.into(), MarkFields::draw_generation().into()]);
        }
        let mut known = 0;
        for partition in partitions {
            let (keys, group) = (&self.shared.keys, self.group());
            let keys = vec![keys.positions(partition), keys.committed(partition, group), keys.meta(partition)];
            let conn = self.link(partition)?.get().await?;
            known += reply::number(&conn.run(&script::RESET, keys, args.clone()).await?)?;
        }
        Ok(known)
    }

    async fn backlog(&self, partition: Partition) -> Result<Backlog> {
        self.waiting(partition).await
    }

    async fn look(&self, partition: Partition, consumers: usize) -> Result<PartitionState> {
        let conn = self.link(partition)?.get().await?;
        let args = vec![self.shared.config.group.as_str().into(), consumers.to_string().into()];
        let answer = reply::list(conn.run(&script::LOOK, vec![self.shared.keys.stream(partition)], args).await?);
        let [entries, added, newest, held_by, ours, groups @ ..] = answer.as_slice() else {
            return Err(reply::unexpected("the state of a partition"));
        };
        Ok(PartitionState {
            backlog: backlog(&reply::list(ours.clone()))?,
            entries: reply::number(entries)?,
            // -1 where there is none.
            added: reply::number(added).ok(),
            newest_ms: reply::number(newest).ok(),
            groups: self.groups(partition, groups)?,
            held_by: Some(String::from_utf8_lossy(reply::raw(held_by))).filter(|name| !name.is_empty()).map(GroupId::named),
        })
    }
}

impl RedisTransport {
    /// The group that this configuration reads as.
    #[must_use]
    pub fn group(&self) -> &GroupId {
        &self.shared.config.group
    }

    /// Some of a partition's sources, a few hundred at most: those after `cursor`, which is moved on. It is empty in the beginning,
    /// and again when all have been given.
    ///
    /// # Errors
    /// As every call.
    pub async fn some_sources(&self, partition: Partition, cursor: &mut String) -> Result<Vec<SourceState>> {
        let positions = self.shared.keys.positions(partition);
        let committed = self.shared.keys.committed(partition, self.group());
        let mut at = std::mem::take(cursor);
        let page = self.scan(partition, &positions, &mut at).await?.unwrap_or_default();
        *cursor = if at == "0" { String::new() } else { at };
        if page.is_empty() {
            return Ok(Vec::new());
        }
        let mut args = vec![Value::from(committed.as_str())];
        args.extend(page.iter().map(|(source, _)| source.clone()));
        let rows = match self.link(partition)?.get().await?.call("HMGET", args).await {
            Err(TransportError::Blocked { .. }) => vec![Value::Null; page.len()],
            rows => reply::list(rows?),
        };
        let one = |((field, position), row): (&(Value, Value), &Value)| {
            let source = self.source_in(&positions, KeyKind::Positions, field)?;
            let committed = if row.is_null() { 0 } else { self.committed_in(&committed, source, row) };
            Some(SourceState { source, position: self.position_in(&positions, source, position), committed })
        };
        Ok(page.iter().zip(&rows).filter_map(one).collect())
    }

    /// The source that a field of a hash names.
    fn source_in(&self, key: &str, kind: KeyKind, field: &Value) -> Option<SourceId> {
        let source = reply::exact(field);
        if source.is_none() {
            let name = quoted(reply::raw(field));
            let which = format!("the field {name} of {key}");
            self.shared.malformed.note(kind, &which, "it is not the id of a source", &format!("HDEL {key} {name}"));
        }
        source
    }

    /// The groups in the answer of `look.lua`.
    fn groups(&self, partition: Partition, groups: &[Value]) -> Result<Vec<GroupState>> {
        let (stream, mut states) = (self.shared.keys.stream(partition), Vec::with_capacity(groups.len()));
        let note = |which: &str, wrong: &str, todo: &str| self.shared.malformed.note(KeyKind::Groups, which, wrong, todo);
        for one in groups {
            let one = reply::list(one.clone());
            let [name, entries, pending, oldest, consumers, ahead, latest @ ..] = one.as_slice() else {
                return Err(reply::unexpected("a group"));
            };
            let shown = quoted(reply::raw(name));
            let which = format!("the consumer group {shown} of {stream}");
            if reply::number(ahead)? > 0 {
                let wrong =
                    "it stands ahead of the stream's last entry, so nothing is delivered to it, and what it has not read is kept";
                note(&which, wrong, &super::diagnose::set_back(&stream, &shown));
            }
            let Some(name) = name_in(name) else {
                note(&which, WRONG_NAME, &format!("XGROUP DESTROY {stream} {shown}"));
                continue;
            };
            let mut consumers_seen = Vec::with_capacity(latest.len() / 3);
            for consumer in latest.chunks_exact(3) {
                let Some(name) = name_in(&consumer[0]) else {
                    let consumer = quoted(reply::raw(&consumer[0]));
                    let todo = format!("XGROUP DELCONSUMER {stream} {shown} {consumer}");
                    note(&format!("the consumer {consumer} of {stream}"), WRONG_NAME, &todo);
                    continue;
                };
                // A clock that was set back makes the idle time negative.
                let idle_ms = reply::number(&consumer[2]).unwrap_or(0);
                consumers_seen.push(ConsumerState { name, pending: reply::number(&consumer[1])?, idle_ms });
            }
            states.push(GroupState {
                name: GroupId::named(name),
                backlog: backlog(&[entries.clone(), pending.clone(), oldest.clone()])?,
                consumers: reply::number(consumers)?,
                latest: consumers_seen,
            });
        }
        Ok(states)
    }

    /// The next fields of a hash with their values; `None` when there are no more. The cursor is empty in the beginning and `0` in
    /// the end.
    async fn scan(&self, partition: Partition, key: &str, cursor: &mut String) -> Result<Option<Vec<(Value, Value)>>> {
        if cursor == "0" {
            return Ok(None);
        }
        let from = if cursor.is_empty() { "0" } else { cursor.as_str() };
        let args = vec![key.into(), from.into(), "COUNT".into(), FIELDS.into()];
        let mut answer = reply::list(self.link(partition)?.get().await?.call("HSCAN", args).await?).into_iter();
        *cursor = reply::text(&answer.next().unwrap_or(Value::Null))?;
        Ok(Some(answer.next().map(reply::pairs).unwrap_or_default()))
    }

    /// Where a partition is, host:port, whether the server answers or not; `None` where nobody says or serves it.
    pub async fn address(&self, partition: Partition) -> Option<String> {
        self.shared.topology.place(&self.shared, partition).await.ok().map(|server| server.to_string())
    }

    /// The server that holds a partition.
    ///
    /// # Errors
    /// As every call.
    pub async fn node(&self, partition: Partition) -> Result<Node> {
        let conn = self.link(partition)?.get().await?;
        let begun = Instant::now();
        conn.call("PING", Vec::new()).await?;
        let round_trip = begun.elapsed();
        let info = conn.info("memory").await?;
        Ok(Node {
            address: conn.endpoint(),
            round_trip,
            used_memory: info.field("used_memory").parse().unwrap_or(0),
            max_memory: info.field("maxmemory").parse().unwrap_or(0),
            policy: info.field("maxmemory_policy").to_owned(),
        })
    }

    /// Takes a group away from a partition, and trims what the others have done with. A group of which a consumer was heard within
    /// `active` stays.
    ///
    /// # Errors
    /// As every call.
    pub async fn retire(&self, partition: Partition, group: &GroupId, active: Duration) -> Result<Retired> {
        let conn = self.link(partition)?.get().await?;
        let args = vec![group.as_str().into(), active.as_millis().to_string().into()];
        let keys = vec![self.shared.keys.stream(partition), self.shared.keys.committed(partition, group)];
        let answer = reply::list(conn.run(&script::RETIRE, keys, args).await?);
        match (reply::text(answer.first().unwrap_or(&Value::Null))?.as_str(), answer.as_slice()) {
            ("none", _) => Ok(Retired::Unknown),
            ("active", [_, consumer, idle]) => {
                Ok(Retired::Active { consumer: reply::text(consumer)?, idle: Duration::from_millis(reply::number(idle)?) })
            }
            ("retired", [_, open, trimmed]) => {
                Ok(Retired::Done { unacknowledged: reply::number(open)?, trimmed: reply::number(trimmed)? })
            }
            _ => Err(reply::unexpected("what became of the group")),
        }
    }
}

/// What waits, as `backlog.lua` and `look.lua` give it.
pub(super) fn backlog(answer: &[Value]) -> Result<Backlog> {
    match answer {
        [entries, pending, oldest, ..] => {
            Ok(Backlog { entries: reply::number(entries)?, pending: reply::number(pending)?, oldest_ms: reply::number(oldest)? })
        }
        _ => Err(reply::unexpected("a backlog")),
    }
}

/// A group's or consumer's name; `None` where it cannot be shown as one.
fn name_in(value: &Value) -> Option<String> {
    value.as_string().filter(|name| name.len() <= NAME_BYTES)
}
