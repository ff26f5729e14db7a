//! The queue on Redis Streams. The only place that knows the Redis client.
//!
//! # Keys
//!
//! `redis.prefix` is `prefix` below. Those of a partition share a hash tag, so that they are on one node of a cluster and one script
//! may touch them all; every key that a script touches is passed to it.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{prefix:p}:stream` | stream | the batches of partition p: `s` source, `f` first row, `e` end row, `d` payload |
//! | `{prefix:p}:positions` | hash | source → `row:offset:digest`: where the queue is in it |
//! | `{prefix:p}:committed:<group>` | hash | source → the row up to which, from 0 on, everything is in the group's store |
//! | `{prefix:p}:dict:<digest>` | string | a dictionary |
//! | `{prefix:p}:dicts` | hash | dictionary → id of the last entry that refers to it |
//! | `{prefix:p}:lease:<source>` | string | the streamer that works on the source; expires after `redis.lease_ttl` |
//! | `prefix:meta` | hash | `partitions`: their number, fixed at first use; `store:<group>`: the store that the group commits to |
//! | `prefix:registry:<digest>` | list | the contents that begin with this record, `length:digest:source` each |
//!
//! # Scripts (`scripts/`, `common.lua` before each)
//!
//! | script | does, atomically |
//! |---|---|
//! | publish | compares the position, looks for room and for the dictionaries, makes the group, appends, moves the position |
//! | acknowledge | acknowledges, raises `committed`, trims what every group has done with |
//! | sweep | deletes dictionaries that no entry left refers to |
//! | keep | resets the idle time of entries that are still ours |
//! | leave | deletes the consumer if it has nothing pending |
//! | lease, release | take, renew, give back |
//! | register, once | write if nobody else did |
//! | backlog, look, queued, reset | look and set back |
//! | retire | takes a group away that is gone, and trims what the others have done with |
//!
//! # What is promised
//!
//! *A batch is accepted at most once per position.* The position moves in the script that appends, and lives in the same slot: what
//! loses one (a failover, a lost disk) loses the other, and the publisher, told [`Published::Moved`], goes back and sends again. So a
//! batch whose answer was lost may be sent again, and two streamers of one source do no harm.
//!
//! *Batches sent one after the other arrive in that order*: a command is handed to the connection before
//! [`Publisher::publish`] returns (without a connection: when one waits for it, and there is one again). One that is refused leaves the position where it is, which refuses those behind it.
//!
//! *Nothing is handed out twice within an epoch, and no receipt outlives it.* A consumer's session is two connections to one server
//! process (`run_id`), one to read and one to acknowledge over; when either breaks, or the group is gone, a new epoch begins with what
//! was pending. Entry ids can be reused after a failover, so receipts of an earlier epoch are not sent.
//!
//! *At `maxmemory`* publishing answers [`TransportError::Full`] and leaves nothing half done (Redis checks memory only at a script's
//! first write, and that is one which it refuses); reading, claiming, keeping, acknowledging with `committed`, trimming and renewing a
//! lease go on. Set `maxmemory-policy noeviction`: with another, Redis may throw parts of the queue away.
//!
//! | what happens | what survives |
//! |---|---|
//! | a connection is lost | everything; calls fail with [`TransportError::Unavailable`] within their timeouts |
//! | Redis restarts | what its persistence kept; stream and position are of the same moment |
//! | `FLUSHALL`, an empty Redis | nothing; publishers are told so by their next batch or lease, consumers make the group again |
//! | `SCRIPT FLUSH` | everything; scripts are sent again |
//!
//! # Connections
//!
//! One for publishing and looking per partition, one more to read and one to acknowledge per consumed partition, one for the keys
//! outside of partitions; each made when first needed. None reconnects by itself: whoever needs a lost one makes it, with backoff
//! ([`crate::retry`]). A command without an answer within its timeout ends its connection, also a blocked read (`redis.block` +
//! `redis.command_timeout`), so a frozen server is noticed by every call.
//!
//! # Rights
//!
//! An ACL user needs the keys `~{prefix:*` and `~prefix:*`, and the commands HELLO, SELECT, PING, INFO, WAIT, SCRIPT, EVAL, EVALSHA,
//! TIME, EXISTS, GET, SET, DEL, PEXPIRE, HGET, HSET, HDEL, HLEN, HKEYS, HEXISTS, HGETALL, HSCAN, HMGET, LRANGE, RPUSH, XADD, XLEN, XRANGE, XTRIM,
//! XINFO, XPENDING, XREADGROUP, XACK, XCLAIM, XAUTOCLAIM and XGROUP. A missing one is named by [`TransportError::Refused`].
//!
//! [`Published::Moved`]: super::Published::Moved
//! [`Publisher::publish`]: super::Publisher::publish

mod client;
mod consume;
mod error;
mod inspect;
mod keys;
mod life;
mod link;
mod made;
mod publish;
mod reply;
mod script;
mod session;
mod url;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

pub use self::inspect::{Node, Retired};
pub use self::url::{Endpoint, validate_url};

use self::client::Shared;
use self::link::Link;
use self::session::Seat;
use super::{Partition, Result, TransportError};

/// The queue in one Redis. Implements [`Publisher`](super::Publisher), [`Consumer`](super::Consumer) and
/// [`Inspector`](super::Inspector).
pub struct RedisTransport {
    shared: Arc<Shared>,
    control: Link,
    links: Vec<Arc<Link>>,
    seats: Vec<Seat>,
    acknowledgements: Vec<AtomicU32>,
}

impl RedisTransport {
    /// Checks the configuration; connects when first used. Needs no server.
    ///
    /// # Errors
    /// [`TransportError::Mismatch`] for a configuration that cannot be right; it names the key.
    pub fn new(config: &crate::config::Redis) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared::new(config)?);
        let partitions = usize::from(config.partitions);
        Ok(Arc::new(Self {
            control: Link::new(&shared),
            links: (0..partitions).map(|_| Arc::new(Link::new(&shared))).collect(),
            seats: (0..partitions).map(|_| Seat::new(&shared)).collect(),
            acknowledgements: (0..partitions).map(|_| AtomicU32::new(0)).collect(),
            shared,
        }))
    }

    /// As [`RedisTransport::new`], and connects, so that a wrong address, password or number of partitions shows at once.
    ///
    /// # Errors
    /// Those of `new`, and whatever connecting brings; [`TransportError::is_transient`] says whether trying again can help.
    pub async fn connect(config: &crate::config::Redis) -> Result<Arc<Self>> {
        let transport = Self::new(config)?;
        transport.control.get().await?;
        Ok(transport)
    }

    /// host:port, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    /// Whether the last that was heard of Redis was good. Does not ask; [`Publisher::ping`](super::Publisher::ping) does.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.life.is_up()
    }

    fn link(&self, partition: Partition) -> Result<&Arc<Link>> {
        self.links.get(usize::from(partition)).ok_or_else(|| self.no_partition(partition))
    }

    fn seat(&self, partition: Partition) -> Result<&Seat> {
        self.seats.get(usize::from(partition)).ok_or_else(|| self.no_partition(partition))
    }

    fn no_partition(&self, partition: Partition) -> TransportError {
        TransportError::Mismatch(format!("there is no partition {partition}; redis.partitions is {}", self.links.len()))
    }
}
