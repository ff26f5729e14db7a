//! The queue on Redis, when Redis fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use telemetry::model::{DictionaryId, Digest, GroupId, Partitions, RowRange, SourceId};
use telemetry::transport::redis::{RedisTransport, Retired};
use telemetry::transport::{Consumer, Inspector, Lease, Published, Publisher, TransportError};

use super::{
    ELSEWHERE, OTHER, OTHER_STORE, P, Place, Queue, SECOND, SOURCE, Tune, acknowledge, at, backlog, batch, family, fill, firsts,
    mark_store, source, store_mark, take,
};
use crate::support::proxy::Proxy;
use crate::support::redis::{RedisServer, Reply, config};

const STREAM: &str = "{t:0}:stream";

pub(super) const fn dictionary_id(n: u128) -> DictionaryId {
    DictionaryId::from_digest(Digest::from_u128(n))
}

/// A server and a queue on it.
pub struct Server {
    redis: RedisServer,
    partitions: Partitions,
}

impl Server {
    /// With so many partitions.
    pub fn start(partitions: u16) -> Self {
        Self { redis: RedisServer::start(), partitions: Partitions::new(partitions).unwrap() }
    }
}

#[async_trait]
impl Place for Server {
    async fn open(&self, tune: Tune) -> Arc<dyn Queue> {
        let mut config = config(&self.redis.url());
        config.partitions = self.partitions;
        config.consumer = tune.consumer.to_owned();
        config.max_backlog = tune.max_backlog;
        config.claim_idle = tune.claim_idle;
        config.lease_ttl = tune.lease_ttl;
        RedisTransport::connect(&config).await.unwrap()
    }
}

pub(super) async fn open(server: &RedisServer) -> Arc<RedisTransport> {
    RedisTransport::connect(&config(&server.url())).await.unwrap()
}

