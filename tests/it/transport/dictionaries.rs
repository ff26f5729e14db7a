//! Dictionaries on Redis: which go, and which never do. What the start of a connection costs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use telemetry::model::DictionaryId;
use telemetry::transport::redis::RedisTransport;
use telemetry::transport::{Consumer, Published, Publisher};

use super::{P, SOURCE, acknowledge, batch, take};
use crate::support::redis::{RedisServer, Reply, config};

const STREAM: &str = "{t:0}:stream";

async fn open(server: &RedisServer) -> Arc<RedisTransport> {
    RedisTransport::connect(&config(&server.url())).await.unwrap()
}

/// How often a command was run since the counters were set back.
fn calls(server: &RedisServer, command: &str) -> u32 {
    let Reply::Text(stats) = server.command(&["INFO", "commandstats"]) else { panic!("statistics") };
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionaries_go_when_nothing_refers_to_them() {
    let server = RedisServer::start();
    let q = open(&server).await;
    let dictionary = |n: u8| Bytes::from(vec![n; 100]);
    let digest = |n: u8| DictionaryId::of(&dictionary(n));
    for (n, first) in [(1, 0), (2, 10), (3, 20)] {
        let mut b = batch(SOURCE, first);
        b.dictionaries = vec![digest(n)];
        b.with = vec![(digest(n), dictionary(n))];
        assert_eq!(q.publish(&b).await.unwrap(), Published::Accepted);
    }
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 0);
    let got = take(&*q, P, 3).await;
    acknowledge(&*q, &got[..2], &[]).await;
    assert_eq!(q.sweep(P, Duration::from_secs(3_600)).await.unwrap(), 0, "used not long ago");
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 2);
    assert_eq!(q.dictionary(P, digest(1)).await.unwrap(), None);
    assert_eq!(q.dictionary(P, digest(3)).await.unwrap(), Some(dictionary(3)));
    acknowledge(&*q, &got[2..], &[]).await;
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 0, "the last used stays, though the queue is empty");

    let mut b = batch(SOURCE, 30);
    b.dictionaries = vec![digest(3), digest(1)];
    assert_eq!(q.publish(&b).await.unwrap(), Published::NeedDictionaries(vec![digest(1)]));
    b.with = vec![(digest(1), dictionary(1))];
    assert_eq!(q.publish(&b).await.unwrap(), Published::Accepted);
    assert_eq!(server.int(&["HLEN", "{t:0}:dicts"]), 2);
}

/// However many there are: a sweep looks at some of them, reads no entry, and none goes that an entry left needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dictionaries_go_page_by_page() {
    const ENTRIES: u32 = 40;
    const EACH: u32 = 50;
    let server = RedisServer::start();
    let q = open(&server).await;
    let dictionary = |n: u32| Bytes::from(n.to_string());
    let digest = |n: u32| DictionaryId::of(&dictionary(n));
    let of_entry = |entry: u32| entry * EACH..(entry + 1) * EACH;
    for entry in 0..ENTRIES {
        let mut b = batch(SOURCE, u64::from(entry) * 10);
        b.with = of_entry(entry).map(|n| (digest(n), dictionary(n))).collect();
        b.dictionaries = b.with.iter().map(|(digest, _)| *digest).collect();
        // The first one of all is used again by the last entry.
        if entry == ENTRIES - 1 {
            b.dictionaries.push(digest(0));
        }
        assert_eq!(q.publish(&b).await.unwrap(), Published::Accepted);
    }
    let sweep_all = async || {
        let (mut removed, mut most) = (0, 0);
        // More than enough to come around.
        for _ in 0..ENTRIES * EACH / 256 * 4 {
            let some = q.sweep(P, Duration::ZERO).await.unwrap();
            removed += some;
            most = most.max(some);
        }
        (removed, most)
    };
    let got = take(&*q, P, ENTRIES as usize).await;
    server.ok(&["CONFIG", "RESETSTAT"]);
    assert_eq!(sweep_all().await.0, 0, "all are pending");
    // All but one in the middle: what came before it is nobody's.
    let kept = 25;
    let done: Vec<_> = got.iter().enumerate().filter(|(at, _)| *at != kept as usize).map(|(_, one)| one.clone()).collect();
    acknowledge(&*q, &done, &[]).await;
    let (removed, most) = sweep_all().await;
    assert_eq!(removed, u64::from(kept * EACH - 1), "the first one of all is needed by the last entry");
    assert!(most <= 256, "{most} at once");
    for n in (0..ENTRIES * EACH).step_by(7) {
        let expected = (n == 0 || n >= kept * EACH).then(|| dictionary(n));
        assert_eq!(q.dictionary(P, digest(n)).await.unwrap(), expected, "{n}");
    }
    for command in ["hgetall", "xrange", "xinfo|stream"] {
        assert_eq!(calls(&server, command), 0, "{command}");
    }

    // Who comes late, and begins with what is left, finds all that it needs; nobody at all may come yet.
    server.ok(&["XGROUP", "CREATE", STREAM, "late", "0"]);
    acknowledge(&*q, &got[kept as usize..=kept as usize], &[]).await;
    assert_eq!(sweep_all().await.0, 0, "another group has read nothing");
    server.ok(&["XGROUP", "DESTROY", STREAM, "late"]);
    server.ok(&["XGROUP", "DESTROY", STREAM, "collectors"]);
    assert_eq!(sweep_all().await.0, 0, "no group has done with anything");
    assert_eq!(server.int(&["XLEN", STREAM]), i64::from(ENTRIES - kept));
}

/// Each script goes over a connection before it is used there first, and no other does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_sends_the_scripts_that_it_uses() {
    let server = RedisServer::start();
    let q = open(&server).await;
    for first in [0, 10, 20] {
        assert_eq!(q.publish(&batch(SOURCE, first)).await.unwrap(), Published::Accepted);
    }
    assert_eq!(calls(&server, "script|load"), 2, "once and publish");
    assert_eq!((calls(&server, "eval"), calls(&server, "evalsha")), (0, 5), "a number of partitions twice, a batch three times");
    let Reply::Text(memory) = server.command(&["INFO", "memory"]) else { panic!("INFO memory") };
    assert!(memory.contains("number_of_cached_scripts:2\r\n"), "{memory}");
    // What is forgotten is sent again.
    server.ok(&["SCRIPT", "FLUSH"]);
    assert_eq!(q.publish(&batch(SOURCE, 30)).await.unwrap(), Published::Accepted);
    assert_eq!(calls(&server, "eval"), 1);
}
