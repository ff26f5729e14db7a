//! Where a partition is: what a URL leads to (a single server, a cluster, sentinels) is found out by asking, and asked again when an
//! answer says that it has changed.
//!
//! The client's own support for clusters is not used: there one node that is frozen or gone holds up commands to all. Here each
//! partition has connections of its own, to the node that owns its slot, and the map from slots to nodes is ours.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::types::Value;
use futures_util::StreamExt as _;
use futures_util::future::FutureExt as _;
use futures_util::stream::FuturesUnordered;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use super::client::{Conn, Credentials};
use super::reconnecting::Reconnecting;
use super::reply;
use super::shared::Shared;
use crate::address::redis::Address;
use crate::model::Partition;
use crate::retry::Backoff;
use crate::transport::{Result, TransportError};

/// Slots of a cluster.
const SLOTS: usize = 16_384;
/// One that does not answer holds up asking the next no longer than this.
const HEDGE: Duration = Duration::from_millis(300);

/// The topology as it was described last.
pub(super) struct KnownTopology {
    pub(super) kind: Deployment,
    made: Instant,
    doubted: AtomicBool,
}

/// How Redis is deployed.
pub(super) enum Deployment {
    /// One server.
    Single(Address),
    /// One server at a time, which sentinels name.
    Watched {
        /// The server now.
        server: Address,
        /// Those that named it.
        sentinels: Vec<Address>,
    },
    /// A cluster.
    Cluster(Slots),
}

/// Who owns which slot.
pub(super) struct Slots {
    /// The nodes that own slots.
    pub(super) primaries: Vec<Address>,
    /// The others that are announced.
    pub(super) replicas: Vec<Address>,
    /// The ids of nodes that announce nothing although they are to announce a name.
    pub(super) silent: Vec<String>,
    /// Index into `primaries` by slot.
    owners: Vec<Option<u16>>,
}

impl Slots {
    /// The owner of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let owner = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.primaries.get(usize::from(owner))
    }

    /// How many slots nobody owns.
    pub(super) fn uncovered(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }

    /// Reads the answer of CLUSTER SLOTS. `asked` is who gave it: a node that announces nothing is reached where it was.
    pub(super) fn read(answer: Value, asked: &Address) -> Result<Self> {
        let mut slots = Self { primaries: Vec::new(), replicas: Vec::new(), silent: Vec::new(), owners: vec![None; SLOTS] };
        for range in reply::list(answer) {
            let mut parts = reply::list(range).into_iter();
            let (Some(first), Some(last), Some(primary)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(reply::unexpected("a range of slots"));
            };
            let (first, last) = (reply::number(&first)?, reply::number(&last)?);
            let primary = slots.node(primary, asked)?;
            let at = slots.primaries.iter().position(|known| *known == primary).unwrap_or_else(|| {
                slots.primaries.push(primary);
                slots.primaries.len() - 1
            });
            let owner = u16::try_from(at).map_err(|_| reply::unexpected("at most 16384 nodes"))?;
            let range = usize::try_from(first).ok().zip(usize::try_from(last).ok()).filter(|(a, b)| a <= b && *b < SLOTS);
            let (first, last) = range.ok_or_else(|| reply::unexpected("slots from 0 to 16383"))?;
            slots.owners[first..=last].fill(Some(owner));
            for replica in parts {
                let replica = slots.node(replica, asked)?;
                if !slots.replicas.contains(&replica) {
                    slots.replicas.push(replica);
                }
            }
        }
        Ok(slots)
    }

    /// A node of CLUSTER SLOTS: the endpoint that it prefers, port, id, and other names for it.
    fn node(&mut self, entry: Value, asked: &Address) -> Result<Address> {
        let mut parts = reply::list(entry).into_iter();
        let endpoint = parts.next().unwrap_or(Value::Null);
        let port = parts.next().ok_or_else(|| reply::unexpected("a node's port"))?;
        let port = u16::try_from(reply::number(&port)?).map_err(|_| reply::unexpected("a port"))?;
        let id = parts.next().map(|id| reply::text(&id)).transpose()?.unwrap_or_default();
        let host = match endpoint {
            Value::Null => String::new(),
            other => reply::text(&other)?,
        };
        if !host.is_empty() && host != "?" {
            return Ok(Address { host, port });
        }
        if host == "?" && !self.silent.contains(&id) {
            self.silent.push(id);
        }
        // "?": it is to announce a name and has none. Then its address, where that is said; else where the answer came from.
        let others = parts.next().map(reply::pairs).unwrap_or_default();
        let known = others.into_iter().find_map(|(what, value)| {
            (reply::text(&what).is_ok_and(|what| what == "ip")).then(|| reply::text(&value).ok()).flatten()
        });
        let host = known.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.clone());
        Ok(Address { host, port })
    }
}

