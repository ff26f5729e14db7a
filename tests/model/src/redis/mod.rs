//! A small Redis: a value that commands change. It has the commands that the shipped scripts and their callers use, and answers them as
//! Redis does, to the word; `tests/real.rs` compares it with real ones.
//!
//! What it leaves out: the order of a hash's fields (here: sorted), memory (here: full or not), anything that needs a second client.

mod hashes;
pub mod id;
mod pending;
pub mod reply;
pub mod stream;
mod streams;
mod strings;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::reply::{Bytes, Reply};
use self::stream::Stream;

/// What an operation on a key of another type is answered.
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
/// What a write is answered when Redis is full.
pub const FULL: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// What a text that is no number is answered.
const NO_INTEGER: &str = "value is not an integer or out of range";

/// In what servers differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Version {
    /// From 7.2 on: who asks for entries is a consumer, even where there are none.
    pub consumers_at_once: bool,
    /// From 7.2.6 and 7.4.1 on: of a group that stands before the first entry, the lag is what is left.
    pub counts_what_is_left: bool,
}

/// A small Redis.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Redis {
    keys: Arc<BTreeMap<Bytes, Slot>>,
    /// Its clock, ms.
    pub now: u64,
    /// Whether it is at `maxmemory`.
    pub full: bool,
    /// Which server it is like.
    pub version: Version,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Slot {
    value: Value,
    /// When it expires, ms.
    until: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Value {
    Text(Bytes),
    Hash(Arc<BTreeMap<Bytes, Bytes>>),
    List(Arc<Vec<Bytes>>),
    Stream(Arc<Stream>),
}

/// The answer, or the error, of a command.
type Answer = Result<Reply, Reply>;

/// Whether a command writes, and whether a full Redis refuses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// It only reads.
    Reads,
    /// It writes.
    Writes,
    /// It writes, and may take memory.
    Grows,
}

/// What a command does to memory.
pub(crate) fn effect(args: &[Bytes]) -> Effect {
    match args.first().map(|name| &**name) {
        Some(b"SET" | b"SETNX" | b"HSET" | b"RPUSH" | b"XADD") => Effect::Grows,
        Some(b"XGROUP") if args.get(1).is_some_and(|sub| &**sub == b"CREATE") => Effect::Grows,
        Some(
            b"DEL" | b"PEXPIRE" | b"HDEL" | b"XTRIM" | b"XDEL" | b"XACK" | b"XCLAIM" | b"XAUTOCLAIM" | b"XREADGROUP" | b"XGROUP"
            | b"FLUSHALL",
        ) => Effect::Writes,
        _ => Effect::Reads,
    }
}

impl Redis {
    /// An empty one.
    #[must_use]
    pub fn new(version: Version, now: u64) -> Self {
        Self { now, version, ..Self::default() }
    }

    /// Runs a command as a client sends it.
    pub fn call(&mut self, args: &[Bytes]) -> Reply {
        if self.full && effect(args) == Effect::Grows {
            return Reply::Error(FULL.to_owned());
        }
        self.apply(args)
    }

    /// The same with texts.
    pub fn run(&mut self, args: &[&str]) -> Reply {
        let args: Vec<Bytes> = args.iter().map(reply::bytes).collect();
        self.call(&args)
    }

