//! What waiting can help: a role says it on /readyz, stays, and goes on by itself.

use crate::support::app::{App, Role, wait_for};
use crate::support::node::PASSWORD;
use crate::support::postgres::Server;
use crate::support::redis::{RedisServer, Reply};
use crate::support::secure::Secure;

pub(super) async fn waits(role: &mut Role, words: &[&str]) {
    let seen: &Role = role;
    let said = || seen.get("/readyz").is_some_and(|(status, text)| status == 503 && words.iter().all(|word| text.contains(word)));
    wait_for(&format!("/readyz with {words:?}"), || async { said() }).await;
    assert!(role.ended().is_none(), "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let redis = RedisServer::start();
    redis.kill();
    let app = App::new(&redis.url(), "");
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["redis", &format!("127.0.0.1:{}", redis.port()), "refused"]).await;
    redis.restart();
    assert_eq!(role.wait(), 0, "{}", role.log());

    let app = App::new("redis://no-such-host.invalid:6379", "");
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["no-such-host.invalid", "does not resolve", "DNS"]).await;
    role.signal("TERM");
    assert_eq!(role.wait(), 1, "stopped before the end: {}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_has_expired_is_waited_for() {
    let server = Secure::start();
    server.show_expired();
    let app = server.app("");
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["certificate", "has expired", "renew it on the server"]).await;
    server.show_for("localhost");
    assert_eq!(role.wait(), 0, "{}", role.log());
    assert!(!role.log().contains(PASSWORD), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_no_entry_is_waited_for_and_said() {
    const STREAM: &str = "{telemetry:0}:stream";
    const GREATEST: &str = "18446744073709551615-18446744073709551615";
    let redis = RedisServer::start();
    let app = App::new(&redis.url(), "").with("TELEMETRY__REDIS__PARTITIONS", "1");
    let (csv, holds) = app.export("a.csv", 2, 10, 1);
    redis.ok(&["XADD", STREAM, GREATEST, "s", "x"]);
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["queue", STREAM, "takes no entry any more", "telemetry check"]).await;
    let counted = || role.metric("telemetry_queue_malformed_total{key=\"stream\"}").is_some_and(|times| times >= 1.0);
    wait_for("it is counted", || async { counted() }).await;
    redis.ok(&["XDEL", STREAM, GREATEST]);
    redis.ok(&["XSETID", STREAM, "1-0"]);
    assert_eq!(role.wait(), 0, "{}", role.log());
    assert_eq!(role.log().matches("takes no entry any more").count(), 1, "said once: {}", role.log());
    assert!(redis.int(&["XLEN", STREAM]) > 0 && holds.rows() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_values_end_no_role_and_cost_no_row() {
    let (redis, database) = (RedisServer::start(), Server::shared().database().await);
    let app = App::new(&redis.url(), &database.url).with("TELEMETRY__REDIS__PARTITIONS", "1");
    let (first, one) = app.export("a.csv", 2, 20, 1);
    let (second, other) = app.export("b.csv", 2, 20, 2);
    app.run(&["stream", "--csv", &first, "--cluster", "a"]).exits(0);
    let of = |name: &str| format!("{{telemetry:0}}:{name}");
    let Reply::List(sources) = redis.command(&["HKEYS", &of("positions")]) else { panic!("the sources") };
    let Reply::Text(source) = &sources[0] else { panic!("{sources:?}") };
    for (key, field) in [("positions", source.as_str()), ("committed:collectors", source), ("dicts", "zz"), ("positions", "zz")] {
        redis.ok(&["HSET", &of(key), field, "\u{1b}[31mforged\nline"]);
    }
    redis.ok(&["HSET", &of("meta"), "partitions", "many", "store:collectors", "no mark"]);
    redis.ok(&["XADD", &of("stream"), "18446744073709551615-5", "s", "x"]);
    redis.ok(&["EVAL", "return redis.call('XGROUP', 'CREATE', KEYS[1], '\\255', '0')", "1", &of("stream")]);
    let mut collector = app.start(&["collect"]);
    // The one that was at its end is sent again, and is still stored once.
    let both = ["stream", "--csv", &first, "--csv", &second, "--cluster", "a", "--until", "stored"];
    app.run(&both).exits(0);
    one.plus(&other).arrive(&database, "a").await;
    for command in [&["audit"][..], &["groups", "list"], &["top", "--once"]] {
        let done = app.run(command);
        assert!(!done.stdout.contains('\u{1b}') && !done.stderr.contains("error: "), "{}{}", done.stdout, done.stderr);
    }
    for kind in ["committed", "positions", "partitions", "store", "groups", "entries"] {
        let begins = format!("telemetry_queue_malformed_total{{key=\"{kind}\"}}");
        wait_for(kind, || async { collector.metric(&begins).is_some_and(|times| times >= 1.0) }).await;
    }
    assert!(collector.log().contains("HDEL {telemetry:0}:positions zz"), "{}", collector.log());
    assert!(!collector.log().contains("\nline"), "no forged line: {}", collector.log());
    assert!(collector.ended().is_none(), "{}", collector.log());
    collector.signal("TERM");
    assert_eq!(collector.wait(), 0, "{}", collector.log());
}
