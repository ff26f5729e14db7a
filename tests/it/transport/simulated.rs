//! The queue of the simulation (`tests/simulation`) means what the real one does: the same operations, drawn by a seed, are played on both, and have
//! the same answers. Ids of entries differ, so entries are compared by what is in them.

#[expect(dead_code, reason = "the simulation uses the rest")]
#[path = "../../simulation/src/planted.rs"]
mod planted;
#[expect(dead_code, reason = "the simulation uses the rest")]
#[path = "../../simulation/src/queue.rs"]
mod queue;
#[path = "../../simulation/src/session.rs"]
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use telemetry::model::{DictionaryId, Partition, Partitions, Position, RowRange, SourceId};
use telemetry::transport::redis::RedisTransport;
use telemetry::transport::{
    Backlog, Consumer, Inspector, Lease, Outgoing, Published, Publisher, Receipt, Redelivery, StoreMark, TransportError,
};

use self::queue::{Batch, Entry, Refusal, Server};
use self::session::{Read, ReadAnswer, Session, Step};
use super::at;
use crate::support::redis::{RedisServer, Reply, config};

const PARTITIONS: u16 = 2;
const CONSUMERS: u16 = 2;
const GROUP: queue::Group = 0;
const LIMIT: u64 = 12;
/// Nothing becomes old by itself: [`Both::age`] makes it so.
const HOUR: u64 = 3_600_000;
const DICTIONARIES: u8 = 4;

/// What an operation answers, as far as both say it.
#[derive(Debug, PartialEq)]
enum Said {
    Published(String),
    Position(Option<Position>),
    Number(u64),
    Held(Option<Option<Position>>),
    Delivered(Vec<(u64, bool, u64)>),
    Backlog(u64, u64),
    Sources(Vec<(SourceId, Option<Position>, u64)>),
    /// Of each partition: the mark, and whether it has a generation.
    Marks(Vec<(Option<u64>, bool)>),
    Done,
    OutOfMemory,
    NoWrites,
}

/// Stands for the id of a store.
fn mark(store: u64) -> String {
    format!("01234567-89ab-cdef-0123-456789abcde{store}")
}

impl Said {
    fn of_marks(marks: Vec<StoreMark>) -> Self {
        let known = |store: String| [0, 1].into_iter().find(|known| mark(*known) == store).expect("one of ours");
        Self::Marks(marks.into_iter().map(|mark| (mark.store.map(known), mark.generation.is_some())).collect())
    }
}

impl From<Refusal> for Said {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OutOfMemory => Self::OutOfMemory,
            Refusal::NoWrites => Self::NoWrites,
        }
    }
}

impl From<TransportError> for Said {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Full { .. } => Self::OutOfMemory,
            TransportError::Unavailable { reason, .. } if reason.contains("NOREPLICAS") => Self::NoWrites,
            other => panic!("{other}"),
        }
    }
}

fn said<T, E: Into<Said>>(answer: Result<T, E>, says: impl FnOnce(T) -> Said) -> Said {
    answer.map_or_else(Into::into, says)
}

/// A consumer on both sides.
struct Pair {
    real: Arc<RedisTransport>,
    /// By partition: epochs, and the session once there is one.
    sessions: Vec<(u64, Option<Session>)>,
    held: Vec<(Receipt, session::Receipt)>,
}

/// A partition and the generation that was seen there, on Redis and on the simulated queue.
type Looked = ((Partition, Option<String>), Option<u64>);

/// The real queue and the simulated one.
struct Both {
    redis: RedisServer,
    servers: Vec<Server>,
    pairs: Vec<Pair>,
    now: u64,
    batches: u64,
    positions: BTreeMap<SourceId, u64>,
    /// How often everything was set back.
    generations: u64,
    /// The generations that were seen when marks were last looked at, on both sides.
    looked: Vec<Looked>,
    random: StdRng,
}

async fn open(redis: &RedisServer, consumer: u16) -> Arc<RedisTransport> {
    let config = telemetry::config::Redis {
        partitions: Partitions::new(PARTITIONS).unwrap(),
        consumer: consumer.to_string(),
        max_backlog: LIMIT,
        claim_idle: Duration::from_millis(HOUR),
        lease_ttl: Duration::from_millis(HOUR),
        block: Duration::from_millis(1),
        min_replicas: Some(0),
        ..config(&redis.url())
    };
    RedisTransport::connect(&config).await.unwrap()
}