impl KnownTopology {
    fn new(kind: Deployment) -> Self {
        Self { kind, made: Instant::now(), doubted: AtomicBool::new(false) }
    }

    fn uses(&self, server: &Address) -> bool {
        match &self.kind {
            Deployment::Single(used) | Deployment::Watched { server: used, .. } => used == server,
            Deployment::Cluster(slots) => slots.primaries.contains(server) || slots.replicas.contains(server),
        }
    }

    /// Those that can be asked again.
    fn nodes(&self) -> Vec<Address> {
        match &self.kind {
            Deployment::Single(_) => Vec::new(),
            Deployment::Watched { sentinels, .. } => sentinels.clone(),
            Deployment::Cluster(slots) => slots.primaries.iter().chain(&slots.replicas).cloned().collect(),
        }
    }
}

/// Finds out the topology, and keeps what was found.
pub(super) struct Topology {
    known: Reconnecting<KnownTopology>,
    hint: Mutex<Option<Address>>,
    refresh: Duration,
}

impl Topology {
    pub(super) fn new(config: &crate::config::Redis) -> Self {
        // Connections wait between attempts; the question where to need not.
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        Self {
            known: Reconnecting::new(config.connect_timeout * 2, backoff),
            hint: Mutex::new(None),
            refresh: config.topology_refresh,
        }
    }

    /// Something said that it has changed. `hint`: who may know better.
    pub(super) fn doubt(&self, hint: Option<Address>) {
        if let Some(known) = self.known.current() {
            known.doubted.store(true, Ordering::Relaxed);
        }
        if hint.is_some() {
            *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = hint;
        }
    }

    /// What is known, without asking.
    pub(super) fn current(&self) -> Option<Arc<KnownTopology>> {
        self.known.current()
    }

    /// What there is; asks where nothing is known, or it is in doubt, or old.
    pub(super) async fn get(&self, shared: &Arc<Shared>) -> Result<Arc<KnownTopology>> {
        let hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (shared, refresh) = (Arc::clone(shared), self.refresh);
        let late = || shared.unavailable("no Redis node described the topology within the timeout");
        let make = |old: Option<&Arc<KnownTopology>>| {
            let candidates = candidates(&shared, hint, old);
            let shared = Arc::clone(&shared);
            async move {
                let known = ask_all(&shared, candidates).await?;
                shared.statuses.retain(|server| known.uses(server));
                Ok(Arc::new(known))
            }
            .boxed()
        };
        let good = |known: &KnownTopology| !known.doubted.load(Ordering::Relaxed) && known.made.elapsed() < refresh;
        let known = self.known.get(Instant::now(), good, make, late).await?;
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(known)
    }