    /// Runs a command, full or not. Commands' names are in capital letters.
    pub(crate) fn apply(&mut self, args: &[Bytes]) -> Reply {
        let Some((name, args)) = args.split_first() else { return Reply::err("empty command") };
        let answer = match &**name {
            b"TIME" => Ok(self.time()),
            b"FLUSHALL" => Ok(self.flush()),
            b"EXISTS" => Ok(self.exists(args)),
            b"DEL" => Ok(self.del(args)),
            b"GET" => self.get(args),
            b"SET" => self.set(args),
            b"SETNX" => self.setnx(args),
            b"PEXPIRE" => self.pexpire(args),
            b"LRANGE" => self.lrange(args),
            b"RPUSH" => self.rpush(args),
            b"HGET" => self.hget(args),
            b"HSET" => self.hset(args),
            b"HDEL" => self.hdel(args),
            b"HLEN" => self.hlen(args),
            b"HKEYS" => self.hkeys(args),
            b"HEXISTS" => self.hexists(args),
            b"XADD" => self.xadd(args),
            b"XLEN" => self.xlen(args),
            b"XRANGE" => self.xrange(args),
            b"XTRIM" => self.xtrim(args),
            b"XDEL" => self.xdel(args),
            b"XINFO" => self.xinfo(args),
            b"XGROUP" => self.xgroup(args),
            b"XREADGROUP" => self.xreadgroup(args),
            b"XACK" => self.xack(args),
            b"XPENDING" => self.xpending(args),
            b"XCLAIM" => self.xclaim(args),
            b"XAUTOCLAIM" => self.xautoclaim(args),
            other => Err(Reply::err(&format!("unknown command '{}'", String::from_utf8_lossy(other)))),
        };
        answer.unwrap_or_else(|error| error)
    }

    /// A stream, to look at.
    #[must_use]
    pub fn stream(&self, key: &str) -> Option<&Stream> {
        self.stream_at(key.as_bytes()).ok().flatten()
    }

    fn time(&self) -> Reply {
        Reply::Array(vec![Reply::bulk((self.now / 1000).to_string()), Reply::bulk((self.now % 1000 * 1000).to_string())])
    }

    fn flush(&mut self) -> Reply {
        self.keys = Arc::default();
        Reply::ok()
    }

    fn slot(&self, key: &[u8]) -> Option<&Slot> {
        self.keys.get(key).filter(|slot| slot.until.is_none_or(|until| until > self.now))
    }

    fn slot_mut(&mut self, key: &[u8]) -> Option<&mut Slot> {
        let now = self.now;
        Arc::make_mut(&mut self.keys).get_mut(key).filter(|slot| slot.until.is_none_or(|until| until > now))
    }

    fn put(&mut self, key: &Bytes, value: Value, until: Option<u64>) {
        Arc::make_mut(&mut self.keys).insert(key.clone(), Slot { value, until });
    }

    /// Takes a key away; whether it was there.
    fn remove(&mut self, key: &[u8]) -> bool {
        let was = self.slot(key).is_some();
        if self.keys.contains_key(key) {
            Arc::make_mut(&mut self.keys).remove(key);
        }
        was
    }

    fn exists(&self, args: &[Bytes]) -> Reply {
        Reply::count(args.iter().filter(|key| self.slot(key).is_some()).count())
    }

    fn del(&mut self, args: &[Bytes]) -> Reply {
        Reply::count(args.iter().filter(|key| self.remove(key)).count())
    }

    fn stream_at(&self, key: &[u8]) -> Result<Option<&Stream>, Reply> {
        match self.slot(key).map(|slot| &slot.value) {
            None => Ok(None),
            Some(Value::Stream(stream)) => Ok(Some(stream)),
            Some(_) => Err(wrong_type()),
        }
    }

    fn stream_mut(&mut self, key: &[u8]) -> Result<Option<&mut Stream>, Reply> {
        match self.slot_mut(key).map(|slot| &mut slot.value) {
            None => Ok(None),
            Some(Value::Stream(stream)) => Ok(Some(Arc::make_mut(stream))),
            Some(_) => Err(wrong_type()),
        }
    }
}

fn wrong_type() -> Reply {
    Reply::Error(WRONG_TYPE.to_owned())
}

fn wrong_arity(name: &str) -> Reply {
    Reply::err(&format!("wrong number of arguments for '{name}' command"))
}

/// A number as Redis reads them: no zeros before, no plus, no spaces.
fn integer(text: &[u8]) -> Result<i64, Reply> {
    let text = std::str::from_utf8(text).ok();
    let number = text.and_then(|text| text.parse::<i64>().ok().filter(|number| number.to_string() == text));
    number.ok_or_else(|| Reply::err(NO_INTEGER))
}