fn dictionary(n: u8) -> (DictionaryId, Bytes) {
    let bytes = Bytes::from(format!("dictionary {n}"));
    (DictionaryId::of(&bytes), bytes)
}

/// What a server answers to a read.
fn answer(server: &mut Server, read: &Read, consumer: queue::Consumer, now: u64) -> Result<ReadAnswer, Refusal> {
    let entries = |found: Option<Vec<queue::Reread>>| found.map_or(ReadAnswer::NoGroup, ReadAnswer::Entries);
    Ok(match read {
        Read::Own { after, count } => server
            .pending_of(GROUP, consumer, *after, *count)
            .map_or(ReadAnswer::NoGroup, |ids| ReadAnswer::Ids(ids, queue::EntryId::ZERO)),
        Read::Claim { from, count } => match server.claim(GROUP, consumer, (HOUR, *from, *count), now)? {
            Some((next, ids)) => ReadAnswer::Ids(ids.into_iter().map(|(id, _)| id).collect(), next),
            None => ReadAnswer::NoGroup,
        },
        Read::Listed(ids) => entries(server.reread(GROUP, consumer, ids, now)?),
        Read::New { count } => entries(server.read_new(GROUP, consumer, *count, now)?),
    })
}

impl Both {
    async fn start(seed: u64) -> Self {
        let redis = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
        let mut both = Self {
            redis,
            servers: (0..PARTITIONS).map(|_| Server::new(usize::try_from(LIMIT).unwrap(), false, None)).collect(),
            pairs: Vec::new(),
            now: 100 * HOUR,
            batches: 0,
            positions: BTreeMap::new(),
            generations: 0,
            looked: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        };
        for consumer in 0..CONSUMERS {
            let pair = both.pair(consumer).await;
            both.pairs.push(pair);
        }
        both
    }

