//! Looking, and setting back.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fred::types::Value;

use super::{RedisTransport, reply, script};
use crate::model::{RowRange, SourceId};
use crate::transport::{Backlog, Inspector, Partition, Publisher, Result, SourceState};

/// Entries looked at in one call of [`script::QUEUED`]: Redis reads them with their payloads.
const PAGE: usize = 16;

#[async_trait]
impl Inspector for RedisTransport {
    fn partitions(&self) -> Partition {
        self.shared.config.partitions
    }

    async fn sources(&self, partition: Partition) -> Result<Vec<SourceState>> {
        let conn = self.link(partition)?.get().await?;
        let (positions, committed) = (self.shared.keys.positions(partition), self.shared.keys.committed(partition));
        let mut states: BTreeMap<SourceId, SourceState> = BTreeMap::new();
        let state = |source| SourceState { source, position: None, committed: 0 };
        for (source, position) in reply::pairs(conn.call("HGETALL", vec![positions.as_str().into()]).await?) {
            let source = reply::parsed(&source, &positions)?;
            states.entry(source).or_insert_with(|| state(source)).position = Some(reply::parsed(&position, &positions)?);
        }
        for (source, row) in reply::pairs(conn.call("HGETALL", vec![committed.as_str().into()]).await?) {
            let source = reply::parsed(&source, &committed)?;
            states.entry(source).or_insert_with(|| state(source)).committed = reply::number(&row)?;
        }
        Ok(states.into_values().collect())
    }

    async fn queued(&self, partition: Partition) -> Result<Vec<(SourceId, RowRange)>> {
        let conn = self.link(partition)?.get().await?;
        let stream = self.shared.keys.stream(partition);
        let mut queued = Vec::new();
        let mut from = String::new();
        loop {
            let args = vec![self.shared.config.group.as_str().into(), from.into(), PAGE.to_string().into()];
            let page = reply::list(conn.run(&script::QUEUED, vec![stream.clone()], args).await?);
            let (next, entries) = page.split_first().ok_or_else(|| reply::unexpected("a page"))?;
            for entry in entries.chunks_exact(3) {
                let rows = RowRange { first: reply::number(&entry[1])?, end: reply::number(&entry[2])? };
                queued.push((reply::parsed(&entry[0], &stream)?, rows));
            }
            from = reply::text(next)?;
            if from.is_empty() {
                return Ok(queued);
            }
        }
    }

    async fn reset(&self, source: Option<SourceId>) -> Result<u64> {
        let partitions = match source {
            Some(source) => {
                let partition = self.partition_of(source);
                partition..partition + 1
            }
            None => 0..self.shared.config.partitions,
        };
        let argument: Value = source.map(|s| s.to_string()).unwrap_or_default().into();
        let mut known = 0;
        for partition in partitions {
            let keys = vec![self.shared.keys.positions(partition), self.shared.keys.committed(partition)];
            let conn = self.link(partition)?.get().await?;
            known += reply::number(&conn.run(&script::RESET, keys, vec![argument.clone()]).await?)?;
            if source.is_none() {
                conn.call("HDEL", vec![self.shared.keys.meta(partition).into(), self.store_field().into()]).await?;
            }
        }
        Ok(known)
    }

    async fn backlog(&self, partition: Partition) -> Result<Backlog> {
        self.waiting(partition).await
    }
}
