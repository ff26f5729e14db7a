//! `telemetry check` at real servers with real faults: it names what is wrong and what to do, and changes nothing.

mod cluster;
mod commands;
mod lasting;
mod queue;
mod roles;

use serde_json::Value;
use telemetry::store::Store as _;

use crate::support::app::{App, Done, text};
use crate::support::certificates::{Authority, client};
use crate::support::node::{PASSWORD, USER};
use crate::support::postgres::{self, Server, free_port};
use crate::support::redis::{RedisServer, Reply};
use crate::support::secure::Secure;

/// What a check must find.
struct Finds<'a> {
    service: &'a str,
    outcome: &'a str,
    step: &'a str,
    seen: &'a [&'a str],
    todo: &'a [&'a str],
}

fn failed<'a>(step: &'a str, seen: &'a [&'a str], todo: &'a [&'a str]) -> Finds<'a> {
    Finds { service: "redis", outcome: "failed", step, seen, todo }
}

fn warned<'a>(step: &'a str, seen: &'a [&'a str], todo: &'a [&'a str]) -> Finds<'a> {
    Finds { service: "redis", outcome: "warning", step, seen, todo }
}

/// The steps at a service that are not as they should be, from `check --json`.
fn steps(done: &Done, service: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout));
    let part = report["parts"].as_array().unwrap().iter().find(|part| part["service"] == service).cloned();
    let steps = part.expect("a part about it")["steps"].as_array().unwrap().clone();
    steps.into_iter().filter(|step| step["outcome"] != "ok").collect()
}