    async fn pair(&self, consumer: u16) -> Pair {
        let sessions = (0..PARTITIONS).map(|_| (0, None)).collect();
        Pair { real: open(&self.redis, consumer).await, sessions, held: Vec::new() }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    fn source(&mut self) -> SourceId {
        super::source(0x9e37_79b9_7f4a_7c15 << 64 | self.random.random_range(30..34))
    }

    fn server(&mut self, source: SourceId) -> &mut Server {
        &mut self.servers[source.partition(Partitions::new(PARTITIONS).unwrap()).index()]
    }

    /// A batch where the queue is, or mostly so.
    async fn publish(&mut self) -> (Said, Said) {
        let source = self.source();
        let known = self.positions.get(&source).copied().unwrap_or(0);
        let first = if self.below(5) == 0 { known.saturating_sub(10) } else { known };
        let rows = RowRange { first, end: first + 1 + self.below(9) as u64 };
        let (mut dictionaries, mut with) = (Vec::new(), Vec::new());
        for n in 0..DICTIONARIES {
            if self.below(3) == 0 {
                dictionaries.push(dictionary(n).0);
                if self.below(2) == 0 {
                    with.push(dictionary(n));
                }
            }
        }
        self.batches += 1;
        let payload = self.batches;
        let (expected, next) = (at(first), at(rows.end).unwrap());
        let entry = Arc::new(Entry { source, rows, payload, dictionaries: dictionaries.clone() });
        let simulated = Batch { entry, expected, next, with: with.iter().map(|(id, _)| *id).collect() };
        let payload = Bytes::from(payload.to_string());
        let real = Outgoing { source, rows, expected, next, payload, dictionaries, with };
        let now = self.now;
        let simulated = said(self.server(source).publish(GROUP, &simulated, now), |answer| {
            Said::Published(match answer {
                queue::Published::Accepted => "accepted".to_owned(),
                queue::Published::Moved(to) => format!("moved {to:?}"),
                queue::Published::Full => "full".to_owned(),
                queue::Published::Need(ids) => format!("need {ids:?}"),
            })
        });
        let real = said(self.pairs[0].real.publish(&real).await, |answer| {
            Said::Published(match answer {
                Published::Accepted => "accepted".to_owned(),
                Published::Moved(to) => format!("moved {to:?}"),
                Published::Full => "full".to_owned(),
                Published::NeedDictionaries(ids) => format!("need {ids:?}"),
            })
        });
        // As a streamer does: where the queue is, it goes on.
        let there = self.server(source).position(source).map_or(0, |position| position.row);
        self.positions.insert(source, there);
        (real, simulated)
    }

    async fn receive(&mut self) -> (Said, Said) {
        let (consumer, partition, max) = (self.below(CONSUMERS.into()), self.partition(), 1 + self.below(4));
        let real = self.pairs[consumer].real.receive(partition, max).await;
        let simulated = self.receive_simulated(consumer, partition, max);
        if let (Ok(real), Ok(simulated)) = (&real, &simulated) {
            let receipts = real.iter().map(|d| d.receipt.clone()).zip(simulated.iter().map(|d| d.receipt));
            self.pairs[consumer].held.extend(receipts);
        }
        let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().parse().unwrap();
        (
            said(real, |all| Said::Delivered(all.iter().map(|d| (number(&d.payload), d.redelivered, d.receipt.epoch)).collect())),
            said(simulated, |all| {
                Said::Delivered(all.iter().map(|d| (d.entry.payload, d.redelivered, d.receipt.epoch)).collect())
            }),
        )
    }

    fn receive_simulated(&mut self, at: usize, partition: Partition, max: usize) -> Result<Vec<session::Delivery>, Refusal> {
        let (now, consumer) = (self.now, u16::try_from(at).unwrap());
        let server = &mut self.servers[partition.index()];
        let (epochs, session) = &mut self.pairs[at].sessions[partition.index()];
        let session = session.get_or_insert_with(|| {
            *epochs += 1;
            Session::new(*epochs, now)
        });
        loop {
            let read = session.next_read(now, max);
            let answer = match answer(server, &read, consumer, now) {
                Err(Refusal::NoWrites) => {
                    session.failed(max);
                    return Err(Refusal::NoWrites);
                }
                answer => answer?,
            };
            match session.take(&read, answer, now, HOUR) {
                Step::ReadOn => {}
                Step::MakeGroup => {
                    server.make_group(GROUP)?;
                    *epochs += 1;
                    session.renew(*epochs, now);
                }
                Step::Deliver(deliveries, gone) => {
                    server.acknowledge_away(GROUP, &gone);
                    if !deliveries.is_empty() || matches!(read, Read::New { .. }) {
                        return Ok(deliveries);
                    }
                }
            }
        }
    }

    fn partition(&mut self) -> Partition {
        let number = self.random.random_range(0..PARTITIONS);
        Partitions::new(PARTITIONS).unwrap().get(number).unwrap()
    }

    /// Some of what a consumer has, or had before its connection was another one.
    fn some_held(&mut self, consumer: usize, partition: Partition) -> Vec<(Receipt, session::Receipt)> {
        let random = &mut self.random;
        let held = &self.pairs[consumer].held;
        held.iter().filter(|(real, _)| real.partition == partition && random.random_range(0..2) == 0).cloned().collect()
    }

    async fn settle(&mut self) -> (Said, Said) {
        let (consumer, partition) = (self.below(CONSUMERS.into()), self.partition());
        let (real, simulated): (Vec<_>, Vec<_>) = self.some_held(consumer, partition).into_iter().unzip();
        let redelivery = if self.below(2) == 0 { Redelivery::AtOnce } else { Redelivery::AfterIdle };
        let source = self.source();
        let (what, now) = (self.below(5), self.now);
        let settled: Vec<_> = match source.partition(Partitions::new(PARTITIONS).unwrap()) == partition && self.below(2) == 0 {
            true => vec![(source, self.below(40) as u64)],
            false => Vec::new(),
        };
        let pair = &mut self.pairs[consumer];
        let server = &mut self.servers[partition.index()];
        // Acknowledging and keeping make the session where there is none.
        let (epochs, slot) = &mut pair.sessions[partition.index()];
        let session = slot.get_or_insert_with(|| {
            *epochs += 1;
            Session::new(*epochs, now)
        });
        let ids = session.live(&simulated);
        match what {
            0 | 1 => {
                let answer = if ids.is_empty() && settled.is_empty() { Ok(0) } else { server.acknowledge(GROUP, &ids, &settled) };
                if answer.is_ok() {
                    session.forget(&ids);
                }
                let acknowledged = pair.real.acknowledge(partition, real, &settled).await;
                (said(acknowledged, |n| Said::Number(n as u64)), said(answer, |n| Said::Number(n as u64)))
            }
            2 => {
                let kept = if ids.is_empty() { Ok(0) } else { server.keep(GROUP, u16::try_from(consumer).unwrap(), &ids, now) };
                (said(pair.real.keep(partition, &real).await, |()| Said::Done), said(kept, |_| Said::Done))
            }
            _ => {
                // Without a session nothing is held; there is one now on both sides.
                let _session = pair.real.keep(partition, &[]).await;
                pair.real.let_go(partition, &real, redelivery);
                match redelivery {
                    Redelivery::AtOnce => session.let_go(&ids),
                    Redelivery::AfterIdle => session.forget(&ids),
                }
                (Said::Done, Said::Done)
            }
        }
    }

    async fn look(&mut self) -> (Said, Said) {
        let (source, partition, what) = (self.source(), self.partition(), self.below(5));
        let real = self.pairs[0].real.clone();
        let server = &self.servers[partition.index()];
        match what {
            0 => (said(real.position(source).await, Said::Position), Said::Position(self.server(source).position(source))),
            1 => (said(real.committed(source).await, Said::Number), Said::Number(self.server(source).committed(GROUP, source))),
            2 => {
                let backlog = server.backlog(GROUP);
                let says = |Backlog { entries, pending, .. }| Said::Backlog(entries, pending);
                (said(Consumer::backlog(&*real, partition).await, says), Said::Backlog(backlog.entries, backlog.pending))
            }
            3 => {
                let says = |states: Vec<telemetry::transport::SourceState>| {
                    let mut all: Vec<_> = states.into_iter().map(|s| (s.source, s.position, s.committed)).collect();
                    all.sort_by_key(|(source, ..)| *source);
                    Said::Sources(all)
                };
                (said(real.sources(partition).await, says), Said::Sources(server.sources(GROUP)))
            }
            _ => {
                let (id, _) = dictionary(u8::try_from(self.below(DICTIONARIES.into())).unwrap());
                let there = self.servers[partition.index()].has_dictionary(id);
                let says = |found: Option<Bytes>| Said::Number(u64::from(found.is_some()));
                (said(real.dictionary(partition, id).await, says), Said::Number(u64::from(there)))
            }
        }
    }

    async fn lease(&mut self) -> (Said, Said) {
        let (source, owner, now) = (self.source(), self.below(2), self.now);
        let real = self.pairs[0].real.clone();
        let name = owner.to_string();
        if self.below(3) == 0 {
            let released = self.server(source).release(source, owner as u64, now);
            return (said(real.release(source, &name).await, |()| Said::Done), said(released, |()| Said::Done));
        }
        let leased = self.server(source).lease(source, owner as u64, HOUR, now);
        let says = |lease| match lease {
            Lease::Held(at) => Said::Held(Some(at)),
            Lease::Taken => Said::Held(None),
        };
        (said(real.lease(source, &name).await, says), said(leased, Said::Held))
    }

    /// What every consumer has becomes old, and may be claimed.
    fn age(&mut self) {
        for (number, server) in self.servers.iter_mut().enumerate() {
            server.age(GROUP, 2 * HOUR);
            let stream = format!("{{t:{number}}}:stream");
            let Reply::List(pending) = self.redis.command(&["XPENDING", &stream, "collectors", "-", "+", "1000"]) else {
                continue;
            };
            for one in pending {
                let Reply::List(parts) = one else { panic!("{one:?}") };
                let [Reply::Text(id), Reply::Text(consumer), ..] = parts.as_slice() else { panic!("{parts:?}") };
                self.redis.ok(&["XCLAIM", &stream, "collectors", consumer, "0", id, "IDLE", "7200000", "JUSTID"]);
            }
        }
    }

    /// Partitions are looked at, or marked where the generation is the one that was seen before, which may be long ago.
    async fn mark(&mut self) -> (Said, Said) {
        let real = self.pairs[0].real.clone();
        if self.looked.is_empty() || self.below(3) == 0 {
            let (looked, simulated) = (real.store_marks().await, self.servers.iter().map(|server| server.mark(GROUP)));
            let simulated = Said::Marks(simulated.map(|(mark, generation)| (mark, generation.is_some())).collect());
            if let Ok(looked) = &looked {
                let seen = looked.iter().map(|(partition, mark)| (*partition, mark.clone().and_then(|mark| mark.generation)));
                self.looked = seen.zip(self.servers.iter().map(|server| server.mark(GROUP).1)).collect();
            }
            let marks = |looked: Vec<(Partition, Option<StoreMark>)>| looked.into_iter().filter_map(|(_, mark)| mark).collect();
            return (said(looked.map(marks), Said::of_marks), simulated);
        }
        let wanted = self.below(2) as u64;
        let seen: Vec<_> = self.looked.iter().map(|(seen, _)| seen.clone()).collect();
        let answers = real.mark_store(&mark(wanted), &seen).await;
        let simulated: Result<Vec<_>, Refusal> = self
            .servers
            .iter_mut()
            .zip(&self.looked)
            .map(|(server, (_, seen))| server.mark_store(GROUP, wanted, *seen))
            .collect();
        let marks = |answers: Vec<(Partition, StoreMark)>| answers.into_iter().map(|(_, mark)| mark).collect();
        let simulates = |marks: Vec<(Option<u64>, Option<u64>)>| {
            Said::Marks(marks.into_iter().map(|(mark, generation)| (mark, generation.is_some())).collect())
        };
        (said(answers.map(marks), Said::of_marks), said(simulated, simulates))
    }

    /// Everything at once: emptied, set back, full, read-only, old.
    async fn upset(&mut self) -> (Said, Said) {
        match self.below(12) {
            0 if !self.servers[0].no_writes && !self.servers[0].out_of_memory => {
                self.redis.ok(&["FLUSHALL"]);
                for number in 0..PARTITIONS {
                    // Else whoever is told that its position is gone writes it first, or is refused.
                    let meta = format!("{{t:{number}}}:meta");
                    self.redis.command(&["HSET", &meta, "partitions", &PARTITIONS.to_string()]);
                }
                self.servers.iter_mut().for_each(Server::flush);
            }
            1 if !self.servers[0].no_writes => {
                let real = self.pairs[0].real.reset(None).await;
                self.generations += 1;
                let generation = self.generations;
                let simulated: usize = self.servers.iter_mut().map(|server| server.reset(GROUP, generation)).sum();
                return (said(real, Said::Number), Said::Number(simulated as u64));
            }
            2..=7 if self.servers[0].out_of_memory || self.servers[0].no_writes => {
                self.redis.ok(&["CONFIG", "SET", "maxmemory", "0", "min-replicas-to-write", "0"]);
                self.servers.iter_mut().for_each(|server| (server.out_of_memory, server.no_writes) = (false, false));
            }
            2 => {
                self.redis.ok(&["CONFIG", "SET", "maxmemory", "1"]);
                self.servers.iter_mut().for_each(|server| server.out_of_memory = true);
            }
            3 => {
                self.redis.ok(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
                self.servers.iter_mut().for_each(|server| server.no_writes = true);
            }
            4..=7 => self.age(),
            8 => {
                return self.mark().await;
            }
            _ if !self.servers[0].no_writes && !self.servers[0].out_of_memory => {
                // The process of a consumer ends, and starts again.
                let consumer = self.below(CONSUMERS.into());
                self.pairs[consumer] = self.pair(u16::try_from(consumer).unwrap()).await;
            }
            _ => {}
        }
        (Said::Done, Said::Done)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulated_queue_answers_as_the_real_one() {
    for seed in 0..2 {
        let mut both = Both::start(seed).await;
        let (mut delivered, mut refused) = (0, 0);
        for step in 0..1_000 {
            both.now += 10;
            let (what, (real, simulated)) = match both.below(40) {
                0..12 => ("publish", both.publish().await),
                12..22 => ("receive", both.receive().await),
                22..31 => ("acknowledge, keep or let go", both.settle().await),
                31..35 => ("look", both.look().await),
                35..38 => ("lease", both.lease().await),
                _ => ("upset", both.upset().await),
            };
            assert_eq!(real, simulated, "seed {seed}, step {step}: {what} (left: Redis, right: simulated)");
            delivered += usize::from(matches!(&real, Said::Delivered(all) if !all.is_empty()));
            refused += usize::from(matches!(&real, Said::OutOfMemory | Said::NoWrites));
        }
        assert!(delivered > 80 && refused > 5, "seed {seed}: {delivered} deliveries and {refused} refusals show little");
    }
}
