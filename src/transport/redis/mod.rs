//! The queue on Redis Streams. The only place that knows the Redis client.
//!
//! # Keys
//!
//! `redis.prefix` is `prefix` below. All belong to a partition and share its hash tag, so that they are on one node of a cluster and one
//! script may touch them all; every key that a script touches is passed to it. A node that is away takes its partitions with it, and
//! nothing else.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{prefix:p}:stream` | stream | the batches of partition p: `s` source, `f` first row, `e` end row, `d` payload |
//! | `{prefix:p}:positions` | hash | source → `row:offset:digest`: where the queue is in it |
//! | `{prefix:p}:committed:<group>` | hash | source → the row up to which, from 0 on, everything is in the group's store |
//! | `{prefix:p}:dict:<digest>` | string | a dictionary |
//! | `{prefix:p}:dicts` | hash | dictionary → id of the last entry that refers to it |
//! | `{prefix:p}:lease:<source>` | string | the streamer that works on the source; expires after `redis.lease_ttl` |
//! | `{prefix:p}:meta` | hash | `partitions`: their number, fixed at first use; `store:<group>`: the store that the group commits to; `generation:<group>`: drawn when everything was last set back |
//! | `{prefix:p}:registry:<digest>` | list | the contents that begin with this record, `length:digest:source` each |
//!
//! Whoever shares the Redis can write to most of these, so nothing there is believed before it was checked ([`malformed`], and the head of
//! `common.lua`, which agree on what is well-formed: exactly what is written here). What is malformed is passed over, counted and named:
//!
//! | malformed | counts as |
//! |---|---|
//! | a position | unknown: the source is sent again from its start, and the next position is written over it |
//! | a committed row | 0: who waits for the store goes on waiting, until a collector starts or acknowledges more of the source, and writes over it |
//! | an identity, a field that names no source, a dictionary's last use, the name of a group | not there; the others are |
//! | the number of partitions | not said: what is configured goes on |
//! | the mark of a store (a UUID) | not said: a collector that starts puts that of its store there |
//! | the generation of a mark (a UUID) | none, until everything is set back |
//! | an entry | a batch that cannot be stored: it becomes a dead letter |
//! | a lease without an end | another's, until `redis.lease_ttl` is over |
//! | a group ahead of its stream | one that has read nothing: everything is kept for it |
//! | a key of another type; a stream that had the greatest id | in the way ([`TransportError::Blocked`]): what needs it waits |
//!
//! # Scripts (`scripts/`, `common.lua` before each)
//!
//! | script | does, atomically |
//! |---|---|
//! | publish | compares the position, looks for room and for the dictionaries, makes the group, appends, moves the position |
//! | acknowledge | acknowledges, raises `committed`, trims what every group has done with |
//! | fetch | reads a dictionary, unless it is longer than asked for |
//! | read | reads entries that are pending and keeps them; of a payload that is longer than asked for only its length |
//! | sweep | deletes dictionaries that no entry left refers to |
//! | keep | resets the idle time of entries that are still ours |
//! | leave | deletes the consumer if it has nothing pending |
//! | lease, release | take, renew, give back |
//! | register, once | write if nobody else did |
//! | mark | writes if nobody else did, and nothing was set back since the caller looked |
//! | backlog, contains, look, queued, reset | look and set back |
//! | retire | takes a group away that is gone, and trims what the others have done with |
//!
//! # What is promised
//!
//! Here is what the queue does for it; `docs/protocol.md` states the whole protocol: what must hold, what is assumed, and how it is shown.
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
//! *An entry that nobody has the memory for ends one consumer, not each in turn.* New entries are read whole: looking at each first would be
//! another round trip. What was delivered before is listed by id (`XPENDING`, `XAUTOCLAIM JUSTID`), looked at by a script, a few MiB at a time, and of
//! a payload longer than [`MAX_REDELIVERED_BYTES`] only the length leaves Redis: it is fetched when its turn has come ([`Delivery::withheld`]), over a
//! connection that ends then, or, where it is longer than [`MAX_ENTRY_BYTES`], never ([`Delivery::oversize`]). While such entries come, new ones
//! are read one by one.
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
//! | a failover, by a cluster or by sentinels | what the replica had; publishers and consumers as after a restart |
//! | a slot moves to another node | everything; its partition waits until the slot has moved |
//!
//! # Where it is
//!
//! `redis.url` names one server, or any nodes of a cluster, or sentinels: [`topology`] finds out which by asking, keeps the map from
//! slots to nodes, and asks again (any node that answers) on MOVED, on a lost connection, when a server is no primary any more, and
//! every `redis.topology_refresh`. Names and ports are those that nodes announce; who announces nothing is reached where the answer
//! came from.
//!
//! # Connections
//!
//! Of a partition, to the node that has it: one for publishing and looking, one more to read and one to acknowledge where it is
//! consumed; each made when first needed (what was connected to in the beginning, to find out where all is, is used for that: over a
//! long line every round trip counts). None reconnects by itself: whoever needs a lost one makes it, with backoff
//! ([`crate::retry`]). A command without an answer within its timeout ends its connection, also a blocked read (`redis.block` +
//! `redis.command_timeout`), so a frozen server is noticed by every call, and holds up no partition of another. With TLS
//! ([`crate::tls`]) a connection is renewed soon after its certificate was.
//!
//! # Rights
//!
//! An ACL user needs the keys `~{prefix:*`, and the commands AUTH, SELECT, PING, INFO, WAIT, SCRIPT, EVAL, EVALSHA, TIME, EXISTS, GET,
//! SET, SETNX, DEL, PEXPIRE, HGET, HSET, HDEL, HLEN, HKEYS, HEXISTS, HSCAN, HMGET, LRANGE, RPUSH, XADD, XLEN, XRANGE, XTRIM, XINFO,
//! XPENDING, XREADGROUP, XACK, XCLAIM, XAUTOCLAIM and XGROUP; in a cluster CLUSTER SLOTS too. A missing one is named by
//! [`TransportError::Refused`].
//!
//! [`Delivery::oversize`]: super::Delivery::oversize
//! [`Delivery::withheld`]: super::Delivery::withheld
//! [`MAX_ENTRY_BYTES`]: super::MAX_ENTRY_BYTES
//! [`MAX_REDELIVERED_BYTES`]: super::MAX_REDELIVERED_BYTES
//! [`Published::Moved`]: super::Published::Moved
//! [`Publisher::publish`]: super::Publisher::publish

