//! Looking at Redis for `telemetry check` and `telemetry probe`, from the name to the rights. Nothing is changed.
//!
//! The way is gone step by step ([`super::dial`]), to the addresses of the URL and then to every node that a cluster announces; then
//! one connection to each primary asks what it is and how it is set.

mod nodes;
mod queue;
mod rights;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fred::types::Value;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::client::{Conn, Credentials};
use super::dial::{DialError, Reached, Stage};
use super::shared::Shared;
use super::topology::{Deployment, KnownTopology, Slots};
use super::{RedisTransport, reply};
use crate::address::redis::Address;
use crate::config::Redis;
use crate::diagnosis::{Outcome, Step};
use crate::model::Partition;
use crate::transport::{Result, TransportError};

/// A certificate that ends within so many days is warned of.
const RENEW_DAYS: i64 = 21;
/// A clock that differs by more seconds is warned of: latencies between clusters would mean little.
const SKEW: f64 = 1.0;

pub(super) use self::queue::set_back;

/// The side whose rights are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Streamers.
    Edge,
    /// Collectors, and all who look.
    Central,
}

/// What a probe of one server found.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The server.
    pub address: Address,
    /// Name, TCP and TLS.
    pub reached: Reached,
    /// How long a command takes on an open connection.
    pub round_trip: Duration,
    /// How far its clock is ahead of ours, seconds; the round trip bounds the error.
    pub clock_ahead: f64,
}

/// Looks at everything that roles need of Redis. What cannot be looked at because of what failed before is left out.
pub async fn diagnose(config: &Redis, side: Side) -> Vec<Step> {
    let shared = match Shared::new(config) {
        Ok(shared) => Arc::new(shared),
        Err(error) => return vec![Step::failed("configuration", error.to_string(), "correct it")],
    };
    let mut steps = Vec::new();
    // What cannot be reached is said once.
    let mut away = Vec::new();
    for seed in &shared.seeds {
        let line = line(&shared, seed).await;
        if line.iter().any(|step| step.outcome == Outcome::Failed) {
            away.push(seed.clone());
        }
        steps.extend(line);
    }
    if away.len() == shared.seeds.len() {
        return steps;
    }
    let known = match shared.topology.get(&shared).await {
        Ok(known) => {
            // What is looked at is dialled anew.
            shared.spares.clear();
            known
        }
        Err(error) => {
            steps.push(login(error));
            return steps;
        }
    };
    steps.push(Step::ok("login", format!("as user `{}`", shared.who.user)));
    steps.push(kind(&known, unserved(&shared, &known).await));
    if let Deployment::Cluster(slots) = &known.kind {
        let others: Vec<Address> =
            slots.primaries.iter().chain(&slots.replicas).filter(|node| !shared.seeds.contains(node)).cloned().collect();
        let (found, unreachable) = announced(&shared, &others, slots).await;
        steps.extend(found);
        away.extend(unreachable);
    }
    let mut primaries = match &known.kind {
        Deployment::Single(server) | Deployment::Watched { server, .. } => vec![server.clone()],
        Deployment::Cluster(slots) => slots.primaries.clone(),
    };
    primaries.retain(|server| !away.contains(server));
    if primaries.is_empty() {
        return steps;
    }
    let looked = join_all(primaries.iter().map(|server| nodes::look(&shared, server, side))).await;
    steps.extend(nodes::summary(looked, matches!(known.kind, Deployment::Cluster(_))));
    steps.extend(rights::look(&shared, &primaries, side).await);
    steps.push(partitions(&shared, &away).await);
    steps.extend(queue::look(&shared, &away, side).await);
    steps
}

/// The stores that the partitions say the group commits to, each once. Of what does not answer nothing is said.
pub async fn store_marks(config: &Redis) -> Result<BTreeSet<String>> {
    Ok(queue::marks(&Arc::new(Shared::new(config)?)).await)
}

