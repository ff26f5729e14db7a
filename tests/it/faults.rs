//! What is promised, with everything that can be killed being killed. Seeded: `SEED=n` repeats a run.

use std::io::Write;
use std::time::Duration;

use crate::support::app::{App, Holds, Role, Seeded, wait_for};
use crate::support::postgres::{Database, Server};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

/// The edge's streams; those that have ended well are left alone, others are started again.
struct Streams {
    arguments: Vec<Vec<String>>,
    running: Vec<Option<Role>>,
}

impl Streams {
    fn start(app: &App, arguments: Vec<Vec<String>>) -> Self {
        let running = arguments.iter().map(|a| Some(start(app, a))).collect();
        Self { arguments, running }
    }

    /// Starts again what was killed; whether all have ended well.
    fn tend(&mut self, app: &App) -> bool {
        for (slot, arguments) in self.running.iter_mut().zip(&self.arguments) {
            let Some(role) = slot else { continue };
            match role.ended().map(|status| status.code()) {
                None => {}
                Some(Some(0)) => *slot = None,
                Some(None) => *slot = Some(start(app, arguments)),
                Some(Some(code)) => panic!("a stream ended with {code} for a reason of its own:\n{}", role.log()),
            }
        }
        self.running.iter().all(Option::is_none)
    }

    fn kill_one(&mut self, which: u64) {
        let n = self.running.len() as u64;
        if let Some(role) = &mut self.running[(which % n) as usize] {
            role.kill();
        }
    }
}

