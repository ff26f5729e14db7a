//! The queue of the model: operations are the shipped scripts (and the few plain commands beside them) on a small Redis. Each state of Redis
//! has a number, and what an operation makes of it is worked out once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, PoisonError, RwLock};

use super::few::Few;
use super::{Fault, MAX_SOURCES};
use crate::lua::{Script, Scripts};
use crate::redis::id::Id;
use crate::redis::reply::{Bytes, Reply, bytes};
use crate::redis::{Redis, Version};

const STREAM: &str = "{t:0}:stream";
const POSITIONS: &str = "{t:0}:positions";
const COMMITTED: &str = "{t:0}:committed:g";
const DICTS: &str = "{t:0}:dicts";
const GROUP: &str = "g";
/// The clock at the beginning, ms. It goes on only when Redis is emptied, so ids are used again after a failover as early as they can be.
const BEGIN: u64 = 1_000;

/// The number of a state of Redis.
pub type RedisId = u32;

/// The id of an entry: milliseconds since the beginning, and the number within them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct EntryId(pub u8, pub u8);

/// An entry, as a collector reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// Its batch.
    pub batch: Batch,
}

/// Consecutive rows of a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Batch {
    /// The source.
    pub source: u8,
    /// The first row.
    pub first: u8,
    /// The row after the last; also the position after it.
    pub end: u8,
}

/// An operation of a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Takes the lease of a source. Its time may be over at once, so nothing is kept of it.
    Lease {
        /// The source.
        source: u8,
    },
    /// Asks for a source's position.
    Locate {
        /// The source.
        source: u8,
    },
    /// Publishes a batch.
    Publish {
        /// The batch.
        batch: Batch,
        /// The position that the queue is to have; 0: none.
        expected: u8,
    },
    /// A planted fault: adds the entry of a batch whose position was moved before.
    Add {
        /// The batch.
        batch: Batch,
    },
    /// Asks up to which row a source is committed.
    Committed {
        /// The source.
        source: u8,
    },
    /// Reads one new entry.
    ReadNew {
        /// Who reads.
        collector: u8,
    },
    /// Makes the group.
    MakeGroup,
    /// Lists what the collector has pending.
    ListOwn {
        /// Who asks.
        collector: u8,
    },
    /// Claims what anybody has pending.
    Claim {
        /// Who claims.
        collector: u8,
    },
    /// Reads entries that are pending.
    Read {
        /// Who reads.
        collector: u8,
        /// The entries.
        ids: Few<EntryId>,
    },
    /// Acknowledges entries, and notes rows.
    Acknowledge {
        /// The entries.
        ids: Few<EntryId>,
        /// By source: the row up to which it is stored; 0: nothing is noted.
        settled: [u8; MAX_SOURCES],
    },
    /// Redis loses everything, and time passes.
    Flush,
}

/// What an operation is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// It was done.
    Done,
    /// The batch is in the queue.
    Accepted,
    /// The queue is elsewhere; 0: it does not know the source.
    Moved(u8),
    /// A row: a position, or up to where a source is committed.
    Row(u8),
    /// Ids of entries.
    Ids(Few<EntryId>),
    /// Entries.
    Entries(Few<Entry>),
    /// The group is not there.
    NoGroup,
}

/// What the properties look at in a state of Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Facts {
    /// By source: the position; 0: none.
    pub position: [u8; MAX_SOURCES],
    /// By source: the row up to which it is said to be stored.
    pub committed: [u8; MAX_SOURCES],
    /// By source: rows that are in the queue and not acknowledged, a bit each.
    pub queued: [u8; MAX_SOURCES],
    /// Whether entries are pending.
    pub pending: bool,
    /// Whether entries were not read by the group, or there is no group to read.
    pub unread: bool,
}

/// A hasher that is quick; nobody chooses what is hashed here.
#[derive(Clone, Copy, Default)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        // The best bits of a product are the upper ones; tables take the lower.
        self.0 ^ (self.0 >> 32)
    }
}

/// Hashes a value quickly.
pub fn quick(value: &impl Hash) -> u64 {
    let mut hasher = Quick::default();
    value.hash(&mut hasher);
    hasher.finish()
}

