//! What others write into the same Redis: it ends nothing, hides nothing that is healthy, and is counted.

use std::sync::Arc;
use std::time::Duration;

use telemetry::model::{DictionaryId, Digest, GroupId, Partitions};
use telemetry::transport::redis::{KeyKind, RedisTransport, Retired};
use telemetry::transport::{Consumer, Identity, Inspector, Lease, Published, Publisher, TransportError};

use super::{
    ELSEWHERE, OTHER, OTHER_STORE, P, SOURCE, STORE, acknowledge, at, batch, family, fill, firsts, mark_store, store_mark, take,
    unmarked,
};
use crate::support::redis::{RedisServer, Reply, config};

const STREAM: &str = "{t:0}:stream";
const POSITIONS: &str = "{t:0}:positions";
const COMMITTED: &str = "{t:0}:committed:collectors";
const META: &str = "{t:0}:meta";

async fn open(server: &RedisServer) -> Arc<RedisTransport> {
    RedisTransport::connect(&config(&server.url())).await.unwrap()
}

fn count(q: &RedisTransport, kind: KeyKind) -> u64 {
    q.malformed().into_iter().find(|(of, _)| *of == kind).unwrap().1
}

/// Runs a command whose last argument is a Lua string, which can be any bytes.
fn with_bytes(server: &RedisServer, words: &[&str], bytes: &str) {
    let script = format!("ARGV[#ARGV + 1] = {bytes} return redis.call(unpack(ARGV))");
    server.ok(&[&["EVAL", &script, "0"], words].concat());
}

