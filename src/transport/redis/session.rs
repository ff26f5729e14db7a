//! A consumer's connections to one partition, and what was read over them.
//!
//! A session is two connections to the same server process: one that may block in a read, one to acknowledge over. When either
//! breaks, both go, and with them every receipt: what was read from one server is never acknowledged to another.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fred::types::Value;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Duration, Instant};

use super::client::Conn;
use super::link::Link;
use super::reconnecting::Reconnecting;
use super::shared::Shared;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::transport::Result;

/// Holds the session of a partition: at most one, made again when a connection is lost.
pub(super) struct SessionSlot {
    shared: Arc<Shared>,
    links: Arc<Links>,
    session: Reconnecting<Session>,
}

struct Links {
    reader: Link,
    writer: Link,
    epochs: AtomicU64,
}

/// A session: two connections to one server process, and what was read over them.
pub(super) struct Session {
    /// The connection that reads; a read may block it.
    pub(super) reader: Arc<Conn>,
    /// The connection for everything else.
    pub(super) writer: Arc<Conn>,
    /// The entries that were handed out: which receipts are good.
    pub(super) held: Mutex<HandedOut>,
    /// How far reading is. One reader at a time.
    pub(super) reading: tokio::sync::Mutex<Reading>,
}

/// The entries handed out and not yet acknowledged.
pub(super) struct HandedOut {
    /// The number that this session's receipts carry.
    pub(super) epoch: u64,
    /// The ids of the entries, so that none is handed out twice.
    pub(super) entries: HashSet<String>,
    /// Entries were let go and are still pending: what this consumer read before is to be read once more.
    pub(super) read_own_again: bool,
}

impl HandedOut {
    fn new(epoch: u64) -> Self {
        Self { epoch, entries: HashSet::new(), read_own_again: false }
    }
}

/// Where reading stands.
pub(super) struct Reading {
    /// Own pending entries are listed after this id; `None` when all were.
    pub(super) own_after: Option<String>,
    /// Entries that were delivered before, are this consumer's, and are to be read now.
    pub(super) listed: VecDeque<String>,
    /// Whether the last answer had an entry with a large payload: new ones are read one by one until none has.
    pub(super) one_by_one: bool,
    /// Where claiming goes on; `0-0` between rounds.
    pub(super) claim_from: String,
    /// When the next round of claiming begins.
    pub(super) claim_at: Instant,
    /// A read that was sent and whose answer was not taken yet (the caller may have stopped waiting).
    pub(super) sent: Option<PendingRead>,
    /// How many entries a read may ask for; halved when an answer is too large to arrive in time.
    pub(super) limit: usize,
}

/// A read whose answer has not been taken yet.
pub(super) struct PendingRead {
    /// What it reads.
    pub(super) kind: ReadKind,
    /// The answer; `None` if the group is gone.
    pub(super) answer: BoxFuture<'static, Result<Option<Value>>>,
}

/// What a read asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadKind {
    /// Ids of entries that this consumer read before and has not acknowledged.
    Own,
    /// Ids of entries that other consumers read and left unacknowledged.
    Claim,
    /// The entries that were listed by those two.
    Listed,
    /// Entries that nobody in the group has read.
    New,
}

impl Reading {
    fn new(limit: usize) -> Self {
        Self {
            own_after: Some("0-0".to_owned()),
            listed: VecDeque::new(),
            one_by_one: false,
            claim_from: "0-0".to_owned(),
            claim_at: Instant::now(),
            sent: None,
            limit,
        }
    }
}

impl Reading {
    /// Has these entries read, except those that the caller has.
    pub(super) fn list(&mut self, session: &Session, ids: Vec<String>) {
        let held = session.held();
        self.listed.extend(ids.into_iter().filter(|id| !held.entries.contains(id)));
    }
}

impl Session {
    /// The entries handed out.
    pub(super) fn held(&self) -> std::sync::MutexGuard<'_, HandedOut> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets entries go, so that they are read and handed out again.
    pub(super) fn let_go(&self, ids: &[String]) {
        let mut held = self.held();
        for id in ids {
            held.read_own_again |= held.entries.remove(id);
        }
    }
}

impl Links {
    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Connects to one server process, twice.
    async fn connect(&self, shared: &Shared, begun: Instant, limit: usize) -> Result<Arc<Session>> {
        let reader = self.reader.get_since(begun).await?;
        let mut writer = self.writer.get_since(begun).await?;
        if reader.run_id != writer.run_id {
            self.writer.discard(&writer);
            writer = self.writer.get().await?;
        }
        if reader.run_id != writer.run_id {
            self.reader.discard(&reader);
            return Err(shared.unavailable("two connections reached two different servers"));
        }
        let held = Mutex::new(HandedOut::new(self.next_epoch()));
        Ok(Arc::new(Session { reader, writer, held, reading: tokio::sync::Mutex::new(Reading::new(limit)) }))
    }
}

impl SessionSlot {
    pub(super) fn new(shared: &Arc<Shared>, partition: Partition) -> Self {
        let config = &shared.config;
        let links =
            Links { reader: Link::new(shared, partition), writer: Link::new(shared, partition), epochs: AtomicU64::new(0) };
        // The links wait between attempts; the session need not.
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        let patience = (config.command_timeout + config.connect_timeout * 2) * 2;
        Self { shared: shared.clone(), links: Arc::new(links), session: Reconnecting::new(patience, backoff) }
    }

    /// The session there is, good or not; nothing is connected.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.session.current()
    }

    /// The session; a new one, with a new epoch, if a connection is lost.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        let begun = Instant::now();
        let make = |old: Option<&Arc<Session>>| {
            // If a read that did not arrive in time ended the session, the next is smaller.
            let limit = match old {
                Some(old) => old.reading.try_lock().map_or(1, |reading| reading.limit),
                None => usize::MAX,
            };
            let (links, shared) = (self.links.clone(), self.shared.clone());
            async move { links.connect(&shared, begun, limit).await }.boxed()
        };
        let late = || self.shared.unavailable("connecting did not finish within the timeout");
        self.session.get(begun, |s| s.reader.is_alive() && s.writer.is_alive(), make, late).await
    }

    /// Begins again over the same connections: the queue is another one now, and its entry ids may be those of the old one.
    pub(super) fn renew(&self, session: &Session, reading: &mut Reading) {
        *session.held() = HandedOut::new(self.links.next_epoch());
        *reading = Reading::new(reading.limit);
    }
}
