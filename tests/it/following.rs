//! Files that are followed, and what others do to them: replaced, truncated, unreadable for a while.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::app::{App, Holds, Role, text, wait_for};
use crate::support::postgres::{Database, Server};
use crate::support::redis::RedisServer;

const HEADER: &str = "timestamp,metric_name,uuid,value\n";

struct Place {
    _redis: RedisServer,
    database: Database,
    app: App,
    _collect: Role,
}

async fn place() -> Place {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let collect = app.start(&["collect"]);
    Place { _redis: redis, database, app, _collect: collect }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.app.dir.path().join(name)
    }

    fn follow(&self, path: &Path, more: &[&str]) -> Role {
        self.app.start(&[&["stream", "--csv", text(path), "--cluster", "f", "--follow"], more].concat())
    }

    async fn rows(&self) -> i64 {
        Holds::stored(&self.database, "f").await.rows()
    }

    async fn arrive(&self, rows: i64) {
        wait_for(&format!("{rows} rows"), || async { self.rows().await >= rows }).await;
        assert_eq!(self.rows().await, rows);
    }
}

fn row(i: u32) -> String {
    format!("2025-07-18T20:{:02}:{:02}Z,DCGM_FI_DEV_GPU_UTIL,GPU-1,{}\n", i / 60, i % 60, i % 100)
}

fn rows(range: std::ops::Range<u32>) -> String {
    range.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_written_anew_and_moved_over_the_former_one_is_read_to_its_end() {
    let place = place().await;
    let (path, next) = (place.path("x.csv"), place.path(".next"));
    let replace = |length: u32| {
        std::fs::write(&next, HEADER.to_owned() + &rows(0..length)).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    replace(3);
    let stream = place.follow(&path, &[]);
    place.arrive(3).await;
    // Faster than the former file is let go of, so that several are read at the same time. The pace is the case.
    for (length, pause) in (4..24).zip([100, 300, 200, 350, 150, 400].into_iter().cycle()) {
        replace(length);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    place.arrive(23).await;
    assert!(!stream.log().contains("ERROR"), "{}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_go_on_where_a_file_is_emptied_under_its_writer() {
    for (append, hole) in [(true, false), (false, true)] {
        let place = place().await;
        let path = place.path("g.csv");
        let mut writer = std::fs::File::options().create(true).append(append).write(true).open(&path).unwrap();
        // More than what is read at once, so that the hole is too.
        let first = HEADER.to_owned() + &rows(0..3_000);
        writer.write_all(first.as_bytes()).unwrap();
        let stream = place.follow(&path, &[]);
        place.arrive(3_000).await;
        // copytruncate: the rest of the line that the logger had in hand comes first, then its next lines.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        writer.write_all(row(3_000).as_bytes()).unwrap();
        place.arrive(3_001).await;
        writer.write_all(row(3_001).as_bytes()).unwrap();
        place.arrive(3_002).await;
        assert_eq!(std::fs::read(&path).unwrap()[0] == 0, hole, "as the case wants it");
        assert!(!stream.log().contains("ERROR"), "{}", stream.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_header_is_read_by_configured_columns() {
    let place = place().await;
    let path = place.path("bare.csv");
    std::fs::write(&path, rows(0..5)).unwrap();
    let run = |columns: &str| {
        let mut command = place.app.command(&["stream", "--csv", text(&path), "--cluster", "f", "--until", "stored"]);
        let output = command.env("TELEMETRY__STREAM__COLUMNS", columns).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("[\"timestamp\",\"metric_name\",\"uuid\",\"value\"]");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.rows().await, 5);
    let (code, said) = run("[\"timestamp\",\"metric_name\",\"value\"]");
    assert!(code == Some(2) || code == Some(1), "{said}");
    assert!(said.contains("stream.columns") && said.contains("uuid"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_is_tried_again_and_said_once() {
    let place = place().await;
    let directory = place.path("many");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("0.csv"), HEADER.to_owned() + &row(0)).unwrap();
    let stream = place.follow(&directory, &[]);
    place.arrive(1).await;
    // No file more may be opened.
    let limit = |files: &str| {
        let pid = stream.pid().to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status().unwrap().success());
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", stream.pid())).unwrap().count();
    limit(&open.to_string());
    for i in 1..41 {
        std::fs::write(directory.join(format!("{i}.csv")), HEADER.to_owned() + &row(i)).unwrap();
    }
    wait_for("a warning", || async { stream.log().contains("/40.csv: Too many open files") }).await;
    // What is gone keeps nobody waiting.
    std::fs::remove_file(directory.join("40.csv")).unwrap();
    limit("1024");
    place.arrive(40).await;
    wait_for("readiness", || async { stream.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    assert_eq!(stream.metric("telemetry_source_files_unreadable"), Some(0.0));
    for i in 1..40 {
        let said = stream.log().lines().filter(|line| line.contains(&format!("/{i}.csv: Too many"))).count();
        assert!(said <= 1, "{}", stream.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_and_our_own_rejects_are_passed_over() {
    let place = place().await;
    let directory = place.path("exports");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.csv"), HEADER.to_owned() + &row(0) + "x\n").unwrap();
    std::fs::write(directory.join("._a.csv"), [0, 5, 22, 7]).unwrap();
    std::fs::write(directory.join(".b.csv.tmp.csv"), "half").unwrap();
    let rejects = directory.join("rejects.csv");
    for pattern in [text(&directory), &format!("{}/*.csv", directory.display())] {
        for _ in 0..2 {
            let arguments = ["stream", "--csv", pattern, "--cluster", "f", "--rejects", text(&rejects), "--until", "stored"];
            place.app.run(&arguments).exits(0);
        }
    }
    assert_eq!(place.rows().await, 1);
    assert!(std::fs::read_to_string(&rejects).unwrap().contains("short_row"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_writes_to_holds_nobody_up() {
    let place = place().await;
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut stream = place.app.start(&["stream", "--csv", text(&fifo), "--cluster", "f"]);
    wait_for("a connection", || async { stream.log().contains("connected to Redis") }).await;
    stream.signal("TERM");
    assert_eq!(stream.wait(), 1);
    assert!(!stream.log().contains("WARN") && !stream.log().contains("ERROR"), "it waited for its deadline: {}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_middle_costs_no_row() {
    let place = place().await;
    let path = place.path("hole.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all((HEADER.to_owned() + &row(0)).as_bytes()).unwrap();
    file.seek(SeekFrom::Current(5 << 20)).unwrap();
    file.write_all(row(1).as_bytes()).unwrap();
    file.write_all(b"\0\0\0").unwrap();
    file.write_all(row(2).as_bytes()).unwrap();
    file.write_all(&[0; 100]).unwrap();
    let done = place.app.run(&["stream", "--csv", text(&path), "--cluster", "f", "--until", "stored"]).exits(0);
    assert!(done.stderr.contains("rejected=0"), "{}", done.stderr);
    assert_eq!(place.rows().await, 3);
}