/// The steps of reaching a server.
async fn line(shared: &Shared, address: &Address) -> Vec<Step> {
    let mut reached = Reached::default();
    let fault = shared.dial(address, &mut reached).await.err();
    let mut steps = Vec::new();
    let failed = |stage: Stage| fault.as_ref().filter(|fault| fault.stage == stage);
    let came = |stage: Stage| fault.as_ref().is_none_or(|fault| fault.stage > stage);
    let names: Vec<String> = reached.addresses.iter().map(|a| a.ip().to_string()).collect();
    if came(Stage::Resolve) {
        steps.push(Step::ok("DNS", format!("{} is {} ({})", address.host, names.join(", "), ms(reached.resolve))));
    }
    if came(Stage::Connect) {
        steps.push(Step::ok("TCP", format!("{address} accepts connections ({})", ms(reached.connect))));
    }
    if came(Stage::Tls) || reached.handshake.is_some() {
        steps.push(encryption(shared, address, &reached));
    }
    for (stage, name) in [(Stage::Resolve, "DNS"), (Stage::Connect, "TCP"), (Stage::Tls, "TLS"), (Stage::Greet, "Redis")] {
        if let Some(DialError { reason, .. }) = failed(stage) {
            steps.push(split(name, address, reason));
        }
    }
    steps
}

/// Splits a reason into what was seen and, after the last semicolon, what to do.
fn parts(reason: &str) -> (&str, &str) {
    reason.rsplit_once("; ").unwrap_or((reason, ""))
}

fn split(name: &'static str, address: &Address, reason: &str) -> Step {
    let (seen, todo) = parts(reason);
    Step::failed(name, format!("{address}: {seen}"), todo)
}

fn encryption(shared: &Shared, address: &Address, reached: &Reached) -> Step {
    let Some(version) = reached.version else {
        let local = reached.addresses.iter().all(|a| a.ip().is_loopback());
        let seen = format!("none: traffic to {address} can be read on the way");
        return if local { Step::ok("TLS", "none, within this machine") } else { Step::warning("TLS", seen, "use rediss://") };
    };
    let Some(own) = reached.chain.first() else { return Step::ok("TLS", version) };
    let days = own.days_left(SystemTime::now());
    let seen = format!(
        "{version}, certificate for {} signed by {}, valid for {days} more days ({})",
        if own.names.is_empty() { own.subject.clone() } else { own.names.join(", ") },
        own.issuer,
        ms(reached.handshake.unwrap_or_default())
    );
    if shared.config.tls.insecure_skip_verify {
        return Step::warning("TLS", format!("{seen}; NOT verified"), "remove redis.tls.insecure_skip_verify");
    }
    let ours = shared.tls.as_ref().and_then(|tls| tls.current().ends);
    let left = ours.map(|ends| ends.duration_since(SystemTime::now()).map_or(-1, |left| (left.as_secs() / 86_400) as i64));
    match left {
        _ if days < RENEW_DAYS => Step::warning("TLS", seen, format!("renew the certificate of {address}")),
        Some(left) if left < RENEW_DAYS => {
            Step::warning("TLS", format!("{seen}; our client certificate ends in {left} days"), "renew redis.tls.cert")
        }
        _ => Step::ok("TLS", seen),
    }
}

fn login(error: TransportError) -> Step {
    let reason = match error {
        TransportError::Refused { reason, .. } | TransportError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    };
    let (seen, todo) = parts(&reason);
    Step::failed("login", seen, todo)
}

/// How many slots of a cluster nobody serves: those that have no owner, and those whose owner counts as failed.
async fn unserved(shared: &Arc<Shared>, known: &KnownTopology) -> usize {
    let Deployment::Cluster(slots) = &known.kind else { return 0 };
    let mut failed = 0;
    for node in shared.seeds.iter().chain(&slots.primaries) {
        let asked = async { Conn::dial(shared, node, Credentials::Server).await?.cluster_info().await };
        // Who does not answer, or may not be asked, is looked at below.
        if let Ok(info) = asked.await {
            failed = info.field("cluster_slots_fail").parse().unwrap_or(0);
            break;
        }
    }
    slots.uncovered() + failed
}

