//! The streamers' side.

use std::time::Duration;

use async_trait::async_trait;
use fred::types::Value;
use futures_util::future::{BoxFuture, FutureExt};

use super::client::Conn;
use super::fred::bytes;
use super::malformed::{KeyKind, shown};
use super::{RedisTransport, reply, script};
use crate::model::{FamilyId, Partition, Partitions, Position, SourceId};
use crate::transport::{Identity, Lease, Outgoing, Published, Publisher, Result, TransportError};

#[async_trait]
impl Publisher for RedisTransport {
    fn partitions(&self) -> Partitions {
        self.shared.config.partitions
    }

    async fn position(&self, source: SourceId) -> Result<Option<Position>> {
        let partition = source.partition(self.shared.config.partitions);
        let key = self.shared.keys.positions(partition);
        let conn = self.link(partition)?.get().await?;
        let stored = conn.call("HGET", vec![key.as_str().into(), source.to_string().into()]).await?;
        Ok(if stored.is_null() { None } else { self.position_in(&key, source, &stored) })
    }

    fn publish(&self, batch: &Outgoing) -> BoxFuture<'static, Result<Published>> {
        let partition = batch.source.partition(self.shared.config.partitions);
        let link = match self.link(partition) {
            Ok(link) => link.clone(),
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let (keys, args) = self.publish_call(partition, batch);
        let knew = batch.expected.is_some();
        if let Some(conn) = link.current() {
            let answer = conn.run(&script::PUBLISH, keys, args);
            return async move { published(&conn, partition, answer.await?, knew).await }.boxed();
        }
        async move {
            let conn = link.get().await?;
            let answer = conn.run(&script::PUBLISH, keys, args).await?;
            published(&conn, partition, answer, knew).await
        }
        .boxed()
    }

    async fn committed(&self, source: SourceId) -> Result<u64> {
        let partition = source.partition(self.shared.config.partitions);
        let key = self.shared.keys.committed(partition, &self.shared.config.group);
        let conn = self.link(partition)?.get().await?;
        let row = match conn.call("HGET", vec![key.as_str().into(), source.to_string().into()]).await {
            // Nothing can be noted there: nothing is known to be stored.
            Err(TransportError::Blocked { .. }) => Value::Null,
            row => row?,
        };
        Ok(if row.is_null() { 0 } else { self.committed_in(&key, source, &row) })
    }

    async fn lease(&self, source: SourceId, owner: &str) -> Result<Lease> {
        let partition = source.partition(self.shared.config.partitions);
        let keys = vec![self.shared.keys.lease(partition, source), self.shared.keys.positions(partition)];
        let positions = keys[1].clone();
        let ttl = self.shared.config.lease_ttl.as_millis().max(1).to_string();
        let conn = self.link(partition)?.get().await?;
        let answer = conn.run(&script::LEASE, keys, vec![owner.into(), ttl.into(), source.to_string().into()]).await?;
        let answer = reply::list(answer);
        match answer.first().map(reply::text).transpose()?.as_deref() {
            Some("held") => Ok(Lease::Held(answer.get(1).and_then(|position| self.position_in(&positions, source, position)))),
            Some("taken") => Ok(Lease::Taken),
            _ => Err(reply::unexpected("held or taken")),
        }
    }

    async fn release(&self, source: SourceId, owner: &str) -> Result<()> {
        let partition = source.partition(self.shared.config.partitions);
        let conn = self.link(partition)?.get().await?;
        conn.run(&script::RELEASE, vec![self.shared.keys.lease(partition, source)], vec![owner.into()]).await?;
        Ok(())
    }

    async fn identities(&self, first_record: FamilyId) -> Result<Vec<Identity>> {
        let partition = first_record.partition(self.shared.config.partitions);
        let key = self.shared.keys.registry(partition, first_record);
        let only_look = vec!["".into()];
        match self
            .registered(&key, self.link(partition)?.get().await?.run(&script::REGISTER, vec![key.clone()], only_look).await?)?
        {
            Ok(()) => Err(reply::unexpected("a registry")),
            Err(now) => Ok(now),
        }
    }

    async fn register(
        &self,
        first_record: FamilyId,
        seen: &[Identity],
        new: Identity,
    ) -> Result<std::result::Result<(), Vec<Identity>>> {
        let partition = first_record.partition(self.shared.config.partitions);
        let key = self.shared.keys.registry(partition, first_record);
        let args = std::iter::once(&new).chain(seen).map(|i| identity_text(i).into()).collect();
        self.registered(&key, self.link(partition)?.get().await?.run(&script::REGISTER, vec![key.clone()], args).await?)
    }

    async fn replicated(&self, source: SourceId) -> Result<bool> {
        if self.shared.config.min_replicas == Some(0) {
            return Ok(true);
        }
        let conn = self.link(source.partition(self.shared.config.partitions))?.get().await?;
        let wanted = match self.shared.config.min_replicas {
            Some(wanted) => u64::from(wanted),
            None => u64::from(has_replicas(&conn).await?),
        };
        if wanted == 0 {
            return Ok(true);
        }
        // WAIT speaks of everything before it on this connection, or, if the connection is new, of everything before it at all.
        // Short, because what comes after it on this connection waits too; 0 would be for ever.
        let patience = (self.shared.config.command_timeout / 2).min(Duration::from_millis(500)).as_millis().max(1);
        let reached = conn.call("WAIT", vec![wanted.to_string().into(), patience.to_string().into()]).await?;
        Ok(reply::number(&reached)? >= wanted)
    }