/// Words, however they are broken into lines.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same without what differs from run to run: numbers, ids, which user it is.
fn gist(text: &str) -> String {
    let is_id = |word: &str| word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let word = |word: &str| if is_id(word) { "ID".to_owned() } else { word.replace(|c: char| c.is_ascii_digit(), "") };
    words(text).replace("`nobody`", "`telemetry`").split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// What `check` says of a fault is shown in docs/troubleshooting.md as it is.
#[track_caller]
fn is_documented(line: &str) {
    let manual = gist(include_str!("../../docs/troubleshooting.md"));
    assert!(manual.contains(&gist(line)), "docs/troubleshooting.md does not show `{line}`");
}

/// A text without its times in milliseconds (as ids of entries have them).
fn timeless(text: &str) -> String {
    let is_digit = |char: &char| char.is_ascii_digit();
    let (mut left, mut out) = (text, String::new());
    while let Some(at) = left.find(|char: char| char.is_ascii_digit()) {
        let digits = left[at..].chars().take_while(is_digit).count();
        let (before, number) = (&left[..at], &left[at..at + digits]);
        out.extend([before, if digits == 13 { "(time)" } else { number }]);
        left = &left[at + digits..];
    }
    out + left
}

/// Runs it in both forms: they say the same, the exit code tells whether anything failed, and no secret shows.
#[track_caller]
fn finds(app: &App, wanted: &Finds) {
    let (plain, json) = (app.run(&["check"]), app.run(&["check", "--json"]));
    let found = steps(&json, wanted.service);
    let all = |words: &[&str], text: &Value| words.iter().all(|word| text.as_str().unwrap().contains(word));
    let step = found.iter().find(|step| {
        step["outcome"] == wanted.outcome
            && step["name"] == wanted.step
            && all(wanted.seen, &step["seen"])
            && all(wanted.todo, &step["todo"])
    });
    let Some(step) = step else {
        panic!("{} {}: {:?} {:?} not in\n{}", wanted.outcome, wanted.step, wanted.seen, wanted.todo, plain.stdout)
    };
    let label = if wanted.outcome == "failed" { "FAILED" } else { "warning" };
    let (seen, todo) = (step["seen"].as_str().unwrap(), step["todo"].as_str().unwrap());
    assert!(!todo.is_empty(), "nothing is said to do: {}", plain.stdout);
    let line = words(&format!("{label} {} {} {seen} → {todo}", wanted.service, wanted.step));
    // The two runs are not at the same time.
    assert!(timeless(&words(&plain.stdout)).contains(&timeless(&line)), "`{line}` is not in\n{}", plain.stdout);
    is_documented(&line);
    let code = i32::from(found.iter().any(|step| step["outcome"] == "failed"));
    for done in [plain, json] {
        for secret in [PASSWORD, "PRIVATE KEY", "mistaken"] {
            assert!(!done.stdout.contains(secret) && !done.stderr.contains(secret), "{}{}", done.stdout, done.stderr);
        }
        done.exits(code).says(&[]);
    }
}

/// A fault that waiting cannot help: `check` finds it, and a role ends with it at once, in one clear message.
#[track_caller]
fn ends(app: &App, wanted: &Finds, says: &[&str]) {
    finds(app, wanted);
    let (csv, _) = app.export("a.csv", 1, 2, 1);
    let done = app.run(&["stream", "--csv", &csv]).exits(2).says(says);
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", done.stderr);
    let last = done.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: ") && says.iter().all(|word| last.contains(word)), "{}", done.stderr);
    assert!(!done.stderr.contains(PASSWORD) && !done.stderr.contains("mistaken"), "{}", done.stderr);
}

#[test]
fn certificates_that_do_not_fit() {
    let server = Secure::start();
    let other = server.certificates.path("other.crt");
    std::fs::write(&other, Authority::new("another").pem).unwrap();
    let words = ["not signed by an authority we trust"];
    let app = server.app("").with("REDIS_CA_CERT", text(&other));
    ends(&app, &failed("TLS", &words, &["REDIS_CA_CERT"]), &[words[0], "REDIS_CA_CERT", "localhost"]);

    let app = server.app("").with("REDIS_CLIENT_CERT", "").with("REDIS_CLIENT_KEY", "");
    ends(
        &app,
        &failed("TLS", &["wants a client certificate"], &["REDIS_CLIENT_CERT"]),
        &["client certificate", "REDIS_CLIENT_CERT"],
    );

    let stranger = Authority::new("another").issue(&client("telemetry", 2));
    let app = server.app("").with("REDIS_CLIENT_CERT", &stranger.cert).with("REDIS_CLIENT_KEY", &stranger.key);
    ends(&app, &failed("TLS", &["not accept our client certificate"], &["REDIS_CLIENT_CERT"]), &["REDIS_CLIENT_CERT"]);

    server.show_for("redis.example");
    let app = server.app("");
    let wanted = failed("TLS", &["for another name", "localhost", "redis.example"], &["redis.tls.server_name"]);
    ends(&app, &wanted, &["another name", "redis.tls.server_name"]);
    let app = app.with("TELEMETRY__REDIS__TLS__SERVER_NAME", "redis.example");
    app.run(&["check"]).exits(0);
    let (csv, _) = app.export("b.csv", 1, 2, 1);
    app.run(&["stream", "--csv", &csv]).exits(0);

    server.show_expired();
    // It is waited for: see `roles`.
    finds(&server.app(""), &failed("TLS", &["has expired"], &["renew it on the server"]));
}

#[test]
fn passwords_and_rights() {
    let server = Secure::start();
    let words = [USER, "the password", "is wrong"];
    let app = server.app("").with("REDIS_PASSWORD", "mistaken");
    ends(&app, &failed("login", &words, &["REDIS_PASSWORD"]), &[USER, "is wrong", "REDIS_PASSWORD"]);
    let app = server.app("").with("REDIS_USERNAME", "nobody");
    ends(&app, &failed("login", &["nobody", "unknown"], &["REDIS_USERNAME"]), &["nobody", "REDIS_USERNAME"]);

    server.node.ok(&["ACL", "SETUSER", "edge", "on", &format!(">{PASSWORD}"), "~{telemetry:*", "+@all", "-xadd"]);
    let app = server.app("").with("REDIS_USERNAME", "edge");
    ends(
        &app,
        &failed("rights", &["`edge`", "permission", "XADD"], &["ACL SETUSER edge +xadd"]),
        &["`edge`", "XADD", "ACL SETUSER"],
    );
    server.node.ok(&["ACL", "SETUSER", "edge", "+xadd", "resetkeys", "~other*"]);
    ends(&app, &failed("rights", &["`edge`", "the keys ~{telemetry:*"], &["ACL SETUSER edge"]), &["`edge`", "{telemetry:"]);
}

#[test]
fn an_address_that_leads_nowhere() {
    let nowhere = App::new("redis://no-such-host.invalid:6379", "");
    finds(&nowhere, &failed("DNS", &["no-such-host.invalid", "does not resolve"], &["check the name and DNS"]));
    let nobody = App::new(&format!("redis://localhost:{}", free_port()), "");
    finds(&nobody, &failed("TCP", &["refused the connection"], &["check port and service"]));
}

#[test]
fn tls_to_a_plain_port_and_the_reverse() {
    let (plain, secure) = (RedisServer::start(), Secure::start());
    let app = App::new(&format!("rediss://127.0.0.1:{}", plain.port()), "");
    ends(&app, &failed("TLS", &["speaks Redis without TLS"], &["its TLS port", "redis://"]), &["without TLS"]);
    let app = App::new(&format!("redis://127.0.0.1:{}", secure.node.port), "");
    ends(&app, &failed("Redis", &["closes the connection at once"], &["rediss://", "REDIS_TLS_ENABLED"]), &["REDIS_TLS_ENABLED"]);
}

#[test]
fn a_server_that_is_set_wrong_and_nothing_is_changed() {
    let redis = RedisServer::start();
    let app = App::new(&redis.url(), "");
    let (csv, _) = app.export("a.csv", 4, 20, 3);
    app.run(&["stream", "--csv", &csv]).exits(0);
    redis.ok(&["SET", "ballast", &"x".repeat(1 << 20)]);
    let before = contents(&redis);

    redis.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    finds(&app, &failed("eviction", &["maxmemory-policy is allkeys-lru", "eviction"], &["maxmemory-policy noeviction"]));
    redis.ok(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    let used = info(&redis, "memory", "used_memory");
    redis.ok(&["CONFIG", "SET", "maxmemory", &(used * 100 / 88).to_string()]);
    finds(&app, &warned("memory", &["MiB used"], &["collectors' lag"]));
    redis.ok(&["CONFIG", "SET", "maxmemory", &(used * 9 / 10).to_string()]);
    finds(&app, &failed("memory", &["full"], &["collectors' lag"]));
    redis.ok(&["CONFIG", "SET", "maxmemory", "0"]);

    let app = app.with("TELEMETRY__REDIS__PARTITIONS", "5");
    let wanted = failed("partitions", &["made with 8 partitions", "says 5"], &["redis.partitions to 8"]);
    ends(&app, &wanted, &["made with 8 partitions", "redis.partitions"]);
    // Also a queue that is not there yet stays that way.
    App::new(&redis.url(), "").with("TELEMETRY__REDIS__PREFIX", "fresh").run(&["check"]).exits(0);
    assert_eq!(contents(&redis), before, "check changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_refuses_or_is_newer() {
    let server = Server::shared();
    let database = server.empty_database().await;
    let fault = |url: &str, step, seen: &[&str], todo: &[&str]| {
        finds(&App::new("", url), &Finds { service: "postgres", ..failed(step, seen, todo) });
    };
    let away = format!("postgres://telemetry@127.0.0.1:{}/telemetry", free_port());
    fault(&away, "tcp", &["refused"], &["listen"]);
    fault(&format!("{}?sslmode=require", database.url), "tls", &["no TLS"], &["ssl = on"]);
    fault(&database.url.replace(postgres::PASSWORD, "mistaken"), "login", &["password"], &["DB_PASSWORD"]);
    fault(&server.url("telemetry"), "login", &["telemetry"], &["create"]);
    database.store().migrate().await.unwrap();
    database.client().await.batch_execute("INSERT INTO schema_migration VALUES (99, 'later', 'x')").await.unwrap();
    fault(&database.url, "schema", &["version 99"], &["upgrade"]);
    App::new("", &database.url).run(&["migrate"]).exits(2).says(&["version 99", "upgrade"]);
}

/// How many keys, which, and how many writes there were.
fn contents(redis: &RedisServer) -> (i64, Vec<Reply>, i64) {
    let Reply::List(mut keys) = redis.command(&["KEYS", "*"]) else { panic!("a list of keys") };
    // Leases end by themselves.
    keys.retain(|key| !matches!(key, Reply::Text(key) if key.contains(":lease:")));
    keys.sort_by_key(|key| format!("{key:?}"));
    (keys.len() as i64, keys, info(redis, "persistence", "rdb_changes_since_last_save"))
}

fn info(redis: &RedisServer, section: &str, field: &str) -> i64 {
    let Reply::Text(info) = redis.command(&["INFO", section]) else { panic!("INFO {section}") };
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("{field} is not in {info}")).trim().parse().unwrap()
}
