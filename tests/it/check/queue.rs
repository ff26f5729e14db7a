//! What others left in the queue: it is found, and the commands that are printed mend it.

use super::{Finds, failed, finds, warned};
use crate::support::app::App;
use crate::support::postgres::Server;
use crate::support::redis::RedisServer;

const STREAM: &str = "{telemetry:0}:stream";
const META: &str = "{telemetry:0}:meta";
const GREATEST: &str = "18446744073709551615-18446744073709551615";

/// The commands that a step says to run, as they are.
fn remedy(app: &App, wanted: &Finds) -> Vec<Vec<String>> {
    let report: serde_json::Value = serde_json::from_str(&app.run(&["check", "--json"]).stdout).unwrap();
    let parts = report["parts"].as_array().unwrap();
    let steps = parts.iter().flat_map(|part| part["steps"].as_array().unwrap());
    let text = |step: &serde_json::Value, field: &str| step[field].as_str().unwrap().to_owned();
    let mut found = steps.filter(|step| text(step, "name") == wanted.step && text(step, "outcome") == wanted.outcome);
    let todo = text(found.next().expect("the step"), "todo");
    let commands = todo.split("; ").next().unwrap();
    commands.split(" · ").map(|command| command.split(' ').map(str::to_owned).collect()).collect()
}

/// It is found, and mended by what is said.
#[track_caller]
fn mended(app: &App, redis: &RedisServer, wanted: &Finds) {
    finds(app, wanted);
    for command in remedy(app, wanted) {
        redis.ok(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let report = app.run(&["check"]);
    assert!(report.stdout.contains("its keys are what they should be"), "{}", report.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_left_in_the_queue() {
    let (redis, database) = (RedisServer::start(), Server::shared().database().await);
    let one = |database: &str| App::new(&redis.url(), database).with("TELEMETRY__REDIS__PARTITIONS", "1");
    let (edge, central) = (one(""), one(&database.url));
    let (csv, _) = edge.export("a.csv", 2, 10, 3);
    edge.run(&["stream", "--csv", &csv]).exits(0);
    let entries = redis.int(&["XLEN", STREAM]);

    redis.ok(&["HSET", META, "partitions", "many"]);
    mended(&central, &redis, &warned("partitions", &["malformed", "many"], &["HSET {telemetry:0}:meta partitions 1"]));
    redis.ok(&["HSET", META, "store:collectors", "no mark"]);
    mended(&edge, &redis, &warned("queue", &["mark of the store", "no mark"], &["HDEL {telemetry:0}:meta store:collectors"]));
    redis.ok(&["RENAME", "{telemetry:0}:dicts", "{telemetry:0}:kept"]);
    redis.ok(&["SET", "{telemetry:0}:dicts", "x"]);
    for app in [&edge, &central] {
        finds(app, &failed("queue", &["{telemetry:0}:dicts", "another kind of value"], &["DEL {telemetry:0}:dicts"]));
    }
    redis.ok(&["RENAME", "{telemetry:0}:kept", "{telemetry:0}:dicts"]);

    redis.ok(&["XGROUP", "SETID", STREAM, "collectors", GREATEST]);
    let ahead = failed("groups", &["collectors", "ahead of the stream"], &["XGROUP SETID {telemetry:0}:stream collectors 0"]);
    mended(&central, &redis, &ahead);
    // Whoever reads the entry with the greatest id stands there, too.
    redis.ok(&["XADD", STREAM, GREATEST, "s", "x"]);
    redis.ok(&["XGROUP", "SETID", STREAM, "collectors", GREATEST]);
    mended(&central, &redis, &failed("queue", &["takes no entry any more"], &["XDEL", "XSETID", "XGROUP SETID"]));
    assert_eq!(redis.int(&["XLEN", STREAM]), entries, "what was healthy is there");
    let done = central.run(&["check"]);
    assert!(!done.stdout.contains("groups "), "{}", done.stdout);
    let (more, _) = edge.export("b.csv", 2, 10, 4);
    edge.run(&["stream", "--csv", &more]).exits(0);
    assert!(redis.int(&["XLEN", STREAM]) > entries, "it takes entries again");
}
