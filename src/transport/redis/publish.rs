//! The streamers' side.

use std::time::Duration;

use async_trait::async_trait;
use fred::types::Value;
use futures_util::future::{BoxFuture, FutureExt};

use super::client::{Conn, bytes};
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
        if stored.is_null() { Ok(None) } else { reply::parsed(&stored, &key).map(Some) }
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
        let row = conn.call("HGET", vec![key.into(), source.to_string().into()]).await?;
        if row.is_null() { Ok(0) } else { reply::number(&row) }
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
            Some("held") => {
                let position = answer.get(1).map(|p| reply::parsed(p, &positions)).transpose()?;
                Ok(Lease::Held(position))
            }
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
        let conn = self.link(partition)?.get().await?;
        let list = conn.call("LRANGE", vec![key.as_str().into(), 0.into(), (-1).into()]).await?;
        reply::list(list).iter().map(|item| identity(item, &key)).collect()
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
        let answer = self.link(partition)?.get().await?.run(&script::REGISTER, vec![key.clone()], args).await?;
        let answer = reply::list(answer);
        match answer.first().map(reply::text).transpose()?.as_deref() {
            Some("done") => Ok(Ok(())),
            Some("changed") => Ok(Err(answer[1..].iter().map(|item| identity(item, &key)).collect::<Result<_>>()?)),
            _ => Err(reply::unexpected("done or changed")),
        }
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
            Some(position) => Ok(Published::Moved(Some(reply::parsed(position, "of positions")?))),
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

fn identity(value: &Value, key: &str) -> Result<Identity> {
    let text = reply::text(value)?;
    let read = || {
        let mut parts = text.splitn(3, ':');
        Some(Identity {
            length: parts.next()?.parse().ok()?,
            prefix: parts.next()?.parse().ok()?,
            source: parts.next()?.parse().ok()?,
        })
    };
    read().ok_or_else(|| {
        TransportError::Corrupt(format!("the key {key} in Redis holds `{text}`, which is no identity of a source"))
    })
}