    async fn ping(&self) -> Result<Duration> {
        self.round_trip().await
    }
}

impl RedisTransport {
    /// A position as it stands in Redis. One that is malformed counts as if Redis had lost it, here and in the scripts: the source is sent
    /// again from its start, and what is stored already is found stored. So no row is lost, none is invented, and the position that comes
    /// next is written over it.
    pub(super) fn position_in(&self, key: &str, source: SourceId, value: &Value) -> Option<Position> {
        let position = reply::exact(value);
        if position.is_none() {
            let todo =
                format!("HDEL {key} {source}, or let its streamer send the source again from its start, which writes it anew");
            let which = format!("the position of source {source} in {key}");
            self.shared.malformed.note(KeyKind::Positions, &which, &shown(reply::raw(value)), &todo);
        }
        position
    }

    /// The row up to which a source is committed, as it stands in Redis. What is malformed says that nothing is: whoever waits for the
    /// store goes on waiting, until a collector that starts or acknowledges the source's next rows writes it anew.
    pub(super) fn committed_in(&self, key: &str, source: SourceId, value: &Value) -> u64 {
        reply::exact(value).unwrap_or_else(|| {
            let which = format!("the committed row of source {source} in {key}");
            let wrong = format!("{}, so `stream --until stored` is not told what is stored of it", shown(reply::raw(value)));
            let todo = format!("restart a collector of the group {}, which writes it anew", self.group());
            self.shared.malformed.note(KeyKind::Committed, &which, &wrong, &todo);
            0
        })
    }

    /// Reads the answer of the registry.
    fn registered(&self, key: &str, answer: Value) -> Result<std::result::Result<(), Vec<Identity>>> {
        let answer = reply::list(answer);
        let [what, strange, identities @ ..] = answer.as_slice() else { return Err(reply::unexpected("done or changed")) };
        let strange = reply::number(strange)?;
        if strange > 0 {
            let todo = format!("LRANGE {key} 0 -1 shows them, LREM {key} 0 ITEM takes one away");
            let wrong = format!("{strange} of its items are not identities of contents (length:digest:source)");
            self.shared.malformed.note(KeyKind::Registry, key, &wrong, &todo);
        }
        match reply::text(what)?.as_str() {
            "done" => Ok(Ok(())),
            "changed" => Ok(Err(identities.iter().map(identity).collect::<Result<_>>()?)),
            _ => Err(reply::unexpected("done or changed")),
        }
    }

    fn publish_call(&self, partition: Partition, batch: &Outgoing) -> (Vec<String>, Vec<Value>) {
        let names = &self.shared.keys;
        let mut keys = vec![names.stream(partition), names.positions(partition), names.dicts(partition)];
        let mut args: Vec<Value> = vec![
            batch.source.to_string().into(),
            batch.expected.map(|p| p.to_string()).unwrap_or_default().into(),
            batch.next.to_string().into(),
            batch.rows.first.to_string().into(),
            batch.rows.end.to_string().into(),
            self.shared.config.max_backlog.to_string().into(),
            self.shared.config.group.as_str().into(),
            bytes(&batch.payload),
        ];
        for digest in &batch.dictionaries {
            keys.push(names.dict(partition, *digest));
            args.push(digest.to_string().into());
            match batch.with.iter().find(|(d, _)| d == digest) {
                Some((_, sent)) => args.extend(["1".into(), bytes(sent)]),
                None => args.extend(["0".into(), "".into()]),
            }
        }
        (keys, args)
    }
}

/// Reads the answer to a publish.
async fn published(conn: &Conn, partition: Partition, answer: Value, knew: bool) -> Result<Published> {
    let answer = reply::list(answer);
    let (what, rest) = answer.split_first().ok_or_else(|| reply::unexpected("a verdict"))?;
    match reply::text(what)?.as_str() {
        "accepted" => Ok(Published::Accepted),
        "full" => Ok(Published::Full),
        "moved" => match rest.first() {
            // The script gives well-formed ones only.
            Some(position) => Ok(Published::Moved(Some(reply::exact(position).ok_or_else(|| reply::unexpected("a position"))?))),
            None => {
                if knew {
                    // Redis lost what it knew, perhaps the number of partitions too.
                    conn.check_partitions(partition).await?;
                }
                Ok(Published::Moved(None))
            }
        },
        "need" => {
            let digests: Result<_> = rest.iter().map(|d| reply::parsed(d, "of dictionaries")).collect();
            Ok(Published::NeedDictionaries(digests?))
        }
        _ => Err(reply::unexpected("a verdict")),
    }
}

async fn has_replicas(conn: &Conn) -> Result<bool> {
    let info = conn.info("replication").await?;
    let count = Some(info.field("connected_slaves")).filter(|count| !count.is_empty()).unwrap_or("0");
    count.parse::<u64>().map(|n| n > 0).map_err(|_| reply::unexpected("a number of replicas"))
}

fn identity_text(identity: &Identity) -> String {
    format!("{}:{}:{}", identity.length, identity.prefix, identity.source)
}

fn identity(value: &Value) -> Result<Identity> {
    let text = reply::text(value)?;
    let read = || {
        let mut parts = text.splitn(3, ':');
        Some(Identity {
            length: parts.next()?.parse().ok()?,
            prefix: parts.next()?.parse().ok()?,
            source: parts.next()?.parse().ok()?,
        })
    };
    read().ok_or_else(|| reply::unexpected("an identity"))
}