fn kind(known: &KnownTopology, unserved: usize) -> Step {
    match &known.kind {
        Deployment::Single(server) => Step::ok("kind", format!("a single server, {server}")),
        Deployment::Watched { server, sentinels } => {
            Step::ok("kind", format!("{server} is the primary according to {} Sentinels", sentinels.len()))
        }
        Deployment::Cluster(slots) => {
            let (primaries, replicas) = (slots.primaries.len(), slots.replicas.len());
            let seen = format!("a Redis Cluster of {primaries} primaries and {replicas} replicas");
            match unserved {
                0 => Step::ok("cluster", format!("{seen}, every slot has an owner")),
                n => Step::failed(
                    "cluster",
                    format!("{seen}; {n} slots are uncovered (no node serves them): their partitions wait"),
                    "bring the missing nodes back, or give their slots to others (redis-cli --cluster fix)",
                ),
            }
        }
    }
}

/// Whether every node can be reached at the address that it announces; and those that cannot.
async fn announced(shared: &Arc<Shared>, nodes: &[Address], slots: &Slots) -> (Vec<Step>, Vec<Address>) {
    let tried = join_all(nodes.iter().map(|node| async move {
        let mut reached = Reached::default();
        shared.dial(node, &mut reached).await.err().map(|fault| (node, fault))
    }))
    .await;
    let faults: Vec<_> = tried.into_iter().flatten().collect();
    let away = faults.iter().map(|(node, _)| (*node).clone()).collect();
    let mut steps: Vec<Step> = alike(&faults).iter().map(|some| unusable(some, slots)).collect();
    for id in &slots.silent {
        steps.push(Step::warning(
            "nodes",
            format!("the node {id} announces no host name, although cluster-preferred-endpoint-type requires one"),
            "set cluster-announce-hostname on it",
        ));
    }
    if steps.is_empty() {
        steps.push(Step::ok("nodes", "every node is reached at the address that it announces"));
    }
    (steps, away)
}

/// Faults of the same kind together: what is wrong with one node is often wrong with all.
fn alike<'a>(faults: &[(&'a Address, DialError)]) -> Vec<Vec<(&'a Address, DialError)>> {
    // Without the addresses in them.
    let kind =
        |(node, fault): &(&Address, DialError)| fault.reason.replace(&node.host, "").replace(|c: char| c.is_ascii_digit(), "");
    let mut groups: Vec<Vec<(&Address, DialError)>> = Vec::new();
    for fault in faults {
        match groups.iter_mut().find(|group| kind(&group[0]) == kind(fault)) {
            Some(group) => group.push(fault.clone()),
            None => groups.push(vec![fault.clone()]),
        }
    }
    groups
}

/// Addresses that are announced and lead nowhere from here; what is said of the first is so for all.
fn unusable(alike: &[(&Address, DialError)], slots: &Slots) -> Step {
    const NAMED: usize = 4;
    let announce = "if the node runs, it must announce an address that is reached from here: cluster-announce-hostname or \
                    cluster-announce-ip, and cluster-announce-port or -tls-port";
    let (seen, todo) = alike.first().map(|(_, fault)| parts(&fault.reason)).unwrap_or_default();
    let todo = if todo.is_empty() { announce.to_owned() } else { format!("{todo}; {announce}") };
    let mut names: Vec<String> = alike.iter().take(NAMED).map(|(node, _)| node.to_string()).collect();
    if alike.len() > NAMED {
        names.push(format!("and {} more", alike.len() - NAMED));
    }
    let them = if alike.len() == 1 { "it" } else { "them" };
    let seen = format!("{}, as the cluster announces {them}, cannot be used: {seen}", names.join(", "));
    // A replica is missed when its primary dies.
    let failed = alike.iter().any(|(node, _)| slots.primaries.contains(node));
    if failed { Step::failed("nodes", seen, todo) } else { Step::warning("nodes", seen, todo) }
}

