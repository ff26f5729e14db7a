//! The collectors' side.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::types::Value;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::Instant;

use super::client::Conn;
use super::malformed::{KeyKind, quoted, shown};
use super::session::{PendingRead, ReadKind, Reading, Session, SessionSlot};
use super::{RedisTransport, reply, script};
use crate::model::{DictionaryId, Partition, Partitions, SourceId};
use crate::transport::{
    Backlog, Consumer, Delivery, FetchedDictionary, MAX_DICTIONARY_BYTES, MAX_ENTRY_BYTES, MAX_REDELIVERED_BYTES, Receipt,
    Redelivery, Result, StoreMark, TransportError,
};

/// Unused dictionaries are looked for once in so many acknowledgements.
const SWEEP_EVERY: u32 = 64;
/// A dictionary that was used more recently than this stays, although nothing in the queue refers to it: a queue that is read as
/// fast as it is written would otherwise lose its dictionaries all the time.
const SWEEP_UNUSED_FOR: Duration = Duration::from_secs(60);
/// Candidates of one sweep, the longest unused first.
const SWEEP_MAX: usize = 256;
/// Dictionaries that a sweep looks at, about: the next one goes on behind them.
const SWEEP_PAGE: &str = "256";
/// What a malformed entry is, and what becomes of it.
pub(super) const ENTRY: &str = "its fields s, f and e are not a source and its rows";
pub(super) const ENTRY_TODO: &str = "nothing: a collector makes a dead letter of it (telemetry dead-letters list)";
/// Bytes of payloads that were delivered before in one answer, about: one entry may be longer.
const REREAD_BYTES: &str = "8388608";
/// How many times as long as for other answers is waited for that: Redis copies an entry several times to look at it in a script, and one
/// of hundreds of MiB would be looked at again and again.
const REREAD_PATIENCE: u32 = 4;
/// Bytes of a dictionary beyond which the connection that brought it ends: its buffer keeps the size of the largest answer.
const LARGE_ANSWER: usize = 1 << 20;

#[async_trait]
impl Consumer for RedisTransport {
    fn partitions(&self) -> Partitions {
        self.shared.config.partitions
    }

    async fn receive(&self, partition: Partition, max: usize) -> Result<Vec<Delivery>> {
        let session = self.session_slot(partition)?.session().await?;
        let mut reading = session.reading.lock().await;
        loop {
            let (kind, answer) = self.read(partition, &session, &mut reading, max.max(1)).await?;
            let Some(answer) = answer else {
                self.recover_group(partition, &session, &mut reading).await?;
                continue;
            };
            reading.limit = reading.limit.saturating_mul(2).max(1);
            let entries = match kind {
                ReadKind::Own => {
                    let pending = reply::list(answer);
                    let ids = pending.into_iter().map(|one| reply::text(reply::list(one).first().unwrap_or(&Value::Null)));
                    let ids = ids.collect::<Result<Vec<_>>>()?;
                    reading.own_after = ids.last().cloned();
                    reading.list(&session, ids);
                    Vec::new()
                }
                ReadKind::Claim => {
                    let mut parts = reply::list(answer).into_iter();
                    reading.claim_from = parts.next().as_ref().map(reply::text).transpose()?.unwrap_or_else(|| "0-0".to_owned());
                    if reading.claim_from == "0-0" {
                        reading.claim_at = Instant::now() + self.shared.config.claim_idle / 2;
                    }
                    let ids = parts.next().map(reply::list).unwrap_or_default();
                    let ids = ids.iter().filter(|id| !id.is_null()).map(reply::text).collect::<Result<Vec<_>>>()?;
                    reading.list(&session, ids);
                    Vec::new()
                }
                ReadKind::Listed => {
                    let mut entries = reply::list(answer);
                    let looked = if entries.is_empty() { 0 } else { reply::number(&entries.remove(0))? };
                    let looked = usize::try_from(looked).unwrap_or(usize::MAX).max(1).min(reading.listed.len());
                    reading.listed.drain(..looked);
                    entries
                }
                ReadKind::New => stream_entries(answer),
            };
            let deliveries = self.hand_out(partition, &session, entries, kind)?;
            if kind == ReadKind::New || !deliveries.is_empty() {
                reading.one_by_one = deliveries.iter().any(is_large);
            }
            if !deliveries.is_empty() || kind == ReadKind::New {
                return Ok(deliveries);
            }
        }
    }

