//! Commands that a server does not have, that a user may not run, or that it refuses now: `check` names them as a role does that meets them.

use super::{Finds, contents, ends, failed, finds, warned};
use crate::support::app::{App, wait_for};
use crate::support::node::PASSWORD;
use crate::support::postgres::Server;
use crate::support::redis::{RedisServer, Reply};

/// A server without these commands.
fn without(commands: &[&str]) -> RedisServer {
    let arguments: Vec<&str> = commands.iter().flat_map(|command| ["--rename-command", command, ""]).collect();
    RedisServer::start_with(&arguments)
}

const UNKNOWN: &str = "the server does not know the command";
const RENAMED: &str = "rename-command";

#[test]
fn a_streamer_misses_a_command() {
    let redis = without(&["XADD"]);
    let app = App::new(&redis.url(), "");
    // A script runs it, so it is found out late by whoever does not look.
    ends(&app, &failed("commands", &[UNKNOWN, "XADD", RENAMED], &["restore it"]), &[UNKNOWN, "XADD", RENAMED, "restore it"]);
    for command in ["EVALSHA", "SCRIPT"] {
        let redis = without(&[command]);
        let app = App::new(&redis.url(), "");
        let (csv, _) = app.export("a.csv", 1, 2, 1);
        app.run(&["check"]).exits(1);
        app.run(&["stream", "--csv", &csv]).exits(2).says(&[&format!("{UNKNOWN} {command}:"), RENAMED]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_misses_commands() {
    let database = Server::shared().database().await;
    let redis = without(&["SCRIPT", "EVAL", "EVALSHA", "XAUTOCLAIM"]);
    let wanted = ["does not know the commands SCRIPT, EVAL, EVALSHA, XAUTOCLAIM", RENAMED];
    finds(&App::new(&redis.url(), &database.url), &failed("commands", &wanted, &["restore them"]));

    let redis = without(&["XAUTOCLAIM"]);
    let app = App::new(&redis.url(), &database.url);
    app.run(&["check"]).exits(1);
    app.run(&["collect"]).exits(2).says(&[&format!("{UNKNOWN} XAUTOCLAIM:"), RENAMED]);
}

/// Also where nobody may ask what the user may do: what can be tried without changing anything is tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_not_run_commands() {
    let database = Server::shared().database().await;
    let redis = RedisServer::start();
    let collector = App::new(&redis.url(), &database.url);
    let (csv, _) = collector.export("a.csv", 4, 20, 3);
    collector.run(&["stream", "--csv", &csv]).exits(0);
    redis.ok(&["XGROUP", "CREATECONSUMER", "{telemetry:0}:stream", "collectors", "somebody"]);
    let before = state(&redis);
    for may_ask in ["+acl|dryrun", "-acl"] {
        redis.ok(&["ACL", "SETUSER", "edge", "reset", "on", &format!(">{PASSWORD}"), "~{telemetry:*", "+@all", may_ask]);
        for commands in [&["EVAL"][..], &["SCRIPT"], &["EVALSHA", "XAUTOCLAIM"]] {
            let denied: Vec<String> = commands.iter().map(|command| format!("-{command}")).collect();
            let granted: Vec<String> = commands.iter().map(|command| format!("+{}", command.to_lowercase())).collect();
            let set = |rules: &[String]| {
                let rules = rules.iter().map(String::as_str);
                redis.ok(&["ACL", "SETUSER", "edge"].into_iter().chain(rules).collect::<Vec<_>>());
            };
            set(&denied);
            let app = App::new(&redis.url(), &database.url).with("REDIS_USERNAME", "edge").with("REDIS_PASSWORD", PASSWORD);
            let named = format!(
                "`edge` has no permission for the command{} {}",
                if commands.len() > 1 { "s" } else { "" },
                commands.join(", ")
            );
            finds(&app, &failed("rights", &[&named], &["ACL SETUSER edge", &granted.join(" ")]));
            set(&granted);
        }
    }
    let app = App::new(&redis.url(), &database.url).with("REDIS_USERNAME", "edge").with("REDIS_PASSWORD", PASSWORD);
    finds(&app, &warned("rights", &["some cannot be looked up beforehand"], &["names it when it starts"]));
    assert_eq!(state(&redis), before, "check changes nothing");
    redis.ok(&["ACL", "SETUSER", "edge", "-script"]);
    app.run(&["stream", "--csv", &csv])
        .exits(2)
        .says(&["`edge` has no permission for the command SCRIPT", "ACL SETUSER edge +script"]);
}

/// What a queue is, with its groups and the names of their consumers.
fn state(redis: &RedisServer) -> (i64, Vec<Reply>, i64, Reply, Vec<Reply>) {
    let (keys, names, writes) = contents(redis);
    let stream = "{telemetry:0}:stream";
    let Reply::List(consumers) = redis.command(&["XINFO", "CONSUMERS", stream, "collectors"]) else {
        panic!("a list of consumers")
    };
    let name = |consumer: Reply| match consumer {
        Reply::List(fields) => fields[1].clone(),
        other => other,
    };
    (keys, names, writes, redis.command(&["XINFO", "GROUPS", stream]), consumers.into_iter().map(name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_its_replicas_accepts_no_writes() {
    let redis = RedisServer::start_with(&["--min-replicas-to-write", "1"]);
    let words = ["it accepts no writes now (NOREPLICAS)", "min-replicas-to-write"];
    let todo = ["bring its replicas back", "lower min-replicas-to-write"];
    let database = Server::shared().database().await;
    for database in ["", &database.url] {
        finds(&App::new(&redis.url(), database), &Finds { ..failed("writes", &words, &todo) });
    }
    let app = App::new(&redis.url(), "");
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    let mut role = app.start(&["stream", "--csv", &csv]);
    super::roles::waits(&mut role, &[words[0], words[1], todo[0], todo[1]]).await;
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &redis.port().to_string()]);
    assert_eq!(role.wait(), 0, "{}", role.log());
    wait_for("a replica that counts", || async { app.run(&["check"]).stdout.contains("writes: accepted") }).await;
    drop(replica);
}