mod client;
mod consume;
mod diagnose;
mod dial;
mod error;
mod fred;
mod inspect;
mod keys;
mod link;
mod malformed;
mod marks;
mod publish;
mod reconnecting;
mod reply;
mod script;
mod server_status;
mod session;
mod shared;
mod spare;
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

pub use self::diagnose::{Probed, Side, diagnose, store_marks};
pub use self::dial::{DialError, Reached, Stage};
pub use self::inspect::{Node, Retired};
pub use self::malformed::KeyKind;
pub use crate::address::redis::Address;

use self::client::Conn;
use self::link::Link;
use self::session::SessionSlot;
use self::shared::Shared;
use self::topology::Deployment;
use super::{Result, TransportError};
use crate::model::Partition;

/// The queue in one Redis. Implements [`Publisher`](super::Publisher), [`Consumer`](super::Consumer) and
/// [`Inspector`](super::Inspector).
pub struct RedisTransport {
    shared: Arc<Shared>,
    links: Vec<Arc<Link>>,
    session_slots: Vec<SessionSlot>,
    acknowledgements: Vec<AtomicU32>,
    /// Where the next sweep of each partition goes on (HSCAN's cursor).
    sweep_cursors: Vec<AtomicU64>,
}

impl Drop for RedisTransport {
    fn drop(&mut self) {
        self.shared.spares.clear();
    }
}