    async fn payload(&self, delivery: &Delivery) -> Result<Option<Bytes>> {
        let receipt = &delivery.receipt;
        let partition = receipt.partition;
        let session = self.session_slot(partition)?.session().await?;
        if live(&session, partition, std::slice::from_ref(receipt)).is_empty() {
            return Ok(None);
        }
        // Over a connection of its own, whose buffer ends with it: it would keep the size of the largest answer.
        let conn = Conn::open(&self.shared, partition).await?;
        let ids = vec![receipt.entry.as_str().into()];
        let answer = self.send_reread(&conn, partition, MAX_ENTRY_BYTES, ids).await?;
        let entry = reply::list(answer).into_iter().nth(1);
        let fields = entry.and_then(|entry| reply::list(entry).into_iter().nth(1)).unwrap_or(Value::Null);
        let is_there = !fields.is_null();
        let (found, _) = read_entry(receipt.clone(), fields, true);
        // Another one may have got its id since.
        let is_it = is_there && (found.source, found.rows) == (delivery.source, delivery.rows);
        let payload = is_it.then_some(found.payload);
        if payload.is_none() {
            // What was deleted is found again among what is pending, and goes from there.
            session.let_go(std::slice::from_ref(&receipt.entry));
        }
        Ok(payload)
    }

    async fn dictionary_within(&self, partition: Partition, id: DictionaryId, limit: usize) -> Result<Option<FetchedDictionary>> {
        let key = self.shared.keys.dict(partition, id);
        let conn = self.link(partition)?.get().await?;
        let answer = match conn.run(&script::FETCH, vec![key.clone()], vec![limit.to_string().into()]).await {
            // Whatever is there instead, the dictionary is not.
            Err(TransportError::Blocked { .. }) => return Ok(None),
            answer => reply::list(answer?),
        };
        let mut parts = answer.into_iter();
        let Some(length) = parts.next() else { return Ok(None) };
        let length = reply::number(&length)?;
        if length > MAX_DICTIONARY_BYTES as u64 {
            tracing::warn!(
                key,
                bytes = length,
                "a dictionary in Redis is longer than one can be; it is damaged, and batches that name it are buried"
            );
        }
        let bytes = parts.next().and_then(Value::into_bytes);
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > LARGE_ANSWER) {
            self.link(partition)?.discard(&conn);
        }
        Ok(bytes.map(|bytes| FetchedDictionary { length, bytes }))
    }

    async fn acknowledge(&self, partition: Partition, receipts: Vec<Receipt>, settled: &[(SourceId, u64)]) -> Result<usize> {
        let session = self.session_slot(partition)?.session().await?;
        let ids = live(&session, partition, &receipts);
        if ids.is_empty() && settled.is_empty() {
            return Ok(0);
        }
        let keys = vec![self.shared.keys.stream(partition), self.shared.keys.committed(partition, &self.shared.config.group)];
        let mut args: Vec<Value> = vec![self.shared.config.group.as_str().into(), ids.len().to_string().into()];
        args.extend(ids.iter().map(|id| Value::from(id.as_str())));
        for (source, row) in settled {
            args.extend([source.to_string().into(), row.to_string().into()]);
        }
        let answer = reply::list(session.writer.run(&script::ACKNOWLEDGE, keys, args).await?);
        let done = reply::number(answer.first().unwrap_or(&Value::Null))?;
        if answer.get(2).map(reply::number).transpose()? == Some(0) {
            let key = self.shared.keys.committed(partition, self.group());
            let wrong = "it is not a hash, so streamers are not told what is stored";
            let todo = format!("DEL {key}, and restart a collector of the group {}, which writes it anew", self.group());
            self.shared.malformed.note(KeyKind::Committed, &key, wrong, &todo);
        }
        {
            let mut held = session.held();
            for id in &ids {
                held.entries.remove(id);
            }
        }
        if self.acknowledged(partition) {
            // The entries are acknowledged, whatever becomes of this.
            match self.sweep(partition, SWEEP_UNUSED_FOR).await {
                Ok(_) => {}
                Err(error) if error.is_transient() => tracing::debug!("unused dictionaries stay for now: {error}"),
                Err(error) => tracing::warn!("unused dictionaries stay in Redis and take memory there: {error}"),
            }
        }
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }

    fn let_go(&self, partition: Partition, receipts: &[Receipt], redelivery: Redelivery) {
        // Without a connection nothing is held.
        let Some(session) = self.session_slots.get(partition.index()).and_then(SessionSlot::current) else { return };
        let ids = live(&session, partition, receipts);
        match redelivery {
            Redelivery::AtOnce => session.let_go(&ids),
            Redelivery::AfterIdle => {
                let mut held = session.held();
                for id in &ids {
                    held.entries.remove(id);
                }
            }
        }
    }

    async fn contains(&self, delivery: &Delivery) -> Result<bool> {
        let Delivery { receipt, source, rows, .. } = delivery;
        let conn = self.link(receipt.partition)?.get().await?;
        let keys = vec![self.shared.keys.stream(receipt.partition)];
        // What a malformed entry does not say is not compared.
        let source = if *source == SourceId::UNKNOWN { String::new() } else { source.to_string() };
        let (first, end) = (rows.first.to_string(), rows.end.to_string());
        let args = vec![receipt.entry.as_str().into(), source.into(), first.into(), end.into()];
        let found = conn.run(&script::CONTAINS, keys, args).await?;
        Ok(reply::number(&found)? > 0)
    }

    async fn keep(&self, partition: Partition, receipts: &[Receipt]) -> Result<()> {
        let session = self.session_slot(partition)?.session().await?;
        let ids = live(&session, partition, receipts);
        if ids.is_empty() {
            return Ok(());
        }
        let mut args: Vec<Value> = vec![self.shared.config.group.as_str().into(), self.shared.config.consumer.as_str().into()];
        args.extend(ids.into_iter().map(Value::from));
        session.writer.run(&script::KEEP, vec![self.shared.keys.stream(partition)], args).await?;
        Ok(())
    }

    async fn backlog(&self, partition: Partition) -> Result<Backlog> {
        self.waiting(partition).await
    }

    async fn leave(&self, partition: Partition) -> Result<()> {
        let args = vec![self.shared.config.group.as_str().into(), self.shared.config.consumer.as_str().into()];
        let conn = self.link(partition)?.get().await?;
        conn.run(&script::LEAVE, vec![self.shared.keys.stream(partition)], args).await?;
        Ok(())
    }

    async fn store_marks(&self) -> Result<Vec<(Partition, Option<StoreMark>)>> {
        self.look_at_marks().await
    }

    async fn mark_store(&self, store: &str, partitions: &[(Partition, Option<String>)]) -> Result<Vec<(Partition, StoreMark)>> {
        self.write_marks(store, partitions).await
    }

    async fn ping(&self) -> Result<Duration> {
        self.round_trip().await
    }
}

