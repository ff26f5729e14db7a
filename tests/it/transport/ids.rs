//! Entry ids up to the greatest there is: compared and counted on exactly, and what a group does to the queue that stands there.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use telemetry::transport::redis::RedisTransport;
use telemetry::transport::{Consumer, Inspector, Published, Publisher};

use super::{OTHER, P, SOURCE, acknowledge, at, backlog, batch, fill, firsts, take};
use crate::support::redis::{RedisServer, Reply, config};

const STREAM: &str = "{t:0}:stream";
const GREATEST: &str = "18446744073709551615-18446744073709551615";

/// What every script begins with.
const COMMON: &str = include_str!("../../../src/transport/redis/scripts/common.lua");

type Id = (u64, u64);

fn text((ms, sequence): Id) -> String {
    format!("{ms}-{sequence}")
}

fn following((ms, sequence): Id) -> Option<Id> {
    match sequence.checked_add(1) {
        Some(sequence) => Some((ms, sequence)),
        None => ms.checked_add(1).map(|ms| (ms, 0)),
    }
}

/// Whether `a` is less than `b`, and what follows `a`, as the scripts have it.
fn asked(server: &RedisServer, a: Id, b: Id) -> (bool, Option<String>) {
    let script = format!("{COMMON}\nreturn {{less(ARGV[1], ARGV[2]) and 1 or 0, following(ARGV[1]) or 'none'}}");
    match server.command(&["EVAL", &script, "0", &text(a), &text(b)]) {
        Reply::List(answer) => match answer.as_slice() {
            [Reply::Int(less), Reply::Text(next)] => (*less == 1, Some(next.clone()).filter(|next| next != "none")),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_are_compared_and_followed_exactly() {
    let server = RedisServer::start();
    let mut random = StdRng::seed_from_u64(7);
    // Where carries, digits and the precision of a double change.
    let mut numbers = vec![0, 1, 8, 9, 10, 99, 100, 1_999, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX];
    numbers.extend((1..20).map(|digits| 10u64.pow(digits) - 1));
    let any = |random: &mut StdRng, numbers: &[u64]| match random.random_range(0..3) {
        0 => random.random(),
        1 => u64::MAX - random.random_range(0..5_000),
        _ => numbers[random.random_range(0..numbers.len())],
    };
    for _ in 0..1_500 {
        let a = (any(&mut random, &numbers), any(&mut random, &numbers));
        // Often of the same millisecond, often the very next.
        let b = match random.random_range(0..4) {
            0 => a,
            1 => (a.0, any(&mut random, &numbers)),
            2 => following(a).unwrap_or(a),
            _ => (any(&mut random, &numbers), any(&mut random, &numbers)),
        };
        let (less, next) = asked(&server, a, b);
        assert_eq!((less, next), (a < b, following(a).map(text)), "{a:?} {b:?}");
    }
}

/// A queue with three entries, of which nobody has read any.
async fn queue(server: &RedisServer) -> std::sync::Arc<RedisTransport> {
    let q = RedisTransport::connect(&config(&server.url())).await.unwrap();
    fill(&*q, SOURCE, 0, 30).await;
    q
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_ahead_of_the_stream_makes_nothing_vanish() {
    let server = RedisServer::start();
    let q = queue(&server).await;
    for (n, id) in [GREATEST, "18446744073709551615-0", "9007199254740993-1"].into_iter().enumerate() {
        server.ok(&["XGROUP", "CREATE", STREAM, &format!("ahead-{n}"), id]);
    }
    server.ok(&["XGROUP", "SETID", STREAM, "collectors", GREATEST]);
    assert_eq!(acknowledge(&*q, &[], &[(SOURCE, 1)]).await, 0);
    assert_eq!(server.int(&["XLEN", STREAM]), 3, "nobody has read them");
    assert_eq!(backlog(&*q).await.entries, 3);
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!(seen.groups.iter().map(|group| group.backlog.entries).collect::<Vec<_>>(), [3; 4]);
    assert_eq!(q.queued(P).await.unwrap().len(), 3);
    // Set back, everything is delivered; who stands ahead keeps what it has not read until it is taken away.
    server.ok(&["XGROUP", "SETID", STREAM, "collectors", "0"]);
    let got = take(&*q, P, 3).await;
    assert_eq!(firsts(&got), [0, 10, 20]);
    assert_eq!(acknowledge(&*q, &got, &[]).await, 3);
    assert_eq!(server.int(&["XLEN", STREAM]), 3);
    assert_eq!(q.publish(&batch(SOURCE, 30)).await.unwrap(), Published::Accepted);
    for n in 0..3 {
        q.retire(P, &telemetry::model::GroupId::named(format!("ahead-{n}")), std::time::Duration::ZERO).await.unwrap();
    }
    assert_eq!(server.int(&["XLEN", STREAM]), 1, "what was read is trimmed again");
    assert_eq!(firsts(&take(&*q, P, 1).await), [30]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_with_ids_at_the_end_are_read_and_trimmed_as_others() {
    let server = RedisServer::start();
    let q = queue(&server).await;
    // A double cannot tell any two of these apart.
    let ids = [
        "18446744073709551614-18446744073709551615",
        "18446744073709551615-0",
        "18446744073709551615-18446744073709551614",
        GREATEST,
    ];
    for id in ids {
        server.ok(&["XADD", STREAM, id, "s", &SOURCE.to_string(), "f", "0", "e", "10", "d", "x"]);
    }
    let got = take(&*q, P, 7).await;
    assert_eq!(acknowledge(&*q, &got[4..], &[]).await, 3);
    assert_eq!(server.int(&["XLEN", STREAM]), 7, "those before are pending");
    assert_eq!(acknowledge(&*q, &got[..4], &[]).await, 4);
    assert_eq!(server.int(&["XLEN", STREAM]), 0, "the last goes with the others");
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!((seen.backlog.entries, seen.held_by), (0, None));
    assert_eq!(q.queued(P).await.unwrap(), []);
    assert_eq!(q.sweep(P, std::time::Duration::ZERO).await.unwrap(), 0);
    assert_eq!(q.position(SOURCE).await.unwrap(), at(30));
}

/// A failover to a replica whose clock is behind loses entries, and gives their ids to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_has_the_id_of_a_lost_one_is_not_taken_for_it() {
    let server = RedisServer::start();
    let q = queue(&server).await;
    let got = take(&*q, P, 3).await;
    let lost = &got[1];
    assert!(q.contains(lost).await.unwrap());
    for (source, first, end, is_it) in
        [(OTHER, "10", "20", false), (SOURCE, "10", "21", false), (SOURCE, "11", "20", false), (SOURCE, "10", "20", true)]
    {
        server.ok(&["DEL", STREAM]);
        assert!(!q.contains(lost).await.unwrap());
        let fields = ["s", &source.to_string(), "f", first, "e", end, "d", "x"];
        server.ok(&[&["XADD", STREAM, &lost.receipt.entry][..], &fields[..]].concat());
        assert_eq!(q.contains(lost).await.unwrap(), is_it, "{source} {first} {end}");
    }
}