    /// The server that has a partition.
    pub(super) async fn place(&self, shared: &Arc<Shared>, partition: Partition) -> Result<Address> {
        let known = self.get(shared).await?;
        match &known.kind {
            Deployment::Single(server) | Deployment::Watched { server, .. } => Ok(server.clone()),
            Deployment::Cluster(slots) => {
                let slot = shared.keys.slot(partition);
                slots.owner(slot).cloned().ok_or_else(|| {
                    self.doubt(None);
                    shared.unavailable(format!(
                        "no node of the Redis Cluster serves slot {slot}, which partition {partition} is in ({} slots are uncovered); \
                         bring the missing node back, or give its slots to others (redis-cli --cluster fix)",
                        slots.uncovered()
                    ))
                })
            }
        }
    }
}

/// Whom to ask, in this order: who may know better, those that were known (in a random order: 100 streamers do not all ask the same),
/// and where it all began.
fn candidates(shared: &Shared, hint: Option<Address>, old: Option<&Arc<KnownTopology>>) -> Vec<Address> {
    let shuffled = |mut some: Vec<Address>| {
        some.shuffle(&mut rand::rng());
        some
    };
    let all = hint
        .into_iter()
        .chain(shuffled(old.map(|known| known.nodes()).unwrap_or_default()))
        .chain(shuffled(shared.seeds.clone()));
    let mut seen = HashSet::new();
    all.filter(|address| seen.insert(address.clone())).collect()
}