impl RedisTransport {
    /// Sends the read that is due, or goes on waiting for the one that was sent, and gives its answer.
    async fn read(
        &self,
        partition: Partition,
        session: &Session,
        reading: &mut Reading,
        max: usize,
    ) -> Result<(ReadKind, Option<Value>)> {
        if reading.sent.is_none() {
            if std::mem::take(&mut session.held().read_own_again) {
                reading.own_after = Some("0-0".to_owned());
            }
            reading.sent = Some(self.send_read(partition, session, reading, max));
        }
        let Some(sent) = reading.sent.as_mut() else { unreachable!("a read was just sent") };
        let answer = (&mut sent.answer).await;
        let kind = sent.kind;
        reading.sent = None;
        if matches!(answer, Err(TransportError::Unavailable { .. })) {
            reading.limit = (reading.limit.min(max) / 2).max(1);
        }
        Ok((kind, answer?))
    }

    fn send_read(&self, partition: Partition, session: &Session, reading: &Reading, max: usize) -> PendingRead {
        let config = &self.shared.config;
        let count = reading.limit.min(max).max(1);
        let (group, consumer) = (Value::from(config.group.as_str()), Value::from(config.consumer.as_str()));
        let stream = Value::from(self.shared.keys.stream(partition));
        let timeout = config.command_timeout;
        if !reading.listed.is_empty() {
            let ids = reading.listed.iter().take(count).map(|id| Value::from(id.as_str())).collect();
            let answer = self.send_reread(&session.reader, partition, MAX_REDELIVERED_BYTES, ids);
            let answer = answer.map(|answer| answer.map(|value| Some(value).filter(|value| !value.is_null()))).boxed();
            return PendingRead { kind: ReadKind::Listed, answer };
        }
        let entries = Value::from(count.to_string());
        if let Some(after) = &reading.own_after {
            let args = vec![stream, group, format!("({after}").into(), "+".into(), entries, consumer];
            return PendingRead { kind: ReadKind::Own, answer: session.reader.call_within("XPENDING", args, timeout) };
        }
        if reading.claim_from != "0-0" || Instant::now() >= reading.claim_at {
            let idle = config.claim_idle.as_millis().to_string().into();
            let args =
                vec![stream, group, consumer, idle, reading.claim_from.as_str().into(), "COUNT".into(), entries, "JUSTID".into()];
            return PendingRead { kind: ReadKind::Claim, answer: session.reader.call_within("XAUTOCLAIM", args, timeout) };
        }
        // 0 would block for ever.
        let block = config.block.as_millis().max(1).to_string();
        let entries = if reading.one_by_one { "1".into() } else { entries };
        let mut args = vec!["GROUP".into(), group, consumer, "COUNT".into(), entries, "BLOCK".into(), block.into()];
        args.extend(["STREAMS".into(), stream, ">".into()]);
        PendingRead { kind: ReadKind::New, answer: session.reader.call_within("XREADGROUP", args, config.block + timeout) }
    }