fn start(app: &App, arguments: &[String]) -> Role {
    app.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn stream(csv: &str, cluster: &str, rate: u32) -> Vec<String> {
    ["stream", "--csv", csv, "--cluster", cluster, "--rate", &rate.to_string()].map(String::from).to_vec()
}

/// Collectors must never end but when they are killed.
fn tend_collectors(app: &App, collectors: &mut [Role]) {
    for role in collectors {
        if let Some(status) = role.ended() {
            assert_eq!(status.code(), None, "a collector ended for a reason of its own:\n{}", role.log());
            *role = app.start(&["collect"]);
        }
    }
}

async fn stored(database: &Database, cluster: &str) -> i64 {
    Holds::stored(database, cluster).await.rows()
}

/// Streamers (two for the same file), collectors, Redis and PostgreSQL: killed, frozen, flushed in an order that the seed decides.
#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_stored_once_whatever_is_killed() {
    let mut seed = Seeded::from_environment(20_250_718);
    let (redis, server) = (RedisServer::start(), Server::start());
    let database = server.empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (first, first_holds) = app.export("first.csv", 16, 240, 11);
    let (second, second_holds) = app.export("second.csv", 16, 240, 12);
    let holds = first_holds.plus(&second_holds);
    let mut streams =
        Streams::start(&app, vec![stream(&first, "k", 4000), stream(&first, "k", 4000), stream(&second, "k", 4000)]);
    let mut collectors = vec![app.start(&["collect"]), app.start(&["collect"])];
    let (mut kills, mut step) = (0, 0);
    while !streams.tend(&app) {
        tend_collectors(&app, &mut collectors);
        // Enough was done; now it must come to an end.
        if step < 40 {
            match seed.below(10) {
                0..3 => streams.kill_one(seed.below(3)),
                3..6 => collectors[seed.below(2) as usize].kill(),
                6 => {
                    if seed.below(2) == 0 {
                        server.crash();
                    } else {
                        server.stop();
                    }
                    tokio::time::sleep(Duration::from_millis(seed.below(1500))).await;
                    server.start_again();
                }
                7 => {
                    redis.kill();
                    tokio::time::sleep(Duration::from_millis(seed.below(1500))).await;
                    redis.restart();
                }
                8 => {
                    redis.freeze();
                    tokio::time::sleep(Duration::from_millis(seed.below(4000))).await;
                    redis.thaw();
                }
                _ => redis.ok(&["FLUSHALL"]),
            }
            kills += 1;
        }
        step += 1;
        tokio::time::sleep(Duration::from_millis(200 + seed.below(600))).await;
        assert!(step < 600, "it does not come to an end");
    }
    assert!(kills >= 10, "enough was killed for that to mean something: {kills}");
    // After the last kill a collector may still lie dead.
    tend_collectors(&app, &mut collectors);
    holds.arrive(&database, "k").await;
    app.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_everything_gets_it_again() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 16, 200, 5);
    // Nobody collects: what is flushed was nowhere else.
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "f", "--rate", "12000"]);
    for _ in 0..3 {
        wait_for("something in the queue", || async { redis.int(&["DBSIZE"]) > 3 }).await;
        redis.ok(&["FLUSHALL"]);
    }
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    let _collect = app.start(&["collect"]);
    holds.arrive(&database, "f").await;
    // And after it ended: run again it sends again, and nothing is there twice.
    redis.ok(&["FLUSHALL"]);
    app.run(&["stream", "--csv", &csv, "--cluster", "f", "--until", "stored"]).exits(0);
    holds.arrive(&database, "f").await;
    app.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_made_anew_stops_the_collector_and_replay_fills_it() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 16, 100, 5);
    let mut collect = app.start(&["collect"]);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "r", "--rate", "8000"]);
    wait_for("some rows", || async { stored(&database, "r").await > 1000 }).await;
    let client = database.client().await;
    client.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    assert_eq!(collect.wait(), 1, "{}", collect.log());
    assert!(collect.log().contains("telemetry migrate"), "{}", collect.log());
    // A new schema is a new store: said, not filled with a part of the rows.
    let mut collect = app.start(&["collect"]);
    assert_eq!(collect.wait(), 1, "{}", collect.log());
    assert!(collect.log().contains("telemetry replay --all"), "{}", collect.log());
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    app.run(&["replay", "--all"]).exits(0);
    let _collect = app.start(&["collect"]);
    app.run(&["stream", "--csv", &csv, "--cluster", "r", "--until", "stored"]).exits(0);
    holds.arrive(&database, "r").await;
    app.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_put_back_under_an_idle_collector_stops_it_and_replay_fills_it() {
    let (redis, server) = (RedisServer::start(), Server::shared());
    let database = server.database().await;
    let backup = server.copy(&database).await;
    let app = App::new(&redis.url(), &database.url);
    let ((csv, holds), (next, more)) = (app.export("a.csv", 16, 20, 5), app.export("b.csv", 16, 20, 6));
    let mut collect = app.start(&["collect"]);
    app.run(&["stream", "--csv", &csv, "--cluster", "r", "--until", "stored"]).exits(0);
    // No statement fails meanwhile: connections are made anew when they are needed.
    server.put_back(&database, &backup).await;
    app.run(&["stream", "--csv", &next, "--cluster", "r"]).exits(0);
    assert_eq!(collect.wait(), 1, "{}", collect.log());
    assert!(collect.log().contains("is older than what was committed"), "{}", collect.log());
    app.run(&["replay", "--all"]).exits(0);
    let _collect = app.start(&["collect"]);
    app.run(&["stream", "--csv", &csv, "--csv", &next, "--cluster", "r", "--until", "stored"]).exits(0);
    holds.plus(&more).arrive(&database, "r").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_shows_and_passes() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 16, 150, 5);
    let _collect = app.start(&["collect"]);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "z", "--rate", "6000"]);
    wait_for("some rows", || async { stored(&database, "z").await > 1000 }).await;
    let status = || async { stream.metric("message_queue_connection_status") };
    wait_for("connected", || async { status().await == Some(1.0) }).await;
    redis.freeze();
    wait_for("disconnected", || async { status().await == Some(0.0) }).await;
    assert_eq!(stream.get("/readyz").unwrap().0, 503);
    assert_eq!(stream.get("/livez").unwrap().0, 200);
    redis.thaw();
    wait_for("connected again", || async { status().await == Some(1.0) }).await;
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    holds.arrive(&database, "z").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_slows_and_loses_nothing() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url)
        .with("TELEMETRY__BATCH__MAX_ROWS", "500")
        .with("TELEMETRY__REDIS__MAX_BACKLOG", "5");
    let (csv, holds) = app.export("a.csv", 16, 150, 5);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "q"]);
    wait_for("a full queue", || async { stream.log().contains("is full") }).await;
    assert!(stream.ended().is_none(), "it waits: {}", stream.log());
    assert!(stream.metric("telemetry_rows_published_total").is_some_and(|rows| rows < holds.rows() as f64));
    // A second reason to wait: memory.
    redis.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    let _collect = app.start(&["collect"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(stream.ended().is_none(), "it waits: {}", stream.log());
    redis.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    holds.arrive(&database, "q").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_from_the_start_is_said_and_waited_for() {
    let redis = RedisServer::start();
    redis.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    let app = App::new(&redis.url(), "");
    let [one, two] = [("a.csv", 5), ("b.csv", 6)].map(|(name, seed)| app.export(name, 4, 20, seed).0);
    // One is registered, the other has an id of its own.
    let mut roles =
        [app.start(&["stream", "--csv", &one, "--csv", &two]), app.start(&["stream", "--csv", &one, "--source-id", "s"])];
    for role in &mut roles {
        let seen: &Role = role;
        let full =
            |(status, text): (u16, String)| status == 503 && text.contains("queue: full; waiting for collectors to make room");
        wait_for("/readyz with a full queue", || async { seen.get("/readyz").is_some_and(full) }).await;
        assert!(role.ended().is_none(), "it waits: {}", role.log());
        assert_eq!(role.log().matches("the queue is full").count(), 1, "said once: {}", role.log());
    }
    redis.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    for role in &mut roles {
        assert_eq!(role.wait(), 0, "{}", role.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_stores_are_said_to_wait() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 4, 20, 5);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "w", "--until", "stored"]);
    let words =
        format!("{} rows wait in the queue; no collector of the group `collectors` has stored any of them for", holds.rows());
    wait_for(&words, || async { stream.log().contains(&words) }).await;
    assert!(stream.ended().is_none(), "it waits: {}", stream.log());
    let _collect = app.start(&["collect"]);
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    assert_eq!(stream.log().matches(&words).count(), 1, "{}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_drain_first_and_end_hard_then() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 8, 100, 5);
    let mut collect = app.start(&["collect"]);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "s", "--rate", "2000"]);
    wait_for("some rows", || async { stored(&database, "s").await > 100 }).await;
    stream.signal("TERM");
    assert_eq!(stream.wait(), 1, "stopped before its end: {}", stream.log());
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
    // With Redis frozen there is nothing to drain into: it ends all the same, the second signal at once.
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "s", "--rate", "2000"]);
    wait_for("a stream that is connected", || async { stream.metric("message_queue_connection_status") == Some(1.0) }).await;
    redis.freeze();
    stream.signal("TERM");
    stream.signal("TERM");
    assert_eq!(stream.wait(), 1, "{}", stream.log());
    redis.thaw();
    let _collect = app.start(&["collect"]);
    app.run(&["stream", "--csv", &csv, "--cluster", "s"]).exits(0);
    holds.arrive(&database, "s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_that_redis_loses_are_sent_again() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 16, 200, 5);
    let mut stream = app.start(&["stream", "--csv", &csv, "--cluster", "l", "--rate", "6000"]);
    let published = |stream: &Role| stream.metric("telemetry_rows_published_total").unwrap_or(0.0);
    wait_for("some rows in the queue", || async { published(&stream) > 2000.0 }).await;
    let kept = redis.save();
    let at = published(&stream);
    // Nobody collects: the rows from here on are in Redis and nowhere else.
    wait_for("more rows in the queue", || async { published(&stream) > at + 6000.0 }).await;
    redis.set_back(&kept);
    let mut accepted = 0.0;
    while stream.ended().is_none() {
        accepted = stream.metric("telemetry_rows_published_total").unwrap_or(accepted);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    assert!(accepted > holds.rows() as f64 + 3000.0, "Redis lost rows and took them again: {accepted}");
    let _collect = app.start(&["collect"]);
    holds.arrive(&database, "l").await;
    app.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_or_dead_is_mended_without_a_trace() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let (edge, centre) = (Proxy::to(redis.port()).await, Proxy::to(redis.port()).await);
    let through = |line: &Proxy, database: &str| App::new(&format!("redis://127.0.0.1:{}", line.port()), database);
    let (far, near) = (through(&edge, ""), through(&centre, &database.url));
    let (csv, holds) = far.export("a.csv", 16, 200, 5);
    let collect = near.start(&["collect"]);
    let mut stream = far.start(&["stream", "--csv", &csv, "--cluster", "w", "--rate", "4000"]);
    let shows = |role: &Role, up: f64, ready: u16| {
        role.metric("message_queue_connection_status") == Some(up)
            && role.get("/readyz").is_some_and(|(status, _)| status == ready)
    };
    for (line, role, rows) in [(&edge, &stream, 2_000), (&centre, &collect, 8_000)] {
        wait_for("more rows", || async { stored(&database, "w").await > rows }).await;
        for silent in [true, false] {
            if silent {
                line.silence();
            } else {
                line.cut();
            }
            wait_for("a line that shows as lost", || async { shows(role, 0.0, 503) }).await;
            line.mend();
            wait_for("a line that is back", || async { shows(role, 1.0, 200) }).await;
        }
    }
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    holds.arrive(&database, "w").await;
    near.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_frozen_and_wakes_does_no_harm() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url).with("TELEMETRY__BATCH__MAX_ROWS", "200");
    let (csv, holds) = app.export("a.csv", 16, 200, 5);
    let mut collectors = [app.start(&["collect"]), app.start(&["collect"])];
    let arguments = ["stream", "--csv", &csv, "--cluster", "y", "--rate", "6000"];
    let mut streams = [app.start(&arguments), app.start(&arguments)];
    let works = |role: &Role, metric: &str| role.metric(metric).is_some_and(|rows| rows > 0.0);
    wait_for("rows from both collectors", || async { collectors.iter().all(|role| works(role, "telemetry_rows_stored_total")) })
        .await;
    // Who holds the lease, and one of those who may hold entries or locks.
    let holder = usize::from(!works(&streams[0], "telemetry_rows_published_total"));
    streams[holder].signal("STOP");
    collectors[0].signal("STOP");
    assert_eq!(streams[1 - holder].wait(), 0, "{}", streams[1 - holder].log());
    wait_for("all rows without them", || async { stored(&database, "y").await == holds.rows() }).await;
    streams[holder].signal("CONT");
    collectors[0].signal("CONT");
    assert_eq!(streams[holder].wait(), 0, "{}", streams[holder].log());
    holds.arrive(&database, "y").await;
    assert!(collectors.iter_mut().all(|role| role.ended().is_none()), "{}", collectors[0].log());
    app.run(&["audit", "--json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_room_for_another_client_is_waited_for() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 1, 5, 1);
    let stream = app.start(&["stream", "--csv", &csv, "--cluster", "full", "--follow"]);
    wait_for("rows", || async { stream.metric("telemetry_rows_published_total") == Some(holds.rows() as f64) }).await;
    // Our connection takes the only place, and everybody else is sent away.
    let mut ours = std::net::TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    ours.write_all(b"CONFIG SET maxclients 1\r\nCLIENT KILL TYPE normal SKIPME yes\r\n").unwrap();
    wait_for("a streamer that waits", || async { stream.log().contains("accepts no further client") }).await;
    let collect = app.start(&["collect"]);
    wait_for("a collector that waits", || async { collect.log().contains("accepts no further client") }).await;
    ours.write_all(b"CONFIG SET maxclients 1000\r\n").unwrap();
    let (more, more_holds) = app.export("b.csv", 1, 6, 2);
    let bytes = std::fs::read_to_string(more).unwrap();
    let rows = bytes.split_once('\n').unwrap().1;
    std::fs::OpenOptions::new().append(true).open(&csv).unwrap().write_all(rows.as_bytes()).unwrap();
    holds.plus(&more_holds).arrive(&database, "full").await;
}