type Table<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;
/// What an operation makes of a state, and answers.
type Memo = Table<(RedisId, Op), (RedisId, Answer)>;

/// Parts of a table, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// What has been worked out.
pub struct Engine {
    fault: Option<Fault>,
    /// Whether what was worked out is kept.
    memoised: bool,
    known: RwLock<Vec<(Redis, Facts)>>,
    numbers: Mutex<HashMap<Redis, RedisId>>,
    memo: Vec<RwLock<Memo>>,
}

thread_local! {
    static SCRIPTS: RefCell<Option<(Option<Fault>, Scripts)>> = const { RefCell::new(None) };
}

impl Engine {
    /// An engine that knows nothing yet. The first state, number 0, is an empty Redis.
    #[must_use]
    pub fn new(fault: Option<Fault>, memoised: bool) -> Self {
        let memo = (0..SHARDS).map(|_| RwLock::default()).collect();
        let engine = Self { fault, memoised, known: RwLock::default(), numbers: Mutex::default(), memo };
        engine.number(Redis::new(Version::default(), BEGIN));
        engine
    }

    /// How many states of Redis there were, and how often an operation was worked out.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).len();
        let memo = self.memo.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum();
        (known, memo)
    }

    /// What the properties look at.
    #[must_use]
    pub fn facts(&self, redis: RedisId) -> Facts {
        self.known.read().unwrap_or_else(PoisonError::into_inner)[redis as usize].1
    }

    /// What an operation makes of a state, and answers.
    #[must_use]
    pub fn run(&self, redis: RedisId, op: Op) -> (RedisId, Answer) {
        let shard = &self.memo[quick(&(redis, op)) as usize % SHARDS];
        if let Some(found) = shard.read().unwrap_or_else(PoisonError::into_inner).get(&(redis, op)) {
            return *found;
        }
        let mut state = self.known.read().unwrap_or_else(PoisonError::into_inner)[redis as usize].0.clone();
        let answer = SCRIPTS.with_borrow_mut(|scripts| {
            let scripts = match scripts {
                Some((fault, scripts)) if *fault == self.fault => scripts,
                other => &other.insert((self.fault, scripts_with(self.fault))).1,
            };
            apply(scripts, &mut state, op)
        });
        let made = (self.number(state), answer);
        if self.memoised {
            shard.write().unwrap_or_else(PoisonError::into_inner).insert((redis, op), made);
        }
        made
    }

    fn number(&self, redis: Redis) -> RedisId {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(&redis) {
            return *number;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let number = RedisId::try_from(known.len()).unwrap_or(RedisId::MAX);
        let facts = look(&mut redis.clone());
        known.push((redis.clone(), facts));
        numbers.insert(redis, number);
        number
    }
}

/// The scripts, with a fault where one is planted in them.
fn scripts_with(fault: Option<Fault>) -> Scripts {
    let text = |script: Script| match fault {
        Some(Fault::TrimByAge) => replaced(script.text(), "  if from == nil then return", "  if true then return"),
        Some(Fault::PositionFirst) if script == Script::Publish => {
            replaced(script.text(), "local id = redis.call('XADD'", "local id = '0-1' or redis.call('XADD'")
        }
        _ => script.text(),
    };
    Scripts::with(text).unwrap_or_else(|error| panic!("the scripts do not load: {error}"))
}