    /// Sends a read of pending entries by id; payloads longer than this stay where they are.
    fn send_reread(
        &self,
        conn: &Conn,
        partition: Partition,
        longest: usize,
        ids: Vec<Value>,
    ) -> BoxFuture<'static, Result<Value>> {
        let config = &self.shared.config;
        let mut args: Vec<Value> = vec![config.group.as_str().into(), config.consumer.as_str().into()];
        args.extend([longest.to_string().into(), REREAD_BYTES.into()]);
        args.extend(ids);
        conn.run_within(&script::READ, vec![self.shared.keys.stream(partition)], args, config.command_timeout * REREAD_PATIENCE)
    }

    /// Redis lost the stream: makes the group, and begins again with an epoch in which old receipts are worth nothing.
    async fn recover_group(&self, partition: Partition, session: &Session, reading: &mut Reading) -> Result<()> {
        let stream = self.shared.keys.stream(partition);
        let args = vec!["CREATE".into(), stream.into(), self.shared.config.group.as_str().into(), "0".into(), "MKSTREAM".into()];
        match session.writer.call("XGROUP", args).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(TransportError::Corrupt(text)) if text.contains("BUSYGROUP") => {}
            Err(error) => return Err(error),
        }
        session.writer.check_partitions(partition).await?;
        self.session_slot(partition)?.renew(session, reading);
        Ok(())
    }

    /// Turns entries into deliveries. Those that were deleted from the stream are acknowledged away; those that the caller has are
    /// passed over.
    fn hand_out(
        &self,
        partition: Partition,
        session: &Arc<Session>,
        entries: Vec<Value>,
        kind: ReadKind,
    ) -> Result<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(entries.len());
        let mut gone = Vec::new();
        let mut held = session.held();
        for entry in entries {
            if entry.is_null() {
                continue;
            }
            let mut parts = reply::list(entry).into_iter();
            let id = reply::text(&parts.next().unwrap_or(Value::Null))?;
            let fields = parts.next().unwrap_or(Value::Null);
            let length = parts.next().as_ref().map(reply::number).transpose()?;
            if fields.is_null() {
                gone.push(id);
                continue;
            }
            if held.entries.contains(&id) {
                continue;
            }
            let receipt = Receipt { partition, entry: id, epoch: held.epoch };
            let (mut delivery, strange) = read_entry(receipt, fields, kind != ReadKind::New);
            match length.unwrap_or(delivery.payload.len() as u64) {
                bytes if bytes > MAX_ENTRY_BYTES as u64 => {
                    delivery.payload = Bytes::new();
                    delivery.oversize = Some(bytes);
                }
                bytes => delivery.withheld = length.map(|_| bytes),
            }
            if strange {
                let (stream, id) = (self.shared.keys.stream(partition), &delivery.receipt.entry);
                self.shared.malformed.note(KeyKind::Entries, &format!("entry {id} of {stream}"), ENTRY, ENTRY_TODO);
            }
            held.entries.insert(delivery.receipt.entry.clone());
            deliveries.push(delivery);
        }
        drop(held);
        if !gone.is_empty() {
            let mut args: Vec<Value> = vec![self.shared.keys.stream(partition).into(), self.shared.config.group.as_str().into()];
            args.extend(gone.into_iter().map(Value::from));
            // Sent, and not waited for: if it is lost, they come again and go again.
            drop(session.writer.call("XACK", args));
        }
        Ok(deliveries)
    }

    /// Counts an acknowledgement; whether a sweep is due.
    fn acknowledged(&self, partition: Partition) -> bool {
        let count = self.acknowledgements.get(partition.index());
        count.is_some_and(|c| (c.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(SWEEP_EVERY))
    }

    /// Removes dictionaries of a partition that nothing in the queue refers to and that were last used longer ago than this (by the
    /// clock of Redis). Returns how many were removed. Looks at some hundreds of them, and the next time at those behind; however many
    /// there are, none of these steps holds Redis up. Done now and then by [`Consumer::acknowledge`].
    ///
    /// # Errors
    /// As every call.
    pub async fn sweep(&self, partition: Partition, unused_for: Duration) -> Result<u64> {
        let keys = &self.shared.keys;
        let conn = self.link(partition)?.get().await?;
        let dicts = keys.dicts(partition);
        let Some(cursor) = self.sweep_cursors.get(partition.index()) else { return Err(self.no_partition(partition)) };
        let from = cursor.load(Ordering::Relaxed).to_string();
        let args = vec![dicts.as_str().into(), from.into(), "COUNT".into(), SWEEP_PAGE.into()];
        let mut answer = reply::list(conn.call("HSCAN", args).await?).into_iter();
        let next = reply::number(&answer.next().unwrap_or(Value::Null))?;
        let page = answer.next().map(reply::pairs).unwrap_or_default();
        cursor.store(next, Ordering::Relaxed);
        let mut candidates = Vec::new();
        for (id, used) in page {
            // One whose last use is not known may be needed: it stays.
            match (reply::exact::<DictionaryId>(&id), used.as_string().and_then(|used| Some((order(&used)?, used)))) {
                (Some(id), Some((order, used))) => candidates.push((order, id, used)),
                _ => {
                    let field = quoted(reply::raw(&id));
                    let (which, todo) = (format!("the field {field} of {dicts}"), format!("HDEL {dicts} {field}"));
                    let wrong =
                        format!("it is to be a dictionary and the id of an entry, and its value: {}", shown(reply::raw(&used)));
                    self.shared.malformed.note(KeyKind::Dictionaries, &which, &wrong, &todo);
                }
            }
        }
        candidates.sort_unstable();
        candidates.truncate(SWEEP_MAX);
        if candidates.is_empty() {
            return Ok(0);
        }
        let mut names = vec![keys.stream(partition), dicts];
        let mut args: Vec<Value> = vec![unused_for.as_millis().to_string().into()];
        for (_, id, used) in candidates {
            names.push(keys.dict(partition, id));
            args.extend([id.to_string().into(), used.into()]);
        }
        reply::number(&conn.run(&script::SWEEP, names, args).await?)
    }

    /// How much waits in a partition.
    pub(super) async fn waiting(&self, partition: Partition) -> Result<Backlog> {
        let conn = self.link(partition)?.get().await?;
        let args = vec![self.shared.config.group.as_str().into()];
        let answer = conn.run(&script::BACKLOG, vec![self.shared.keys.stream(partition)], args).await?;
        super::inspect::backlog(&reply::list(answer))
    }
}