fn waits(answer: Result<impl std::fmt::Debug, TransportError>, key: &str) {
    match answer {
        Err(error @ TransportError::Blocked { .. }) => {
            assert!(error.is_transient() && error.to_string().contains(key), "{error}");
        }
        other => panic!("not blocked: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_position_is_malformed_begins_again_and_others_go_on() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    fill(&*q, OTHER, 0, 10).await;
    let source = SOURCE.to_string();
    let digest = "0123456789abcdef0123456789abcdef";
    let wrong = [
        "'nonsense'".to_owned(),
        "''".to_owned(),
        "'\\255\\254'".to_owned(),
        "string.rep('1', 100000)".to_owned(),
        "'1:2:3'".to_owned(),
        format!("'+1:0:{digest}'"),
        format!("'01:0:{digest}'"),
        format!("'1:18446744073709551616:{digest}'"),
        format!("'1:0:{}'", digest.to_uppercase()),
        format!("'1:0:+{}'", &digest[1..]),
        format!("'1:0:{digest}\\n'"),
    ];
    for wrong in &wrong {
        with_bytes(&server, &["HSET", POSITIONS, &source], wrong);
        let before = count(&q, KeyKind::Positions);
        assert_eq!(q.publish(&batch(SOURCE, 30)).await.unwrap(), Published::Moved(None), "{wrong}");
        assert_eq!(q.position(SOURCE).await.unwrap(), None);
        assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(None));
        let states = q.sources(P).await.unwrap();
        assert_eq!(states.iter().map(|s| s.position).collect::<Vec<_>>(), [None, at(10)]);
        assert_eq!(q.some_sources(P, &mut String::new()).await.unwrap().len(), 2);
        assert_eq!(count(&q, KeyKind::Positions), before + 4, "each time it is met");
        // From the start again, over what was there.
        assert_eq!(q.publish(&batch(SOURCE, 0)).await.unwrap(), Published::Accepted, "{wrong}");
        assert_eq!(q.position(SOURCE).await.unwrap(), at(10));
    }
    // The greatest that there can be is one.
    let greatest = format!("18446744073709551615:18446744073709551615:{digest}");
    server.ok(&["HSET", POSITIONS, &source, &greatest]);
    assert_eq!(q.position(SOURCE).await.unwrap().unwrap().to_string(), greatest);
    assert!(matches!(q.publish(&batch(SOURCE, 0)).await.unwrap(), Published::Moved(Some(_))));
    // What is no source is not listed.
    with_bytes(&server, &["HSET", POSITIONS, "zz"], "'1:2:3'");
    assert_eq!(q.sources(P).await.unwrap().len(), 2);
    assert_eq!(q.publish(&batch(OTHER, 10)).await.unwrap(), Published::Accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_rows_that_are_malformed_say_nothing_and_are_written_anew() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 30).await;
    let source = SOURCE.to_string();
    for wrong in ["'many'", "'\\255'", "'99999999999999999999'", "'-1'", "'007'", "string.rep('9', 100000)"] {
        with_bytes(&server, &["HSET", COMMITTED, &source], wrong);
        assert_eq!(q.committed(SOURCE).await.unwrap(), 0, "{wrong}");
        assert_eq!(q.sources(P).await.unwrap()[0].committed, 0);
        assert_eq!(acknowledge(&*q, &[], &[(SOURCE, 5)]).await, 0);
        assert_eq!(q.committed(SOURCE).await.unwrap(), 5, "{wrong}");
    }
    assert_eq!(count(&q, KeyKind::Committed), 12);
    // Of another type it keeps nothing from being acknowledged and trimmed.
    server.ok(&["DEL", COMMITTED]);
    server.ok(&["SET", COMMITTED, "x"]);
    let got = take(&*q, P, 3).await;
    assert_eq!(acknowledge(&*q, &got, &[(SOURCE, 30)]).await, 3);
    assert_eq!(server.int(&["XLEN", STREAM]), 0);
    assert_eq!(q.committed(SOURCE).await.unwrap(), 0);
    assert_eq!(q.sources(P).await.unwrap()[0].position, at(30));
    assert_eq!(q.some_sources(P, &mut String::new()).await.unwrap()[0].position, at(30));
    server.ok(&["DEL", COMMITTED]);
    acknowledge(&*q, &[], &[(SOURCE, 30)]).await;
    assert_eq!(q.committed(SOURCE).await.unwrap(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_identity_is_passed_over_in_the_registry() {
    let server = RedisServer::start();
    let q = open(&server).await;
    let key = format!("{{t:{}}}:registry:{}", family(2).partition(Partitions::new(2).unwrap()), family(2));
    for wrong in ["'x'", "''", "'\\255'", "string.rep('1', 100000)", "'1:2:3'"] {
        with_bytes(&server, &["RPUSH", &key], wrong);
    }
    let identity = |n| Identity { length: n, prefix: Digest::from_u128(1), source: SOURCE };
    assert_eq!(q.identities(family(2)).await.unwrap(), []);
    assert_eq!(q.register(family(2), &[], identity(1)).await.unwrap(), Ok(()));
    assert_eq!(q.register(family(2), &[], identity(2)).await.unwrap(), Err(vec![identity(1)]));
    assert_eq!(q.register(family(2), &[identity(1)], identity(2)).await.unwrap(), Ok(()));
    assert_eq!(q.identities(family(2)).await.unwrap(), [identity(1), identity(2)]);
    assert!(count(&q, KeyKind::Registry) > 0);
    server.ok(&["DEL", &key]);
    server.ok(&["SET", &key, "x"]);
    waits(q.identities(family(2)).await, &key);
    assert_eq!(q.identities(family(4)).await.unwrap(), [], "others are identified");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_of_partitions_that_is_malformed_is_not_believed() {
    let server = RedisServer::start();
    for wrong in ["'many'", "'0'", "'02'", "'65536'", "'\\255'", "string.rep('2', 100000)"] {
        with_bytes(&server, &["HSET", META, "partitions"], wrong);
        let q = open(&server).await;
        assert!(q.publish(&batch(ELSEWHERE, 0)).await.is_ok());
        assert_eq!(q.position(SOURCE).await.unwrap(), None, "{wrong}");
        assert!(count(&q, KeyKind::Partitions) > 0);
    }
    // One that can be believed still is.
    server.ok(&["HSET", META, "partitions", "3"]);
    let refused = RedisTransport::connect(&config(&server.url())).await.err().unwrap();
    assert!(matches!(refused, TransportError::Mismatch(_)), "{refused}");
    // Of another type in every partition.
    for key in [META, "{t:1}:meta"] {
        server.ok(&["DEL", key]);
        server.ok(&["SET", key, "x"]);
    }
    let q = open(&server).await;
    assert_eq!(q.position(SOURCE).await.unwrap(), None);
    assert_eq!((mark_store(&*q, STORE).await.as_str(), store_mark(&*q).await), (STORE, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_is_malformed_is_replaced_and_no_other() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let metas = [META, "{t:1}:meta"];
    let stands = |key| server.command(&["HGET", key, "store:collectors"]);
    let q = open(&server).await;
    let wrong = [
        "'nonsense'".to_owned(),
        "''".to_owned(),
        "'\\255\\n'".to_owned(),
        "string.rep('a', 100000)".to_owned(),
        format!("'{}'", STORE.to_uppercase()),
        format!("'{}'", STORE.replace('-', "")),
        format!("'{}'", STORE.replace('-', "0")),
        format!("'{STORE}\\n'"),
        format!("'{}g'", &STORE[1..]),
    ];
    for wrong in &wrong {
        for key in metas {
            with_bytes(&server, &["HSET", key, "store:collectors"], wrong);
        }
        let before = count(&q, KeyKind::Store);
        assert_eq!(store_mark(&*q).await, None, "{wrong}");
        assert_eq!(mark_store(&*q, STORE).await, STORE, "{wrong}");
        assert_eq!(count(&q, KeyKind::Store), before + 4, "each time it is met: {wrong}");
        assert_eq!(metas.map(stands), [STORE, STORE].map(|mark| Reply::Text(mark.to_owned())), "{wrong}");
        assert_eq!(mark_store(&*q, OTHER_STORE).await, STORE);
    }
    // Where one partition says which store it is, a collector of another one leaves no mark in those that do not.
    server.ok(&["HSET", META, "store:collectors", "nonsense"]);
    assert_eq!(mark_store(&*q, OTHER_STORE).await, STORE);
    assert_eq!(stands(META), Reply::Text("nonsense".to_owned()));
    // Collectors make room in a full Redis: they begin there, too.
    server.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(mark_store(&*q, STORE).await, STORE);
    assert_eq!(stands(META), Reply::Text(STORE.to_owned()));
    server.ok(&["HDEL", META, "store:collectors"]);
    assert_eq!(mark_store(&*q, STORE).await, STORE);
    assert_eq!(stands(META), Reply::Text(STORE.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_malformed_counts_as_none() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let metas = [META, "{t:1}:meta"];
    let field = "generation:collectors";
    let q = open(&server).await;
    let wrong = [
        "'nonsense'".to_owned(),
        "''".to_owned(),
        "'\\255\\n'".to_owned(),
        "string.rep('a', 100000)".to_owned(),
        format!("'{STORE}\\n'"),
    ];
    for wrong in &wrong {
        for key in metas {
            with_bytes(&server, &["HSET", key, field], wrong);
            server.ok(&["HDEL", key, "store:collectors"]);
        }
        let before = count(&q, KeyKind::Store);
        assert_eq!(mark_store(&*q, STORE).await, STORE, "{wrong}");
        assert_eq!(count(&q, KeyKind::Store), before + 4, "each time it is met: {wrong}");
        assert_eq!(store_mark(&*q).await.as_deref(), Some(STORE), "{wrong}");
        // Setting everything back, also in a full Redis, draws one that can be believed.
        server.ok(&["CONFIG", "SET", "maxmemory", "1"]);
        q.reset(None).await.unwrap();
        server.ok(&["CONFIG", "SET", "maxmemory", "0"]);
        let looked = q.store_marks().await.unwrap();
        let generations: Vec<_> = unmarked(&looked).into_iter().map(|(_, generation)| generation).collect();
        assert!(generations.len() == 2 && generations.iter().all(Option::is_some), "{wrong}: {looked:?}");
        // What is written over it counts as set back, and the next comparison goes on.
        with_bytes(&server, &["HSET", META, field], wrong);
        q.mark_store(STORE, &unmarked(&looked)).await.unwrap();
        assert_eq!(server.command(&["HGET", META, "store:collectors"]), Reply::Nil, "{wrong}");
        assert_eq!(mark_store(&*q, STORE).await, STORE, "{wrong}");
        assert_eq!(server.command(&["HGET", META, "store:collectors"]), Reply::Text(STORE.to_owned()), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_entries_that_are_malformed_hide_no_others() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 20).await;
    // Bytes that are no text, in the middle of the command.
    server.ok(&["EVAL", "return redis.call('XGROUP', 'CREATE', KEYS[1], '\\255\\10', '0')", "1", STREAM]);
    server.ok(&["EVAL", "return redis.call('XGROUP', 'CREATE', KEYS[1], string.rep('g', 5000), '0')", "1", STREAM]);
    server.ok(&["EVAL", "return redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], 'collectors', '\\255')", "1", STREAM]);
    for words in [&["s", "x"][..], &["d", "x"], &["s", &OTHER.to_string(), "f", "9", "e", "3", "d", "x"]] {
        server.ok(&[&["XADD", STREAM, "*"], words].concat());
    }
    with_bytes(&server, &["XADD", STREAM, "*", "s"], "string.rep('s', 100000)");
    let got = take(&*q, P, 6).await;
    assert_eq!(firsts(&got), [0, 10, 0, 0, 0, 0], "the others are handed out, to be buried");
    assert_eq!(count(&q, KeyKind::Entries), 4);
    assert_eq!(q.queued(P).await.unwrap().len(), 2);
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!(seen.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["collectors"]);
    assert_eq!(seen.groups[0].latest.iter().map(|consumer| consumer.name.as_str()).collect::<Vec<_>>(), ["one"]);
    assert!(count(&q, KeyKind::Groups) >= 3);
    assert_eq!(acknowledge(&*q, &got, &[]).await, 6);
    assert!(matches!(q.retire(P, &GroupId::named("collectors"), Duration::ZERO).await.unwrap(), Retired::Done { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionaries_that_are_malformed_stop_no_sweep() {
    let server = RedisServer::start();
    let q = open(&server).await;
    let id = |n: u8| DictionaryId::of(&[n]);
    for (field, used) in
        [("zz".to_owned(), "'1-1'"), (id(1).to_string(), "'never'"), (id(2).to_string(), "'1-1'"), (id(3).to_string(), "'\\255'")]
    {
        with_bytes(&server, &["HSET", "{t:0}:dicts", &field], used);
    }
    server.ok(&["SET", &format!("{{t:0}}:dict:{}", id(2)), "old"]);
    fill(&*q, SOURCE, 0, 10).await;
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 0, "no group has read anything yet");
    take(&*q, P, 1).await;
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 1);
    assert_eq!(q.dictionary(P, id(2)).await.unwrap(), None);
    assert_eq!(count(&q, KeyKind::Dictionaries), 6, "each time that they were read");
    server.ok(&["RPUSH", &format!("{{t:0}}:dict:{}", id(2)), "x"]);
    assert_eq!(q.dictionary(P, id(2)).await.unwrap(), None, "of another type it is none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_has_no_end_gets_one() {
    let server = RedisServer::start();
    let q = open(&server).await;
    let lease = format!("{{t:0}}:lease:{SOURCE}");
    server.ok(&["SET", &lease, "nobody"]);
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Taken);
    let left = server.int(&["PTTL", &lease]);
    assert!((1..=5_000).contains(&left), "{left}");
    // Asking does not make it longer.
    server.ok(&["PEXPIRE", &lease, "2000"]);
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Taken);
    assert!(server.int(&["PTTL", &lease]) <= 2_000);
    server.ok(&["DEL", &lease]);
    server.ok(&["RPUSH", &lease, "x"]);
    waits(q.lease(SOURCE, "me").await, &lease);
    assert_eq!(q.lease(OTHER, "me").await.unwrap(), Lease::Held(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_waited_for() {
    let server = RedisServer::start();
    let q = open(&server).await;
    for key in [POSITIONS, STREAM, "{t:0}:dicts"] {
        server.ok(&["DEL", key]);
        server.ok(&["SET", key, "x"]);
        waits(q.publish(&batch(SOURCE, 0)).await, key);
        assert!(q.publish(&batch(ELSEWHERE, 0)).await.is_ok(), "another partition goes on");
        if key == STREAM {
            waits(q.receive(P, 1).await, key);
            waits(q.look(P, 8).await, key);
        }
        server.ok(&["DEL", key]);
    }
    assert_eq!(q.publish(&batch(SOURCE, 0)).await.unwrap(), Published::Accepted);
    assert_eq!(firsts(&take(&*q, P, 1).await), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_takes_no_entry_any_more_is_waited_for() {
    let server = RedisServer::start();
    let q = open(&server).await;
    fill(&*q, SOURCE, 0, 20).await;
    let greatest = "18446744073709551615-18446744073709551615";
    server.ok(&["XADD", STREAM, greatest, "s", "x"]);
    for _ in 0..2 {
        waits(q.publish(&batch(SOURCE, 20)).await, STREAM);
    }
    assert_eq!(q.position(SOURCE).await.unwrap(), at(20), "nothing half done");
    assert_eq!(count(&q, KeyKind::Stream), 2);
    server.ok(&["XDEL", STREAM, greatest]);
    let Reply::List(last) = server.command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]) else { panic!("entries") };
    let Reply::List(entry) = &last[0] else { panic!("{last:?}") };
    let Reply::Text(id) = &entry[0] else { panic!("{entry:?}") };
    server.ok(&["XSETID", STREAM, id]);
    assert_eq!(q.publish(&batch(SOURCE, 20)).await.unwrap(), Published::Accepted);
    assert_eq!(firsts(&take(&*q, P, 3).await), [0, 10, 20]);
}