/// A script's text with a line replaced, for as long as the process lives: a few are made.
fn replaced(text: &'static str, from: &str, to: &str) -> &'static str {
    assert!(text.contains(from), "the script no longer has `{from}`, in which a fault is planted");
    String::leak(text.replace(from, to))
}

fn source(source: u8) -> Bytes {
    bytes(format!("{source:032x}"))
}

fn consumer(collector: u8) -> Bytes {
    bytes(format!("c{collector}"))
}

fn position(row: u8) -> Bytes {
    if row == 0 { bytes("") } else { bytes(format!("{row}:{}:{row:032x}", u32::from(row) * 10)) }
}

fn id_text(id: EntryId) -> Bytes {
    bytes(format!("{}-{}", BEGIN + u64::from(id.0), id.1))
}

fn texts(list: &[&str]) -> Vec<Bytes> {
    list.iter().map(bytes).collect()
}

fn row_in(text: Option<&Reply>) -> u8 {
    text.and_then(Reply::text).and_then(|text| text.split(':').next()).and_then(|row| row.parse().ok()).unwrap_or(0)
}

fn id_in(reply: &Reply) -> EntryId {
    let id = reply.text().and_then(|text| Id::parse(text.as_bytes(), 0).ok()).unwrap_or_default();
    let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    EntryId(small(id.ms.saturating_sub(BEGIN)), small(id.seq))
}

/// An entry of a reply: its id, and fields and values.
fn entry_in(reply: &Reply) -> Option<Entry> {
    let [id, fields, ..] = reply.parts() else { return None };
    let field = |name: &str| {
        let found = fields.parts().chunks_exact(2).find(|pair| pair[0].text() == Some(name));
        found.and_then(|pair| pair[1].text()).and_then(|text| u8::from_str_radix(text, 16).ok())
    };
    Some(Entry { id: id_in(id), batch: Batch { source: field("s")?, first: field("f")?, end: field("e")? } })
}

/// Runs an operation.
fn apply(scripts: &Scripts, redis: &mut Redis, op: Op) -> Answer {
    match op {
        Op::Lease { source: of } => {
            let lease = bytes("{t:0}:lease");
            let keys = [lease.clone(), bytes(POSITIONS)];
            let reply = scripts.run(redis, Script::Lease, &keys, &[bytes("o"), bytes("60000"), source(of)]);
            redis.call(&[bytes("DEL"), lease]);
            match reply.parts() {
                [held, at @ ..] if held.text() == Some("held") => Answer::Row(row_in(at.first())),
                _ => panic!("{op:?}: {reply:?}"),
            }
        }
        Op::Locate { source: of } => Answer::Row(row_in(Some(&redis.call(&[bytes("HGET"), bytes(POSITIONS), source(of)])))),
        Op::Committed { source: of } => Answer::Row(row_in(Some(&redis.call(&[bytes("HGET"), bytes(COMMITTED), source(of)])))),
        Op::Publish { batch, expected } => {
            let (first, end) = (bytes(batch.first.to_string()), bytes(batch.end.to_string()));
            let mut args = vec![source(batch.source), position(expected), position(batch.end), first, end];
            args.extend(texts(&["100", GROUP, "d"]));
            let reply = scripts.run(redis, Script::Publish, &texts(&[STREAM, POSITIONS, DICTS]), &args);
            match (reply.parts().first().and_then(Reply::text), reply.parts().get(1)) {
                (Some("accepted"), None) => Answer::Accepted,
                (Some("moved"), at) => Answer::Moved(row_in(at)),
                _ => panic!("{op:?}: {reply:?}"),
            }
        }
        Op::Add { batch } => {
            let (first, end) = (bytes(batch.first.to_string()), bytes(batch.end.to_string()));
            let mut args = texts(&["XADD", STREAM, "*", "s"]);
            args.extend([source(batch.source), bytes("f"), first, bytes("e"), end, bytes("d"), bytes("d")]);
            redis.call(&args);
            Answer::Accepted
        }
        Op::MakeGroup => {
            // Somebody else may have been faster.
            redis.run(&["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"]);
            Answer::Done
        }
        Op::Flush => {
            redis.run(&["FLUSHALL"]);
            redis.now += 1;
            Answer::Done
        }
        Op::ReadNew { .. } | Op::ListOwn { .. } | Op::Claim { .. } | Op::Read { .. } => collect(scripts, redis, op),
        Op::Acknowledge { ids, settled } => {
            let mut args = texts(&[GROUP, &ids.len().to_string()]);
            args.extend(ids.as_slice().iter().map(|id| id_text(*id)));
            for (of, row) in settled.iter().enumerate().filter(|(_, row)| **row > 0) {
                args.extend([source(of as u8), bytes(row.to_string())]);
            }
            let reply = scripts.run(redis, Script::Acknowledge, &texts(&[STREAM, COMMITTED]), &args);
            match &reply {
                Reply::Array(_) => Answer::Done,
                // The stream is gone, and its group.
                Reply::Error(text) if text.starts_with("NOGROUP") => Answer::NoGroup,
                _ => panic!("{op:?}: {reply:?}"),
            }
        }
    }
}

/// Runs an operation of a collector that reads.
fn collect(scripts: &Scripts, redis: &mut Redis, op: Op) -> Answer {
    let reply = match op {
        Op::ReadNew { collector } => {
            let mut args = texts(&["XREADGROUP", "GROUP", GROUP]);
            args.push(consumer(collector));
            args.extend(texts(&["COUNT", "1", "STREAMS", STREAM, ">"]));
            redis.call(&args)
        }
        Op::ListOwn { collector } => {
            let mut args = texts(&["XPENDING", STREAM, GROUP, "-", "+", "10"]);
            args.push(consumer(collector));
            redis.call(&args)
        }
        Op::Claim { collector } => {
            let mut args = texts(&["XAUTOCLAIM", STREAM, GROUP]);
            args.push(consumer(collector));
            args.extend(texts(&["0", "0-0", "COUNT", "10", "JUSTID"]));
            redis.call(&args)
        }
        Op::Read { collector, ids } => {
            let mut args = vec![bytes(GROUP), consumer(collector), bytes("1000"), bytes("100000")];
            args.extend(ids.as_slice().iter().map(|id| id_text(*id)));
            scripts.run(redis, Script::Read, &[bytes(STREAM)], &args)
        }
        _ => Reply::Nil,
    };
    match (op, &reply) {
        (_, Reply::Error(text)) if text.starts_with("NOGROUP") => Answer::NoGroup,
        (Op::Read { .. }, Reply::Nil) => Answer::NoGroup,
        (Op::ReadNew { .. }, Reply::Nil) => Answer::Entries(Few::default()),
        (Op::ReadNew { .. }, Reply::Array(streams)) => {
            let entries = streams.first().and_then(|stream| stream.parts().get(1)).map(Reply::parts).unwrap_or_default();
            Answer::Entries(entries.iter().filter_map(entry_in).collect())
        }
        (Op::ListOwn { .. }, Reply::Array(rows)) => {
            Answer::Ids(rows.iter().filter_map(|row| row.parts().first()).map(id_in).collect())
        }
        (Op::Claim { .. }, Reply::Array(parts)) => {
            let ids = parts.get(1).map(Reply::parts).unwrap_or_default();
            Answer::Ids(ids.iter().map(id_in).collect())
        }
        (Op::Read { .. }, Reply::Array(parts)) => Answer::Entries(parts.iter().skip(1).filter_map(entry_in).collect()),
        _ => panic!("{op:?}: {reply:?}"),
    }
}

/// Looks at a state of Redis.
fn look(redis: &mut Redis) -> Facts {
    let mut facts = Facts::default();
    for of in 0..MAX_SOURCES {
        let name = source(of as u8);
        facts.position[of] = row_in(Some(&redis.call(&[bytes("HGET"), bytes(POSITIONS), name.clone()])));
        facts.committed[of] = row_in(Some(&redis.call(&[bytes("HGET"), bytes(COMMITTED), name])));
    }
    let all = redis.run(&["XRANGE", STREAM, "-", "+"]);
    let Some(stream) = redis.stream(STREAM) else { return facts };
    let group = stream.groups.get(GROUP.as_bytes());
    facts.pending = group.is_some_and(|group| !group.pending.is_empty());
    for (id, reply) in stream.entries.keys().zip(all.parts()) {
        let Some(Entry { batch, .. }) = entry_in(reply) else { continue };
        let unread = group.is_none_or(|group| *id > group.last);
        facts.unread |= unread;
        if unread || group.is_some_and(|group| group.pending.contains_key(id)) {
            for row in batch.first..batch.end {
                facts.queued[usize::from(batch.source)] |= 1 << row;
            }
        }
    }
    facts
}