/// The ids of the receipts that belong to this session.
fn live(session: &Session, partition: Partition, receipts: &[Receipt]) -> Vec<String> {
    let epoch = session.held().epoch;
    receipts.iter().filter(|r| r.epoch == epoch && r.partition == partition).map(|r| r.entry.clone()).collect()
}

/// The entries in the answer of XREADGROUP for one stream: a list of name and entries (RESP2) or a map (RESP3), nil when there is
/// nothing.
fn stream_entries(answer: Value) -> Vec<Value> {
    let one = match answer {
        Value::Map(map) => map.inner().into_values().next(),
        other => reply::list(other).into_iter().next().and_then(|stream| reply::list(stream).into_iter().nth(1)),
    };
    one.map(reply::list).unwrap_or_default()
}

/// An entry as a delivery, and whether it is malformed. What the fields do not say stays empty: a broken entry is handed out, so that it is
/// buried like any other batch that cannot be stored, and not read for ever.
fn read_entry(receipt: Receipt, fields: Value, redelivered: bool) -> (Delivery, bool) {
    let (mut source, mut first, mut end, mut payload) = (None, None, None, Bytes::new());
    for (field, value) in reply::pairs(fields) {
        match field.as_bytes() {
            Some(b"s") => source = reply::exact(&value),
            Some(b"f") => first = reply::exact(&value),
            Some(b"e") => end = reply::exact(&value),
            Some(b"d") => payload = value.into_bytes().unwrap_or_default(),
            _ => {}
        }
    }
    let rows = reply::rows(first, end);
    let strange = source.is_none() || rows.is_none();
    let (source, rows) = (source.unwrap_or(SourceId::UNKNOWN), rows.unwrap_or_default());
    (Delivery { receipt, source, rows, payload, oversize: None, withheld: None, redelivered }, strange)
}

/// Whether a delivery's payload is so long that several are not to be read at once.
fn is_large(delivery: &Delivery) -> bool {
    delivery.oversize.is_some() || delivery.withheld.is_some() || delivery.payload.len() > MAX_REDELIVERED_BYTES
}

/// An entry id, so that it sorts by time; `None` where it is none.
pub(super) fn order(id: &str) -> Option<(u64, u64)> {
    let (ms, sequence) = id.split_once('-')?;
    let exact = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    Some((exact(ms)?, exact(sequence)?))
}
