//! What Redis refuses, and what is said of it.

use std::time::Duration;

use bytes::Bytes;
use telemetry::model::{Digest, GroupId, Partitions};
use telemetry::transport::redis::{RedisTransport, Retired};
use telemetry::transport::{Consumer, Identity, Inspector, Lease, Published, Publisher, TransportError};

use super::redis::{dictionary_id, open};
use super::{P, SOURCE, STORE, acknowledge, at, backlog, batch, family, mark_store, take};
use crate::support::redis::{RedisServer, config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_partitions_is_refused() {
    let server = RedisServer::start();
    open(&server).await;
    let mut other = config(&server.url());
    other.partitions = Partitions::new(5).unwrap();
    let Err(error) = RedisTransport::connect(&other).await else { panic!("it was accepted") };
    assert!(matches!(error, TransportError::Mismatch(_)));
    let said = error.to_string();
    assert!(said.contains("2 partitions") && said.contains('5') && said.contains("redis.partitions"), "{said}");
}

async fn refused(config: &telemetry::config::Redis) -> String {
    match RedisTransport::connect(config).await {
        Ok(q) => match q.publish(&batch(SOURCE, 0)).await {
            Err(error @ TransportError::Refused { .. }) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        },
        Err(error @ TransportError::Refused { .. }) => error.to_string(),
        Err(other) => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named() {
    let server = RedisServer::start();
    let mut config = config(&server.url());
    config.username = Some("edge".to_owned());
    config.password = Some("pässword/@".to_owned().into());
    for (rules, word) in [
        (["~*", "+@all", "-xadd"], "XADD"),
        (["~*", "+@all", "-evalsha"], "EVALSHA"),
        (["~*", "+@all", "-info"], "INFO"),
        (["~x*", "+@all", "+@all"], "~{t:*"),
    ] {
        server.ok(&[&["ACL", "SETUSER", "edge", "reset", "on", ">pässword/@"], &rules[..]].concat());
        let said = refused(&config).await;
        assert!(said.contains(word) && said.contains("edge"), "{word}: {said}");
    }
    // Exactly what the documentation says.
    let documented = "AUTH SELECT PING INFO WAIT SCRIPT EVAL EVALSHA TIME EXISTS GET SET SETNX DEL PEXPIRE HGET HSET HDEL HLEN HKEYS \
                      HEXISTS HGETALL HSCAN HMGET LRANGE RPUSH XADD XLEN XRANGE XTRIM XINFO XPENDING XREADGROUP XACK XCLAIM XAUTOCLAIM XGROUP";
    let rights: Vec<String> = documented.split_whitespace().map(|c| format!("+{c}")).collect();
    let mut words = vec!["ACL", "SETUSER", "edge", "reset", "on", ">pässword/@", "~{t:*"];
    words.extend(rights.iter().map(String::as_str));
    server.ok(&words);
    let q = RedisTransport::connect(&config).await.unwrap();
    assert!(q.receive(P, 1).await.unwrap().is_empty());
    let mut b = batch(SOURCE, 0);
    b.dictionaries = vec![dictionary_id(1)];
    b.with = vec![(dictionary_id(1), Bytes::from_static(b"d"))];
    assert_eq!(q.publish(&b).await.unwrap(), Published::Accepted);
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(at(10)));
    assert_eq!(q.lease(SOURCE, "me").await.unwrap(), Lease::Held(at(10)));
    q.release(SOURCE, "me").await.unwrap();
    let new = Identity { length: 1, prefix: Digest::from_u128(1), source: SOURCE };
    assert_eq!(q.register(family(1), &[], new).await.unwrap(), Ok(()));
    assert_eq!(q.identities(family(1)).await.unwrap(), [new]);
    assert!(q.replicated(SOURCE).await.unwrap());
    let got = take(&*q, P, 1).await;
    q.keep(P, &[got[0].receipt.clone()]).await.unwrap();
    assert_eq!((backlog(&*q).await.pending, q.queued(P).await.unwrap().len()), (1, 1));
    assert_eq!(acknowledge(&*q, &got, &[(SOURCE, 10)]).await, 1);
    assert_eq!(q.sweep(P, Duration::ZERO).await.unwrap(), 0);
    q.leave(P).await.unwrap();
    mark_store(&*q, STORE).await;
    assert_eq!(q.sources(P).await.unwrap().len(), 1);
    assert_eq!(q.some_sources(P, &mut String::new()).await.unwrap().len(), 1);
    assert_eq!(q.look(P, 8).await.unwrap().groups.len(), 1);
    q.node(P).await.unwrap();
    assert!(matches!(q.retire(P, &GroupId::named("collectors"), Duration::ZERO).await.unwrap(), Retired::Done { .. }));
    q.forget_store(&GroupId::named("collectors")).await.unwrap();
    assert_eq!(q.reset(Some(SOURCE)).await.unwrap() + q.reset(None).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    for url in [server.url(), server.url().replace("//", "//:wr0ng@")] {
        let said = refused(&config(&url)).await;
        assert!(said.contains("password") && !said.contains("wr0ng"), "{said}");
    }
    let mut overridden = config(&server.url().replace("//", "//:wr0ng@"));
    overridden.password = Some("right".to_owned().into());
    RedisTransport::connect(&overridden).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_redis_is_said_so() {
    let nobody = config(&format!("redis://127.0.0.1:{}", crate::support::postgres::free_port()));
    let error = RedisTransport::connect(&nobody).await.err().unwrap();
    assert!(matches!(error, TransportError::Unavailable { .. }) && error.to_string().contains("refused"), "{error}");

    let unknown = config("redis://no-such-host.invalid");
    let error = RedisTransport::connect(&unknown).await.err().unwrap();
    assert!(error.is_transient() && error.to_string().contains("resolve"), "{error}");

    let bad = config("http://localhost");
    assert!(RedisTransport::new(&bad).err().unwrap().to_string().contains("redis.url"));

    let server = RedisServer::start();
    server.ok(&["SET", "{t:0}:positions", "not a hash"]);
    let q = open(&server).await;
    let error = q.publish(&batch(SOURCE, 0)).await.unwrap_err().to_string();
    assert!(error.contains("{t:0}:positions"), "{error}");
    assert_eq!(Inspector::backlog(&*q, P).await.unwrap().entries, 0);
}