/// Repeats until it succeeds; only passing errors may come before.
async fn until_ok<T, F: Future<Output = Result<T, TransportError>>>(mut call: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert!(begun.elapsed() < Duration::from_secs(20), "it never recovered: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_is_trimmed() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 50).await;
    let got = take(&*q, P, 4).await;
    acknowledge(&*q, &got[1..], &[]).await;
    assert_eq!(server.int(&["XLEN", STREAM]), 5, "the oldest is still pending");
    acknowledge(&*q, &got[..1], &[]).await;
    assert_eq!(server.int(&["XLEN", STREAM]), 1);
    // Another group has not read anything: what it needs stays.
    server.ok(&["XGROUP", "CREATE", STREAM, "others", "0"]);
    fill(&*q, SOURCE, 50, 60).await;
    let got = take(&*q, P, 2).await;
    acknowledge(&*q, &got, &[]).await;
    assert_eq!(server.int(&["XLEN", STREAM]), 2);
    server.ok(&["XGROUP", "DESTROY", STREAM, "others"]);
    fill(&*q, SOURCE, 60, 70).await;
    let got = take(&*q, P, 1).await;
    acknowledge(&*q, &got, &[]).await;
    assert_eq!(server.int(&["XLEN", STREAM]), 0);
}

/// The queue as another group reads it.
async fn open_as(server: &RedisServer, group: &str) -> Arc<RedisTransport> {
    RedisTransport::connect(&telemetry::config::Redis { group: GroupId::named(group), ..config(&server.url()) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_gone_is_retired_and_frees_what_it_held() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let (q, gone) = (open(&server).await, open_as(&server, "gone").await);
    fill(&*q, SOURCE, 0, 10).await;
    // It comes late, and still sees everything.
    assert_eq!(firsts(&take(&*gone, P, 1).await), [0]);
    mark_store(&*gone, OTHER_STORE).await;
    assert_eq!(acknowledge(&*gone, &[], &[(SOURCE, 1)]).await, 0);
    let row = fill_memory_from(&server, &*q, 10).await;
    let entries = (row / 10) as usize;
    let got = take(&*q, P, entries).await;
    acknowledge(&*q, &got, &[]).await;
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!(
        (seen.backlog.entries, seen.entries, seen.held_by.as_ref().map(GroupId::as_str)),
        (0, entries as u64, Some("gone"))
    );
    let held = seen.groups.iter().find(|g| g.name.as_str() == "gone").unwrap();
    assert_eq!((held.backlog.entries, held.backlog.pending), (entries as u64, 1));

    // Redis is full for the sake of a group; one that is at work stays.
    let minute = Duration::from_secs(60);
    assert!(matches!(q.publish(&batch(SOURCE, row)).await, Err(TransportError::Full { .. })));
    let refused = q.retire(P, &GroupId::named("gone"), minute).await.unwrap();
    assert!(matches!(&refused, Retired::Active { consumer, idle } if consumer == "one" && *idle < minute), "{refused:?}");
    assert_eq!(server.int(&["XLEN", STREAM]), entries as i64);
    let done = q.retire(P, &GroupId::named("gone"), Duration::ZERO).await.unwrap();
    assert_eq!(done, Retired::Done { unacknowledged: entries as u64, trimmed: entries as u64 });
    assert_eq!(server.int(&["XLEN", STREAM]), 0);
    assert_eq!(gone.committed(SOURCE).await.unwrap(), 0);
    assert_eq!(q.retire(P, &GroupId::named("gone"), Duration::ZERO).await.unwrap(), Retired::Unknown);
    assert_eq!(q.retire(SECOND, &GroupId::named("gone"), Duration::ZERO).await.unwrap(), Retired::Unknown, "it never was there");
    assert_eq!(until_ok(|| q.publish(&batch(SOURCE, row))).await, Published::Accepted);
    q.forget_store(&GroupId::named("gone")).await.unwrap();
    assert_eq!(store_mark(&*gone).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_group_takes_nothing_with_it() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 20).await;
    let done = q.retire(P, &GroupId::named("collectors"), Duration::ZERO).await.unwrap();
    assert_eq!(done, Retired::Done { unacknowledged: 2, trimmed: 0 });
    assert_eq!(backlog(&*q).await.entries, 2, "nobody has done with them");
    assert_eq!(q.look(P, 8).await.unwrap().groups, []);
    assert_eq!(firsts(&take(&*q, P, 2).await), [0, 10], "whoever comes next sees them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_group_has_an_account_of_its_own() {
    let server = RedisServer::start();
    let (q, other) = (open(&server).await, open_as(&server, "other").await);
    fill(&*q, SOURCE, 0, 30).await;
    let got = take(&*other, P, 2).await;
    acknowledge(&*other, &got, &[(SOURCE, 20)]).await;
    let row = |first| RowRange { first, end: first + 10 };
    assert_eq!(q.queued(P).await.unwrap(), [(SOURCE, row(0)), (SOURCE, row(10)), (SOURCE, row(20))]);
    assert_eq!(other.queued(P).await.unwrap(), [(SOURCE, row(20))]);
    // What one group has stored the other has not.
    assert_eq!((q.committed(SOURCE).await.unwrap(), other.committed(SOURCE).await.unwrap()), (0, 20));
    assert_eq!((q.sources(P).await.unwrap()[0].committed, other.sources(P).await.unwrap()[0].committed), (0, 20));
    assert_eq!(q.look(P, 0).await.unwrap().held_by.as_ref().map(GroupId::as_str), Some("collectors"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_listed_comes_in_pages_and_whole() {
    let server = RedisServer::start();
    let q = RedisTransport::connect(&telemetry::config::Redis { max_backlog: 10_000, ..config(&server.url()) }).await.unwrap();
    // Enough for several pages, entries small and large.
    let sources: Vec<SourceId> = (0..1_500u128).map(|n| source(2 * n)).collect();
    for (n, source) in sources.iter().enumerate() {
        let mut b = batch(*source, 0);
        b.payload = Bytes::from(vec![b'x'; if n % 100 < 50 { 10 } else { 20_000 }]);
        assert_eq!(q.publish(&b).await.unwrap(), Published::Accepted);
    }
    let queued = q.queued(P).await.unwrap();
    assert_eq!(queued.iter().map(|(source, _)| *source).collect::<Vec<_>>(), sources);
    let listed = q.sources(P).await.unwrap();
    assert_eq!(listed.iter().map(|state| state.source).collect::<Vec<_>>(), sources);
    assert!(listed.iter().all(|state| state.position == at(10)));
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        pages.push(q.some_sources(P, &mut cursor).await.unwrap());
        if cursor.is_empty() {
            break;
        }
    }
    assert!(pages.len() > 1 && pages.iter().all(|page| page.len() < 1_000), "{} pages", pages.len());
    let mut seen: Vec<_> = pages.into_iter().flatten().map(|state| state.source).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, sources);
    assert_eq!(q.some_sources(SECOND, &mut cursor).await.unwrap(), []);
    assert!(cursor.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_behind_a_partition_says_how_it_is() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    let node = open(&server).await.node(SECOND).await.unwrap();
    assert_eq!(node.address, format!("127.0.0.1:{}", server.port()));
    assert_eq!((node.max_memory, node.policy.as_str()), (100 << 20, "noeviction"));
    assert!(node.used_memory > 100_000 && node.used_memory < node.max_memory, "{node:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_die_with_their_connection() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    let before = take(&*q, P, 3).await;
    server.ok(&["CLIENT", "KILL", "TYPE", "normal"]);
    let after = until_ok(|| q.receive(P, 10)).await;
    assert_eq!(firsts(&after), [0, 10, 20]);
    assert!(after[0].receipt.epoch > before[0].receipt.epoch);
    assert_eq!(acknowledge(&*q, &before, &[(SOURCE, 5)]).await, 0);
    assert_eq!(q.committed(SOURCE).await.unwrap(), 5, "what is stored is stored");
    assert_eq!(backlog(&*q).await.pending, 3);
    assert_eq!(acknowledge(&*q, &after, &[]).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_nobody_waits_for_loses_nothing() {
    let server = RedisServer::start();
    let mut slow = config(&server.url());
    slow.block = Duration::from_secs(1);
    let q = RedisTransport::connect(&slow).await.unwrap();
    assert!(q.receive(P, 10).await.unwrap().is_empty());
    let stopped = tokio::time::timeout(Duration::from_millis(200), q.receive(P, 10)).await;
    assert!(stopped.is_err(), "it waits for entries");
    fill(&*q, SOURCE, 0, 10).await;
    assert_eq!(firsts(&take(&*q, P, 1).await), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_deleted_by_hand_are_passed_over() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    let got = take(&*q, P, 3).await;
    drop(q);
    server.ok(&["XDEL", STREAM, &got[1].receipt.entry]);
    let q = open(&server).await;
    let again = take(&*q, P, 2).await;
    assert_eq!(firsts(&again), [0, 20]);
    acknowledge(&*q, &again, &[]).await;
    until_ok(|| async {
        if backlog(&*q).await.entries == 0 { Ok(()) } else { Err(TransportError::Full { endpoint: String::new() }) }
    })
    .await;
}

/// Fills Redis until it refuses a batch; returns the row at which it did.
async fn fill_memory(server: &RedisServer, q: &dyn Queue) -> u64 {
    fill_memory_from(server, q, 0).await
}

/// The same where something is there already.
async fn fill_memory_from(server: &RedisServer, q: &dyn Queue, row: u64) -> u64 {
    server.ok(&["CONFIG", "SET", "maxmemory", "6mb"]);
    for first in (row..).step_by(10) {
        let mut b = batch(SOURCE, first);
        b.payload = Bytes::from(vec![b'x'; 100_000]);
        match q.publish(&b).await {
            Ok(answer) => assert_eq!(answer, Published::Accepted),
            Err(TransportError::Full { .. }) => {
                // However little memory the next attempt takes.
                server.ok(&["CONFIG", "SET", "maxmemory", "5mb"]);
                return first;
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_drained_and_takes_more() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let q = open(&server).await;
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(None));
    let row = fill_memory(&server, &*q).await;
    let count = (row / 10) as usize;
    assert!(count > 10);

    // Nothing half done: not the position, not a dictionary, not an entry.
    let mut b = batch(SOURCE, row);
    b.payload = Bytes::from(vec![b'x'; 100_000]);
    b.dictionaries = vec![dictionary_id(9)];
    b.with = vec![(dictionary_id(9), Bytes::from_static(b"d"))];
    assert!(matches!(q.publish(&b).await, Err(TransportError::Full { .. })));
    // Also where the group must be made first.
    let other_partition = batch(ELSEWHERE, 0);
    assert!(matches!(q.publish(&other_partition).await, Err(TransportError::Full { .. })));
    assert_eq!(server.int(&["EXISTS", "{t:1}:stream", "{t:1}:positions", "{t:0}:dicts"]), 0);
    assert_eq!(q.position(SOURCE).await.unwrap(), at(row));
    assert_eq!(q.dictionary(P, dictionary_id(9)).await.unwrap(), None);
    assert_eq!(server.int(&["XLEN", STREAM]), count as i64);
    // A lease is renewed, a new one refused.
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(at(row)));
    assert!(matches!(q.lease(OTHER, "me").await, Err(TransportError::Full { .. })));
    // A process that starts now can work too.
    let q = open(&server).await;
    assert_eq!(acknowledge(&*q, &[], &[(OTHER, 7)]).await, 0);
    assert_eq!(q.committed(OTHER).await.unwrap(), 7);

    let got = take(&*q, P, count).await;
    q.keep(P, &[got[0].receipt.clone()]).await.unwrap();
    assert_eq!(acknowledge(&*q, &got, &[(SOURCE, row)]).await, count);
    assert_eq!(q.committed(SOURCE).await.unwrap(), row);
    assert_eq!(server.int(&["XLEN", STREAM]), 0);
    assert_eq!(until_ok(|| q.publish(&b)).await, Published::Accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_everything_is_noticed() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    let before = take(&*q, P, 3).await;
    server.ok(&["FLUSHALL"]);
    server.ok(&["SCRIPT", "FLUSH"]);
    assert_eq!(q.publish(&batch(SOURCE, 30)).await.unwrap(), Published::Moved(None));
    assert_eq!(server.command(&["HGET", "{t:0}:meta", "partitions"]), Reply::Text("2".into()), "written again");
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(None));
    fill(&*q, SOURCE, 0, 20).await;
    let after = take(&*q, P, 2).await;
    assert_eq!(firsts(&after), [0, 10]);
    assert_eq!(acknowledge(&*q, &before, &[]).await, 0);
    assert_eq!(acknowledge(&*q, &after, &[]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_consumer_survives_the_loss_of_everything() {
    let server = RedisServer::start();
    let mut slow = config(&server.url());
    slow.block = Duration::from_secs(1);
    let q = RedisTransport::connect(&slow).await.unwrap();
    fill(&*q, SOURCE, 0, 10).await;
    let before = take(&*q, P, 1).await;
    let reader = tokio::spawn({
        let q = q.clone();
        async move { take(&*q, P, 1).await }
    });
    // Until the reader is blocked.
    while !matches!(server.command(&["INFO", "clients"]), Reply::Text(t) if t.contains("blocked_clients:1")) {}
    server.ok(&["FLUSHALL"]);
    let after = async {
        while server.int(&["EXISTS", STREAM]) == 0 {
            tokio::task::yield_now().await;
        }
        fill(&*q, SOURCE, 0, 10).await;
        reader.await.unwrap()
    };
    let after = tokio::time::timeout(Duration::from_secs(20), after).await.unwrap();
    assert_eq!(firsts(&after), [0]);
    assert!(after[0].receipt.epoch > before[0].receipt.epoch);
    assert_eq!(acknowledge(&*q, &before, &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_comes_back_with_stream_and_position() {
    let server = RedisServer::start_with(&["--appendfsync", "always"]);
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    let before = take(&*q, P, 2).await;
    server.kill();
    let in_flight = q.publish(&batch(SOURCE, 30)).await;
    assert!(matches!(in_flight, Err(TransportError::Unavailable { .. })), "{in_flight:?}");
    assert!(matches!(q.receive(P, 1).await, Err(TransportError::Unavailable { .. })));
    assert!(!q.is_connected());
    server.restart();
    assert_eq!(until_ok(|| q.position(SOURCE)).await, at(30));
    assert!(q.is_connected());
    fill(&*q, SOURCE, 30, 40).await;
    until_ok(|| q.keep(P, &[])).await;
    let after = take(&*q, P, 4).await;
    assert_eq!(firsts(&after), [0, 10, 20, 30]);
    assert_eq!(acknowledge(&*q, &before, &[]).await, 0);
    assert_eq!(acknowledge(&*q, &after, &[]).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_noticed_by_every_call() {
    let server = RedisServer::start();
    let mut quick = config(&server.url());
    quick.command_timeout = Duration::from_millis(300);
    quick.connect_timeout = Duration::from_millis(300);
    let q = RedisTransport::connect(&quick).await.unwrap();
    fill(&*q, SOURCE, 0, 20).await;
    let got = take(&*q, P, 1).await;
    assert!(Publisher::ping(&*q).await.is_ok());
    let receipts = vec![got[0].receipt.clone()];

    server.freeze();
    let unavailable = |what: &str, error: Option<TransportError>| {
        assert!(matches!(error, Some(TransportError::Unavailable { .. })), "{what}: {error:?}");
    };
    let all = async {
        unavailable("publish", q.publish(&batch(SOURCE, 20)).await.err());
        unavailable("receive", q.receive(P, 1).await.err());
        unavailable("acknowledge", q.acknowledge(P, receipts.clone(), &[]).await.err());
        unavailable("keep", q.keep(P, &receipts).await.err());
        unavailable("position", q.position(SOURCE).await.err());
        unavailable("lease", q.lease(SOURCE, "me").await.err());
        unavailable("replicated", q.replicated(SOURCE).await.err());
        unavailable("dictionary", q.dictionary(P, dictionary_id(1)).await.err());
        unavailable("queued", q.queued(P).await.err());
        unavailable("ping", Consumer::ping(&*q).await.err());
        unavailable("identities", q.identities(family(1)).await.err());
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a call never ended");
    server.thaw();
    // The batch may have arrived or not: sending it again is harmless either way.
    let again = until_ok(|| q.publish(&batch(SOURCE, 20))).await;
    assert!(matches!(again, Published::Accepted) || again == Published::Moved(at(30)), "{again:?}");
    until_ok(|| q.keep(P, &[])).await;
    assert_eq!(firsts(&take(&*q, P, 3).await), [0, 10, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_line_is_noticed_and_mended() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port()).await;
    let mut through = config(&format!("redis://127.0.0.1:{}", proxy.port()));
    through.command_timeout = Duration::from_millis(500);
    through.connect_timeout = Duration::from_millis(500);
    let q = RedisTransport::connect(&through).await.unwrap();
    proxy.delay(Duration::from_millis(20));
    fill(&*q, SOURCE, 0, 50).await;

    proxy.cut();
    let sent = q.publish(&batch(SOURCE, 50)).await;
    assert!(matches!(sent, Err(TransportError::Unavailable { .. })), "{sent:?}");
    proxy.mend();
    assert_eq!(until_ok(|| q.position(SOURCE)).await, at(50));

    proxy.silence();
    let sent = q.publish(&batch(SOURCE, 50)).await;
    assert!(matches!(sent, Err(TransportError::Unavailable { .. })), "{sent:?}");
    proxy.mend();
    let position = until_ok(|| q.position(SOURCE)).await;
    assert!(position == at(50) || position == at(60), "{position:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_looked_at_holds_up_no_other() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port()).await;
    let through = config(&format!("redis://127.0.0.1:{}", proxy.port()));
    let q = RedisTransport::connect(&through).await.unwrap();
    fill(&*q, SOURCE, 0, 10).await;
    let got = take(&*q, P, 1).await;
    proxy.cut();
    assert!(q.position(SOURCE).await.is_err());
    proxy.mend();
    proxy.delay(Duration::from_millis(50));
    // Both have begun to connect, and are left alone.
    let next = batch(SOURCE, 10);
    let mut publishing = q.publish(&next);
    let mut reading = Box::pin(q.receive(P, 1));
    assert!(tokio::time::timeout(Duration::from_millis(5), &mut publishing).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(5), &mut reading).await.is_err());
    assert_eq!(until_ok(|| q.position(SOURCE)).await, at(10));
    assert_eq!(until_ok(|| q.acknowledge(P, vec![got[0].receipt.clone()], &[])).await, 0);
    assert_eq!(publishing.await.unwrap(), Published::Accepted);
    assert_eq!(firsts(&reading.await.unwrap()), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_waited_for() {
    let server = RedisServer::start();
    let mut strict = config(&server.url());
    strict.min_replicas = Some(1);
    let q = RedisTransport::connect(&strict).await.unwrap();
    fill(&*q, SOURCE, 0, 10).await;
    assert!(!q.replicated(SOURCE).await.unwrap());
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &server.port().to_string()]);
    while !until_ok(|| q.replicated(SOURCE)).await {}
    assert_eq!(replica.int(&["XLEN", STREAM]), 1);
    // Found by itself where nothing is configured; and a frozen one does not count.
    let q = open(&server).await;
    assert!(q.replicated(SOURCE).await.unwrap());
    replica.freeze();
    fill(&*q, SOURCE, 10, 20).await;
    assert!(!q.replicated(SOURCE).await.unwrap());
    replica.thaw();
    while !until_ok(|| q.replicated(SOURCE)).await {}
}