impl RedisTransport {
    /// Checks the configuration; connects when first used. Needs no server.
    ///
    /// # Errors
    /// [`TransportError::Mismatch`] for a configuration that cannot be right; it names the key.
    pub fn new(config: &crate::config::Redis) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared::new(config)?);
        let partitions = config.partitions.iter();
        Ok(Arc::new(Self {
            links: partitions.clone().map(|p| Arc::new(Link::new(&shared, p))).collect(),
            session_slots: partitions.clone().map(|p| SessionSlot::new(&shared, p)).collect(),
            acknowledgements: partitions.clone().map(|_| AtomicU32::new(0)).collect(),
            sweep_cursors: partitions.map(|_| AtomicU64::new(0)).collect(),
            shared,
        }))
    }

    /// As [`RedisTransport::new`], and connects, so that a wrong address, password or number of partitions shows at once. One node of a
    /// cluster is enough: the partitions of those that are away wait for them.
    ///
    /// # Errors
    /// Those of `new`, and whatever connecting brings; [`TransportError::is_transient`] says whether trying again can help.
    pub async fn connect(config: &crate::config::Redis) -> Result<Arc<Self>> {
        let transport = Self::new(config)?;
        let nodes = transport.by_node().await?;
        let mut nodes: FuturesUnordered<_> = nodes.into_iter().map(|(node, has)| transport.reach(node, has)).collect();
        let (begun, mut away, mut reached) = (Instant::now(), None, None);
        loop {
            // The others have as long again as the first took: what they have may be needed next.
            let wait = reached.map_or(Duration::MAX, |took: Duration| took.saturating_mul(2));
            match tokio::time::timeout(wait.saturating_sub(begun.elapsed()), nodes.next()).await {
                Ok(Some(Ok(()))) => reached = reached.or_else(|| Some(begun.elapsed())),
                Ok(Some(Err(error))) if error.is_transient() => away = Some(error),
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        drop(nodes);
        match reached {
            Some(_) => Ok(transport),
            None => Err(away.unwrap_or_else(|| transport.shared.unavailable("it has no node"))),
        }
    }

    /// Connects to a server that has these partitions; whoever needs it first has the connection.
    async fn reach(&self, node: Address, partitions: Vec<Partition>) -> Result<()> {
        let conn = Conn::open_at(&self.shared, &node, &partitions).await?;
        self.shared.spares.put(conn);
        Ok(())
    }

    /// Every server that has partitions, with them.
    async fn by_node(&self) -> Result<Vec<(Address, Vec<Partition>)>> {
        let known = self.shared.topology.get(&self.shared).await?;
        let all = self.shared.config.partitions;
        let slots = match &known.kind {
            Deployment::Single(server) | Deployment::Watched { server, .. } => {
                return Ok(vec![(server.clone(), all.iter().collect())]);
            }
            Deployment::Cluster(slots) => slots,
        };
        let mut nodes: BTreeMap<Address, Vec<Partition>> = BTreeMap::new();
        for partition in all {
            if let Some(owner) = slots.owner(self.shared.keys.slot(partition)) {
                nodes.entry(owner.clone()).or_default().push(partition);
            }
        }
        Ok(nodes.into_iter().collect())
    }

    /// The one of a server's partitions to ask it by: one that has a connection, if there is.
    fn nearest(&self, partitions: &[Partition]) -> Option<Partition> {
        let connected = |p: &&Partition| self.links.get(p.index()).is_some_and(|link| link.current().is_some());
        partitions.iter().find(connected).or(partitions.first()).copied()
    }

    /// A round trip to every server that has partitions; the longest. An error where one does not answer, or a partition has none.
    async fn round_trip(&self) -> Result<Duration> {
        self.shared.spares.prune();
        for partition in self.shared.config.partitions {
            self.shared.topology.place(&self.shared, partition).await?;
        }
        let trips = self.by_node().await?.into_iter().map(|(_, partitions)| async move {
            let nearest = self.nearest(&partitions).ok_or_else(|| self.shared.unavailable("it has no partition"))?;
            let conn = self.link(nearest)?.get().await?;
            let begun = Instant::now();
            conn.call("PING", Vec::new()).await?;
            Ok(begun.elapsed())
        });
        Ok(try_join_all(trips).await?.into_iter().max().unwrap_or_default())
    }

    /// Bytes sent and received since the start: commands and answers as they are written, without TLS and TCP around them.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        self.shared.traffic()
    }

    /// How often values of each kind of key were malformed and passed over since the start.
    #[must_use]
    pub fn malformed(&self) -> [(KeyKind, u64); KeyKind::ALL.len()] {
        self.shared.malformed.counts()
    }

    /// When our certificate ends, and that of the server that was reached last.
    #[must_use]
    pub fn certificates(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        self.shared.certificates()
    }

    /// host:port, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    /// Whether the last that was heard of Redis was good. Does not ask; [`Publisher::ping`](super::Publisher::ping) does.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.statuses.are_up()
    }

    fn link(&self, partition: Partition) -> Result<&Arc<Link>> {
        self.links.get(partition.index()).ok_or_else(|| self.no_partition(partition))
    }

    fn session_slot(&self, partition: Partition) -> Result<&SessionSlot> {
        self.session_slots.get(partition.index()).ok_or_else(|| self.no_partition(partition))
    }

    fn no_partition(&self, partition: Partition) -> TransportError {
        TransportError::Mismatch(format!("there is no partition {partition}; redis.partitions is {}", self.links.len()))
    }
}