/// Whether the queue was made with as many partitions as are configured. Only looked at: who uses the queue first writes it.
async fn partitions(shared: &Arc<Shared>, away: &[Address]) -> Step {
    let ours = shared.config.partitions;
    let (mut conns, mut unknown): (HashMap<Address, Conn>, u16) = (HashMap::new(), 0);
    let mut malformed = None;
    for partition in ours {
        match made_with(shared, &mut conns, away, partition).await {
            Ok(None) => unknown += 1,
            Ok(Some(found)) => {
                let Some(made) = reply::exact::<NonZeroU16>(&found) else {
                    malformed.get_or_insert_with(|| queue::no_number(shared, partition, reply::raw(&found)));
                    continue;
                };
                if made.get() == ours.count() {
                    continue;
                }
                return Step::failed(
                    "partitions",
                    format!("the queue was made with {made} partitions, but the configuration says {ours}"),
                    format!("set redis.partitions to {made}"),
                );
            }
            Err(error) => {
                let said = error.to_string();
                let (seen, todo) = parts(&said);
                return Step::failed("partitions", seen, todo);
            }
        }
    }
    if let Some(malformed) = malformed {
        return malformed;
    }
    let prefix = &shared.config.prefix;
    match unknown {
        0 => Step::ok("partitions", format!("{ours}, under {prefix}")),
        n if n == ours.count() && away.is_empty() => Step::ok(
            "partitions",
            format!("the queue {prefix} does not exist yet: the first role to use it creates it with {ours} partitions"),
        ),
        n => Step::ok("partitions", format!("{ours}, under {prefix}; {n} of them are not used yet, or cannot be reached")),
    }
}

/// `None` also where the server cannot be asked.
async fn made_with(
    shared: &Arc<Shared>,
    conns: &mut HashMap<Address, Conn>,
    away: &[Address],
    partition: Partition,
) -> Result<Option<Value>> {
    let server = shared.topology.place(shared, partition).await?;
    if away.contains(&server) {
        return Ok(None);
    }
    let conn = match conns.entry(server) {
        Entry::Occupied(conn) => conn.into_mut(),
        Entry::Vacant(place) => {
            let conn = Conn::dial(shared, place.key(), Credentials::Server).await?;
            place.insert(conn)
        }
    };
    let made = conn.call("HGET", vec![shared.keys.meta(partition).into(), "partitions".into()]).await?;
    Ok(Some(made).filter(|made| !made.is_null()))
}

/// A partition that a server has.
fn partition_on(shared: &Shared, server: &Address) -> Option<Partition> {
    let known = shared.topology.current()?;
    let has = |partition: &Partition| match &known.kind {
        Deployment::Single(_) | Deployment::Watched { .. } => true,
        Deployment::Cluster(slots) => slots.owner(shared.keys.slot(*partition)) == Some(server),
    };
    shared.config.partitions.iter().find(has)
}

/// A key of this kind in a partition.
fn key(shared: &Shared, partition: Partition, kind: &str) -> String {
    format!("{}{kind}", shared.keys.stream(partition).trim_end_matches("stream"))
}

/// A round trip, and what the server's clock says.
async fn clock(conn: &Conn) -> Result<(Duration, f64)> {
    let (begun, ours) = (Instant::now(), SystemTime::now());
    let time = reply::list(conn.call("TIME", Vec::new()).await?);
    let round_trip = begun.elapsed();
    let number = |at: usize| time.get(at).map_or(Ok(0), reply::number);
    let theirs = number(0)? as f64 + number(1)? as f64 / 1e6;
    let ours = ours.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() + round_trip.as_secs_f64() / 2.0;
    Ok((round_trip, theirs - ours))
}

impl RedisTransport {
    /// Goes the whole way to every server that has partitions, as if for the first time. What fails is said by server.
    ///
    /// # Errors
    /// Nobody says which servers there are.
    pub async fn probe(&self) -> Result<Vec<(Address, Result<Probed>)>> {
        let nodes = self.by_node().await?;
        Ok(join_all(nodes.into_iter().map(|(address, _)| async move {
            let probed = probe_one(&self.shared, &address).await;
            (address, probed)
        }))
        .await)
    }
}

async fn probe_one(shared: &Arc<Shared>, address: &Address) -> Result<Probed> {
    let mut reached = Reached::default();
    if let Err(DialError { reason, .. }) = shared.dial(address, &mut reached).await {
        return Err(TransportError::Unavailable { endpoint: address.to_string(), reason });
    }
    let conn = Conn::dial(shared, address, Credentials::Server).await?;
    // The first question warms the way up.
    clock(&conn).await?;
    let (round_trip, clock_ahead) = clock(&conn).await?;
    Ok(Probed { address: address.clone(), reached, round_trip, clock_ahead })
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
