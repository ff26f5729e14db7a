//! What servers and stores answer.

use crate::messages::{CLAIM_IDLE, Event, Health, LEASE_TTL, NodeId, Outcome, Reply, Request};
use crate::network::Net;
use crate::queue::{Answer, Consumer, EntryId, Group, Published, Reread};
use crate::session::{Read, ReadAnswer};

impl Net {
    /// What a partition's server answers.
    pub(crate) fn ask(&mut self, node: NodeId, group: Group, partition: usize, request: Request) -> Outcome {
        self.touched |= request.changes_what_is_queued();
        match self.ask_server(node, group, partition, request) {
            Ok(reply) => Outcome::Reply(reply),
            Err(refusal) => {
                self.note_trouble(node, partition);
                Outcome::Refused(refusal)
            }
        }
    }

    fn ask_server(&mut self, node: NodeId, group: Group, partition: usize, request: Request) -> Answer<Reply> {
        let now = self.now;
        let consumer = Consumer::try_from(node).unwrap_or(Consumer::MAX);
        let was_in_sync = self.places[partition].server.in_sync;
        let server = &mut self.places[partition].server;
        let reply = match request {
            Request::Publish(batch) => {
                let published = server.publish(group, &batch, now)?;
                let what =
                    format_args!("node {node}: {} of {} at {partition}: {published:?}", batch.entry.rows, batch.entry.source);
                self.trace.line(now, what);
                if published == Published::Accepted {
                    let parked = std::mem::take(&mut self.places[partition].parked);
                    for id in parked {
                        self.schedule(now, Event::Arrive(id));
                    }
                }
                Reply::Published(published)
            }
            Request::Position(source) => Reply::Position(server.position(source)),
            Request::Committed(source) => Reply::Committed(server.committed(group, source)),
            Request::Lease(source) => Reply::Lease(server.lease(source, node as u64, LEASE_TTL, now)?),
            Request::Release(source) => server.release(source, node as u64, now).map(|()| Reply::Done)?,
            Request::Replicated => Reply::Replicated(server.is_replicated()),
            Request::Read(read) => Reply::Read(self.read(consumer, group, partition, &read)?),
            Request::MakeGroup => server.make_group(group).map(|()| Reply::Done)?,
            Request::Acknowledge(ids, settled) => {
                let done = server.acknowledge(group, &ids, &settled)?;
                let what = format_args!("node {node}: acknowledges {done} of {} at {partition}, settled {settled:?}", ids.len());
                self.trace.line(now, what);
                Reply::Acknowledged(done)
            }
            Request::AcknowledgeAway(ids) => {
                server.acknowledge_away(group, &ids);
                Reply::Done
            }
            Request::Keep(ids) => server.keep(group, consumer, &ids, now).map(|_| Reply::Done)?,
            Request::Contains(id, source, rows) => Reply::Contains(server.contains(id, source, rows)),
            Request::Dictionaries(ids) => Reply::Missing(ids.into_iter().filter(|id| !server.has_dictionary(*id)).collect()),
            Request::LookAtMark => {
                let (store, generation) = server.mark(group);
                Reply::Mark(store, generation)
            }
            Request::Mark(store, seen) => {
                let (marked, generation) = server.mark_store(group, store, seen)?;
                self.trace.line(now, format_args!("node {node}: marks {partition} with {store}, where {seen:?}: {marked:?}"));
                Reply::Mark(marked, generation)
            }
            Request::Sources => Reply::Sources(server.sources(group)),
            Request::Sweep => server.sweep(60_000, now).map(|_| Reply::Done)?,
            _ => Reply::Done,
        };
        if was_in_sync && !self.places[partition].server.in_sync {
            let after = [1, 20, 500, 5_000][self.choices.below(4) as usize];
            self.schedule(now + after, Event::Replicate(partition));
        }
        Ok(reply)
    }

    fn read(&mut self, consumer: Consumer, group: Group, partition: usize, read: &Read) -> Answer<ReadAnswer> {
        let now = self.now;
        let server = &mut self.places[partition].server;
        let entries = |found: Option<Vec<Reread>>| found.map_or(ReadAnswer::NoGroup, ReadAnswer::Entries);
        Ok(match read {
            Read::Own { after, count } => server
                .pending_of(group, consumer, *after, *count)
                .map_or(ReadAnswer::NoGroup, |ids| ReadAnswer::Ids(ids, EntryId::ZERO)),
            Read::Claim { from, count } => match server.claim(group, consumer, (CLAIM_IDLE, *from, *count), now)? {
                None => ReadAnswer::NoGroup,
                Some((next, ids)) => {
                    for (id, from) in &ids {
                        self.claims.push((partition, *id, NodeId::from(*from), NodeId::from(consumer)));
                    }
                    if !ids.is_empty() {
                        self.trace.line(now, format_args!("node {consumer}: claims {} at {partition}", ids.len()));
                    }
                    ReadAnswer::Ids(ids.into_iter().map(|(id, _)| id).collect(), next)
                }
            },
            Read::Listed(ids) => entries(server.reread(group, consumer, ids, now)?),
            Read::New { count } => entries(server.read_new(group, consumer, *count, now)?),
        })
    }

    /// What a store answers.
    pub(crate) fn ask_store(&mut self, node: NodeId, request: Request) -> Reply {
        let shop = &mut self.shops[usize::from(self.groups[node])];
        let other = |expected: u64| expected != shop.ledger.id;
        match request {
            Request::Commit(expected, _)
            | Request::NoteFailure(expected, _)
            | Request::ForgetFailures(expected, _)
            | Request::Bury(expected, _)
                if other(expected) =>
            {
                Reply::OtherStore
            }
            Request::Commit(_, batches) => match batches.iter().any(|(.., health)| *health == Health::Bad) {
                true => Reply::BadBatch,
                false => Reply::DamagedChunk,
            },
            Request::NoteFailure(_, entry) => Reply::Failures(shop.ledger.note_failure(entry)),
            Request::ForgetFailures(_, entry) => {
                shop.ledger.forget_failures(&entry);
                Reply::Done
            }
            Request::Bury(_, letters) => {
                self.touched = true;
                let settled = shop.ledger.bury(&letters);
                self.buried.extend(letters.iter().map(|(source, rows, _)| (*source, *rows)));
                self.trace.line(self.now, format_args!("node {node}: buries {letters:?}"));
                Reply::Settled(settled)
            }
            Request::Settled(sources) => {
                Reply::Settled(sources.into_iter().map(|source| (source, shop.ledger.settled(source))).collect())
            }
            _ => Reply::StoreId(shop.ledger.id),
        }
    }
}
