//! `telemetry all` with nothing else: every row once, whatever dies.

use std::io::Write;

use crate::serve::Serving;
use crate::support::app::{App, Holds, Seeded, wait_for};
use crate::support::http::get;
use crate::support::postgres::{Server, free_port};
use crate::support::redis::RedisServer;

fn app() -> App {
    App::new("", "")
}

/// Starts `all` again on the same directory.
fn start(app: &App, more: &[&str]) -> (crate::support::app::Role, u16) {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    (app.start(&[&["all", "--cluster", "lab", "--listen", &listen], more].concat()), port)
}

/// What it holds, as its API says: samples and sums (in thousandths) by metric.
fn holds(port: u16) -> Option<Holds> {
    let gpus = get(port, "/api/v1/gpus?limit=10000", &[]).filter(|answer| answer.status == 200)?.json();
    let mut holds = Holds::default();
    for gpu in gpus["data"].as_array()? {
        let path = format!("/api/v1/gpus/{}/telemetry", gpu["uuid"].as_str()?);
        let rows = get(port, &path, &["Accept: application/x-ndjson"]).filter(|answer| answer.status == 200)?;
        for line in rows.text().lines() {
            let row: serde_json::Value = serde_json::from_str(line).ok()?;
            let entry = holds.0.entry(row["metric_name"].as_str()?.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += (row["value"].as_f64()? * 1000.0).round() as i64;
        }
    }
    Some(holds)
}

async fn arrive(port: u16, wanted: &Holds) {
    wait_for("every row", || async { holds(port).is_some_and(|holds| holds.rows() >= wanted.rows()) }).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(holds(port).as_ref(), Some(wanted), "exactly the rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_has_every_row_once() {
    let app = app();
    let (csv, wanted) = app.export("a.csv", 40, 60, 3);
    let mut seeded = Seeded::from_environment(11);
    for _ in 0..6 {
        let (mut role, port) = start(&app, &["--csv", &csv]);
        wait_for("it lives", || async { get(port, "/livez", &[]).is_some() }).await;
        tokio::time::sleep(std::time::Duration::from_millis(seeded.below(120))).await;
        role.kill();
    }
    let (mut role, port) = start(&app, &["--csv", &csv]);
    arrive(port, &wanted).await;
    let pipeline = get(port, "/api/v1/pipeline", &[]).unwrap().json();
    assert_eq!(pipeline["sources"].as_array().unwrap().len(), 1, "one file is one source: {pipeline}");
    assert_eq!(pipeline["sources"][0]["stored"], serde_json::json!(wanted.rows()));
    role.signal("TERM");
    assert_eq!(role.wait(), 0, "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_stored_before_it_ends() {
    let app = app();
    let (csv, wanted) = app.export("a.csv", 60, 120, 4);
    let (mut role, _) = start(&app, &["--csv", &csv]);
    wait_for("it reads", || async { role.metric("telemetry_rows_published_total").is_some_and(|rows| rows > 0.0) }).await;
    role.signal("TERM");
    assert_eq!(role.wait(), 0, "{}", role.log());
    let (role, port) = start(&app, &[]);
    wait_for("it serves", || async { role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    let kept = holds(port).unwrap();
    assert!(kept.rows() > 0, "what was published was stored");
    drop(role);
    let (_role, port) = start(&app, &["--csv", &csv]);
    arrive(port, &wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_grew_while_it_was_down_is_the_same_source() {
    let app = app();
    let (whole, wanted) = app.export("whole.csv", 2, 40, 6);
    let text = std::fs::read_to_string(&whole).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let growing = app.dir.path().join("growing.csv");
    let path = growing.to_str().unwrap();
    let (begin, rest) = lines.split_at(lines.len() / 3);
    // A rejected row at the border must not be counted twice either.
    std::fs::write(&growing, begin.concat() + "short,row\n").unwrap();
    let (mut role, port) = start(&app, &["--csv", path]);
    arrive(port, &Holds::of(begin.concat().as_bytes())).await;
    role.signal("TERM");
    assert_eq!(role.wait(), 0, "{}", role.log());
    std::fs::OpenOptions::new().append(true).open(&growing).unwrap().write_all(rest.concat().as_bytes()).unwrap();
    let (_role, port) = start(&app, &["--csv", path]);
    arrive(port, &wanted).await;
    let pipeline = get(port, "/api/v1/pipeline", &[]).unwrap().json();
    assert_eq!(pipeline["sources"].as_array().unwrap().len(), 1, "{pipeline}");
    assert_eq!(pipeline["sources"][0]["rejected"]["short_row"], 1, "{pipeline}");
    assert_eq!(pipeline["sources"][0]["duplicate"], 0, "{pipeline}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_a_followed_file_and_one_that_is_missing() {
    let app = app();
    let (csv, wanted) = app.export("a.csv", 2, 30, 8);
    let gone = app.run(&["all", "--csv", "/does/not/exist.csv", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    assert!(gone.code == Some(1) || gone.code == Some(2), "{gone:?}");
    gone.says(&["/does/not/exist.csv"]);

    let (role, port) = start(&app, &["--csv", app.dir.path().join("*.csv").to_str().unwrap(), "--follow"]);
    arrive(port, &wanted).await;
    let (_, more) = app.export("b.csv", 1, 10, 9);
    arrive(port, &wanted.clone().plus(&more)).await;
    drop(role);

    let other = self::app();
    let bytes = std::fs::read(&csv).unwrap();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut command = other.command(&["all", "--csv", "-", "--cluster", "lab", "--listen", &listen, "--admin-listen", "off"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    arrive(port, &wanted).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let app = app();
    let serving = Serving::start(app, &["all"]).await;
    let again = serving.app.run(&["all", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).exits(2);
    again.says(&["telemetry-data", "uses it", "--data-dir"]);
    let file = serving.app.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let bad = serving.app.run(&["all", "--data-dir", file.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    bad.exits(2).says(&["file", "cannot be made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_and_store_can_each_be_a_server() {
    let database = Server::shared().empty_database().await;
    let app = App::new("", &database.url);
    let (csv, wanted) = app.export("a.csv", 3, 20, 2);
    let (role, port) = start(&app, &["--csv", &csv]);
    arrive(port, &wanted).await;
    wanted.arrive(&database, "lab").await;
    drop(role);

    let redis = RedisServer::start();
    let app = App::new(&redis.url(), "");
    let (csv, wanted) = app.export("a.csv", 3, 20, 2);
    let (mut role, port) = start(&app, &["--csv", &csv]);
    arrive(port, &wanted).await;
    role.kill();
    // What was acknowledged in Redis is in the directory.
    let (mut role, port) = start(&app, &[]);
    arrive(port, &wanted).await;
    role.kill();
    // Another directory would have a part only.
    let other = App::new(&redis.url(), "");
    let done = other.run(&["all", "--cluster", "lab", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).exits(1);
    done.says(&["this SQLite is another store", "telemetry replay --all", "give the former directory with --data-dir"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_newer_version_is_wrong_configuration() {
    let app = app();
    let directory = app.dir.path().join("telemetry-data");
    drop(telemetry::store::sqlite::SqliteStore::open(&directory).unwrap());
    let connection = rusqlite::Connection::open(directory.join("telemetry.sqlite")).unwrap();
    connection.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let done = app.run(&["all", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).exits(2);
    done.says(&["telemetry-data", "version 99", "upgrade telemetry"]);
}