/// The first good answer. The next is asked when the one before has failed, or takes long.
async fn ask_all(shared: &Arc<Shared>, candidates: Vec<Address>) -> Result<KnownTopology> {
    let mut asked = FuturesUnordered::new();
    let mut waiting = candidates.into_iter();
    let mut first_error = None;
    loop {
        if let Some(next) = waiting.next() {
            asked.push(ask(shared, next));
        } else if asked.is_empty() {
            let error =
                first_error.unwrap_or_else(|| shared.unavailable("no Redis node is known that could describe the topology"));
            shared.statuses.unreachable(&shared.seeds[0], &error);
            return Err(error);
        }
        let patience = if waiting.len() > 0 { HEDGE } else { shared.config.connect_timeout * 2 };
        match tokio::time::timeout(patience, asked.next()).await {
            Ok(Some(Ok(known))) => return Ok(known),
            Ok(Some(Err(error))) => {
                // What a person has to change is worth more than that some node is away.
                let better = first_error.as_ref().is_none_or(TransportError::is_transient);
                if first_error.is_none() || (better && !error.is_transient()) {
                    first_error = Some(error);
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Asks one what it is, and what it knows.
async fn ask(shared: &Arc<Shared>, address: Address) -> Result<KnownTopology> {
    let dialed = match Conn::dial(shared, &address, Credentials::Server).await {
        // A sentinel knows other users than the server.
        Err(TransportError::Refused { .. }) if shared.may_be_sentinel() => {
            Conn::dial(shared, &address, Credentials::Sentinel).await
        }
        other => other,
    };
    let mut conn = dialed.map_err(|error| shared.lasting(error))?;
    let mode = conn.identify_server().await?.mode().to_owned();
    let says_nothing = mode.is_empty();
    let mode = if says_nothing && conn.info("cluster").await?.field("cluster_enabled") == "1" { "cluster" } else { &mode };
    // In the beginning it is likely to be used next.
    let first = shared.topology.current().is_none();
    match mode {
        "cluster" => {
            if shared.database > 0 {
                return Err(conn.refused("a Redis Cluster has only database 0; remove the number at the end of redis.url"));
            }
            let slots = conn.call("CLUSTER", vec!["SLOTS".into()]).await?;
            let slots = Slots::read(slots, &address)?;
            if first && slots.primaries.contains(&address) {
                shared.spares.put(conn);
            }
            Ok(KnownTopology::new(Deployment::Cluster(slots)))
        }
        "sentinel" => watched(shared, &conn, &address).await,
        _ => {
            if first {
                shared.spares.put(conn);
            }
            Ok(KnownTopology::new(Deployment::Single(address)))
        }
    }
}

/// Asks a sentinel for the server that it watches.
async fn watched(shared: &Shared, conn: &Conn, sentinel: &Address) -> Result<KnownTopology> {
    let service = match &shared.service {
        Some(service) => service.clone(),
        None => only_service(conn).await?,
    };
    let args = vec!["GET-MASTER-ADDR-BY-NAME".into(), service.as_str().into()];
    let answer = reply::list(conn.call("SENTINEL", args).await?);
    let [host, port] = answer.as_slice() else {
        return Err(conn.refused(&format!(
            "it is a Sentinel and does not monitor a service called `{service}`; correct ?sentinelServiceName= in redis.url"
        )));
    };
    let port = u16::try_from(reply::number(port)?).map_err(|_| reply::unexpected("a port"))?;
    let server = Address { host: reply::text(host)?, port };
    // The other sentinels are found through this one, and serve where the seeds are gone.
    let others = reply::list(conn.call("SENTINEL", vec!["SENTINELS".into(), service.as_str().into()]).await?);
    let mut sentinels = vec![sentinel.clone()];
    sentinels.extend(others.into_iter().filter_map(|other| address_in(&reply::pairs(other))));
    Ok(KnownTopology::new(Deployment::Watched { server, sentinels }))
}

async fn only_service(conn: &Conn) -> Result<String> {
    let mut names: Vec<String> = reply::list(conn.call("SENTINEL", vec!["MASTERS".into()]).await?)
        .into_iter()
        .filter_map(|master| {
            let field = |(name, value): (Value, Value)| (reply::text(&name).ok()? == "name").then(|| reply::text(&value).ok())?;
            reply::pairs(master).into_iter().find_map(field)
        })
        .collect();
    match (names.pop(), names.len()) {
        (Some(name), 0) => Ok(name),
        (None, _) => Err(conn.unavailable("it is a Sentinel that does not monitor a service yet")),
        (Some(name), _) => Err(conn.refused(&format!(
            "it is a Sentinel and monitors several services (one is `{name}`); name one: redis-sentinel://host:26379?sentinelServiceName=NAME"
        ))),
    }
}

fn address_in(fields: &[(Value, Value)]) -> Option<Address> {
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| reply::text(name).is_ok_and(|name| name == wanted))?;
        reply::text(&found.1).ok()
    };
    Some(Address { host: field("ip")?, port: field("port")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: Vec<Value>) -> Value {
        Value::Array(values)
    }

    fn entry(host: Value, port: i64, others: Vec<Value>) -> Value {
        array(vec![host, Value::Integer(port), "id".into(), array(others)])
    }

    #[test]
    fn slots_are_read_whatever_nodes_announce() {
        let asked = Address { host: "seed".to_owned(), port: 1 };
        let answer = array(vec![
            array(vec![0.into(), 5460.into(), entry("a.example".into(), 7000, vec![]), entry("b".into(), 7003, vec![])]),
            array(vec![5461.into(), 10922.into(), entry(Value::Null, 7001, vec!["hostname".into(), "x".into()])]),
            array(vec![10924.into(), 16383.into(), entry("?".into(), 7002, vec!["ip".into(), "10.0.0.3".into()])]),
        ]);
        let slots = Slots::read(answer, &asked).unwrap();
        let owner = |slot| slots.owner(slot).map(ToString::to_string);
        assert_eq!(owner(0).as_deref(), Some("a.example:7000"));
        assert_eq!(owner(5461).as_deref(), Some("seed:7001"), "who announces nothing is where the answer came from");
        assert_eq!(owner(16383).as_deref(), Some("10.0.0.3:7002"));
        assert_eq!((owner(10923), slots.uncovered()), (None, 1));
        assert_eq!(slots.replicas, [Address { host: "b".to_owned(), port: 7003 }]);
        assert!(Slots::read(array(vec![array(vec![0.into(), 16384.into(), entry("a".into(), 1, vec![])])]), &asked).is_err());
        assert_eq!(Slots::read(array(vec![]), &asked).unwrap().uncovered(), SLOTS);
    }
}
